"""A sweep whose cells have names that no store should hold, or that its list does not know."""

from __future__ import annotations

import pytest
import xarray as xr

from devinterp.schema import validate
from devinterp.testing import StoreRecipe, make_tree


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
