"""The widely applicable Bayesian information criterion (WBIC) of a run.

    WBIC = n E[L]      over draws at the inverse temperature n beta = n / ln n

with L the mean loss of the n samples (Watanabe 2013, `arXiv:1208.6338 <https://arxiv.org/abs/1208.6338>`_). What
counts as a sample, a sequence or a token, is for the caller to say: n L is the loss of so many. WBIC estimates the
free energy, minus the logarithm of the marginal likelihood, up to O(sqrt(ln n)). The prior is the run's own, the
Gaussian of precision `localization` around the start, so that the estimate is *local* to the weights that were given.

With the same draws, WBIC = n L_0 + ln(n) times the local learning coefficient. Of two checkpoints or models of the
same data, the one with the lower WBIC has the larger marginal likelihood; values can be compared only where data, n
and localization are the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import xarray as xr

from devinterp.errors import SettingError
from devinterp.slt.llc.of_run import Over, check_over, llc_of_run
from devinterp.slt.runs.chains import ChainSelection
from devinterp.slt.runs.run import Samples, Tree
from devinterp.slt.runs.side_by_side import over_runs

__all__ = ["compute_wbic"]

TOLERANCE = 0.01  # relative; what is left out is of the order of ln ln n / ln n, which is more


def compute_wbic(
    samples: Tree | Mapping[str, Tree],
    *,
    num_samples: int | None = None,
    over: Over = "draws",
    observable: str | None = None,
    allow_partial: bool = False,
    allow_mixed: bool = False,
) -> xr.Dataset:
    """Compute the WBIC of a run, of every restriction of a study or every checkpoint of a series.

    Parameters
    ----------
    samples : DataTree, Dataset, or mapping of str to DataTree
        What ``sample()`` returned with ``n_beta = n / ln n``, or a selection of it.
    num_samples : int, optional
        The number of samples n; the run's ``n_beta`` must be its n / ln n within 1 %. By default the n of which that
        is so.
    over : {"draws", "steps", "observable", "paired"}
        Whose loss is L, as in `devinterp.slt.llc.compute_llc`: minibatches of the draws, of every step, or the fixed
        rows of an observable, which stand for the data; paired, the loss at the start is of the draws' own rows.
    observable, allow_partial, allow_mixed : optional
        As in `devinterp.slt.llc.compute_llc`.

    Returns
    -------
    xarray.Dataset
        Schema ``devinterp/wbic@1``. float64, nat: ``wbic`` (), ``wbic_std`` () over chains with ddof 0, ``fit`` () and
        ``complexity`` (), whose sum is ``wbic``, and ``wbic_per_chain`` (chain,) with NaN for an excluded chain;
        ``num_samples`` (), unit 1. Attributes ``over``, ``n_beta``, ``n_chains_used``, ``chains_excluded``.

    Raises
    ------
    SettingError
        The run was not sampled at n / ln n: no n has this temperature, or not the given one.
    MissingVariableError, IncompleteStoreError, AllChainsFailedError, ProvenanceError
        As in `devinterp.slt.llc.compute_llc`.

    Warns
    -----
    ChainFailedWarning
        A chain that failed was excluded.
    """
    check_over(over)

    def one(run: Samples, warn: bool) -> tuple[xr.Dataset, ChainSelection]:
        n = _check_temperature(run, num_samples)
        llc, selection = llc_of_run(run, over, False, observable, None, allow_partial, warn=warn)
        fit = n * float(llc["init_loss"])
        per_chain = fit + n / run.n_beta * llc["llc_per_chain"].values
        used = per_chain[list(selection.used)]
        result = xr.Dataset(
            {
                "wbic": used.mean(),
                "wbic_std": used.std(),
                "fit": fit,
                "complexity": used.mean() - fit,
                "num_samples": n,
                "wbic_per_chain": ("chain", per_chain),
            },
            coords=run.coords_along(chain=slice(None)),
            attrs={k: v for k, v in llc.attrs.items() if k != "burnin"},
        )
        return result, selection

    return over_runs(samples, "wbic", one, allow_partial=allow_partial, allow_mixed=allow_mixed)


def _check_temperature(run: Samples, num_samples: int | None) -> float:
    """Return the number of samples, where the run's temperature is that of the WBIC."""
    of = f" {run.label!r}" if run.label else ""
    if num_samples is not None and num_samples < 2:
        raise SettingError("WBIC needs at least two samples.", expected="num_samples of 2 or more", found=num_samples)
    wanted = None if num_samples is None else num_samples / math.log(num_samples)
    if wanted is None and run.n_beta >= math.e:
        return _samples_at(run.n_beta)
    if wanted is None or abs(run.n_beta / wanted - 1) > TOLERANCE:
        raise SettingError(
            f"The run{of} was not sampled at the temperature of the WBIC.",
            expected=f"n_beta = n / ln n{f' = {wanted:.6g}' if wanted is not None else ', which is e or more'}",
            found=f"n_beta = {run.n_beta:g}",
            remedy="Sample with n_beta = n / math.log(n), n the number of samples.",
        )
    return float(num_samples)  # type: ignore[arg-type]  # wanted is None where it is


def _samples_at(n_beta: float) -> float:
    """Return the n above e whose n / ln n is ``n_beta``: Newton's method on x - ln x = ln n_beta, x = ln n."""
    target = math.log(n_beta)
    x = 2 * target + 1  # right of the root of a convex function, from where every step leads closer
    for _ in range(200):
        step = (x - math.log(x) - target) / (1 - 1 / x) if x > 1 else 0.0
        x = max(x - step, 1.0)
        if abs(step) < 1e-15 * x:
            break
    return float(np.exp(x))
