"""Which schema a tree is held against: the one asked for, the one it names, or the one its names fit."""

from __future__ import annotations

from typing import Any

import pytest
import xarray as xr

from devinterp.errors import SchemaError
from devinterp.schema import load
from devinterp.schema.checks.recognise import choose_schema, fit, fitting_node, known_schemas, recognise
from devinterp.schema.findings.report import Collector
from devinterp.schema.reading.memory_tree import read_view
from devinterp.schema.reading.nodes import ArrayNode, GroupNode
from devinterp.testing import make_tree

KINDS = ("samples", "study", "llc", "bif", "bif_topk", "susceptibilities", "sweep", "sweep_summary")


def nameless(kind: str) -> GroupNode:
    """A tree of a kind that does not say which it is."""
    root = read_view(make_tree(kind))
    for group in root.subtree():
        group.attrs.pop("devinterp_schema", None)
    return root


def choose(
    root: GroupNode, asked: Any = None, profile: str = "strict"
) -> tuple[str | None, list[tuple[str, Any, Any]]]:
    findings = Collector()
    schema = choose_schema(root, asked, profile, findings)
    assert schema is None or schema.profile == profile
    return None if schema is None else schema.id, [(str(f.code), f.expected, f.found) for f in findings.findings()]


def named(name: Any) -> GroupNode:
    root = nameless("llc")
    root.attrs["devinterp_schema"] = name
    return root


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_recognised_by_its_names(kind: str) -> None:
    assert choose(nameless(kind)) == (f"devinterp/{kind}@1", [])
    assert choose(read_view(make_tree(kind))) == (f"devinterp/{kind}@1", [])
    found = recognise(nameless(kind), "open")
    assert found is not None
    assert (found.id, found.profile) == (f"devinterp/{kind}@1", "open")


def test_what_a_tree_names_is_taken_where_it_is_installed() -> None:
    assert choose(named("devinterp/bif@1")) == ("devinterp/bif@1", [])
    for name in ("devinterp/bif@9", "lab/x@1", "bif", "../bif.yaml", "devinterp/bif@01", "x" * 500):
        schema, found = choose(named(name))
        assert schema == "devinterp/llc@1"  # which it looks like
        assert [f[0] for f in found] == ["DI005"]
        assert len(str(found[0][2])) <= 120
    assert choose(named(3)) == ("devinterp/llc@1", [])
    with pytest.raises(SchemaError, match=r"'devinterp/sweep@1' has no profile 'devinterp-2\.0'"):
        choose(named("devinterp/sweep@1"), profile="devinterp-2.0")


def test_what_was_asked_for_comes_first() -> None:
    assert choose(named("devinterp/llc@1"), "llc") == ("devinterp/llc@1", [])
    assert choose(named("devinterp/llc@1"), load("llc", profile="open"), "open") == ("devinterp/llc@1", [])
    other = ("DI009", "devinterp/llc@1", "devinterp/bif@1")
    assert choose(named("devinterp/bif@1"), "llc") == ("devinterp/llc@1", [other])
    assert choose(named("nonsense"), "llc") == ("devinterp/llc@1", [("DI009", "devinterp/llc@1", "nonsense")])
    assert choose(nameless("bif"), "llc") == ("devinterp/llc@1", [])
    extension = load({"schema": "lab/x", "version": 1, "extends": "devinterp/llc@1", "doc": "x"})
    assert choose(named("devinterp/llc@1"), extension) == ("lab/x@1", [])
    with pytest.raises(SchemaError):
        choose(nameless("llc"), "nothing")


def test_a_tree_may_name_an_extension_of_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    extension = load({"schema": "lab/x", "version": 1, "extends": "devinterp/llc@1", "doc": "x"})
    installed = {"lab/x@1": extension, "devinterp/bif@1": load("bif")}
    monkeypatch.setattr(
        "devinterp.schema.checks.recognise.load_by_id", lambda identity, profile: installed.get(identity)
    )
    assert choose(named("lab/x@1"), "llc") == ("devinterp/llc@1", [])
    assert [f[0] for f in choose(named("devinterp/bif@1"), "llc")[1]] == ["DI009"]


def test_a_tree_that_fits_nothing_is_told_what_there_is() -> None:
    root = GroupNode("/", {})
    schema, ((code, expected, found),) = choose(root)
    assert (schema, code, found) == (None, "DI004", "an empty group")
    for kind in KINDS:
        assert f"devinterp/{kind}@1" in str(expected)
    for n in range(30):
        root.arrays[f"x{n:02}"] = ArrayNode(f"/x{n:02}", f"x{n:02}", (), (), "float32", {})
    assert choose(root)[1][0][2] == ", ".join(f"x{n:02}" for n in range(20))
    below = GroupNode("/", {}, groups={"a": GroupNode("/a", {})})
    assert choose(below)[1][0][2] == "a/"


def test_schemas_are_those_that_have_the_profile_and_extend_none() -> None:
    assert {s.profile for s in known_schemas("devinterp-2.0")} == {"devinterp-2.0"}
    assert "devinterp/sweep@1" not in {s.id for s in known_schemas("devinterp-2.0")}
    assert {s.id for s in known_schemas("strict")} >= {f"devinterp/{k}@1" for k in KINDS}
    with pytest.raises(SchemaError, match="No schema has a profile 'lax'"):
        recognise(nameless("llc"), "lax")


def arrays(*names: str) -> GroupNode:
    return GroupNode("/", {}, {n: ArrayNode(f"/{n}", n, (), (), "float32", {}) for n in names})


def test_names_fit_as_far_as_they_are_declared_and_all_required_are_there() -> None:
    variable = {"dims": [], "dtype": "float32", "unit": "1", "doc": "x"}
    schema = load(
        {
            "schema": "lab/x",
            "version": 1,
            "doc": "x",
            "families": {"obs": {"doc": "x"}},
            "nodes": {
                "/": {
                    "doc": "x",
                    "variables": {
                        "a": variable,
                        "b": variable,
                        "c": {**variable, "presence": "optional"},
                        "l_{obs}": variable,
                    },
                }
            },
        }
    )
    for names, score in (
        ((), 0.0), (("a", "b"), 1.0), (("a",), 0.5), (("a", "b", "c"), 1.0), (("a", "b", "x", "y"), 0.5),
        (("a", "b", "l_1", "l_2"), 1.0), (("c",), 1 / 3), (("x",), 0.0),
    ):  # fmt: skip
        assert fit(arrays(*names), schema) == pytest.approx(score), names
    spoilt = arrays("a")
    spoilt.broken.add("b")
    assert fit(spoilt, schema) == 1.0


def test_trees_fit_by_their_groups() -> None:
    study, sus, llc = load("study"), load("susceptibilities"), load("llc")
    assert fit(nameless("study"), study) == pytest.approx(1.0)
    assert fit(nameless("susceptibilities"), sus) == pytest.approx(1.0)
    half = nameless("susceptibilities")
    del half.groups["context"]
    assert fit(half, sus) == pytest.approx(0.5)
    # Its one declared name of ten, the coordinate `batch`, is also one of a run's: too little to be taken for a study.
    assert fit(half, study) == pytest.approx(0.1)
    found = recognise(half, "strict")
    assert found is not None
    assert found.id == sus.id
    del half.groups["susceptibilities"].arrays["sus"]
    assert recognise(GroupNode("/", {}, groups={"odd": half.groups["susceptibilities"]}), "strict") is None
    assert fit(nameless("samples"), study) == fit(nameless("samples"), sus) == 0.0
    assert fit(GroupNode("/", {}), study) == fit(GroupNode("/", {}), sus) == fit(GroupNode("/", {}), llc) == 0.0
    mixed = nameless("study")
    mixed.groups["odd"] = GroupNode("/odd", {})
    count = len(mixed.groups)
    assert fit(mixed, study) == pytest.approx((count - 1) / count)
    many = GroupNode("/", {}, groups={f"x{n}": GroupNode(f"/x{n}", {}) for n in range(8)})
    many.groups["full"] = mixed.groups["full"]
    assert fit(many, study) == 0.0  # no more than eight are looked at


def test_a_single_dataset_is_found_among_all_nodes() -> None:
    for kind, path in (("susceptibilities", "/context"), ("susceptibilities", "/susceptibilities"), ("llc", "/")):
        tree = make_tree(kind)
        dataset = (tree if path == "/" else tree[path]).to_dataset(inherit=False)
        found = fitting_node(read_view(dataset), "strict")
        assert found is not None
        assert (found[0].id, found[1].path) == (f"devinterp/{kind}@1", path)
    assert fitting_node(read_view(xr.Dataset({"odd": 1})), "strict") is None
    assert fitting_node(GroupNode("/", {}), "strict") is None
