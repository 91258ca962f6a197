"""The LLC of one run: its rows, its start, its trace and its interval."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import DataError, MissingVariableError, SettingError, warn_caller
from devinterp.plain_json import dig
from devinterp.slt.batches_seen import BatchesSeen, batches_seen
from devinterp.slt.diagnostics.step_bias import step_bias
from devinterp.slt.llc.paired import paired_rows
from devinterp.slt.runs.chains import ChainSelection, select_chains, warn_excluded
from devinterp.slt.runs.masked_means import (
    Rows,
    Start,
    averaged_steps,
    minibatch_rows,
    observed_rows,
    start_rows,
    step_rows,
)
from devinterp.slt.runs.results import said_of_losses
from devinterp.slt.runs.run import Samples, Tree, series_members, study_members
from devinterp.slt.uncertainty.intervals import llc_interval
from devinterp.wording import one_of, shown

__all__ = ["CI_IS_FOR", "Over", "best_average", "check_over", "llc_of_run", "llc_of_trace", "task_of"]

Over = Literal["draws", "steps", "observable", "paired"]
OVERS = ("draws", "steps", "observable", "paired")
RISE = "n_beta times the rise of the loss on {0} while the loss on {1} is sampled, not the data-refined LLC of {0}"
CI_IS_FOR = "n_beta * E[L - L_0] at this step size, n_beta, localization and length; not for the learning coefficient"


def check_over(over: str) -> None:
    """Raise `SettingError` where there is no such average."""
    if over not in OVERS:
        raise SettingError("There is no such average.", expected=f"over = {one_of(OVERS)}", found=repr(over))


def llc_of_trace(
    trace: npt.NDArray[np.float64], init_loss: float, n_beta: float, used: tuple[int, ...]
) -> dict[str, npt.NDArray[np.float64]]:
    """Estimate the LLC from the loss at every draw.

    Parameters
    ----------
    trace : array, shape (chain, draw)
        Mean loss (nat) of each draw.
    init_loss : float
        Loss (nat) at the start.
    n_beta : float
        Inverse temperature.
    used : tuple of int
        The chains to use.

    Returns
    -------
    dict
        ``llc_mean``, ``llc_std``, ``llc_per_chain`` and ``llc_scalar``.
    """
    kept = list(used)
    per_chain = np.full(trace.shape[0], np.nan)
    per_chain[kept] = n_beta * (trace[kept].mean(axis=1) - init_loss)
    return {
        "llc_mean": np.asarray(per_chain[kept].mean()),
        "llc_std": np.asarray(per_chain[kept].std()),
        "llc_per_chain": per_chain,
        "llc_scalar": np.asarray(n_beta * (trace[kept].mean() - init_loss)),
    }


def llc_of_run(
    run: Samples,
    over: Over,
    burnin: bool,
    observable: str | None,
    ci: float | None,
    allow_partial: bool,
    *,
    warn: bool = True,
) -> tuple[xr.Dataset, ChainSelection]:
    """Estimate the LLC of one run, with the options of `compute_llc`; return which chains it is from, too."""
    axis: Literal["draw", "step"] = "draw"
    task: str | None = None
    n_beta = run.n_beta
    _warn_noised_start(run, over)
    if over in ("draws", "paired"):
        batches = _batches_seen(run)
        if warn and batches is not None and batches.blind:
            warn_caller(f"{f'{run.label}: ' if run.label else ''}{batches}")
        rows = minibatch_rows(run) if over == "draws" else minibatch_rows(run, known=False)
    elif over == "steps":
        axis = "step"
        rows = _step_rows(run, burnin)
    else:
        task = task_of(run, observable)
        rows = observed_rows(run, task)
    selection = select_chains(run, rows.finite, allow_partial=allow_partial, axis=axis)
    if warn:
        warn_excluded(run, selection)
    if over == "paired":
        rows, start = paired_rows(run, rows, selection)
    if over == "paired":
        init_rows = np.array([start])
    elif task is not None:
        init_rows = _init_rows(run, task)
    elif over == "steps" and "sampling_loss_micro" in run.dataset:
        init_rows = Start.of(run, selection.used, "sampling_loss_micro", averaged_steps(run, burnin)).per_chain
    else:
        init_rows = Start.of(run, selection.used, part=slice(selection.length if axis == "draw" else None)).per_chain
    _check_finite(run, init_rows)
    init = float(init_rows.mean())
    kept = rows.of(selection.used, selection.length)
    trace = np.full(rows.means.shape[:2], np.nan)[:, : selection.length]
    trace[list(selection.used)] = kept.plain.mean(axis=2)
    values = llc_of_trace(trace, init, n_beta, selection.used)
    if kept.counts is not None:
        values["llc_scalar"] = np.asarray(n_beta * (kept.mean - init))
    result = xr.Dataset(
        {
            "llc_mean": values["llc_mean"],
            "llc_std": values["llc_std"],
            "llc_per_chain": ("chain", values["llc_per_chain"]),
            "llc_scalar": values["llc_scalar"],
            "loss_trace": (("chain", axis), rows.trace.astype(np.float32)),
            "init_loss": np.float64(init),
        },
        coords=run.coords_along(chain=slice(None), **{axis: slice(None)}),
        attrs={"over": over, "n_beta": n_beta, **said_of_losses(run.metadata), **selection.attrs},
    )
    if task is not None:
        result.attrs["observable"] = task
        sampled = run.sampling_task()
        if sampled is not None and task != sampled:
            result.attrs["llc_is"] = RISE.format(task, sampled)
    elif rows.counts is not None:
        result["loss_count"] = (("chain", axis), rows.sums[1])
    if over == "steps":
        result.attrs["burnin"] = int(burnin)
    exact = over in ("observable", "paired")  # no noise of the rows
    bias = step_bias(run, selection.used, float(values["llc_mean"]) if exact else None)
    if bias is not None and np.isfinite(bias.inflation):
        result.attrs["step_inflation"] = round(bias.inflation, 6)
        result.attrs["step_inflation_is"] = "measured" if bias.source == "metrics" else "lower bound"
    if ci is not None:
        interval = partial(llc_interval, run, kept.plain, n_beta=n_beta, level=ci, over=over, init_rows=init_rows)
        rows_of = None if task is None else dig(run.metadata, f"provenance.observables.{task}.length")
        result["llc_ci"] = ("bound", np.array(interval(rows_of=rows_of)))
        if task is not None:
            result["llc_ci_given_rows"] = ("bound", np.array(interval(given_rows=True)))
        result.attrs |= {"ci": float(ci), "ci_is_for": CI_IS_FOR}
    return result, selection


def _warn_noised_start(run: Samples, over: Over) -> None:
    """With ``init_noise`` the initial loss is that of noised weights, as devinterp 2.0 takes it, and no reference."""
    if over in ("observable", "paired") or not run.setting("init_noise"):
        return
    warn_caller(
        f"init_loss was taken after init_noise = {run.setting('init_noise'):g} had moved the weights (all of them, "
        "whatever the masks), so that this LLC is not a rise over the trained weights. Use over='observable', which "
        "compares with init_loss_{observable} at the trained weights, or over='paired', likewise."
    )


def _step_rows(run: Samples, burnin: bool) -> Rows:
    """Return the mean loss of every row of every step, (chain, step, row); one row where only the mean is kept."""
    if not {"sampling_loss_micro", "step_loss"} & set(run.dataset.data_vars):
        raise MissingVariableError(
            "The losses of the steps were not kept.",
            expected="the variable sampling_loss_micro or step_loss",
            found=sorted(map(str, run.dataset.data_vars)),
            remedy="Use over='draws', or sample again with save_step_losses=True.",
        )
    if "sampling_loss_micro" in run.dataset:
        return minibatch_rows(run, "sampling_loss_micro", steps=averaged_steps(run, burnin))
    return step_rows(run, steps=averaged_steps(run, burnin))


def task_of(run: Samples, observable: str | None) -> str:
    """Return the observable that was asked for, else the sampling task; raise where neither is known."""
    task = run.sampling_task(observable)
    if task is None:
        raise MissingVariableError(
            "It is not known which observable is the sampling task.",
            expected="metadata.config.sampling_task, or an observable of the sampling dataset",
            found=f"the observables {shown(sorted(run.observables))}",
            remedy="Pass observable=NAME.",
        )
    return task


def _init_rows(run: Samples, task: str) -> npt.NDArray[np.float64]:
    """Return the loss at the start per fixed row of the observable, averaged over tokens."""
    name = f"init_loss_{task}"
    if name not in run.dataset:
        raise MissingVariableError(
            f"The loss of the rows of {task!r} at the start was not kept.",
            expected=f"the variable {name}",
            found=sorted(map(str, run.dataset.data_vars)),
            remedy="Use over='draws'; stores of devinterp 2.0 do not have it.",
        )
    return np.asarray(start_rows(run, task).plain[0, 0])


def _check_finite(run: Samples, rows: npt.NDArray[np.float64]) -> None:
    if not np.isfinite(rows).all():
        raise DataError(
            f"The loss at the start{run.of_label} is not finite.",
            expected="finite values",
            found=f"{int((~np.isfinite(rows)).sum())} of {rows.size} rows are not",
            remedy="Check the store with devinterp.validate: a missing chunk reads as NaN.",
        )


def _batches_seen(run: Samples) -> BatchesSeen | None:
    sampler, rows = (dig(run.metadata, path) for path in ("config.sampler", "provenance.dataset.length"))
    return batches_seen(sampler, rows) if isinstance(sampler, Mapping) else None


def _is_blind(run: Samples) -> bool:
    batches = _batches_seen(run)
    return batches is not None and batches.blind


def best_average(obj: Tree | Mapping[str, Tree]) -> Over:
    """Return ``"observable"`` where every run has the sampling task's rows at the start.

    Else ``"paired"`` where every run has its minibatches at the start; else ``"draws"``, or ``"steps"`` where draws see
    the same few batches again and again.
    """
    steps = series_members(obj)
    studies = [study_members(each) or {} for each in steps.values()] if steps else [study_members(obj) or {"": obj}]  # type: ignore[dict-item]
    runs = [Samples.of(t, label=n, allow_partial=True) for study in studies for n, t in study.items()]
    for run in runs:
        task = run.sampling_task()
        if task is None or f"init_loss_{task}" not in run.dataset:
            if all("init_loss_sampling" in r.dataset for r in runs):
                return "paired"
            return "steps" if all(map(_is_blind, runs)) and all("step_loss" in r.dataset for r in runs) else "draws"
    return "observable"
