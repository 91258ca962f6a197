"""What must hold of every LLC, whatever the run."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import assign, observables, runs

from devinterp.errors import ChainFailedWarning
from devinterp.slt.llc import compute_llc
from devinterp.testing import make_tree
from devinterp.testing.strategies import recipes

pytestmark = pytest.mark.filterwarnings("error")
few = settings(max_examples=12)


@few
@given(runs())
def test_is_n_beta_times_the_loss_above_the_start(tree: xr.DataTree) -> None:
    result = compute_llc(tree)
    loss = tree["sampling_loss"].values.astype(np.float64)
    init = tree["init_loss"].values.astype(np.float64).mean()
    per_chain = float(tree["n_beta"]) * (loss.mean(axis=(1, 2, 3)) - init)
    np.testing.assert_allclose(result["llc_per_chain"], per_chain, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(result["llc_mean"], per_chain.mean(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(result["llc_std"], per_chain.std(ddof=0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(result["llc_scalar"], float(tree["n_beta"]) * (loss.mean() - init), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(result["loss_trace"], loss.mean(axis=(2, 3)), rtol=1e-6)
    np.testing.assert_allclose(result["init_loss"], init, rtol=1e-9)


@few
@given(runs(), st.integers(-8, 8))
def test_ignores_a_constant_added_to_every_loss(tree: xr.DataTree, constant: int) -> None:
    moved = assign(tree, {n: tree[n].values + constant for n in ("sampling_loss", "init_loss")})
    for name in ("llc_mean", "llc_std", "llc_per_chain", "llc_scalar"):
        np.testing.assert_allclose(compute_llc(moved)[name], compute_llc(tree)[name], rtol=1e-9, atol=1e-9)


@few
@given(runs(), st.sampled_from([0.25, 0.5, 2.0, 4.0]))
def test_scales_with_the_loss_and_with_n_beta(tree: xr.DataTree, factor: float) -> None:
    expected = factor * compute_llc(tree)["llc_per_chain"].values
    scaled = assign(tree, {n: tree[n].values * factor for n in ("sampling_loss", "init_loss")})
    hotter = assign(tree, {"n_beta": float(tree["n_beta"]) * factor})
    np.testing.assert_allclose(compute_llc(scaled)["llc_per_chain"], expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(compute_llc(hotter)["llc_per_chain"], expected, rtol=1e-9, atol=1e-9)


@few
@given(runs(), st.randoms(use_true_random=False))
def test_is_equivariant_in_the_order_of_chains_and_blind_to_that_of_draws_and_rows(tree, random) -> None:
    chains, draws, rows = (random.sample(range(tree.sizes[d]), tree.sizes[d]) for d in ("chain", "draw", "batch"))
    shuffled = tree.to_dataset().isel(chain=chains, draw=draws, batch=rows)
    result, expected = compute_llc(shuffled), compute_llc(tree)
    np.testing.assert_allclose(result["llc_per_chain"], expected["llc_per_chain"][chains], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(result["llc_scalar"], expected["llc_scalar"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(result["loss_trace"], expected["loss_trace"][chains, draws], rtol=1e-6)


@few
@given(runs())
def test_mean_over_chains_is_the_scalar_one(tree: xr.DataTree) -> None:
    result = compute_llc(tree)
    np.testing.assert_allclose(result["llc_mean"], result["llc_scalar"], rtol=1e-9, atol=1e-9)
    assert float(result["llc_std"]) >= 0
    low, high = float(result["llc_per_chain"].min()), float(result["llc_per_chain"].max())
    assert low - 1e-9 <= float(result["llc_mean"]) <= high + 1e-9


@few
@given(recipes("samples"))
def test_of_a_run_with_failed_chains_is_that_of_the_others(recipe) -> None:
    tree = make_tree(recipe)
    failed = sorted(recipe.failed)
    if not failed:
        assert compute_llc(tree).attrs["chains_excluded"] == []
        return
    with pytest.warns(ChainFailedWarning, match=f"chain {failed[0]}"):
        result = compute_llc(tree)
    assert list(result.attrs["chains_excluded"]) == failed
    assert result.sizes["chain"] == tree.sizes["chain"]
    assert list(np.flatnonzero(np.isnan(result["llc_per_chain"]))) == failed
    kept = [c for c in range(tree.sizes["chain"]) if c not in failed]
    others = compute_llc(tree.to_dataset().isel(chain=kept))
    for name in ("llc_mean", "llc_std", "llc_scalar", "init_loss"):
        np.testing.assert_allclose(result[name], others[name], rtol=1e-12)


@pytest.mark.needs("dask")
@few
@given(runs(), st.integers(1, 3), st.integers(1, 7))
def test_does_not_depend_on_chunks(tree: xr.DataTree, chain: int, draw: int) -> None:
    chunked = tree.to_dataset().chunk({"chain": chain, "draw": draw})
    xr.testing.assert_allclose(compute_llc(chunked), compute_llc(tree), rtol=1e-12)


@few
@given(runs())
def test_over_an_observable_compares_the_same_rows_before_and_after(tree: xr.DataTree) -> None:
    for name in observables(tree):
        result = compute_llc(tree, over="observable", observable=name)
        above = tree[f"loss_{name}"].astype(np.float64) - tree[f"init_loss_{name}"].astype(np.float64)
        expected = float(tree["n_beta"]) * above.mean(("draw", f"batch_{name}", "token_pos"))
        np.testing.assert_allclose(result["llc_per_chain"], expected, rtol=1e-9, atol=1e-9)


@few
@given(runs("study"))
def test_of_a_study_is_those_of_its_runs_side_by_side(study: xr.DataTree) -> None:
    result = compute_llc(study)
    assert list(result["wr"].values) == study.attrs["metadata"]["config"]["restrictions"]
    for index, name in enumerate(result["wr"].values):
        single = compute_llc(study[name])
        for variable in ("llc_mean", "llc_std", "llc_per_chain", "llc_scalar", "loss_trace", "init_loss"):
            np.testing.assert_array_equal(result[variable].isel(wr=index), single[variable])
