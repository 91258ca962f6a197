from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from made_runs import make_run, make_study
from made_sweeps import make_sweep
from scipy import stats

import devinterp
from devinterp.errors import MissingVariableError, SettingError
from devinterp.slt.diagnostics import diagnose
from devinterp.slt.llc import compute_llc
from devinterp.slt.runs.grid import cell_name, grid_of
from devinterp.slt.runs.results import told
from devinterp.slt.sweep import compute_sweep

LR, N_BETA, LOCALIZATION = (0.02, 1.0), (0.0, 10.0), (1.0, 20.0)


@pytest.fixture(scope="module")
def tree():
    return make_sweep(LR, N_BETA, LOCALIZATION, pilots=((0.02, 10.0, 20.0),))


def test_every_cell_has_the_numbers_of_its_own_run(tree):
    summary = tree.devinterp.sweep()
    assert devinterp.validate(summary).ok
    assert dict(summary.sizes) == {"lr": 2, "n_beta": 2, "localization": 2, "bound": 2}
    for name, cell in tree.children.items():
        own = cell.attrs["metadata"]["config"]["sampler"]
        one = summary.sel({s: own[s] for s in ("lr", "n_beta", "localization")})
        d = diagnose(cell)
        assert int(one["num_draws"]) == own["num_draws"]
        assert float(one["seconds"]) == 1.5 * 4
        assert int(one["num_chains"]) == sum(c.status == "complete" for c in d.chains), name
        if own["lr"] == 1.0 and own["n_beta"] * 1.0 + own["localization"] > 4:
            assert d.verdict.code == "diverged"
            assert np.isnan(one["llc_mean"])
            continue
        llc = compute_llc(cell, over="observable", ci=0.9)
        assert float(one["llc_mean"]) == float(llc["llc_mean"])
        np.testing.assert_array_equal(one["llc_ci"].values, llc["llc_ci"].values)
        assert float(one["rise"]) == d.rise
        assert float(one["llc_se"]) == pytest.approx(own["n_beta"] * d.rise_se)
        assert (float(one["rhat"]), float(one["ess_bulk"])) == (d.rhat, d.ess_bulk)
        assert str(one["verdict"].values) == ("control" if own["n_beta"] == 0 else d.verdict.code)


def test_the_coefficient_of_a_quadratic_is_its_formula_and_so_is_the_share_of_the_control(tree):
    summary = tree.devinterp.sweep()
    good = summary.sel(lr=0.02)
    for localization in LOCALIZATION:
        one = good.sel(n_beta=10.0, localization=localization)
        a = 10 + localization
        known = 0.5 * 50 * 10 / (a * (1 - 0.02 * a / 4))
        half = float(one["llc_se"]) * stats.norm.ppf(1 - 1e-4)
        assert abs(float(one["llc_mean"]) - known) < half
        share = localization / a
        assert abs(float(one["share_of_control"]) - share) < 4 * float(one["share_se"])
        assert float(one["share_se"]) < 0.2 * share
    assert good["share_of_control"].sel(n_beta=0.0).isnull().all()
    assert (good["llc_mean"].sel(n_beta=0.0) == 0).all()


def test_the_llc_of_a_sweep_is_over_its_grid(tree):
    result = tree.devinterp.llc(over="observable")
    assert result["llc_mean"].dims == ("lr", "n_beta", "localization")
    assert result["loss_trace"].shape == (2, 2, 2, 4, 200)
    assert devinterp.validate(result).ok
    assert told(result.attrs, "n_chains_used")[cell_name({"lr": 1.0, "n_beta": 10.0, "localization": 20.0})] == 0
    one = compute_llc(tree["lr=0.02,n_beta=10,localization=1"], over="observable")
    picked = result.sel(lr=0.02, n_beta=10.0, localization=1.0)
    np.testing.assert_array_equal(picked["llc_per_chain"].values, one["llc_per_chain"].values)


def test_minibatches_are_used_where_no_rows_are_fixed(tree):
    bare = tree.map_over_datasets(lambda ds: ds.drop_vars([n for n in ds.data_vars if str(n).startswith("init_loss_")]))
    summary = bare.devinterp.sweep()
    assert summary.attrs["over"] == "draws"
    assert compute_sweep(tree, observable="task").attrs["over"] == "observable"


def test_a_grid_with_holes_is_filled_up():
    missing = (0.02, 10.0, 20.0)
    tree = make_sweep((0.02,), N_BETA, LOCALIZATION, without=(missing,))
    summary = tree.devinterp.sweep()
    hole = summary.sel(dict(zip(("lr", "n_beta", "localization"), missing, strict=True)))
    assert str(hole["verdict"].values) == ""
    assert int(hole["num_draws"]) == 0
    assert np.isnan(hole["llc_mean"])
    assert devinterp.validate(summary).ok


def test_where_every_chain_diverged_there_is_a_summary_all_the_same():
    summary = make_sweep((1.0,), (10.0, 20.0), (1.0,)).devinterp.sweep()
    assert set(summary["verdict"].values.ravel()) == {"diverged"}
    assert summary["llc_mean"].isnull().all()


def test_a_selection_of_draws_is_summarised_by_what_it_holds(tree):
    late = tree.isel(draw=slice(20, None)).devinterp.sweep()
    assert int(late["num_draws"].max()) == 180
    assert int(late["num_draws"].min()) == 30


def test_a_selection_of_cells_is_a_smaller_grid(tree):
    some = tree.isel(cell=np.flatnonzero(tree["lr"].values == 0.02)).devinterp.sweep()
    assert some["lr"].values.tolist() == [0.02]
    xr.testing.assert_equal(some, tree.devinterp.sweep().sel(lr=[0.02]))


def test_what_is_no_sweep_is_refused():
    for other in (make_run(), make_study()):
        assert grid_of(other) is None
        with pytest.raises(SettingError, match="not a sweep"):
            compute_sweep(other)


def test_a_cell_that_does_not_tell_its_settings_is_named(tree):
    broken = tree.copy(deep=True)
    del broken["lr=1,n_beta=0,localization=1"].attrs["metadata"]["config"]["sampler"]["lr"]
    with pytest.raises(MissingVariableError, match="lr=1,n_beta=0,localization=1"):
        broken.devinterp.sweep()


def test_a_sweep_is_recognised_without_its_attribute(tree):
    bare = tree.copy()
    bare.attrs = {}
    assert bare.devinterp.kind == "sweep"
    assert "cells" in repr(tree.devinterp)
    summary = tree.devinterp.sweep()
    del summary.attrs["devinterp_schema"]
    assert summary.devinterp.kind == "sweep_summary"


def test_a_summary_survives_a_store(tree, tmp_path):
    summary = tree.devinterp.sweep()
    summary.to_zarr(tmp_path / "s.zarr", zarr_format=3, consolidated=False)
    back = xr.open_zarr(tmp_path / "s.zarr", consolidated=False).load()
    xr.testing.assert_equal(back, summary)
    assert back.devinterp.recommend() == summary.devinterp.recommend()


@pytest.mark.parametrize(("value", "text"), [(30.0, "30"), (1e-5, "1e-05"), (0.1, "0.1"), (0.0, "0")])
def test_cells_are_named_after_their_settings(value, text):
    assert cell_name({"lr": value, "n_beta": 1, "localization": 2}) == f"lr={text},n_beta=1,localization=2"
