from __future__ import annotations

import enum
import json
import math
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devinterp.errors import StoreError
from devinterp.plain_json import dig, in_order, listed, plain_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
def test_what_is_plain_stays_as_it_is(value: Any) -> None:
    assert plain_json(value) == value
    assert json.loads(json.dumps(plain_json(value), allow_nan=False)) == value


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (MappingProxyType({"a": (1, MappingProxyType({"b": []}))}), {"a": [1, {"b": []}]}),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        (np.array(3), 3),
        ({1: np.int8(2)}, {"1": 2}),
        (np.array(["a", "b"]), ["a", "b"]),
    ],
)
def test_frozen_and_numpy_values_become_plain(value: Any, plain: Any) -> None:
    found = plain_json(value)
    assert found == plain
    assert type(found) is type(plain)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_numbers_that_json_cannot_say(value: float) -> None:
    with pytest.raises(StoreError, match=r"attributes\.a\[1\] is -?(nan|inf)"):
        plain_json({"a": [1, value]})
    assert plain_json([value], nonfinite="null") == [None]
    assert plain_json([value], nonfinite="text") in (["NaN"], ["Infinity"], ["-Infinity"])
    (kept,) = plain_json([value], nonfinite="keep")
    assert kept == value or (math.isnan(kept) and math.isnan(value))


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", enum.Enum("E", "a").a, np.datetime64("2026-01-01"), 1j])  # type: ignore[attr-defined]
def test_what_has_no_json_form_is_refused_or_handed_over(value: Any) -> None:
    with pytest.raises(StoreError, match=r"metadata\.x is a \w+"):
        plain_json({"x": value}, "metadata")
    assert plain_json({"x": value}, other=lambda _: "other")["x"] in ("other", [1, 2])


def test_what_contains_itself_ends() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(StoreError, match="too deep"):
        plain_json(endless)
    assert "deep" in json.dumps(plain_json(endless, other=lambda _: "deep"))


def test_dig_takes_nothing_but_mappings_apart() -> None:
    document = {"a": MappingProxyType({"b": [1, {"c": 2}], "n": None})}
    assert dig(document, "a.b") == [1, {"c": 2}]
    assert dig(document, "a.n") is None
    assert dig(document, "a.n", 5) is None
    assert dig(document, "a.n.x", 5) == 5
    assert dig(document, "a.b.1") is None
    assert dig(document, "x.y", "z") == "z"
    assert dig(None, "a") is None
    assert dig("text", "a") is None


@pytest.mark.parametrize(
    ("found", "wanted"),
    [("code", ["code"]), (["code", "math"], ["code", "math"]), (np.array(["a"]), ["a"]), (np.int64(3), [3]), ([], [])],
)
def test_a_list_of_one_is_read_as_netcdf_leaves_it(found, wanted):
    assert listed({"names": found}, "names") == wanted
    assert listed({}, "names") == []


@given(st.lists(st.text(max_size=2), unique=True), JSON)
def test_a_recorded_order_orders_what_is_found_and_adds_nothing(found: list[str], recorded: Any) -> None:
    ordered = in_order(found, recorded)
    assert sorted(ordered) == sorted(found)
    wanted = [name for name in recorded if name in found] if isinstance(recorded, list) else []
    assert ordered[: len(set(wanted))] == list(dict.fromkeys(wanted))
    assert [name for name in found if name not in wanted] == ordered[len(set(wanted)) :]
