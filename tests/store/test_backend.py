"""``engine="devinterp"``: a store is opened by xarray's own functions, and validated on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from zarr.storage import FsspecStore

import devinterp
from devinterp.errors import MissingVariableError, SettingError, ValidationError
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


@pytest.mark.parametrize("name", ["full", "/full", "full/", "l1h1 mlp"])
def test_one_group_is_opened_as_a_tree_of_its_own(study: Path, name: str) -> None:
    whole = xr.open_datatree(study, engine="devinterp")
    inner = name.strip("/")
    for tree in (xr.open_datatree(study, engine="devinterp", group=name), devinterp.open_store(study, group=name)):
        assert tree.parent is None
        xr.testing.assert_identical(tree.to_dataset(), whole[inner].to_dataset())
        assert tree.devinterp.llc()["llc_mean"].item() == whole[inner].devinterp.llc()["llc_mean"].item()
    xr.testing.assert_identical(xr.open_dataset(study, engine="devinterp", group=name), whole[inner].to_dataset())


@pytest.mark.parametrize("name", ["FULL", "full/loss_code", "../study.zarr", "full/.."])
def test_a_group_that_is_not_there_is_named(study: Path, name: str) -> None:
    with pytest.raises(MissingVariableError, match="There is no group"):
        xr.open_datatree(study, engine="devinterp", group=name)


def test_a_group_that_is_no_path_is_refused(study: Path) -> None:
    for ask in (devinterp.open_store, xr.open_datatree):
        with pytest.raises(SettingError, match="named by its path"):
            ask(study, group=7, **({} if ask is devinterp.open_store else {"engine": "devinterp"}))


def test_options_for_a_url_reach_its_filesystem(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    for path in study.rglob("*"):
        if path.is_file():
            memory.pipe(f"/options/s.zarr/{path.relative_to(study).as_posix()}", path.read_bytes())
    seen = []
    plain = FsspecStore.from_url

    def recorded(url: str, **given: Any) -> FsspecStore:
        seen.append(given["storage_options"])
        return plain(url, **given)

    monkeypatch.setattr(FsspecStore, "from_url", recorded)
    url, options = "memory://options/s.zarr", {"skip_instance_cache": True}
    for tree in (
        xr.open_datatree(url, engine="devinterp", storage_options=options),
        devinterp.open_store(url, storage_options=options, group="/"),
    ):
        assert set(tree.children) == {"full", "l0h0", "l1h1 mlp"}
    xr.open_dataset(url, engine="devinterp", storage_options=options, group="full")
    assert seen == [options] * 3
