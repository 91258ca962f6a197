"""Rows in plain containers: taken, joined, moved and hashed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import default_collate

from devinterp.slt.sampling.inputs.nested import (
    Batch,
    each_tensor,
    hash_nested,
    join,
    num_rows,
    take_rows,
    tensors_within,
)


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


leaves = st.sampled_from([
    lambda i: torch.arange(6.0).reshape(2, 3) + i,
    lambda i: torch.tensor(i, dtype=torch.int16),
    lambda i: float(i) / 3,
    lambda i: f"row {i}",
    lambda i: np.full(2, i, dtype=np.float32),
])  # fmt: skip
several = {"min_size": 1, "max_size": 2}
shapes = st.recursive(
    leaves,
    lambda inner: st.lists(inner, **several) | st.dictionaries(st.text(max_size=2), inner, **several),
    max_leaves=4,
)


def build(shape, i):
    if callable(shape):
        return shape(i)
    if isinstance(shape, dict):
        return {key: build(one, i) for key, one in shape.items()}
    return tuple(build(one, i) for one in shape)


def same(one, other):
    left, right = list(tensors_within(one)), list(tensors_within(other))
    assert [path for path, _ in left] == [path for path, _ in right]
    for (_, a), (_, b) in zip(left, right, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@given(shape=shapes, cut=st.integers(1, 4), chosen=st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_rows_that_are_taken_from_a_batch_are_those_of_a_batch_of_the_rows(shape, cut, chosen):
    rows = [build(shape, i) for i in range(5)]
    whole = default_collate(rows)
    assert num_rows(whole) == 5
    same(take_rows(whole, np.array(chosen)), default_collate([rows[i] for i in chosen]))
    same(take_rows(whole, slice(1, 3)), default_collate(rows[1:3]))
    same(join([default_collate(rows[:cut]), default_collate(rows[cut:])]), whole)
    assert hash_nested(whole, np.array(chosen)) == hash_nested(default_collate([rows[i] for i in chosen]))


def test_a_named_tuple_stays_one():
    batch = Batch(Pair(torch.arange(4), torch.ones(4, 2)), tokens=False)
    taken = batch.some(slice(0, 2)).to(torch.device("cpu"))
    assert isinstance(taken.rows, Pair)
    assert taken.size == 2
    assert isinstance(join([taken.rows, taken.rows]), Pair)
    assert torch.equal(each_tensor(batch, lambda t: t + 1).rows.y, torch.full((4, 2), 2.0))


@pytest.mark.parametrize(
    "other",
    [
        {"x": torch.tensor([1.0, 3.0])},
        {"y": torch.tensor([1.0, 2.0])},
        {"x": torch.tensor([1.0, 2.0], dtype=torch.float64)},
        {"x": torch.tensor([[1.0], [2.0]])},
        {"x": ["1", "2"]},
    ],
)
def test_the_hash_sees_values_names_dtypes_and_shapes(other):
    assert hash_nested(other) != hash_nested({"x": torch.tensor([1.0, 2.0])})
