"""The sums that susceptibilities need, mapped over chunks and reduced by dask: no loss comes back, only sums."""

from __future__ import annotations

import numpy as np

from devinterp.slt._moments import Gathered, Job
from devinterp.slt._optional import optional

__all__ = ["gather_dask"]


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
    dask = optional("dask", extra="dask", purpose="An analysis of dask arrays")
    da = optional("dask.array", extra="dask", purpose="An analysis of dask arrays")
    data = {name: da.asarray(a.data)[:, : job.length] for name, a in job.arrays.items()}
    whole = {name: da.isfinite(values).all(axis=(2, 3)) for name, values in data.items()}
    picked = [data[name].reshape(*data[name].shape[:2], -1)[:, :, job.picks(name)] for name in data if job.sampled]
    trace, checks, sample = dask.compute(data[job.task].mean(axis=(2, 3), dtype=np.float64), whole, picked)
    finite = np.logical_and.reduce(list(checks.values()))
    num_chains, groups = trace.shape[0], len(job.cuts)
    kept = np.zeros(trace.shape, dtype=bool)
    selection = job.select(finite)
    kept[list(selection.used), : selection.length] = True
    centre = float(trace[kept][0])
    weights = np.zeros((2 if job.with_products else 1, num_chains, groups, *trace.shape))
    for c in range(num_chains):
        for k, cut in enumerate(job.cuts):
            weights[0, c, k, c, cut] = kept[c, cut]
            if job.with_products:
                weights[1, c, k, c, cut] = np.where(kept[c, cut], trace[c, cut] - centre, 0.0)
    lazy = {}
    for name, values in data.items():
        if name in job.wanted:
            # A draw that is left out has weight 0, and 0 times NaN is NaN.
            clean = da.where(kept[:, :, None, None], values.astype(np.float64), 0.0)
            spread = da.from_array(weights, chunks=(*weights.shape[:3], *values.chunks[:2]))
            lazy[name] = da.tensordot(spread, clean, axes=([3, 4], [0, 1]))
    (gathered,) = dask.compute(lazy)
    shape = {name: (num_chains * groups, *data[name].shape[2:]) for name in gathered}
    empty = np.zeros((*trace.shape, 0), dtype=np.float32)
    return Gathered(
        trace=trace,
        finite=finite,
        sums={name: values[0].reshape(shape[name]) for name, values in gathered.items()},
        products={name: v[1].reshape(shape[name]) for name, v in gathered.items()} if job.with_products else {},
        centre=centre,
        sample=np.concatenate([part.astype(np.float32) for part in sample], axis=2) if sample else empty,
    )
