"""What must hold of every BIF, whatever the run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from runs import a_run, assign, observables, runs

from devinterp.slt.bif import compute_bif
from devinterp.slt.bif import kernels as _kernels

few = settings(max_examples=12)
TOLERANCE = 1e-5
METHODS = st.sampled_from(["token", "sequence"])


def several_draws(tree: xr.DataTree) -> bool:
    """A correlation of fewer than two observations is none."""
    return tree.sizes["chain"] * tree.sizes["draw"] >= 3


def matrix(result: xr.Dataset) -> np.ndarray[Any, Any]:
    """Influences as a square matrix over (sequence, position)."""
    values = result["influences"].values
    if values.ndim == 4:
        values = values.transpose(0, 2, 1, 3)
        values = values.reshape(values.shape[0] * values.shape[1], -1)
    return values


def naive(tree: xr.DataTree, names: list[str], *, sequence: bool, covariance: bool = False) -> np.ndarray[Any, Any]:
    """The definition, in float64, pair by pair."""
    losses = [tree[f"loss_{n}"].values.astype(np.float64) for n in names]
    columns = [
        a.reshape(a.shape[0] * a.shape[1], -1) if not sequence else a.mean(axis=3).reshape(-1, a.shape[2])
        for a in losses
    ]
    series = np.concatenate(columns, axis=1)
    centred = series - series.mean(axis=0)
    product = centred.T @ centred
    if covariance:
        return product / (len(series) - 1)
    scale = np.sqrt(np.diag(product))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.outer(scale, scale) > 0, product / np.outer(scale, scale), 0.0)


@few
@given(runs(), METHODS)
def test_is_the_correlation_of_losses_over_chains_and_draws(tree: xr.DataTree, method: str) -> None:
    assume(several_draws(tree))
    expected = naive(tree, observables(tree), sequence=method == "sequence")
    result = compute_bif(tree, correlation_method=method)
    atol = 1e-5 if method == "token" else 2e-4  # sequence losses are averaged in float32 first
    np.testing.assert_allclose(matrix(result), expected, atol=atol)


@few
@given(runs(), METHODS)
def test_covariance_is_that_of_a_sample(tree: xr.DataTree, method: str) -> None:
    """Divided by the observations less one."""
    assume(several_draws(tree))
    expected = naive(tree, observables(tree), sequence=method == "sequence", covariance=True)
    result = compute_bif(tree, correlation_method=method, compute_covariance=True)
    np.testing.assert_allclose(matrix(result), expected, atol=2e-4 * np.abs(expected).max() + 1e-12)


@few
@given(runs(), METHODS)
def test_is_symmetric_bounded_and_one_on_the_diagonal(tree: xr.DataTree, method: str) -> None:
    assume(several_draws(tree))
    result = compute_bif(tree, correlation_method=method)
    values = matrix(result)
    np.testing.assert_allclose(values, values.T, atol=TOLERANCE)
    assert np.abs(values).max() <= 1 + TOLERANCE
    diagonal = np.diag(values)
    constant = int(result.attrs["n_constant_losses"])
    assert int((diagonal == 0).sum()) == constant
    np.testing.assert_allclose(diagonal[diagonal != 0], 1.0, atol=TOLERANCE)
    assert not values[diagonal == 0].any()


@few
@given(runs(), METHODS, st.integers(-16, 16), st.sampled_from([0.125, 0.5, 2.0, 8.0]))
def test_ignores_shifts_and_positive_scalings(tree: xr.DataTree, method: str, shift: int, scale: float) -> None:
    assume(several_draws(tree))
    name = f"loss_{observables(tree)[0]}"
    changed = assign(tree, {name: tree[name].values * scale + shift})
    result, expected = (compute_bif(t, correlation_method=method)["influences"] for t in (changed, tree))
    np.testing.assert_allclose(result, expected, atol=2e-4 if method == "sequence" else TOLERANCE)


@few
@given(runs())
def test_changes_sign_with_the_loss(tree: xr.DataTree) -> None:
    assume(several_draws(tree))
    names = observables(tree)
    flipped = assign(tree, {f"loss_{names[0]}": -tree[f"loss_{names[0]}"].values})
    rows = tree.sizes[f"batch_{names[0]}"]
    result, expected = compute_bif(flipped)["influences"].values, compute_bif(tree)["influences"].values.copy()
    expected[:rows, rows:] *= -1
    expected[rows:, :rows] *= -1
    np.testing.assert_allclose(result, expected, atol=TOLERANCE)


@few
@given(runs())
def test_token_covariances_sum_to_the_sequence_covariance(tree: xr.DataTree) -> None:
    """Covariance is bilinear: T**2 times the covariance of means is the sum over both positions."""
    assume(several_draws(tree))
    token = compute_bif(tree, compute_covariance=True)["influences"].values.astype(np.float64)
    sequence = compute_bif(tree, compute_covariance=True, correlation_method="sequence")["influences"].values
    tokens = tree.sizes["token_pos"]
    scale = np.abs(token).max() * tokens**2 + 1e-12
    np.testing.assert_allclose(token.sum(axis=(2, 3)), tokens**2 * sequence, atol=1e-4 * scale)


@few
@given(runs())
def test_average_over_tokens_is_the_mean_of_the_token_bif(tree: xr.DataTree) -> None:
    assume(several_draws(tree))
    token = compute_bif(tree)["influences"].values.astype(np.float64)
    average = compute_bif(tree, average_tokenwise_bif=True)["influences"]
    np.testing.assert_allclose(average, token.mean(axis=(2, 3)), atol=TOLERANCE)


@few
@given(runs(min_members=2), METHODS, st.randoms(use_true_random=False))
def test_order_of_observables_permutes_the_sequences(tree: xr.DataTree, method: str, random: Any) -> None:
    assume(several_draws(tree))
    names = observables(tree)
    order = random.sample(names, len(names))
    starts = dict(zip(names, np.cumsum([0, *(tree.sizes[f"batch_{n}"] for n in names)]), strict=False))
    rows = np.concatenate([starts[n] + np.arange(tree.sizes[f"batch_{n}"]) for n in order])
    expected = compute_bif(tree, correlation_method=method)
    result = compute_bif(tree, correlation_method=method, loss_keys=order)
    np.testing.assert_allclose(result["influences"], expected["influences"].values[np.ix_(rows, rows)], atol=TOLERANCE)
    np.testing.assert_array_equal(result["input_ids"], expected["input_ids"].values[rows])
    np.testing.assert_array_equal(result["batch_1"], np.arange(len(rows)))


@few
@given(runs(), METHODS, st.data())
def test_a_range_of_sequences_is_a_part_of_the_whole(tree: xr.DataTree, method: str, data: st.DataObject) -> None:
    assume(several_draws(tree))
    whole = compute_bif(tree, correlation_method=method)
    index = st.lists(st.integers(0, whole.sizes["batch"] - 1), min_size=1, max_size=4, unique=True)
    first, second = data.draw(index), data.draw(index)
    part = compute_bif(tree, correlation_method=method, batch_index_range_1=first, batch_index_range_2=second)
    np.testing.assert_array_equal(part["batch_1"], first)
    np.testing.assert_array_equal(part["batch_2"], second)
    expected = whole["influences"].values[np.ix_(first, second)]
    np.testing.assert_allclose(part["influences"], expected, atol=TOLERANCE)


@few
@given(runs(), METHODS, st.randoms(use_true_random=False))
def test_is_blind_to_the_order_of_chains_and_draws(tree: xr.DataTree, method: str, random: Any) -> None:
    assume(several_draws(tree))
    chains, draws = (random.sample(range(tree.sizes[d]), tree.sizes[d]) for d in ("chain", "draw"))
    shuffled = tree.to_dataset().isel(chain=chains, draw=draws)
    result, expected = (compute_bif(t, correlation_method=method)["influences"] for t in (shuffled, tree))
    np.testing.assert_allclose(result, expected, atol=2e-4 if method == "sequence" else TOLERANCE)


@pytest.mark.parametrize("tile", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("method", ["token", "sequence"])
def test_tile_size_is_irrelevant(tile: int, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = a_run(seed=5, parameters={"num_draws": 7, "batch_size": 3}, sizes={"token_pos": 4})
    expected = compute_bif(tree, correlation_method=method)["influences"]
    monkeypatch.setattr(_kernels, "TILE_COLUMNS", tile)
    monkeypatch.setattr(_kernels, "STANDARDIZE_COLUMNS", tile)
    result = compute_bif(tree, correlation_method=method)["influences"]
    np.testing.assert_allclose(result, expected, atol=TOLERANCE)
    result = compute_bif(tree, correlation_method=method, batch_index_range_1=[0, 4, 2])["influences"]
    np.testing.assert_allclose(result, expected[[0, 4, 2]], atol=TOLERANCE)


@pytest.mark.needs("dask")
@settings(max_examples=4)
@given(runs(), st.integers(1, 3), st.integers(1, 4))
def test_dask_chunks_are_irrelevant(tree: xr.DataTree, chain: int, draw: int) -> None:
    assume(several_draws(tree))
    chunked = tree.to_dataset().chunk({"chain": chain, "draw": draw})
    result = compute_bif(chunked)
    np.testing.assert_allclose(result["influences"].values, compute_bif(tree)["influences"], atol=TOLERANCE)
    assert result["influences"].dtype == np.float32


@few
@given(runs(), METHODS)
def test_tokens_and_positions_are_those_of_the_observables(tree: xr.DataTree, method: str) -> None:
    assume(several_draws(tree))
    result = compute_bif(tree, correlation_method=method)
    expected = np.concatenate([tree[f"input_ids_{n}"].values for n in observables(tree)])
    np.testing.assert_array_equal(result["input_ids"], expected)
    if method == "token":
        for name in ("target_position", "target_position_T"):
            np.testing.assert_array_equal(result[name], np.arange(1, tree.sizes["token_pos"] + 1))
    assert result["influences"].dtype == np.float32
    xr.testing.assert_identical(result, compute_bif(tree, correlation_method=method))
