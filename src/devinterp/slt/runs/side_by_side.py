"""Results of the checkpoints of a series, put side by side along ``checkpoint``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from devinterp.errors import MissingVariableError, ProvenanceError
from devinterp.plain_json import dig
from devinterp.slt.runs.run import Samples, series_members, study_members

__all__ = ["check_curve", "series_members", "stack_checkpoints"]

# What decides the law that is sampled. How long it was sampled for may differ: that changes the error, not the value.
SETTINGS = (
    "lr",
    "n_beta",
    "localization",
    "noise_level",
    "llc_weight_decay",
    "bounding_box_size",
    "sampling_method",
    "sampling_method_kwargs",
    "batch_size",
    "gradient_accumulation_steps",
    "init_noise",
    "mode",
)
PROVENANCE = ("dataset", "loss", "tokenizer")


def check_curve(members: Mapping[int, xr.DataTree], *, allow_mixed: bool) -> tuple[str, ...]:
    """Return which settings differ between checkpoints, for the same restriction.

    Parameters
    ----------
    members : mapping of int to DataTree
        Studies by training step.
    allow_mixed : bool
        Accept that settings differ.

    Raises
    ------
    MissingVariableError
        There is no checkpoint.
    ProvenanceError
        The checkpoints were sampled with different settings and ``allow_mixed`` is false, or on different data.
    """
    if not members:
        raise MissingVariableError(
            "The selection has no checkpoint.", remedy="Widen it: series['checkpoint'] has the training steps."
        )
    seen: dict[tuple[str, str], tuple[int, Any]] = {}
    mixed: dict[str, str] = {}
    for step, study in members.items():
        for restriction, child in (study_members(study) or {}).items():
            run = Samples.of(child, label=restriction, allow_partial=True)
            known = {name: run.setting(name) for name in SETTINGS}
            if known["n_beta"] is None and "n_beta" in run.dataset:
                known["n_beta"] = run.n_beta
            known |= {f"provenance.{name}": dig(run.metadata, f"provenance.{name}") for name in PROVENANCE}
            for name, value in known.items():
                if value is None and name not in ("bounding_box_size", "init_noise"):
                    continue  # not recorded
                first, before = seen.setdefault((restriction, name), (step, value))
                if before != value and name not in mixed:
                    mixed[name] = (
                        f"{name} of {restriction!r} is {_short(before)} at checkpoint {first}, "
                        f"{_short(value)} at checkpoint {step}"
                    )
    foreign = {name: text for name, text in mixed.items() if name.startswith("provenance.")}
    if foreign or (mixed and not allow_mixed):
        wrong = foreign or mixed
        what = "on different data" if foreign else "with different settings, so that they make no one curve"
        remedy = "Sample them again on the same data, or analyse them one by one: tree['STEP']."
        if not foreign:
            remedy = "Pass allow_mixed=True to have them side by side all the same, or analyse them one by one."
        raise ProvenanceError(
            f"The checkpoints of the series were sampled {what}.", found="; ".join(wrong.values()), remedy=remedy
        )
    return tuple(mixed)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:30]}...{text[-6:]}"


def stack_checkpoints(results: Mapping[int, xr.Dataset], *, mixed: tuple[str, ...] = ()) -> xr.Dataset:
    """Put the results of checkpoints side by side.

    Parameters
    ----------
    results : mapping of int to Dataset
        By training step, with the same restrictions in each; NaN fills up where they have other numbers of chains or
        draws.
    mixed : tuple of str
        The settings that differ; noted in the attribute of this name.

    Returns
    -------
    xarray.Dataset
        With a leading dimension ``checkpoint``. An attribute that differs becomes a mapping by training step.

    Raises
    ------
    ProvenanceError
        The checkpoints have other restrictions, or other tokens.
    """
    each = list(results.values())
    sizes = {dim: max(r.sizes[dim] for r in each) for dim in ("chain", "draw", "step") if dim in each[0].dims}
    padded = [
        r.pad({d: (0, n - r.sizes[d]) for d, n in sizes.items() if r.sizes[d] < n}, constant_values=np.nan)
        for r in each
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
            "The checkpoints of the series have different weight restrictions or rows.",
            expected=f"those of checkpoint {next(iter(results))} at every checkpoint",
            remedy="Select what all have, or analyse the checkpoints one by one: tree['STEP'].",
        ) from error
    stacked = stacked.assign_coords(checkpoint=("checkpoint", np.array(list(results), dtype=np.int64)))
    for name in stacked.data_vars:
        stacked[name].attrs = dict(each[0][name].attrs)
    stacked.attrs = {
        key: value
        if all(r.attrs.get(key) == value for r in each)
        else {str(s): r.attrs.get(key) for s, r in results.items()}
        for key, value in each[0].attrs.items()
    }
    if mixed:
        stacked.attrs["mixed"] = list(mixed)
    return stacked
