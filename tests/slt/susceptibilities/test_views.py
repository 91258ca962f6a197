from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from made_runs import make_run, make_study

from devinterp.errors import MissingVariableError, SettingError
from devinterp.schema import validate
from devinterp.slt.susceptibilities import compute_susceptibilities
from devinterp.slt.susceptibilities.views import flatten, matrix, pca, split_half, unflatten

NAMES = ("full", "a", "b", "c")


@pytest.fixture(scope="module")
def result():
    return compute_susceptibilities(make_study(NAMES), terms=True, se=True)


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


def test_matrix_is_standardised_by_column_and_then_by_row(result):
    raw = result["susceptibilities/sus"].values.astype(np.float64)
    np.testing.assert_array_equal(matrix(result, standardize=False), raw)
    columns = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    np.testing.assert_allclose(matrix(result, standardize="columns"), columns, atol=1e-12)
    both = matrix(result)
    np.testing.assert_allclose(both, columns - columns.mean(axis=1, keepdims=True), atol=1e-12)
    assert both.attrs == {"units": "1", "standardize": "True"}
    assert matrix(result, standardize=False, variable="sus_cov").attrs["units"] == "nat^2"
    assert set(both.coords) == {"wr", "dataset_id", "batch", "target_position"}


def test_matrix_of_a_constant_column_is_zero(result):
    flat = result.copy(deep=True)
    flat["susceptibilities/sus"].values[:, 1] = 0.25
    assert not matrix(flat, standardize="columns").values[:, 1].any()


def test_pca_rebuilds_the_matrix(result):
    found = pca(result, standardize="columns")
    values = matrix(result, standardize="columns").values
    np.testing.assert_allclose(found["scores"].values @ found["loadings"].values, values, atol=1e-10)
    np.testing.assert_allclose(found["explained_variance_ratio"].sum(), 1.0)
    np.testing.assert_allclose((found["loadings"] ** 2).sum("wr"), 1.0)
    largest = np.abs(found["loadings"].values).argmax(axis=1)
    assert (found["loadings"].values[np.arange(3), largest] > 0).all()
    assert pca(result, 2).sizes["component"] == 2
    with pytest.raises(SettingError, match="from 1 to 3"):
        pca(result, 4)


def test_a_series_keeps_its_checkpoints_and_has_a_matrix_for_each(result):
    sus = result["susceptibilities"].to_dataset()
    both = xr.concat(
        [sus, 2 * sus], dim="checkpoint", data_vars=["sus", "sus_cov", "sus_shift", "sus_se"], join="exact"
    )
    both = both.assign_coords(checkpoint=[10, 20]).assign_attrs(sus.attrs)
    series = xr.DataTree.from_dict({"susceptibilities": both, "context": result["context"].to_dataset()})
    tree = unflatten(series)
    assert tree["code"]["sus"].dims == ("checkpoint", "batch", "target_position", "wr")
    np.testing.assert_array_equal(tree["code"]["sus"][1], 2 * unflatten(result)["code"]["sus"])
    back = flatten(tree)["susceptibilities"]
    np.testing.assert_array_equal(back["sus"], both["sus"])
    assert back["checkpoint"].values.tolist() == [10, 20]
    with pytest.raises(SettingError, match=r"isel\(checkpoint=0\)"):
        matrix(series)
    one = xr.DataTree.from_dict({"susceptibilities": both.isel(checkpoint=0), "context": both[[]]})
    np.testing.assert_array_equal(matrix(one), matrix(result))


def test_split_half_tells_signal_from_noise():
    """One restriction's losses share a factor with the sampling task, per token; the other's are noise.

    The loss at the start is that of the draws, so that phi is near 0 and its product with the shift of the means, which
    both halves share, is too.
    """
    study = make_study(("full", "real", "noise"), chains=4, draws=200)
    study["full"]["init_loss"].values[...] = study["noise"]["loss_train"].values.mean()
    run = study["real"]
    shared = np.random.default_rng(1).normal(size=(4, 200))
    run["loss_train"].values[...] += shared[:, :, None, None]
    weights = np.random.default_rng(2).normal(size=(3, 6))
    run["loss_code"].values[...] += shared[:, :, None, None] * weights
    found = split_half(study)
    assert found["reproducibility"].sel(wr="real") > 0.9
    assert abs(found["reproducibility"].sel(wr="noise")) < 0.8
    assert set(found.data_vars) == {"reproducibility", "reproducibility_standardized"}


def test_what_is_no_susceptibility_is_refused(result):
    with pytest.raises(MissingVariableError, match="/susceptibilities"):
        unflatten(make_run())
    with pytest.raises(MissingVariableError, match="unflatten"):
        flatten(make_study())
    with pytest.raises(SettingError, match="columns"):
        matrix(result, standardize="rows")
    with pytest.raises(MissingVariableError, match="terms=True"):
        matrix(compute_susceptibilities(make_study(NAMES)), variable="sus_cov")
    with pytest.raises(SettingError, match="two chains"):
        split_half(make_study(chains=1))
    with pytest.raises(SettingError, match="two chains"):
        split_half(make_run())


def joint(result, factors=(1.0, 2.0, -0.5)):
    sus = result["susceptibilities"].to_dataset()
    rng = np.random.default_rng(0)
    each = [sus.assign(sus=f * sus["sus"] + 0.01 * rng.normal(size=sus["sus"].shape)) for f in factors]
    stacked = xr.concat(each, dim="checkpoint", data_vars=["sus"], coords="minimal", compat="override", join="exact")
    stacked = stacked.assign_coords(checkpoint=[10 * (k + 1) for k in range(len(factors))]).assign_attrs(sus.attrs)
    return xr.DataTree.from_dict({"susceptibilities": stacked, "context": result["context"].to_dataset()})


@pytest.mark.parametrize("standardize", [True, False, "columns"])
def test_components_of_a_series_are_those_of_all_its_tokens(result, standardize):
    tree = joint(result)
    found = tree.devinterp.pca(standardize=standardize)
    sus = tree["susceptibilities"]["sus"].astype(float).transpose("checkpoint", "sus_flat", "wr").values
    rows = sus.reshape(-1, sus.shape[-1])
    if standardize:
        rows = (rows - rows.mean(0)) / rows.std(0)
    if standardize is True:
        rows = rows - rows.mean(1, keepdims=True)
    rows = rows - rows.mean(0)
    assert found["scores"].dims == ("checkpoint", "sus_flat", "component")
    scores = found["scores"].values.reshape(rows.shape[0], -1)
    np.testing.assert_allclose(scores @ found["loadings"].values, rows, atol=1e-6 * np.abs(rows).max())
    np.testing.assert_allclose(found["loadings"].values @ found["loadings"].values.T, np.eye(rows.shape[1]), atol=1e-9)
    total = (found["variance"].mean("checkpoint") / (rows**2).sum(1).mean()).values
    np.testing.assert_allclose(total, found["explained_variance_ratio"], atol=1e-9)
    # Twice the susceptibility is the same axis, twice as far along it.
    if standardize is False:
        ratio = found["variance"].sel(checkpoint=20, component=1) / found["variance"].sel(checkpoint=10, component=1)
        assert 2 < float(ratio) < 6


def test_one_checkpoint_of_a_series_has_the_components_of_a_study(result):
    one = joint(result, (1.0,))
    alone = pca(one.isel(checkpoint=0))
    np.testing.assert_allclose(pca(one)["scores"].isel(checkpoint=0), alone["scores"], atol=1e-9)
    np.testing.assert_allclose(pca(one)["loadings"], alone["loadings"], atol=1e-9)
