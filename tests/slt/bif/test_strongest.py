from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from made_runs import make_run, to_store

from devinterp.errors import SettingError
from devinterp.schema import validate
from devinterp.slt.bif import compute_bif
from devinterp.slt.bif import strongest as bif_topk
from devinterp.slt.bif.strongest import Strongest


def left_out(ids_a, ids_b, same, tokens):
    """Which (p, q) of a pair of sequences say nothing, by the definition in words."""
    alike = 0
    while alike < len(ids_a) and ids_a[alike] == ids_b[alike]:
        alike += 1
    out = np.zeros((tokens, tokens), dtype=bool)
    if same or alike == len(ids_a):
        out[:] = True
    shared = max(0, alike - 1)  # predicted tokens that have the same context and the same target in both
    out[:shared, :] = True
    out[:, :shared] = True
    return out


def by_hand(tree, k, *, by_token, **options):
    """The k largest and smallest entries of the whole matrix, without what says nothing."""
    whole = compute_bif(tree, correlation_method="token" if by_token else "sequence", **options)
    values, ids = whole["influences"].values.copy(), whole["input_ids"].values
    for i, a in enumerate(whole["batch_1"].values):
        for j, b in enumerate(whole["batch_2"].values):
            if by_token:
                values[i, j][left_out(ids[a], ids[b], a == b, values.shape[2])] = np.nan
            elif a == b or np.array_equal(ids[a], ids[b]):
                values[i, j] = np.nan
    if by_token:
        values = values.transpose(0, 2, 1, 3).reshape(values.shape[0], values.shape[2], -1)
    out = []
    for sign in (1, -1):
        ranked = np.where(np.isnan(values) | (sign * values <= 0), -np.inf, sign * values)
        ranked = -np.sort(-ranked, axis=-1)[..., :k]
        ranked = np.pad(ranked, [(0, 0)] * (ranked.ndim - 1) + [(0, k - ranked.shape[-1])], constant_values=-np.inf)
        out.append(np.where(np.isinf(ranked), np.nan, sign * ranked))
    return np.stack(out, axis=-2)


def with_shared_beginnings(seed=0):
    """A run some of whose sequences begin alike, and two of which are identical."""
    tree = make_run(seed, rows={"code": 6, "math": 4}, vocabulary=4)
    tree["input_ids_math"].values[1] = tree["input_ids_code"].values[2]
    return tree


@pytest.mark.parametrize("by_token", [True, False])
@pytest.mark.parametrize("options", [{}, {"batch_index_range_1": "code", "batch_index_range_2": [9, 1, 6]}])
@pytest.mark.parametrize("tile", [(1024, 4096), (12, 18), (18, 12)])
@pytest.mark.parametrize("k", [3, 60])
def test_is_the_top_of_the_whole_matrix(monkeypatch, by_token, options, tile, k):
    monkeypatch.setattr(bif_topk, "ROW_SERIES", tile[0])
    monkeypatch.setattr(bif_topk, "COLUMN_SERIES", tile[1])
    tree = with_shared_beginnings()
    method = "token" if by_token else "sequence"
    result = compute_bif(tree, correlation_method=method, top_k=k, **options)
    np.testing.assert_allclose(result["influences"], by_hand(tree, k, by_token=by_token, **options), atol=1e-6)
    assert validate(result).ok


def test_partners_are_who_they_are_said_to_be():
    tree = with_shared_beginnings()
    whole, result = compute_bif(tree), compute_bif(tree, top_k=4)
    ids = whole["input_ids"].values
    assert result["sign"].values.tolist() == [1, -1]
    for at in np.argwhere(result["partner_batch"].values >= 0):
        batch, position = int(result["partner_batch"].values[*at]), int(result["partner_position"].values[*at])
        value = whole["influences"].values[at[0], batch, at[1], position - 1]
        np.testing.assert_allclose(result["influences"].values[*at], value, atol=1e-6)
        assert result["partner_token"].values[*at] == ids[batch, position]
        assert batch != at[0]


def test_identical_sequences_do_not_fill_the_list():
    tree = with_shared_beginnings()
    for name in ("code", "math"):
        tree[f"loss_{name}"].values[...] = np.random.default_rng(1).normal(size=tree[f"loss_{name}"].shape)
    tree["loss_math"].values[:, :, 1] = tree["loss_code"].values[:, :, 2]
    result = compute_bif(tree, top_k=3)
    assert compute_bif(tree)["influences"].values[2, 7, 0, 0] == pytest.approx(1.0)
    assert not (result["partner_batch"].values[2] == 7).any()
    assert np.nanmax(result["influences"]) < 0.9


def test_fewer_partners_than_k_leave_gaps_that_say_so():
    result = compute_bif(make_run(rows={"code": 2}, tokens=2), top_k=5)
    found = result["partner_batch"].values >= 0
    assert not found.all()
    np.testing.assert_array_equal(np.isfinite(result["influences"].values), found)
    np.testing.assert_array_equal(result["partner_position"].values >= 0, found)
    np.testing.assert_array_equal(result["partner_token"].values >= 0, found)


def test_the_noise_floor_holds_for_unrelated_losses():
    """Independent autocorrelated losses: about 5 % of the pairs lie beyond the floor of a single pair."""
    tree = make_run(rows={"code": 24}, draws=200)
    rng = np.random.default_rng(2)
    noise = rng.normal(size=tree["loss_code"].shape)
    for t in range(1, 200):
        noise[:, t] = 0.8 * noise[:, t - 1] + 0.6 * noise[:, t]
    tree["loss_code"].values[...] = noise
    result = compute_bif(tree, top_k=1)
    values = compute_bif(tree)["influences"].values
    apart = values[~np.eye(24, dtype=bool)]
    # 600 draws with an autocorrelation of 0.8: pairs are worth 600 (1 - .64) / (1 + .64) = 132 draws.
    assert 80 < result.attrs["effective_draws"] < 200
    assert 0.02 < (np.abs(apart) > result.attrs["noise_floor"]).mean() < 0.09
    beyond = np.abs(result["influences"].values) > result.attrs["noise_floor_strongest"]
    assert beyond.mean() < 0.05


@pytest.mark.needs("dask")
def test_a_store_and_dask_give_the_same(tmp_path):
    tree = with_shared_beginnings()
    expected = compute_bif(tree, top_k=3)
    stored = to_store(tree, tmp_path / "run.zarr")
    xr.testing.assert_identical(compute_bif(stored, top_k=3), expected)
    xr.testing.assert_allclose(compute_bif(stored.chunk(chain=1, draw=10), top_k=3), expected, atol=1e-6)


@pytest.mark.needs("dask")
@pytest.mark.parametrize(
    "options",
    [
        {"correlation_method": "sequence"},
        {"batch_index_range_1": [9, 0, 5], "batch_index_range_2": "math"},
        {"batch_index_range_1": "code"},
        {"reduce_chain_dimension_method": "mean"},
    ],
)
def test_workers_find_the_same_whatever_blocks_they_are_given(options):
    tree = make_run()
    found = compute_bif(tree.chunk(chain=1, draw=15), top_k=3, batch_size=3, **options)
    xr.testing.assert_allclose(found, compute_bif(tree, top_k=3, **options), atol=1e-6)


def test_strongest_keeps_the_best_of_many_tiles():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(7, 5000)).astype(np.float32)
    values[:, ::50] = np.nan
    kept = Strongest.empty(7, 5)
    for start in range(0, 5000, 1000):
        kept.add(values[:, start : start + 1000], 0, start)
    order = np.argsort(-np.nan_to_num(values, nan=-9), axis=1)[:, :5]
    np.testing.assert_array_equal(kept.partners, order)
    np.testing.assert_array_equal(kept.values, np.take_along_axis(values, order, axis=1))


@pytest.mark.parametrize(
    "other", [{"output_path": "x.zarr"}, {"lazy": True}, {"compute_covariance": True}, {"average_tokenwise_bif": True}]
)
def test_what_does_not_go_together_is_refused(other):
    with pytest.raises(SettingError, match="goes with none"):
        compute_bif(make_run(), top_k=2, **other)
