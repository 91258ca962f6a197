"""``engine="devinterp"``: a store is opened by xarray's own functions, and validated on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
import xarray as xr

from devinterp.errors import ValidationError
from devinterp.testing import StoreRecipe, make_store


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.zarr"
    make_store(path, StoreRecipe("study", seed=2))
    return path


def test_a_tree_without_the_variables_that_are_not_wanted(study: Path) -> None:
    whole = xr.open_datatree(study, engine="devinterp")
    part = xr.open_datatree(study, engine="devinterp", drop_variables=["sampling_loss", "not there"])
    assert set(part.children) == set(whole.children)
    for name, run in whole.children.items():
        assert set(run.data_vars) - set(part[name].data_vars) == {"sampling_loss"}


def test_groups_and_the_root_alone(study: Path) -> None:
    whole = xr.open_datatree(study, engine="devinterp")
    groups = xr.open_groups(study, engine="devinterp")
    assert set(groups) == {node.path for node in whole.subtree}
    xr.testing.assert_identical(groups["/full"], whole["full"].to_dataset(inherit=False))
    root = xr.open_dataset(study, engine="devinterp")
    assert root.attrs == whole.attrs
    assert not root.data_vars


def test_what_is_not_valid_is_not_opened_unless_asked(study: Path) -> None:
    document = study / "zarr.json"
    document.write_text(document.read_text().replace("devinterp/study@1", "devinterp/samples@1"))
    with pytest.raises(ValidationError):
        xr.open_datatree(study, engine="devinterp")
    assert "full" in xr.open_datatree(study, engine="devinterp", level=None).children


def test_a_path_is_left_to_the_engine_of_zarr_unless_this_one_is_named(study: Path) -> None:
    assert "devinterp_schema" in xr.open_datatree(study, consolidated=False).attrs
