"""Rules of the trees that hold several runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from contexts import context_of, said

from devinterp.schema import validate
from devinterp.schema.rules.registry import find_predicate
from devinterp.testing import StoreRecipe, make_tree
from devinterp.wording import shown

STEPS = ("0", "64", "512")


@pytest.fixture
def series() -> xr.DataTree:
    members = {"checkpoint": {step: {} for step in STEPS}, "restriction": {"full": {}, "l0h0": {}}}
    return make_tree(StoreRecipe("series", members=members, sizes={"token_pos": 2}))


def config(tree: xr.DataTree) -> dict[str, Any]:
    found: dict[str, Any] = tree.attrs["metadata"]["config"]
    return found


def found(tree: xr.DataTree, code: str) -> list[tuple[str, str | None, str | None]]:
    return [(path, f.expected, f.found) for f in validate(tree).filter(code=code).findings for path in f.paths]


def test_a_series_that_agrees_has_no_finding(series: xr.DataTree) -> None:
    assert validate(series).findings == ()


def test_a_listed_checkpoint_without_a_group_names_the_groups_there_are(series: xr.DataTree) -> None:
    del series["64"]
    assert found(series, "DI461") == [("/", "'64'", "0, 512")]


def test_a_group_that_is_not_listed_is_named_and_a_hidden_one_is_not_meant(series: xr.DataTree) -> None:
    series["128"] = series["64"].copy()
    series[".notes"] = xr.DataTree(xr.Dataset())
    assert found(series, "DI461") == [("/128", "a step of the list", "'128'")]


def test_the_number_of_training_steps_is_that_of_the_list(series: xr.DataTree) -> None:
    shorter = series.to_dataset().isel(checkpoint=slice(2))
    series.dataset = shorter
    assert found(series, "DI461") == [("/", "3", "2")]
    assert found(series, "DI462") == []  # said once


@pytest.mark.parametrize(
    ("path", "value"), [("restrictions", ["full", "l9h9"]), ("sampling_task", "nobody observed this")]
)
def test_every_study_is_one_of_the_series(series: xr.DataTree, path: str, value: Any) -> None:
    before = config(series)[path]
    config(series)[path] = value
    assert found(series, "DI461") == [(f"/{step}", shown(value), shown(before)) for step in STEPS]


def test_training_steps_are_those_of_the_list_in_its_order(series: xr.DataTree) -> None:
    series.dataset = series.to_dataset().assign_coords(checkpoint=np.array([0, 512, 64]))
    assert found(series, "DI462") == [("/checkpoint", "0, 64, 512", "0, 512, 64")]


def test_what_is_no_list_is_said_once_by_the_check_of_attributes(series: xr.DataTree) -> None:
    config(series)["checkpoints"] = 3
    codes = validate(series).codes
    assert "DI110" in codes
    assert not codes & {"DI461", "DI462"}


# sweeps


@pytest.fixture
def sweep() -> xr.DataTree:
    return make_tree(StoreRecipe("sweep", members={"cell": {"warm": {}, "cold": {}}}, sizes={"token_pos": 2}))


def test_a_sweep_that_agrees_has_no_finding(sweep: xr.DataTree) -> None:
    assert validate(sweep).findings == ()


def test_cells_that_a_disk_may_take_for_one_are_refused(sweep: xr.DataTree) -> None:
    sweep["Warm"] = sweep["warm"].copy()
    sweep.attrs["metadata"]["config"]["cells"].append("Warm")
    said = [f.message for f in validate(sweep).filter(code="DI451").findings]
    assert any("Warm" in message for message in said), said


def test_a_cell_without_a_group_names_the_groups_there_are(sweep: xr.DataTree) -> None:
    del sweep["cold"]
    (finding,) = validate(sweep).filter(code="DI451").findings
    assert (finding.path, finding.expected, finding.found) == ("/", "'cold'", "warm")


@pytest.mark.parametrize("kind", ["study", "sweep"])
def test_runs_of_the_same_weights_and_rows_began_at_the_same_losses(kind: str) -> None:
    tree = make_tree(kind)
    other = list(tree.children)[-1]
    name = next(str(n) for n in tree[other].data_vars if str(n).startswith("init_loss_"))
    start = tree[other][name].values
    start[:] *= np.float32(1.001)  # another machine, or another precision
    assert found(tree, "DI416") == []
    start[0, 0] += 1
    ((path, expected, told),) = found(tree, "DI416")
    assert path == f"/{other}/{name}"
    assert (expected or "").endswith("at (0, 0)")
    assert (told or "").endswith("; 1 value(s) differ")
    for run in tree.children.values():
        run.attrs["metadata"].setdefault("provenance", {})["random_forward"] = True
    assert found(tree, "DI416") == []


# ---- each relation by itself


def study() -> xr.DataTree:
    return make_tree("study")


def test_a_study_has_the_run_without_restriction() -> None:
    tree = study()
    assert said("study_has_full", tree, "study") == []
    without = tree.copy(deep=True)
    del without["full"]
    ((message, wanted, found, _),) = said("study_has_full", without, "study")
    assert (message, wanted) == ("The study has no group 'full'.", "full")
    assert found == ", ".join(sorted(without.children))


def test_listed_restrictions_and_groups_are_the_same() -> None:
    tree = study()
    assert said("study_restrictions_listed", tree, "study") == []
    listed = config(tree)["restrictions"]
    listed.append("ghost")
    groups = ", ".join(sorted(tree.children))
    assert said("study_restrictions_listed", tree, "study") == [
        ("A listed restriction has no group.", "'ghost'", groups, "")
    ]
    listed[:] = [n for n in listed if n not in ("ghost", "full")]
    assert said("study_restrictions_listed", tree, "study") == [
        ("A group is not among the listed restrictions.", "a name of the list", "'full'", "full")
    ]
    config(tree)["restrictions"] = "full"
    assert said("study_restrictions_listed", tree, "study") == []


def test_every_difference_between_runs_is_named() -> None:
    tree = study()
    paths = ["metadata.config.sampler"]
    for name in tree.children:
        tree[name].attrs["metadata"]["config"]["sampler"] = {"lr": 0.1, "deep": {"a": 1, "b": 2}}
    assert said("study_members_agree", tree, "study", paths=paths) == []
    other = next(n for n in tree.children if n != "full")
    tree[other].attrs["metadata"]["config"]["sampler"] = {"lr": 0.1, "deep": {"a": 3, "c": 4}}
    assert said("study_members_agree", tree, "study", paths=paths) == [
        ("metadata.config.sampler.deep.a differs from that of 'full'.", "1", "3", other),
        ("metadata.config.sampler.deep.b differs from that of 'full'.", "2", "none", other),
        ("metadata.config.sampler.deep.c differs from that of 'full'.", "none", "4", other),
    ]
    ignoring = [f"metadata.config.sampler.deep.{n}" for n in "ab"]
    found = said("study_members_agree", tree, "study", paths=paths, ignoring=ignoring)
    assert [f[0] for f in found] == ["metadata.config.sampler.deep.c differs from that of 'full'."]
    tree[other].attrs["metadata"]["config"]["sampler"] = None
    assert [f[2] for f in said("study_members_agree", tree, "study", paths=paths)] == ["none"]
    alone = tree.copy()
    for name in list(alone.children):
        if name != "full":
            del alone[name]
    assert said("study_members_agree", alone, "study", paths=paths) == []


def test_the_sampling_task_is_observed_by_every_run() -> None:
    tree = study()
    name = next(iter(tree["full"].attrs["metadata"]["config"]["observables"]))["name"]
    config(tree)["sampling_task"] = name
    assert said("sampling_task_observed", tree, "study") == []
    config(tree)["sampling_task"] = "poems"
    found = said("sampling_task_observed", tree, "study")
    assert [f[3] for f in found] == list(tree.children)
    assert {f[:2] for f in found} == {("The sampling task is not observed.", "poems")}
    assert all(name in f[2] for f in found)
    config(tree)["sampling_task"] = None
    assert said("sampling_task_observed", tree, "study") == []


def test_cells_are_listed_with_their_own_settings() -> None:
    tree = make_tree("sweep")
    assert said("sweep_cells_listed", tree, "sweep") == said("sweep_settings", tree, "sweep") == []
    listed = config(tree)["cells"]
    first, second = listed[:2]
    for name in ("lr", "n_beta", "localization"):
        spoilt = tree.copy(deep=True)
        spoilt[name].values[0] += 1
        ((message, _, _, where),) = said("sweep_settings", spoilt, "sweep")
        assert (message, where) == (f"{name} of the cell {first!r} is not what it was sampled with.", first)
    twins = tree.copy(deep=True)
    for name in ("lr", "n_beta", "localization"):
        twins[name].values[1] = twins[name].values[0]
        twins[second].attrs["metadata"]["config"]["sampler"][name] = float(twins[name].values[0])
    assert said("sweep_settings", twins, "sweep") == [
        ("Two cells have the same settings.", f"settings other than those of {first!r}", second, second)
    ]
    listed.append("ghost")
    messages = [f[0] for f in said("sweep_cells_listed", tree, "sweep")]
    assert messages == [
        "A listed cell has no group.",
        "The root has settings of another number of cells than are listed.",
    ]
    listed[:] = [second]
    messages = [(f[0], f[3]) for f in said("sweep_cells_listed", tree, "sweep")]
    assert ("A group is not among the listed cells.", first) in messages
    config(tree)["cells"] = 3
    assert said("sweep_cells_listed", tree, "sweep") == said("sweep_settings", tree, "sweep") == []


def relation(rule: str, context: Any, **arguments: Any) -> list[str]:
    return [p.message for p in find_predicate(rule).function(context, **arguments)]


def test_a_full_run_that_is_broken_is_not_missing_too() -> None:
    tree = study()
    del tree["full"]
    context = context_of(tree, "study")
    context.group.broken.add("full")
    assert relation("study_has_full", context) == []
    assert said("study_has_full", xr.DataTree(), "study") == [
        ("The study has no group 'full'.", "full", "no groups", "")
    ]


def test_two_runs_are_compared_with_full_wherever_it_stands() -> None:
    tree = study()
    other = next(n for n in tree.children if n != "full")
    pair = xr.DataTree.from_dict({other: tree[other], "full": tree["full"]})
    pair[other].attrs["metadata"]["config"]["sampler"] = {"lr": 1}
    pair["full"].attrs["metadata"]["config"]["sampler"] = {"lr": 2}
    found = said("study_members_agree", pair, "study", paths=["metadata.config.sampler"])
    assert found == [("metadata.config.sampler.lr differs from that of 'full'.", "2", "1", other)]


def test_the_sampling_task_may_be_called_by_its_name() -> None:
    tree = study()
    for run in tree.children.values():
        run.attrs["metadata"]["config"]["observables"][0]["name"] = "My task!"
    config(tree)["sampling_task"] = "My task!"
    assert said("sampling_task_observed", tree, "study") == []
    for run in tree.children.values():
        run.attrs["metadata"]["config"]["observables"] = None
    assert said("sampling_task_observed", tree, "study") != []


def test_what_is_hidden_is_no_member() -> None:
    for kind, rule, key in (
        ("study", "study_restrictions_listed", "restrictions"),
        ("sweep", "sweep_cells_listed", "cells"),
    ):
        tree = make_tree(kind)
        tree[".hidden"] = xr.DataTree()
        assert said(rule, tree, kind) == []
        empty = xr.DataTree(xr.Dataset(attrs={"metadata": {"config": {key: ["ghost"]}}}))
        ((_, wanted, there, _), *_) = said(rule, empty, kind)
        assert (wanted, there) == ("'ghost'", "" if kind == "study" else "no groups")


def test_a_sweep_whose_root_lacks_its_settings_is_not_compared_with_them() -> None:
    tree = make_tree("sweep")
    config(tree)["cells"] = config(tree)["cells"][:1]
    assert said("sweep_settings", tree, "sweep") == []
    whole = make_tree("sweep")
    bare = whole.copy()
    bare.dataset = whole.to_dataset().drop_vars("lr")
    assert said("sweep_settings", bare, "sweep") == []


@pytest.mark.parametrize("tokenizer", ["abc", [], {}, ""])
def test_only_what_nobody_told_is_not_compared(tokenizer: Any) -> None:
    """A null says that nobody told which tokenizer it was; what is empty is told, and differs."""
    tree = make_tree(StoreRecipe("study", seed=1, members={"restriction": {"full": {}, "l0h1": {}}}))
    for name, value in (("full", "xyz"), ("l0h1", tokenizer)):
        tree[name].attrs["metadata"].setdefault("provenance", {})["tokenizer"] = value
    path = "metadata.provenance.tokenizer"
    assert [f[0] for f in said("study_members_agree", tree, "study", paths=[path])] == [
        f"{path} differs from that of 'full'."
    ]
    tree["l0h1"].attrs["metadata"]["provenance"]["tokenizer"] = None
    assert said("study_members_agree", tree, "study", paths=[path]) == []
