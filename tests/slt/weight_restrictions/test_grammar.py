"""Restriction strings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devinterp.slt.weight_restrictions.grammar import Restriction, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("full", ("full", None, None)),
        (" FULL ", ("full", None, None)),
        ("embed", ("embed", None, None)),
        ("Unembed", ("unembed", None, None)),
        ("l0", ("layer", 0, None)),
        ("L12", ("layer", 12, None)),
        ("l0h1", ("head", 0, 1)),
        ("L0H1", ("head", 0, 1)),
        ("l0 h1", ("head", 0, 1)),
        ("\tL3  h11\n", ("head", 3, 11)),
        ("l2g3", ("group", 2, 3)),
        ("L2 G3", ("group", 2, 3)),
        ("l0 attn", ("attn", 0, None)),
        ("L0   ATTN", ("attn", 0, None)),
        ("l7 mlp", ("mlp", 7, None)),
    ],
)
def test_forms_in_any_case_and_spacing(text, expected):
    restriction = parse(text)
    assert (restriction.kind, restriction.layer, restriction.index) == expected
    assert restriction.text == text.strip()


@pytest.mark.parametrize(
    "text", ["l0attn", "l0-attn", "l0h", "h0", "l0h1h2", "l 0", "l0 h 1", "embeds", "layer0", "", "l-1", "l0 attn mlp"]
)
def test_everything_else_is_a_parameter_name_in_its_own_case(text):
    assert parse(text) == Restriction("name", text)


def test_names_keep_their_case():
    assert parse(" blocks.0.attn.W_Q ").text == "blocks.0.attn.W_Q"


@given(
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.sampled_from("hHgG"),
    st.sampled_from("lL"),
    st.text(" \t", max_size=3),
)
def test_numbers_survive(layer, index, letter, start, space):
    restriction = parse(f"{space}{start}{layer}{space}{letter}{index}{space}")
    assert (restriction.layer, restriction.index) == (layer, index)
    assert restriction.kind == ("head" if letter in "hH" else "group")


def test_digits_of_other_scripts_are_numbers_or_names_but_never_an_error():
    assert parse("l٣").kind in ("layer", "name")
