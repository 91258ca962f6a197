"""Loss traces: what a chain did, step by step or draw by draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from devinterp.errors import MissingVariableError, SettingError
from devinterp.plot.drawing.facets import Facets, draw_facets, make_facets
from devinterp.plot.drawing.style import NEUTRAL, absent, colours, legend, new_axes, note, title, whole_numbers
from devinterp.plot.inputs import chain_failures, one_run
from devinterp.plot.tokens.decode import drawable_name
from devinterp.slt.runs.masked_means import Start, minibatch_rows, observed_rows, start_rows
from devinterp.slt.runs.results import loss_unit, with_unit
from devinterp.slt.runs.run import Samples, Tree, series_members, study_members

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

__all__ = ["loss_traces", "running_means"]

MOST_LEGEND_ENTRIES = 8


def loss_traces(
    samples: Tree,
    *,
    observable: str | None = None,
    over: Literal["steps", "draws"] | None = None,
    smooth: int | None = None,
    ax: Axes | None = None,
    col: Literal["observable", "wr", "checkpoint"] | None = None,
    col_wrap: int | None = None,
) -> list[Line2D] | Facets:
    """Draw the loss of every chain, its burn-in and the loss at the start.

    Parameters
    ----------
    samples : DataTree or Dataset
        What ``sample()`` returned; of a study, ``full`` is drawn unless ``col="wr"``. A series takes
        ``col="checkpoint"``.
    observable : str, optional
        Draw the fixed rows of this observable, at every draw, instead of the minibatches.
    over : {"steps", "draws"}, optional
        Minibatch losses of every step, burn-in shaded (the default where the store has them), or of the draws.
    smooth : int, optional
        Width of the running mean that is drawn over the raw trace; 1 leaves it out.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    col : {"observable", "wr", "checkpoint"}, optional
        One panel for each observable, for each restriction of a study, or for each checkpoint of a series,
        with a scale of its own.
    col_wrap : int, optional
        Panels in a row.

    Returns
    -------
    list of Line2D, or Facets with ``col``
        One line for each chain.

    Raises
    ------
    MissingVariableError
        The run has no such losses.
    SettingError
        ``ax`` and ``col`` are both given.
    """
    if col is not None:
        if ax is not None:
            raise SettingError("ax goes with one picture, col makes several.", remedy="Leave one of them out.")
        return _panels(samples, col, col_wrap, observable=observable, over=over, smooth=smooth)
    run = one_run(samples)
    axis, losses, start, label = _read(run, observable, over)
    ax = new_axes(ax, (5.6, 3.0))
    lines = _draw(ax, run, axis, losses, smooth)
    burnin = run.setting("num_burnin_steps") if axis == "step" else 0
    if burnin:
        ax.axvspan(-0.5, burnin - 0.5, color=NEUTRAL, alpha=0.15, linewidth=0)
        ax.annotate(
            "burn-in",
            (0, 1),
            (2, -2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="top",
            fontsize=7.5,
            color=NEUTRAL,
        )
    if start is not None:
        # Over the traces, which would hide it where they stay near it.
        ax.axhline(start, color=NEUTRAL, linestyle=(0, (4, 2)), linewidth=1, label="at the start", zorder=2.5)
    ax.set_ylabel(with_unit("loss", loss_unit(run.metadata)))
    _finish(ax, "SGLD step" if axis == "step" else "draw", label, lines, "" if start is None else "dashed: the start")
    return lines


def running_means(
    samples: Tree, *, observable: str | None = None, burnin: int = 0, ax: Axes | None = None
) -> list[Line2D]:
    """Draw what each chain's LLC would be if it had ended at each draw, and that of all of them.

    Parameters
    ----------
    samples : DataTree or Dataset
        What ``sample()`` returned; of a study, ``full``.
    observable : str, optional
        Fixed rows; by default the sampling task's where the store tells it, else the minibatches of the draws.
    burnin : int
        Draws to leave out at the start.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    list of Line2D
        One line for each chain, and one for the mean of those that completed: n_beta times the mean loss of the draws
        so far above the loss at the start. A mean that still climbs at the end has not settled.
    """
    run = one_run(samples)
    task = observable if observable is not None else run.sampling_task(None)
    _, losses, start, label = _read(run, task, "draws")
    if start is None or not 0 <= burnin < losses.shape[1]:
        raise SettingError(
            "There is no mean to draw.",
            expected=f"a loss at the start, and burnin below {losses.shape[1]}",
            found="no init_loss" if start is None else burnin,
        )
    count = np.arange(1, losses.shape[1] - burnin + 1)
    so_far = run.n_beta * (np.cumsum(losses[:, burnin:], axis=1) / count - start)
    ax = new_axes(ax, (5.6, 3.0))
    point = _point(count.size)
    failures = chain_failures(run)
    lines: list[Line2D] = []
    for chain, colour in enumerate(colours(len(so_far))):
        dashes = (0, (2, 1.2)) if chain in failures else "solid"
        if np.isfinite(so_far[chain]).any():
            lines += ax.plot(burnin + count, so_far[chain], color=colour, linewidth=0.9, alpha=0.7, linestyle=dashes,
                             label=f"chain {chain}" + (" (stopped)" if chain in failures else ""), **point)  # fmt: skip
    used = [chain for chain in range(len(so_far)) if chain not in failures]
    if len(used) > 1:
        mean = so_far[used].mean(axis=0)
        lines += ax.plot(burnin + count, mean, color="black", linewidth=1.8, label="their mean", **point)
    ax.set_ylabel("LLC (dimensionless)")
    _finish(ax, "draws so far", f"running mean, {label}", lines, "black: their mean" if len(used) > 1 else "")
    return lines


def _panels(samples: Tree, col: str, col_wrap: int | None, **options: Any) -> Facets:
    if col == "observable":
        names = list(one_run(samples).observables)
        return draw_facets(
            make_facets(names, col_wrap=col_wrap, sharey=False),
            lambda ax, i: loss_traces(samples, **{**options, "observable": names[i]}, ax=ax),
        )
    members: Mapping[str, Tree] | None = study_members(samples) if col == "wr" else None
    if col == "checkpoint" and (steps := series_members(samples)) is not None:
        members = {f"step {step}": study for step, study in steps.items()}
    if members is None:
        raise SettingError(
            "There are no such panels.",
            expected="col='observable', or col='wr' for a study, col='checkpoint' for a series",
            found=f"col={col!r}",
        )
    trees = list(members.values())
    return draw_facets(
        make_facets(list(members), col_wrap=col_wrap, sharey=False),  # the loss of `full` would flatten all others
        lambda ax, i: loss_traces(trees[i], **options, ax=ax),
    )


def _read(
    run: Samples, observable: str | None, over: str | None
) -> tuple[str, npt.NDArray[np.float64], float | None, str]:
    """Return the axis, the losses (chain, step or draw), the loss at the start, and the title."""
    data = run.dataset
    if observable is not None:
        name = run.observable(observable)
        start = start_rows(run, name).mean if f"init_loss_{name}" in data else None
        return "draw", observed_rows(run, name).trace, start, f"fixed rows of {name}"
    if over not in (None, "steps", "draws"):
        raise SettingError("There are no such traces.", expected="over='steps' or 'draws'", found=repr(over))
    start_value = Start.known_mean(run) if "init_loss" in data else None
    if over != "draws" and "step_loss" in data:
        values = np.asarray(run.variable("step_loss", ("chain", "step")).values, dtype=np.float64)
        return "step", values, start_value, "minibatch loss of every step"
    if over != "draws" and "sampling_loss_micro" in data:
        micro = minibatch_rows(run, "sampling_loss_micro").trace
        return "step", micro, start_value, "minibatch loss of every step"
    if over == "steps":
        raise MissingVariableError(
            "The losses of the steps were not kept.",
            expected="the variable step_loss or sampling_loss_micro",
            remedy="Use over='draws'.",
        )
    if "sampling_loss" in data:
        return "draw", minibatch_rows(run).trace, start_value, "minibatch loss of every draw"
    first = next(iter(run.observables), None)
    if first is None:
        raise MissingVariableError("The run has no losses to draw.", expected="sampling_loss or loss_{observable}")
    return _read(run, first, None)


def _draw(ax: Axes, run: Samples, axis: str, losses: npt.NDArray[np.float64], smooth: int | None) -> list[Line2D]:
    failures = chain_failures(run)
    chains = losses.shape[0]
    width = smooth if smooth is not None else max(1, losses.shape[1] // 40)
    lines: list[Line2D] = []
    for chain, colour in enumerate(colours(chains)):
        known = np.flatnonzero(np.isfinite(losses[chain]))
        if known.size == 0:
            continue
        x, y = known, losses[chain, known]
        failed = chain in failures
        label = f"chain {chain}" + (" (stopped)" if failed else "")
        dashes = (0, (2, 1.2)) if failed else "solid"
        if width > 1 and y.size > 2 * width:
            ax.plot(x, y, color=colour, linewidth=0.6, alpha=0.3)
            mean = np.convolve(y, np.ones(width) / width, mode="valid")
            middle = x[(width - 1) // 2 : (width - 1) // 2 + mean.size]
            lines += ax.plot(middle, mean, color=colour, linestyle=dashes, label=label)
        else:
            lines += ax.plot(x, y, color=colour, linestyle=dashes, label=label, linewidth=1.0, **_point(x.size))
        if failed:
            ax.plot(x[-1], y[-1], marker="X", color=colour, markersize=7, markeredgecolor="white", linestyle="none")
    return lines


def _point(count: int) -> dict[str, Any]:
    """A line through a single point is not seen: it gets a mark."""
    return {"marker": "o", "markersize": 4} if count == 1 else {}


def _finish(ax: Axes, below: str, above: str, lines: Sequence[Line2D], rest: str) -> None:
    """Name the axis, the picture and its chains; where they are many, ``rest`` says what else is drawn."""
    ax.set_xlabel(below)
    whole_numbers(ax)
    title(ax, drawable_name(above, longest=56))
    ax.margins(x=0.01)
    chains = sum(str(line.get_label()).startswith("chain ") for line in lines)
    if not lines:
        absent(ax)
        ax.set(xticks=[], yticks=[])
    elif chains <= MOST_LEGEND_ENTRIES:
        legend(ax)
    else:
        note(ax, "; ".join(filter(None, [f"{chains} chains", rest])))
