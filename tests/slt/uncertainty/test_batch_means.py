from __future__ import annotations

import itertools

import numpy as np
import pytest
from made_runs import make_run

from devinterp.slt.runs.run import Samples
from devinterp.slt.uncertainty.batch_means import (
    Batches,
    Passes,
    autocorrelation_time,
    batch_groups,
    batch_length,
    batches_of,
    mean_variance,
    merge_groups,
    sample_of,
    share_seen,
    shares_minibatches,
)


def autoregressive(memory, chains=4, draws=2000, seed=0):
    rng = np.random.default_rng(seed)
    out = np.empty((chains, draws))
    state = rng.normal(size=chains)
    for t in range(draws):
        state = memory * state + np.sqrt(1 - memory**2) * rng.normal(size=chains)
        out[:, t] = state
    return out


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_autocorrelation_time_of_an_autoregressive_series(memory):
    expected = (1 + memory) / (1 - memory)
    assert autocorrelation_time(autoregressive(memory)) == pytest.approx(expected, rel=0.25)


def test_autocorrelation_time_of_several_series_is_near_the_slowest():
    series = np.stack([autoregressive(0.0), autoregressive(0.9)], axis=2)
    assert autocorrelation_time(series) > 12


@pytest.mark.parametrize("series", [np.ones((2, 50)), np.zeros((2, 3)), np.random.default_rng(0).normal(size=(1, 3))])
def test_autocorrelation_time_without_information_is_one(series):
    assert autocorrelation_time(series) == 1.0


@pytest.mark.parametrize("num_chains", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("num_draws", [4, 7, 50, 200])
@pytest.mark.parametrize("time", [1.0, 5.0, 1000.0])
def test_batches_cover_every_draw_and_are_at_least_four(num_chains, num_draws, time):
    length = batch_length(num_chains, num_draws, time)
    cuts = batches_of(num_draws, length)
    assert [i for cut in cuts for i in range(cut.start, cut.stop)] == list(range(num_draws))
    assert len(cuts) * num_chains >= 4
    groups = batch_groups(np.random.default_rng(0).normal(size=(num_chains * num_draws, 3)), num_chains)
    assert [i for g in groups for i in range(g.start, g.stop)] == list(range(num_chains * num_draws))
    assert not any(g.start < c * num_draws < g.stop for g in groups for c in range(num_chains))


def test_groups_merge_within_chains_only():
    merged = merge_groups(3, 100, 10, 4.0)
    assert [g for batch in merged for g in batch] == list(range(30))
    assert all(batch[0] // 10 == batch[-1] // 10 for batch in merged)
    assert len(merged) < 30


@pytest.mark.parametrize("memory", [0.0, 0.3, 0.9, 0.99])
@pytest.mark.parametrize("length", [1, 7, 40])
def test_share_seen_is_the_variance_of_a_batch_over_that_of_a_long_one(memory, length):
    lags = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    time = (1 + memory) / (1 - memory)
    assert share_seen(time, length) == pytest.approx((memory**lags).sum() / (length * time))


def test_batches_of_a_slow_series_are_unbiased():
    """The mean over 400 runs of the estimated variance is the variance of their means."""
    runs = autoregressive(0.8, chains=4 * 400, draws=200).reshape(400, 4, 200)
    known = 9.0 / (4 * 200)  # (1 + 0.8) / (1 - 0.8), the variance being 1
    estimates = []
    for run in runs:
        batches = batch_groups(run.reshape(-1, 1).astype(np.float32), 4)
        deviations = [run.ravel()[cut].sum() - (cut.stop - cut.start) * run.mean() for cut in batches]
        estimates.append(batches.scale * np.square(deviations).sum() / run.size**2)
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - known) < 3 * error + 0.03 * known


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_spread_of_independent_batches_is_unbiased_exactly(count):
    """Over every outcome of sums that are +1 or -1 with equal chance, whose total has the variance `count`."""
    batches = Batches(tuple(slice(k, k + 1) for k in range(count)))
    spreads = [np.sum((np.array(s) - np.mean(s)) ** 2) for s in itertools.product([-1, 1], repeat=count)]
    assert batches.scale * np.mean(spreads) == pytest.approx(count)
    assert Batches(batches.slices, share=0.5).scale == pytest.approx(2 * batches.scale)
    assert (len(batches), list(batches), batches.share) == (count, list(batches.slices), 1.0)


def test_a_batch_holds_several_autocorrelation_times_and_a_chain_ten_batches():
    # Independent draws: a tenth of the chain. Slow ones: five times as long as they are slow.
    assert [batch_length(4, n, 1.0) for n in (1, 5, 10, 11, 100, 200)] == [1, 1, 1, 2, 10, 20]
    assert [batch_length(4, 40, time) for time in (1.5, 1.51, 2.0, 2.9, 6.0)] == [4, 8, 10, 15, 30]
    # And yet at least four batches over all chains.
    assert [batch_length(c, 200, 1e6) for c in (1, 2, 3, 4, 5, 8)] == [50, 100, 100, 200, 200, 200]
    assert [batch_length(1, n, 1e6) for n in (1, 3, 4, 7, 8)] == [1, 1, 1, 1, 2]
    assert type(batch_length(1, 100, 1.0)) is int


@pytest.mark.parametrize("num_draws", [1, 2, 9, 10, 101])
@pytest.mark.parametrize("length", [1, 2, 3, 10, 200])
def test_batches_of_a_chain_are_as_long_as_each_other(num_draws, length):
    cuts = batches_of(num_draws, length)
    assert len(cuts) == max(1, num_draws // length)
    sizes = [cut.stop - cut.start for cut in cuts]
    assert sum(sizes) == num_draws
    assert cuts[0].start == 0
    assert min(sizes) >= min(length, num_draws)
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("width", [1, 2, 31, 32, 33, 1000])
def test_the_sample_of_series_goes_from_the_first_to_the_last(width):
    places = sample_of(width)
    assert places[0] == 0
    assert places[-1] == width - 1
    assert len(places) == min(width, 32)
    steps = np.diff(places)
    assert steps.size == 0 or (steps.min() >= 1 and steps.max() - steps.min() <= 1)
    assert places.dtype == np.int64


def test_a_series_that_never_changes_does_not_count():
    series = autoregressive(0.9)[:, :, None]
    alone = autocorrelation_time(series)
    assert alone > 10
    assert autocorrelation_time(np.concatenate([series, np.ones_like(series)], axis=2)) == alone
    between = np.ones_like(series) * np.arange(4)[:, None, None]  # chains that stand still apart from each other
    assert autocorrelation_time(np.concatenate([series, between], axis=2)) > alone


def test_one_slow_series_in_twenty_is_not_the_time_of_all_and_one_in_five_is():
    fast = [autoregressive(0.0, draws=300, seed=k) for k in range(20)]
    slow = [autoregressive(0.95, draws=300, seed=k) for k in range(5)]
    assert autocorrelation_time(np.stack(fast[:19] + slow[:1], axis=2)) < 2
    assert autocorrelation_time(np.stack(fast[:16] + slow[:4], axis=2)) > 10


def test_an_antithetic_series_is_no_better_than_independent_draws():
    assert autocorrelation_time(autoregressive(-0.5)) == 1.0


@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_batches_know_the_share_of_the_variance_that_they_show(memory):
    series = autoregressive(memory, chains=3, draws=200)
    groups = batch_groups(series.reshape(-1, 1), 3)
    time = autocorrelation_time(series)
    lengths = {g.stop - g.start for g in groups}
    assert groups.share == pytest.approx(share_seen(time, 600 / len(groups)))
    assert max(lengths) - min(lengths) <= 1
    assert min(lengths) >= batch_length(3, 200, time)


def test_series_are_judged_by_their_own_chains():
    """Chain after chain: a jump from one to the next is not memory."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 100, 3))
    values[..., 1:] = np.cumsum(values[..., 1:], axis=1)
    groups = batch_groups(values.reshape(400, 3), 4)
    assert groups.share == pytest.approx(share_seen(autocorrelation_time(values), 400 / len(groups)))


@pytest.mark.parametrize(
    ("per_chain", "time", "sizes"),
    [
        (10, 1.0, [1] * 10),
        (10, 4.0, [2] * 5),
        (4, 1.0, [1] * 4),
        (10, 1e6, [5, 5]),
        (1, 1e6, [1]),
        (10, 3.0, [2, 1, 2, 2, 1, 2]),
    ],
)
def test_groups_are_put_together_as_far_as_it_needs(per_chain, time, sizes):
    """Of 100 draws in two chains: batches of five times, at least four over both."""
    merged = merge_groups(2, 100, per_chain, time)
    assert [g for batch in merged for g in batch] == list(range(2 * per_chain))
    assert sorted(len(b) for b in merged) == sorted(sizes * 2)
    assert len({len(b) for b in merged[: len(sizes)]} | {len(b) for b in merged[len(sizes) :]}) == len(set(sizes))


def test_chains_that_share_minibatches_are_batched_together():
    """The errors of means, over 300 runs whose chains have half of their variance in common."""
    rng = np.random.default_rng(0)
    runs = rng.normal(size=(300, 4, 100)) + rng.normal(size=(300, 1, 100))
    known = (1 / 4 + 1) / 100
    for shared in (True, False):
        found = np.array([mean_variance(run, shared=shared)[0] for run in runs])
        groups = [batch_groups(run.reshape(-1, 1).astype(np.float32), 4, shared=shared) for run in runs]
        sums = [
            [sum(run.ravel()[c].sum() - (c.stop - c.start) * run.mean() for c in each) for each in batches.together]
            for run, batches in zip(runs, groups, strict=True)
        ]
        by_groups = [g.scale * np.square(s).sum() / 400**2 for g, s in zip(groups, sums, strict=True)]
        if shared:
            assert np.mean(found) == pytest.approx(known, rel=0.1)
            assert np.mean(by_groups) == pytest.approx(known, rel=0.1)
            assert {len(g) for g in groups} == {10}
        else:
            assert np.mean(found) < 0.5 * known
            assert np.mean(by_groups) < 0.5 * known
    merged = merge_groups(3, 100, 10, 1.0, shared=True)
    assert merged[0] == (0, 10, 20)
    assert sorted(g for batch in merged for g in batch) == list(range(30))
    assert len(batch_groups(np.ones((4, 1), dtype=np.float32), 4, shared=True)) == 4  # one draw of each: no other way


def test_passes_count_where_they_are_longer_than_batches_of_draws():
    """What all minibatches of a short pass add is in every batch alike, and multiplies no error of the estimate."""
    rng = np.random.default_rng(0)
    runs = rng.normal(size=(200, 4, 100)) + rng.normal(size=(200, 1, 1)) * np.resize([1.0, -1.0], 100)
    short = np.array([mean_variance(run, shared=True, passes=Passes(50.0, 2.0))[0] for run in runs])
    assert np.median(short) == pytest.approx(1 / 400, rel=0.3)
    shared = rng.normal(size=(200, 1, 50))
    twice = rng.normal(size=(200, 4, 100)) + np.concatenate([shared, shared], axis=2)
    known = twice.mean(axis=(1, 2)).var()
    found = np.array([mean_variance(run, shared=True, passes=Passes(2.0, 50.0))[0] for run in twice])
    assert known == pytest.approx(1 / 50 + 1 / 400, rel=0.2)
    assert found.mean() == pytest.approx(known, rel=0.2)


def test_of_losses_of_the_minibatches_later_passes_count_for_no_more_certainty():
    rng = np.random.default_rng(0)
    shared = np.tile(rng.normal(size=(1, 50)), 2)
    run = rng.normal(0.0, 0.1, (4, 100)) + shared
    passes = Passes(2.0, 50.0)
    plain = mean_variance(run, shared=True, passes=passes)
    of_rows = mean_variance(run, shared=True, passes=passes, of_minibatches=True)
    assert of_rows == (plain[0], plain[1] / 2)
    own = rng.normal(size=(4, 100))  # nothing in common
    assert mean_variance(own, passes=passes, of_minibatches=True) == mean_variance(own, passes=passes)


def test_a_run_says_how_its_draws_go_over_the_minibatches():
    run = make_run(num_steps_bw_draws=3, batch_size=4)
    draws = run.sizes["draw"]
    assert Passes.of(Samples.of(run), draws) == Passes()
    run.attrs["metadata"]["provenance"] = {"dataset": {"length": 8}}
    found = Passes.of(Samples.of(run), 100)
    assert (found.count, found.draws) == (150.0, pytest.approx(2 / 3))


def test_a_run_says_whether_its_chains_share_minibatches():
    assert shares_minibatches(Samples.of(make_run()))
    assert not shares_minibatches(Samples.of(make_run(match_sampling_input_ids_across_chains=False)))
    whole = make_run()
    whole.attrs["metadata"]["provenance"] = {"dataset": {"length": 4}}
    assert not shares_minibatches(Samples.of(whole))
    whole.attrs["metadata"]["provenance"]["dataset"]["length"] = 5
    assert shares_minibatches(Samples.of(whole))
