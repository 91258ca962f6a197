"""Rows from every kind of dataset, and what is refused."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch
from engine import settings
from tiny_lm import build_tokens

from devinterp.errors import DataError
from devinterp.slt.sampling.inputs.batches import SamplingData
from devinterp.slt.sampling.inputs.rows import TokenRows, check_vocabulary, fingerprint

TOKENS = build_tokens("code", 12)


class Lazy:
    """An indexable that is not a list."""

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
    "float ids": (np.zeros((5, 4), dtype=np.float32), "ids of the sampling dataset are not integers"),
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
    "texts": (["hello", "you"], "rows of the sampling dataset are texts.*tokenize_and_concatenate"),
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


def test_ids_outside_the_vocabulary_are_refused():
    check_vocabulary(TOKENS, int(TOKENS.max()) + 1, "data")
    check_vocabulary(TOKENS, None, "data")
    with pytest.raises(DataError, match="vocabulary"):
        check_vocabulary(TOKENS, int(TOKENS.max()), "data")
