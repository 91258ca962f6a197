# Figures of the executed pages, sharp on any screen.
c = get_config()  # noqa: F821
c.InlineBackend.figure_formats = {"retina"}
