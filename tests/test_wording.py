"""Values in messages: numbers and names, not the Python that holds them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devinterp.errors import SettingError
from devinterp.wording import one_of, said, shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (["a", "b c"], "'a', 'b c'"),
        ({"b", "a"}, "'a', 'b'"),
        (("chain", "draw"), "(chain, draw)"),
        (("chain", "no name"), "(chain, 'no name')"),
        ((3,), "(3)"),
        (np.zeros((2, 3)).shape, "(2, 3)"),
        ((), "()"),
        ([], "none"),
        ({}, "none"),
        (None, "none"),
        (["chain", None], "'chain', none"),
        ({"lr": [1e-3, 2e-3], "top k": 3}, "lr: (0.001, 0.002), 'top k': 3"),
        (np.int64(3), "3"),
        ([np.float32(0.5), np.bool_(True)], "0.5, True"),
        (np.array([1, 2]), "1, 2"),
        (np.dtype("float32"), "float32"),
        (10**1000, "an integer of 3322 bits"),
        (list(range(100)), ", ".join(map(str, range(60))) + ", and 40 more"),
        (np.arange(100).reshape(10, 10), ", ".join(map(str, range(60))) + ", and 40 more"),
        ("x" * 1000, f"'{'x' * 200}'..."),
        ({n: n for n in range(100)}, ", ".join(f"{n}: {n}" for n in range(60)) + ", and 40 more"),
    ],
)
def test_values_are_written_as_a_reader_would(value: Any, text: str) -> None:
    assert shown(value) == text
    assert str(SettingError("Wrong.", found=value)) == ("Wrong." if value is None else f"Wrong. Found: {said(value)}.")


@pytest.mark.parametrize(
    ("choices", "text"),
    [
        (("b", "a"), "one of 'b', 'a'"),
        ({"full": 1, "l0h0": 2}, "one of 'full', 'l0h0'"),
        ((name for name in "ab"), "one of 'a', 'b'"),
        (["full"], "'full', which is the only one"),
        ([0], "0, which is the only one"),
        ([], "there is none to choose"),
        (range(3), "one of 0, 1, 2"),
        (np.arange(7, 107), "one of 7 to 106"),
        ([0, 1, 2, 4], "one of 0, 1, 2, 4"),
        ([3, 2, 1, 0], "one of 3, 2, 1, 0"),
        ([True, 2, 3, 4], "one of True, 2, 3, 4"),
        ([f"l{i}" for i in range(100)], "one of " + ", ".join(f"'l{i}'" for i in range(60)) + ", and 40 more"),
        ([{"lr": 0.1}, {"lr": 0.2}], "one of (lr: 0.1), (lr: 0.2)"),
    ],
)
def test_what_may_be_chosen_is_listed(choices: Any, text: str) -> None:
    assert one_of(choices) == text


def test_a_text_that_is_prose_stays_as_it_is() -> None:
    assert said("one of three") == "one of three"
    assert said(["a"]) == "'a'"


def test_of_a_long_value_both_ends_are_shown() -> None:
    assert shown("sha256:" + 40 * "0" + "beef", 24) == "'sha256:000000000...eef'"


def nested(value: Any, depth: int) -> Any:
    return value if depth == 0 else nested([value], depth - 1)


def test_what_contains_itself_or_is_deep_ends() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    assert len(shown(loop)) < 100
    assert shown(nested("a", 100)) == "((((...))))"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab_"),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.text("ab"), inner) | st.tuples(inner, inner) | st.tuples(inner)
        ),
        max_leaves=8,
    )
)
def test_nothing_of_python_but_quotes_and_parentheses_is_left(value: Any) -> None:
    assert not re.search(r"[][{}]|,\)|\bNone\b", shown(value))
