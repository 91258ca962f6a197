"""Results of the runs of a study, the checkpoints of a series, the cells of a sweep, put side by side."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from devinterp.errors import AllChainsFailedError, MissingVariableError, ProvenanceError
from devinterp.slt.runs.chains import ChainSelection
from devinterp.slt.runs.comparable import check_cells, check_curve
from devinterp.slt.runs.grid import Grid, grid_of, plain_grid
from devinterp.slt.runs.results import label_result, refuse_empty, schema_id, string_index, told
from devinterp.slt.runs.run import Samples, Tree, series_members, study_members

__all__ = ["One", "along_checkpoints", "lay_out", "over_cells", "over_runs", "shared_attrs"]

One = Callable[[Samples, bool], tuple[xr.Dataset, ChainSelection]]
"""A run, and whether to warn of chains that are left out, to its result and the chains that it is from."""

RAGGED = ("chain", "draw", "step")
"""Dimensions along which runs may have other sizes: NaN fills up."""

OF_EACH = ("step_inflation", "step_inflation_is")
"""Attributes of a run's result, besides n_beta and the chains, that every run has for itself, or has not."""


def lay_out(
    results: Mapping[Any, xr.Dataset],
    axes: Mapping[str, Any],
    places: Mapping[Any, tuple[int, ...]] | None = None,
    *,
    what: str,
) -> xr.Dataset:
    """Put results side by side.

    Parameters
    ----------
    results : mapping to Dataset
        By restriction, checkpoint or cell, with the same variables.
    axes : mapping of str to array
        The new leading dimensions and their coordinates.
    places : mapping to tuple of int, optional
        Where each result stands along `axes`; by default one after the other along the only one. Where nothing stands
        there is NaN.
    what : str
        What is put side by side, for messages: ``"checkpoints of the series"``.

    Returns
    -------
    xarray.Dataset
        A coordinate along chains, draws or steps is kept where all results have the same.

    Raises
    ------
    ProvenanceError
        They are of other restrictions, rows or positions.
    """
    keys = list(results)
    places = {key: (i,) for i, key in enumerate(keys)} if places is None else places
    first = results[keys[0]]
    sizes = {dim: max(r.sizes.get(dim, 0) for r in results.values()) for dim in first.dims}
    fixed = {name: c.variable for name, c in first.coords.items() if not set(c.dims) & set(RAGGED)}
    for key, result in results.items():
        same = all(result.sizes.get(dim) == size for dim, size in sizes.items() if dim not in RAGGED)
        if not same or any(
            name not in result.coords or not v.equals(result[name].variable) for name, v in fixed.items()
        ):
            raise ProvenanceError(
                f"The {what} have different weight restrictions or rows.",
                expected=f"those of {keys[0]!r} everywhere",
                found=f"others in {key!r}",
                remedy="Select what all have, or analyse them one by one.",
            )
    shape = tuple(len(axis) for axis in axes.values())
    laid: dict[Hashable, Any] = {}
    for name, variable in first.data_vars.items():
        if not all(name in result for result in results.values()):
            continue
        values = np.full((*shape, *(sizes[d] for d in variable.dims)), np.nan, dtype=variable.dtype)
        for key, result in results.items():
            own = result[name].transpose(*variable.dims).values
            place: tuple[Any, ...] = (*places[key], *(slice(n) for n in own.shape))
            values[place] = own
        laid[name] = ((*axes, *variable.dims), values, variable.attrs)
    coords = dict(fixed)
    for name, c in first.coords.items():
        if name not in fixed and all(
            name in r.coords and c.variable.equals(r[name].variable) for r in results.values()
        ):
            coords[name] = c.variable
    return xr.Dataset(laid, coords={**coords, **{name: (name, axis) for name, axis in axes.items()}})


def shared_attrs(results: Mapping[Any, xr.Dataset], *, each: Collection[str] = ()) -> dict[str, Any]:
    """Return the attributes that results share; one that differs, or is among ``each``, as a mapping by their names."""
    first = next(iter(results.values()))
    return {
        str(key): value
        if key not in each and all(r.attrs.get(key) == value for r in results.values())
        else {str(name): told(r.attrs, str(key)) for name, r in results.items()}
        for key, value in first.attrs.items()
    }


def over_cells(grid: Grid, results: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Put the results of the cells of a sweep side by side over its axes."""
    return lay_out(results, grid.axes, grid.places, what="cells of the sweep")


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
        laid = along_checkpoints(each, mixed=mixed)
        return label_result(laid, kind, attrs=laid.attrs)
    grid = grid_of(samples)
    if grid is not None:
        if not grid.cells:
            refuse_empty(samples)  # type: ignore[arg-type]  # a tree: a mapping has no grid
        return _finish(_of_cells(grid, one, allow_partial), kind)
    members = study_members(samples)
    if members is None:
        run = Samples.of(samples, allow_partial=allow_partial)  # type: ignore[arg-type]  # no mapping: study_members
        return _finish(one(run, True)[0], kind)
    if not members:
        raise MissingVariableError("The study is empty.", expected="at least one run", found="none")
    results = {n: one(Samples.of(tree, label=n, allow_partial=allow_partial), True)[0] for n, tree in members.items()}
    laid = lay_out(results, {"wr": string_index(results)}, what="runs of the study")
    return _finish(laid.assign_attrs(shared_attrs(results, each=("n_beta", *OF_EACH, *ChainSelection.COUNTS))), kind)


def _of_cells(grid: Grid, one: One, allow_partial: bool) -> xr.Dataset:
    """Lay the result of every cell out over the grid; that chains diverge in some is what a sweep is to find out."""
    runs = {name: Samples.of(tree, label=name, allow_partial=allow_partial) for name, tree in grid.cells.items()}
    check_cells(runs)
    results: dict[str, xr.Dataset] = {}
    counts: dict[str, dict[str, Any]] = {key: {} for key in ChainSelection.COUNTS}
    failure: AllChainsFailedError | None = None
    for name, run in runs.items():
        try:
            results[name], selection = one(run, False)
        except AllChainsFailedError as error:
            failure, selection = error, ChainSelection.none_of(run.dataset.sizes["chain"])
        for key, value in selection.attrs.items():
            counts[key][name] = value
    if not results and failure is not None:
        raise failure
    attrs = shared_attrs(results, each=OF_EACH)
    attrs.pop("n_beta", None)
    return plain_grid(over_cells(grid, results)).assign_attrs(attrs | counts)


def _finish(result: xr.Dataset, kind: str) -> xr.Dataset:
    return label_result(result, kind, attrs={"devinterp_schema": schema_id(kind), **result.attrs})


def along_checkpoints(results: Mapping[int, xr.Dataset], *, mixed: tuple[str, ...]) -> xr.Dataset:
    """Put the results of the checkpoints of a series side by side, with a leading dimension ``checkpoint``.

    Parameters
    ----------
    results : mapping of int to Dataset
        By training step.
    mixed : tuple of str
        The settings that differ between them, noted in the attribute of this name.
    """
    steps = np.array(list(results), dtype=np.int64)
    laid = lay_out(results, {"checkpoint": steps}, what="checkpoints of the series")
    return laid.assign_attrs(shared_attrs(results) | ({"mixed": list(mixed)} if mixed else {}))
