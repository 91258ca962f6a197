"""The LLC of whatever `sample()` and its kin return."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr

from devinterp.errors import SettingError
from devinterp.slt.llc.of_run import Over, check_over, llc_of_run
from devinterp.slt.runs.chains import ChainSelection
from devinterp.slt.runs.run import Samples, Tree
from devinterp.slt.runs.side_by_side import over_runs

__all__ = ["compute_llc"]


def compute_llc(
    samples: Tree | Mapping[str, Tree],
    *,
    over: Over = "draws",
    burnin: bool = False,
    observable: str | None = None,
    ci: float | None = None,
    allow_partial: bool = False,
    allow_mixed: bool = False,
) -> xr.Dataset:
    """Compute the LLC of a run, of every restriction of a study, every checkpoint of a series or cell of a sweep.

    Parameters
    ----------
    samples : DataTree, Dataset, or mapping of str to DataTree
        What ``sample()`` returned, or a selection of it (``tree.isel(draw=slice(50, None))``); a study, or a mapping
        from restriction names to runs, gives results with a leading dimension ``wr``; a series, with ``checkpoint``
        before it; a sweep, with ``lr``, ``n_beta`` and ``localization``, NaN where no chain is left.
    over : {"draws", "steps", "observable", "paired"}
        ``"draws"``: the minibatch losses at the draws, ``sampling_loss``, against ``init_loss``: the documented LLC.
        Where ``num_steps_bw_draws`` and the batches of a pass have a common divisor, these are of some batches alone.
        ``"steps"``: the minibatch losses of every step, ``sampling_loss_micro`` or else ``step_loss``.
        ``"observable"``: the sampling task's fixed rows, ``loss_{obs}`` against ``init_loss_{obs}``: the same rows
        before and after, hence far less noise.
        ``"paired"``: the minibatch losses at the draws against those of the very same rows at the start,
        ``init_loss_sampling``, of a run with ``save_paired_losses=True``: as little noise, and new rows at every draw.
        ``loss_trace`` is then ``init_loss``, the mean of these, plus the rise of each draw's rows.
    burnin : bool
        With ``over="steps"``: include the burn-in, as devinterp 2.0 does.
    observable : str, optional
        With ``over="observable"``: which observable; by default the sampling task's, where the store tells it. Of
        another kind of data this is how much its loss rises while the chain samples on the sampling task's, and not
        its data-refined LLC, which `data_refined_llc` samples for.
    ci : float, optional
        Level of an interval for ``llc_mean`` (0.9), which accounts for autocorrelation, for minibatch noise and for
        the noise of ``init_loss``; see `devinterp.slt.uncertainty.intervals.llc_interval`. It is for
        ``n_beta * E[L - L_0]`` at this step size, localization and length of chain, not for the learning coefficient.
    allow_partial : bool
        Accept a store that has not completed, and use the draws that all chains have instead of complete chains only.
    allow_mixed : bool
        Accept checkpoints of a series that were sampled with different settings; the attribute ``mixed`` names them.

    Returns
    -------
    xarray.Dataset
        Schema ``devinterp/llc@1``. float64, unit 1: ``llc_mean`` (), ``llc_std`` () over chains with ddof 0,
        ``llc_per_chain`` (chain,) with NaN for an excluded chain, ``llc_scalar`` (), and with ``ci`` also ``llc_ci``
        (bound,) and, with ``over="observable"``, ``llc_ci_given_rows`` (bound,): the rows taken as they are, for
        heads or checkpoints that observe the same ones. ``init_loss`` () float64 and ``loss_trace`` (chain, draw) or
        (chain, step) float32, nat.
        Attributes ``over``, ``n_beta``, ``n_chains_used``, ``chains_excluded``; ``llc_is``, what it is instead where
        the observable is not of the data that were sampled; and where it is known
        ``step_inflation``, by what factor the step size makes the LLC too large
        (`devinterp.slt.diagnostics.step_bias.step_bias`), with ``step_inflation_is``, measured or a lower bound; of a
        study these are mappings by restriction, as JSON text (``json.loads``): netCDF has no attributes that are
        mappings.

    Raises
    ------
    MissingVariableError
        A variable is missing, or the sampling task is not known.
    IncompleteStoreError
        The store has not completed, and ``allow_partial`` is false.
    AllChainsFailedError
        No chain is complete.
    SettingError
        A setting has a value that it cannot take.
    ProvenanceError
        The checkpoints of a series differ in settings, and ``allow_mixed`` is false; or in data or restrictions.

    Warns
    -----
    ChainFailedWarning
        A chain that failed was excluded.
    DevinterpWarning
        The run has ``init_noise``, and ``init_loss`` is of the noised weights.
    """
    check_over(over)
    if ci is not None and not 0 < ci < 1:
        raise SettingError("The level of an interval lies between 0 and 1.", expected="ci = 0.9", found=ci)

    def one(run: Samples, warn: bool) -> tuple[xr.Dataset, ChainSelection]:
        return llc_of_run(run, over, burnin, observable, ci, allow_partial, warn=warn)

    return over_runs(samples, "llc", one, allow_partial=allow_partial, allow_mixed=allow_mixed)
