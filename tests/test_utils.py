from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devinterp.errors import DataError, DevinterpWarning, SettingError
from devinterp.utils import default_nbeta, tokenize_and_concatenate


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


def test_default_nbeta_of_one_row_is_one_and_says_so():
    with pytest.warns(DevinterpWarning, match="no value for m = 1"):
        assert default_nbeta(1) == 1.0


def test_default_nbeta_reads_a_loader():
    loader = type("Loader", (), {"batch_size": 32})()
    assert default_nbeta(loader) == pytest.approx(32 / math.log(32))
    with pytest.raises(SettingError, match="rows per step"):
        default_nbeta("32")


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
