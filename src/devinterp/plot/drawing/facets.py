"""Small multiples: one panel for each value of a dimension, as ``col=`` does in xarray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from devinterp.errors import SettingError
from devinterp.plot.drawing.style import _matplotlib, as_written, style, title
from devinterp.plot.tokens.decode import drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Facets", "draw_facets", "make_facets"]

MOST_PANELS = 64


@dataclass(frozen=True)
class Facets:
    """A grid of panels.

    Attributes
    ----------
    fig : matplotlib.figure.Figure
        The figure.
    axs : array of Axes, shape (row, column)
        Its axes; those past the last panel are hidden.
    names : tuple of str
        What each panel shows, in reading order.
    artists : list
        What the drawing function returned for each panel.
    """

    fig: Figure
    axs: Any
    names: tuple[str, ...]
    artists: list[Any] = field(default_factory=list)

    def __iter__(self) -> Iterator[Axes]:
        """Iterate over the panels' axes in reading order."""
        return iter(self.axs.ravel()[: len(self.names)])

    def __len__(self) -> int:
        return len(self.names)


def make_facets(
    names: Sequence[str],
    *,
    size: tuple[float, float] = (3.2, 2.4),
    col_wrap: int | None = None,
    sharex: bool = True,
    sharey: bool = True,
    most: int = MOST_PANELS,
    remedy: str = "Select some first, for instance with tree.isel(...) or .sel(wr=[...]).",
) -> Facets:
    """Return a grid with one empty, titled panel for each name.

    ``size`` is that of one panel, (width, height) in inches; more than ``most`` are refused, with ``remedy``.
    """
    if not names:
        raise SettingError("There is nothing to draw a panel for.", expected="at least one value along col")
    if len(names) > most:
        raise SettingError(
            f"{len(names)} panels are more than anybody can read.", expected=f"at most {most}", remedy=remedy
        )
    _matplotlib()
    import matplotlib.pyplot as plt

    columns = min(len(names), col_wrap or int(np.ceil(np.sqrt(len(names) * 1.3))))
    rows = -(-len(names) // columns)
    with style():
        fig, axs = plt.subplots(
            rows, columns, figsize=(size[0] * columns, size[1] * rows), sharex=sharex, sharey=sharey, squeeze=False
        )
    for ax, name in zip(axs.ravel(), names, strict=False):
        title(ax, name)
    for ax in axs.ravel()[len(names) :]:
        ax.set_visible(False)
    return Facets(fig, axs, tuple(names))


def _lines(name: str, room: int) -> str:
    """Break what has several parts where it is longer than its panel is wide."""
    parts = [name] if len(name) <= room else name.split(", ")
    return "\n".join(drawable(parts, longest=room, names=True))


def draw_facets(facets: Facets, draw: Callable[[Axes, int], Any], *, own_labels: bool = False) -> Facets:
    """Call ``draw(ax, index)`` for every panel; labels stay on the outer axes, one legend beside all panels."""
    columns = facets.axs.shape[1]
    # As many letters of a title as its panel has room for.
    room = max(12, int(facets.fig.get_figwidth() / columns * 9))
    titles = [_lines(name, room) for name in facets.names]
    keys: dict[str, Any] = {}
    for index, ax in enumerate(facets):
        facets.artists.append(draw(ax, index))
        title(ax, titles[index])
        if own_labels:
            continue
        ax.set_title("", loc="right")
        below_is_empty = index + columns >= len(facets)
        if not below_is_empty:
            ax.set_xlabel("")
        elif len(label := ax.get_xlabel()) > room:  # its neighbour's begins there
            ax.set_xlabel(label.replace(" (", "\n("))
        if index % columns:
            ax.set_ylabel("")
        if below_is_empty:
            ax.tick_params(labelbottom=True)
        found = ax.get_legend()
        if found is not None:
            found.remove()
            keys |= {label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if keys:
        whole = facets.fig.legend(keys.values(), keys.keys(), loc="outside right upper", fontsize=8, frameon=False)
        as_written(whole)
    return facets
