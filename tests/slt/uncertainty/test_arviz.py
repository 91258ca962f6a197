from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from made_runs import fail_chain, make_run, to_store

import devinterp
from devinterp.errors import ChainFailedWarning, MissingVariableError
from devinterp.slt.llc import compute_llc
from devinterp.slt.uncertainty.arviz import to_arviz


def with_metrics(tree):
    steps = np.arange(3 * 45, dtype=np.float32).reshape(3, 45)
    names = ("distance", "noise", "scaled_grad")
    return tree.to_dataset().assign({f"metrics_{n}": (("chain", "step"), steps + k) for k, n in enumerate(names)})


def test_posterior_holds_mean_losses_by_chain_and_draw():
    tree = make_run()
    posterior = to_arviz(tree)["posterior"]
    assert set(posterior.data_vars) == {"sampling_loss", "loss_train", "loss_code", "loss_math"}
    for name, variable in posterior.data_vars.items():
        assert variable.dims == ("chain", "draw")
        np.testing.assert_allclose(variable, tree[name].values.astype(np.float64).mean(axis=(2, 3)))
    assert posterior["draw"].values.tolist() == list(range(40))


def test_sample_stats_hold_the_samplers_own_quantities_at_the_draws():
    data = with_metrics(make_run())
    stats = to_arviz(data)["sample_stats"]
    expected = -30.0 * data["sampling_loss"].values.astype(np.float64).mean(axis=(2, 3))
    np.testing.assert_allclose(stats["lp"], expected)
    assert (stats["step_size"] == 1e-3).all()
    np.testing.assert_array_equal(stats["distance"], data["metrics_distance"].values[:, 5:])
    assert {"noise_norm", "gradient_norm"} <= set(stats.data_vars)


def test_steps_of_a_selection_are_not_guessed():
    stats = to_arviz(with_metrics(make_run()).isel(draw=slice(5, None)))["sample_stats"]
    assert "distance" not in stats
    assert stats.sizes["draw"] == 35


def test_observed_data_and_log_likelihood():
    tree = make_run()
    found = to_arviz(tree, log_likelihood=True)
    np.testing.assert_array_equal(found["observed_data/input_ids_code"], tree["input_ids_code"])
    np.testing.assert_array_equal(found["log_likelihood/code"], -tree["loss_code"].values)
    assert "log_likelihood" not in to_arviz(tree).children


def test_failed_chains_are_left_out_and_the_others_keep_their_number(tmp_path):
    tree = fail_chain(make_run(), 1, 9)
    with pytest.warns(ChainFailedWarning):
        found = to_arviz(tree)
    assert found["posterior"]["chain"].values.tolist() == [0, 2]
    with pytest.warns(ChainFailedWarning):
        stored = to_arviz(to_store(tree, tmp_path / "run.zarr"))
    xr.testing.assert_identical(stored["posterior"].to_dataset(), found["posterior"].to_dataset())


def test_needs_nothing_but_losses():
    tree = make_run()
    only = xr.Dataset({"loss_code": tree["loss_code"]})
    assert list(to_arviz(only).children) == ["posterior"]
    with pytest.raises(MissingVariableError):
        to_arviz(xr.Dataset({"init_loss": tree["init_loss"]}))


def test_arviz_stats_takes_it_as_it_is():
    import arviz_stats

    found = to_arviz(make_run())
    summary = arviz_stats.summary(found)
    assert set(summary.index) == {"sampling_loss", "loss_train", "loss_code", "loss_math"}
    assert arviz_stats.ess(found)["loss_code"].ndim == 0
    assert arviz_stats.rhat(found)["loss_code"] < 1.2


def test_it_is_no_study_saved_and_opened_again_either(tmp_path):
    tree = to_arviz(make_run(), log_likelihood=True)
    tree.to_zarr(tmp_path / "a.zarr", zarr_format=3, consolidated=False)
    again = devinterp.open_store(tmp_path / "a.zarr", level=None)
    assert again.identical(tree)
    for one in (tree, again):
        assert one.devinterp.kind == one["posterior"].devinterp.kind == "unknown"
        assert one.devinterp.report().kind is None
    assert devinterp.validate(tmp_path / "a.zarr").codes == {"DI004"}
    with pytest.raises(MissingVariableError, match="no losses"):
        compute_llc(again)
