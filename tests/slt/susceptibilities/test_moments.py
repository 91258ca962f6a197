"""Sums over draws against numpy: by groups, whatever the blocks, of the chains and draws that count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import fail_chain, make_run, to_store

from devinterp.errors import AllChainsFailedError
from devinterp.slt.runs import read_blocks as _blocks
from devinterp.slt.runs.run import Samples
from devinterp.slt.susceptibilities import moments as _moments
from devinterp.slt.susceptibilities.moments import gather_moments
from devinterp.slt.uncertainty.batch_means import sample_of, share_seen

NAMES = ["code", "train"]


def gather(tree, observables=NAMES, *, products=True, partial=False, **options):
    run = Samples.of(tree, allow_partial=partial)
    return gather_moments(run, "train", observables, with_products=products, allow_partial=partial, **options)


def check(found, tree, *, chains=slice(None), draws=slice(None), names=NAMES, products=True):
    """Every sum of every group, recomputed in float64."""
    losses = {n: tree[f"loss_{n}"].values[chains, draws].astype(np.float64) for n in {*names, "train"}}
    trace = losses["train"].mean(axis=(2, 3))
    np.testing.assert_allclose(found.trace, trace, rtol=1e-12)
    assert found.count == trace.size
    assert set(found.sums) == set(names)
    assert set(found.products) == (set(names) if products else set())
    length = trace.shape[1]
    assert [c for c, _ in found.groups] == sorted(list(range(len(trace))) * (len(found.groups) // len(trace)))
    for chain in range(len(trace)):
        cuts = [cut for c, cut in found.groups if c == chain]
        assert [d for cut in cuts for d in range(cut.start, cut.stop)] == list(range(length))
        assert max(c.stop - c.start for c in cuts) - min(c.stop - c.start for c in cuts) <= 1
    for name in names:
        for k, (chain, cut) in enumerate(found.groups):
            part = losses[name][chain, cut]
            np.testing.assert_allclose(found.sums[name][k], part.sum(axis=0), rtol=1e-12)
            if products:
                weights = trace[chain, cut] - found.centre
                expected = np.einsum("d,dbt->bt", weights, part)
                np.testing.assert_allclose(found.products[name][k], expected, atol=1e-10)
        np.testing.assert_allclose(found.mean(name), losses[name].mean(axis=(0, 1)), rtol=1e-12)
        if products:
            deviation = trace - trace.mean()
            expected = np.einsum("cd,cdbt->bt", deviation, losses[name]) / trace.size
            np.testing.assert_allclose(found.covariance(name), expected, atol=1e-10)


@settings(max_examples=15)
@given(st.integers(1, 5000), st.integers(1, 50), st.booleans())
def test_sums_do_not_depend_on_blocks_or_pieces(block_bytes, groups, products):
    tree = make_run(chains=2, draws=23, tokens=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_blocks, "BLOCK_BYTES", block_bytes)
        patch.setattr(_moments, "PIECE_OPERATIONS", 1)
        found = gather(tree, groups_per_chain=groups, products=products)
    check(found, tree, products=products)
    assert len(found.groups) == 2 * min(groups, 23)


@pytest.mark.parametrize("width", [255, 256, 257, 600])
def test_wide_blocks_are_summed_in_pieces(width, monkeypatch):
    monkeypatch.setattr(_moments, "PIECE_OPERATIONS", 1)  # pieces of 256 tokens
    tree = make_run(chains=1, draws=5, rows={"train": 1, "code": 1}, tokens=width)
    check(gather(tree, groups_per_chain=2), tree)


@pytest.mark.parametrize("draws", [3, 7, 40])
@pytest.mark.parametrize("opened", ["store", pytest.param("dask", marks=pytest.mark.needs("dask"))])
def test_a_store_gives_the_sums_of_memory(tmp_path, draws, opened):
    tree = make_run()
    stored = to_store(tree, tmp_path / "run.zarr", draws=draws)
    if opened == "dask":
        stored = stored.chunk(chain=2, draw=draws)
    check(gather(stored, groups_per_chain=4), tree)


def test_only_the_observables_asked_for_are_summed_the_task_among_them_or_not():
    tree = make_run()
    for names in (["math"], ["train"], ["math", "train", "code"]):
        found = gather(tree, names, groups_per_chain=3)
        check(found, tree, names=names)
        picked = [tree[f"loss_{n}"].values.reshape(3, 40, -1) for n in sorted(names, key=lambda n: n != "train")]
        expected = np.concatenate([p[:, :, sample_of(p.shape[2])] for p in picked], axis=2)
        assert found.sample.dtype == np.float32
        assert sorted(found.sample[0, 0]) == sorted(expected[0, 0])
        assert found.sample.shape == expected.shape


def test_without_groups_no_series_are_kept():
    found = gather(make_run())
    assert found.sample.shape == (3, 40, 0)
    assert len(found.groups) == 3


def test_a_failed_chain_is_not_read_and_not_counted():
    tree = fail_chain(make_run(), 1, 12)
    found = gather(tree, groups_per_chain=4)
    assert found.selection.used == (0, 2)
    check(found, tree, chains=[0, 2])
    assert found.sample.shape[:2] == (2, 40)


def test_a_chain_with_a_loss_that_is_not_finite_is_left_out_though_the_store_calls_it_complete():
    for name, value in (("train", np.nan), ("code", np.inf)):
        tree = make_run()
        tree[f"loss_{name}"].values[0, 17, 1, 2] = value
        found = gather(tree, groups_per_chain=4)
        assert found.selection.used == (1, 2)
        check(found, tree, chains=[1, 2])
        assert np.isfinite(found.centre)


def test_the_first_draw_that_is_finite_is_the_centre():
    tree = make_run()
    tree["loss_train"].values[0] = np.nan
    found = gather(tree)
    assert found.centre == pytest.approx(tree["loss_train"].values[1, 0].mean(dtype=np.float64), rel=1e-12)
    everything = make_run()
    assert gather(everything).centre == pytest.approx(everything["loss_train"].values[0, 0].mean(dtype=np.float64))


def test_with_allow_partial_the_draws_that_all_chains_have_are_summed():
    tree = fail_chain(make_run(), 1, 12)
    found = gather(tree, groups_per_chain=4, partial=True)
    assert found.selection.used == (0, 1, 2)
    assert found.selection.length == 12
    check(found, tree, draws=slice(0, 12))


def test_a_probe_that_stops_before_the_task_ends_the_prefix():
    tree = make_run()
    tree["loss_code"].values[2, 9:] = np.nan
    found = gather(tree, groups_per_chain=4, partial=True)
    assert found.selection.length == 9
    check(found, tree, draws=slice(0, 9))


def test_sums_of_large_losses_keep_their_precision():
    tree = make_run()
    tree["loss_code"].values[...] += 5000
    check(gather(tree, groups_per_chain=3), tree)


def test_overflow_and_nan_warn_nobody():
    tree = make_run()
    tree["loss_code"].values[0] = 3e38
    tree["loss_train"].values[1, 3] = np.inf
    assert gather(tree, groups_per_chain=2).selection.used == (0, 2)
    tree["loss_train"].values[:, 5] = np.nan
    with pytest.raises(AllChainsFailedError):
        gather(tree)


def test_batches_are_longer_than_the_autocorrelation_of_the_slowest():
    rng = np.random.default_rng(0)
    tree = make_run(draws=400, match_sampling_input_ids_across_chains=False)
    for name in ("train", "code"):
        tree[f"loss_{name}"].values[...] = rng.normal(3, 1, tree[f"loss_{name}"].shape)
    fast = gather(tree, groups_per_chain=40)
    assert fast.autocorrelation_time < 2
    slow = np.cumsum(rng.normal(size=(3, 400)), axis=1) / 10
    tree["loss_code"].values[...] = slow[:, :, None, None]
    found = gather(tree, groups_per_chain=40)
    assert found.autocorrelation_time > 20
    assert len(found.batches) < len(fast.batches)
    for moments in (fast, found):
        assert [g for batch in moments.batches for g in batch] == list(range(len(moments.groups)))
        assert moments.share_seen == share_seen(moments.autocorrelation_time, 1200 / len(moments.batches))
    trace = make_run(draws=400)
    trace["loss_code"].values[...] = rng.normal(3, 1, trace["loss_code"].shape)
    trace["loss_train"].values[...] = slow[:, :, None, None]
    assert gather(trace, ["code"], groups_per_chain=40).autocorrelation_time > 20


def test_weights_are_those_of_the_groups_that_a_block_touches():
    trace = np.arange(10.0)
    cuts = (slice(0, 3), slice(3, 7), slice(7, 10))
    member, rows = _moments._weights(trace, slice(2, 7), cuts, None)
    assert rows == [0, 1]
    assert member.tolist() == [[1, 0, 0, 0, 0], [0, 1, 1, 1, 1]]
    both, rows = _moments._weights(trace, slice(3, 5), cuts, 1.0)
    assert rows == [1]
    assert both.tolist() == [[1, 1], [2, 3]]
