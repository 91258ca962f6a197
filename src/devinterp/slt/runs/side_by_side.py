"""Results of the runs of a study, the checkpoints of a series, the cells of a sweep, put side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from devinterp.errors import AllChainsFailedError, MissingVariableError
from devinterp.slt.runs.chains import ChainSelection
from devinterp.slt.runs.comparable import check_cells, check_curve
from devinterp.slt.runs.grid import Grid, grid_of, plain_grid
from devinterp.slt.runs.results import label_result, lay_out, schema_id, shared_attrs, string_index
from devinterp.slt.runs.run import Samples, Tree, series_members, study_members

__all__ = ["One", "along_checkpoints", "over_runs"]

One = Callable[[Samples, bool], tuple[xr.Dataset, ChainSelection]]
"""A run, and whether to warn of chains that are left out, to its result and the chains that it is from."""

OF_EACH = ("step_inflation", "step_inflation_is")
"""Attributes of a run's result, besides n_beta and the chains, that every run has for itself, or has not."""


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
        return _finish(_over_cells(grid, one, allow_partial), kind)
    members = study_members(samples)
    if members is None:
        run = Samples.of(samples, allow_partial=allow_partial)  # type: ignore[arg-type]  # no mapping: study_members
        return _finish(one(run, True)[0], kind)
    if not members:
        raise MissingVariableError("The study is empty.", expected="at least one run", found="none")
    results = {n: one(Samples.of(tree, label=n, allow_partial=allow_partial), True)[0] for n, tree in members.items()}
    laid = lay_out(results, {"wr": string_index(results)}, what="runs of the study")
    return _finish(laid.assign_attrs(shared_attrs(results, each=("n_beta", *OF_EACH, *ChainSelection.COUNTS))), kind)


def _over_cells(grid: Grid, one: One, allow_partial: bool) -> xr.Dataset:
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
    return plain_grid(grid.lay_out(results)).assign_attrs(attrs | counts)


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
