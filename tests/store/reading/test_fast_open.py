"""Groups of one kind, opened once: the same tree as xarray's own."""

from __future__ import annotations

import json

import lifelike
import numpy as np
import pytest
import xarray as xr

from devinterp.store.location import locate
from devinterp.store.reading.fast_open import open_many_groups
from devinterp.store.reading.open import open_tree, root_document
from devinterp.testing import StoreRecipe, make_store

NAMES = ["full", "l0h0", "l0 mlp"]


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study.zarr"
    make_store(path, StoreRecipe("study", members={"restriction": {name: {} for name in NAMES}}))
    return path


def layers(variable):
    data, found = variable._data, []
    while hasattr(data, "array"):
        found.append(type(data))
        data = data.array
    return found


def test_a_study_is_opened_as_xarray_opens_it(study):
    location = locate(study)
    ours, theirs = open_many_groups(location, root_document(location)), xr.open_datatree(study, engine="zarr")
    assert not any(variable._in_memory for node in ours.subtree for variable in node.variables.values())
    assert [node.path for node in ours.subtree] == [node.path for node in theirs.subtree]
    assert [node.attrs for node in ours.subtree] == [node.attrs for node in theirs.subtree]
    for one, other in zip(ours.subtree, theirs.subtree, strict=True):
        assert list(one.variables) == list(other.variables)
        for name, variable in one.variables.items():
            assert repr(variable.encoding) == repr(other[name].encoding), name  # NaN is not NaN
            assert layers(variable) == layers(other[name].variable), name
    xr.testing.assert_identical(ours, theirs)
    xr.testing.assert_identical(open_tree(location), theirs)


def test_a_series_is_opened_as_xarray_opens_it_its_checkpoints_an_index(tmp_path):
    path = lifelike.make_series(tmp_path / "s.zarr", [900, 20, 1000], chains=1, draws=4, rows=2, save_metrics=False)
    ours, theirs = open_many_groups(locate(path), root_document(locate(path))), xr.open_datatree(path, engine="zarr")
    xr.testing.assert_identical(ours, theirs)
    assert [node.path for node in ours.subtree] == [node.path for node in theirs.subtree]
    assert ours["checkpoint"].values.tolist() == [900, 20, 1000]
    assert repr(ours["checkpoint"].encoding) == repr(theirs["checkpoint"].encoding)
    assert ours.sel(checkpoint=20).devinterp.kind == "study"
    assert open_tree(locate(path)).identical(theirs)


def test_a_group_reads_its_own_chunks_once_and_is_no_other_s(study):
    tree = open_tree(locate(study))
    loss = tree["l0h0"]["sampling_loss"]
    before = loss.values.copy()
    loss.values[...] = 7.0
    assert (tree["l0h0"]["sampling_loss"].values == 7.0).all()
    assert not (tree["full"]["sampling_loss"].values == 7.0).any()
    np.testing.assert_array_equal(open_tree(locate(study))["l0h0"]["sampling_loss"].values, before)
    tree["l0h0"].attrs["x"] = tree["l0h0"]["sampling_loss"].attrs["x"] = 1
    assert "x" not in tree["full"].attrs
    assert "x" not in tree["full"]["sampling_loss"].attrs


def refused(path, change):
    """Change the root's document; return what is made of it."""
    location = locate(path)
    root = json.loads(json.dumps(root_document(location)))
    change(root["consolidated_metadata"]["metadata"])
    return open_many_groups(location, root)


def test_what_xarray_would_decode_or_index_is_left_to_it(study):
    def scale(below):
        below["full/init_loss"]["attributes"]["scale_factor"] = 2.0

    def index(below):
        below["full/chain"] = {**below["full/draws_written"], "shape": [10**12], "dimension_names": ["chain"]}

    def orphan(below):
        del below["l0h0"]

    assert refused(study, lambda below: None) is not None
    for change in (scale, index, orphan):
        assert refused(study, change) is None, change


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
def test_groups_that_are_all_different_are_left_to_xarray(tmp_path):
    path = tmp_path / "a.zarr"
    tree = xr.DataTree.from_dict({f"/{n}": xr.Dataset({"a": ("x", np.zeros(n + 1))}) for n in range(9)})
    tree.to_zarr(path, zarr_format=3, consolidated=True)
    assert open_many_groups(locate(path), root_document(locate(path))) is None
    xr.testing.assert_identical(open_tree(locate(path)), tree)


def test_an_xarray_that_is_built_otherwise_opens_every_group_itself(study, monkeypatch):
    location = locate(study)
    for layers_of_another in ((), (dict,)):
        for module in ("fast_open", "xarray_private"):
            monkeypatch.setattr(f"devinterp.store.reading.{module}.LAYERS", layers_of_another)
        assert open_many_groups(location, root_document(location)) is None
        xr.testing.assert_identical(open_tree(location), xr.open_datatree(study, engine="zarr"))
