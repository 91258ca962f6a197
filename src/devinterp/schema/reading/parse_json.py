"""One ``zarr.json`` document: from bytes to JSON, with bounds on its size, its depth and what it may hold."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from devinterp.schema.findings.codes import RuleCode
from devinterp.schema.findings.report import Collector, clip
from devinterp.schema.reading.limits import Limits

__all__ = ["nesting_depth", "parse_document", "parsed_size"]

# Bytes that CPython needs for an object, an array, a member and a value, at most for what occurs in practice.
_PER_OBJECT, _PER_LIST, _PER_KEY, _PER_ITEM = 184, 96, 96, 64
# And for a character where one needs more than a byte: then all of its text take four, decoded and as values.
_PER_WIDE = 8
# No document takes more than this many times its own size ("[[[" is the worst), so a small one needs no estimate.
_WORST = 48


def parse_document(raw: bytes, path: str, limits: Limits, findings: Collector) -> dict[str, Any] | None:
    """Return the JSON object in ``raw``, or None after a finding that says why it cannot be used."""
    if len(raw) > limits.document or (_WORST * len(raw) > limits.parsed and parsed_size(raw) > limits.parsed):
        findings.add(
            RuleCode.OVERSIZED_METADATA,
            path,
            "The metadata document is too large.",
            expected=f"at most {limits.document} bytes, {limits.parsed} once parsed",
            found=f"{len(raw)} bytes",
        )
        return None
    try:
        document = json.loads(raw, parse_constant=_refuse_constant)
    except RecursionError:
        findings.add(
            RuleCode.OVERSIZED_METADATA,
            path,
            "The metadata document is nested too deeply.",
            expected=f"at most {limits.nesting} levels",
        )
        return None
    except (ValueError, UnicodeDecodeError) as error:
        findings.add(RuleCode.NOT_JSON, path, "The metadata document is not valid JSON.", found=clip(str(error), 120))
        return None
    if not isinstance(document, dict):
        findings.add(
            RuleCode.METADATA, path, "The metadata document is not a JSON object.", found=type(document).__name__
        )
        return None
    opened = raw.count(b"{") + raw.count(b"[")  # nothing lies deeper than so many
    if opened > limits.nesting and nesting_depth(document, limits.nesting) > limits.nesting:
        findings.add(
            RuleCode.OVERSIZED_METADATA,
            path,
            "The metadata document is nested too deeply.",
            expected=f"at most {limits.nesting} levels",
        )
        return None
    return document


def parsed_size(raw: bytes) -> int:
    """Return what a document takes once parsed: every character that may open or separate something counts."""
    narrow = raw.isascii() and rb"\u" not in raw
    return (
        len(raw) * (1 if narrow else _PER_WIDE)
        + _PER_OBJECT * raw.count(b"{")
        + _PER_LIST * raw.count(b"[")
        + _PER_KEY * raw.count(b":")
        + _PER_ITEM * raw.count(b",")
    )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def nesting_depth(value: Any, limit: int) -> int:
    """How deep objects and arrays lie in each other, counted no further than ``limit + 1``."""
    depth, level = 0, [value]
    while level and depth <= limit:
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        depth += 1
    return depth
