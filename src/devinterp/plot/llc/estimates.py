"""An LLC by what it has: one run per chain, else over restrictions or checkpoints, in panels where asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from devinterp.errors import SettingError
from devinterp.plot.drawing.facets import Facets, draw_facets, make_facets
from devinterp.plot.drawing.style import (
    NEUTRAL,
    absent,
    colours,
    new_axes,
    note,
    title,
)
from devinterp.plot.inputs import as_llc, llc_along
from devinterp.plot.llc.intervals import averaged_over, axis_label, bar_lengths, interval_of
from devinterp.plot.llc.over_checkpoints import llc_over_checkpoints
from devinterp.plot.llc.over_restrictions import height_of, llc_over_restrictions
from devinterp.slt.diagnostics import SeriesDiagnosis, diagnose
from devinterp.slt.runs.kind import kind_of
from devinterp.slt.runs.run import Tree
from devinterp.wording import one_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import ErrorbarContainer


__all__ = ["llc_estimates", "llc_per_chain"]


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
                expected=f"ax left out, and col {one_of(d for d in ('checkpoint', 'wr') if d in result.dims)}",
                found=f"col={col!r}",
            )
        names = (
            [str(v) for v in result[col].values] if col in result.coords else list(map(str, range(result.sizes[col])))
        )
        names = [f"step {name}" for name in names] if col == "checkpoint" else names
        rows = result.sizes.get("wr", 1) if col == "checkpoint" else 1
        return draw_facets(
            # Each restriction has a scale of its own, on which its chains can be told apart.
            make_facets(names, size=(3.2, max(2.4, height_of(rows))), col_wrap=col_wrap, sharey=col != "wr"),
            lambda axes, i: llc_estimates(result.isel({col: i}), ax=axes, verdicts=diagnosis or False),
        )
    if "checkpoint" in result.dims:
        return llc_over_checkpoints(result, ax=ax, verdicts=diagnosis)
    if "wr" in result.dims:
        return llc_over_restrictions(result, ax=ax, sort=sort, limit=limit)
    return llc_per_chain(result, ax=ax)


def llc_per_chain(result: Tree, *, ax: Axes | None = None) -> ErrorbarContainer:
    """Draw the estimate of every chain, their mean and its interval.

    Parameters
    ----------
    result : DataTree or Dataset
        A result of ``compute_llc`` for one run, or a run, which is analysed first.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    ErrorbarContainer
        The mean with its interval.
    """
    result = llc_along(result, None)
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
    mean, low, high, what = interval_of(result)
    x = values.size + max(0.4, 0.1 * values.size)
    bars = ax.errorbar([x], mean, yerr=bar_lengths(mean, low, high), fmt="D", color=NEUTRAL, capsize=4, markersize=6)
    ax.axhline(float(mean[0]), color=NEUTRAL, linewidth=0.8, linestyle=(0, (4, 2)), zorder=0)
    # The mean stands apart from the last chain by as much as its name needs.
    few = values.size <= 12
    shown = place if few else place[:: -(-values.size // 6)]
    ax.set_xticks([*shown, x], [*map(str, shown), "mean"])
    ax.set_xlim(-0.7, x + 0.7)
    if not np.isfinite(mean).any():
        absent(ax)
    ax.set_xlabel("chain")
    ax.set_ylabel(axis_label(result))
    title(ax, averaged_over(result))
    note(ax, what)
    return bars
