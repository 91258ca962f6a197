"""Results of the runs of a study, the checkpoints of a series, the cells of a sweep, put side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from devinterp.errors import AllChainsFailedError, MissingVariableError, ProvenanceError
from devinterp.plain_json import dig
from devinterp.slt.runs.chains import ChainSelection
from devinterp.slt.runs.grid import Grid, grid_of
from devinterp.slt.runs.results import label_result, schema_id, string_index, told
from devinterp.slt.runs.run import Samples, Tree, series_members, study_members

__all__ = ["One", "check_curve", "over_runs", "series_members", "stack_checkpoints"]

One = Callable[[Samples, bool], tuple[xr.Dataset, ChainSelection]]
"""A run, and whether to warn of chains that are left out, to its result and the chains that it is from."""

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


def over_runs(
    samples: Tree | Mapping[str, Tree], kind: str, one: One, *, allow_partial: bool = False, allow_mixed: bool = False
) -> xr.Dataset:
    """Estimate from a run, or from every run of a study, series or sweep.

    Parameters
    ----------
    samples : DataTree, Dataset, or mapping of str to DataTree
    kind : str
        Name of the result's schema.
    one : callable
        Makes the result of one run. Its attribute ``n_beta``, if any, is the run's own, all others are options.
    allow_partial, allow_mixed : bool
        As in `devinterp.slt.llc.compute_llc`.

    Returns
    -------
    xarray.Dataset
        Of a study with a leading dimension ``wr``, of a series with ``checkpoint`` before it, of a sweep with ``lr``,
        ``n_beta`` and ``localization``; NaN where no chain is left, and where numbers of chains or draws differ.
    """
    checkpoints = series_members(samples)
    if checkpoints is not None:
        mixed = check_curve(checkpoints, allow_mixed=allow_mixed)
        each = {step: over_runs(study, kind, one, allow_partial=allow_partial) for step, study in checkpoints.items()}
        stacked = stack_checkpoints(each, mixed=mixed)
        return label_result(stacked, kind, attrs=stacked.attrs)
    grid = grid_of(samples)
    if grid is not None:
        return _over_cells(grid, kind, one, allow_partial)
    members = study_members(samples)
    if members is None:
        run = Samples.of(samples, allow_partial=allow_partial)  # type: ignore[arg-type]  # no mapping: study_members
        result, _ = one(run, True)
        return label_result(result, kind, attrs={"devinterp_schema": schema_id(kind), **result.attrs})
    if not members:
        raise MissingVariableError("The study is empty.", expected="at least one run", found="none")
    found = {n: one(Samples.of(tree, label=n, allow_partial=allow_partial), True) for n, tree in members.items()}
    return _stack_restrictions(found, kind)


def _over_cells(grid: Grid, kind: str, one: One, allow_partial: bool) -> xr.Dataset:
    """Lay the result of every cell out over the grid; that chains diverge in some is what a sweep is to find out."""
    results: dict[str, xr.Dataset] = {}
    used: dict[str, int] = {}
    excluded: dict[str, list[int]] = {}
    failure: AllChainsFailedError | None = None
    for name, tree in grid.cells.items():
        run = Samples.of(tree, label=name, allow_partial=allow_partial)
        try:
            results[name], selection = one(run, False)
        except AllChainsFailedError as error:
            failure, used[name] = error, 0
            excluded[name] = list(range(run.dataset.sizes["chain"]))
            continue
        used[name], excluded[name] = len(selection.used), list(selection.excluded)
    if not results and failure is not None:
        raise failure
    attrs = {k: v for k, v in next(iter(results.values())).attrs.items() if k not in ("n_beta", *selection.attrs)}
    attrs |= {"n_chains_used": used, "chains_excluded": excluded}
    return label_result(grid.lay_out(results), kind, attrs={"devinterp_schema": schema_id(kind), **attrs})


def _stack_restrictions(found: Mapping[str, tuple[xr.Dataset, ChainSelection]], kind: str) -> xr.Dataset:
    """Put the runs of a study side by side; where they have other numbers of chains or draws, NaN fills up."""
    results = {name: result for name, (result, _) in found.items()}
    dims = dict.fromkeys(dim for r in results.values() for dim in r.sizes)
    sizes = {dim: max(r.sizes[dim] for r in results.values() if dim in r.sizes) for dim in dims}
    padded = [
        r.pad({dim: (0, n - r.sizes[dim]) for dim, n in sizes.items() if r.sizes[dim] < n}, constant_values=np.nan)
        for r in results.values()
    ]
    stacked = xr.concat(padded, dim="wr", data_vars="all", coords="minimal", compat="override", join="exact")
    stacked = stacked.assign_coords(wr=("wr", string_index(found)))
    first, selection = next(iter(found.values()))
    of_each = [key for key in ("n_beta", *selection.attrs) if key in first.attrs]
    attrs = {k: v for k, v in first.attrs.items() if k not in of_each}
    attrs |= {key: {name: r.attrs[key] for name, r in results.items()} for key in of_each}
    return label_result(stacked, kind, attrs={"devinterp_schema": schema_id(kind), **attrs})


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
        else {str(s): told(r.attrs, key) for s, r in results.items()}
        for key, value in each[0].attrs.items()
    }
    if mixed:
        stacked.attrs["mixed"] = list(mixed)
    return stacked
