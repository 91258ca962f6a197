"""What a tree or dataset holds, by the attribute that names its schema, else by its variables."""

from __future__ import annotations

from typing import Any

import xarray as xr

from devinterp.slt._samples import is_samples, study_members

__all__ = ["kind_of"]


def kind_of(obj: Any) -> str:
    """Return samples, study, llc, bif, bif_topk, susceptibilities, another schema's name, or unknown."""
    names = {str(name) for name in obj.data_vars}
    children = set(obj.children) if isinstance(obj, xr.DataTree) else set()
    declared = obj.attrs.get("devinterp_schema")
    if isinstance(declared, str) and "@" in declared:
        return declared.split("@")[0].rsplit("/", 1)[-1]
    if "llc_mean" in names:
        return "llc"
    if "influences" in names:
        return "bif_topk" if "partner_batch" in names else "bif"
    if "sus" in names or {"susceptibilities", "context"} <= children:
        return "susceptibilities"
    if is_samples(obj):
        return "samples"
    return "study" if study_members(obj) else "unknown"
