"""The tree of a store from its documents: what is taken, what is refused and where, within bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from devinterp.schema import Limits
from devinterp.schema.findings.report import Collector
from devinterp.schema.reading.access import ZarrAccess, open_access
from devinterp.schema.reading.parse_json import parsed_size
from devinterp.schema.reading.store_tree import StoreTree, read_store

GROUP = {"zarr_format": 3, "node_type": "group", "attributes": {}}
ARRAY = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [2],
    "data_type": "float32",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2]}},
    "chunk_key_encoding": "default",
    "fill_value": 0,
    "codecs": ["bytes"],
    "dimension_names": ["x"],
}


def store_of(documents: dict[str, Any]) -> MemoryStore:
    make = default_buffer_prototype().buffer.from_bytes
    raw = {k: v if isinstance(v, bytes) else json.dumps(v).encode() for k, v in documents.items()}
    return MemoryStore({k: make(v) for k, v in raw.items()})


def read(
    documents: dict[str, Any], consolidated: bool | None = None, **limits: Any
) -> tuple[StoreTree | None, set[tuple[str, str]]]:
    findings = Collector()
    tree = read_store(ZarrAccess(store_of(documents), "it"), Limits(**limits), findings, consolidated)
    return tree, {(str(f.code), p) for f in findings.findings() for p in f.paths}


def shape(tree: StoreTree | None) -> dict[str, Any]:
    """Paths of all nodes: groups with their arrays."""
    assert tree is not None
    return {g.path: sorted(a.path for a in g.arrays.values()) for g in tree.root.subtree()}


NODES = {"zarr.json": GROUP, "a/zarr.json": ARRAY, "g/zarr.json": GROUP, "g/b/zarr.json": ARRAY, "g/h/zarr.json": GROUP}
TREE = {"/": ["/a"], "/g": ["/g/b"], "/g/h": []}


def gathered(nodes: dict[str, Any], **root: Any) -> dict[str, Any]:
    metadata = {k.removesuffix("/zarr.json"): v for k, v in nodes.items() if k != "zarr.json"}
    return {"zarr.json": {**GROUP, **root, "consolidated_metadata": {"metadata": metadata}}}


def test_nodes_are_found_by_their_documents_or_gathered() -> None:
    tree, found = read({**NODES, "notes/text": b"x", "g/h/c/0": b"x"})
    assert (shape(tree), found) == (TREE, set())
    assert tree is not None
    assert tree.consolidated is None
    for consolidated in (None, True):
        tree, found = read(gathered(NODES), consolidated)
        assert (shape(tree), found) == (TREE, set())
        assert tree is not None
        assert set(tree.consolidated or {}) == {"a", "g", "g/b", "g/h"}
    tree, found = read({**gathered(NODES), **{k: v for k, v in NODES.items() if k == "a/zarr.json"}}, False)
    assert (shape(tree), found) == ({"/": ["/a"]}, set())
    assert tree is not None
    assert tree.consolidated is None


def test_metadata_that_are_not_gathered_are_missed_only_where_they_were_asked_for() -> None:
    for root in (GROUP, {**GROUP, "consolidated_metadata": None}, {**GROUP, "consolidated_metadata": {"metadata": []}}):
        assert read({**NODES, "zarr.json": root})[1] == set()
        tree, found = read({**NODES, "zarr.json": root}, True)
        assert (shape(tree), found) == (TREE, {("DI010", "/")})


@pytest.mark.parametrize(
    ("documents", "code"),
    [
        ({}, "DI002"),
        ({".zgroup": {}}, "DI003"),
        ({".zarray": {}}, "DI003"),
        ({".zmetadata": {}}, "DI003"),
        ({"zarr.json": {"zarr_format": 2}}, "DI003"),
        ({"zarr.json": ARRAY}, "DI113"),
        ({"zarr.json": {"zarr_format": 4, "node_type": "group"}}, "DI208"),
        ({"zarr.json": {"zarr_format": 3, "node_type": "folder"}}, "DI208"),
        ({"zarr.json": {"zarr_format": 3}}, "DI208"),
        ({"zarr.json": []}, "DI208"),
        ({"zarr.json": b"{"}, "DI258"),
        ({"zarr.json": {**GROUP, "attributes": {"x": "y" * 1000}}}, "DI255"),
    ],
)
def test_without_a_group_at_the_root_there_is_no_tree(documents: dict[str, Any], code: str) -> None:
    assert read(documents, document=500) == (None, {(code, "/")})


def test_what_a_root_document_says_besides_is_named() -> None:
    tree, found = read({"zarr.json": {**GROUP, "attributes": [1], "mystery": 1, "aside": {"must_understand": False}}})
    assert found == {("DI208", "/")}
    assert tree is not None
    assert tree.root.attrs == {}
    assert read({"zarr.json": {**GROUP, "aside": {"must_understand": False}}})[1] == set()
    inner = {**NODES, "g/zarr.json": {**GROUP, "mystery": {"must_understand": True}, "attributes": {"x": 1}}}
    tree, found = read(inner)
    assert found == {("DI208", "/g")}
    assert tree is not None
    assert tree.root.groups["g"].attrs == {"x": 1}


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({"zarr_format": 2, "node_type": "group"}, "DI208"),
        ({"zarr_format": 3, "node_type": "neither"}, "DI208"),
        ({"zarr_format": 3}, "DI208"),
        ({**ARRAY, "shape": [-1]}, "DI253"),
    ],
)
@pytest.mark.parametrize("gather", [False, True])
def test_a_node_that_cannot_be_used_is_broken_and_the_others_are_there(document: Any, code: str, gather: bool) -> None:
    nodes = {**NODES, "g/b/zarr.json": document}
    tree, found = read(gathered(nodes) if gather else nodes)
    assert found == {(code, "/g/b")}
    assert shape(tree) == {**TREE, "/g": []}
    assert tree is not None
    assert tree.root.groups["g"].broken == {"b"}
    assert tree.root.broken == set()


def test_documents_that_are_no_json_or_too_large_are_broken() -> None:
    for raw, code in ((b"{", "DI258"), (b'{"x": "' + b"y" * 3000 + b'"}', "DI255")):
        tree, found = read({**NODES, "a/zarr.json": raw}, document=2000)
        assert found == {(code, "/a")}
        assert tree is not None
        assert tree.root.broken == {"a"}


def test_gathered_names_lie_in_groups_within_the_store() -> None:
    nodes = {"lost/b": ARRAY, "a/b": ARRAY, "../x": ARRAY, "/abs": ARRAY, "a": ARRAY, "": GROUP}
    tree, found = read(gathered(nodes))
    assert found == {("DI208", "/lost/b"), ("DI208", "/a/b"), ("DI257", "/")}
    assert shape(tree) == {"/": ["/a"]}


@pytest.mark.parametrize("gather", [False, True])
def test_nodes_are_counted_and_so_is_their_depth(gather: bool) -> None:
    documents = gathered(NODES) if gather else NODES
    assert read(documents, nodes=4, depth=2)[1] == set()
    tree, found = read(documents, nodes=3)
    assert found == {("DI256", "/")}
    assert tree is not None
    assert sum(len(g.arrays) + 1 for g in tree.root.subtree()) - 1 == 3
    assert read(documents, depth=1)[1] == {("DI256", "/")}


def test_documents_are_kept_within_memory_together_and_equal_ones_once() -> None:
    nodes = {"zarr.json": GROUP, **{f"x{n}/zarr.json": {**ARRAY, "attributes": {"n": "same"}} for n in range(20)}}
    size = parsed_size(json.dumps(nodes["x0/zarr.json"]).encode())
    assert read(nodes, memory=2 * size)[1] == set()
    for n in range(20):
        nodes[f"x{n}/zarr.json"] = {**ARRAY, "attributes": {"n": f"is{n:2}"}}
    memory = -(-4 * 7 * size // 3)
    tree, found = read(nodes, memory=memory)
    assert {code for code, _ in found} == {"DI255"}
    assert len(found) == 13
    assert tree is not None
    assert len(tree.root.arrays) == 7
    assert len(tree.root.broken) == 13


def test_the_state_of_a_run_is_no_node_of_the_root() -> None:
    documents = {**NODES, ".devinterp/zarr.json": GROUP, "g/.devinterp/zarr.json": GROUP}
    assert shape(read(documents)[0]) == {**TREE, "/g/.devinterp": []}


def test_links_out_of_the_store_are_broken_nodes(tmp_path: Any) -> None:
    for key, document in NODES.items():
        (tmp_path / "s" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "s" / key).write_text(json.dumps(document))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "zarr.json").write_text(json.dumps(GROUP))
    (tmp_path / "s" / "link").symlink_to(tmp_path / "out")
    (tmp_path / "s" / "g" / "b" / "zarr.json").unlink()
    (tmp_path / "s" / "g" / "b" / "zarr.json").symlink_to(tmp_path / "out" / "zarr.json")
    findings = Collector()
    tree = read_store(open_access(tmp_path / "s"), Limits(), findings, None)
    assert {(str(f.code), p) for f in findings.findings() for p in f.paths} == {("DI257", "/link"), ("DI257", "/g/b")}
    assert shape(tree) == {**TREE, "/g": []}
    assert tree is not None
    assert (tree.root.broken, tree.root.groups["g"].broken) == ({"link"}, {"b"})
    (tmp_path / "s" / "zarr.json").unlink()
    (tmp_path / "s" / "zarr.json").symlink_to(tmp_path / "out" / "zarr.json")
    findings = Collector()
    assert read_store(open_access(tmp_path / "s"), Limits(), findings, None) is None
    assert [(str(f.code), f.path) for f in findings.findings()] == [("DI257", "/")]


def test_stores_in_a_folder_that_is_none_are_named() -> None:
    documents = {f"run{n:02}/zarr.json": GROUP for n in range(30)} | {"other/x": b"x"}
    findings = Collector()
    assert read_store(ZarrAccess(store_of(documents), "it"), Limits(), findings, None) is None
    (finding,) = findings.findings()
    assert str(finding.found).startswith("none, but in this folder: run00, run01, ")
    assert str(finding.found).endswith(", run18")  # the first twenty names, one of which is not a store


@pytest.mark.parametrize("empty", [{}, None])
def test_consolidated_metadata_in_which_nothing_is_are_none(empty: Any) -> None:
    documents = {**NODES, "zarr.json": {**GROUP, "consolidated_metadata": {"kind": "inline", "metadata": empty}}}
    tree, found = read(documents)
    assert shape(tree) == TREE
    assert found == (set() if empty is None else {("DI010", "/")})  # xarray believes it, and shows an empty tree
    assert read({"zarr.json": documents["zarr.json"]})[1] == set()  # where nothing is, they are right
