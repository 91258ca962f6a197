"""Rows that are not tokens, from every kind of dataset, and what is refused."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset, default_collate

from devinterp.errors import DataError
from devinterp.slt.sampling.inputs.nested import hash_nested
from devinterp.slt.sampling.inputs.rows import open_rows
from devinterp.slt.sampling.inputs.value_rows import ValueRows

X = torch.arange(24.0).reshape(6, 2, 2)
Y = torch.tensor([0, 1, 2, 0, 1, 2])


class Pairs(Dataset):
    """As torchvision has it: an image and the number of a class."""

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index], int(Y[index])


class Random(Pairs):
    def __getitem__(self, index):
        return X[index] + torch.rand(()), int(Y[index])


KINDS = {
    "pairs": Pairs(),
    "TensorDataset": TensorDataset(X, Y),
    "Subset": Subset(Pairs(), range(6)),
    "ConcatDataset": ConcatDataset([Subset(Pairs(), range(4)), Subset(Pairs(), range(4, 6))]),
    "list of pairs": [(x, int(y)) for x, y in zip(X, Y, strict=True)],
    "pairs of numpy": [(x.numpy(), int(y)) for x, y in zip(X, Y, strict=True)],
}
OTHERS = {
    "dict of tensors": ({"x": X, "y": Y}, lambda i: {"x": X[i], "y": Y[i]}),
    "dict of arrays": ({"x": X.numpy(), "y": Y.tolist()}, lambda i: {"x": X[i], "y": int(Y[i])}),
    "nested dicts": ({"a": {"x": X}, "y": Y}, lambda i: {"a": {"x": X[i]}, "y": Y[i]}),
    "list of dicts": ([{"x": X[i], "name": f"file {i}"} for i in range(6)], lambda i: {"x": X[i], "name": f"file {i}"}),
    "float table": (X.reshape(6, 4), lambda i: X[i].reshape(4)),
    "float64 array": (X.reshape(6, 4).double().numpy(), lambda i: X[i].reshape(4).double()),
    "read-only array": (np.broadcast_to(np.float32(2), (6, 3)), lambda i: torch.full((3,), 2.0)),
    "images": (X, lambda i: X[i]),
    "one float column": (TensorDataset(X), lambda i: (X[i],)),
    "numbers": (Y.double(), lambda i: Y[i].double()),
    "texts": ([f"a{i}" for i in range(6)], lambda i: f"a{i}"),
    "datasets": (
        datasets.Dataset.from_dict({"x": X.reshape(6, 4).tolist(), "y": Y.tolist()}).with_format("torch"),
        lambda i: {"x": X[i].reshape(4), "y": Y[i]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
def test_every_kind_of_dataset_gives_what_torch_collates(kind):
    data, row = OTHERS[kind] if kind in OTHERS else (KINDS[kind], Pairs().__getitem__)
    rows = open_rows(data, "data", own_loss=True)
    assert isinstance(rows, ValueRows)
    assert (len(rows), rows.positions) == (6, None)
    chosen = np.array([4, 0, 5, 4])
    held = rows.hold(chosen)
    expected = default_collate([row(int(i)) for i in chosen])
    assert hash_nested(held.batch(slice(None)).rows) == hash_nested(expected) == held.hash() == rows.hash(chosen)
    assert hash_nested(held.batch(np.array([2, 1])).rows) == held.hash(np.array([2, 1]))
    assert type(held.batch(slice(2)).rows) is type(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_the_same_rows_whatever_they_are_kept_in(kind):
    everything = np.arange(6)
    as_pairs = ValueRows(Pairs(), "data").hash(everything)
    assert open_rows(KINDS[kind], "data", own_loss=True).hash(everything) == as_pairs


TOKENS = np.arange(12).reshape(4, 3)


@pytest.mark.parametrize(
    "data", [TOKENS, TOKENS.tolist(), {"input_ids": TOKENS}, TensorDataset(torch.from_numpy(TOKENS))]
)
def test_tokens_stay_tokens_beside_a_loss_of_the_callers(data):
    assert open_rows(data, "data", own_loss=True).positions == 2


BAD = {
    "unequal shapes": ([(torch.zeros(n), 1) for n in (2, 3, 2)], "cannot be put into a batch"),
    "objects": ([(object(), 1)] * 3, "cannot be put into a batch"),
    "columns": ({"x": X, "y": Y[:4]}, "unequal lengths.*6 in 'x', 4 in 'y'"),
    "empty": ([], "empty"),
    "random": (Random(), "change from one reading to the next"),
    "a single number": ({"x": X, "y": torch.tensor(3)}, "unequal lengths"),
    "strings and None": (np.array([["a", None]] * 3, dtype=object), "cannot be put into a batch"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_rows_are_one_clear_error(kind):
    data, words = BAD[kind]
    with pytest.raises(DataError, match=words):
        open_rows(data, "The sampling dataset", own_loss=True).hold(np.arange(3))


@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
def test_without_a_loss_rows_that_are_no_tokens_are_refused(kind):
    data = OTHERS[kind][0] if kind in OTHERS else KINDS[kind]
    with pytest.raises(DataError, match=r"loss_fn=|Tokenize them first"):
        open_rows(data, "The sampling dataset", own_loss=False)
