from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devinterp.errors import DataError, DevinterpWarning, SettingError
from devinterp.utils import default_nbeta, replicate_seeds, starting_points, tokenize_and_concatenate


class Bytes:
    """A byte-level tokenizer with the few names of a HuggingFace one that are used."""

    def __init__(self, bos=256, eos="\x03", pad=None):
        self.bos_token_id, self.eos_token, self.eos_token_id, self.pad_token_id = bos, eos, 3, pad

    def __call__(self, texts):
        return {"input_ids": [list(t.encode()) for t in texts]}


def texts(*values):
    from datasets import Dataset

    return Dataset.from_dict({"text": list(values)})


@given(st.integers(2, 10**6), st.integers(1, 64))
def test_default_nbeta_is_m_over_ln_m(batch_size, accumulation):
    m = batch_size * accumulation
    assert default_nbeta(batch_size, accumulation) == pytest.approx(m / math.log(m), rel=1e-15)


@given(st.integers(1, 50), st.integers(1, 16), st.integers(0, 10**6))
def test_replicates_share_no_chain(replicates, num_chains, first):
    seeds = replicate_seeds(replicates, num_chains, first=first)
    assert seeds[0] == first
    chains = [seed + chain for seed in seeds for chain in range(num_chains)]
    assert len(set(chains)) == len(chains) == replicates * num_chains


@pytest.mark.parametrize("wrong", [{"replicates": 0}, {"num_chains": 2.5}, {"first": -1}, {"replicates": True}])
def test_seeds_of_no_replicates_are_refused(wrong):
    with pytest.raises(SettingError, match=f"{next(iter(wrong))} cannot be used"):
        replicate_seeds(**{"replicates": 2, **wrong})


def test_default_nbeta_of_one_row_is_one_and_says_so():
    with pytest.warns(DevinterpWarning, match="no value for m = 1"):
        assert default_nbeta(1) == 1.0


def test_default_nbeta_reads_a_loader():
    loader = type("Loader", (), {"batch_size": 32})()
    assert default_nbeta(loader) == pytest.approx(32 / math.log(32))
    with pytest.raises(SettingError, match="number of rows"):
        default_nbeta("32")


def test_default_nbeta_of_a_dataset_is_that_of_its_rows():
    rows = np.zeros((5000, 8), dtype=np.int64)
    assert default_nbeta(rows) == default_nbeta([{"input_ids": row} for row in rows]) == 5000 / math.log(5000)
    with pytest.raises(SettingError, match="no micro-batches"):
        default_nbeta(rows, 4)
    unbatched = type("Loader", (), {"batch_size": None, "__len__": lambda self: 40})()
    with pytest.raises(SettingError, match="number of rows"):  # 40 are its batches
        default_nbeta(unbatched)


def test_starting_points_have_sources_and_the_nearest_model_first():
    points = starting_points()
    assert all(point.source and point.lr and point.work for point in points)
    for size, lr in ((1e6, 1e-3), (5e7, 3e-4), (4e8, 1e-4), (1.1e9, 3e-5), (2.5e9, 1e-5), (5e10, 3e-6)):
        nearest = starting_points(size)
        assert nearest[0].lr == (lr,)
        assert sorted(map(repr, nearest)) == sorted(map(repr, points))
    for wrong in (0, -1.0, math.nan, math.inf, "70M"):
        with pytest.raises(SettingError, match="number of parameters"):
            starting_points(wrong)


def test_every_published_setting_is_one_whose_step_is_not_too_long():
    """The rule of the step's bias: lr * localization of 0.36 inflates a variance by a tenth."""
    for point in starting_points():
        assert max(point.lr) * max(point.localization) <= 0.36
        assert all(1 <= n_beta <= 100 for n_beta in point.n_beta)
        assert all(10 <= localization <= 1000 for localization in point.localization)


@pytest.mark.needs("datasets")
@pytest.mark.parametrize("bos", [True, False])
def test_every_byte_comes_back_in_order(bos):
    source = texts("hello world " * 40, "second text " * 30)
    rows = np.asarray(
        tokenize_and_concatenate(source, Bytes(), max_length=17, add_bos_token=bos, num_proc=None)["input_ids"]
    )
    assert rows.shape[1] == 17
    if bos:
        assert (rows[:, 0] == 256).all()
        rows = rows[:, 1:]
    joined = ("hello world " * 40 + "\x03" + "second text " * 30).encode()
    kept = len(joined) // rows.shape[1] * rows.shape[1]
    assert bytes(rows.reshape(-1).astype(np.uint8)) == joined[:kept]


@pytest.mark.needs("datasets")
def test_a_padding_token_that_doubles_as_the_end_token_loses_nothing():
    rows = np.asarray(
        tokenize_and_concatenate(
            texts("ab", "cd", "ef"), Bytes(pad=3), max_length=4, add_bos_token=False, num_proc=None
        )["input_ids"]
    )
    assert bytes(rows.reshape(-1).astype(np.uint8)) == b"ab\x03cd\x03ef"


@pytest.mark.needs("datasets")
def test_a_short_text_is_filled_up():
    rows = np.asarray(tokenize_and_concatenate(texts("ab"), Bytes(pad=0), max_length=6, num_proc=None)["input_ids"])
    assert rows.tolist() == [[256, 97, 98, 0, 0, 0]]


@pytest.mark.needs("datasets")
def test_bad_input_has_one_clear_error():
    with pytest.raises(SettingError, match="leaves no room"):
        tokenize_and_concatenate(texts("a"), Bytes(), max_length=1)
    with pytest.raises(SettingError, match="no beginning-of-sequence"):
        tokenize_and_concatenate(texts("a"), Bytes(bos=None))
    with pytest.raises(DataError, match="hold no token"):
        tokenize_and_concatenate(texts("", " "), Bytes(eos=" "), num_proc=None)
