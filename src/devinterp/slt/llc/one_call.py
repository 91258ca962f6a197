"""Sampling and the LLC in one call: on all data, or on each kind of data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import xarray as xr

from devinterp.errors import SettingError
from devinterp.names import sanitize_observable_name
from devinterp.slt.llc.compute import compute_llc
from devinterp.slt.llc.of_run import Over
from devinterp.slt.runs.chains import ChainSelection
from devinterp.slt.runs.results import label_result, string_index
from devinterp.slt.runs.side_by_side import lay_out, shared_attrs

if TYPE_CHECKING:
    import torch

__all__ = ["data_refined_llc", "llc"]


def llc(
    model: torch.nn.Module,
    dataset: Any,
    observables: Mapping[str, Any],
    *,
    lr: float,
    n_beta: float,
    param_masks: Any = None,
    loss_fn: Any = None,
    over: Over = "draws",
    burnin: bool = False,
    observable: str | None = None,
    ci: float | None = None,
    **kwargs: Any,
) -> xr.Dataset:
    """Sample and compute the LLC in one call.

    Parameters
    ----------
    model, dataset, observables, lr, n_beta, param_masks, loss_fn, **kwargs
        As in `devinterp.sample`.
    over, burnin, observable, ci
        As in `compute_llc`; ``over="paired"`` implies ``save_paired_losses=True``.

    Returns
    -------
    xarray.Dataset
        As `compute_llc`.
    """
    from devinterp.slt.sampling import sample

    if over == "paired":
        kwargs.setdefault("save_paired_losses", True)
    samples = sample(
        model, dataset, observables, lr=lr, n_beta=n_beta, param_masks=param_masks, loss_fn=loss_fn, **kwargs
    )
    return compute_llc(samples, over=over, burnin=burnin, observable=observable, ci=ci)


def data_refined_llc(
    model: torch.nn.Module,
    kinds: Mapping[str, Any],
    *,
    lr: float,
    n_beta: float,
    param_masks: Any = None,
    loss_fn: Any = None,
    ci: float | None = None,
    output_path: Any = None,
    **kwargs: Any,
) -> xr.Dataset:
    """Sample on each kind of data, and compute the LLC of the model with that loss: the data-refined LLC.

    The posterior is that of the one kind alone (Wang et al. 2024, `arXiv:2410.02984
    <https://arxiv.org/abs/2410.02984>`_). How much the loss of one kind rises while the chain samples on *all* data is
    another number: `compute_llc` with ``over="observable"`` and ``observable=KIND``. With `param_masks`, weights are
    refined too.

    Parameters
    ----------
    model, lr, n_beta, param_masks, loss_fn, **kwargs
        As in `devinterp.sample`; the observable is the kind itself.
    kinds : mapping of str to dataset
        The kinds of data, by name, each as ``sample()`` takes a dataset.
    ci : float, optional
        As in `compute_llc`.
    output_path : path or URL, optional
        Folder in which each kind has a store of its own, ``KIND.zarr``. None makes temporary ones.

    Returns
    -------
    xarray.Dataset
        As `compute_llc` with ``over="observable"``, with a leading dimension ``data``: on the fixed rows of each kind.

    Raises
    ------
    SettingError
        There is no kind, or two names make the same observable.
    """
    from devinterp.slt.sampling import sample

    names = {str(kind): sanitize_observable_name(str(kind)) for kind in kinds}
    if not names or len({name.lower() for name in names.values()}) < len(names):
        raise SettingError(
            "Each kind of data needs a name of its own.",
            expected="at least one, different also where all that is not a letter or digit is _",
            found=list(names) or "none",
        )
    results = {}
    for kind, name in names.items():
        path = None if output_path is None else f"{str(output_path).rstrip('/')}/{name}.zarr"
        arguments = {"lr": lr, "n_beta": n_beta, "param_masks": param_masks, "loss_fn": loss_fn, "output_path": path}
        tree = sample(model, kinds[kind], {kind: kinds[kind]}, **arguments, **kwargs)
        results[kind] = compute_llc(tree, over="observable", observable=kind, ci=ci)
    laid = lay_out(results, {"data": string_index(results)}, what="kinds of data")
    attrs = shared_attrs(results, each=(*ChainSelection.COUNTS, "observable"))
    return label_result(laid, "llc", attrs=attrs)
