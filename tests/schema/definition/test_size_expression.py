"""Sizes are sums of products; anything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devinterp.errors import SchemaError
from devinterp.schema.definition.size_expression import parse_expression

NAMES = st.sampled_from(["num_draws", "a", "_b2", "batch_size"])
TERMS = st.lists(NAMES | st.integers(0, 99).map(str), min_size=1, max_size=3).map("*".join)
VALUES = {"num_draws": 3, "a": -2, "_b2": 7, "batch_size": 11}


@given(st.lists(TERMS, min_size=1, max_size=4), st.data())
def test_the_value_is_that_of_python(terms: list[str], data: st.DataObject) -> None:
    text = terms[0]
    for term in terms[1:]:
        space = data.draw(st.sampled_from(["", " ", "  "]))
        text += space + data.draw(st.sampled_from("+-")) + space + term
    spaced = data.draw(st.sampled_from([text, f" {text}", f"{text}  "]))
    expression = parse_expression(spaced)
    assert expression.evaluate(VALUES) == eval(text, {}, VALUES)
    assert str(expression) == spaced
    assert expression.names == {
        n for n in VALUES if n in text.replace("*", " ").replace("+", " ").replace("-", " ").split()
    }


def test_a_number_stands_for_itself_and_a_name_without_a_value_leaves_none() -> None:
    assert parse_expression(7).evaluate({}) == 7
    assert parse_expression(7).names == frozenset()
    assert parse_expression("a * b + 1").evaluate({"a": 2}) is None
    assert parse_expression("a * b + 1").evaluate({"a": 2, "b": 0}) == 1


@pytest.mark.parametrize(
    "text", ["", " ", "a b", "2 a", "a +", "+ a", "-a", "a ** b", "a + + b", "a / b", "(a)", "a.b", "a %", "1.5", "a *"]
)
def test_anything_else_is_refused_as_it_was_written(text: str) -> None:
    with pytest.raises(SchemaError, match="cannot be read") as error:
        parse_expression(text)
    assert repr(text) in str(error.value)
