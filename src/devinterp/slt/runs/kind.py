"""What a tree or dataset holds, by the attribute that names its schema, else by its variables."""

from __future__ import annotations

from typing import Any

import xarray as xr

from devinterp.slt.runs.grid import grid_of
from devinterp.slt.runs.run import is_samples, series_members, study_members

__all__ = ["kind_of"]


def kind_of(obj: Any) -> str:
    """Return samples, study, series, sweep, llc, bif, susceptibilities ..., another schema's name, or unknown.

    What ``series.sel(checkpoint=7)`` leaves is a study.
    """
    names = {str(name) for name in obj.data_vars}
    children = set(obj.children) if isinstance(obj, xr.DataTree) else set()
    declared = obj.attrs.get("devinterp_schema")
    if isinstance(declared, str) and "@" in declared:
        kind = declared.split("@")[0].rsplit("/", 1)[-1]
        return "study" if kind == "series" and series_members(obj) is None and study_members(obj) else kind
    if {"verdict", "llc_se"} <= names:
        return "sweep_summary"
    if "llc_mean" in names:
        return "llc"
    if "influences" in names:
        return "bif_topk" if "partner_batch" in names else "bif"
    if "sus" in names or {"susceptibilities", "context"} <= children:
        return "susceptibilities"
    if is_samples(obj):
        return "samples"
    if series_members(obj) is not None:
        return "series"
    if grid_of(obj) is not None:
        return "sweep"
    return "study" if study_members(obj) else "unknown"
