"""What came of every cell of a sweep: LLC, its error, R-hat, effective draws, a verdict and the time it took."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import xarray as xr

from devinterp.errors import AllChainsFailedError, MissingVariableError, SettingError
from devinterp.plain_json import dig
from devinterp.slt.diagnostics import Diagnosis, diagnose
from devinterp.slt.llc import compute_llc
from devinterp.slt.llc.of_run import best_average
from devinterp.slt.runs.comparable import check_cells
from devinterp.slt.runs.grid import SETTINGS, Grid, grid_of, plain_grid
from devinterp.slt.runs.read_blocks import reading_once
from devinterp.slt.runs.results import label_result, schema_id
from devinterp.slt.runs.run import Samples, Tree, metadata_of
from devinterp.slt.runs.side_by_side import lay_out, over_cells, shared_attrs

__all__ = ["CONTROL", "compute_sweep"]

CONTROL = "control"
"""Verdict on a cell whose n_beta or lr is 0: it is what the others are held against, and never recommended."""


def compute_sweep(
    sweep: Tree,
    *,
    over: Literal["draws", "observable", "paired"] | None = None,
    observable: str | None = None,
    ci: float = 0.9,
    allow_partial: bool = False,
) -> xr.Dataset:
    """Summarise a sweep over the grid of its settings.

    Parameters
    ----------
    sweep : DataTree
        What `devinterp.sweep` returned, or a selection of it (``tree.isel(draw=slice(20, None))``).
    over, observable, allow_partial
        As in `devinterp.slt.llc.compute_llc`. By default ``over`` is ``"observable"`` where every cell has fixed rows
        of the sampling task, else ``"draws"``.
    ci : float
        Level of the interval ``llc_ci``.

    Returns
    -------
    xarray.Dataset
        Schema ``devinterp/sweep_summary@1``, dims (lr, n_beta, localization), each ascending, and before them what else
        the grid varies (batch_size, rmsprop_eps, rmsprop_alpha). float64: ``llc_mean``,
        ``llc_se``, ``share_of_control``, ``share_se``, ``rhat``, ``ess_bulk``, ``signal_to_variation`` and
        ``step_inflation`` (measured from saved metrics), unit 1;
        ``rise`` and ``rise_se``, nat; ``seconds``, s; ``llc_ci`` (..., bound). int64: ``num_draws``, ``num_chains`` and
        ``spikes``.
        ``verdict`` is a string: a code of `devinterp.slt.diagnostics.Verdict`, ``"control"`` where n_beta or lr is 0,
        or empty where the grid has no cell. Attributes ``over``, ``ci``, and ``rows``: whether verdicts rest on fixed
        rows or on minibatches.

    Raises
    ------
    SettingError
        ``sweep`` is not a sweep.
    MissingVariableError, IncompleteStoreError
        As `compute_llc`.

    Notes
    -----
    A cell whose chains all failed has NaN for estimates, and its verdict. ``llc_se`` is of the draws alone, n_beta
    times ``rise_se``: cells that share their rows are compared by it. ``llc_ci`` also holds the noise of which rows
    those are.

    ``share_of_control`` is the rise over that of the control, the cell without loss (n_beta = 0) at the same other
    settings: for a quadratic loss of curvature h it is localization / (n_beta h + localization).
    """
    grid = grid_of(sweep)
    if grid is None:
        raise SettingError(
            "This is not a sweep.",
            expected="the tree that devinterp.sweep returned",
            remedy="A run or a study is judged by diagnose().",
        )
    best: Literal["draws", "observable"] = "draws"
    if observable is not None or best_average(dict(grid.cells)) == "observable":
        best = "observable"
    average = over or best
    asked = {"over": average, "observable": observable, "ci": ci, "allow_partial": allow_partial}
    with reading_once():
        estimates = _estimates(grid, sweep, asked)
        diagnoses: dict[str, Diagnosis] = grid.map(lambda name, run: _judged(run, observable))
    result = over_cells(grid, {name: _cell(diagnosis) for name, diagnosis in diagnoses.items()})
    result["llc_mean"], result["llc_ci"] = estimates["llc_mean"], estimates["llc_ci"]
    result["llc_se"] = result["rise_se"] * result["n_beta"]
    _fill_counts(result, grid, diagnoses)
    result["share_of_control"], result["share_se"] = _share_of_control(result)
    attrs = {k: estimates.attrs[k] for k in ("over", "ci", "observable") if k in estimates.attrs}
    attrs["rows"] = next(iter(diagnoses.values())).rows
    return label_result(result, "sweep_summary", attrs={"devinterp_schema": schema_id("sweep_summary"), **attrs})


def _estimates(grid: Grid, sweep: Tree, asked: dict[str, Any]) -> xr.Dataset:
    """Return ``llc_mean`` and ``llc_ci`` over all axes, one grid of lr, n_beta and localization at a time."""
    outer = {name: axis for name, axis in grid.axes.items() if name not in SETTINGS}
    if not outer:
        return _llc(sweep, asked)
    check_cells({name: Samples.of(run, label=name, allow_partial=True) for name, run in grid.cells.items()})
    parts: dict[tuple[int, ...], dict[str, xr.DataTree]] = {}
    for name, place in grid.places.items():
        parts.setdefault(place[: len(outer)], {})[name] = grid.cells[name]
    results: dict[tuple[int, ...], xr.Dataset] = {}
    for place, cells in parts.items():
        part = xr.DataTree.from_dict(dict(cells))
        part.attrs["metadata"] = {"config": {"cells": list(cells)}}
        found = _llc(part, asked)
        results[place] = found[["llc_mean", "llc_ci"]].reindex({name: grid.axes[name] for name in SETTINGS})
    laid = lay_out(results, outer, {place: place for place in results}, what="cells of the sweep")
    return laid.assign_attrs(shared_attrs(results))


def _llc(sweep: Tree, asked: dict[str, Any]) -> xr.Dataset:
    try:
        return compute_llc(sweep, **asked)
    except AllChainsFailedError:  # of every cell: then there is no estimate, and the verdicts say so
        unknown = xr.Dataset({"llc_mean": np.nan, "llc_ci": ("bound", [np.nan, np.nan])})
        grid = grid_of(sweep)
        assert grid is not None
        laid = plain_grid(over_cells(grid, dict.fromkeys(grid.cells, unknown)))
        return laid.assign_attrs(over=asked["over"], ci=float(asked["ci"]))


def _judged(run: xr.DataTree, observable: str | None) -> Diagnosis:
    found = diagnose(run, sampling_task=observable)
    if not isinstance(found, Diagnosis):
        raise MissingVariableError("A cell of the sweep holds no run.", found=run.path)
    return found


def _cell(d: Diagnosis) -> xr.Dataset:
    def number(value: float | None) -> np.float64:
        return np.float64(np.nan if value is None else value)

    names = ("rise", "rise_se", "rhat", "ess_bulk", "signal_to_variation")
    bias = d.step_bias if d.step_bias is not None and d.step_bias.source == "metrics" else None
    values = {name: number(getattr(d, name)) for name in names}
    return xr.Dataset({**values, "step_inflation": number(None if bias is None else bias.inflation)})


def _fill_counts(result: xr.Dataset, grid: Grid, diagnoses: dict[str, Diagnosis]) -> None:
    """Add what is not a float: numbers of draws, chains and spikes, the verdict; and the seconds."""
    counts = {name: np.zeros(grid.shape, dtype=np.int64) for name in ("num_draws", "num_chains", "spikes")}
    verdict = np.full(grid.shape, "", dtype=object)
    seconds = np.full(grid.shape, np.nan)
    for name, d in diagnoses.items():
        place, run = grid.places[name], grid.cells[name]
        counts["num_draws"][place] = Samples.of(run, allow_partial=True).dataset.sizes.get("draw", 0)
        counts["num_chains"][place] = sum(c.status == "complete" for c in d.chains)
        counts["spikes"][place] = sum(c.n_spikes for c in d.chains)
        still = any(grid.axes[s][i] == 0 for s, i in zip(grid.axes, place, strict=True) if s in ("lr", "n_beta"))
        verdict[place] = CONTROL if still else d.verdict.code
        times: Any = dig(metadata_of(run), "run.seconds") or [None]
        seconds[place] = np.nan if None in times else sum(times)
    for name, values in {**counts, "verdict": verdict, "seconds": seconds}.items():
        result[name] = (tuple(grid.axes), values)


def _share_of_control(result: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Rise over that of the control, and its standard error."""
    rise, error = result["rise"], result["rise_se"]
    if result["n_beta"].values[0] != 0:
        return xr.full_like(rise, np.nan), xr.full_like(rise, np.nan)
    control, control_error = (each.isel(n_beta=0, drop=True) for each in (rise, error))
    control = control.where(control > 0)
    share = (rise / control).where(result["n_beta"] > 0)
    spread = (error**2 + (share * control_error) ** 2) ** 0.5 / control
    return share.transpose(*rise.dims), spread.transpose(*rise.dims)
