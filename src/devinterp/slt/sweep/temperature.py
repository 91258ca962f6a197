"""A scan over temperatures: what the LLC tends to as n_beta grows, and with which multiplicity.

The free energy of a model at inverse temperature t = n_beta is lambda ln t - (m - 1) ln ln t up to a constant
(Watanabe 2009), lambda its learning coefficient and m the multiplicity. Its derivative by ln t is what an LLC at t
estimates:

    LLC(t) = lambda - (m - 1) / (ln t + c),

with c the logarithm of the unit that the loss is measured in. A regular model, m = 1, has one LLC at all temperatures.
A singular one with m > 1 approaches its own from below, as slowly as a logarithm does: LLCs at a single n_beta are then
comparable with each other, and none of them is lambda.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import SettingError
from devinterp.slt.runs.grid import plain_grid
from devinterp.slt.runs.results import label_result, schema_id
from devinterp.slt.runs.run import Tree
from devinterp.slt.sweep.criteria import GRAVITY
from devinterp.slt.sweep.summary import compute_sweep

__all__ = ["compute_temperature"]

F64 = npt.NDArray[np.float64]

LEAST_LOG, MOST_LOG = 0.5, 100.0
"""ln t + c at the smallest n_beta, for a logarithm that grows and for one that stands still."""

USABLE = 3  # gravity of a verdict from which on an LLC is not what it is said to be


def compute_temperature(
    sweep: Tree,
    *,
    largest: int = 3,
    over: Literal["draws", "observable", "paired"] | None = None,
    observable: str | None = None,
    ci: float = 0.9,
    allow_partial: bool = False,
) -> xr.Dataset:
    """Fit what the LLC tends to over the n_beta of a sweep, for each multiplicity and every lr and localization.

    Parameters
    ----------
    sweep : DataTree
        What `devinterp.sweep` returned with three or more values of n_beta, the more decades apart the better.
    largest : int
        The largest multiplicity to try, from 1 on.
    over, observable, allow_partial
        As in `devinterp.slt.sweep.compute_sweep`.
    ci : float
        Level of the interval ``limit_ci``.

    Returns
    -------
    xarray.Dataset
        Schema ``devinterp/temperature@1``. float64: ``limit`` (lr, localization, multiplicity), the learning
        coefficient where the multiplicity is that; ``limit_ci`` (..., bound), by the profile likelihood; ``misfit``,
        the squared residuals over their variances, summed: chi-square with ``num_cells`` less one degree of freedom
        for multiplicity 1, less two for others. int64: ``num_cells`` (lr, localization), how many values of n_beta
        were used. NaN where they are too few.

    Raises
    ------
    SettingError
        ``sweep`` is not a sweep, or varies more than lr, n_beta and localization, or `largest` or `ci` is out of range.
    MissingVariableError, IncompleteStoreError
        As in `devinterp.slt.llc.compute_llc`.

    Notes
    -----
    Cells whose verdict says that the LLC is wrong (a step too long, minibatch noise, diverged, ...) are left out.
    Multiplicities above 1 fit whatever 1 fits, with a unit that makes the logarithm large: only a misfit that falls
    speaks for them. The pull to the start makes LLCs grow with n_beta as well, by ``n_beta h / (n_beta h +
    localization)`` in a direction of curvature h: look at ``share_of_control`` of the sweep first, which should be
    small in every cell.
    """
    if isinstance(largest, bool) or not isinstance(largest, int) or largest < 1:
        raise SettingError("largest must be a multiplicity.", expected="an integer, at least 1", found=repr(largest))
    summary = compute_sweep(sweep, over=over, observable=observable, ci=ci, allow_partial=allow_partial)
    summary = plain_grid(summary)
    gravity = np.vectorize(lambda code: GRAVITY.get(str(code), USABLE), otypes=[int])(summary["verdict"].values)
    known = np.isfinite(summary["llc_mean"].values) & (summary["llc_se"].values > 0)
    used = known & (gravity < USABLE) & (summary["n_beta"].values[:, None] > 0)
    shape = (summary.sizes["lr"], summary.sizes["localization"], largest)
    limit, misfit = np.full(shape, np.nan), np.full(shape, np.nan)
    ends = np.stack([limit, limit], axis=-1)
    for i, j in np.ndindex(shape[:2]):
        take = used[i, :, j]
        cell = summary.isel(lr=i, localization=j, n_beta=np.flatnonzero(take))
        for m in range(1, largest + 1):
            if take.sum() > (1 if m == 1 else 2):  # the parameters of the fit
                limit[i, j, m - 1], ends[i, j, m - 1], misfit[i, j, m - 1] = fit(
                    np.log(cell["n_beta"].values), cell["llc_mean"].values, cell["llc_se"].values, m, ci
                )
    dims = ("lr", "localization")
    result = xr.Dataset(
        {
            "limit": ((*dims, "multiplicity"), limit),
            "limit_ci": ((*dims, "multiplicity", "bound"), ends),
            "misfit": ((*dims, "multiplicity"), misfit),
            "num_cells": (dims, used.sum(axis=1).astype(np.int64)),
        },
        coords={
            **{name: summary[name].values for name in dims},
            "multiplicity": np.arange(1, largest + 1, dtype=np.int64),
        },
    )
    attrs = {k: summary.attrs[k] for k in ("over", "ci", "observable") if k in summary.attrs}
    return label_result(result, "temperature", attrs={"devinterp_schema": schema_id("temperature"), **attrs})


def fit(log_t: F64, llc: F64, error: F64, multiplicity: int, level: float) -> tuple[float, F64, float]:
    """Fit ``lambda - (m - 1) / (ln t + c)``; return lambda, its interval, and the misfit.

    For each c the best lambda is a weighted mean; c is looked for on a fine grid, and the interval is that of the
    profile likelihood: all lambda that some c brings within the quantile of chi-square of the best.

    Parameters
    ----------
    log_t, llc, error : array, shape (temperature,)
        ln n_beta, the LLC there and its standard error.
    multiplicity : int
    level : float
        Of the interval.
    """
    from scipy import special  # type: ignore[import-untyped]  # ships no types

    weights = 1 / error**2
    least = np.geomspace(LEAST_LOG, MOST_LOG, 4000) if multiplicity > 1 else np.array([MOST_LOG])
    fallen = llc + (multiplicity - 1) / (least[:, None] + log_t - log_t.min())  # (c, temperature)
    best = fallen @ weights / weights.sum()
    misfit = ((fallen - best[:, None]) ** 2 * weights).sum(axis=1)
    at = int(misfit.argmin())
    room = 2 * special.erfinv(level) ** 2 - (misfit - misfit[at])  # chi-square of one degree of freedom
    half = np.sqrt(np.maximum(room, 0) / weights.sum())
    inside = room >= 0
    return float(best[at]), np.array([(best - half)[inside].min(), (best + half)[inside].max()]), float(misfit[at])
