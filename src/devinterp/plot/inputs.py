"""What a picture is given: a run, a study, or a result that was computed already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from devinterp.errors import MissingVariableError, SettingError
from devinterp.plain_json import listed
from devinterp.slt.runs.chains import chain_states
from devinterp.slt.runs.kind import kind_of
from devinterp.slt.runs.results import no_text, refuse_empty, result_of_tokens
from devinterp.slt.runs.run import Samples, Tree, series_members, study_members
from devinterp.slt.sweep.recommend import recommend
from devinterp.wording import shown

__all__ = [
    "as_bif",
    "as_llc",
    "as_susceptibilities",
    "chain_failures",
    "context_of",
    "llc_along",
    "observable_names",
    "one_run",
    "refuse_options",
]


_ALREADY = "this is a result already"


def _refuse(obj: Any, wanted: str) -> MissingVariableError:
    steps = series_members(obj)
    if steps is not None:
        last = max(steps, default=0)
        return MissingVariableError(
            f"A picture of {wanted} is of one checkpoint.",
            found=f"a series of {len(steps)} checkpoints",
            remedy=f"Choose one: tree.sel(checkpoint={last}).devinterp.plot, or tree['{last}'].devinterp.plot.",
        )
    return MissingVariableError(
        f"There is nothing here to draw {wanted} from.",
        expected="what sample() or the analysis of it returns",
        found=f"{kind_of(obj)} with the variables {shown(sorted(map(str, obj.data_vars))[:12])}",
    )


def refuse_options(options: Mapping[str, Any], why: str) -> None:
    """Raise `SettingError` where there are options for an analysis that is not made."""
    if options:
        raise SettingError(
            f"Options that nothing would heed: {', '.join(options)}.",
            expected=f"none, since {why}",
            remedy="Leave them out, or pass the run.",
        )


def one_run(obj: Tree) -> Samples:
    """Return the run of a samples tree; of a study, the run ``full``; of a sweep, the recommended cell."""
    kind = kind_of(obj)
    if kind == "samples":
        return Samples.of(obj, allow_partial=True)
    if kind == "sweep" and isinstance(obj, xr.DataTree):
        name = recommend(obj, allow_partial=True).cell
        return Samples.of(obj.children[name], label=name, allow_partial=True)
    members = study_members(obj) if kind == "study" else None
    if not members:
        raise _refuse(obj, "losses")
    name = "full" if "full" in members else next(iter(members))
    return Samples.of(members[name], label=name, allow_partial=True)


def chain_failures(run: Samples) -> dict[int, str]:
    """Return why each chain that did not complete did not, by position."""
    size = next((int(v.sizes["chain"]) for v in run.dataset.data_vars.values() if "chain" in v.dims), 0)
    return {c: reason for c, reason in enumerate(chain_states(run, size).failures) if reason is not None}


def as_llc(obj: Tree, **options: Any) -> xr.Dataset:
    """Return an LLC result, computed with ``options`` where ``obj`` is a run, a study or a series.

    The fixed rows of the sampling task come first: they have far less noise than minibatches.
    """
    kind = kind_of(obj)
    if kind == "llc" and "llc_mean" in obj.data_vars:
        refuse_options(options, _ALREADY)
        refuse_empty(obj)
        return obj.to_dataset() if isinstance(obj, xr.DataTree) else obj
    if kind not in ("samples", "study", "series"):
        raise _refuse(obj, "an LLC")
    from devinterp.slt.llc import compute_llc
    from devinterp.slt.llc.of_run import best_average

    options.setdefault("ci", 0.9)
    if "over" not in options:
        options["over"] = best_average(obj)
    return compute_llc(obj, **options)


def llc_along(obj: Tree, dim: str | None) -> xr.Dataset:
    """Return an LLC result that has the dimension ``dim``; with None, one that has chains alone."""
    result = as_llc(obj)
    if any(each in result.dims for each in ("checkpoint", "wr")) if dim is None else dim not in result.dims:
        raise SettingError(
            "This picture is not one of such an LLC.",
            expected="that of one run" if dim is None else f"the dimension {dim}",
            found="that of one run" if not result["llc_mean"].dims else f"dimensions {shown(result['llc_mean'].dims)}",
            remedy="plot.llc_estimates() draws each of them.",
        )
    return result


def as_bif(obj: Tree, **options: Any) -> xr.Dataset:
    """Return a BIF result, computed with ``options`` where ``obj`` is a run (of a study: ``full``)."""
    kind = kind_of(obj)
    if kind in ("bif", "bif_topk") and "influences" in obj.data_vars:
        if "checkpoint" in obj["influences"].dims:
            raise SettingError(
                "The result has several checkpoints, and a picture of influences is of one.",
                found=f"{obj.sizes['checkpoint']} checkpoints",
                remedy="Choose one: result.isel(checkpoint=0).",
            )
        refuse_options(options, _ALREADY)
        refuse_empty(obj)
        return obj.to_dataset() if isinstance(obj, xr.DataTree) else obj
    if kind not in ("samples", "study"):
        raise _refuse(obj, "influences")
    from devinterp.slt.bif import compute_bif

    members = study_members(obj)
    run = obj if members is None else members.get("full", next(iter(members.values())))
    return compute_bif(run, **options)


def as_susceptibilities(obj: Tree, **options: Any) -> xr.DataTree:
    """Return a susceptibility result, computed with ``options`` where ``obj`` is a study.

    A Dataset, or the group ``/susceptibilities`` alone, becomes a tree again, with its tokens where they are at hand.
    """
    kind = kind_of(obj)
    if kind == "study" and isinstance(obj, xr.DataTree):
        from devinterp.slt.susceptibilities import compute_susceptibilities

        return compute_susceptibilities(obj, **options)
    if kind != "susceptibilities":
        raise _refuse(obj, "susceptibilities")
    refuse_options(options, _ALREADY)
    refuse_empty(obj)
    if isinstance(obj, xr.Dataset):
        return xr.DataTree.from_dict({"/susceptibilities": obj})
    if "sus" not in obj.data_vars:
        return obj
    groups = {"/susceptibilities": obj.to_dataset()}
    if obj.parent is not None and "context" in obj.parent.children:
        groups["/context"] = obj.parent["context"].to_dataset()
    return xr.DataTree.from_dict(groups)


def context_of(tree: xr.DataTree) -> xr.Dataset:
    """Return the tokens beside susceptibilities.

    Raises `MissingVariableError` where they are not there, or the rows are not tokens.
    """
    if not result_of_tokens(tree.attrs):
        raise no_text("The rows of these susceptibilities")
    if "context" not in tree.children:
        raise MissingVariableError(
            "The tokens of these susceptibilities are not at hand.",
            expected="the group /context beside /susceptibilities",
            remedy="Pass the whole tree, not its Dataset.",
        )
    return tree["context"].to_dataset()


def observable_names(dataset: xr.Dataset) -> list[str]:
    """Return the names behind ``dataset_id``."""
    if "dataset_id_to_name" not in dataset.attrs:
        return [str(i) for i in range(int(np.max(dataset["dataset_id"].values, initial=0)) + 1)]
    return [str(n) for n in listed(dataset.attrs, "dataset_id_to_name")]
