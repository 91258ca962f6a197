"""Which node each group belongs to, which variables may be there, and what is found of the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from devinterp.errors import SchemaError
from devinterp.schema import Limits, load, validate
from devinterp.schema.checks.bind import bind_tree, load_by_id
from devinterp.schema.findings.report import Collector
from devinterp.schema.reading.memory_tree import read_view

VARIABLE = {"dims": [], "dtype": "float64", "unit": "1", "doc": "x"}
DOCUMENT: dict[str, Any] = {
    "schema": "lab/x",
    "version": 1,
    "doc": "x",
    "parameters": {
        "n": {"path": "s.n", "type": "integer", "doc": "x"},
        "r": {"path": "s.r", "type": "number", "doc": "x"},
        "flag": {"path": "s.flag", "type": "boolean", "doc": "x", "default": False},
        "word": {"path": "s.word", "type": "string", "doc": "x", "default": "w"},
    },
    "families": {
        "obs": {"doc": "x", "path": "obs", "key": "id", "parameters": {"k": {"type": "integer", "doc": "x"}}},
        "any": {"doc": "x"},
        "plain": {"doc": "x", "path": "names"},
        "unused": {"doc": "x", "path": "obs", "key": "id"},
    },
    "nodes": {
        "/": {
            "doc": "x",
            "dimensions": {"e": {"doc": "x"}},
            "variables": {
                "a": VARIABLE,
                "kept": {**VARIABLE, "presence": {"when": "flag"}},
                "e": {**VARIABLE, "dims": ["e"], "role": "coordinate", "presence": {"with_dimension": "e"}},
                "wide": {**VARIABLE, "dims": ["e"], "presence": "optional"},
                "loss_{obs}": VARIABLE,
                "of_{any}": {**VARIABLE, "presence": "optional"},
                "by_{plain}": VARIABLE,
            },
        },
        "/part": {"doc": "x", "variables": {"b": VARIABLE}},
        "/part/deep": {"doc": "x", "minimum": 0},
        "/{obs}": {"doc": "x", "minimum": 2},
    },
}
SCHEMA = load(DOCUMENT)


def tree(attrs: Any = None, names: Any = ("a",), groups: Any = ("part", "one", "two"), **arrays: Any) -> xr.DataTree:
    nodes = {f"/{g}": xr.Dataset({"b": 1.0} if g == "part" else {}) for g in groups}
    return xr.DataTree.from_dict({"/": xr.Dataset({**dict.fromkeys(names, 1.0), **arrays}, attrs=attrs or {}), **nodes})


def bound(
    target: xr.DataTree, limits: Limits | None = None
) -> tuple[Any, list[tuple[str, str, str | None, str | None]]]:
    findings = Collector()
    bounds = {b.path: b for b in bind_tree(read_view(target), SCHEMA, findings, limits or Limits())}
    return bounds, [(str(f.code), f.path, f.expected, f.found) for f in findings.findings()]


def test_every_group_has_its_node() -> None:
    bounds, found = bound(tree(groups=("part", "part/deep", "one", "two")))
    assert found == []
    assert {p: (b.node.path, dict(b.placeholders)) for p, b in bounds.items()} == {
        "/": ("/", {}), "/part": ("/part", {}), "/part/deep": ("/part/deep", {}),
        "/one": ("/{obs}", {"obs": "one"}), "/two": ("/{obs}", {"obs": "two"}),
    }  # fmt: skip
    assert bounds["/"].limits == Limits()
    assert bounds["/part"].root is bounds["/"].group
    assert bounds["/part"].top is bounds["/"].group


def test_groups_that_are_missing_or_not_declared_are_named_with_what_belongs_there() -> None:
    _, found = bound(tree(groups=("part", "part/depe", "one")))
    assert found == [
        ("DI106", "/", "at least 2 of /{obs}", "one, part"),
        ("DI107", "/part/depe", "deep", None),
    ]
    _, found = bound(tree(groups=("one", "two")))
    assert found == [("DI106", "/", "/part", "one, two")]
    _, found = bound(tree(groups=()))
    assert {f[3] for f in found} == {"no groups"}
    _, found = bound(tree(groups=("part", "one", "two", "one/inner")))
    assert found == [("DI107", "/one/inner", "no groups here", None)]
    spoilt = validate(tree(groups=("part", "part/depe", "one", "two")), schema=SCHEMA)
    assert "Did you mean 'deep'" in str(spoilt.filter(code="DI107").findings[0].remedy)


def test_groups_and_arrays_in_each_others_places_are_named() -> None:
    _, found = bound(tree(groups=("part", "one", "two", "a"), names=()))
    assert ("DI113", "/a", "an array", None) in found
    _, found = bound(tree(names=("a", "part"), groups=("one", "two")))
    assert found == [("DI113", "/part", "a group", None)]


@pytest.mark.parametrize(
    ("attrs", "parameters"),
    [
        ({}, {"flag": False, "word": "w"}),
        ({"s": {"n": 3, "r": 2, "flag": True, "word": "v"}}, {"n": 3, "r": 2, "flag": True, "word": "v"}),
        ({"s": {"n": 3.0, "r": 2.5}}, {"n": 3, "r": 2.5, "flag": False, "word": "w"}),
        ({"s": {"n": 3.5, "r": "2", "flag": 2, "word": 7}}, {}),
        ({"s": {"flag": 1}}, {"flag": True, "word": "w"}),  # netCDF holds no booleans
        ({"s": {"n": True, "r": False, "flag": "true"}}, {"word": "w"}),
        ({"s": "text"}, {"flag": False, "word": "w"}),
    ],
)
def test_parameters_are_taken_in_their_types(attrs: Any, parameters: Any) -> None:
    found = bound(tree(attrs))[0]["/"].parameters
    assert found == parameters
    assert type(found.get("n", 0)) is int


def variables(attrs: Any = None, *names: str, **options: Any) -> set[str]:
    return set(bound(tree(attrs, names=("a", *names)), **options)[0]["/"].variables)


def test_variables_of_a_family_are_those_of_its_members() -> None:
    fixed = {"a", "kept", "e", "wide"}
    listed = {
        "obs": [{"id": "code", "k": 2}, {"id": "my math"}, {"id": 3}, "text", {"name": "x"}],
        "names": ["p", 4, "q"],
    }
    assert variables(listed, "loss_other") == fixed | {"loss_code", "loss_my_math", "loss_text", "by_p", "by_q"}
    assert variables(None, "loss_x", "of_y", "by_z", "odd") == fixed | {"loss_x", "of_y", "by_z"}
    members = bound(tree(listed))[0]["/"].members
    assert members["obs"] == {"code": {"k": 2}, "my_math": {}, "text": {}}
    assert members["plain"] == {"p": {}, "q": {}}
    assert "unused" not in members
    assert bound(tree({"obs": [{"id": "code", "k": "2"}]}))[0]["/"].members["obs"] == {"code": {}}


def test_members_are_looked_at_up_to_a_limit() -> None:
    attrs = {"obs": [{"id": n} for n in "abc"], "names": []}
    for most, names in ((3, {"loss_a", "loss_b", "loss_c"}), (2, {"loss_a", "loss_b"})):
        bounds, found = bound(tree(attrs), Limits(members=most))
        assert {n for n in bounds["/"].variables if n.startswith("loss")} == names
        assert found == ([] if most == 3 else [("DI255", "/", "at most 2", "3")])


def test_a_variable_is_there_as_the_settings_have_it() -> None:
    def presence(name: str, attrs: Any = None, **arrays: Any) -> str:
        root = bound(tree(attrs, **arrays))[0]["/"]
        return str(root.presence(root.node.variables[name]))

    assert presence("kept", {"s": {"flag": True}}) == "required"
    assert presence("kept", {"s": {"flag": False}}) == presence("kept") == "forbidden"
    assert presence("kept", {"s": {"flag": 3}}) == "optional"  # nothing is known of it
    assert (presence("a"), presence("wide")) == ("required", "optional")
    assert presence("e") == "optional"
    assert presence("e", wide=("e", np.zeros(2))) == "required"
    assert presence("e", e=("e", np.zeros(2))) == "optional"  # by itself it is not a reason


def test_a_part_of_another_schema_may_name_one_that_extends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    extension = load({"schema": "lab/more", "version": 1, "extends": "devinterp/llc@1", "doc": "x"})
    outer = load(
        {"schema": "lab/outer", "version": 1, "doc": "x", "families": {"any": {"doc": "x"}},
         "nodes": {"/": {"doc": "x"}, "/{any}": {"doc": "x", "include": "devinterp/llc@1"}}}
    )  # fmt: skip

    def by_id(identity: str, profile: str) -> Any:
        return extension if identity == "lab/more@1" else load_by_id(identity, profile)

    monkeypatch.setattr("devinterp.schema.checks.bind.load_by_id", by_id)
    names = (None, "devinterp/llc@1", "lab/more@1", "devinterp/bif@1", "lab/unheard@1", 3)
    nodes = {
        f"/g{n}": xr.Dataset(attrs={} if name is None else {"devinterp_schema": name}) for n, name in enumerate(names)
    }
    findings = Collector()
    root = read_view(xr.DataTree.from_dict(nodes))
    bounds = {b.path: b.schema.id for b in bind_tree(root, outer, findings, Limits()) if b.path != "/"}
    assert bounds == {f"/g{n}": "lab/more@1" if n == 2 else "devinterp/llc@1" for n in range(6)}
    assert [(str(f.code), f.path, f.found) for f in findings.findings()] == [
        ("DI009", "/g3", "devinterp/bif@1"),
        ("DI005", "/g4", "lab/unheard@1"),
    ]


def test_a_schema_by_id_is_installed_and_has_the_profile_or_its_own() -> None:
    assert load_by_id("lab/unheard@1", "strict") is None
    found = load_by_id("devinterp/llc@1", "open")
    assert found is not None
    assert (found.id, found.profile) == ("devinterp/llc@1", "open")
    own = load_by_id("devinterp/sweep@1", "devinterp-2.0")
    assert own is not None
    assert own.profile == "strict"
    with pytest.raises(SchemaError):
        load("devinterp/sweep@1", profile="devinterp-2.0")
