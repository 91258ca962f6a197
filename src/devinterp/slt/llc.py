"""The local learning coefficient (LLC) of a run.

    llc = n_beta * (E[L] - L_0)

with E[L] the mean loss over the draws of SGLD and L_0 the loss at the start (Lau et al. 2023,
`arXiv:2308.12108 <https://arxiv.org/abs/2308.12108>`_, equation 4).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp._renamed import successor
from devinterp.errors import DataError, DevinterpWarning, MissingVariableError, SettingError
from devinterp.names import sanitize_observable_name
from devinterp.plain_json import dig
from devinterp.slt.diagnostics.step_bias import step_bias
from devinterp.slt.runs.chains import ChainSelection, select_chains, warn_excluded
from devinterp.slt.runs.counted import Rows, Start, averaged_steps, minibatch_rows, observed_rows, start_rows, step_rows
from devinterp.slt.runs.results import label_result, lay_out, said_of_losses, shared_attrs, string_index
from devinterp.slt.runs.run import Samples, Tree, series_members, study_members
from devinterp.slt.runs.side_by_side import over_runs
from devinterp.slt.thinning import Thinning, thinning_of

if TYPE_CHECKING:
    import torch

__all__ = ["compute_llc", "data_refined_llc", "llc"]

Over = Literal["draws", "steps", "observable"]
OVERS = ("draws", "steps", "observable")
CI_IS_FOR = "n_beta * E[L - L_0] at this step size, n_beta, localization and length; not for the learning coefficient"


def llc(
    model: torch.nn.Module,
    dataset: Any,
    observables: Mapping[str, Any],
    *,
    lr: float,
    n_beta: float,
    param_masks: Any = None,
    loss_fn: Any = None,
    over: Over = "draws",
    burnin: bool = False,
    observable: str | None = None,
    ci: float | None = None,
    **kwargs: Any,
) -> xr.Dataset:
    """Sample and compute the LLC in one call.

    Parameters
    ----------
    model, dataset, observables, lr, n_beta, param_masks, loss_fn, **kwargs
        As in `devinterp.sample`.
    over, burnin, observable, ci
        As in `compute_llc`.

    Returns
    -------
    xarray.Dataset
        As `compute_llc`.
    """
    from devinterp.slt.sampling import sample

    samples = sample(
        model, dataset, observables, lr=lr, n_beta=n_beta, param_masks=param_masks, loss_fn=loss_fn, **kwargs
    )
    return compute_llc(samples, over=over, burnin=burnin, observable=observable, ci=ci)


def data_refined_llc(
    model: torch.nn.Module,
    kinds: Mapping[str, Any],
    *,
    lr: float,
    n_beta: float,
    param_masks: Any = None,
    loss_fn: Any = None,
    ci: float | None = None,
    output_path: Any = None,
    **kwargs: Any,
) -> xr.Dataset:
    """Sample on each kind of data, and compute the LLC of the model with that loss: the data-refined LLC.

    The posterior is that of the one kind alone (Wang et al. 2024, `arXiv:2410.02984
    <https://arxiv.org/abs/2410.02984>`_). How much the loss of one kind rises while the chain samples on *all* data is
    another number: `compute_llc` with ``over="observable"`` and ``observable=KIND``. With `param_masks`, weights are
    refined too.

    Parameters
    ----------
    model, lr, n_beta, param_masks, loss_fn, **kwargs
        As in `devinterp.sample`; the observable is the kind itself.
    kinds : mapping of str to dataset
        The kinds of data, by name, each as ``sample()`` takes a dataset.
    ci : float, optional
        As in `compute_llc`.
    output_path : path or URL, optional
        Folder in which each kind has a store of its own, ``KIND.zarr``. None makes temporary ones.

    Returns
    -------
    xarray.Dataset
        As `compute_llc` with ``over="observable"``, with a leading dimension ``data``: on the fixed rows of each kind.

    Raises
    ------
    SettingError
        There is no kind, or two names make the same observable.
    """
    from devinterp.slt.sampling import sample

    names = {str(kind): sanitize_observable_name(str(kind)) for kind in kinds}
    if not names or len({name.lower() for name in names.values()}) < len(names):
        raise SettingError(
            "Each kind of data needs a name of its own.",
            expected="at least one, different also where all that is not a letter or digit is _",
            found=list(names) or "none",
        )
    results = {}
    for kind, name in names.items():
        path = None if output_path is None else f"{str(output_path).rstrip('/')}/{name}.zarr"
        arguments = {"lr": lr, "n_beta": n_beta, "param_masks": param_masks, "loss_fn": loss_fn, "output_path": path}
        tree = sample(model, kinds[kind], {kind: kinds[kind]}, **arguments, **kwargs)
        results[kind] = compute_llc(tree, over="observable", observable=kind, ci=ci)
    laid = lay_out(results, {"data": string_index(results)}, what="kinds of data")
    attrs = shared_attrs(results, each=(*ChainSelection.COUNTS, "observable"))
    return label_result(laid, "llc", attrs=attrs)


def compute_llc(
    samples: Tree | Mapping[str, Tree],
    *,
    over: Over = "draws",
    burnin: bool = False,
    observable: str | None = None,
    ci: float | None = None,
    allow_partial: bool = False,
    allow_mixed: bool = False,
) -> xr.Dataset:
    """Compute the LLC of a run, of every restriction of a study, every checkpoint of a series or cell of a sweep.

    Parameters
    ----------
    samples : DataTree, Dataset, or mapping of str to DataTree
        What ``sample()`` returned, or a selection of it (``tree.isel(draw=slice(50, None))``); a study, or a mapping
        from restriction names to runs, gives results with a leading dimension ``wr``; a series, with ``checkpoint``
        before it; a sweep, with ``lr``, ``n_beta`` and ``localization``, NaN where no chain is left.
    over : {"draws", "steps", "observable"}
        ``"draws"``: the minibatch losses at the draws, ``sampling_loss``, against ``init_loss``: the documented LLC.
        Where ``num_steps_bw_draws`` and the batches of a pass have a common divisor, these are of some batches alone.
        ``"steps"``: the minibatch losses of every step, ``sampling_loss_micro`` or else ``step_loss``.
        ``"observable"``: the sampling task's fixed rows, ``loss_{obs}`` against ``init_loss_{obs}``: the same rows
        before and after, hence far less noise.
    burnin : bool
        With ``over="steps"``: include the burn-in, as devinterp 2.0 does.
    observable : str, optional
        With ``over="observable"``: which observable; by default the sampling task's, where the store tells it.
    ci : float, optional
        Level of an interval for ``llc_mean`` (0.9), which accounts for autocorrelation, for minibatch noise and for
        the noise of ``init_loss``; see `devinterp.slt.uncertainty.intervals.llc_interval`. It is for
        ``n_beta * E[L - L_0]`` at this step size, localization and length of chain, not for the learning coefficient.
    allow_partial : bool
        Accept a store that has not completed, and use the draws that all chains have instead of complete chains only.
    allow_mixed : bool
        Accept checkpoints of a series that were sampled with different settings; the attribute ``mixed`` names them.

    Returns
    -------
    xarray.Dataset
        Schema ``devinterp/llc@1``. float64, unit 1: ``llc_mean`` (), ``llc_std`` () over chains with ddof 0,
        ``llc_per_chain`` (chain,) with NaN for an excluded chain, ``llc_scalar`` (), and with ``ci`` also ``llc_ci``
        (bound,) and, with ``over="observable"``, ``llc_ci_given_rows`` (bound,): the rows taken as they are, for
        heads or checkpoints that observe the same ones. ``init_loss`` () float64 and ``loss_trace`` (chain, draw) or
        (chain, step) float32, nat.
        Attributes ``over``, ``n_beta``, ``n_chains_used``, ``chains_excluded``, and where it is known
        ``step_inflation``, by what factor the step size makes the LLC too large
        (`devinterp.slt.diagnostics.step_bias.step_bias`), with ``step_inflation_is``, measured or a lower bound; of a
        study these are mappings by restriction, as JSON text (``json.loads``): netCDF has no attributes that are
        mappings.

    Raises
    ------
    MissingVariableError
        A variable is missing, or the sampling task is not known.
    IncompleteStoreError
        The store has not completed, and ``allow_partial`` is false.
    AllChainsFailedError
        No chain is complete.
    SettingError
        A setting has no such value.
    ProvenanceError
        The checkpoints of a series differ in settings, and ``allow_mixed`` is false; or in data or restrictions.

    Warns
    -----
    ChainFailedWarning
        A chain that failed was excluded.
    DevinterpWarning
        The run has ``init_noise``, and ``init_loss`` is of the noised weights.
    """
    check_over(over)
    if ci is not None and not 0 < ci < 1:
        raise SettingError("The level of an interval lies between 0 and 1.", expected="ci = 0.9", found=ci)

    def one(run: Samples, warn: bool) -> tuple[xr.Dataset, ChainSelection]:
        return llc_of_run(run, over, burnin, observable, ci, allow_partial, warn=warn)

    return over_runs(samples, "llc", one, allow_partial=allow_partial, allow_mixed=allow_mixed)


def check_over(over: str) -> None:
    """Raise `SettingError` where there is no such average."""
    if over not in OVERS:
        raise SettingError("There is no such average.", expected=f"over = one of {OVERS}", found=repr(over))


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
    if over == "draws":
        thinning = _thinning(run)
        if warn and thinning is not None and thinning.blind:
            warnings.warn(f"{f'{run.label}: ' if run.label else ''}{thinning}", DevinterpWarning, stacklevel=4)
        rows = minibatch_rows(run)
    elif over == "steps":
        axis = "step"
        rows = _step_rows(run, burnin)
    else:
        task = task_of(run, observable)
        rows = observed_rows(run, task)
    selection = select_chains(run, rows.finite, allow_partial=allow_partial, axis=axis)
    if warn:
        warn_excluded(run, selection)
    if task is not None:
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
    elif rows.counts is not None:
        result["loss_count"] = (("chain", axis), rows.sums[1])
    if over == "steps":
        result.attrs["burnin"] = int(burnin)
    bias = step_bias(run, selection.used, float(values["llc_mean"]) if task is not None else None)
    if bias is not None and np.isfinite(bias.inflation):
        result.attrs["step_inflation"] = round(bias.inflation, 6)
        result.attrs["step_inflation_is"] = "measured" if bias.source == "metrics" else "lower bound"
    if ci is not None:
        from devinterp.slt.uncertainty.intervals import llc_interval

        interval = partial(llc_interval, run, kept.plain, n_beta=n_beta, level=ci, over=over, init_rows=init_rows)
        rows_of = None if task is None else dig(run.metadata, f"provenance.observables.{task}.length")
        result["llc_ci"] = ("bound", np.array(interval(rows_of=rows_of)))
        if task is not None:
            result["llc_ci_given_rows"] = ("bound", np.array(interval(given_rows=True)))
        result.attrs |= {"ci": float(ci), "ci_is_for": CI_IS_FOR}
    return result, selection


def _warn_noised_start(run: Samples, over: Over) -> None:
    """With ``init_noise`` the initial loss is that of noised weights, as devinterp 2.0 takes it, and no reference."""
    if over == "observable" or not run.setting("init_noise"):
        return
    warnings.warn(
        f"init_loss was taken after init_noise = {run.setting('init_noise'):g} had moved the weights (all of them, "
        "whatever the masks), so that this LLC is no rise over the trained weights. Use over='observable', which "
        "compares with init_loss_{observable} at the trained weights.",
        DevinterpWarning,
        stacklevel=4,
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
            found=f"the observables {sorted(run.observables)}",
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
            f"The loss at the start{f' of the run {run.label!r}' if run.label else ''} is not finite.",
            expected="finite values",
            found=f"{int((~np.isfinite(rows)).sum())} of {rows.size} rows are not",
            remedy="Check the store with devinterp.validate: a missing chunk reads as NaN.",
        )


def best_average(obj: Tree | Mapping[str, Tree]) -> Over:
    """Return ``"observable"`` where every run has the sampling task's rows at the start.

    Else ``"draws"``, or ``"steps"`` where draws see the same few batches again and again.
    """
    steps = series_members(obj)
    studies = [study_members(each) or {} for each in steps.values()] if steps else [study_members(obj) or {"": obj}]  # type: ignore[dict-item]
    runs = [Samples.of(t, label=n, allow_partial=True) for study in studies for n, t in study.items()]
    for run in runs:
        task = run.sampling_task()
        if task is None or f"init_loss_{task}" not in run.dataset:
            return "steps" if all(map(_is_blind, runs)) and all("step_loss" in r.dataset for r in runs) else "draws"
    return "observable"


def _is_blind(run: Samples) -> bool:
    thinning = _thinning(run)
    return thinning is not None and thinning.blind


def _thinning(run: Samples) -> Thinning | None:
    sampler, rows = (dig(run.metadata, path) for path in ("config.sampler", "provenance.dataset.length"))
    return thinning_of(sampler, rows) if isinstance(sampler, Mapping) else None


if not TYPE_CHECKING:  # a checker shall know the names that there are

    def __getattr__(name: str) -> Any:
        return successor(__name__, name)
