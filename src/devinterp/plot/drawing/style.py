"""How our pictures look: colours that colour-blind readers can tell apart, sizes that fit what is shown.

matplotlib is imported inside the functions, so that the package stays light and works without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from devinterp.errors import SettingError, imported

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.legend import Legend

__all__ = [
    "DIVERGING",
    "MISSING",
    "NEUTRAL",
    "PALETTE",
    "SEQUENTIAL",
    "absent",
    "add_colorbar",
    "as_written",
    "canvas",
    "colours",
    "heat_map",
    "legend",
    "new_axes",
    "note",
    "style",
    "symmetric_limit",
    "thin_labels",
    "title",
    "training_axis",
    "whole_numbers",
]

# Okabe & Ito's palette, the strong colours first; without black, which a dark page would swallow.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7F7F7F")
NEUTRAL = "#7F7F7F"
MISSING = "#C8C8C8"  # the ground of an image, where it has no value
DIVERGING = "RdBu_r"
SEQUENTIAL = "cividis"

_RC: dict[str, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "image.interpolation": "nearest",
    "figure.dpi": 110.0,
    "savefig.dpi": 150.0,
    "figure.constrained_layout.use": True,
}


def _matplotlib() -> Any:
    return imported("matplotlib", extra="plot", purpose="A picture")


@contextmanager
def style(**changes: Any) -> Iterator[None]:
    """Draw in this style while the context lasts; ``changes`` are further matplotlib settings."""
    matplotlib = _matplotlib()
    with matplotlib.rc_context({**_RC, **changes}):
        try:
            yield
        finally:
            interactive = matplotlib.is_interactive()
    # The backend of a notebook says when it is loaded, at the first picture, that pictures are shown as they are drawn.
    matplotlib.interactive(interactive)


def new_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return ``ax``, or the axes of a new figure of ``size`` inches.

    The figure is pyplot's, so that a notebook shows it; without a display pyplot falls back to Agg by itself.
    """
    if ax is not None:
        return ax
    _matplotlib()
    import matplotlib.pyplot as plt

    with style():
        return plt.subplots(figsize=size)[1]


def canvas(size: tuple[float, float], *, inks: Mapping[str, Any] | None = None) -> Figure:
    """Return a figure that pyplot does not know, for pictures that go straight into a file.

    ``inks`` are matplotlib settings besides those of `style`.
    """
    _matplotlib()
    from matplotlib.figure import Figure

    with style(**(inks or {})):
        return Figure(figsize=size, layout="constrained")


def colours(count: int) -> list[Any]:
    """Return a colour for each of ``count`` things: the palette, or a sequential map where it does not suffice."""
    if count <= len(PALETTE):
        return list(PALETTE[:count])
    colormap = _matplotlib().colormaps[SEQUENTIAL]
    return [colormap(x) for x in np.linspace(0, 0.92, count)]


def symmetric_limit(values: Any, *, quantile: float = 0.995, limit: float | None = None) -> tuple[float, bool]:
    """Return the end of a colour scale that is symmetric about 0, and whether values lie beyond it.

    The scale covers the share ``quantile`` of the finite magnitudes, so that a single outlier does not bleach the rest;
    ``limit`` is the end that the caller has chosen.
    """
    if limit is not None and not limit > 0:
        raise SettingError("The end of a symmetric scale is positive.", expected="vmax > 0", found=limit)
    found = np.abs(np.asarray(values, dtype=float).ravel())
    found = found[np.isfinite(found)]
    largest = float(found.max(initial=0.0))
    if limit is None:
        # Of few cells each is seen, so that none is an outlier.
        limit = largest if found.size < 200 else float(np.quantile(found, quantile))
    limit = limit or largest or 1.0
    return limit, largest > limit * (1 + 1e-6)


def heat_map(ax: Axes, values: Any, limit: float, *, aspect: Literal["auto", "equal"] = "auto") -> AxesImage:
    """Draw a matrix in colours that are symmetric about 0, up to ``limit``; what is NaN is grey, as no value is."""
    ax.set_facecolor(MISSING)
    if not np.isfinite(np.asarray(values, dtype=float)).any():
        absent(ax)
    return ax.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect=aspect, interpolation="nearest")


def absent(ax: Axes) -> None:
    """Say in the middle of axes that there is nothing to draw."""
    ax.text(0.5, 0.53, "no values", transform=ax.transAxes, ha="center", va="bottom", fontsize=9)


def whole_numbers(ax: Axes) -> None:
    """Put the ticks of the horizontal axis at whole numbers, of what is counted."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    low, high = ax.get_xlim()
    if high - low < 1:  # a single one
        ax.set_xlim(round(low) - 1, round(low) + 1)


def training_axis(ax: Axes, steps: Any) -> None:
    """Make the horizontal axis one of training steps: by powers of ten where they span more than two of them."""
    steps = np.unique(np.asarray(steps, dtype=float))
    above = steps[steps > 0]
    if above.size > 1 and above[-1] >= 100 * above[0]:
        # Linear up to the first step past 0, so that the start has a place.
        ax.set_xscale("symlog", linthresh=float(above[0]), linscale=0.5)
        ax.set_xlim(0.8 * steps[0] if steps[0] else -0.25 * above[0], 1.25 * steps[-1])
        powers = 10.0 ** np.arange(np.ceil(np.log10(above[0])), np.log10(above[-1]) + 1e-9)
        ax.set_xticks([*steps[steps == 0], *powers])
    elif steps.size == 1:
        ax.set_xticks(steps, [f"{steps[0]:g}"])
    ax.set_xlabel("training step")


def title(ax: Axes, text: str) -> None:
    """Write the title, flush left; ``$`` in a name is not a formula."""
    ax.set_title(text, loc="left", fontsize=10, parse_math=False)


def legend(ax: Axes, **options: Any) -> Any:
    """Put the legend beside the axes, where it hides no data, and return it."""
    given: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0.0}
    return as_written(ax.legend(**{**given, "fontsize": 8, "frameon": False, **options}))


def as_written(legend: Legend) -> Legend:
    """Show the names of a legend as they are: ``$`` in a name is not a formula."""
    for text in legend.get_texts():
        text.set_parse_math(False)
    return legend


def add_colorbar(ax: Axes, image: Any, label: str, *, beyond: bool = False) -> Any:
    """Draw the scale of an image beside it, of the same size in tall pictures and in flat ones.

    ``beyond`` says that values lie past its ends, which are then pointed.
    """
    figure = ax.get_figure(root=False)
    if figure is None:  # axes that were taken out of their figure
        return None
    height = ax.get_window_extent().height / ax.figure.dpi
    bar = figure.colorbar(
        image,
        ax=ax,
        extend="both" if beyond else "neither",
        extendfrac=0.04,
        shrink=min(1.0, 3.0 / max(height, 0.1)),
        aspect=22,
        anchor=(0.0, 1.0),
        panchor=False,
        pad=0.02,
    )
    bar.set_label(label.replace(" (", "\n(", 1), fontsize=8)  # what, and below it the unit: short pictures are narrow
    bar.ax.tick_params(labelsize=7.5)
    bar.outline.set(edgecolor=NEUTRAL, linewidth=0.5)
    return bar


def note(ax: Axes, text: str) -> None:
    """Write a remark above the right end of the axes, below the title where both would not stand side by side."""
    own = ax.get_title(loc="left")
    # Points, by the mean width of a letter; the axes get about so much of the figure once labels have theirs.
    room = 72 * ax.get_window_extent().width / ax.figure.dpi * (0.8 if ax.get_legend() else 1.05)
    if 0.58 * (10 * max(map(len, own.split("\n"))) + 7.5 * len(text)) > room and own and not own.endswith("\n"):
        title(ax, own + "\n")
    ax.set_title(text, loc="right", fontsize=7.5, color=NEUTRAL, parse_math=False)


def thin_labels(labels: Sequence[str], most: int) -> tuple[list[int], list[str]]:
    """Return the positions and texts of at most ``most`` evenly spaced labels."""
    stride = max(1, -(-len(labels) // max(most, 1)))
    positions = list(range(0, len(labels), stride))
    return positions, [labels[i] for i in positions]
