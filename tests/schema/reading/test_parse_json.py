"""Documents are read up to bounds on their size, their depth, and what they take in memory."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devinterp.schema import Limits, RuleCode
from devinterp.schema.findings.report import Collector
from devinterp.schema.reading.parse_json import nesting_depth, parse_document, parsed_size


def parse(raw: bytes, limits: Limits | None = None) -> Any:
    """The document, or the finding."""
    findings = Collector()
    document = parse_document(raw, "/a", limits or Limits(), findings)
    if document is not None:
        assert findings.findings() == ()
        return document
    (finding,) = findings.findings()
    assert finding.path == "/a"
    return finding


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def test_an_object_is_returned_as_it_is_and_nothing_else_is_one() -> None:
    document = {"a": [1, 2.5, None, True, "\u00e4"], "b": {}}
    assert parse(json.dumps(document).encode()) == document
    for raw, name in ((b"[1]", "list"), (b'"a"', "str"), (b"3", "int"), (b"null", "NoneType")):
        finding = parse(raw)
        assert (finding.code, finding.found) == (RuleCode.METADATA, name)


@pytest.mark.parametrize("raw", [b"", b"{", b"{'a': 1}", b'{"a": NaN}', b'{"a": -Infinity}', b'\xff{"a": 1}', b"{} {}"])
def test_what_is_no_json_is_said_to_be_none(raw: bytes) -> None:
    assert parse(raw).code == RuleCode.NOT_JSON


def test_a_document_may_be_as_large_and_as_deep_as_the_limits() -> None:
    raw = json.dumps({"a": "x" * 100}).encode()
    assert parse(raw, Limits(document=len(raw)))
    finding = parse(raw, Limits(document=len(raw) - 1))
    assert (finding.code, finding.found) == (RuleCode.OVERSIZED_METADATA, f"{len(raw)} bytes")
    for depth, limit, fits in ((5, 5, True), (6, 5, False), (1, 1, True), (2, 1, False)):
        found = parse(json.dumps(nested(depth)).encode(), Limits(nesting=limit))
        assert isinstance(found, dict) == fits, (depth, limit)
        assert fits or found.code == RuleCode.OVERSIZED_METADATA


def test_a_document_that_may_grow_beyond_memory_when_parsed_is_refused() -> None:
    """None takes more than 48 times its size, so that in a small one nothing is counted; a text takes itself."""
    many = b'{"a":[' + b"{}," * 1000 + b"{}]}"
    text = json.dumps({"a": "x" * 10_000}).encode()
    assert parsed_size(text) < 1.1 * len(text)
    for raw, bound in ((many, 48 * len(many)), (text, parsed_size(text))):
        assert isinstance(parse(raw, Limits(memory=-(-bound * 4 // 3))), dict)
        finding = parse(raw, Limits(memory=bound * 4 // 3 - 1))
        assert finding.code == RuleCode.OVERSIZED_METADATA


UNITS = {
    "objects": "{}",
    "arrays": "[]",
    "arrays in arrays": "[" * 60 + "]" * 60,
    "objects in objects": '{"":' * 60 + "1" + "}" * 60,
    "both in turn": '[{"":' * 30 + "1" + "}]" * 30,
    "members": '{"":1}',
    "texts": '""',
    "numbers": "1e9",
}


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("share", [1 / 48, 1 / 24, 1 / 8])
def test_what_is_accepted_stays_within_the_memory_that_was_promised(unit: str, share: float) -> None:
    limits = Limits(memory=8 * 2**20, document=2 * 2**20)
    count = int(limits.parsed * share) // (len(UNITS[unit]) + 1)
    raw = b'{"a":[' + ",".join([UNITS[unit]] * count).encode() + b"]}"
    assert len(raw) + used_by(raw, limits) < limits.memory


@pytest.mark.parametrize("letter", ["x", "\u00e4", "\u0101", "\U0001f600", "\\u0101", "\\ud83d\\ude00"])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_one_wide_letter_makes_every_letter_of_a_text_wide(letter: str, share: float) -> None:
    limits = Limits(memory=8 * 2**20, document=2 * 2**20)
    raw = ('{"a":"' + "x" * int(limits.document * share) + letter + '"}').encode()
    assert len(raw) + used_by(raw, limits) < limits.memory


def used_by(raw: bytes, limits: Limits) -> int:
    """The most that was held while a document was parsed or refused."""
    findings = Collector()
    tracemalloc.start()
    try:
        document = parse_document(raw, "/a", limits, findings)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (document is None) == (findings.total == 1)
    return peak


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


def depth_of(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max((depth_of(v) for v in inner if isinstance(v, dict | list)), default=0)


@given(JSON.filter(lambda v: isinstance(v, dict | list)), st.integers(1, 6))
def test_depth_is_counted_up_to_the_first_level_too_many(value: Any, limit: int) -> None:
    assert nesting_depth(value, limit) == min(depth_of(value), limit + 1)
