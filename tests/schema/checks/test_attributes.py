"""Attributes against their JSON Schema: what is wrong, what was expected, and how many of it are shown."""

from __future__ import annotations

from typing import Any

import pytest
import xarray as xr

from devinterp.schema import RuleCode, load, validate
from devinterp.schema.checks.attributes import _MAX_PER_GROUP
from devinterp.wording import shown


def found(attributes: dict[str, Any], declared: dict[str, Any]) -> list[tuple[str, str | None, str | None]]:
    schema = load({"schema": "lab/x", "version": 1, "doc": "x", "nodes": {"/": {"doc": "x", "attributes": declared}}})
    report = validate(xr.DataTree(xr.Dataset(attrs=attributes)), schema=schema, level="structure")
    assert {f.code for f in report.findings} <= {RuleCode.ATTRIBUTE}
    return [(f.message, f.expected, f.found) for f in report.findings]


@pytest.mark.parametrize(
    ("value", "declared", "expected"),
    [
        ("a", {"type": "integer"}, "of type integer"),
        ("a", {"enum": ["b", "c"]}, "one of 'b', 'c'"),
        (1, {"minimum": 2}, "at least 2"),
        (2, {"exclusiveMinimum": 2}, "more than 2"),
        ("a", {"pattern": "^b"}, "text that matches ^b"),
        ("", {"minLength": 1}, "text of at least 1 characters"),
        ([], {"minItems": 1}, "at least 1 entries"),
        ([1, 1], {"uniqueItems": True}, "entries that differ"),
        ([1], {"contains": {"const": 2}}, "an entry that is 2"),
        (3, {"const": 2}, "const 2"),
    ],
)
def test_what_was_expected_is_said_in_words(value: Any, declared: dict[str, Any], expected: str) -> None:
    seen = "1" if expected == "entries that differ" else shown(value)  # what is there twice
    assert found({"a": {"b": value}}, {"properties": {"a": {"properties": {"b": declared}}}}) == [
        ("The attribute 'a.b' is wrong.", expected, seen)
    ]
    assert found({}, {"properties": {"a": {"properties": {"b": declared}}}}) == []


def test_every_missing_name_is_one_finding_with_what_it_may_have_been_misspelt_as() -> None:
    declared = {"properties": {"a": {"required": ["number", "size", "other"]}}, "required": ["a", "b"]}
    report = validate(
        xr.DataTree(xr.Dataset(attrs={"a": {"numbre": 1, "size": 2}})),
        schema=load(
            {"schema": "lab/x", "version": 1, "doc": "x", "nodes": {"/": {"doc": "x", "attributes": declared}}}
        ),
    )
    remedies = {f.message: f.remedy for f in report.findings}
    assert set(remedies) == {f"The attribute {n!r} is missing." for n in ("a.number", "a.other", "b")}
    assert remedies["The attribute 'a.number' is missing."] == "Did you mean 'numbre'? Rename it."
    assert remedies["The attribute 'b' is missing."] == RuleCode.ATTRIBUTE.remedy


@pytest.mark.parametrize(("count", "near"), [(200, True), (201, False)])
def test_among_hundreds_of_names_none_is_looked_for(count: int, near: bool) -> None:
    attributes: dict[str, Any] = {f"x{n}": n for n in range(count - 1)} | {"numbre": 1}
    declared = {"required": ["number"]}
    schema = load({"schema": "lab/x", "version": 1, "doc": "x", "nodes": {"/": {"doc": "x", "attributes": declared}}})
    (finding,) = validate(xr.DataTree(xr.Dataset(attrs=attributes)), schema=schema).findings
    assert ("numbre" in str(finding.remedy)) == near


@pytest.mark.parametrize(
    ("items", "twice"),
    [
        ([1, 2, 3], False),
        ([1, 1.0], True),
        ([1, True], False),
        ([0.5, 0.5], True),
        ([1.5, 1], False),
        ([{"a": 1, "b": 2}, {"b": 2, "a": 1}], True),
        ([[1], [1, 1]], False),
        (["1", 1], False),
        ("aa", False),
        ([None, None], True),
    ],
)
def test_entries_are_the_same_as_json_schema_has_it(items: Any, twice: bool) -> None:
    assert bool(found({"a": items}, {"properties": {"a": {"uniqueItems": True}}})) == twice
    assert found({"a": items}, {"properties": {"a": {"uniqueItems": False}}}) == []


def test_so_many_wrong_places_are_shown_and_no_more() -> None:
    declared = {"additionalProperties": {"type": "string"}}
    assert len(found({f"x{n:03}": n for n in range(_MAX_PER_GROUP)}, declared)) == _MAX_PER_GROUP
    assert len(found({f"x{n:03}": n for n in range(_MAX_PER_GROUP + 5)}, declared)) == _MAX_PER_GROUP


def test_long_names_and_values_are_shortened() -> None:
    ((message, _, value),) = found({"x" * 500: "y" * 500}, {"additionalProperties": {"type": "integer"}})
    assert len(message) < 170
    assert len(str(value)) <= 120
