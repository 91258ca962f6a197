"""Sums over draws of per-token losses, and of their products with the mean loss of the sampling task.

All that susceptibilities need of a run, gathered in one pass over its chunks. Memory: one block, and per group of
draws two float64 numbers per token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import imported
from devinterp.slt.runs.chains import ChainSelection, ChainStates, chain_states, select_chains
from devinterp.slt.runs.masked_means import row_mask
from devinterp.slt.runs.read_blocks import block_slices, in_memory, is_dask, read_blocks
from devinterp.slt.runs.run import Samples
from devinterp.slt.uncertainty.batch_means import (
    autocorrelation_time,
    merge_groups,
    sample_of,
    share_seen,
    shares_minibatches,
)

__all__ = ["Moments", "gather_moments"]

F64 = npt.NDArray[np.float64]

# Pieces small enough that BLAS keeps to the calling thread: the others decode chunks meanwhile.
PIECE_OPERATIONS = 200_000


@dataclass(frozen=True)
class Moments:
    """Sums over the draws of one run.

    Attributes
    ----------
    trace : array of float64, shape (chain, draw)
        Mean loss of the sampling task at each draw (nat); only the chains and draws used.
    groups : tuple of (int, slice)
        The groups of consecutive draws that are summed apart: (chain among those used, draws).
    sums : mapping of str to array, shape (group, batch, token)
        Per observable the sum of the losses over each group; 0 where a position does not count.
    products : mapping of str to array, shape (group, batch, token)
        The sum of (trace - centre) times the losses; empty where it was not asked for.
    centre : float
        What is subtracted from the trace in ``products``.
    selection : ChainSelection
        The chains used.
    sample : array, shape (chain, draw, series)
        The losses of a few tokens of each observable at every draw, to judge their autocorrelation.
    shared : bool
        Whether chains share minibatches, so that they are not independent.
    """

    trace: F64
    groups: tuple[tuple[int, slice], ...]
    sums: dict[str, F64]
    products: dict[str, F64]
    centre: float
    selection: ChainSelection
    sample: npt.NDArray[np.float32]
    shared: bool = False

    @cached_property
    def batches(self) -> tuple[tuple[int, ...], ...]:
        """Groups put together into batches that are longer than the autocorrelation."""
        num_chains, num_draws = self.trace.shape
        per_chain = len(self.groups) // num_chains
        return merge_groups(num_chains, num_draws, per_chain, self.autocorrelation_time, shared=self.shared)

    @cached_property
    def autocorrelation_time(self) -> float:
        """Draws per effective draw, of the trace or of the tokens, whichever is slower."""
        return max(autocorrelation_time(self.trace), autocorrelation_time(self.sample))

    @property
    def share_seen(self) -> float:
        """Share of the variance of a long mean that the spread of the batches shows."""
        chains = self.trace.shape[0] if self.shared else 1  # that a batch holds
        return share_seen(self.autocorrelation_time, self.count / len(self.batches) / chains)

    @property
    def count(self) -> int:
        """Number of observations."""
        return self.trace.size

    def mean(self, obs_id: str) -> F64:
        """Mean loss of each token over all observations, (batch, token)."""
        return np.asarray(self.sums[obs_id].sum(axis=0) / self.count)

    def covariance(self, obs_id: str) -> F64:
        """Covariance (n) of each token's loss with the trace, (batch, token)."""
        deviation = float((self.trace - self.centre).mean())
        return np.asarray(self.products[obs_id].sum(axis=0) / self.count - deviation * self.mean(obs_id))


def gather_moments(
    run: Samples,
    task: str,
    observables: Sequence[str],
    *,
    with_products: bool,
    groups_per_chain: int = 1,
    allow_partial: bool = False,
) -> Moments:
    """Gather the sums of one run in one pass.

    Parameters
    ----------
    run : Samples
        The run: its losses in memory, lazily loaded, or backed by dask (then nothing but sums is gathered).
    task : str
        Id of the sampling task.
    observables : sequence of str
        Ids of the probes, the task among them or not.
    with_products : bool
        Also gather ``products``.
    groups_per_chain : int
        Into how many groups of consecutive draws each chain is cut.
    allow_partial : bool
        As in `select_chains`.

    Returns
    -------
    Moments
    """
    names = [task, *(name for name in observables if name != task)]
    arrays = {name: run.loss(name) for name in names}
    num_chains, num_draws = arrays[task].shape[:2]  # as of all of them, in one dataset
    states = chain_states(run, num_chains)
    length = _common_prefix(run, task, arrays[task], states) if allow_partial else num_draws
    gather = gather_dask if any(is_dask(a) for a in arrays.values()) else gather_blocks
    while True:
        bounds = np.linspace(0, length, min(groups_per_chain, length) + 1).round().astype(int)
        job = Job(
            run=run,
            task=task,
            arrays=arrays,
            masks={name: row_mask(run, name) for name in names},
            wanted=frozenset(observables),
            cuts=tuple(slice(int(a), int(b)) for a, b in pairwise(bounds)),
            length=length,
            with_products=with_products,
            sampled=groups_per_chain > 1,
            allow_partial=allow_partial,
            states=states,
        )
        found = gather(job)
        selection = job.select(found.finite)
        if selection.length >= length:
            break
        length = selection.length  # a probe stops earlier than the task, which no run of ours does
    used = list(selection.used)
    kept = [c * len(job.cuts) + k for c in used for k in range(len(job.cuts))]
    return Moments(
        trace=found.trace[used],
        groups=tuple((at, cut) for at in range(len(used)) for cut in job.cuts),
        sums={name: values[kept] for name, values in found.sums.items()},
        products={name: values[kept] for name, values in found.products.items()},
        centre=found.centre,
        selection=selection,
        sample=found.sample[used],
        shared=shares_minibatches(run),
    )


def _common_prefix(run: Samples, task: str, array: xr.DataArray, states: ChainStates) -> int:
    """How many draws all chains (that have any) have."""
    mask = row_mask(run, task)
    kept = array if mask is None else array.where(xr.DataArray(mask, dims=array.dims[2:]), 0.0)
    finite = np.isfinite(np.asarray(kept.mean(array.dims[2:], dtype=np.float64, skipna=False).values))
    return select_chains(run, finite, allow_partial=True, states=states).length


@dataclass(frozen=True)
class Job:
    """What is to be gathered, from which arrays, by which groups of draws."""

    run: Samples
    task: str
    arrays: dict[str, xr.DataArray]
    masks: dict[str, npt.NDArray[np.bool_] | None]
    wanted: frozenset[str]
    cuts: tuple[slice, ...]
    length: int
    with_products: bool
    sampled: bool
    allow_partial: bool
    states: ChainStates

    def select(self, finite: npt.NDArray[np.bool_]) -> ChainSelection:
        """Choose the chains, given where the first ``length`` draws are finite."""
        behind = self.arrays[self.task].shape[1] - self.length
        whole = np.pad(finite, ((0, 0), (0, behind)), constant_values=not self.allow_partial)
        return select_chains(self.run, whole, allow_partial=self.allow_partial, states=self.states)

    def picks(self, name: str) -> npt.NDArray[np.int64]:
        """Positions of the tokens of an observable whose losses are kept at every draw."""
        shape, mask = self.arrays[name].shape, self.masks[name]
        return sample_of(shape[2] * shape[3], None if mask is None else mask.ravel())


@dataclass(frozen=True)
class Gathered:
    """What came of a job, for all chains, failed ones included."""

    trace: F64
    finite: npt.NDArray[np.bool_]
    sums: dict[str, F64]
    products: dict[str, F64]
    centre: float
    sample: npt.NDArray[np.float32]


def gather_blocks(job: Job) -> Gathered:
    """Read the losses block by block, the sampling task's first: its mean weighs the others."""
    num_chains, length, cuts = job.arrays[job.task].shape[0], job.length, job.cuts
    read = {c for c in range(num_chains) if job.allow_partial or job.states.failures[c] is None}
    trace = np.full((num_chains, length), np.nan)
    finite = np.zeros((num_chains, length), dtype=bool)
    finite[sorted(read)] = True
    groups = num_chains * len(cuts)
    tokens = {name: a.shape[2] * a.shape[3] for name, a in job.arrays.items() if name in job.wanted}
    sums = {name: np.zeros((groups, width)) for name, width in tokens.items()}
    products = {name: np.zeros((groups, width)) for name, width in tokens.items()} if job.with_products else {}
    picks = {name: job.picks(name) for name in tokens} if job.sampled else {}
    sample = {name: np.zeros((num_chains, length, at.size), dtype=np.float32) for name, at in picks.items()}
    centre: float | None = None

    def requests() -> Iterator[tuple[str, xr.DataArray, slice, slice]]:
        for chains, draws in _common_slices(job.arrays):
            if draws.start < length and any(c in read for c in range(chains.start, chains.stop)):
                for name, array in job.arrays.items():
                    yield name, array, chains, slice(draws.start, min(draws.stop, length))

    with np.errstate(invalid="ignore", over="ignore"):
        for key, chains, draws, values in read_blocks(requests()):
            for c, block in zip(range(chains.start, chains.stop), values, strict=True):
                if c not in read:  # beside others in a block
                    continue
                mask = job.masks[key]
                kept = block if mask is None else np.where(mask, block, block.dtype.type(0))
                flat = kept.reshape(block.shape[0], -1)
                if key == job.task:
                    mean = flat.mean(axis=1, dtype=np.float64)
                    trace[c, draws] = mean if mask is None else mean * (mask.size / mask.sum())
                    finite[c, draws] &= np.isfinite(trace[c, draws])
                    if centre is None and np.isfinite(trace[c, draws.start]):
                        centre = float(trace[c, draws.start])
                if key not in job.wanted:
                    continue
                weights, rows = _weights(trace[c], draws, cuts, (centre or 0.0) if job.with_products else None)
                total = _weighted_sums(weights, flat)
                if not np.isfinite(total).all():
                    finite[c, draws] &= np.isfinite(flat).all(axis=1)
                at = [c * len(cuts) + k for k in rows]
                sums[key][at] += total[: len(rows)]
                if job.with_products:
                    products[key][at] += total[len(rows) :]
                if job.sampled:
                    sample[key][c, draws] = flat[:, picks[key]]
    return Gathered(
        trace=trace,
        finite=finite,
        sums={name: total.reshape(groups, *job.arrays[name].shape[2:]) for name, total in sums.items()},
        products={name: total.reshape(groups, *job.arrays[name].shape[2:]) for name, total in products.items()},
        centre=centre or 0.0,
        sample=np.concatenate([np.zeros((num_chains, length, 0), dtype=np.float32), *sample.values()], axis=2),
    )


def _common_slices(arrays: dict[str, xr.DataArray]) -> list[tuple[slice, slice]]:
    """Cut all arrays at the same draws: at chunks, where one is stored, so that no block of any is large."""
    stored = [a for a in arrays.values() if not in_memory(a)]
    return max((block_slices(a) for a in stored or arrays.values()), key=len)


def _weights(trace: F64, draws: slice, cuts: tuple[slice, ...], centre: float | None) -> tuple[F64, list[int]]:
    """Weights of a block's draws: a row per group it touches; with a centre, then those rows times (trace - centre)."""
    at = np.arange(draws.start, draws.stop)
    rows = [k for k, cut in enumerate(cuts) if cut.start < draws.stop and draws.start < cut.stop]
    member = np.array([(at >= cuts[k].start) & (at < cuts[k].stop) for k in rows], dtype=np.float64)
    if centre is None:
        return member, rows
    return np.concatenate([member, member * (trace[draws] - centre)]), rows


def _weighted_sums(weights: F64, block: npt.NDArray[Any]) -> F64:
    """``weights @ block`` in float64, (weight, token), by pieces of the block that stay within the cache."""
    count, width = weights.shape[0], block.shape[1]
    total = np.empty((count, width))
    step = max(256, PIECE_OPERATIONS // weights.size)
    buffer = np.empty((block.shape[0], min(step, width)))
    for start in range(0, width, step):
        stop = min(start + step, width)
        piece = buffer[:, : stop - start]
        piece[...] = block[:, start:stop]
        np.matmul(weights, piece, out=total[:, start:stop])
    return total


def gather_dask(job: Job) -> Gathered:
    """Gather on the workers, in two steps: the sampling task's trace, and what it weighs.

    Parameters
    ----------
    job : Job
        Its arrays backed by dask (or not: then they are cut into chunks).

    Returns
    -------
    Gathered
    """
    dask = imported("dask", extra="dask", purpose="An analysis of dask arrays")
    da = imported("dask.array", extra="dask", purpose="An analysis of dask arrays")
    data = {name: da.asarray(a.data)[:, : job.length] for name, a in job.arrays.items()}
    for name, mask in job.masks.items():
        data[name] = data[name] if mask is None else da.where(mask, data[name], np.float32(0))
    whole = {name: da.isfinite(values).all(axis=(2, 3)) for name, values in data.items()}
    picked = [
        data[name].reshape(*data[name].shape[:2], -1)[:, :, job.picks(name)]
        for name in data
        if job.sampled and name in job.wanted
    ]
    trace, checks, sample = dask.compute(data[job.task].mean(axis=(2, 3), dtype=np.float64), whole, picked)
    counts = job.masks[job.task]
    trace = trace if counts is None else trace * (counts.size / counts.sum())
    finite = np.logical_and.reduce(list(checks.values()))
    used = job.select(finite).used
    centre = float(trace[used[0], 0])
    lazy = {}
    for name in job.wanted:
        for c in used:
            for k, cut in enumerate(job.cuts):
                weights = np.ones((2 if job.with_products else 1, cut.stop - cut.start))
                if job.with_products:
                    weights[1] = trace[c, cut] - centre
                # Group by group, so that what a task hands on is two numbers per token and no zeros.
                losses = data[name][c, cut].astype(np.float64)
                spread = da.from_array(weights, chunks=(-1, losses.chunks[0]))
                lazy[name, c, k] = da.tensordot(spread, losses, axes=(1, 0))
    (gathered,) = dask.compute(lazy)
    groups, num_chains = len(job.cuts), trace.shape[0]
    sums = {name: np.zeros((num_chains * groups, *data[name].shape[2:])) for name in job.wanted}
    products = {name: np.zeros_like(values) for name, values in sums.items()} if job.with_products else {}
    for (name, c, k), values in gathered.items():
        sums[name][c * groups + k] = values[0]
        if job.with_products:
            products[name][c * groups + k] = values[1]
    empty = np.zeros((*trace.shape, 0), dtype=np.float32)
    return Gathered(
        trace=trace,
        finite=finite,
        sums=sums,
        products=products,
        centre=centre,
        sample=np.concatenate([part.astype(np.float32) for part in sample], axis=2) if sample else empty,
    )
