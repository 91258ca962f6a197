"""Names of observables and restrictions: what is refused, and why a store could not hold it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devinterp.errors import RestrictionError, SettingError
from devinterp.names import check_observable_names, check_restriction_names, sanitize_observable_name


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("train", "train"),
        ("a b", "a_b"),
        ("1st", "_1st"),
        ("", "_"),
        ("Größe", "Größe"),
        ("a/b.c", "a_b_c"),
        ("N²", "N²"),
    ],
)
def test_an_observable_is_made_safe(name: str, safe: str) -> None:
    assert sanitize_observable_name(name) == safe


@settings(max_examples=200)
@given(st.text(max_size=20))
def test_a_safe_name_is_an_identifier_part_and_stays_as_it_is(name: str) -> None:
    safe = sanitize_observable_name(name)
    assert safe
    assert not safe[0].isdigit()
    assert all(c.isalnum() or c == "_" for c in safe)
    assert sanitize_observable_name(safe) == safe


@pytest.mark.parametrize(
    "names", [["sampling"], ["Sampling"], ["a", "a"], ["a", "A"], ["a b", "a_b"], ["ﬁ", "fi"], [3], ["x" * 300]]
)
def test_observables_that_a_store_cannot_hold_are_refused(names: list[str]) -> None:
    with pytest.raises(SettingError):
        check_observable_names(names)


@pytest.mark.parametrize(
    "names",
    [["a/b"], ["a\\b"], ["."], [".."], [""], ["__x"], ["a\nb"], ["a\x7f"], ["\ud800"], ["zarr.json"], [".devinterp"],
     ["x" * 300], ["é" * 128], ["a", "A"], ["a", "a"], [3]],
)  # fmt: skip
def test_restrictions_that_a_store_cannot_hold_are_refused(names: list[str]) -> None:
    with pytest.raises(RestrictionError):
        check_restriction_names(names)


@pytest.mark.parametrize(
    "name", ["full", "l0 h1", "l0h0 + l1h2", "..a", "a.partial", "c", "注意力", "🙂", "~", "%2F", "x" * 255]
)
def test_other_restrictions_stay_as_they_are(name: str) -> None:
    assert check_restriction_names([name]) == (name,)
