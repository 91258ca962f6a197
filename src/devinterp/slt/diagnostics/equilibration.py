"""How far the chains got: what burn-in, draws and distance tell of directions that relax slowly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from devinterp.plain_json import dig
from devinterp.slt.diagnostics.step_bias import relaxation_steps
from devinterp.slt.runs.masked_means import Start
from devinterp.slt.runs.run import Samples
from devinterp.slt.uncertainty.batch_means import mean_variance
from devinterp.steps import StepLayout

__all__ = ["Equilibration", "equilibration_of", "sampled_weights", "without_trend"]

F64 = npt.NDArray[np.float64]


def sampled_weights(run: Samples) -> int | None:
    """How many weights the chains moved, or None where that is not recorded."""
    count = dig(run.metadata, "provenance.sampled.weights")
    return int(count) if isinstance(count, int) and count > 0 else None


@dataclass(frozen=True)
class Equilibration:
    """What of the posterior the draws may lack, and what still grows.

    Attributes
    ----------
    unseen : float or None
        Share of its variance that a direction which the loss leaves flat lacks on average over the draws, by the
        settings; 1 without localization.
    burnin_drift, burnin_drift_se : float or None
        Mean of ``step_loss`` over the draws minus that over the second half of the burn-in (nat), and its standard
        error.
    step_rise : float or None
        Mean of ``step_loss`` over the draws minus the initial loss (nat): of the loss that is sampled, which an
        observable's need not be like.
    growth, growth_se, least_growth : float or None
        Growth of the squared distance from the start, last third of the draws over the first minus 1: the mean over
        chains, its standard error, and that of the chain where it is least; where metrics were saved.
    """

    unseen: float | None = None
    burnin_drift: float | None = None
    burnin_drift_se: float | None = None
    step_rise: float | None = None
    growth: float | None = None
    growth_se: float | None = None
    least_growth: float | None = None


def equilibration_of(run: Samples, used: list[int]) -> Equilibration:
    """Find what a run's settings, its losses at every step and its distances tell."""
    layout = run.step_layout
    found: dict[str, float] = {}
    if used and layout is not None:
        burnin, total = layout.burnin, layout.num_steps
        loss = _steps(run, "step_loss", used, total)
        if loss is not None and burnin >= 8:
            (before, error), (after, own) = map(_mean, (loss[:, burnin // 2 : burnin], loss[:, burnin:]))
            found |= {"burnin_drift": after - before, "burnin_drift_se": math.hypot(error, own)}
            if "init_loss" in run.dataset and not run.setting("init_noise"):
                found["step_rise"] = after - Start.known_mean(run, dtype=None)
        distance, third = _steps(run, "metrics_distance", used, total), (total - burnin) // 3
        if distance is not None and third >= 4:
            squares = distance[:, burnin:] ** 2
            first, last = squares[:, :third].mean(axis=1), squares[:, -third:].mean(axis=1)
            if (first > 0).all() and first.size > 1:
                growth = last / first - 1  # of every chain: a walk has no error within a chain to hold it against
                found |= {"growth": float(growth.mean()), "least_growth": float(growth.min())}
                found["growth_se"] = float(growth.std(ddof=1)) / math.sqrt(growth.size)
    return Equilibration(unseen=_unseen(run, layout), **found)


def _unseen(run: Samples, layout: StepLayout | None) -> float | None:
    """Mean over the draws of what the variance of a flat direction lacks, ``exp(-2 step / relaxation)``."""
    time = relaxation_steps(dig(run.metadata, "config.sampler") or {})
    if time is None or layout is None:
        return None
    if math.isinf(time) or run.setting("init_noise"):
        return 1.0 if math.isinf(time) else None
    if time == 0:  # of a step so long that nothing is left of where it began
        return 0.0
    return float(np.exp(-2 / time * (layout.draw_steps() + 1)).mean())


def _steps(run: Samples, name: str, used: list[int], total: int) -> F64 | None:
    """A quantity of every step, (chain, step), where all of the run's steps are there and finite."""
    if name not in run.dataset:
        return None
    values = np.asarray(run.variable(name, ("chain", "step")).values, dtype=np.float64)
    if values.shape[1] != total or max(used) >= values.shape[0] or not np.isfinite(values[used]).all():
        return None
    return values[used]


def without_trend(values: F64) -> F64:
    """Take the straight line that the mean over chains follows out of all of them, (chain, draw or step)."""
    time = np.arange(values.shape[1]) - (values.shape[1] - 1) / 2
    return np.asarray(values - time * (values.mean(axis=0) @ time / max(time @ time, 1.0)))


def _mean(values: F64) -> tuple[float, float]:
    """Mean and standard error beside a trend; chains share the noise of their minibatches."""
    return float(values.mean()), math.sqrt(mean_variance(without_trend(values), shared=True)[0])
