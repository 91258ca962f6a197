"""Names beside points, none over another; tokens along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from devinterp.plot.drawing.style import thin_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

__all__ = ["label_above", "label_tokens", "place_labels"]

MOST_ROWS_AT_A_GLANCE = 60


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

    ``x`` and ``y`` are (point,), in the axes' data coordinates.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    at = ax.transData.transform(np.stack([x, y], axis=1)) * 72 / ax.figure.dpi
    spread = np.array([np.ptp(x) or 1.0, np.ptp(y) or 1.0])
    outermost = np.argsort(-np.hypot(*((np.stack([x, y], axis=1) / spread).T)), kind="stable")
    taken: list[tuple[float, float, float, float]] = []
    for index in outermost:
        if len(taken) == most:
            break
        width, height = 0.62 * size * len(names[index]), 1.15 * size
        right = x[index] >= 0
        for to_right, lift in ((right, 0.0), (not right, 0.0), (right, 0.8), (right, -0.8)):
            left = at[index, 0] + 4 if to_right else at[index, 0] - 4 - width
            low = at[index, 1] - height / 2 + lift * height
            box = (left, low, left + width, low + height)
            if not any(_overlap(box, other) for other in taken):
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
                )
                break
    return len(taken)


def label_tokens(axis: Axis, tokens: Sequence[str], length: float, *, turned: bool) -> None:
    """Write tokens along an axis, as many as there is room for; single characters stand upright."""
    size = float(np.clip(72 * length / len(tokens) * 0.85, 4.5, 8.0))
    at, shown = thin_labels(tokens, int(72 * length / (size * 1.1)))
    upright = not turned or all(len(token) <= 1 for token in shown)
    axis.set_ticks(at, shown, fontsize=size, rotation=0 if upright else 90, parse_math=False, family="DejaVu Sans")
    axis.set_tick_params(length=0, pad=3)


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
