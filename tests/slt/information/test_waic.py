from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from made_runs import fail_chain, make_run, make_series, make_study, to_store
from made_sweeps import make_sweep

from devinterp.errors import MissingVariableError, SettingError
from devinterp.slt.information.waic import Moments, compute_waic

N_BETA = 40.0


def linear_gaussian(draws: int = 150_000) -> tuple[xr.DataTree, np.ndarray, np.ndarray]:
    """Losses (r_i - x_i w)^2 / 2 under w from N(0, S), with the residuals r and the variances s = x S x."""
    rng = np.random.default_rng(3)
    x, r = rng.normal(size=(30, 3)), rng.normal(size=30)
    precision = N_BETA * x.T @ x / 30 + 2 * np.eye(3)
    root = np.linalg.cholesky(np.linalg.inv(precision))
    w = rng.normal(size=(2, draws, 3)) @ root.T
    losses = 0.5 * (r - w @ x.T) ** 2
    variables = {
        "loss_data": (("chain", "draw", "batch_data", "token_pos"), losses.reshape(2, draws, 10, 3)),
        "n_beta": ((), N_BETA),
    }
    return xr.DataTree(xr.Dataset(variables)), r, ((x @ root) ** 2).sum(1)


def test_of_a_linear_gaussian_model_they_are_the_closed_forms():
    tree, r, s = linear_gaussian()
    variance = (r**2 * s + s**2 / 2).mean()
    training = (0.5 * np.log1p(s) + r**2 / (2 * (1 + s))).mean()
    result = compute_waic(tree, observable="data", num_samples=80)
    assert float(result["functional_variance"]) == pytest.approx(variance, rel=0.01)
    assert float(result["singular_fluctuation"]) == pytest.approx(N_BETA / 2 * variance, rel=0.01)
    assert float(result["training_loss"]) == pytest.approx(training, rel=1e-3)
    assert float(result["waic"]) == pytest.approx(training + N_BETA / 80 * variance, rel=2e-3)
    np.testing.assert_allclose(result["singular_fluctuation_per_chain"], N_BETA / 2 * variance, rtol=0.015)
    one = compute_waic(tree, observable="data")
    assert float(one["beta"]) == 1
    assert float(one["waic"]) == pytest.approx(training + variance, rel=2e-3)
    assert float(one["singular_fluctuation"]) == float(result["singular_fluctuation"])


def test_a_sequence_has_the_mean_of_its_tokens_for_a_loss():
    tree = make_run()
    rows = tree["loss_train"].astype(float).mean("token_pos")
    result = compute_waic(tree, observable="train", per="sequence")
    expected = rows.stack(s=("chain", "draw")).var("s", ddof=1).mean()
    assert float(result["functional_variance"]) == pytest.approx(float(expected))
    of_rows = -np.log(np.exp(-rows).mean(("chain", "draw"))) + rows.stack(s=("chain", "draw")).var("s", ddof=1)
    assert float(result["waic"]) == pytest.approx(float(of_rows.mean()))
    assert float(result["waic_se"]) == pytest.approx(float(of_rows.std(ddof=1)) / np.sqrt(5))


@pytest.mark.needs("dask")
@pytest.mark.parametrize("per", ["token", "sequence"])
def test_a_store_read_in_blocks_gives_what_memory_gives(tmp_path, per):
    tree = make_run(draws=50)
    stored = to_store(tree, tmp_path / "r.zarr", draws=16)
    found = compute_waic(stored, observable="train", per=per)
    xr.testing.assert_allclose(found, compute_waic(tree, observable="train", per=per))
    lazy = xr.DataTree(stored.to_dataset().chunk({"draw": 7}))
    xr.testing.assert_allclose(compute_waic(lazy, observable="train", per=per), found)
    assert found.devinterp.report().ok, str(found.devinterp.report())
    assert found.devinterp.kind == "waic"


def test_studies_series_and_sweeps_have_it_side_by_side():
    study = make_study()
    result = study.devinterp.waic()
    assert result["waic"].dims == ("wr",)
    alone = compute_waic(study["l0h0"], observable="train")
    xr.testing.assert_allclose(result["waic"].sel(wr="l0h0", drop=True), alone["waic"])
    assert result.attrs["observable"] == "train"
    along = compute_waic(make_series())
    assert along["singular_fluctuation_per_chain"].dims == ("checkpoint", "wr", "chain")
    grid = compute_waic(make_sweep((1e-3,), (0.0, 30.0), (10.0,)))
    assert grid["waic"].dims == ("lr", "n_beta", "localization")
    for each in (result, along, grid):
        assert each.devinterp.report().ok, str(each.devinterp.report())


def test_failed_chains_are_left_out_and_partial_ones_are_cut():
    broken = fail_chain(make_run(), 1, 9)
    with pytest.warns(match="1 of 3 chains"):
        result = compute_waic(broken, observable="train")
    kept = make_run().isel(chain=[0, 2])
    assert float(result["waic"]) == pytest.approx(float(compute_waic(kept, observable="train")["waic"]))
    assert np.isnan(result["singular_fluctuation_per_chain"].values).tolist() == [False, True, False]
    cut = compute_waic(broken, observable="train", allow_partial=True)
    short = compute_waic(make_run().isel(draw=slice(9)), observable="train")
    assert float(cut["waic"]) == pytest.approx(float(short["waic"]))


def test_what_cannot_be_is_one_error():
    tree = make_run()
    for options in ({"per": "word"}, {"num_samples": 0}):
        with pytest.raises(SettingError):
            compute_waic(tree, observable="train", **options)
    with pytest.raises(MissingVariableError):
        compute_waic(tree)
    with pytest.raises(SettingError, match="two draws"):
        compute_waic(tree.isel(chain=[0], draw=[3]), observable="train")


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float64, (2, 4, 3, 2), elements=st.floats(-1e3, 1e3)), st.floats(-1e4, 1e4))
def test_a_constant_moves_the_loss_and_not_the_variance(values, constant):
    # Sampled losses may be far apart (a diverging chain) and far from 0; neither may overflow or cancel.
    one, other = Moments.of_values(values), Moments.of_values(values + constant)
    np.testing.assert_allclose(one.variance(), values.reshape(8, 3, 2).var(axis=0, ddof=1), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(other.variance(), one.variance(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(other.training_loss(), one.training_loss() + constant, rtol=1e-9, atol=1e-6)
    assert (one.training_loss() <= values.mean(axis=(0, 1)) + 1e-9).all()  # Jensen
