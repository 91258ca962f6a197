"""Is this run to be trusted? R-hat, effective draws, drift and signal, with a verdict and what to try next.

Everything is computed on the sampling task's *fixed rows* where the store has them: minibatch losses are blind, since
all chains see the same minibatches and their noise drowns where the chains went.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from devinterp._renamed import successor
from devinterp.errors import MissingVariableError
from devinterp.slt.diagnostics.diagnosis import ChainDiagnosis, Diagnosis, SeriesDiagnosis, StudyDiagnosis, Verdict
from devinterp.slt.diagnostics.equilibration import equilibration_of, sampled_weights
from devinterp.slt.diagnostics.shared_noise import shared_noise
from devinterp.slt.diagnostics.step_bias import step_bias
from devinterp.slt.diagnostics.verdicts import RHAT_LIMIT, judge
from devinterp.slt.runs.chains import known_states
from devinterp.slt.runs.masked_means import Start, minibatch_rows, observed_rows, start_rows
from devinterp.slt.runs.results import loss_unit
from devinterp.slt.runs.run import Samples, Tree, series_members, study_members

__all__ = ["ChainDiagnosis", "Diagnosis", "SeriesDiagnosis", "StudyDiagnosis", "Verdict", "diagnose"]

F64 = npt.NDArray[np.float64]

SPIKE_DEVIATIONS = 8.0
SETTINGS = (
    "lr",
    "n_beta",
    "localization",
    "llc_weight_decay",
    "num_draws",
    "num_burnin_steps",
    "num_steps_bw_draws",
    "num_chains",
    "batch_size",
    "gradient_accumulation_steps",
    "bounding_box_size",
    "sampling_method",
    "rmsprop_eps",
    "noise_level",
)
"""What verdicts and remedies speak of."""


def diagnose(
    samples: Tree | Mapping[str, Tree], *, sampling_task: str | None = None
) -> Diagnosis | StudyDiagnosis | SeriesDiagnosis:
    """Judge a run, or every run of a study or series. Runs that have not completed are judged by what there is.

    Parameters
    ----------
    samples : DataTree, Dataset, or mapping of str to DataTree
        What ``sample()`` returned, a selection of it, a study, or a series.
    sampling_task : str, optional
        The observable whose fixed rows are looked at; by default the sampling task's where the store tells it, else
        all observables' together, else the minibatches.

    Returns
    -------
    Diagnosis, StudyDiagnosis for a study, or SeriesDiagnosis for a series

    Raises
    ------
    MissingVariableError
        There is no loss to look at.

    Notes
    -----
    All chains start at the same weights, so that their agreement does not prove convergence: a drift, or too few
    effective draws, outweighs an R-hat near 1.
    """
    checkpoints = series_members(samples)
    if checkpoints is not None:
        return SeriesDiagnosis(
            {
                step: _diagnose_study(study_members(study) or {}, sampling_task, f"{step}/")
                for step, study in checkpoints.items()
            }
        )
    members = study_members(samples)
    if members is None:
        run = Samples.of(samples, allow_partial=True)  # type: ignore[arg-type]  # no mapping: study_members
        return _diagnose(run, sampling_task)
    return _diagnose_study(members, sampling_task, "")


def _diagnose_study(members: Mapping[str, Tree], sampling_task: str | None, above: str) -> StudyDiagnosis:
    return StudyDiagnosis(
        {
            name: _diagnose(Samples.of(tree, label=f"{above}{name}", allow_partial=True), sampling_task)
            for name, tree in members.items()
        }
    )


def _diagnose(run: Samples, sampling_task: str | None) -> Diagnosis:
    source, rows, traces, finite, start, start_se = _trace(run, sampling_task)
    num_chains, num_draws = traces.shape
    prefix = np.where(finite.all(axis=1), num_draws, np.argmin(finite, axis=1))
    written, failures = known_states(run, num_chains)
    if written is not None and run.setting("num_draws") in (None, num_draws):
        prefix = np.minimum(prefix, written)
    for c in range(num_chains):
        if failures[c] is None and prefix[c] < num_draws:
            failures[c] = f"non-finite loss at draw {int(prefix[c])}"
    chains = tuple(
        _chain(c, traces[c, : prefix[c]], failures[c], int((~finite[c]).sum()), start) for c in range(num_chains)
    )
    used = [c for c in range(num_chains) if failures[c] is None]
    kept = traces[used] if used else traces[:0]
    numbers = _numbers(kept)
    rise = float(kept.mean()) - start if used and start is not None else None
    try:
        llc = None if rise is None else run.n_beta * rise
    except MissingVariableError:
        llc = None
    bias = step_bias(run, used, llc if rows == "fixed" else None)
    noise = shared_noise(run, kept, bias.noise_share if bias is not None and rows == "fixed" else None)
    rise_se = None
    if numbers["mcse"] is not None and start_se is not None:
        rise_se = float(np.hypot(noise * numbers["mcse"], start_se))
    if numbers["drift_se"] is not None:
        numbers["drift_se"] *= noise
    variations = [c.signal_to_variation for c in chains if c.signal_to_variation is not None and c.chain in used]
    diagnosis = Diagnosis(
        label=run.label,
        source=source,
        rows=rows,
        start=start,
        start_se=start_se,
        rise=rise,
        rise_se=rise_se,
        llc=llc,
        signal_to_variation=float(np.median(variations)) if variations else None,
        gradient_to_noise=_gradient_to_noise(run, used),
        chains=chains,
        settings={name: run.setting(name) for name in SETTINGS if run.setting(name) is not None},
        step_bias=bias,
        shared_noise=noise,
        equilibration=equilibration_of(run, used),
        unit=loss_unit(run.metadata),
        **numbers,
    )
    return replace(diagnosis, verdicts=tuple(judge(diagnosis, kept, sampled_weights(run))))


def _trace(
    run: Samples, sampling_task: str | None
) -> tuple[str, Literal["fixed", "minibatch"], F64, npt.NDArray[np.bool_], float | None, float | None]:
    """The loss at every draw, (chain, draw), what it is of and where finite; the loss at the start to compare with."""
    task = run.sampling_task(sampling_task)
    names = (task,) if task is not None else run.observables
    if names:
        means = [observed_rows(run, name) for name in names]
        trace = np.mean([m.trace for m in means], axis=0)
        finite = np.logical_and.reduce([m.finite for m in means])
        source = " + ".join(f"loss_{name}" for name in names)
        starts = [f"init_loss_{name}" for name in names]
        if all(name in run.dataset for name in starts):
            start = float(np.mean([start_rows(run, name).mean for name in names]))
            return source, "fixed", trace, finite, start, 0.0
        if task is None:  # init_loss is of other data
            return source, "fixed", trace, finite, None, None
        first = means[0].of([0], 1).plain[0, 0]
        spread = float(first.var(ddof=1)) if first.size > 1 else 0.0
        known, variance = _init_loss(run, spread)
        return source, "fixed", trace, finite, known, float(np.sqrt(variance + spread / first.size))
    rows = minibatch_rows(run)
    plain = rows.plain
    spread = float(np.nanmean(plain.var(axis=2, ddof=1))) if plain.shape[2] > 1 else 0.0
    known, variance = _init_loss(run, spread)
    return "sampling_loss", "minibatch", plain.mean(axis=2), rows.finite, known, float(np.sqrt(variance))


def _init_loss(run: Samples, row_variance: float) -> tuple[float | None, float]:
    """``init_loss`` and its variance, from the spread of rows; None where there is none."""
    if "init_loss" not in run.dataset:
        return None, 0.0
    start = Start.known_mean(run)
    sizes = [run.setting(s) or 1 for s in ("num_init_loss_batches", "batch_size", "gradient_accumulation_steps")]
    return start, row_variance / int(np.prod(sizes))


def _numbers(trace: F64) -> dict[str, Any]:
    """R-hat, effective draws, Monte Carlo error and drift of complete chains, (chain, draw)."""
    names = ("rhat", "ess_bulk", "mcse", "drift", "drift_se")
    if trace.shape[0] == 0 or trace.shape[1] < 4:
        return dict.fromkeys(names)
    third = trace.shape[1] // 3
    first, last = trace[:, :third], trace[:, -third:]
    error = None
    if third >= 4:
        error = float(np.hypot(_arviz("mcse", first, method="mean"), _arviz("mcse", last, method="mean")))
    found = {name.replace("ess", "ess_bulk"): value for name, value in _mixing(trace).items()}
    if trace.shape[0] < 2:
        found["rhat"] = None  # its halves are no other chain
    return {**found, "drift": float(last.mean() - first.mean()), "drift_se": error}


def _mixing(trace: F64) -> dict[str, Any]:
    """R-hat, effective draws and Monte Carlo error of the mean, of (chain, draw); of one chain the R-hat of its halves.

    Nothing is worth more than all its draws. Autocorrelation sees no farther than half a chain, and a few draws of
    chains that creep seem many. Where R-hat is past its limit, the share ``1 - 1 / R-hat**2`` of the variance lies
    between chains, each of which tells it once, so that they are worth ``chains / share`` draws at most.
    """
    if np.ptp(trace) == 0:
        return {"rhat": None, "ess": None, "mcse": 0.0}
    chains, half = trace.shape[0], trace.shape[1] // 2
    halves = np.stack([trace[0, :half], trace[0, -half:]])
    rhat = _arviz("rhat", trace, method="rank") if chains > 1 else _arviz("rhat", halves, method="z_scale")
    ess, mcse = _arviz("ess", trace, method="bulk"), _arviz("mcse", trace, method="mean")
    most = float(trace.size)
    if rhat > RHAT_LIMIT:
        most = min(most, chains / (1 - 1 / rhat**2))
        mcse = max(mcse, float(trace.std(ddof=1)) / np.sqrt(most))
    # Where chains are too short for R-hat, nothing tells whether they creep.
    found = {"rhat": rhat, "ess": min(ess, most) if np.isfinite(rhat) else np.nan, "mcse": mcse}
    return {name: value if np.isfinite(value) else None for name, value in found.items()}


def _arviz(name: str, trace: F64, **options: Any) -> float:
    from arviz_stats.base.array import array_stats

    if np.ptp(trace) == 0:
        return 0.0
    return float(getattr(array_stats, name)(trace, chain_axis=0, draw_axis=1, **options))


def _chain(chain: int, trace: F64, failure: str | None, nonfinite: int, start: float | None) -> ChainDiagnosis:
    count = trace.size
    common: dict[str, Any] = {
        "chain": chain,
        "status": failure or "complete",
        "n_draws": count,
        "n_nonfinite": nonfinite,
    }
    rise = float(trace.mean()) - start if count and start is not None else None
    if count < 4:
        return ChainDiagnosis(n_spikes=0, rise=rise, **common)
    third = max(1, count // 3)
    variation = float(np.diff(trace).std())
    return ChainDiagnosis(
        n_spikes=_spikes(trace),
        rise=rise,
        drift=float(trace[-third:].mean() - trace[:third].mean()),
        **_mixing(trace[None]),
        signal_to_variation=rise / variation if rise is not None and variation > 0 else None,
        **common,
    )


def _spikes(trace: F64) -> int:
    """How many draws of a chain, (draw,), jump, or lie between jumps for less than a quarter of the chain."""
    changes = np.diff(trace)
    deviation = np.abs(changes - np.median(changes))
    far = SPIKE_DEVIATIONS * 1.4826 * float(np.median(deviation))  # of a normal law, 1.4826 times it is its deviation
    if far == 0:
        return 0
    jumps = np.flatnonzero(deviation > far)
    level, bounds = np.median(trace), [0, *(jumps + 1).tolist(), trace.size]
    apart = [b - a for a, b in pairwise(bounds) if abs(trace[a:b].mean() - level) > far and b - a < trace.size / 4]
    return max(jumps.size, sum(apart))


def _gradient_to_noise(run: Samples, used: list[int]) -> float | None:
    names = ("metrics_scaled_grad", "metrics_noise")
    if not used or any(name not in run.dataset for name in names):
        return None
    gradient, noise = (np.asarray(run.variable(n, ("chain", "step"))[used].values, dtype=np.float64) for n in names)
    valid = np.isfinite(gradient) & np.isfinite(noise) & (noise > 0)
    return float(np.median(gradient[valid] / noise[valid])) if valid.any() else None


if not TYPE_CHECKING:  # a checker shall know the names that there are

    def __getattr__(name: str) -> Any:
        return successor(__name__, name)
