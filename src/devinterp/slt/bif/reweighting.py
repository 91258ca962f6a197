"""What giving more weight to one sample would do to the loss of another, predicted from the draws of a run.

    d E[l_j] / d w_i = -beta Cov(l_i, l_j)      at w_i = 1

where the posterior is proportional to exp(-beta sum_i w_i l_i) times the prior. This is the influence as the papers
mean it, with its sign and its scale (Kreer et al. 2025, `arXiv:2509.26544 <https://arxiv.org/abs/2509.26544>`_, with
beta 1; the classical influence function is its limit where the posterior is narrow): leaving sample i out changes the
mean loss of sample j by +beta Cov(l_i, l_j), to first order. `devinterp.slt.bif` gives a normalised variant of the
other sign: the correlation.

What is predicted is the change of the *posterior mean*, at the run's temperature and localization, not of a retrained
model's loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import xarray as xr

from devinterp.errors import SettingError
from devinterp.slt.bif.compute import CorrelationMethod, IndexRange, compute_bif
from devinterp.slt.runs.results import label_result, schema_id
from devinterp.slt.runs.run import Samples, Tree

__all__ = ["compute_reweighting"]


def compute_reweighting(
    samples: Tree,
    *,
    correlation_method: CorrelationMethod = "sequence",
    num_samples: int | None = None,
    loss_keys: Literal["all"] | Sequence[str] = "all",
    batch_index_range_1: IndexRange = "all",
    batch_index_range_2: IndexRange = "all",
    se: bool = False,
    allow_partial: bool = False,
) -> xr.Dataset:
    """Predict what more weight on one token or sequence would do to the loss of another.

    Parameters
    ----------
    samples : DataTree or Dataset
        What ``sample()`` returned, or a selection of it.
    correlation_method : {"token", "sequence"}
        Between tokens, or between sequences, whose losses are averaged over tokens first.
    num_samples : int, optional
        How many samples the sampled loss is a mean over, tokens or sequences as in ``correlation_method``, so that
        beta is ``n_beta / num_samples``. By default beta is 1, and the effect minus the covariance.
    loss_keys : "all" or sequence of str
        Observables, concatenated in sorted order for ``"all"``, else in the order given.
    batch_index_range_1 : "all", str, or sequence of int
        Sequences that are given weight: all, an observable by name, or indices into the concatenated sequences.
    batch_index_range_2 : "all", str, or sequence of int
        Sequences whose loss changes, likewise.
    se : bool
        Also ``effects_se``, the standard error by batch means, which accounts for autocorrelation.
    allow_partial : bool
        As in `devinterp.slt.llc.compute_llc`.

    Returns
    -------
    xarray.Dataset
        Schema ``devinterp/reweighting@1``: ``effects`` float32, nat per unit of relative weight, (batch_1, batch_2) or
        (batch_1, batch_2, target_position, target_position_T); ``input_ids`` (batch, position); with ``se`` also
        ``effects_se``. Attributes ``beta``, and those of `devinterp.slt.bif.compute_bif`.

    Raises
    ------
    SettingError, MissingVariableError, IncompleteStoreError, AllChainsFailedError
        As in `devinterp.slt.bif.compute_bif`.

    Warns
    -----
    ChainFailedWarning
        A chain that failed was excluded.
    """
    if num_samples is not None and num_samples < 1:
        raise SettingError("num_samples is too small.", expected="1 or more", found=num_samples)
    run = Samples.of(samples, allow_partial=allow_partial)
    covariance = compute_bif(
        samples,
        correlation_method=correlation_method,
        loss_keys=loss_keys,
        batch_index_range_1=batch_index_range_1,
        batch_index_range_2=batch_index_range_2,
        compute_covariance=True,
        se=se,
        allow_partial=allow_partial,
    )
    beta = 1.0 if num_samples is None else run.n_beta / num_samples
    effects = {"effects": -beta * covariance["influences"]}
    if se:
        effects["effects_se"] = beta * covariance["influences_se"]
    result = covariance.drop_vars(["influences", "influences_se"], errors="ignore")
    result = xr.Dataset({**{k: v.astype("float32") for k, v in effects.items()}, **result.data_vars}, result.coords)
    dropped = ("devinterp_schema", "compute_covariance", "average_tokenwise_bif", "n_constant_losses")
    attrs = {k: v for k, v in covariance.attrs.items() if k not in dropped}
    attrs = {"devinterp_schema": schema_id("reweighting"), "beta": beta, **attrs}
    return label_result(result, "reweighting", attrs=attrs)
