"""A model, sampled under every weight restriction, and its susceptibilities, in one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import xarray as xr

from devinterp.slt.susceptibilities.baseline import Baseline
from devinterp.slt.susceptibilities.compute import compute_susceptibilities

if TYPE_CHECKING:
    import torch

__all__ = ["susceptibilities"]


def susceptibilities(
    model: torch.nn.Module,
    dataset: Any,
    observables: Mapping[str, Any],
    weight_restrictions: Mapping[str, Any],
    *,
    sampling_task: str,
    lr: float,
    n_beta: float,
    loss_fn: Any = None,
    include_sampling_task: bool = False,
    baseline: Baseline = "init",
    terms: bool = False,
    se: bool = False,
    **kwargs: Any,
) -> xr.DataTree:
    """Sample every weight restriction and compute susceptibilities in one call.

    Parameters
    ----------
    model, dataset, observables, weight_restrictions, sampling_task, lr, n_beta, loss_fn, **kwargs
        As in `devinterp.sample_restrictions`.
    include_sampling_task, baseline, terms, se
        As in `compute_susceptibilities`.

    Returns
    -------
    xarray.DataTree
        As `compute_susceptibilities`.
    """
    from devinterp.slt.sampling import sample_restrictions

    study = sample_restrictions(
        model,
        dataset,
        observables,
        weight_restrictions,
        sampling_task=sampling_task,
        lr=lr,
        n_beta=n_beta,
        loss_fn=loss_fn,
        **kwargs,
    )
    return compute_susceptibilities(
        study, sampling_task, include_sampling_task=include_sampling_task, baseline=baseline, terms=terms, se=se
    )
