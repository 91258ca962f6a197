from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from made_runs import make_run, make_study

from devinterp.errors import MissingVariableError, SettingError
from devinterp.schema import validate
from devinterp.slt.susceptibilities.by_observable import flatten, unflatten


def test_unflatten_gives_every_observable_an_array_with_its_tokens(result):
    tree = unflatten(result)
    assert list(tree.children) == ["code", "math"]
    sus = result["susceptibilities"].to_dataset()
    for k, (name, rows) in enumerate((("code", 3), ("math", 2))):
        child = tree[name]
        assert child["sus"].dims == ("batch", "target_position", "wr")
        assert child["sus"].shape == (rows, 6, 3)
        assert child["input_ids"].shape == (rows, 7)
        assert child["target_position"].values.tolist() == [1, 2, 3, 4, 5, 6]
        inside = (sus["dataset_id"] == k) & (sus["batch"] == 1) & (sus["target_position"] == 4)
        np.testing.assert_array_equal(child["sus"].sel(batch=1, target_position=4), sus["sus"].values[inside.values][0])
        np.testing.assert_array_equal(child["input_ids"], make_run()[f"input_ids_{name}"])
        assert child["sus"].attrs["units"] == "nat^2"


def test_flatten_goes_back_exactly(result):
    back = flatten(unflatten(result))
    assert back.identical(result)
    assert validate(back).ok


def test_a_selection_of_whole_rows_goes_through(result):
    part = result.copy()
    keep = result["susceptibilities"]["batch"].values == 1
    part["susceptibilities"] = xr.DataTree(result["susceptibilities"].to_dataset().isel(sus_flat=keep))
    tree = unflatten(part)
    np.testing.assert_array_equal(tree["code"]["batch"], [1])
    np.testing.assert_array_equal(tree["code"]["input_ids"], make_run()["input_ids_code"][1:2])
    back = flatten(tree)
    np.testing.assert_array_equal(back["susceptibilities/sus"], part["susceptibilities/sus"])
    assert (back["susceptibilities"]["batch"] == 1).all()


def test_a_selection_of_parts_of_rows_has_no_rectangle(result):
    part = result.copy()
    part["susceptibilities"] = xr.DataTree(result["susceptibilities"].to_dataset().isel(sus_flat=slice(0, 8)))
    with pytest.raises(SettingError, match="whole rows"):
        unflatten(part)


def test_a_series_keeps_its_checkpoints(result):
    sus = result["susceptibilities"].to_dataset()
    both = xr.concat(
        [sus, 2 * sus], dim="checkpoint", data_vars=["sus", "sus_cov", "sus_shift", "sus_se"], join="exact"
    )
    both = both.assign_coords(checkpoint=[10, 20]).assign_attrs(sus.attrs)
    tree = unflatten(xr.DataTree.from_dict({"susceptibilities": both, "context": result["context"].to_dataset()}))
    assert tree["code"]["sus"].dims == ("checkpoint", "batch", "target_position", "wr")
    np.testing.assert_array_equal(tree["code"]["sus"][1], 2 * unflatten(result)["code"]["sus"])
    back = flatten(tree)["susceptibilities"]
    np.testing.assert_array_equal(back["sus"], both["sus"])
    assert back["checkpoint"].values.tolist() == [10, 20]


def test_what_is_no_susceptibility_is_refused():
    with pytest.raises(MissingVariableError, match="/susceptibilities"):
        unflatten(make_run())
    with pytest.raises(MissingVariableError, match="unflatten"):
        flatten(make_study())
