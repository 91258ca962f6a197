"""Results of the checkpoints of a series, put side by side along ``checkpoint``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from devinterp.errors import ProvenanceError
from devinterp.slt._samples import Tree, dig, metadata_of, study_members

__all__ = ["series_members", "stack_checkpoints"]


def series_members(obj: Tree | Mapping[str, Tree]) -> dict[int, xr.DataTree] | None:
    """Return the studies of a series by training step, in the store's order, or None where ``obj`` is no series."""
    if not isinstance(obj, xr.DataTree):
        return None
    members = {
        int(name): child
        for name, child in obj.children.items()
        if str(name).isdecimal() and study_members(child) is not None
    }
    order = dig(metadata_of(obj), "config.checkpoints")
    if isinstance(order, list):
        members = {step: members[step] for step in [*(s for s in order if s in members), *members] if step in members}
    return members or None


def stack_checkpoints(
    members: Mapping[int, xr.DataTree], compute: Callable[[xr.DataTree], xr.Dataset], *, fill: float = np.nan
) -> xr.Dataset:
    """Compute a result for every checkpoint and put them side by side.

    Parameters
    ----------
    members : mapping of int to DataTree
        Studies by training step.
    compute : callable
        Gives the result of one study, with the same restrictions in each.
    fill : float
        Fills up where checkpoints have other numbers of chains or draws.

    Returns
    -------
    xarray.Dataset
        With a leading dimension ``checkpoint``. An attribute that differs becomes a mapping by training step.

    Raises
    ------
    ProvenanceError
        The checkpoints have other restrictions, or settings that make a curve over them meaningless.
    """
    _check_settings(members)
    results = [compute(study) for study in members.values()]
    sizes = {dim: max(r.sizes[dim] for r in results) for dim in results[0].sizes}
    padded = [
        r.pad({d: (0, n - r.sizes[d]) for d, n in sizes.items() if r.sizes[d] < n}, constant_values=fill)
        for r in results
    ]
    try:
        stacked = xr.concat(
            padded,
            dim="checkpoint",
            data_vars="all",
            coords="minimal",
            compat="override",
            join="exact",
            combine_attrs="drop",
        )
    except ValueError as error:
        raise ProvenanceError(
            "The checkpoints of the series have different weight restrictions.",
            expected=f"those of checkpoint {next(iter(members))} at every checkpoint",
            remedy="Select the restrictions that all have.",
        ) from error
    stacked = stacked.assign_coords(checkpoint=("checkpoint", np.array(list(members), dtype=np.int64)))
    for name in stacked.data_vars:
        stacked[name].attrs = dict(results[0][name].attrs)
    stacked.attrs = {
        key: value if all(r.attrs.get(key) == value for r in results) else _by_step(key, members, results)
        for key, value in results[0].attrs.items()
    }
    return stacked


def _by_step(key: str, members: Mapping[int, xr.DataTree], results: list[xr.Dataset]) -> dict[str, Any]:
    return {str(step): r.attrs.get(key) for step, r in zip(members, results, strict=True)}


def _check_settings(members: Mapping[int, xr.DataTree]) -> None:
    """Refuse to draw one curve through checkpoints that were sampled from different posteriors."""
    names = ("n_beta", "localization", "noise_level", "llc_weight_decay", "sampling_method", "mode")
    seen: dict[str, Any] = {}
    for step, study in members.items():
        for restriction, child in (study_members(study) or {}).items():
            sampler = dig(metadata_of(child), "config.sampler") or {}
            for name in names:
                key = f"{restriction}: {name}"
                value = sampler.get(name)
                if seen.setdefault(key, value) != value:
                    raise ProvenanceError(
                        f"The checkpoints of the series were sampled with different settings ({key}).",
                        expected=seen[key],
                        found=f"{value} at checkpoint {step}",
                        remedy="Analyse the checkpoints one by one, or sample them with the same settings.",
                    )
