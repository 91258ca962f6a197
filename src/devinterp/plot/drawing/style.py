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

__all__ = [
    "DIVERGING",
    "NEUTRAL",
    "PALETTE",
    "SEQUENTIAL",
    "add_colorbar",
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
]

# Okabe & Ito's palette, the strong colours first; without black, which a dark page would swallow.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7F7F7F")
NEUTRAL = "#7F7F7F"
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
    """Draw a matrix in colours that are symmetric about 0, up to ``limit``; what is NaN shows the ground."""
    return ax.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect=aspect, interpolation="nearest")


def title(ax: Axes, text: str) -> None:
    """Write the title, flush left; ``$`` in a name is not a formula."""
    ax.set_title(text, loc="left", fontsize=10, parse_math=False)


def legend(ax: Axes, **options: Any) -> Any:
    """Put the legend beside the axes, where it hides no data, and return it."""
    given: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0.0}
    return ax.legend(**{**given, "fontsize": 8, "frameon": False, **options})


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
    """Write a remark above the right end of the axes."""
    ax.set_title(text, loc="right", fontsize=7.5, color=NEUTRAL, parse_math=False)


def thin_labels(labels: Sequence[str], most: int) -> tuple[list[int], list[str]]:
    """Return the positions and texts of at most ``most`` evenly spaced labels."""
    stride = max(1, -(-len(labels) // max(most, 1)))
    positions = list(range(0, len(labels), stride))
    return positions, [labels[i] for i in positions]
