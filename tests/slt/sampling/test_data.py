"""Rows from every kind of dataset, the loader's order, and what is refused."""

from __future__ import annotations

import itertools
import random

import datasets
import numpy as np
import pytest
import torch
from engine import settings
from hypothesis import given
from hypothesis import strategies as st
from tiny_lm import build_tokens
from torch.utils.data import DataLoader

from devinterp.errors import DataError, SettingError
from devinterp.slt.sampling.data import (
    SamplingData,
    TokenRows,
    build_observables,
    check_vocabulary,
    fingerprint,
    loader_order,
)

TOKENS = build_tokens("code", 12)


class Lazy:
    """An indexable that is no list."""

    def __len__(self):
        return len(TOKENS)

    def __getitem__(self, index):
        return {"input_ids": torch.from_numpy(TOKENS[index])}


def hugging(fmt=None):
    data = datasets.Dataset.from_dict({"input_ids": TOKENS.tolist(), "text": ["x"] * len(TOKENS)})
    return data.with_format(fmt) if fmt else data


def transformed():
    data = datasets.Dataset.from_dict({"row": list(range(len(TOKENS)))})
    data.set_transform(lambda batch: {"input_ids": [TOKENS[i].tolist() for i in batch["row"]]})
    return data


KINDS = {
    "array": TOKENS,
    "int32 array": TOKENS.astype(np.int32),
    "tensor": torch.from_numpy(TOKENS),
    "list of dicts": [{"input_ids": row.tolist()} for row in TOKENS],
    "list of rows": TOKENS.tolist(),
    "lazy": Lazy(),
    "datasets": hugging(),
    "datasets, torch": hugging("torch"),
    "datasets, numpy": hugging("numpy"),
    "datasets, selected": hugging("torch").select(range(12)),
    "datasets, transform": transformed(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_dataset_gives_the_same_rows(kind):
    rows = TokenRows(KINDS[kind], "data")
    chosen = np.array([3, 0, 11, 3])
    taken = rows.take(chosen)
    assert taken.dtype == np.int64
    np.testing.assert_array_equal(taken, TOKENS[chosen])
    assert (len(rows), rows.length) == TOKENS.shape
    assert fingerprint(rows) == fingerprint(TokenRows(TOKENS, "data"))


BAD = {
    "empty": (np.zeros((0, 5), dtype=np.int64), "empty"),
    "empty list": ([], "empty"),
    "one token": (np.zeros((5, 1), dtype=np.int64), "too short"),
    "float ids": (np.zeros((5, 4), dtype=np.float32), "not integers"),
    "float lists": ([{"input_ids": [0.5, 1.0]}] * 3, "not integers"),
    "float tensor": (torch.zeros(5, 4), "not integers"),
    "one dimension": (np.zeros(5, dtype=np.int64), "not a table"),
    "three dimensions": (np.zeros((5, 4, 2), dtype=np.int64), "not a table"),
    "nested rows": ([{"input_ids": [[1, 2], [3, 4]]}] * 3, "not a sequence"),
    "ragged list": ([{"input_ids": [1, 2, 3]}] * 3 + [{"input_ids": [1, 2]}], "unequal"),
    "ragged datasets": (datasets.Dataset.from_dict({"input_ids": [[1, 2, 3]] * 3 + [[1, 2]]}), "unequal"),
    "no input_ids": ([{"tokens": [1, 2]}] * 3, "no 'input_ids'"),
    "no column": (datasets.Dataset.from_dict({"tokens": [[1, 2]]}), "no column 'input_ids'"),
    "text": ("some text", "cannot be read by row"),
    "a number": (7, "cannot be read by row"),
    "booleans": (np.zeros((5, 4), dtype=bool), "not integers"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_data_is_one_clear_error(kind):
    data, words = BAD[kind]
    with pytest.raises(DataError, match=words):
        SamplingData(TokenRows(data, "The sampling dataset"), [settings()])


def test_a_ragged_row_that_a_lazy_dataset_hides_is_found_when_it_is_read():
    class Ragged(Lazy):
        def __getitem__(self, index):
            return {"input_ids": TOKENS[index][: 5 if index == 7 else 6]}

    with pytest.raises(DataError, match="unequal"):
        SamplingData(TokenRows(Ragged(), "data"), [settings()])


def test_fewer_rows_than_a_batch_and_negative_ids_are_refused():
    with pytest.raises(DataError, match="too small"):
        SamplingData(TokenRows(TOKENS[:3], "data"), [settings(batch_size=4)])
    with pytest.raises(DataError, match="negative"):
        SamplingData(TokenRows(np.where(TOKENS[2, 3] == TOKENS, -1, TOKENS), "data"), [settings()])


def test_ids_outside_the_vocabulary_are_refused():
    check_vocabulary(TOKENS, int(TOKENS.max()) + 1, "data")
    check_vocabulary(TOKENS, None, "data")
    with pytest.raises(DataError, match="vocabulary"):
        check_vocabulary(TOKENS, int(TOKENS.max()), "data")


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
            assert torch.equal(data.feed(chain).batch(number), batch)


def test_only_visited_rows_are_held_and_in_a_small_dtype():
    data = SamplingData(TokenRows(build_tokens("train"), "data"), [settings(num_draws=2, num_init_loss_batches=1)])
    assert data.ids.shape == (8, 17)
    assert data.ids.dtype == np.uint16
    wide = SamplingData(TokenRows(TOKENS + 70_000, "data"), [settings()])
    assert wide.ids.dtype == np.int32
    np.testing.assert_array_equal(np.sort(wide.ids, axis=0), np.sort(TOKENS + 70_000, axis=0))


@pytest.mark.parametrize("matched", [True, False])
def test_the_hash_of_the_visited_rows_is_that_of_the_shorter_run_alone(matched):
    short = settings(num_draws=2, num_init_loss_batches=1, match_sampling_input_ids_across_chains=matched)
    long = short.override(num_draws=7, num_chains=3)
    rows = TokenRows(build_tokens("train"), "data")
    alone, both = SamplingData(rows, [short]), SamplingData(rows, [long, short])
    assert alone.visited(short) == both.visited(short)
    assert both.visited(long) != both.visited(short)
    assert both.visited(long) == SamplingData(rows, [long]).visited(long)


def test_observables_have_the_rows_of_the_contract():
    chosen = settings(obs_seed=5)
    (one,) = build_observables({"a b": (build_tokens("math"), 3)}, chosen, length=17)
    expected = random.Random(5).sample(range(64), 12)
    assert one.rows.tolist() == expected
    assert torch.equal(one.ids, torch.from_numpy(build_tokens("math")[expected]))
    assert (one.obs_id, one.name, one.batches_per_draw) == ("a_b", "a b", 3)
    (default,) = build_observables({"x": build_tokens("math")}, chosen, length=17)
    assert default.batches_per_draw == 3


@pytest.mark.parametrize(
    ("observables", "error"),
    [
        ({"a": (TOKENS[:0], 1)}, DataError),
        ({"a": (build_tokens("code", 7), 2)}, DataError),
        ({"a": (build_tokens("code")[:, :9], 1)}, DataError),
        ({"a": (build_tokens("code"), 0)}, SettingError),
        ({"a": (build_tokens("code"), 1.5)}, SettingError),
        ({"a b": build_tokens("code"), "a_b": build_tokens("code")}, SettingError),
        ({"a": build_tokens("code"), "A": build_tokens("code")}, SettingError),
        ({"sampling": build_tokens("code")}, SettingError),
        ({3: build_tokens("code")}, SettingError),
        ([build_tokens("code")], DataError),
        (None, DataError),
    ],
)
def test_bad_observables_are_one_clear_error(observables, error):
    with pytest.raises(error):
        build_observables(observables, settings(), length=17)
