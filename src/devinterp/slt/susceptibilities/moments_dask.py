"""The sums that susceptibilities need, mapped over chunks and reduced by dask: no loss comes back, only sums."""

from __future__ import annotations

import numpy as np

from devinterp.slt.runs.optional import optional
from devinterp.slt.susceptibilities.moments import Gathered, Job

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
    picked = [
        data[name].reshape(*data[name].shape[:2], -1)[:, :, job.picks(name)]
        for name in data
        if job.sampled and name in job.wanted
    ]
    trace, checks, sample = dask.compute(data[job.task].mean(axis=(2, 3), dtype=np.float64), whole, picked)
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
