"""What a document says is in the frozen schema, under every profile, and names that it does not declare are refused."""

from __future__ import annotations

from typing import Any

import pytest

from devinterp.errors import SchemaError
from devinterp.schema import load


def minimal(**parts: Any) -> dict[str, Any]:
    return {"schema": "lab/x", "version": 1, "doc": "x", **parts}


PROFILED = minimal(
    parameters={"n": {"path": "a.n", "type": "integer", "doc": "p", "default": 3}},
    families={"obs": {"doc": "f", "path": "a.obs", "key": "id", "parameters": {"k": {"type": "integer", "doc": "x"}}}},
    nodes={
        "/{obs}": {"doc": "below", "include": "devinterp/llc@1", "minimum": 4},
        "/": {
            "doc": "root",
            "dimensions": {"d": {"doc": "dd", "size": "n + 1", "minimum": 2}, "e": {"doc": "ee"}},
            "variables": {
                "a_{obs}": {
                    "dims": ["d"],
                    "dtype": "float32",
                    "unit": "nat",
                    "doc": "v",
                    "fill": 2,
                    "role": "coordinate",
                    "presence": {"with_dimension": "e"},
                    "alternatives": [["e"]],
                    "leading": ["e"],
                    "chunks": {"d": 5},
                    "prefix": "d",
                    "alternative_units": ["bit"],
                    "checks": [{"code": "LAB301", "predicate": "at_least", "arguments": {"minimum": 1}}],
                },
                "b": {"dims": [], "dtype": "int64", "unit": "1", "doc": "w"},
            },
            "attributes": {"type": "object"},
            "rules": [
                {
                    "code": "LAB401",
                    "predicate": "completed",
                    "level": "structure",
                    "severity": "warning",
                    "arguments": {"what": "x"},
                    "views": "skip",
                },
                {"code": "LAB402", "predicate": "failed_chains"},
            ],
        },
    },
    profiles={
        "strict": {"doc": "s"},
        "loose": {
            "doc": "l",
            "undeclared": "note",
            "variables": {"b": {"presence": "optional", "fill": 0}},
            "without_rules": ["LAB402"],
            "attributes": {"/": {"type": "object", "required": ["x"]}},
            "storage": {"checksums": "optional", "empty_chunks": "omitted"},
        },
    },
    storage={
        "codecs": ["bytes"],
        "checksums": "required",
        "chunks": "any",
        "empty_chunks": "written",
        "shards": "allowed",
    },
)


def test_a_frozen_schema_says_all_that_its_document_does() -> None:
    schema = load(PROFILED)
    assert (schema.name, schema.version, schema.doc, schema.profile, schema.undeclared) == (
        "lab/x",
        1,
        "x",
        "strict",
        "error",
    )
    assert schema.document == PROFILED
    assert schema.extends == ()
    parameter = schema.parameters["n"]
    assert (parameter.name, parameter.path, parameter.type, parameter.doc, parameter.default) == (
        "n",
        "a.n",
        "integer",
        "p",
        3,
    )
    family = schema.families["obs"]
    assert (family.name, family.doc, family.path, family.key, family.parameters) == ("obs", "f", "a.obs", "id", ("k",))
    assert [n.path for n in schema.nodes] == ["/", "/{obs}"]
    root, below = schema.nodes
    assert (below.doc, below.include, below.minimum, below.rules) == ("below", "devinterp/llc@1", 4, ())
    assert (root.doc, root.include, root.minimum, root.attributes) == ("root", None, 1, {"type": "object"})
    sized, free = root.dimensions["d"], root.dimensions["e"]
    assert (sized.name, sized.doc, str(sized.size), sized.minimum) == ("d", "dd", "n + 1", 2)
    assert (free.name, free.doc, free.size, free.minimum) == ("e", "ee", None, 0)
    rules = [(r.code, r.predicate, r.level, r.severity, dict(r.arguments), r.views) for r in root.rules]
    assert rules == [
        ("LAB401", "completed", "structure", "warning", {"what": "x"}, "skip"),
        ("LAB402", "failed_chains", "values", "error", {}, "check"),
    ]
    storage = schema.storage
    assert (storage.codecs, storage.checksums, storage.chunks) == (("bytes",), "required", "any")
    assert (storage.empty_chunks, storage.shards) == ("written", "allowed")
    assert {n: (p.name, p.doc, p.undeclared) for n, p in schema.profiles.items()} == {
        "strict": ("strict", "s", "error"),
        "loose": ("loose", "l", "note"),
    }


def test_a_frozen_variable_says_all_that_its_document_does() -> None:
    variable = load(PROFILED).node().variables["a_{obs}"]
    assert (variable.name, variable.dims, variable.dtype, variable.unit, variable.doc) == (
        "a_{obs}",
        ("d",),
        "float32",
        "nat",
        "v",
    )
    assert (variable.fill, type(variable.fill), variable.role, variable.prefix) == (2.0, float, "coordinate", "d")
    assert (variable.presence.kind, variable.presence.argument) == ("with_dimension", "e")
    assert (variable.alternatives, variable.leading, dict(variable.chunks)) == ((("e",),), ("e",), {"d": 5})
    assert variable.alternative_units == ("bit",)
    assert [(c.code, c.predicate, dict(c.arguments)) for c in variable.checks] == [
        ("LAB301", "at_least", {"minimum": 1})
    ]
    bare = load(PROFILED).node().variables["b"]
    assert (bare.fill, bare.role, bare.prefix, bare.presence.kind, bare.presence.argument) == (
        -1,
        "data",
        None,
        "required",
        None,
    )
    assert (bare.alternatives, bare.leading, dict(bare.chunks), bare.alternative_units, bare.checks) == (
        (),
        (),
        {},
        (),
        (),
    )


def test_a_profile_overrides_what_it_says_and_nothing_else() -> None:
    schema = load(PROFILED, profile="loose")
    assert (schema.profile, schema.undeclared) == ("loose", "note")
    variables = schema.node().variables
    assert (variables["b"].presence.kind, variables["b"].fill, variables["b"].doc) == ("optional", 0, "w")
    assert variables["a_{obs}"] == load(PROFILED).node().variables["a_{obs}"]
    assert [r.code for r in schema.node().rules] == ["LAB401"]
    assert schema.node().attributes == {"type": "object", "required": ["x"]}
    assert (schema.storage.checksums, schema.storage.empty_chunks) == ("optional", "omitted")
    assert (schema.storage.codecs, schema.storage.chunks, schema.storage.shards) == (("bytes",), "any", "allowed")
    with pytest.raises(SchemaError, match="no profile 'peer'") as error:
        load(PROFILED, profile="peer")
    assert "'loose', 'strict'" in str(error.value)


def test_a_document_without_profiles_is_strict() -> None:
    schema = load(minimal())
    assert (schema.profile, schema.undeclared, schema.nodes, list(schema.profiles)) == (
        "strict",
        "error",
        (),
        ["strict"],
    )
    assert (schema.storage.codecs, schema.storage.checksums) == (("bytes", "zstd", "crc32c"), "required")
    assert (schema.storage.chunks, schema.storage.empty_chunks, schema.storage.shards) == (
        "declared",
        "written",
        "forbidden",
    )


@pytest.mark.parametrize(
    ("dtype", "fill", "frozen"),
    [
        ("float32", None, "nan"),
        ("float64", 0, "0.0"),
        ("float64", "NaN", "nan"),
        ("int64", None, "-1"),
        ("int64", 4, "4"),
        ("string", None, "''"),
        ("text", None, "''"),
        ("text", "x", "'x'"),
        ("string", "x", "'x'"),
        ("bool", None, "False"),
        ("bool", True, "True"),
        ("uint8", None, "-1"),
    ],
)
def test_a_fill_is_of_the_type_of_its_variable(dtype: str, fill: Any, frozen: str) -> None:
    variable = {"dims": [], "dtype": dtype, "unit": "1", "doc": "x", **({} if fill is None else {"fill": fill})}
    schema = load(minimal(nodes={"/": {"doc": "x", "variables": {"a": variable}}}))
    assert repr(schema.node().variables["a"].fill) == frozen


def test_every_name_that_is_not_declared_is_named() -> None:
    variable = {"dims": ["d"], "dtype": "float32", "unit": "1", "doc": "x"}
    with pytest.raises(SchemaError, match="lab/x@1 names what it does not declare") as error:
        load(
            minimal(
                families={"obs": {"doc": "x", "parameters": {"k": {"type": "integer", "doc": "x"}}}},
                nodes={
                    "/": {
                        "doc": "x",
                        "dimensions": {"d": {"doc": "x", "size": "k * d + m"}, "f": {"doc": "x"}},
                        "variables": {
                            "a_{obs}": {**variable, "alternatives": [["e"]], "chunks": {"g": 1, "d": 1}},
                            "b_{lab}": {**variable, "presence": {"when": "flag"}, "doc_unless": {"rows": "y"}},
                            "c": {**variable, "presence": {"with_dimension": "f"}},
                        },
                    },
                    "/{lab}": {"doc": "x"},
                },
            )
        )
    assert error.value.problem.split("\n  ")[1:] == [
        "//dimensions/d/size names 'm'",
        "//variables/a_{obs} uses dimension 'e'",
        "//variables/a_{obs} uses dimension 'g'",
        "b_{lab} uses the family 'lab'",
        "b_{lab} depends on the parameter 'flag'",
        "b_{lab} depends on the parameter 'rows'",
        "/{lab} uses the family 'lab'",
    ]
