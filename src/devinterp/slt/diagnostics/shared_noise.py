"""What chains that share their minibatches have in common: noise that more chains do not average away."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from devinterp.slt.diagnostics.equilibration import without_trend
from devinterp.slt.diagnostics.verdicts import FEWEST_DRAWS
from devinterp.slt.runs.run import Samples
from devinterp.slt.uncertainty.batch_means import Passes, mean_variance, shares_minibatches

__all__ = ["shared_noise"]

F64 = npt.NDArray[np.float64]


def shared_noise(run: Samples, kept: F64, share: float | None) -> float:
    """What independent chains' standard errors are multiplied with, where the same minibatches move all chains.

    Chains that still drift from their common start move alike as well: only the second half is looked at, without its
    trend. Few draws give few batches, whose variance may be anything: where the metrics tell the largest ``share`` that
    gradient noise can have of the loss, the traces of fixed rows do not correlate by more than twice that.
    """
    if kept.shape[0] < 2 or kept.shape[1] < FEWEST_DRAWS or not shares_minibatches(run):
        return 1.0
    half = without_trend(kept[:, kept.shape[1] // 2 :])
    passes = Passes.of(run, kept.shape[1])
    alone, together = (mean_variance(half, shared=shared, passes=passes)[0] for shared in (False, True))
    most = np.inf if share is None else 1 + (kept.shape[0] - 1) * min(1.0, 2 * share)
    return float(np.sqrt(min(together / alone, most))) if alone > 0 else 1.0
