"""The diagnosis of a run, or of each run of a study or a series: which losses are looked at, and what they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from devinterp.errors import MissingVariableError
from devinterp.slt.diagnostics.diagnosis import Diagnosis, SeriesDiagnosis, StudyDiagnosis
from devinterp.slt.diagnostics.equilibration import equilibration_of, sampled_weights
from devinterp.slt.diagnostics.mixing import chain_diagnosis, mixing_of
from devinterp.slt.diagnostics.shared_noise import shared_noise
from devinterp.slt.diagnostics.step_bias import step_bias
from devinterp.slt.diagnostics.verdicts import judge
from devinterp.slt.runs.chains import chain_states, finite_prefix
from devinterp.slt.runs.masked_means import Start, minibatch_rows, observed_rows, start_rows
from devinterp.slt.runs.read_blocks import read_whole, reading_once
from devinterp.slt.runs.results import loss_unit
from devinterp.slt.runs.run import Samples, Tree, series_members, study_members

__all__ = ["diagnose"]

F64 = npt.NDArray[np.float64]

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


@reading_once()
def _diagnose(run: Samples, sampling_task: str | None) -> Diagnosis:
    source, rows, traces, finite, start, start_se = _trace(run, sampling_task)
    num_chains, num_draws = traces.shape
    states = chain_states(run, num_chains)
    prefix = finite_prefix(run, finite, states.written)
    failures = states.failures_with(prefix, num_draws)
    chains = tuple(
        chain_diagnosis(c, traces[c, : prefix[c]], failures[c], states.fine[c], int((~finite[c]).sum()), start)
        for c in range(num_chains)
    )
    used = [c for c in range(num_chains) if failures[c] is None]
    kept = traces[used] if used else traces[:0]
    numbers = mixing_of(kept)
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


def _gradient_to_noise(run: Samples, used: list[int]) -> float | None:
    names = ("metrics_scaled_grad", "metrics_noise")
    if not used or any(name not in run.dataset for name in names):
        return None
    read = read_whole({name: run.variable(name, ("chain", "step")) for name in names})
    gradient, noise = (read[name][used] for name in names)
    valid = np.isfinite(gradient) & np.isfinite(noise) & (noise > 0)
    return float(np.median(gradient[valid] / noise[valid])) if valid.any() else None
