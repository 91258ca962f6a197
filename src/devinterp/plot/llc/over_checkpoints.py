"""The LLC over the checkpoints of a training: one curve for each restriction, and what is wrong with its points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.plain_json import listed
from devinterp.plot.drawing.style import (
    NEUTRAL,
    absent,
    colours,
    legend,
    new_axes,
    note,
    title,
    training_axis,
)
from devinterp.plot.inputs import llc_along
from devinterp.plot.llc.intervals import averaged_over, axis_label, bar_lengths, interval_of
from devinterp.plot.tokens.decode import legend_name
from devinterp.slt.diagnostics import SeriesDiagnosis, StudyDiagnosis
from devinterp.slt.diagnostics.diagnosis import TITLES, Code
from devinterp.slt.runs.run import Tree

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.container import ErrorbarContainer
    from matplotlib.transforms import Transform


__all__ = ["MARKS", "llc_over_checkpoints"]

MOST_CURVES = 8
SHIFT = 2.5  # points from one curve to the next
# By shape and not by colour alone: only what is good is filled.
MARKS: dict[Code, str] = {
    "good": "o",
    "diverged": "X",
    "incomplete": "<",
    "below_start": "v",
    "step_bias": "^",
    "gradient_noise": "P",
    "clamped": "h",
    "not_converged": "o",
    "chains_disagree": "D",
    "one_chain": "p",
    "spikes": "*",
    "little_signal": "s",
}


def llc_over_checkpoints(
    result: Tree, *, ax: Axes | None = None, verdicts: SeriesDiagnosis | None = None
) -> list[ErrorbarContainer]:
    """Draw the LLC against the training step, one curve for each restriction.

    Parameters
    ----------
    result : DataTree or Dataset
        A result of ``compute_llc`` with the dimension ``checkpoint``, or a series, which is analysed first.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    verdicts : SeriesDiagnosis, optional
        What ``diagnose()`` said of the series: whatever is not good gets a hollow mark whose shape says why.

    Returns
    -------
    list of ErrorbarContainer
        One for each curve. Of more than eight, the largest are named and have intervals, ``full`` among them; the
        others are grey.
    """
    result = llc_along(result, "checkpoint")
    ax = new_axes(ax, (5.6, 3.2))
    steps = np.asarray(result["checkpoint"].values, dtype=float)
    order = np.argsort(steps, kind="stable")
    curves = {"": result}
    if "wr" in result.dims:
        curves = {str(name): result.isel(wr=i) for i, name in enumerate(result["wr"].values)}
    named = _standing_out(curves)
    palette = dict(zip(named, colours(len(named)), strict=True))
    shifts = dict(zip(named, SHIFT * (np.arange(len(named)) - (len(named) - 1) / 2), strict=True))
    bars = []
    what = ""
    wrong: set[Code] = set()
    for name, curve in curves.items():
        mean, low, high, what = interval_of(curve)
        if name not in named:
            bars.append(ax.errorbar(steps[order], mean[order], color=NEUTRAL, alpha=0.3, linewidth=0.6, zorder=1))
            continue
        beside = _beside(ax, shifts[name])  # intervals of one step would hide each other
        bars.append(
            ax.errorbar(
                steps[order],
                mean[order],
                yerr=bar_lengths(mean, low, high)[:, order],
                color=palette[name],
                marker="o",
                markersize=4,
                capsize=2.5,
                label=legend_name(name, longest=24) if name else None,
            )
        )
        _move([bars[-1].lines[0], *bars[-1].lines[1], *bars[-1].lines[2]], beside)
        if verdicts is not None:
            wrong |= _mark(ax, steps, mean, _codes(verdicts, curve), palette[name], beside)
    for code in MARKS:  # in the order of gravity
        if code in wrong:
            ax.plot([], [], **_hollow(ax, code, NEUTRAL), label=TITLES[code])
    if wrong or len(curves) > 1:
        legend(ax)
    if not np.isfinite(np.asarray(result["llc_mean"].values, dtype=float)).any():
        absent(ax)
    training_axis(ax, steps)
    ax.set_ylabel(axis_label(result))
    ax.grid(axis="y", alpha=0.3)
    title(ax, averaged_over(result))
    mixed = listed(result.attrs, "mixed")
    parts = [what, f"with different {', '.join(map(str, mixed))}" if mixed else ""]
    parts.append(f"{len(named)} of {len(curves)} named, the largest" if len(named) < len(curves) else "")
    note(ax, "; ".join(filter(None, parts)))
    return bars


def _standing_out(curves: Mapping[str, xr.Dataset]) -> list[str]:
    """Return the curves that are told apart, in the order that they have: the largest ones, and ``full``."""
    largest = {n: np.abs(np.nan_to_num(np.asarray(c["llc_mean"].values, dtype=float))).max() for n, c in curves.items()}
    first = sorted(curves, key=lambda name: (name != "full", -largest[name]))[:MOST_CURVES]
    return [name for name in curves if name in first]


def _move(drawn: Iterable[Artist], to: Transform) -> None:
    """Move what was drawn: only now, since what is drawn elsewhere does not count for the axes' limits."""
    for artist in drawn:
        artist.set_transform(to)


def _beside(ax: Axes, points: float) -> Transform:
    """Return the axes' transform, moved to the right by so many points."""
    from matplotlib.transforms import ScaledTranslation

    return ax.transData + ScaledTranslation(points / 72, 0, ax.figure.dpi_scale_trans)


def _codes(verdicts: SeriesDiagnosis, curve: xr.Dataset) -> list[Code]:
    """Return the gravest verdict at every checkpoint of a curve, ``good`` where none is known."""
    codes: list[Code] = []
    for step in curve["checkpoint"].values:
        runs = verdicts.get(int(step), StudyDiagnosis())
        name = str(curve["wr"].item()) if "wr" in curve.coords else next(iter(runs), "")
        codes.append(runs[name].verdict.code if name in runs else "good")
    return codes


def _mark(
    ax: Axes, steps: npt.NDArray[Any], mean: npt.NDArray[Any], codes: list[Code], colour: Any, beside: Transform
) -> set[Code]:
    """Draw hollow marks over the points that are not good; return what is wrong with them."""
    wrong: set[Code] = {code for code in codes if code != "good"}
    for code in wrong:
        own = np.array([c == code for c in codes])
        _move(ax.plot(steps[own], mean[own], **_hollow(ax, code, colour)), beside)
    return wrong


def _hollow(ax: Axes, code: Code, colour: Any) -> dict[str, Any]:
    face: Any = ax.get_facecolor()
    return {
        "marker": MARKS[code],
        "linestyle": "none",
        "markersize": 6,
        "markerfacecolor": face if face[3] else "white",
        "markeredgecolor": colour,
        "zorder": 3,
    }
