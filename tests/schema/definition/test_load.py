"""Documents are found by kind, by id or by path, checked against the grammar, and frozen with nothing lost."""

from __future__ import annotations

import sys
import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import yaml

from devinterp.errors import DevinterpWarning, SchemaError
from devinterp.schema import available, load
from devinterp.schema.definition import load as loader

OURS = {
    f"devinterp/{n}@1"
    for n in ("bif", "bif_topk", "llc", "samples", "series", "study", "susceptibilities", "sweep", "sweep_summary")
}


def minimal(**parts: Any) -> dict[str, Any]:
    return {"schema": "lab/x", "version": 1, "doc": "x", **parts}


def test_ours_are_found_by_kind_and_by_id() -> None:
    assert set(available()) >= OURS
    for identity, path in available().items():
        assert f"{path.stem}@1" == identity.split("/")[1]
        assert load(path.stem) is load(identity) is load(path) is load(str(path))
    assert load("devinterp/samples") is load("samples")
    assert load("samples", profile="open") is not load("samples")
    assert loader.find_schema("samples") is None
    assert loader.find_schema("devinterp/samples@1") == loader.schemas_folder() / "samples.yaml"


@pytest.mark.parametrize(
    "name", ["sample", "devinterp/samples@2", "../schemas/samples", "nothing like it", "samples@1"]
)
def test_what_is_not_there_is_not_loaded(name: str) -> None:
    with pytest.raises(SchemaError, match=f"There is no schema {name!r}") as error:
        load(name)
    assert "devinterp/samples@1" in str(error.value)
    if name == "sample":
        assert "Did you mean 'samples'?" in str(error.value)
    if name == "nothing like it":
        assert "entry-point group 'devinterp.schemas'" in str(error.value)


@pytest.mark.parametrize("name", ["x.yaml", "x.yml"])
def test_a_path_is_told_by_its_ending(tmp_path: Path, name: str) -> None:
    with pytest.raises(SchemaError, match=r"no schema document at .*x\.y"):
        load(str(tmp_path / name))
    (tmp_path / name).write_text(yaml.safe_dump(minimal()))
    assert load(str(tmp_path / name)).id == "lab/x@1"
    (tmp_path / "bare").write_text(yaml.safe_dump(minimal(version=2)))
    assert load(tmp_path / "bare").id == "lab/x@2"
    with pytest.raises(SchemaError, match="no schema document at"):
        load(tmp_path / "nothing")


def test_a_document_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(minimal()))
    first = load(path)
    assert load(path) is first
    path.write_text(yaml.safe_dump(minimal(version=12)))
    assert load(path).version == 12


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a: [", "is not a YAML document"),
        ("schema: lab/x\nschema: lab/y\n", "'schema' is given twice"),
        ("schema: lab/x\nversion: 1\ndoc: x\nodd: 1\n", r"\(top\): .*odd"),
        ("schema: lab/x\nversion: one\n", r"breaks the schema grammar in 2 place\(s\)"),
        ("- a\n", "breaks the schema grammar"),
        ("!!python/object/apply:os.getcwd []\n", "is not a YAML document"),
    ],
)
def test_a_document_that_breaks_the_grammar_is_refused(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(SchemaError, match=match) as error:
        load(path)
    assert str(path) in str(error.value) or "twice" in match
    path.write_bytes(b"\xff")
    with pytest.raises(SchemaError, match="not a YAML document"):
        load(path)


def test_a_key_that_is_merged_may_be_given_again(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        textwrap.dedent(
            """
            schema: lab/x
            version: 1
            doc: "äh"
            nodes:
              /:
                doc: x
                variables:
                  a: &a {dims: [], dtype: float32, unit: nat, doc: a}
                  b: {<<: *a, doc: b}
            """
        ),
        encoding="utf-8",
    )
    schema = load(path)
    assert schema.doc == "äh"
    assert [v.doc for v in schema.node().variables.values()] == ["a", "b"]


def test_only_the_first_twenty_places_are_listed() -> None:
    variables = {f"v{n:02}": {"dims": 3, "dtype": "float32", "unit": "1", "doc": "x"} for n in range(30)}
    with pytest.raises(SchemaError, match=r"The document breaks the schema grammar in 30 place\(s\)") as error:
        load(minimal(nodes={"/": {"doc": "x", "variables": variables}}))
    lines = str(error.value).splitlines()[1:]
    assert len(lines) == 20
    assert lines == sorted(lines)


def test_a_schema_that_extends_itself_is_refused(tmp_path: Path) -> None:
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text(yaml.safe_dump({**minimal(), "schema": "lab/one", "extends": str(other)}))
    other.write_text(yaml.safe_dump({**minimal(), "schema": "lab/other", "extends": str(other)}))
    with pytest.raises(SchemaError, match=r"extends itself|breaks the schema grammar"):
        load(one)
    with pytest.raises(SchemaError, match="'lab/x@1' extends itself"):
        load(minimal(extends="lab/x@1"))


def test_what_is_extended_is_told_in_order() -> None:
    assert load(minimal(extends="devinterp/samples@1")).extends == ("devinterp/samples@1",)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Entry points of a package in a folder of its own."""
    package = tmp_path / "lab_more_schemas"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "lab_more_schemas", raising=False)  # that of an earlier test lies elsewhere

    def install(**points: tuple[str, dict[str, Any]]) -> None:
        for value, document in points.values():
            if document:
                inner = package.joinpath(*value.partition(":")[2].split("."))
                inner.parent.mkdir(exist_ok=True)
                Path(f"{inner}.yaml").write_text(yaml.safe_dump(document))
        found = [EntryPoint(n, v, loader.ENTRY_POINT_GROUP) for n, (v, _) in points.items()]
        monkeypatch.setattr(loader, "entry_points", lambda group: found if group == "devinterp.schemas" else [])
        loader._installed.cache_clear()

    yield install
    loader._installed.cache_clear()


def test_of_several_versions_the_newest_is_loaded_by_name(installed: Any) -> None:
    installed(
        a=("lab_more_schemas:v2", minimal(version=2)),
        b=("lab_more_schemas:deep.v10", minimal(version=10)),
        c=("lab_more_schemas:v9", minimal(version=9, doc="first")),
    )
    assert load("lab/x").version == 10
    assert load("lab/x@9").version == 9
    assert {"lab/x@2", "lab/x@9", "lab/x@10"} <= set(available())
    assert loader.find_schema("lab/x@10") == available()["lab/x@10"]


def test_of_two_packages_with_one_id_the_first_is_taken_and_ours_before_it(installed: Any) -> None:
    ours = {**minimal(), "schema": "devinterp/samples"}
    installed(
        a=("lab_more_schemas:one", minimal(doc="first")),
        b=("lab_more_schemas:two", minimal(doc="second")),
        c=("lab_more_schemas:ours", ours),
    )
    assert load("lab/x@1").doc == "first"
    assert available()["lab/x@1"].stem == "one"
    assert available()["devinterp/samples@1"] == loader.schemas_folder() / "samples.yaml"
    assert load("devinterp/samples@1") is load("samples")


def test_entry_points_that_cannot_be_used_warn_at_the_caller(installed: Any) -> None:
    installed(
        a=("lab_more_schemas:gone", {}), b=("no_such_package_at_all:x", {}), c=("lab_more_schemas:good", minimal())
    )
    with pytest.warns(DevinterpWarning) as caught:
        assert "lab/x@1" in available()
    assert ["'a'" in str(w.message) or "'b'" in str(w.message) for w in caught] == [True, True]
    assert "names no schema document" in str(caught[0].message)
