"""Sizes of dimensions, and dimensions in front, are those of most variables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from devinterp.schema import load, validate

VARIABLE = {"dtype": "float64", "unit": "1", "doc": "x", "presence": "optional"}
SCHEMA = load(
    {
        "schema": "lab/x",
        "version": 1,
        "doc": "x",
        "nodes": {
            "/": {
                "doc": "x",
                "dimensions": {n: {"doc": "x", "minimum": 2 if n == "d" else 0} for n in ("d", "wr", "checkpoint")},
                "variables": {
                    **{n: {**VARIABLE, "dims": ["d"], "leading": ["checkpoint", "wr"]} for n in "abc"},
                    "free": {**VARIABLE, "dims": ["d"]},
                },
            }
        },
    }
)


def found(**variables: Any) -> list[tuple[str, str, str | None, str | None]]:
    data = {n: (dims, np.zeros(shape)) for n, (dims, shape) in variables.items()}
    report = validate(read(data), schema=SCHEMA)
    return [(str(f.code), f.path, f.expected, f.found) for f in report.findings]


def read(data: dict[str, Any]) -> xr.DataTree:
    return xr.DataTree(xr.Dataset(data))


def test_what_stands_in_front_is_the_same_for_all_that_may_have_it() -> None:
    plain, stacked, both = (["d"], (2,)), (["wr", "d"], (3, 2)), (["checkpoint", "wr", "d"], (4, 3, 2))
    assert found(a=plain, b=plain, free=plain) == []
    assert found(a=stacked, b=stacked, free=plain) == []
    assert found(a=plain, b=stacked, c=both) == [
        ("DI103", "/a", "checkpoint, wr, d", "d"),
        ("DI103", "/b", "checkpoint, wr, d", "wr, d"),
    ]
    assert found(a=both, b=both, free=plain) == []


@pytest.mark.parametrize(("size", "right"), [(1, False), (2, True), (3, True)])
def test_a_dimension_has_a_least_size(size: int, right: bool) -> None:
    assert [f[:2] for f in found(a=(["d"], (size,)))] == ([] if right else [("DI108", "/a")])
