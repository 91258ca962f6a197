from __future__ import annotations

import numpy as np
import pytest

from devinterp.slt.batch_means import (
    autocorrelation_time,
    batch_groups,
    batch_length,
    batches_of,
    merge_groups,
    share_seen,
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
