"""The LLC: per chain, over restrictions, over checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import SettingError
from devinterp.plain_json import listed
from devinterp.plot.drawing.facets import Facets, draw_facets, make_facets
from devinterp.plot.drawing.labels import label_above
from devinterp.plot.drawing.style import (
    NEUTRAL,
    PALETTE,
    absent,
    colours,
    legend,
    new_axes,
    note,
    title,
    training_axis,
)
from devinterp.plot.inputs import as_llc
from devinterp.plot.tokens.decode import drawable
from devinterp.slt.diagnostics import SeriesDiagnosis, StudyDiagnosis, diagnose
from devinterp.slt.diagnostics.diagnosis import TITLES, Code
from devinterp.slt.runs.kind import kind_of
from devinterp.slt.runs.run import Tree

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.container import ErrorbarContainer
    from matplotlib.transforms import Transform

__all__ = ["llc_estimates", "llc_over_checkpoints", "llc_over_restrictions", "llc_per_chain"]

LABEL = "LLC (dimensionless)"
RISE_LABEL = "n_beta · rise of the loss on {} (dimensionless)"
MOST_CURVES = 8
SHIFT = 2.5  # points from one curve to the next
OFF_SCALE = 2.0  # times as far out as any other restriction
# By shape and not by colour alone: only what is good is filled.
MARKS: dict[Code, str] = {
    "good": "o",
    "diverged": "X",
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


def llc_estimates(
    obj: Tree,
    *,
    ax: Axes | None = None,
    col: Literal["wr", "checkpoint"] | None = None,
    col_wrap: int | None = None,
    sort: bool = False,
    limit: int | None = None,
    verdicts: bool | SeriesDiagnosis = True,
    **options: Any,
) -> ErrorbarContainer | list[ErrorbarContainer] | Facets:
    """Draw an LLC with its interval: over checkpoints, over restrictions, or per chain, by what it has.

    Parameters
    ----------
    obj : DataTree or Dataset
        A result of ``compute_llc``, or a run, a study or a series, whose LLC is then computed with ``options`` (by
        default over the fixed rows of the sampling task, with 90 % intervals).
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    col : {"wr", "checkpoint"}, optional
        One panel for each value of this dimension.
    col_wrap : int, optional
        Panels in a row.
    sort, limit
        As in `llc_over_restrictions`.
    verdicts : bool or SeriesDiagnosis
        Over checkpoints: mark what ``diagnose()`` does not call good. True diagnoses a series; a result, which has no
        chains to judge by any more, takes the diagnosis. Judged are the rows of the observable that is drawn.
    **options
        Passed to ``compute_llc``.

    Returns
    -------
    ErrorbarContainer, list of them, or Facets with ``col``
    """
    result = as_llc(obj, **options)
    if isinstance(verdicts, bool):
        looked_at = options.get("observable")
        found = diagnose(obj, sampling_task=looked_at) if verdicts and kind_of(obj) == "series" else None
        diagnosis = found if isinstance(found, SeriesDiagnosis) else None
    else:
        diagnosis = verdicts
    if col is not None:
        if ax is not None or col not in result.dims:
            raise SettingError(
                "These panels cannot be drawn.",
                expected=f"ax left out, and col one of {[d for d in ('checkpoint', 'wr') if d in result.dims]}",
                found=f"col={col!r}",
            )
        names = (
            [str(v) for v in result[col].values] if col in result.coords else list(map(str, range(result.sizes[col])))
        )
        names = [f"step {name}" for name in names] if col == "checkpoint" else names
        rows = result.sizes.get("wr", 1) if col == "checkpoint" else 1
        return draw_facets(
            # Each restriction has a scale of its own, on which its chains can be told apart.
            make_facets(names, size=(3.2, max(2.4, _height(rows))), col_wrap=col_wrap, sharey=col != "wr"),
            lambda axes, i: llc_estimates(result.isel({col: i}), ax=axes, verdicts=diagnosis or False),
        )
    if "checkpoint" in result.dims:
        return llc_over_checkpoints(result, ax=ax, verdicts=diagnosis)
    if "wr" in result.dims:
        return llc_over_restrictions(result, ax=ax, sort=sort, limit=limit)
    return llc_per_chain(result, ax=ax)


def llc_per_chain(result: xr.Dataset, *, ax: Axes | None = None) -> ErrorbarContainer:
    """Draw the estimate of every chain, their mean and its interval.

    Parameters
    ----------
    result : Dataset
        A result of ``compute_llc`` for one run.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    ErrorbarContainer
        The mean with its interval.
    """
    ax = new_axes(ax, (4.2, 3.0))
    values = np.asarray(result["llc_per_chain"].values, dtype=float)
    place = np.arange(values.size)
    for chain, colour in enumerate(colours(values.size)):
        ax.plot(chain, values[chain], marker="o", linestyle="none", color=colour, markersize=6)
    excluded = np.flatnonzero(~np.isfinite(values))
    for chain in excluded.tolist():
        ax.annotate(
            "excluded",
            (chain, 0.02),
            xycoords=("data", "axes fraction"),
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=7.5,
            color=NEUTRAL,
        )
    mean, low, high, what = _interval(result)
    x = values.size + max(0.4, 0.1 * values.size)
    bars = ax.errorbar([x], mean, yerr=_bars(mean, low, high), fmt="D", color=NEUTRAL, capsize=4, markersize=6)
    ax.axhline(float(mean[0]), color=NEUTRAL, linewidth=0.8, linestyle=(0, (4, 2)), zorder=0)
    # The mean stands apart from the last chain by as much as its name needs.
    few = values.size <= 12
    shown = place if few else place[:: -(-values.size // 6)]
    ax.set_xticks([*shown, x], [*map(str, shown), "mean"])
    ax.set_xlim(-0.7, x + 0.7)
    if not np.isfinite(mean).any():
        absent(ax)
    ax.set_xlabel("chain")
    ax.set_ylabel(_label(result))
    title(ax, _average(result))
    note(ax, what)
    return bars


def llc_over_restrictions(
    result: xr.Dataset, *, ax: Axes | None = None, sort: bool = False, limit: int | None = None
) -> ErrorbarContainer:
    """Draw one row for each weight restriction: every chain (small dots below), the mean, and its interval.

    Where ``full`` is so large that the others could not be told apart, it is written at the right end of its row, and
    the scale is that of the others.

    Parameters
    ----------
    result : Dataset
        A result of ``compute_llc`` with the dimension ``wr``.
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
    ax = new_axes(ax, (5.2, _height(len(names))))
    mean, low, high, what = _interval(chosen)
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
        mean, rows, xerr=_bars(mean, low, high), fmt="o", color=PALETTE[0], markersize=4, capsize=2.5, linewidth=1.2
    )
    ax.axvline(0, color=NEUTRAL, linewidth=0.8)
    ax.set_yticks(rows, drawable(names, longest=24, names=True), parse_math=False)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", alpha=0.3)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlabel(_label(result))
    for row in np.flatnonzero(~np.isfinite(mean)):
        if row != aside:
            ax.annotate("no estimate", (0.99, row), xycoords=ax.get_yaxis_transform(), ha="right", va="center",
                        fontsize=7.5, color=NEUTRAL)  # fmt: skip
    label_above(ax, len(names))
    title(ax, _average(result))
    note(ax, what if len(names) == total else f"{what}; the {len(names)} largest of {total}")
    return bars


def _height(rows: int) -> float:
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


def llc_over_checkpoints(
    result: xr.Dataset, *, ax: Axes | None = None, verdicts: SeriesDiagnosis | None = None
) -> list[ErrorbarContainer]:
    """Draw the LLC against the training step, one curve for each restriction.

    Parameters
    ----------
    result : Dataset
        A result of ``compute_llc`` with the dimension ``checkpoint``.
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
        mean, low, high, what = _interval(curve)
        if name not in named:
            bars.append(ax.errorbar(steps[order], mean[order], color=NEUTRAL, alpha=0.3, linewidth=0.6, zorder=1))
            continue
        beside = _beside(ax, shifts[name])  # intervals of one step would hide each other
        bars.append(
            ax.errorbar(
                steps[order],
                mean[order],
                yerr=_bars(mean, low, high)[:, order],
                color=palette[name],
                marker="o",
                markersize=4,
                capsize=2.5,
                label=drawable([name], longest=24, names=True)[0] if name else None,
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
    ax.set_ylabel(_label(result))
    ax.grid(axis="y", alpha=0.3)
    title(ax, _average(result))
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


def _label(result: xr.Dataset) -> str:
    return RISE_LABEL.format(result.attrs["observable"]) if "llc_is" in result.attrs else LABEL


def _average(result: xr.Dataset) -> str:
    over = result.attrs.get("over")
    fixed = result.attrs.get("observable")
    known = {
        "draws": "minibatches of the draws",
        "steps": "minibatches of every step",
        "observable": f"fixed rows of {fixed}" if fixed else "fixed rows",
    }
    return known.get(str(over), "")


def _interval(result: xr.Dataset) -> tuple[Any, Any, Any, str]:
    """Return mean, lower and upper end as flat arrays, and what the interval is."""
    mean = np.atleast_1d(np.asarray(result["llc_mean"].values, dtype=float)).ravel()
    if "llc_ci" in result:
        ends = np.asarray(result["llc_ci"].transpose(..., "bound").values, dtype=float).reshape(-1, 2)
        level = result.attrs.get("ci")
        return mean, ends[:, 0], ends[:, 1], "interval" if level is None else f"{100 * float(level):g} % interval"
    spread = np.atleast_1d(np.asarray(result["llc_std"].values, dtype=float)).ravel()
    return mean, mean - spread, mean + spread, "bars: standard deviation over chains"


def _bars(mean: npt.NDArray[Any], low: npt.NDArray[Any], high: npt.NDArray[Any]) -> npt.NDArray[Any]:
    # An interval need not contain the point estimate; matplotlib refuses negative lengths.
    return np.asarray(np.maximum(np.stack([mean - low, high - mean]), 0))
