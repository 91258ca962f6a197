"""A schema as tables: every fact of a document in its cell."""

from __future__ import annotations

import pytest

from devinterp.schema import RuleCode, load
from devinterp.schema.document import tables

DOCUMENT = {
    "schema": "lab/x",
    "version": 2,
    "doc": "The doc.",
    "parameters": {
        "n": {"path": "n", "type": "integer", "doc": "x"},
        "keep": {"path": "k", "type": "boolean", "doc": "x"},
    },
    "nodes": {
        "/": {
            "doc": "The root.",
            "dimensions": {"d": {"doc": "a | b", "size": "n + 1", "minimum": 2}, "e": {"doc": "e\nf"}},
            "variables": {
                "a": {
                    "dims": ["d"],
                    "alternatives": [[]],
                    "leading": ["e"],
                    "dtype": "float32",
                    "unit": "nat",
                    "doc": "A.",
                    "role": "coordinate",
                    "checks": [{"code": "DI302", "predicate": "at_least", "arguments": {"minimum": 0}}],
                },
                "b": {"dims": ["d", "e"], "dtype": "int64", "unit": "1", "doc": "B.", "presence": {"when": "keep"}},
                "c": {"dims": ["e"], "dtype": "int64", "unit": "1", "doc": "C.", "presence": {"with_dimension": "e"}},
            },
            "attributes": {
                "required": ["x"],
                "properties": {
                    "x": {"type": "integer", "minimum": 1},
                    "y": {"type": "object", "required": ["z"], "properties": {"z": {}}},
                    "l": {"type": "array", "items": {"properties": {"m": {"type": "string"}}}},
                },
                "allOf": [{"properties": {"w": {"const": 1}}}],
            },
            "rules": [{"code": "LAB401", "predicate": "failed_chains", "level": "structure"}],
        },
        "/part": {"doc": "A part.", "include": "devinterp/llc@1"},
    },
}

TABLES = f"""\
# lab/x@2

The doc.

## `/`

The root.

| dimension | size | at least | meaning |
| --- | --- | --- | --- |
| `d` | `n + 1` | 2 | a \\| b |
| `e` | any | 0 | e f |

| variable | dimensions | type | unit | fill | there | meaning |
| --- | --- | --- | --- | --- | --- | --- |
| `a` (coordinate) | (d) or (), e before them where the result has it | float32 | nat | nan | required | A. |
| `b` | (d, e) | int64 | 1 | -1 | when keep | B. |
| `c` | (e) | int64 | 1 | -1 | with dimension e | C. |

| attribute | value | required |
| --- | --- | --- |
| `w` | const 1 | no |
| `x` | type integer, minimum 1 | yes |
| `y` | type object | no |
| `y.z` | any | yes |
| `l` | type array | no |
| `l[].m` | type string | no |

| code | rule | level | means |
| --- | --- | --- | --- |
| DI302 | a: at_least (minimum 0) | values | {RuleCode.lookup("DI302").title} |
| LAB401 | failed_chains | structure |  |

## `/part`

A part.

A whole tree of `devinterp/llc@1`.
"""


def test_every_fact_is_in_its_cell() -> None:
    assert tables(load(DOCUMENT)) == TABLES


@pytest.mark.parametrize("kind", ["samples", "study", "llc", "bif", "susceptibilities", "sweep"])
def test_every_variable_of_ours_has_a_row(kind: str) -> None:
    schema = load(kind)
    lines = tables(schema).splitlines()
    for node in schema.nodes:
        for name, variable in node.variables.items():
            assert any(line.startswith(f"| `{name}`") and f"| {variable.unit} |" in line for line in lines), name
