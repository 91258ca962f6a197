"""The exported JSON Schema: it takes what the validator takes, and refuses what can be told from one document."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import zarr

from devinterp.schema import load
from devinterp.testing import make_store

KINDS = ("samples", "study", "llc", "bif", "bif_topk", "susceptibilities", "sweep", "sweep_summary")
PROFILED = {
    "schema": "lab/x",
    "version": 3,
    "doc": "The doc.",
    "families": {"obs": {"doc": "x"}},
    "nodes": {
        "/": {
            "doc": "root",
            "dimensions": {"d": {"doc": "x"}, "e": {"doc": "x"}, "row_{obs}": {"doc": "x"}},
            "variables": {
                "a": {
                    "dims": ["d"],
                    "alternatives": [["e", "d"]],
                    "dtype": "float32",
                    "unit": "nat",
                    "doc": "A.",
                    "alternative_units": ["bit"],
                },
                "names": {"dims": [], "dtype": "text", "unit": "1", "doc": "N.", "presence": "optional"},
                "words": {"dims": ["d"], "dtype": "string", "unit": "1", "doc": "W.", "presence": "optional"},
                "count": {"dims": ["d"], "dtype": "int64", "fill": 3, "unit": "1", "doc": "C.", "presence": "optional"},
                "gone": {"dims": ["d"], "dtype": "int64", "unit": "1", "doc": "G.", "presence": "forbidden"},
                "loss_{obs}": {"dims": ["d", "row_{obs}"], "dtype": "float32", "unit": "nat", "doc": "L."},
            },
        },
        "/part": {
            "doc": "The part.",
            "attributes": {"type": "object", "required": ["x"]},
            "dimensions": {"d": {"doc": "x"}},
            "variables": {"b": {"dims": ["d"], "dtype": "float32", "unit": "1", "doc": "B."}},
        },
    },
    "profiles": {"strict": {"doc": "s"}, "open": {"doc": "o", "undeclared": "warning"}},
    "storage": {"codecs": ["bytes", "zstd", "crc32c"], "checksums": "required"},
}


def codecs(*names: str) -> list[dict[str, Any]]:
    return [{"name": n, "configuration": {}} for n in names]


def array(**members: Any) -> dict[str, Any]:
    """An array's document, of as many dimensions as it has names."""
    names = members.get("dimension_names", ["d"])
    sizes = [3] * len(names or ())
    return {
        "node_type": "array",
        "zarr_format": 3,
        "data_type": "float32",
        "dimension_names": ["d"],
        "shape": sizes,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": sizes}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": "NaN",
        "attributes": {"units": "nat"},
        "codecs": codecs("bytes", "zstd", "crc32c"),
        **members,
    }


GROUP = {"node_type": "group", "attributes": {"x": 1}}
B = array(attributes={})


@cache
def check_definition(text: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(text))


def validator_of(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    """A schema's validator; each definition is checked once: kinds and profiles share most of them."""
    for definition in schema["$defs"].values():
        check_definition(json.dumps(definition, sort_keys=True))
    jsonschema.Draft202012Validator.check_schema({**schema, "$defs": {}})
    return jsonschema.Draft202012Validator(schema)


@cache
def exported(document: str, profile: str) -> jsonschema.Draft202012Validator:
    return validator_of(load(json.loads(document), profile=profile).to_json_schema())


def fits(metadata: dict[str, Any], profile: str = "strict", storage: Any = None, **root: Any) -> bool:
    validator = exported(json.dumps(PROFILED if storage is None else {**PROFILED, "storage": storage}), profile)
    whole = {"a": array(), "part": GROUP, "part/b": B, **metadata}
    whole = {k: v for k, v in whole.items() if v is not None}
    document = {"zarr_format": 3, "node_type": "group", "attributes": {}, "consolidated_metadata": {"metadata": whole}}
    return validator.is_valid({**document, **root})


@pytest.mark.parametrize(("kind", "profile"), [(k, p) for k in KINDS for p in load(k).profiles])
def test_a_valid_store_fits_the_exported_schema(kind: str, profile: str, tmp_path: Path) -> None:
    schema = load(kind, profile=profile)
    store = Path(make_store(tmp_path / "a.zarr", kind, profile=profile))
    exported = schema.to_json_schema()
    validator = validator_of(exported)
    document = json.loads((store / "zarr.json").read_text())
    assert not list(validator.iter_errors(document))
    assert json.loads(json.dumps(exported, allow_nan=False)) == exported
    for name in list(document["consolidated_metadata"]["metadata"])[:3]:
        spoilt = json.loads(json.dumps(document))
        spoilt["consolidated_metadata"]["metadata"][name]["node_type"] = "neither"
        assert not validator.is_valid(spoilt), name


def test_what_it_is_called() -> None:
    schema = load(PROFILED, profile="open").to_json_schema()
    assert schema["$id"] == "urn:devinterp:lab/x:3:open"
    assert (schema["title"], schema["description"]) == ("lab/x@3", "The doc.")
    assert schema["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]
    assert schema["x-devinterp"] == load(PROFILED).to_dict() == PROFILED
    part = schema["properties"]["consolidated_metadata"]["properties"]["metadata"]["properties"]["part"]
    assert part["description"] == "The part."
    assert {d["description"] for d in schema["$defs"].values()} >= {"A. (unit: nat)", "B. (unit: 1)"}


ACCEPTED: list[dict[str, Any]] = [
    {"a": array(codecs=["bytes", "zstd", "crc32c"])},
    {},
    {"a": array(dimension_names=["e", "d"])},
    {"a": array(attributes={"units": "bit"})},
    {"a": array(attributes={})},
    {"a": array(data_type={"name": "float32"})},
    {"loss_code": array(dimension_names=["d", "row_code"])},
    {"words": array(data_type="string", fill_value="", attributes={}, codecs=codecs("vlen-utf8", "zstd", "crc32c"))},
    {"names": array(data_type="fixed_length_utf32", fill_value="", attributes={}, dimension_names=[])},
    {
        "names": array(
            data_type="string",
            fill_value="",
            attributes={},
            dimension_names=None,
            codecs=codecs("vlen-utf8", "zstd", "crc32c"),
        )
    },
    {"count": array(data_type="int64", fill_value=3, attributes={"units": "1"})},
]

REFUSED: list[dict[str, Any]] = [
    {"a": None},
    {"part": None, "part/b": None},
    {"part/b": None},
    {"a": array(dimension_names=["d", "e"])},
    {"a": array(attributes={"units": "1"})},
    {"a": array(data_type="float64")},
    {"a": array(data_type={"name": "float64"})},
    {"a": array(data_type={})},
    {"a": array(data_type=3)},
    {"a": array(fill_value=0)},
    {"a": array(shape=[-1])},
    {"a": array(shape=3)},
    {"a": array(shape=[1.5])},
    {"a": array(zarr_format=2)},
    {"a": array(codecs=codecs("bytes", "zstd"))},
    {"a": array(codecs=codecs("bytes", "crc32c", "zstd"))},
    {"a": array(codecs=codecs("bytes", "zstd", "crc32c", "gzip"))},
    {"a": array(codecs=codecs("vlen-utf8", "zstd", "crc32c"))},
    {"a": {k: v for k, v in array().items() if k != "shape"}},
    {"a": {k: v for k, v in array().items() if k != "codecs"}},
    {"a": {k: v for k, v in array().items() if k != "data_type"}},
    {"a": {k: v for k, v in array().items() if k != "node_type"}},
    {"a": GROUP},
    {"part": B},
    {"part": {"node_type": "group", "attributes": {}}},
    {"part": {"attributes": {"x": 1}}},
    {"gone": array(data_type="int64", fill_value=-1, attributes={})},
    {"odd": array()},
    {"loss_code": array(dimension_names=["d"])},
    {"loss_code": array(dimension_names=["d", "row_code", "e"])},
    {"loss_code": array(dimension_names=["row_code", "d"])},
    {"loss_code": array(dimension_names=["d", "row_a/b"])},
    {"loss_code": array(dimension_names=["e", "row_code"])},
    {"loss_a/b": array(dimension_names=["d", "row_code"])},
    {"loss_": array(dimension_names=["d", "row_code"])},
    {"words": array(data_type="string", fill_value="", attributes={})},
    {"words": array(data_type="fixed_length_utf32", fill_value="", attributes={})},
    {"names": array(data_type="string", fill_value="", attributes={}, dimension_names=["d"])},
    {"count": array(data_type="int64", fill_value=-1, attributes={})},
]


@pytest.mark.parametrize("metadata", ACCEPTED, ids=range(len(ACCEPTED)))
def test_what_a_document_allows_fits(metadata: dict[str, Any]) -> None:
    assert fits(metadata)


@pytest.mark.parametrize("metadata", REFUSED, ids=range(len(REFUSED)))
def test_what_a_document_does_not_allow_does_not_fit(metadata: dict[str, Any]) -> None:
    assert not fits(metadata)


def test_undeclared_names_fit_where_they_only_warn() -> None:
    assert fits({"odd": array(), "gone": array()}, profile="open")
    assert not fits({"a": None}, profile="open")


@pytest.mark.parametrize(
    "root", [{"zarr_format": 2}, {"node_type": "array"}, {"attributes": []}, {"consolidated_metadata": []}]
)
def test_the_root_is_a_group_of_zarr_v3(root: dict[str, Any]) -> None:
    assert not fits({}, **root)
    schema = jsonschema.Draft202012Validator(load(PROFILED).to_json_schema())
    assert [e.validator for e in schema.iter_errors({})] == ["required"] * 3


def test_checksums_that_are_optional_may_be_there_or_not() -> None:
    storage = {"codecs": ["bytes", "zstd", "crc32c"], "checksums": "optional"}
    bare = {"codecs": ["bytes", "zstd"], "checksums": "optional"}
    for declared in (storage, bare):
        for names in (("bytes", "zstd", "crc32c"), ("bytes", "zstd")):
            assert fits({n: array(codecs=codecs(*names), attributes={}) for n in ("a", "part/b")}, storage=declared)
        for names in (("bytes", "crc32c"), ("bytes",)):
            assert not fits({"a": array(codecs=codecs(*names))}, storage=declared)


def test_included_trees_lie_where_they_are_mounted(tmp_path: Path) -> None:
    exported = load("study").to_json_schema()
    metadata = exported["properties"]["consolidated_metadata"]["properties"]["metadata"]
    assert "^[^/]+/n_beta$" in metadata["patternProperties"]
    cells = load("sweep").to_json_schema()["properties"]["consolidated_metadata"]["properties"]["metadata"]
    (cell,) = (
        p for p in cells["patternProperties"] if p.endswith("[^/]+$") and "/n_beta" not in p and p.count("[") == 1
    )
    assert re.search(cell, "warm")
    assert re.search(cell, "lr_of_mine")
    assert not re.search(cell, "lr")
    assert "^[^/]+$" in metadata["patternProperties"]
    assert metadata["required"] == []
    pattern = metadata["patternProperties"]["^[^/]+/n_beta$"]["$ref"]
    assert "samples" in pattern


def test_every_reference_leads_to_a_definition() -> None:
    for kind in KINDS:
        exported = load(kind).to_json_schema()
        metadata = exported["properties"]["consolidated_metadata"]["properties"]["metadata"]
        places: dict[str, Any] = {**metadata["properties"], **metadata["patternProperties"]}
        references = [v["$ref"] for v in places.values() if "$ref" in v]
        assert len(references) == len(set(references)) == len(exported["$defs"])


def test_the_codecs_that_our_writer_uses_are_those_exported(tmp_path: Path) -> None:
    store = make_store(tmp_path / "a.zarr", "samples")
    found = zarr.open_group(store, mode="r")["sampling_loss"].metadata.to_dict()["codecs"]
    assert [c["name"] for c in found] == list(load("samples").storage.codecs)


def test_a_number_that_json_does_not_have_is_spelt() -> None:
    variable = {"dims": [], "dtype": "float32", "unit": "1", "doc": "x", "fill": float("nan")}
    schema = load(
        {"schema": "lab/x", "version": 1, "doc": "x", "nodes": {"/": {"doc": "x", "variables": {"a": variable}}}}
    )
    assert schema.to_dict()["nodes"]["/"]["variables"]["a"]["fill"] == "NaN"
    json.dumps(schema.to_json_schema(), allow_nan=False)
