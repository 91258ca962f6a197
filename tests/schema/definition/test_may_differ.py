"""One table says what may differ between runs, and everybody who asks reads it."""

from __future__ import annotations

import ast
import json
from copy import deepcopy
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
import yaml
from made_runs import make_run, make_series, make_study
from made_sweeps import make_sweep

import devinterp
from devinterp.errors import ProvenanceError
from devinterp.names import SECONDARY, SWEPT
from devinterp.schema import validate
from devinterp.schema.definition.load import schemas_folder
from devinterp.schema.definition.may_differ import SETTING, Entry, entries, overridable, settings_that, that
from devinterp.slt.llc import compute_llc
from devinterp.slt.susceptibilities import compute_susceptibilities
from devinterp.slt.sweep import compute_sweep
from devinterp.store.writing.compare_requests import differences
from devinterp.testing import make_tree

SOURCE = Path(devinterp.__file__).parent
BETWEEN = {"never", "asked", "noted", "freely"}

# Another value for every setting, so that a run differs in it alone.
OTHER: dict[str, Any] = {
    "sampling_method": "rmsprop_sgld",
    "sampling_method_kwargs": {"alpha": 0.5, "eps": 0.1},
    "mode": "eval",
    **dict.fromkeys(("shuffle", "match_sampling_input_ids_across_chains", "save_metrics", "save_step_losses"), False),
    **dict.fromkeys(("bounding_box_size", "init_noise", "rmsprop_eps", "rmsprop_alpha"), 0.25),
}
USUAL: dict[str, Any] = {
    "sampling_method": "sgmcmc_sgld",
    "sampling_method_kwargs": {},
    "mode": "train",
    **dict.fromkeys(("shuffle", "match_sampling_input_ids_across_chains", "save_metrics", "save_step_losses"), True),
    **dict.fromkeys(("bounding_box_size", "init_noise", "rmsprop_eps", "rmsprop_alpha"), None),
}


def value_of(entry: Entry, *, other: bool) -> Any:
    if entry.path.startswith(SETTING):
        return (OTHER if other else USUAL).get(entry.name, 7 if other else 5)
    if entry.path == "provenance.observables":
        return {"code": "b" if other else "a", "math": "m"}
    if entry.path == "provenance.visited":
        return {"count": 9, "rows": "same"}
    if entry.path == "config.rows_are_tokens":
        return not other
    if entry.path == "config.loss_unit":
        return "bit" if other else "nat"
    return {"told": "b" if other else "a"}


def tell(run: xr.DataTree, entry: Entry, value: Any) -> None:
    """Write one entry of the table into a run's metadata."""
    metadata = run.attrs["metadata"] = deepcopy(run.attrs["metadata"])
    *above, last = entry.path.split(".")
    for key in above:
        metadata = metadata.setdefault(key, {})
    metadata[last] = value
    for name in map(str, list(run.data_vars)):  # what follows from it in the arrays
        if last == "rows_are_tokens" and not value and "input_ids" in name:
            del run[name]
        elif last == "loss_unit" and run[name].attrs.get("units") == "nat":
            run[name].attrs["units"] = value


@cache
def made(which: str) -> xr.DataTree:
    makers = {
        "study": lambda: make_study(("full", "l0h0")),
        "series": lambda: make_series((0, 512)),
        "sweep": lambda: make_sweep((1e-3,), (0.0, 30.0), (1.0,), chains=2, draws=8),
    }
    return makers[which]()


stored_tree = cache(make_tree)


def pair(kind: str) -> tuple[xr.DataTree, xr.DataTree]:
    """Runs for an analysis and runs as a store has them, to be changed: their arrays are those of every other pair."""
    return made(kind).copy(), stored_tree(kind).copy()


def codes(stored: xr.DataTree) -> set[str]:
    return set(validate(stored, level="structure").codes)  # what runs say of themselves needs no value


TOLD = [e for e in entries().values() if e.path not in ("run", "config.observables", "provenance.visited")]
BY_PATH = pytest.mark.parametrize("entry", TOLD, ids=lambda e: e.path)


def test_every_setting_and_every_answer_is_there() -> None:
    settings = pytest.importorskip("devinterp.slt.sampling.settings")
    assert set(settings_that("rows", True, False)) == {f.name for f in fields(settings.SamplerSettings)}
    for entry in entries().values():
        assert {entry.study, entry.series, entry.sweep} <= BETWEEN, entry
        assert entry.resume in {"never", "grows", "follows", "freely"}, entry
        assert entry.own in {"", "restriction", "checkpoint"}, entry
        assert entry.why.endswith("."), entry
    text = (schemas_folder() / "runs" / "may_differ.yaml").read_text()
    keys = [node.value for node, _ in yaml.compose(text).value]
    assert len(set(keys)) == len(keys)


def test_every_entry_of_a_runs_provenance_is_there() -> None:
    pytest.importorskip("torch")
    from tiny_lm import build_model, build_tokens  # type: ignore[import-not-found]

    data = build_tokens("train", 8)
    options: dict[str, Any] = {"lr": 1e-4, "n_beta": 1.0, "num_chains": 1, "num_draws": 1, "batch_size": 2}
    tree = devinterp.sample(build_model(), data, {"code": data}, **options, num_init_loss_batches=1, progress=False)
    metadata = tree.attrs["metadata"]
    told = {f"provenance.{name}" for name in metadata["provenance"]} | {"provenance.tokenizer"}
    assert told <= set(entries())
    assert {e.path for e in entries().values() if e.path.startswith("provenance.")} == told
    assert set(metadata["config"]["sampler"]) == set(settings_that("rows", True, False))
    assert set(metadata["config"]) == {"sampler", "observables"}


def test_what_several_runs_may_be_sampled_with_can_be_put_together() -> None:
    for entry in entries().values():
        assert entry.own != "restriction" or entry.study == "noted", entry
        assert not entry.own or entry.series != "never", entry
    assert set(overridable("restriction")) < set(overridable("checkpoint"))
    assert set(settings_that("sweep", "noted")) == {*SWEPT, *STORED_AS.values(), *RMSPROP}


@BY_PATH
def test_a_study_is_combined_and_valid_by_the_same_rule(entry: Entry) -> None:
    study, stored = pair("study")
    for tree in (study, stored):
        for run in tree.children.values():
            tell(run, entry, value_of(entry, other=False))
    before = compute_susceptibilities(study)
    assert codes(stored).isdisjoint({"DI413"})
    for tree in (study, stored):
        tell(tree["l0h0"], entry, value_of(entry, other=True))
    assert ("DI413" in codes(stored)) == (entry.study == "never")
    if entry.study == "never":
        with pytest.raises(ProvenanceError, match=entry.path):
            compute_susceptibilities(study)
        return
    result = compute_susceptibilities(study)["susceptibilities"]
    assert result["sus"].identical(before["susceptibilities"]["sus"])
    assert set(json.loads(result.attrs.get("own_settings", "{}"))) == (
        {entry.name} if entry.study == "noted" else set()
    )


@pytest.mark.filterwarnings("ignore:init_loss was taken after init_noise")
@BY_PATH
def test_a_series_is_one_curve_and_valid_by_the_same_rule(entry: Entry) -> None:
    series, stored = pair("series")
    for tree in (series, stored):
        for step in ("0", "512"):
            for run in tree[step].children.values():
                tell(run, entry, value_of(entry, other=step == "512"))
    assert ("DI413" in codes(stored)) == (entry.series == "never")
    if entry.series in ("never", "asked"):
        with pytest.raises(ProvenanceError, match=entry.name):
            compute_llc(series)
    if entry.series == "never":
        with pytest.raises(ProvenanceError, match=entry.name):
            compute_llc(series, allow_mixed=True)
        return
    result = compute_llc(series, allow_mixed=entry.series == "asked")
    assert result.attrs.get("mixed", []) == ([entry.name] if entry.series == "asked" else [])


STORED_AS = {"batch_size": "gradient_accumulation_steps"}  # whose micro-batches all cells share
RMSPROP = {"rmsprop_eps", "rmsprop_alpha", "sampling_method_kwargs"}
assert set(SECONDARY) == {*STORED_AS, *RMSPROP} - {"sampling_method_kwargs"}


@BY_PATH
def test_a_sweep_is_laid_out_and_valid_by_the_same_rule(entry: Entry) -> None:
    sweep, stored = pair("sweep")
    for tree in (sweep, stored):
        for index, cell in enumerate(tree.children.values()):
            if entry.name not in SWEPT:
                tell(cell, entry, value_of(entry, other=index > 0))
    if entry.name not in SWEPT:
        assert ("DI413" in codes(stored)) == (entry.sweep == "never")
    if entry.sweep != "never":
        assert compute_llc(sweep).sizes["n_beta"] == 2
        return
    with pytest.raises(ProvenanceError, match=entry.path):
        compute_llc(sweep)
    with pytest.raises(ProvenanceError, match=entry.path):
        compute_sweep(sweep)


@BY_PATH
def test_a_store_is_resumed_by_the_same_rule(entry: Entry) -> None:
    ours, theirs = make_run(), make_run()
    tell(ours, entry, value_of(entry, other=True))
    tell(theirs, entry, value_of(entry, other=False))
    found = list(differences(ours.attrs["metadata"], theirs.attrs["metadata"]))
    assert bool(found) == (entry.resume != "freely")


@pytest.mark.parametrize("name", ["batch_size", "gradient_accumulation_steps"])
def test_runs_whose_minibatches_are_of_other_sizes_are_not_combined(name: str) -> None:
    runs = {"full": make_run(0, **{name: 2}), "l0h0": make_run(1, **{name: 4})}
    with pytest.raises(ProvenanceError, match=f"{name} of 'l0h0' is 4, of 'full' 2"):
        compute_susceptibilities(runs, "train")


@pytest.mark.parametrize(("name", "ours", "theirs"), [("init_noise", None, 0.1), ("bounding_box_size", 0.5, None)])
def test_none_is_a_value_of_a_setting(name: str, ours: Any, theirs: Any) -> None:
    runs = {"full": make_run(0, **{name: ours}), "l0h0": make_run(1, **{name: theirs})}
    with pytest.raises(ProvenanceError, match=name):
        compute_susceptibilities(runs, "train")
    del runs["l0h0"].attrs["metadata"]["config"]["sampler"][name]  # not recorded is not compared
    compute_susceptibilities(runs, "train")


def test_a_tokenizer_that_nobody_told_is_no_other_tokenizer() -> None:
    study, stored = pair("study")
    for tree in (study, stored):
        tell(tree["full"], entries()["provenance.tokenizer"], "gpt2")
        for name in set(tree.children) - {"full"}:
            tell(tree[name], entries()["provenance.tokenizer"], None)
    compute_susceptibilities(study)
    assert "DI413" not in codes(stored)


def test_no_second_list_of_settings_stands_anywhere() -> None:
    """A tuple of many settings' names is somebody's own idea of which of them matter."""
    settings = {e.name for e in entries().values() if e.path.startswith(SETTING)}
    origin = {e.path.removeprefix("provenance.") for e in that("resume", "never", "follows", "freely")}
    lists = {
        # What is shown, and what sizes are computed from: nothing is decided by them.
        "report/build.py",
        "cli/info.py",
        "slt/diagnostics/of_run.py",
    }
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Tuple | ast.List | ast.Set):
                texts = [e.value for e in node.elts if isinstance(e, ast.Constant) and isinstance(e.value, str)]
                names = {t.removeprefix(SETTING).removeprefix(f"metadata.{SETTING}") for t in texts}
                if len(names & settings) > 3 or len({t.removeprefix("provenance.") for t in texts} & origin) > 2:
                    found.add(path.relative_to(SOURCE).as_posix())
    assert found == lists
    for path in schemas_folder().glob("*.yaml"):
        assert "metadata.config.sampler.save_metrics" not in path.read_text().replace("path: metadata", "")
