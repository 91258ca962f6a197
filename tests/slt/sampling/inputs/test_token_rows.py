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
from devinterp.slt.sampling.inputs.rows import fingerprint, open_rows
from devinterp.slt.sampling.inputs.token_rows import TokenRows, check_vocabulary

TOKENS = build_tokens("code", 12)


class Lazy:
    """An indexable that is not a list."""

    def __len__(self):
        return len(TOKENS)

    def __getitem__(self, index):
        return {"input_ids": torch.from_numpy(TOKENS[index])}


class Streamed(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(TOKENS)


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


@pytest.mark.parametrize("empty", [[], np.array([]), torch.tensor([])])
def test_a_row_without_tokens_has_nothing_that_counts(empty):
    with pytest.raises(DataError, match=r"no position that counts.*row 1"):
        TokenRows([[1, 2, 3], empty, [1, 2]], "data").hold(np.arange(3))


def test_ids_outside_the_vocabulary_are_refused():
    check_vocabulary(TOKENS, int(TOKENS.max()) + 1, "data")
    check_vocabulary(TOKENS, None, "data")
    with pytest.raises(DataError, match="vocabulary"):
        check_vocabulary(TOKENS, int(TOKENS.max()), "data")


# Tables of other libraries


def pandas():
    return pytest.importorskip("pandas", reason="pandas is not installed")


def arrow():
    return pytest.importorskip("pyarrow", reason="pyarrow is not installed")


def shuffled():
    """Labels of the index that are not the positions of the rows."""
    return pandas().Series(list(TOKENS), index=list(range(len(TOKENS)))[::-1])


def in_zarr():
    import zarr

    return zarr.create_array(zarr.storage.MemoryStore(), data=TOKENS)


def encoding():
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    return library.BatchEncoding({"input_ids": torch.from_numpy(TOKENS), "attention_mask": torch.ones(12, 17)})


TABLES = {
    "dict of columns": lambda: {"input_ids": TOKENS.tolist()},
    "BatchEncoding": encoding,
    "DataFrame with the column": lambda: pandas().DataFrame({"input_ids": list(TOKENS), "x": 1}),
    "DataFrame of ids": lambda: pandas().DataFrame(TOKENS),
    "Series by position": shuffled,
    "pyarrow table": lambda: arrow().table({"input_ids": TOKENS.tolist()}),
    "pyarrow array": lambda: arrow().array(TOKENS.tolist()),
    "zarr array": in_zarr,
    "TensorDataset": lambda: torch.utils.data.TensorDataset(torch.from_numpy(TOKENS)),
    "Subset": lambda: torch.utils.data.Subset(Lazy(), range(12)),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_of_other_libraries_are_taken(kind):
    rows = TokenRows(TABLES[kind](), "The sampling dataset")
    assert len(rows) == len(TOKENS)
    np.testing.assert_array_equal(rows.take(np.array([3, 0, 11])), TOKENS[[3, 0, 11]])


WAYS = {
    "DatasetDict": (lambda: datasets.DatasetDict({"train": hugging()}), r"dataset\['train'\]"),
    "DataLoader": (lambda: torch.utils.data.DataLoader(Lazy(), batch_size=2), r"loader\.dataset"),
    "streamed": (lambda: hugging().to_iterable_dataset(), r"list\(rows\.take\(10_000\)\)"),
    "generator": (lambda: (row for row in TOKENS), r"list\(itertools\.islice\(rows, 10_000\)\)"),
    "iterable": (Streamed, r"itertools\.islice"),
    "sparse tensor": (lambda: torch.from_numpy(TOKENS).to_sparse(), r"dataset\.to_dense\(\)"),
    "masked array": (lambda: np.ma.array(TOKENS, mask=np.eye(*TOKENS.shape)), "loss_mask="),
}


@pytest.mark.parametrize("kind", WAYS)
def test_what_is_not_one_table_is_refused_with_the_line_to_write(kind):
    build, line = WAYS[kind]
    with pytest.raises(DataError, match=line):
        TokenRows(build(), "The sampling dataset")


def test_a_nested_tensor_is_rows_of_unequal_lengths():
    whole = torch.from_numpy(TOKENS)
    rows = [*whole[:-1], whole[-1, :3]]
    nested = torch.nested.nested_tensor(rows, layout=torch.jagged)
    found, as_list = (TokenRows(data, "rows").hold(np.arange(len(TOKENS))) for data in (nested, list(nested.unbind())))
    np.testing.assert_array_equal(found.ids, as_list.ids)
    np.testing.assert_array_equal(found.counts, as_list.counts)
    assert not found.counts[-1, 2:].any()


def without(row, token=None):
    rows = TOKENS.tolist()
    if token is None:
        rows[row] = None
    else:
        rows[row][token] = None
    return rows


@pytest.mark.parametrize("convert", [list, lambda rows: datasets.Dataset.from_dict({"input_ids": rows})])
@pytest.mark.parametrize(("token", "words"), [(None, "null in row 3"), (5, "null in row 3, at position 5")])
def test_what_is_missing_is_named_by_row_and_position(convert, token, words):
    with pytest.raises(DataError, match=words):
        TokenRows(convert(without(3, token)), "The sampling dataset").take(np.arange(len(TOKENS)))


def test_a_table_of_another_library_is_read_once_however_it_is_looked_at():
    class Table:
        shape, dtype, reads = (8, 5), np.dtype(np.int64), 0

        def __getitem__(self, key):
            type(self).reads += 1
            return np.arange(40).reshape(8, 5)[key]

    rows = open_rows(Table(), "The sampling dataset", own_loss=False)
    assert rows.hold(np.arange(8)).ids.shape == (8, 5)
    assert Table.reads == 1
