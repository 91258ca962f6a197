from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from made_runs import make_run

from devinterp.errors import SettingError
from devinterp.slt.bif import compute_bif
from devinterp.slt.bif.reweighting import compute_reweighting

BETA, PRIOR = 0.5, 2.0
RNG = np.random.default_rng(5)
X, Y = RNG.normal(size=(12, 3)), RNG.normal(size=12)


def posterior(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of w under exp(-beta sum_i weights_i (y_i - x_i w)^2 / 2) N(0, 1 / PRIOR)."""
    covariance = np.linalg.inv(BETA * (X.T * weights) @ X + PRIOR * np.eye(3))
    return covariance @ (BETA * X.T @ (weights * Y)), covariance


def mean_losses(weights: np.ndarray) -> np.ndarray:
    mean, covariance = posterior(weights)
    return 0.5 * ((Y - X @ mean) ** 2 + np.einsum("ij,jk,ik->i", X, covariance, X))


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    mean, covariance = posterior(np.ones(12))
    w = mean + np.random.default_rng(6).normal(size=(2, 150_000, 3)) @ np.linalg.cholesky(covariance).T
    losses = 0.5 * (Y - w @ X.T) ** 2
    variables = {
        "loss_data": (("chain", "draw", "batch_data", "token_pos"), losses[..., None].astype(np.float32)),
        "input_ids_data": (("batch_data", "token"), np.zeros((12, 2), dtype=np.int64)),
        "n_beta": ((), BETA * 12),
    }
    return xr.DataTree(xr.Dataset(variables))


def test_it_is_what_reweighting_does_to_a_linear_gaussian_model(tree):
    result = compute_reweighting(tree, num_samples=12, se=True)
    assert float(result.attrs["beta"]) == BETA
    step = 1e-5
    exact = np.stack(
        [(mean_losses(1 + step * e) - mean_losses(1 - step * e)) / (2 * step) for e in np.eye(12)]
    )  # [weighted, changed]
    error = np.abs(result["effects"].values - exact)
    assert (error < 5 * result["effects_se"].values + 1e-5).all()
    assert error.max() < 0.02 * np.abs(exact).max()
    # Leaving one out, all the way: the first order has the direction of it.
    out = np.stack([mean_losses(1 - e) - mean_losses(np.ones(12)) for e in np.eye(12)])
    assert np.corrcoef(out.ravel(), -result["effects"].values.ravel())[0, 1] > 0.95


def test_by_default_it_is_minus_the_covariance(tree):
    result = compute_reweighting(tree)
    covariance = compute_bif(tree, correlation_method="sequence", compute_covariance=True)["influences"]
    np.testing.assert_array_equal(result["effects"].values, -covariance.values)
    assert result["effects"].attrs["units"] == "nat"


def test_tokens_selections_and_the_accessor():
    run = make_run()
    result = run.devinterp.reweighting("token", num_samples=60, batch_index_range_1="code", loss_keys=["code", "math"])
    assert result["effects"].dims == ("batch_1", "batch_2", "target_position", "target_position_T")
    assert result["effects"].dtype == np.float32
    assert result.devinterp.kind == "reweighting"
    assert result.devinterp.report().ok, str(result.devinterp.report())
    bare = result.copy()
    bare.attrs.pop("devinterp_schema")
    assert bare.devinterp.kind == "reweighting"
    assert run.devinterp.reweighting(se=True).devinterp.report().ok
    with pytest.raises(SettingError):
        compute_reweighting(run, num_samples=0)
