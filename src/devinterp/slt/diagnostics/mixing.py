"""How well chains mix, from the loss at every draw: R-hat, effective draws, Monte Carlo error, drift, jumps."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from devinterp.slt.diagnostics.diagnosis import ChainDiagnosis
from devinterp.slt.diagnostics.verdicts import RHAT_LIMIT

__all__ = ["chain_diagnosis", "mixing_of"]

F64 = npt.NDArray[np.float64]

SPIKE_DEVIATIONS = 8.0


def mixing_of(trace: F64) -> dict[str, Any]:
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


def chain_diagnosis(
    chain: int, trace: F64, failure: str | None, fine: bool, nonfinite: int, start: float | None
) -> ChainDiagnosis:
    """What the draws of one chain, (draw,), show by themselves.

    ``fine`` says that no step of it was wrong, whatever it lacks; ``start`` is the loss at the start, if it is known.
    """
    count = trace.size
    common: dict[str, Any] = {
        "chain": chain,
        "status": failure or "complete",
        "draws_missing": failure is not None and fine,
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
