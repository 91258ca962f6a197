"""A model, sampled, and its BIF, in one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import xarray as xr

from devinterp.slt.bif.compute import CorrelationMethod, compute_bif
from devinterp.slt.bif.loss_matrix import Reduce

if TYPE_CHECKING:
    import torch

__all__ = ["bif"]


def bif(
    model: torch.nn.Module,
    dataset: Any,
    observables: Mapping[str, Any],
    *,
    lr: float,
    n_beta: float,
    param_masks: Any = None,
    correlation_method: CorrelationMethod = "token",
    reduce_chain_dimension_method: Reduce = "stack",
    average_tokenwise_bif: bool = False,
    compute_covariance: bool = False,
    bif_batch_size: int = 32,
    bif_device: str | torch.device | None = None,
    top_k: int | None = None,
    se: bool = False,
    loss_fn: Any = None,
    **kwargs: Any,
) -> xr.Dataset:
    """Sample and compute the BIF in one call.

    Parameters
    ----------
    model, dataset, observables, lr, n_beta, param_masks, loss_fn, **kwargs
        As in `devinterp.sample`.
    correlation_method, reduce_chain_dimension_method, average_tokenwise_bif, compute_covariance, top_k, se
        As in `compute_bif`.
    bif_batch_size, bif_device
        ``batch_size`` and ``device`` of `compute_bif`.

    Returns
    -------
    xarray.Dataset
        As `compute_bif`.
    """
    from devinterp.slt.sampling import sample

    samples = sample(
        model, dataset, observables, lr=lr, n_beta=n_beta, param_masks=param_masks, loss_fn=loss_fn, **kwargs
    )
    return compute_bif(
        samples,
        correlation_method=correlation_method,
        reduce_chain_dimension_method=reduce_chain_dimension_method,
        average_tokenwise_bif=average_tokenwise_bif,
        compute_covariance=compute_covariance,
        batch_size=bif_batch_size,
        device=bif_device,
        top_k=top_k,
        se=se,
    )
