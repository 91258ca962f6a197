"""A BIF as a chunked dask array: computed tile by tile on demand, on this machine or on a cluster.

With losses that are dask arrays already, nothing but small statistics (which draws are finite, which losses never
change) is gathered; the losses of a block of sequences meet on the worker that needs them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import SettingError
from devinterp.slt._bif_plan import Plan
from devinterp.slt._bif_tiles import influence_tile
from devinterp.slt._blocks import is_dask
from devinterp.slt._chains import ChainSelection, select_chains, warn_excluded
from devinterp.slt._kernels import standardize
from devinterp.slt._optional import optional

__all__ = ["lazy_bif"]


def lazy_bif(plan: Plan, *, se: bool) -> xr.Dataset:
    """Compute a BIF lazily.

    Parameters
    ----------
    plan : Plan
        What was asked for.
    se : bool
        Also standard errors.

    Returns
    -------
    xarray.Dataset
        As `devinterp.slt.bif.compute_bif`, its influences backed by dask.
    """
    da = optional("dask.array", extra="dask", purpose="A lazy BIF")
    if any(is_dask(plan.run.loss(name)) for name in plan.sequences.observables):
        series, selection, num_chains = _from_dask(plan, da)
    else:
        losses = plan.load()
        selection, num_chains = losses.selection, losses.num_chains
        wide = losses.values.reshape(losses.values.shape[0], -1, losses.width)
        series = da.from_array(wide, chunks=(-1, plan.batch_size, -1), name=False)
    warn_excluded(plan.run, selection, stacklevel=4)
    where = np.union1d(plan.first, plan.second)
    wanted = {"constant": ((da.max(series, axis=0) - da.min(series, axis=0)) == 0).sum()}
    if se:
        wanted["sample"] = _sample(series)
    found = dict(zip(wanted, optional("dask", extra="dask", purpose="").compute(*wanted.values()), strict=True))
    attrs = plan.attrs(selection, int(found["constant"]))
    groups = None
    if se:
        from devinterp.slt.uncertainty import batch_groups

        groups = batch_groups(found["sample"], num_chains)
        attrs["se_dof"] = len(groups) - 1
    standard = series.map_blocks(partial(_standardized, covariance=plan.covariance), dtype=np.float32)
    first, second = (
        standard
        if np.array_equal(chosen, where)
        else standard[:, np.searchsorted(where, chosen)].rechunk((-1, plan.batch_size, -1))
        for chosen in (plan.first, plan.second)
    )
    names = ("influences", "influences_se") if se else ("influences",)
    data = {
        name: da.blockwise(
            partial(_tile, which=which, plan_options=_options(plan), groups=groups),
            "ijpq" if len(plan.shape) == 4 else "ij",
            first,
            "nip" if len(plan.shape) == 4 else "nia",
            second,
            "njq" if len(plan.shape) == 4 else "njb",
            concatenate=True,
            dtype=np.float32,
        )
        for which, name in enumerate(names)
    }
    return plan.result(data, attrs)


def _options(plan: Plan) -> dict[str, Any]:
    return {"by_token": plan.by_token, "average": plan.average, "covariance": plan.covariance}


def _tile(
    first: npt.NDArray[np.float32],
    second: npt.NDArray[np.float32],
    *,
    which: int,
    plan_options: dict[str, Any],
    groups: list[slice] | None,
) -> npt.NDArray[np.float32]:
    flat = [np.ascontiguousarray(x).reshape(x.shape[0], -1) for x in (first, second)]
    found = influence_tile(*flat, width=first.shape[2], groups=groups if which else None, **plan_options)[which]
    if found is None:
        raise SettingError("Standard errors were asked for without batches of draws.")
    return found


def _standardized(block: npt.NDArray[np.float32], *, covariance: bool) -> npt.NDArray[np.float32]:
    flat = np.array(block, dtype=np.float32).reshape(block.shape[0], -1)
    standardize(flat, covariance=covariance)
    return flat.reshape(block.shape)


def _sample(series: Any) -> Any:
    """A few series, from which the autocorrelation of all is judged."""
    from devinterp.slt.uncertainty import sample_of

    return series.reshape(series.shape[0], -1)[:, sample_of(series.shape[1] * series.shape[2])]


def _from_dask(plan: Plan, da: Any) -> tuple[Any, ChainSelection, int]:
    """Losses of all sequences wanted, (observation, sequence, series), cut by sequences; which chains; how many."""
    arrays = [plan.run.loss(name) for name in plan.sequences.observables]
    data = [da.asarray(array.data).rechunk({3: -1}) for array in arrays]
    if not plan.by_token:
        data = [d.map_blocks(_mean_tokens, chunks=(*d.chunks[:3], (1,)), dtype=np.float32) for d in data]
    checks = [da.isfinite(d).all(axis=(2, 3)) for d in data]
    finite = np.logical_and.reduce(optional("dask", extra="dask", purpose="").compute(*checks))
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
