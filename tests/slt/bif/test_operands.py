"""Tiles of a BIF put together are the whole, and every number that they come from is in their identity."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made_runs import make_run

from devinterp.slt.bif import kernels as _kernels
from devinterp.slt.bif.operands import Operands
from devinterp.slt.bif.request import BifPlan

SETTINGS: dict[str, Any] = {
    "method": "token", "reduce": "stack", "loss_keys": "all", "first": "all", "second": "all", "average": False,
    "covariance": False, "batch_size": 2, "allow_partial": False,
}  # fmt: skip


def operands(*, batches: bool = True, **changes: Any) -> Operands:
    plan = BifPlan.of(make_run(), **{**SETTINGS, **changes})
    return Operands.of(plan, plan.load(), batches=batches, device=None)


@pytest.mark.parametrize("changes", [{}, {"method": "sequence"}, {"average": True}, {"covariance": True}])
@pytest.mark.parametrize("second", ["all", [7, 1, 2]])
def test_tiles_are_parts_of_the_whole(changes: dict[str, Any], second: Any) -> None:
    source = operands(second=second, **changes)
    rows, columns = source.plan.first.size, source.plan.second.size
    whole, spread = source.tile(slice(0, rows), slice(0, columns), se=True)
    assert spread is not None
    assert whole.shape == spread.shape == source.plan.shape
    for i in (slice(0, 2), slice(2, 9), slice(9, rows)):
        for j in (slice(0, 2), slice(2, columns)):
            part, error = source.tile(i, j, se=True)
            np.testing.assert_allclose(part, whole[i, j], atol=1e-6 * np.abs(whole).max())
            np.testing.assert_allclose(error, spread[i, j], rtol=1e-4, atol=1e-7)
            assert source.tile(i, j)[1] is None
    assert operands(batches=False, second=second, **changes).tile(slice(0, 1), slice(0, 1), se=True)[1] is None


def test_operands_of_the_same_sequences_are_one() -> None:
    source = operands()
    assert source.symmetric is True
    assert source.first is source.second
    assert operands(second=[0, 1]).symmetric is False


def test_columns_are_taken_from_their_own_operand() -> None:
    source = operands(second=[3, 4])
    first, second = source.series(np.array([5, 0]), np.array([1]))
    np.testing.assert_array_equal(first, source.first[:, [5, 0]])
    np.testing.assert_array_equal(second, source.second[:, [1]])


def test_the_identity_is_that_of_the_numbers() -> None:
    source = operands()
    assert source.identity() == operands().identity()
    assert len(source.identity()) == 64
    changed = source.first.copy()
    changed[-1, [0, -1]] += 1
    others = [
        operands(second=[0, 1]),
        operands(first=[0, 1]),
        operands(first=[1, 0], second=[1, 0]),
        operands(covariance=True),
        operands(method="sequence"),
        replace(source, first=changed, second=changed),
        replace(operands(second=[0, 1]), second=changed[:, :12]),
    ]
    known = {source.identity(), *(o.identity() for o in others)}
    assert len(known) == 1 + len(others)
    # Also where only the order of the sequences differs, and every number is the same.
    same = replace(source, plan=replace(source.plan, first=source.plan.first[::-1].copy()))
    assert same.identity() != source.identity()


def test_tiles_are_multiplied_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(_kernels, "_torch_product", lambda *arguments: asked.append(arguments[-1]))
    for average in (False, True):
        replace(operands(average=average), device="cuda:1").tile(slice(0, 1), slice(0, 2))
    assert asked == ["cuda:1"] * 2
