"""What a tree or dataset holds, by the schema that it names, else by its variables."""

from __future__ import annotations

from typing import Any

import xarray as xr

from devinterp.errors import SchemaError, SettingError
from devinterp.schema.checks.bind import load_by_id
from devinterp.schema.definition.spec import kind_named
from devinterp.slt.estimands import ESTIMANDS
from devinterp.slt.runs.grid import grid_of
from devinterp.slt.runs.run import is_samples, series_members, study_members

__all__ = ["kind_of"]


def kind_of(obj: Any) -> str:
    """Return samples, study, series, sweep, llc, bif, susceptibilities ..., another schema's name, or unknown.

    A tree that names an extension is of the kind that the extension goes back to. Where the schema that it names is
    not installed, its variables tell, and only where they tell nothing either, the schema's own name is returned.
    What ``series.sel(checkpoint=7)`` leaves is a study.

    Raises
    ------
    SettingError
        ``obj`` is neither a tree nor a dataset.
    """
    if not isinstance(obj, xr.DataTree | xr.Dataset):
        raise SettingError(
            "Only a tree or a dataset has a kind.",
            expected="an xarray.DataTree or xarray.Dataset",
            found=type(obj).__name__,
            remedy="Pass what sample() or an analysis returned, or open a store with devinterp.open_store(path).",
        )
    named = obj.attrs.get("devinterp_schema")
    kind = _kind_of_schema(named) if isinstance(named, str) else None
    if kind == "series" and series_members(obj) is None and study_members(obj):
        return "study"
    if kind is None:
        kind = _kind_of_names(obj)
        if kind == "unknown" and isinstance(named, str) and "@" in named:
            return kind_named(named)
    return kind


def _kind_of_schema(identity: str) -> str | None:
    """Return the kind of an installed schema; None where there is none of this id, or it is broken."""
    try:
        schema = load_by_id(identity, "strict")
    except SchemaError:
        return None
    return None if schema is None else schema.kind


def _kind_of_names(obj: xr.DataTree | xr.Dataset) -> str:
    names = {str(name) for name in obj.data_vars}
    if {"verdict", "llc_se"} <= names:
        return "sweep_summary"
    for kind, estimand in ESTIMANDS.items():
        if estimand.variable in names:
            return "bif_topk" if kind == "bif" and "partner_batch" in names else kind
    if is_samples(obj):
        return "samples"
    # A restriction or an observable may be called "susceptibilities" too.
    below = {str(n): c.to_dataset() for n, c in obj.children.items()} if isinstance(obj, xr.DataTree) else {}
    flat = below.get("susceptibilities")
    if flat is not None and "sus" in flat.data_vars and "target_position" not in flat.dims:
        return "susceptibilities"
    if any("sus" in child.data_vars for child in below.values()):
        return "unflattened"
    if series_members(obj) is not None:
        return "series"
    if grid_of(obj) is not None:
        return "sweep"
    return "study" if study_members(obj) else "unknown"
