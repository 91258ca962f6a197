"""One document on top of another: what is added, what is tightened, and every loosening that is named."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from devinterp.errors import SchemaError
from devinterp.schema.definition.extend import _merge_variable, merge_documents

VARIABLE = {
    "dims": ["chain"], "dtype": "float32", "unit": "nat", "doc": "x", "chunks": {"chain": 1}, "prefix": "draw",
    "alternatives": [["draw"]], "alternative_units": ["bit"], "checks": [{"code": "BAS301", "predicate": "finite"}],
}  # fmt: skip
BASE: dict[str, Any] = {
    "schema": "lab/base",
    "version": 1,
    "doc": "The base.",
    "parameters": {"n": {"path": "n", "type": "integer", "doc": "x"}},
    "families": {"obs": {"doc": "x"}, "wr": {"doc": "x"}},
    "nodes": {
        "/": {
            "doc": "x",
            "minimum": 1,
            "dimensions": {"chain": {"doc": "x", "size": "n", "minimum": 1}, "draw": {"doc": "x"}},
            "variables": {
                "a": VARIABLE,
                "free": {"dims": [], "dtype": "int64", "unit": "1", "doc": "x", "presence": "optional"},
                "kept": {"dims": [], "dtype": "int64", "unit": "1", "doc": "x", "fill": 0, "role": "coordinate"},
                "loss_{obs}": {"dims": [], "dtype": "int64", "unit": "1", "doc": "x", "leading": ["draw"]},
            },
            "attributes": {"required": ["base"]},
            "rules": [{"code": "BAS401", "predicate": "r"}],
        },
        "/part": {"doc": "x", "include": "lab/part@1", "minimum": 2},
        "/{wr}": {"doc": "x"},
    },
    "profiles": {
        "strict": {
            "doc": "x",
            "undeclared": "error",
            "without_rules": ["BAS401"],
            "attributes": {"/": {"required": ["own"]}},
        },
        "peer": {"doc": "x", "variables": {"free": {"presence": "forbidden"}}},
    },
    "storage": {"codecs": ["bytes"], "checksums": "optional", "shards": "forbidden"},
}


def derived(**parts: Any) -> dict[str, Any]:
    return {"schema": "lab/new", "version": 2, "doc": "New.", "extends": "lab/base@1", **parts}


def merge(**parts: Any) -> dict[str, Any]:
    before = deepcopy((BASE, parts))
    merged = merge_documents(BASE, derived(**parts))
    assert (BASE, parts) == before
    return merged


def root(**node: Any) -> dict[str, Any]:
    return {"nodes": {"/": {"doc": "x", **node}}}


def test_an_extension_of_nothing_is_the_base_under_its_own_name() -> None:
    assert merge() == {**BASE, "schema": "lab/new", "version": 2, "doc": "New."}
    node = merge(**root())["nodes"]["/"]
    assert node == BASE["nodes"]["/"]
    assert merge(nodes={"/": {"doc": "Another."}})["nodes"]["/"]["doc"] == "Another."


def test_whatever_is_new_is_added() -> None:
    variable = {"dims": ["lab"], "dtype": "float64", "unit": "1", "doc": "y"}
    new = merge(
        parameters={"m": {"path": "m", "type": "integer", "doc": "y"}},
        families={"lab": {"doc": "y"}},
        nodes={
            "/": {
                "doc": "y",
                "dimensions": {"lab": {"doc": "y", "size": "m"}},
                "variables": {"norm": variable},
                "attributes": {"required": ["lab"]},
                "rules": [{"code": "LAB401", "predicate": "q"}],
            },
            "/part/deep": {"doc": "y"},
        },
        profiles={"lab": {"doc": "y"}},
    )
    assert new["parameters"].keys() == {"n", "m"}
    assert new["families"].keys() == {"obs", "wr", "lab"}
    node = new["nodes"]["/"]
    assert node["dimensions"]["lab"] == {"doc": "y", "size": "m"}
    assert node["variables"]["norm"] == variable
    assert node["variables"]["a"] == VARIABLE
    assert node["attributes"] == {"allOf": [{"required": ["base"]}, {"required": ["lab"]}]}
    assert [r["code"] for r in node["rules"]] == ["BAS401", "LAB401"]
    assert new["nodes"]["/part/deep"] == {"doc": "y"}
    assert new["profiles"]["lab"] == {"doc": "y"}
    # What it demands of attributes holds under a profile that has attributes of its own, too.
    assert new["profiles"]["strict"]["attributes"] == {"/": {"allOf": [{"required": ["own"]}, {"required": ["lab"]}]}}
    assert new["profiles"]["peer"] == BASE["profiles"]["peer"]


def test_a_base_may_lack_every_section() -> None:
    bare = {"schema": "lab/bare", "version": 1, "doc": "x"}
    document = derived(
        parameters={"m": {}}, families={"f": {}}, profiles={"p": {"doc": "y"}}, storage={"checksums": "required"},
        nodes={"/": {"doc": "y", "variables": {"a": {}}}},
    )  # fmt: skip
    merged = merge_documents(bare, document)
    assert merged == {k: v for k, v in document.items() if k != "extends"}
    node = {"schema": "lab/bare", "version": 1, "doc": "x", "nodes": {"/": {"doc": "x"}}}
    parts = {"dimensions": {"d": {"doc": "y"}}, "variables": {"a": {}}, "attributes": {"type": "object"}}
    merged = merge_documents(node, derived(**root(**parts)))
    assert merged["nodes"]["/"] == {
        "doc": "x", "rules": [], **parts, "attributes": {"allOf": [{}, {"type": "object"}]}
    }  # fmt: skip


def test_a_variable_may_be_tightened() -> None:
    check = {"code": "LAB301", "predicate": "at_most"}
    same = {k: VARIABLE[k] for k in ("dims", "dtype", "unit", "chunks", "prefix")}
    found = merge(**root(variables={"a": {**same, "role": "data", "alternatives": [], "checks": [check], "doc": "y"}}))
    variable = found["nodes"]["/"]["variables"]["a"]
    assert variable["checks"] == [*VARIABLE["checks"], check]
    assert (variable["alternatives"], variable["doc"], variable["unit"]) == ([], "y", "nat")
    old = {**BASE["nodes"]["/"]["variables"]["a"], "doc_unless": {"n": "x of rows"}}
    for new, kept in (({"prefix": "draw"}, {"n": "x of rows"}), ({"doc": "y"}, None)):
        known = {"a": old}
        _merge_variable("a", known, "a", new, [])
        assert known["a"].get("doc_unless") == kept
    for presence in ("required", "forbidden", "optional"):
        assert merge(**root(variables={"free": {"presence": presence}}))["nodes"]["/"]["variables"]["free"][
            "presence"
        ] == (presence)
    assert merge(**root(variables={"a": {"presence": "required"}}))
    assert merge(**root(variables={"a": {"alternatives": [["draw"]], "alternative_units": ["bit"]}}))


def test_a_dimension_and_a_number_of_groups_may_be_tightened() -> None:
    dimensions = merge(**root(dimensions={"draw": {"doc": "y", "size": "n", "minimum": 3}, "chain": {"minimum": 2}}))[
        "nodes"
    ]["/"]["dimensions"]
    assert dimensions["draw"] == {"doc": "y", "size": "n", "minimum": 3}
    assert dimensions["chain"] == {"doc": "x", "size": "n", "minimum": 2}
    assert merge(**root(dimensions={"chain": {"size": "n", "minimum": 1}}))
    assert merge(nodes={"/part": {"doc": "y", "minimum": 3, "include": "lab/part@1"}})


def test_storage_may_be_tightened() -> None:
    storage = {"checksums": "required", "shards": "forbidden", "chunks": "declared", "codecs": ["bytes"]}
    assert merge(storage=storage)["storage"] == storage
    assert merge(storage={"empty_chunks": "written"})["storage"] == {**BASE["storage"], "empty_chunks": "written"}
    assert merge(storage=BASE["storage"])["storage"] == BASE["storage"]


def test_a_profile_may_say_something_of_what_is_new() -> None:
    new = {"norm": {"presence": "optional"}, "free": {"presence": "forbidden"}}
    found = merge(profiles={"peer": {"doc": "y", "variables": new}, "strict": {"doc": "y", "undeclared": "error"}})
    assert found["profiles"]["peer"] == {"doc": "y", "variables": new}
    assert found["profiles"]["strict"] == {**BASE["profiles"]["strict"], "doc": "y"}
    kept = merge(profiles={"peer": {"doc": "y", "variables": {"norm": {"fill": 0}}}})["profiles"]["peer"]
    assert kept["variables"] == {"free": {"presence": "forbidden"}, "norm": {"fill": 0}}


def test_an_extension_decides_about_the_attributes_of_a_profile_that_it_describes_itself() -> None:
    own = {"/": {"required": ["mine"]}}
    found = merge(**root(attributes={"required": ["lab"]}), profiles={"mine": {"doc": "y", "attributes": own}})
    assert found["profiles"]["mine"]["attributes"] == own
    assert found["profiles"]["strict"]["attributes"]["/"] == {"allOf": [{"required": ["own"]}, {"required": ["lab"]}]}


LOOSENED: list[tuple[dict[str, Any], str]] = [
    ({"parameters": {"n": {"path": "m", "type": "integer", "doc": "x"}}}, "parameters/n is declared differently"),
    ({"families": {"obs": {"doc": "y"}}}, "families/obs is declared differently"),
    ({"nodes": {"/part": {"doc": "x", "include": "lab/other@1"}}}, "/part includes another schema"),
    ({"nodes": {"/": {"doc": "x", "include": "lab/other@1"}}}, "/ includes another schema"),
    ({"nodes": {"/part": {"doc": "x", "minimum": 1}}}, "/part/minimum is smaller"),
    ({"nodes": {"/{wr}": {"doc": "x", "minimum": 0}}}, "/{wr}/minimum is smaller"),
    ({"nodes": {"/mine": {"doc": "x"}}}, "/mine would also be /{wr}"),
    ({"nodes": {"/{obs}": {"doc": "x"}}}, "/{obs} would also be /part"),
    (root(dimensions={"chain": {"size": "n + 1"}}), "//dimensions/chain/size is 'n + 1', the base says 'n'"),
    (root(dimensions={"chain": {"minimum": 0}}), "//dimensions/chain/minimum is smaller"),
    (root(variables={"a": {"dims": ["draw"]}}), "//variables/a/dims is 'draw', the base says 'chain'"),
    (root(variables={"a": {"dtype": "float64"}}), "//variables/a/dtype"),
    (root(variables={"a": {"fill": 0}}), "//variables/a/fill is 0, the base says none"),
    (root(variables={"kept": {"fill": 1}}), "//variables/kept/fill"),
    (root(variables={"a": {"unit": "bit"}}), "//variables/a/unit"),
    (root(variables={"a": {"role": "coordinate"}}), "//variables/a/role"),
    (root(variables={"kept": {"role": "data"}}), "//variables/kept/role"),
    (root(variables={"a": {"leading": ["draw"]}}), "//variables/a/leading"),
    (root(variables={"a": {"chunks": {}}}), "//variables/a/chunks"),
    (root(variables={"a": {"prefix": "chain"}}), "//variables/a/prefix"),
    (root(variables={"a": {"alternatives": [["draw"], []]}}), "//variables/a/alternatives adds ()"),
    (root(variables={"kept": {"alternatives": [["draw"]]}}), "//variables/kept/alternatives adds (draw)"),
    (root(variables={"a": {"alternative_units": ["bit", "1"]}}), "//variables/a/alternative_units adds '1'"),
    (root(variables={"kept": {"alternative_units": ["bit"]}}), "//variables/kept/alternative_units adds 'bit'"),
    (root(variables={"a": {"presence": "optional"}}), "//variables/a/presence is 'optional', the base says 'required'"),
    (root(variables={"a": {"presence": "forbidden"}}), "//variables/a/presence"),
    (root(variables={"free": {"presence": {"when": "n"}}}), "//variables/free/presence"),
    (root(variables={"loss_{wr}": {}}), "//variables/loss_{wr} would also be loss_{obs}"),
    (root(variables={"loss_mine": {}}), "//variables/loss_mine would also be loss_{obs}"),
    (root(variables={"{obs}_a": {}, "{obs}": {}}), "//variables/{obs} would also be a,"),
    ({"profiles": {"strict": {"doc": "x", "undeclared": "note"}}}, "profiles/strict/undeclared differs"),
    ({"profiles": {"strict": {"doc": "x", "without_rules": []}}}, "profiles/strict/without_rules differs"),
    ({"profiles": {"strict": {"doc": "x", "attributes": {}}}}, "profiles/strict/attributes differs"),
    ({"profiles": {"peer": {"doc": "x", "storage": {"shards": "allowed"}}}}, "profiles/peer/storage differs"),
    ({"profiles": {"strict": {"doc": "x", "variables": {"a": {"fill": 0}}}}}, "profiles/strict/variables/a differs"),
    ({"profiles": {"peer": {"doc": "x", "variables": {"free": {}}}}}, "profiles/peer/variables/free differs"),
    ({"storage": {"shards": "allowed"}}, "storage/shards is 'allowed', the base says 'forbidden'"),
    ({"storage": {"chunks": "any"}}, "storage/chunks is 'any', the base says 'declared'"),
    ({"storage": {"empty_chunks": "omitted"}}, "storage/empty_chunks"),
    ({"storage": {"codecs": ["bytes", "zstd"]}}, "storage/codecs differ"),
]  # fmt: skip


@pytest.mark.parametrize(("parts", "problem"), LOOSENED, ids=[p for _, p in LOOSENED])
def test_every_loosening_is_named(parts: dict[str, Any], problem: str) -> None:
    with pytest.raises(SchemaError, match="lab/new@2 changes what lab/base@1 fixes") as error:
        merge(**parts)
    assert f"\n  {problem}" in str(error.value)


def test_all_loosenings_are_named_at_once() -> None:
    with pytest.raises(SchemaError) as error:
        merge(
            **root(variables={"a": {"unit": "bit"}, "kept": {"fill": 1}}), storage={"shards": "allowed"},
            parameters={"n": {}},
        )  # fmt: skip
    assert str(error.value).count("\n  ") == 4
