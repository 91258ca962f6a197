"""A BIF as a chunked dask array: computed tile by tile on demand, on this machine or on a cluster.

With losses that are dask arrays already, nothing but small statistics (which draws are finite, which losses never
change) is gathered; the losses of a block of sequences meet on the worker that needs them.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import SettingError, imported
from devinterp.slt.bif.kernels import standardize
from devinterp.slt.bif.operands import influence_tile
from devinterp.slt.bif.request import BifPlan
from devinterp.slt.runs.chains import ChainSelection, select_chains
from devinterp.slt.uncertainty.batch_means import Batches, batch_groups, sample_of, shares_minibatches

__all__ = ["LazyOperands"]


@dataclass(frozen=True)
class LazyOperands:
    """Both operands of a BIF as dask arrays, and the result as one.

    Attributes
    ----------
    plan : BifPlan
        What was asked for.
    attrs : dict
        Attributes of the result.
    groups : Batches or None
        Batches of observations for standard errors.
    selection : ChainSelection
        The chains used.
    first, second : dask array of float32, shape (observation, sequence, series)
        Standardised.
    """

    plan: BifPlan
    attrs: dict[str, Any]
    groups: Batches | None
    selection: ChainSelection
    first: Any
    second: Any

    @classmethod
    def of(cls, plan: BifPlan, *, batches: bool) -> LazyOperands:
        """Prepare; with ``batches`` cut the draws into batches for standard errors.

        Gathered are which draws are finite, how many losses never change, and a few series.
        """
        da, compute = _dask()
        if plan.distributed:
            series, selection, num_chains = _from_dask(plan)
        else:
            losses = plan.load()
            selection, num_chains = losses.selection, losses.num_chains
            wide = losses.values.reshape(losses.values.shape[0], -1, losses.width)
            series = da.from_array(wide, chunks=(-1, plan.batch_size, -1), name=False)
        where = np.union1d(plan.first, plan.second)
        constant, counts = (da.max(series, axis=0) - da.min(series, axis=0)) == 0, plan.counts(where)
        wanted = {"constant": (constant if counts is None else constant & counts).sum()}
        if batches:
            wanted["sample"] = _sample(series, counts)
        found = dict(zip(wanted, compute(*wanted.values()), strict=True))
        groups = None
        if batches:
            groups = batch_groups(found["sample"], num_chains, shared=shares_minibatches(plan.run))
        kind = np.empty((0, 0, 0), dtype=np.float32)  # else dask asks by calling the function
        standard = series.map_blocks(partial(_standardized, covariance=plan.covariance), meta=kind)
        first, second = (
            standard
            if np.array_equal(chosen, where)
            else standard[:, np.searchsorted(where, chosen)].rechunk((-1, plan.batch_size, -1))
            for chosen in (plan.first, plan.second)
        )
        return cls(plan, plan.attrs(selection, int(found["constant"])), groups, selection, first, second)

    @property
    def symmetric(self) -> bool:
        """Whether both operands are the same sequences."""
        return bool(np.array_equal(self.plan.first, self.plan.second))

    def held(self) -> LazyOperands:
        """Have the standardised losses computed once and kept where they are: many tiles are made of each."""
        persist = imported("dask", extra="dask", purpose="A lazy BIF").persist
        first, second = persist(self.first, self.second)
        return replace(self, first=first, second=first if self.symmetric else second)

    def identity(self) -> str:
        """Hash of the standardised losses' first moments with fixed weights: the losses themselves stay away."""
        da, compute = _dask()
        weights = np.random.default_rng(0).normal(size=(2, self.first.shape[0]))
        sums = [da.tensordot(weights, x.astype(np.float64), axes=(1, 0)) for x in (self.first, self.second)]
        digest = hashlib.sha256()
        counts = self.plan.sequences.counts
        for part in (self.plan.first, self.plan.second, *compute(*sums), *(() if counts is None else (counts,))):
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()

    def series(
        self, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Standardised columns at some positions of each operand."""
        _, compute = _dask()
        flat = (x.reshape(x.shape[0], -1)[:, at] for x, at in ((self.first, first), (self.second, second)))
        left, right = compute(*flat)
        return left, right

    def tile(
        self, rows: slice, columns: slice, *, se: bool = False
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """Compute a part of the result where the losses are, and fetch it."""
        _, compute = _dask()
        found = compute(*(array[rows, columns] for array in self._arrays(se)))
        return found[0], found[1] if se else None

    def result(self, *, se: bool = False) -> xr.Dataset:
        """Return the labelled result, its influences backed by dask."""
        names = ("influences", "influences_se")
        attrs = dict(self.attrs)
        if se and self.groups is not None:
            attrs["se_dof"] = len(self.groups) - 1
        return self.plan.result(dict(zip(names, self._arrays(se), strict=False)), attrs)

    def _arrays(self, se: bool) -> list[Any]:
        da, _ = _dask()
        four = len(self.plan.shape) == 4
        options = {
            "by_token": self.plan.by_token,
            "average": self.plan.average,
            "covariance": self.plan.covariance,
            "groups": self.groups,
        }
        counts: list[Any] = []
        for chosen, operand, index in ((self.plan.first, self.first, "i"), (self.plan.second, self.second, "j")):
            found = self.plan.counts(chosen)
            if found is not None:
                own = index + ("p" if index == "i" else "q") if four else index + ("a" if index == "i" else "b")
                counts += [da.from_array(found, chunks=(operand.chunks[1], -1)), own]
        with warnings.catch_warnings():
            # A matrix of pairs has many more chunks than what it is made of.
            warnings.simplefilter("ignore", da.PerformanceWarning)
            arrays = [
                da.blockwise(
                    partial(_tile, which=which, options=options),
                    "ijpq" if four else "ij",
                    self.first,
                    "nip" if four else "nia",
                    self.second,
                    "njq" if four else "njb",
                    *counts,
                    concatenate=True,
                    dtype=np.float32,
                )
                for which in range(2 if se else 1)
            ]
            return [_mirrored(array) for array in arrays] if self.symmetric else arrays


def _mirrored(array: Any) -> Any:
    """Take the blocks below the diagonal from those above it: each pair of blocks is multiplied once."""
    da, _ = _dask()
    graphs = imported("dask.highlevelgraph", extra="dask", purpose="A lazy BIF")
    name, behind = f"mirrored-{array.name}", (0,) * (array.ndim - 2)
    layer = {
        (name, i, j, *behind): (array.name, i, j, *behind) if i <= j else (_swapped, (array.name, j, i, *behind))
        for i in range(array.numblocks[0])
        for j in range(array.numblocks[1])
    }
    graph = graphs.HighLevelGraph.from_collections(name, layer, dependencies=[array])
    return da.Array(graph, name, array.chunks, dtype=array.dtype)


def _swapped(tile: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The influences of the second operand's sequences on the first's."""
    return tile.transpose(1, 0, 3, 2) if tile.ndim == 4 else tile.T


def _dask() -> tuple[Any, Any]:
    """``dask.array`` and ``dask.compute``."""
    da = imported("dask.array", extra="dask", purpose="A lazy BIF")
    return da, imported("dask", extra="dask", purpose="A lazy BIF").compute


def _tile(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32], *counts: Any, which: int, options: dict[str, Any]
) -> npt.NDArray[np.float32] | None:
    flat = [np.ascontiguousarray(x).reshape(x.shape[0], -1) for x in (first, second)]
    groups = options["groups"] if which else None
    options = {**options, "groups": groups, "counts": counts or None}
    return influence_tile(flat[0], flat[1], width=first.shape[2], **options)[which]


def _standardized(block: npt.NDArray[np.float32], *, covariance: bool) -> npt.NDArray[np.float32]:
    flat = np.array(block, dtype=np.float32).reshape(block.shape[0], -1)
    standardize(flat, covariance=covariance)
    return flat.reshape(block.shape)


def _sample(series: Any, counts: npt.NDArray[np.bool_] | None) -> Any:
    """A few series that count, from which the autocorrelation of all is judged."""
    at = sample_of(series.shape[1] * series.shape[2], None if counts is None else counts.ravel())
    return series.reshape(series.shape[0], -1)[:, at]


def _from_dask(plan: BifPlan) -> tuple[Any, ChainSelection, int]:
    """Losses of all sequences wanted, (observation, sequence, series), cut by sequences; which chains; how many."""
    da, compute = _dask()
    arrays = [plan.run.loss(name) for name in plan.sequences.observables]
    data = [da.asarray(array.data).rechunk({3: -1}) for array in arrays]
    masks = plan.sequences.masks
    number = [None if m is None else np.maximum(m.sum(axis=1, keepdims=True), 1).astype(np.float32) for m in masks]
    data = [d if mask is None else da.where(mask, d, np.float32(0)) for d, mask in zip(data, masks, strict=True)]
    if not plan.by_token:
        data = [d.map_blocks(_mean_tokens, chunks=(*d.chunks[:3], (1,)), dtype=np.float32) for d in data]
        data = [d if n is None else d * (plan.sequences.num_tokens / n) for d, n in zip(data, number, strict=True)]
    checks = [da.isfinite(d).all(axis=(2, 3)) for d in data]
    finite = np.logical_and.reduce(compute(*checks))
    selection = select_chains(plan.run, finite, allow_partial=plan.allow_partial)
    joined = da.concatenate(data, axis=2)[list(selection.used), : selection.length]
    joined = joined[:, :, np.union1d(plan.first, plan.second)].rechunk({2: plan.batch_size})
    if plan.reduce == "mean":
        joined = joined.rechunk({0: -1}).map_blocks(_mean_chains, chunks=((1,), *joined.chunks[1:]), dtype=np.float32)
    num_chains = joined.shape[0]
    if num_chains * joined.shape[1] < 2:
        raise SettingError("A correlation needs at least two observations.", expected="two draws", found="one")
    stacked = joined.rechunk({0: -1, 1: -1}).reshape(-1, *joined.shape[2:])
    return stacked.rechunk((-1, plan.batch_size, -1)), selection, num_chains


def _mean_tokens(block: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    mean: npt.NDArray[np.float32] = block.mean(axis=3, dtype=np.float32, keepdims=True)
    return mean


def _mean_chains(block: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    mean: npt.NDArray[np.float32] = block.mean(axis=0, dtype=np.float32, keepdims=True)
    return mean
