"""Names beside points, none over another; tokens along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from devinterp.plot.drawing.style import NEUTRAL, thin_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

__all__ = ["LARGEST", "SMALLEST", "label_above", "label_tokens", "place_labels"]

MOST_ROWS_AT_A_GLANCE = 60
SMALLEST, LARGEST = 6.0, 8.0  # points
LIFTS = (0.0, 0.8, -0.8, 1.6, -1.6, 2.4, -2.4)  # of a name from its point, in heights of its letters

_Box = tuple[float, float, float, float]  # left, low, right, high


def label_above(ax: Axes, rows: int) -> None:
    """Repeat what stands below an image of many rows above it, since both ends are not seen at once."""
    if rows <= MOST_ROWS_AT_A_GLANCE:
        return
    ax.tick_params(axis="x", labeltop=True)
    for tick in ax.xaxis.get_major_ticks():
        turned, size = tick.label1.get_rotation(), tick.label1.get_fontsize()
        at = {"ha": "left", "va": "center" if turned == 90 else "bottom", "rotation_mode": "anchor"}
        tick.label2.set(rotation=turned, fontsize=size, parse_math=False, **at)


def place_labels(ax: Axes, x: Any, y: Any, names: Sequence[str], *, most: int = 40, size: float = 7.0) -> int:
    """Write names beside points, the outermost first, and leave out those that would cover another.

    ``x`` and ``y`` are (point,), in the axes' data coordinates. Names stay within the axes, and off other points where
    that can be; one that had to be moved has a line to its point. Returns how many were written.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    figure = ax.get_figure(root=True)
    layout = None if figure is None else figure.get_layout_engine()
    if figure is not None and layout is not None:
        layout.execute(figure)  # points lie elsewhere before it
    frame = ax.get_window_extent()
    inside = tuple(edge * 72 / ax.figure.dpi for edge in (frame.x0, frame.x1))
    at = ax.transData.transform(np.stack([x, y], axis=1)) * 72 / ax.figure.dpi
    spread = np.array([np.ptp(x) or 1.0, np.ptp(y) or 1.0])
    outermost = np.argsort(-np.hypot(*((np.stack([x, y], axis=1) / spread).T)), kind="stable")
    taken: list[_Box] = []
    for index in outermost:
        if len(taken) == most:
            break
        width, height = 0.62 * size * len(names[index]), 1.15 * size
        right = x[index] >= 0
        free = []
        for lift, to_right in product(LIFTS, (right, not right)):
            left = at[index, 0] + 4 if to_right else at[index, 0] - 4 - width
            low = at[index, 1] - height / 2 + lift * height
            box = (left, low, left + width, low + height)
            if left < inside[0] or left + width > inside[1] or any(_overlap(box, other) for other in taken):
                continue
            free.append((_covered(box, at, index), abs(lift), lift, to_right, box))
        if not free:
            continue
        _, _, lift, to_right, box = min(free, key=lambda place: place[:2])
        taken.append(box)
        ax.annotate(
            names[index],
            (x[index], y[index]),
            (4 if to_right else -4, lift * height),
            textcoords="offset points",
            ha="left" if to_right else "right",
            va="center",
            fontsize=size,
            parse_math=False,
            arrowprops={"arrowstyle": "-", "color": NEUTRAL, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 2}
            if abs(lift) > 1
            else None,
        )
    return len(taken)


def label_tokens(axis: Axis, tokens: Sequence[str], length: float, *, turned: bool) -> None:
    """Write tokens along an axis, as many as there is room for; single characters stand upright."""
    size = float(np.clip(72 * length / len(tokens) * 0.85, SMALLEST, LARGEST))
    at, shown = thin_labels(tokens, int(72 * length / (size * 1.1)))
    upright = not turned or all(len(token) <= 1 for token in shown)
    axis.set_ticks(at, shown, fontsize=size, rotation=0 if upright else 90, parse_math=False, family="DejaVu Sans")
    axis.set_tick_params(length=0, pad=3)


def _covered(box: _Box, points: npt.NDArray[np.float64], own: int) -> int:
    """Return how many points other than its own a name would lie on."""
    across = (points[:, 0] > box[0] - 2) & (points[:, 0] < box[2] + 2)
    under = across & (points[:, 1] > box[1] - 2) & (points[:, 1] < box[3] + 2)
    return int(under.sum()) - bool(under[own])


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
