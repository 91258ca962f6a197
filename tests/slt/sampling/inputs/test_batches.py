"""The loader's order, and which rows are held."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from engine import settings
from hypothesis import given
from hypothesis import strategies as st
from tiny_lm import build_tokens
from torch.utils.data import DataLoader

from devinterp.errors import DataError
from devinterp.slt.sampling.inputs.batches import SamplingData, loader_order
from devinterp.slt.sampling.inputs.token_rows import TokenRows

TOKENS = build_tokens("code", 12)


def test_fewer_rows_than_a_batch_and_negative_ids_are_refused():
    with pytest.raises(DataError, match="too small"):
        SamplingData(TokenRows(TOKENS[:3], "data"), [settings(batch_size=4)])
    with pytest.raises(DataError, match="negative"):
        SamplingData(TokenRows(np.where(TOKENS[2, 3] == TOKENS, -1, TOKENS), "data"), [settings()])


@given(rows=st.integers(2, 90), seed=st.integers(0, 2**32 - 1))
def test_the_order_is_that_of_a_data_loader(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(torch.arange(rows), batch_size=1, shuffle=True, generator=generator)
    np.testing.assert_array_equal(loader_order(rows, shuffle=True, seed=seed), torch.cat(list(loader)).numpy())
    np.testing.assert_array_equal(loader_order(rows, shuffle=False, seed=seed), np.arange(rows))


@pytest.mark.parametrize("matched", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_are_those_of_a_loader_that_is_cycled(matched, shuffle):
    chosen = settings(
        num_draws=9, batch_size=5, shuffle=shuffle, match_sampling_input_ids_across_chains=matched, num_chains=3
    )
    data = SamplingData(TokenRows(TOKENS, "data"), [chosen])
    for chain in range(3):
        generator = torch.Generator().manual_seed(chosen.init_seed + (0 if matched else chain))
        loader = DataLoader(torch.from_numpy(TOKENS), 5, shuffle=shuffle, generator=generator, drop_last=True)
        for number, batch in enumerate(itertools.islice(itertools.cycle(loader), 9)):
            assert torch.equal(data.feed(chain).batch(number).ids, batch)


def test_only_visited_rows_are_held_and_in_a_small_dtype():
    data = SamplingData(TokenRows(build_tokens("train"), "data"), [settings(num_draws=2, num_init_loss_batches=1)])
    assert data.held.ids.shape == (8, 17)
    assert data.held.ids.dtype == np.uint16
    wide = SamplingData(TokenRows(TOKENS + 70_000, "data"), [settings()])
    assert wide.held.ids.dtype == np.int32
    np.testing.assert_array_equal(np.sort(wide.held.ids, axis=0), np.sort(TOKENS + 70_000, axis=0))


@pytest.mark.parametrize("matched", [True, False])
def test_the_hash_of_the_visited_rows_is_that_of_the_shorter_run_alone(matched):
    short = settings(num_draws=2, num_init_loss_batches=1, match_sampling_input_ids_across_chains=matched)
    long = short.override(num_draws=7, num_chains=3)
    rows = TokenRows(build_tokens("train"), "data")
    alone, both = SamplingData(rows, [short]), SamplingData(rows, [long, short])
    assert alone.visited(short) == both.visited(short)
    assert both.visited(long) != both.visited(short)
    assert both.visited(long) == SamplingData(rows, [long]).visited(long)
