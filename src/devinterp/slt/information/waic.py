"""The widely applicable information criterion (WAIC) and the singular fluctuation of a run.

    nu   = n beta / 2 * mean over samples of Var(l_i)
    WAIC = mean over samples of -ln E[exp(-l_i)]  +  beta * mean over samples of Var(l_i)

over the draws, l_i the loss of one sample (Watanabe 2010, "Asymptotic equivalence of Bayes cross validation and
widely applicable information criterion", `arXiv:1004.2316 <https://arxiv.org/abs/1004.2316>`_). The singular
fluctuation nu is, with the learning coefficient, what tells the generalization of a singular model from its training:
where the minimum is regular and the model true, both are half the number of weights. WAIC estimates the
generalization loss of the Bayesian predictive distribution, per sample.

The variance is that of the run's own posterior: at its temperature, localized, with the bias of its step size. It is
computed from rows that stand for the data: where the observable holds other rows than the chain was sampled on, nu is
the fluctuation of those, and WAIC corrects for a training that they had no part in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import SettingError
from devinterp.slt.llc.of_run import task_of
from devinterp.slt.runs.chains import ChainSelection, select_chains, warn_excluded
from devinterp.slt.runs.masked_means import mean_of_rows, observed_rows, row_mask
from devinterp.slt.runs.read_blocks import block_slices, is_dask, read_blocks
from devinterp.slt.runs.results import said_of_losses
from devinterp.slt.runs.run import Samples, Tree
from devinterp.slt.runs.side_by_side import over_runs

__all__ = ["compute_waic"]

F64 = npt.NDArray[np.float64]


def compute_waic(
    samples: Tree | Mapping[str, Tree],
    *,
    per: Literal["token", "sequence"] = "token",
    observable: str | None = None,
    num_samples: int | None = None,
    allow_partial: bool = False,
    allow_mixed: bool = False,
) -> xr.Dataset:
    """Compute WAIC and singular fluctuation of a run, or of every run of a study, series or sweep.

    Parameters
    ----------
    samples : DataTree, Dataset, or mapping of str to DataTree
        What ``sample()`` returned, or a selection of it.
    per : {"token", "sequence"}
        What a sample is: a token, given those before it; or a sequence, whose loss is the mean over its tokens.
    observable : str, optional
        Whose fixed rows stand for the data; by default the sampling task's, where the store tells it.
    num_samples : int, optional
        The number n of samples that the chain was sampled on, so that beta is ``n_beta / n``. By default beta is 1:
        the posterior of ``n_beta`` samples. The singular fluctuation does not depend on it.
    allow_partial, allow_mixed : bool
        As in `devinterp.slt.llc.compute_llc`.

    Returns
    -------
    xarray.Dataset
        Schema ``devinterp/waic@1``, float64: ``waic``, ``waic_se`` and ``training_loss`` (nat),
        ``functional_variance`` (nat^2), ``singular_fluctuation`` and ``beta`` (1), all of them (), and
        ``singular_fluctuation_per_chain`` (chain,) with NaN for an excluded chain. The draws of all chains are taken
        together, with one less than their number below the sum of squares.
        Attributes ``per``, ``observable``, ``n_beta``, ``n_chains_used``, ``chains_excluded``.

    Raises
    ------
    SettingError
        An option has a value that it cannot take, or there are fewer than two draws.
    MissingVariableError
        A variable is missing, or the sampling task is not known.
    IncompleteStoreError
        The store has not completed, and ``allow_partial`` is false.
    AllChainsFailedError
        No chain is complete.
    ProvenanceError
        The checkpoints of a series differ in settings, and ``allow_mixed`` is false; or in data or restrictions.

    Warns
    -----
    ChainFailedWarning
        A chain that failed was excluded.
    """
    if per not in ("token", "sequence"):
        raise SettingError("There is no such kind of sample.", expected="per = 'token' or 'sequence'", found=repr(per))
    if num_samples is not None and num_samples < 1:
        raise SettingError("num_samples is too small.", expected="1 or more", found=num_samples)

    def one(run: Samples, warn: bool) -> tuple[xr.Dataset, ChainSelection]:
        task = task_of(run, observable)
        rows, counts = observed_rows(run, task), row_mask(run, task)
        selection = select_chains(run, rows.finite, allow_partial=allow_partial)
        if warn:
            warn_excluded(run, selection)
        if len(selection.used) * selection.length < 2:
            raise SettingError("A variance needs at least two draws.", expected="2 or more", found=selection.length)
        if per == "sequence":
            means = rows.of(selection.used, selection.length).means[..., None]
            moments = Moments.of_values(means if counts is None else means[:, :, counts.any(axis=1)])
            counts = None  # every row that has a mean is a sample
        else:
            moments = Moments.of_store(run.loss(task), selection, counts)
        beta = 1.0 if num_samples is None else run.n_beta / num_samples
        result = _criterion(moments, run.n_beta, beta, selection, rows.means.shape[0], counts)
        result = result.assign_coords(run.coords_along(chain=slice(None)))
        told = {"per": per, "observable": task, "n_beta": run.n_beta}
        result.attrs = {**told, **said_of_losses(run.metadata), **selection.attrs}
        return result, selection

    return over_runs(samples, "waic", one, allow_partial=allow_partial, allow_mixed=allow_mixed)


class Moments:
    """Sums over the draws of each chain, of every sample's loss l: what variance and mean likelihood are made of.

    Attributes
    ----------
    shift : array of float64, shape (row, token)
        A loss near those of the draws, taken off first, so that squares do not cancel.
    count : int
        Draws of each chain.
    first, second : array of float64, shape (chain, row, token)
        Sums of l - shift and of its square.
    log_likelihood : array of float64, shape (chain, row, token)
        Logarithm of the sum of exp(shift - l), which itself may be too large a number.
    """

    def __init__(self, shift: F64, chains: int, count: int) -> None:
        self.shift, self.count = shift, count
        self.first, self.second = (np.zeros((chains, *shift.shape)) for _ in range(2))
        self.log_likelihood = np.full((chains, *shift.shape), -np.inf)

    @classmethod
    def of_values(cls, values: F64) -> Moments:
        """From an array in memory, (chain, draw, row, token)."""
        moments = cls(values.mean(axis=(0, 1)), *values.shape[:2])
        for c, chain in enumerate(values):
            moments.add(c, chain)
        return moments

    @classmethod
    def of_store(
        cls, losses: xr.DataArray, selection: ChainSelection, counts: npt.NDArray[np.bool_] | None = None
    ) -> Moments:
        """From a run's losses, block by block; 0 takes the place of those that do not count."""
        kept = losses.isel(chain=list(selection.used), draw=slice(selection.length))
        if is_dask(kept):
            kept = kept.chunk(dict.fromkeys(kept.dims[2:], -1))
        moments: Moments | None = None
        for block in read_blocks(("", kept, c, d) for c, d in block_slices(kept)):
            values = block.values if counts is None else np.where(counts, block.values, np.float32(0))
            if moments is None:
                moments = cls(values[0, 0].astype(np.float64), *kept.shape[:2])
            for c, chain in zip(range(block.chains.start, block.chains.stop), values, strict=True):
                moments.add(c, chain)
        assert moments is not None  # a variable without elements is refused by Samples.loss
        return moments

    def add(self, chain: int, losses: npt.NDArray[Any]) -> None:
        """Add draws of a chain, (draw, row, token)."""
        off = losses.astype(np.float64) - self.shift
        self.first[chain] += off.sum(axis=0)
        self.second[chain] += (off**2).sum(axis=0)
        least = off.min(axis=0)
        sums = np.log(np.exp(least - off).sum(axis=0)) - least
        self.log_likelihood[chain] = np.logaddexp(self.log_likelihood[chain], sums)

    def variance(self, chain: int | None = None) -> F64:
        """Variance of every sample's loss, nat^2: over all draws, or those of one chain."""
        part = slice(None) if chain is None else slice(chain, chain + 1)
        first, second = self.first[part].sum(axis=0), self.second[part].sum(axis=0)
        count = self.count * (self.first.shape[0] if chain is None else 1)
        found: F64 = np.maximum(second - first**2 / count, 0.0) / max(count - 1, 1)
        return found

    def training_loss(self) -> F64:
        """Minus the logarithm of every sample's mean likelihood, nat."""
        total = np.logaddexp.reduce(self.log_likelihood, axis=0)
        found: F64 = self.shift - total + np.log(self.count * self.first.shape[0])
        return found


def _criterion(
    moments: Moments,
    n_beta: float,
    beta: float,
    selection: ChainSelection,
    chains: int,
    counts: npt.NDArray[np.bool_] | None,
) -> xr.Dataset:
    """Average over the samples that count, (row, token) where not all do."""
    at: Any = ... if counts is None else counts
    variance, training = moments.variance(), moments.training_loss()
    both = training + beta * variance
    of_rows = both.mean(axis=1) if counts is None else mean_of_rows(both, counts).plain[0, 0]
    rows = of_rows.size
    per_chain = np.full(chains, np.nan)
    if moments.count > 1:
        used = range(len(selection.used))
        per_chain[list(selection.used)] = [n_beta / 2 * moments.variance(c)[at].mean() for c in used]
    return xr.Dataset(
        {
            "waic": of_rows.mean(),
            "waic_se": of_rows.std(ddof=1) / np.sqrt(rows) if rows > 1 else np.nan,
            "training_loss": training[at].mean(),
            "functional_variance": variance[at].mean(),
            "singular_fluctuation": n_beta / 2 * variance[at].mean(),
            "beta": beta,
            "singular_fluctuation_per_chain": ("chain", per_chain),
        }
    )
