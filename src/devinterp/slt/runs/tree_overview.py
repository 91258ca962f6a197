"""What a tree is, whether it is whole, and what can be called on it: in a few lines, without reading a loss."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape

import numpy as np
import xarray as xr

from devinterp.errors import DataError, ProvenanceError
from devinterp.plain_json import dig, listed
from devinterp.schema.definition.spec import NAT
from devinterp.slt.estimands import ESTIMANDS
from devinterp.slt.runs.chains import chain_states
from devinterp.slt.runs.grid import grid_of
from devinterp.slt.runs.kind import kind_of
from devinterp.slt.runs.results import loss_unit, of_tokens, result_of_tokens
from devinterp.slt.runs.run import Samples, Tree, is_samples, metadata_of, series_members, study_members

__all__ = ["calls", "how_made", "observables", "overview", "overview_html", "overview_text", "rows_text"]

TITLES = {
    "samples": "SGLD run",
    "study": "study of weight restrictions",
    "series": "series of checkpoints",
    "sweep": "sweep of sampler settings",
    "sweep_summary": "summary of a sweep",
    **{each.kind: each.title for each in ESTIMANDS.values()},
    **{kind: title for each in ESTIMANDS.values() for kind, title in each.variants.items()},
    "unflattened": "susceptibilities, an array for each observable",
    "unknown": "no devinterp data that is known",
}
ON_RUNS = {
    "samples": ("diagnose()", "*", "to_arviz()", "tokens()", "plot"),
    "study": ("diagnose()", "*", "split_half()", "tokens()", "plot"),
    "series": ("diagnose()", "*", "split_half()", "plot"),
    "sweep": ("recommend()", "sweep()", "diagnose()", "*", "plot"),
}
"""What can be called on what was sampled; the star stands for the estimands that take it."""
ON_RESULTS = {"sweep_summary": ("recommend()", "plot"), "bif_topk": ("tokens()",)}


def calls(kind: str, *, tokens: bool = True) -> str:
    """Return what can be called on a tree of a kind, whose rows are ``tokens`` or not."""
    if kind == "unflattened":
        return "flatten()"
    found: list[str] = []
    for name in ON_RUNS.get(kind, ON_RESULTS.get(kind, ())):
        found += [f"{e.kind}()" for e in ESTIMANDS.values() if kind in e.takes] if name == "*" else [name]
    if kind in ESTIMANDS:
        estimand = ESTIMANDS[kind]
        found += estimand.then or (("plot",) if estimand.picture else ())
    return " ".join(["validate()", "report()", *(name for name in found if tokens or name != "tokens()")])


def observables(obj: Tree) -> tuple[str, ...]:
    """Ids of the observables of a run, of the run ``full`` of a study or series, or of a result, in order."""
    run = _one_run(obj)
    if run is not None:
        return Samples.of(run, allow_partial=True).observables
    nodes = list(obj.subtree) if isinstance(obj, xr.DataTree) else [obj]
    for node in nodes:
        for key in ("dataset_id_to_name", "observables"):
            if key in node.attrs:
                return tuple(str(name) for name in listed(node.attrs, key))
    return ()


def rows_text(tokens: bool, unit: str, masked: Sequence[str]) -> str:
    """Say what is special about rows: that they are not tokens, a unit other than nat, where positions do not count."""
    parts = [] if tokens else ["no tokens"]
    parts += [] if unit == NAT else [f"losses in units of {unit}"]
    parts += [f"not all positions count of: {', '.join(masked)}"] if masked else []
    return "; ".join(parts)


def _rows(obj: Tree) -> str:
    """What is special about the rows of a run, of the run ``full`` of a study, or of a result."""
    run = _one_run(obj)
    if run is None:
        return rows_text(_of_tokens(obj), str(obj.attrs.get("loss_unit", NAT)), ())
    masked = [name for name in ("sampling", *observables(run)) if f"mask_{name}" in run.data_vars]
    return rows_text(_of_tokens(obj), loss_unit(metadata_of(run)), masked)


def _one_run(obj: Tree) -> Tree | None:
    """The run, the run ``full`` of a study or of the first checkpoint, the first cell of a sweep; None of a result."""
    if is_samples(obj):
        return obj
    steps, grid = series_members(obj), grid_of(obj) if kind_of(obj) == "sweep" else None
    members = grid.cells if grid is not None else study_members(next(iter(steps.values())) if steps else obj)
    return members.get("full", next(iter(members.values()))) if members else None


def _of_tokens(obj: Tree) -> bool:
    run = _one_run(obj)
    return result_of_tokens(obj.attrs) if run is None else of_tokens(metadata_of(run))


def overview(obj: Tree) -> list[tuple[str, str]]:
    """Return (what, text) pairs."""
    kind = kind_of(obj)
    rows = [("kind", TITLES.get(kind, kind))]
    if kind in ("study", "series"):
        steps = series_members(obj) or {}
        members = study_members(next(iter(steps.values())) if steps else obj) or {}
        if kind == "series":
            rows.append(("checkpoints", _some(steps)))
        rows.append(("restrictions", _some(members)))
        task = dig(metadata_of(obj), "config.sampling_task")
        rows += [("sampling task", str(task))] if task else []
        every = {
            f"{s}/{name}": tree for s, study in steps.items() for name, tree in (study_members(study) or {}).items()
        }
        states = {name: _state(tree) for name, tree in (every or members).items()}
        wrong = [f"{name}: {state}" for name, state in states.items() if state != "complete"]
        rows.append(("state", "; ".join(wrong[:5]) or "complete"))
    elif kind == "sweep":
        grid = grid_of(obj)
        if grid is not None:
            axes = [f"{name} {', '.join(f'{v:g}' for v in axis[:6])}" for name, axis in grid.axes.items()]
            rows += [("cells", str(len(grid.cells))), ("grid", "; ".join(axes))]
            whole = sum(_state(cell) == "complete" for cell in grid.cells.values())
            rows.append(("state", f"{whole} of {len(grid.cells)} cells without a failed chain"))
    elif kind == "samples":
        rows.append(("state", _state(obj)))
        sizes = [f"{obj.sizes[dim]} {dim}s" for dim in ("chain", "draw", "step") if dim in obj.sizes]
        rows.append(("size", ", ".join(sizes)))
        sampler = dig(metadata_of(obj), "config.sampler") or {}
        shown = [f"{k} {sampler[k]:g}" for k in ("lr", "n_beta", "localization") if k in sampler]
        rows += [("settings", ", ".join(shown))] if shown else []
    else:
        rows += _result_rows(obj)
    if kind in ("samples", "study", "series"):
        rows.append(("health", "diagnose() reads the losses and judges"))
    names_found = observables(obj)
    rows += [("observables", ", ".join(names_found))] if names_found else []
    told = _rows(obj)
    rows += [("rows", told)] if told else []
    rows.append(("can be called", calls(kind, tokens=_of_tokens(obj))))
    return rows


def _result_rows(obj: Tree) -> list[tuple[str, str]]:
    """How a result was made, and of one LLC the number itself."""
    rows: list[tuple[str, str]] = []
    dims = [d for d in ("checkpoint", "wr", "batch_1", "batch_2", "target_position") if d in obj.sizes]
    rows += [("size", ", ".join(f"{obj.sizes[d]} {d}" for d in dims))] if dims else []
    if "llc_mean" in obj.data_vars and not obj["llc_mean"].dims:
        ends = [f"{float(v):.4g}" for v in obj.data_vars["llc_ci"].values] if "llc_ci" in obj.data_vars else []
        between = f"{' to '.join(ends)} at these settings"
        level = f", {100 * float(obj.attrs.get('ci', 0)):g} % interval {between}" if ends else ""
        rows.append(("LLC", f"{float(obj['llc_mean']):.4g}{level}"))
    made = how_made(obj)
    rows += [("settings", made)] if made else []
    if isinstance(obj.attrs.get("n_chains_used"), int | np.integer):  # numpy's where a file of netCDF was read
        excluded = np.size(obj.attrs.get("chains_excluded", []))
        rows.append(("chains", f"{obj.attrs['n_chains_used']} used, {excluded} excluded"))
    return rows


def how_made(result: Tree) -> str:
    """Say with which options a result was computed, as far as its attributes name them."""
    named = ("over", "observable", "method", "sampling_task", "baseline")
    return ", ".join(f"{name} {result.attrs[name]}" for name in named if name in result.attrs)


def _some(names: Collection[object]) -> str:
    """How many there are, and the first of them."""
    shown = ", ".join(str(name) for name in list(names)[:8])
    return f"{len(names)} ({shown}{', ...' if len(names) > 8 else ''})"


def _state(obj: Tree) -> str:
    """Say, without reading a loss, whether the run is whole."""
    declared = "devinterp_schema" in obj.attrs or "completed" in obj.attrs
    run = Samples.of(obj, allow_partial=True)
    size = run.dataset.sizes.get("chain", 1)
    try:
        known, _ = chain_states(run, size).failures, run.n_beta if "n_beta" in run.dataset else None
    except (DataError, ProvenanceError) as error:  # of runs that were combined and do not belong together
        return error.problem
    failures = [f"chain {c} {why}" for c, why in enumerate(known) if why is not None]
    if declared and obj.attrs.get("completed") != 1:
        return "not completed"
    return "; ".join(failures) or "complete"


def overview_text(obj: Tree) -> str:
    """The overview as plain text."""
    rows = overview(obj)
    return "\n".join(["<devinterp>", *(f"  {name + ':':15s}{text}" for name, text in rows)])


def overview_html(obj: Tree) -> str:
    """The overview as an HTML table, every text escaped."""
    cells = "".join(
        f"<tr><th style='text-align:left'>{escape(name)}</th><td style='text-align:left'>{escape(text)}</td></tr>"
        for name, text in overview(obj)
    )
    caption = "<caption style='text-align:left;font-weight:bold'>devinterp</caption>"
    return f"<table>{caption}{cells}</table>"
