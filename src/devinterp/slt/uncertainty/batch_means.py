"""Batch means: the error of a mean over autocorrelated draws, from sums over batches of consecutive ones.

Batches that are longer than the autocorrelation are nearly independent, so that the spread of their sums tells the
error of the mean (Flegal & Jones 2010, `arXiv:0811.1729 <https://arxiv.org/abs/0811.1729>`_).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from devinterp.plain_json import dig
from devinterp.slt.runs.run import Samples
from devinterp.steps import StepLayout

__all__ = [
    "Batches",
    "Passes",
    "autocorrelation_time",
    "batch_groups",
    "batch_length",
    "batches_of",
    "mean_variance",
    "merge_groups",
    "sample_of",
    "share_seen",
    "shares_minibatches",
]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

TIMES_PER_BATCH = 5.0
BATCHES_PER_CHAIN = 10
SERIES_SAMPLED = 32


@dataclass(frozen=True)
class Batches:
    """Observations cut into batches.

    Its length is the number of batches.

    Attributes
    ----------
    slices : tuple of slice
        Stretches of observations, chain after chain; together all of them, at least two.
    share : float
        As of `share_seen`.
    num_chains : int
        Chains that are stacked, all of one length and cut alike.
    shared : bool
        Whether chains share minibatches: then a batch is the same stretch of every chain, else every one is a batch.
    """

    slices: tuple[slice, ...]
    share: float = 1.0
    num_chains: int = 1
    shared: bool = False

    def __len__(self) -> int:
        return len(self.slices) // (self.num_chains if self.shared else 1)

    def __iter__(self) -> Iterator[slice]:
        return iter(self.slices)

    @property
    def together(self) -> Iterator[tuple[slice, ...]]:
        """The stretches of each batch."""
        return (self.slices[k :: len(self)] for k in range(len(self)))

    @property
    def scale(self) -> float:
        """What the sum of the squared deviations of the batches' sums is multiplied with, to be unbiased."""
        return len(self) / (len(self) - 1) / self.share


def share_seen(time: float, length: float) -> float:
    """Share of the variance of a long mean that the spread of batches shows.

    Neighbouring batches are not quite independent. For an autoregressive series of first order, with coefficient rho,
    ``1 - 2 rho (1 - rho**length) / (length (1 - rho**2))``: 0.9 where batches are five autocorrelation times long.

    Parameters
    ----------
    time : float
        Autocorrelation time ``(1 + rho) / (1 - rho)``, in draws.
    length : float
        Draws per batch.
    """
    rho = (time - 1) / (time + 1)
    left = float(rho**length)
    return 1 - 2 * rho * (1 - left) / (length * (1 - rho**2))


def autocorrelation_time(series: npt.NDArray[Any]) -> float:
    """Draws per effective draw, at least 1; of several series the ninth decile.

    Parameters
    ----------
    series : array, shape (chain, draw) or (chain, draw, series)
        Quantities at every draw; the chains of each are taken together.

    Returns
    -------
    float
        Number of draws over arviz-stats' effective sample size of the mean; 1 where there are fewer than four draws.
    """
    from arviz_stats.base.array import array_stats

    stats: Any = array_stats  # not typed
    wide = np.atleast_3d(series).astype(np.float64)
    varies = np.ptp(wide, axis=(0, 1)) > 0
    if wide.shape[1] < 4 or not varies.any():
        return 1.0
    ess = np.asarray(stats.ess(wide[:, :, varies], chain_axis=0, draw_axis=1, method="mean"))
    ess = ess[np.isfinite(ess) & (ess > 0)]
    return max(1.0, float(np.quantile(wide.shape[0] * wide.shape[1] / ess, 0.9))) if ess.size else 1.0


def batch_length(num_chains: int, num_draws: int, time: float) -> int:
    """Length of a batch of draws: several autocorrelation times, and yet at least four batches over all chains."""
    wanted = max(num_draws / BATCHES_PER_CHAIN, TIMES_PER_BATCH * time if time > 1.5 else 1.0)
    longest = max(1, num_draws // int(np.ceil(4 / num_chains)))
    return int(min(np.ceil(wanted), longest))


def batches_of(num_draws: int, length: int) -> list[slice]:
    """Cut one chain into batches of about ``length`` draws, all draws used."""
    bounds = np.linspace(0, num_draws, max(1, num_draws // length) + 1).round().astype(int)
    return [slice(int(a), int(b)) for a, b in pairwise(bounds)]


def sample_of(width: int, counts: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.int64]:
    """Evenly spaced positions among ``width`` series (that count), from which the autocorrelation of all is judged."""
    if counts is not None:
        places = np.flatnonzero(counts)
        return places[sample_of(places.size)]
    return np.unique(np.linspace(0, width - 1, min(width, SERIES_SAMPLED)).round().astype(np.int64))


def shares_minibatches(run: Samples) -> bool:
    """Whether the chains of a run see the same minibatches, whose gradients' noise then moves all their weights alike.

    True unless the settings say otherwise, as `devinterp.sample` does by default; False where every step sees the
    whole dataset, so that there is no such noise.
    """
    if run.setting("match_sampling_input_ids_across_chains") is False:
        return False
    length, size = dig(run.metadata, "provenance.dataset.length"), run.setting("batch_size")
    return length is None or size is None or int(size) < int(length)


@dataclass(frozen=True)
class Passes:
    """How the draws go over the same minibatches, whose first pass repeats in the same order.

    Attributes
    ----------
    count : float
        How often they do; at least 1.
    draws : float
        Draws in which they do it once.
    """

    count: float = 1.0
    draws: float = math.inf

    @classmethod
    def of(cls, run: Samples, num_draws: int) -> Passes:
        """Return that of a run with so many draws, as far as its settings tell."""
        per_pass = run.micro_batches_per_pass
        if per_pass is None:
            return cls()
        steps = StepLayout(0, int(run.setting("num_steps_bw_draws") or 1), num_draws).num_steps
        count = max(1.0, steps * run.micro_batches_per_step / per_pass)
        return cls(count, num_draws / count)


ONE_PASS = Passes()


def mean_variance(
    trace: F64,
    *,
    shared: bool = False,
    passes: Passes = ONE_PASS,
    of_minibatches: bool = False,
    centre_over_chains: bool = False,
) -> tuple[float, float]:
    """Variance of the mean of (chain, draw) by batch means, and its degrees of freedom.

    Chains count as independent. Where they are ``shared``, moved by the noise of the same minibatches, the variance is
    also estimated from batches of the chains' mean, which holds what they have in common, and the larger one is taken.
    What a second pass over the same minibatches has in common with the first is no new information. Where a batch of
    draws is longer than a pass, it sees nothing of this: the noise of all minibatches of a pass adds up to nothing.
    Chains then count as independent.

    Parameters
    ----------
    trace : array, shape (chain, draw)
        The quantity at every draw.
    shared : bool
        As `shares_minibatches` says.
    passes : Passes
        How the draws go over the minibatches.
    of_minibatches : bool
        Whether the quantity is one of the minibatches' rows. What chains have in common is then for the most part the
        order in which these come, of which later passes show nothing new: degrees of freedom are those of one pass.
    centre_over_chains : bool
        Take the mean over chains out of every draw first, which removes what all chains share; what is left counts
        chains - 1 times per batch.
    """
    num_chains, num_draws = trace.shape
    if trace.size < 2:
        return 0.0, 1.0
    if centre_over_chains:
        trace = trace - trace.mean(axis=0)
    time = autocorrelation_time(trace)
    cuts = batches_of(num_draws, batch_length(num_chains, num_draws, time))
    share = share_seen(time, num_draws / len(cuts))
    sums = np.array([trace[:, cut].sum(axis=1) for cut in cuts])  # (batch, chain)
    if centre_over_chains:
        dof = float(len(cuts) * (num_chains - 1))
        return float((sums**2).sum()) * num_chains / (num_chains - 1) / share / trace.size**2, dof
    sizes = np.array([cut.stop - cut.start for cut in cuts])[:, None]
    count = sums.size
    deviations = sums - sizes * trace.mean()
    alone = float((deviations**2).sum()) * count / (count - 1) / share / trace.size**2, float(count - 1)
    if not shared or num_chains == 1:
        return alone
    together, dof = mean_variance(trace.mean(axis=0)[None])
    if num_draws / (dof + 1) > passes.draws:
        return alone
    dof = max(1.0, dof / passes.count) if of_minibatches else dof
    return max(alone, (alone[0] + passes.count * (together - alone[0]), dof))


def batch_groups(values: F32, num_chains: int, *, shared: bool = False) -> Batches:
    """Batches of the observations of a loss matrix, none of them across two chains unless these are not independent.

    Parameters
    ----------
    values : array of float32, shape (observation, series)
        Losses, chain after chain.
    num_chains : int
        How many chains are stacked.
    shared : bool
        Whether chains share minibatches (`shares_minibatches`), so that what they do at the same draw is not
        independent.

    Returns
    -------
    Batches
        At least two.
    """
    num_draws = values.shape[0] // num_chains
    sample = values[:, sample_of(values.shape[1])].reshape(num_chains, num_draws, -1)
    time = autocorrelation_time(sample)
    shared = shared and num_draws > 1
    cuts = batches_of(num_draws, batch_length(1 if shared else num_chains, num_draws, time))
    slices = [slice(c * num_draws + cut.start, c * num_draws + cut.stop) for c in range(num_chains) for cut in cuts]
    return Batches(tuple(slices), share_seen(time, num_draws / len(cuts)), num_chains, shared)


def merge_groups(
    num_chains: int, num_draws: int, per_chain: int, time: float, *, shared: bool = False
) -> tuple[tuple[int, ...], ...]:
    """Put neighbouring groups of a chain together until they are long enough for the autocorrelation time.

    Groups are numbered chain after chain, ``per_chain`` of each; ``time`` is in draws, ``shared`` as of
    `batch_groups`. Returns the groups of each batch.
    """
    shared = shared and per_chain > 1
    pieces = max(1, min(per_chain, num_draws // batch_length(1 if shared else num_chains, num_draws, time)))
    bounds = np.linspace(0, per_chain, pieces + 1).round().astype(int)
    chains = range(num_chains)
    if shared:
        return tuple(tuple(c * per_chain + k for c in chains for k in range(a, b)) for a, b in pairwise(bounds))
    return tuple(tuple(range(c * per_chain + a, c * per_chain + b)) for c in chains for a, b in pairwise(bounds))
