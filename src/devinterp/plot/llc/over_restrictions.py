"""The LLC over weight restrictions: one row for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from devinterp.plot.drawing.labels import label_above
from devinterp.plot.drawing.style import (
    NEUTRAL,
    PALETTE,
    new_axes,
    note,
    title,
)
from devinterp.plot.inputs import llc_along
from devinterp.plot.llc.intervals import averaged_over, axis_label, bar_lengths, interval_of
from devinterp.plot.tokens.decode import drawable
from devinterp.slt.runs.run import Tree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import ErrorbarContainer


__all__ = ["height_of", "llc_over_restrictions"]

OFF_SCALE = 2.0  # times as far out as any other restriction


def llc_over_restrictions(
    result: Tree, *, ax: Axes | None = None, sort: bool = False, limit: int | None = None
) -> ErrorbarContainer:
    """Draw one row for each weight restriction: every chain (small dots below), the mean, and its interval.

    Where ``full`` is so large that the others could not be told apart, it is written at the right end of its row, and
    the scale is that of the others.

    Parameters
    ----------
    result : DataTree or Dataset
        A result of ``compute_llc`` with the dimension ``wr``, or a study, which is analysed first.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure that is as high as there are rows.
    sort : bool
        Largest first, instead of the result's order.
    limit : int, optional
        Draw only so many, those with the largest magnitude; how many were left out stands beside the title.

    Returns
    -------
    ErrorbarContainer
        The means with their intervals.
    """
    result = llc_along(result, "wr")
    total = result.sizes["wr"]
    order = np.arange(total)
    size = np.abs(np.nan_to_num(np.asarray(result["llc_mean"].values, dtype=float)))
    if limit is not None and limit < total:
        order = np.sort(np.argsort(-size, kind="stable")[:limit])
    if sort:
        signed = np.asarray(result["llc_mean"].values, dtype=float)[order]
        order = order[np.argsort(-np.nan_to_num(signed, nan=-np.inf), kind="stable")]
    chosen = result.isel(wr=order)
    names = [str(v) for v in chosen["wr"].values]
    ax = new_axes(ax, (5.2, height_of(len(names))))
    mean, low, high, what = interval_of(chosen)
    rows = np.arange(len(names))
    per_chain = np.asarray(chosen["llc_per_chain"].transpose("wr", "chain").values, dtype=float)
    aside = _off_scale(names, mean, low, high)
    if aside is not None:
        text = f"{mean[aside]:.3g} ({low[aside]:.3g} to {high[aside]:.3g})"
        _write_aside(ax, aside, text)
        mean, per_chain = mean.copy(), per_chain.copy()
        mean[aside] = per_chain[aside] = np.nan
    for chain in range(per_chain.shape[1]):
        ax.plot(
            per_chain[:, chain], rows + 0.3, marker="o", linestyle="none", color=PALETTE[0], alpha=0.6, markersize=2
        )
    bars = ax.errorbar(
        mean,
        rows,
        xerr=bar_lengths(mean, low, high),
        fmt="o",
        color=PALETTE[0],
        markersize=4,
        capsize=2.5,
        linewidth=1.2,
    )
    ax.axvline(0, color=NEUTRAL, linewidth=0.8)
    ax.set_yticks(rows, drawable(names, longest=24, names=True), parse_math=False)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", alpha=0.3)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlabel(axis_label(result))
    for row in np.flatnonzero(~np.isfinite(mean)):
        if row != aside:
            ax.annotate("no estimate", (0.99, row), xycoords=ax.get_yaxis_transform(), ha="right", va="center",
                        fontsize=7.5, color=NEUTRAL)  # fmt: skip
    label_above(ax, len(names))
    title(ax, averaged_over(result))
    note(ax, what if len(names) == total else f"{what}; the {len(names)} largest of {total}")
    return bars


def height_of(rows: int) -> float:
    """Return the height of a figure of so many rows, in inches."""
    return 0.9 + 0.2 * max(rows, 3)


def _off_scale(names: list[str], mean: npt.NDArray[Any], low: npt.NDArray[Any], high: npt.NDArray[Any]) -> int | None:
    """Return the row of ``full`` where it would press all others together."""
    if "full" not in names or len(names) < 3:
        return None
    row = names.index("full")
    others = np.abs(np.delete(np.stack([mean, low, high]), row, axis=1))
    reach = others[np.isfinite(others)].max(initial=0.0)
    return row if reach > 0 and low[row] > OFF_SCALE * reach else None


def _write_aside(ax: Axes, row: int, text: str) -> None:
    ax.plot(
        [1.0],
        [row],
        marker=">",
        linestyle="none",
        color=PALETTE[0],
        markersize=6,
        transform=ax.get_yaxis_transform(),
        clip_on=False,
    )
    ax.annotate(
        text,
        (1.0, row),
        (-8, 0),
        xycoords=ax.get_yaxis_transform(),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=8,
    )
