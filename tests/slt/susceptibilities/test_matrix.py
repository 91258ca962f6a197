from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from made_runs import make_study

from devinterp.errors import MissingVariableError, SettingError
from devinterp.slt.susceptibilities import compute_susceptibilities
from devinterp.slt.susceptibilities.matrix import matrix, pca


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


def joint(result, factors=(1.0, 2.0, -0.5)):
    sus = result["susceptibilities"].to_dataset()
    rng = np.random.default_rng(0)
    each = [sus.assign(sus=f * sus["sus"] + 0.01 * rng.normal(size=sus["sus"].shape)) for f in factors]
    stacked = xr.concat(each, dim="checkpoint", data_vars=["sus"], coords="minimal", compat="override", join="exact")
    stacked = stacked.assign_coords(checkpoint=[10 * (k + 1) for k in range(len(factors))]).assign_attrs(sus.attrs)
    return xr.DataTree.from_dict({"susceptibilities": stacked, "context": result["context"].to_dataset()})


def test_a_series_has_a_matrix_for_each_checkpoint(result):
    series = joint(result, (1.0, 2.0))
    with pytest.raises(SettingError, match=r"isel\(checkpoint=0\)"):
        matrix(series)
    sus = result["susceptibilities"].to_dataset().expand_dims(checkpoint=[10]).isel(checkpoint=0)
    one = xr.DataTree.from_dict({"susceptibilities": sus, "context": sus[[]]})
    np.testing.assert_array_equal(matrix(one), matrix(result))


def test_what_has_no_such_matrix_is_refused(result):
    with pytest.raises(SettingError, match="columns"):
        matrix(result, standardize="rows")
    with pytest.raises(MissingVariableError, match="terms=True"):
        matrix(compute_susceptibilities(make_study(("full", "a"))), variable="sus_cov")


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
