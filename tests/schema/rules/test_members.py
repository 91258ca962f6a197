"""Rules of the trees that hold several runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from devinterp.schema import validate
from devinterp.testing import StoreRecipe, make_tree

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
    assert found(series, "DI461") == [(f"/{step}", repr(value), repr(before)) for step in STEPS]


def test_training_steps_are_those_of_the_list_in_its_order(series: xr.DataTree) -> None:
    series.dataset = series.to_dataset().assign_coords(checkpoint=np.array([0, 512, 64]))
    assert found(series, "DI462") == [("/checkpoint", "[0, 64, 512]", "[0, 512, 64]")]


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
    assert (told or "").endswith("and 0 other values")
    for run in tree.children.values():
        run.attrs["metadata"].setdefault("provenance", {})["random_forward"] = True
    assert found(tree, "DI416") == []
