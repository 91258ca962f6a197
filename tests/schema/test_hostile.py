"""Stores that try to harm their reader: each gets its one-line answer, within the memory that was promised."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edits import edit_attributes
from hostile import HOSTILE
from hypothesis import given, settings
from hypothesis import strategies as st

from devinterp.schema import Limits, validate
from devinterp.schema.findings.report import Collector
from devinterp.schema.reading.decode_chunk import (
    BombError,
    CorruptChunkError,
    decode_chunk,
    object_bound,
    zstd_declared_size,
)
from devinterp.schema.reading.keys import ChunkKeys
from devinterp.schema.reading.nodes import ArrayNode, CodecNode, StorageNode
from devinterp.testing import make_tree

StoreOf = Callable[[str], Path]


@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_hostile_store_gets_a_report_within_the_limit(name: str, store_of: StoreOf) -> None:
    code, kind, spoil = HOSTILE[name]
    store = store_of(kind)
    spoil(store)
    limits = Limits()
    tracemalloc.start()
    try:
        report = validate(store, limits=limits)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert code in report.codes, str(report)
    assert not report.ok
    assert peak < limits.memory


def test_what_a_store_says_cannot_be_read_as_commands_by_a_terminal(store_of: StoreOf) -> None:
    store = store_of("samples")
    _, _, spoil = HOSTILE["commands for the terminal in a name"]
    spoil(store)
    report = validate(store)
    shown = str(report) + report.to_json() + report.to_sarif() + report._repr_html_()
    assert not [c for c in shown if not c.isprintable() and c != "\n"]


def test_equal_and_different_findings_without_number_stay_few() -> None:
    findings = Collector()
    for number in range(20_000):
        findings.add("DI102", f"/x{number}", "It is not declared.", found=number)
        findings.skip(f"/x{number}", f"values of {number}", "it is not declared")
    report = findings.findings()
    assert len(report) < 6_000
    assert sum(f.count for f in report) == findings.total == 20_000
    assert len(findings.not_checked()) < 6_000


def test_a_store_of_many_observables_is_looked_into_up_to_a_limit(store_of: StoreOf) -> None:
    report = validate(store_of("samples"), limits=Limits(members=1))
    assert "DI255" in report.codes
    assert report.filter(code="DI102").findings  # those of the observable beyond the limit are not known any more


def test_the_chunks_of_a_whole_store_are_limited(store_of: StoreOf) -> None:
    report = validate(store_of("samples"), limits=Limits(all_chunks=5))
    assert [(f.code, f.level) for f in report.findings] == [("DI254", "completeness")]
    assert any("too many chunks" in n.why for n in report.not_checked)


def test_a_list_of_many_objects_that_must_differ_takes_no_square(store_of: StoreOf) -> None:
    import time

    store = store_of("study")
    edit_attributes(store, lambda a: a["metadata"]["config"].update(restrictions=[{"n": n} for n in range(20_000)]), "")
    start = time.process_time()
    assert "DI110" in validate(store, level="structure").codes
    assert time.process_time() - start < 5  # the square took a minute


def test_an_archive_with_a_list_too_long_for_memory_is_not_opened(tmp_path: Path) -> None:
    import struct

    from devinterp.schema.reading.target import zip_entries

    path = tmp_path / "many.zip"
    entry = b"PK\1\2" + struct.pack("<HHHHHHIIIHHHHHII", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    listed = entry * 400_000
    path.write_bytes(listed + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, len(listed), 0, 0))
    assert zip_entries(path) == 400_001
    report = validate(path)
    assert report.codes == {"DI001"}
    assert "400001 objects" in str(report)


def test_many_short_strings_are_refused_before_they_are_made() -> None:
    array = _array([CodecNode("vlen-utf8")], (2**31,), "string")
    with pytest.raises(CorruptChunkError, match="2147483648 strings"):
        decode_chunk((2**31).to_bytes(4, "little") + bytes(1000), array, 2**20)
    assert object_bound(array, 2**20) < 2**21  # however many strings there are


@pytest.mark.parametrize("value", [{"x": 10**5000}, {"x": np.float32(1)}, {"x": [{"y": (1, {2})}]}])
def test_attributes_in_memory_may_be_anything(value: dict[str, Any]) -> None:
    itself: dict[str, Any] = {}
    itself["itself"] = itself
    tree = make_tree("llc")
    tree.attrs.update(value, itself=itself, n_beta=10**6000)
    assert validate(tree).to_json()


def _array(codecs: list[CodecNode], shape: tuple[int, ...] = (10,), dtype: str = "float32") -> ArrayNode:
    return ArrayNode("/a", "a", ("x",), shape, dtype, {}, StorageNode(shape, ChunkKeys(), tuple(codecs), "NaN"))


@pytest.mark.parametrize("name", ["gzip", "zstd", "blosc"])
def test_packed_chunks_decode_and_their_bombs_do_not(name: str) -> None:
    import gzip

    from numcodecs import blosc, zstd

    pack: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress,
        "zstd": lambda b: bytes(zstd.compress(b, 1)),
        "blosc": lambda b: bytes(blosc.compress(b, b"lz4", 5)),
    }
    array = _array([CodecNode("bytes"), CodecNode(name)])
    values = np.arange(10, dtype="f4")
    assert np.array_equal(decode_chunk(pack[name](values.tobytes()), array, 100), values)
    with pytest.raises(BombError):
        decode_chunk(pack[name](bytes(100_000)), array, 100)
    with pytest.raises(CorruptChunkError):
        decode_chunk(pack[name](bytes(8)), array, 100)


def test_shards_decode_as_zarr_writes_them(tmp_path: Path) -> None:
    import zarr

    from devinterp.schema.findings.report import Collector
    from devinterp.schema.reading.array_metadata import read_array_document

    values = np.arange(24, dtype="f4").reshape(4, 6)
    array = zarr.create_array(tmp_path / "a", data=values, chunks=(2, 3), shards=(4, 6), dimension_names=("x", "y"))
    assert array.shape == (4, 6)
    node = read_array_document(json.loads((tmp_path / "a/zarr.json").read_text()), "/a", Limits(), Collector())
    assert node is not None
    assert np.array_equal(decode_chunk((tmp_path / "a/c/0/0").read_bytes(), node, 100), values)


def test_a_frame_says_its_size_in_every_form() -> None:
    from numcodecs import zstd

    for size in (0, 1, 255, 256, 300, 70_000, 20_000_000):
        assert zstd_declared_size(bytes(zstd.compress(bytes(size), 1))) == size


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
_MEMBERS = st.sampled_from(
    ["shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs", "attributes", "dimension_names"]
)


# What coverage-guided fuzzing came upon (tests/benchmarks/fuzz): kind, group or array, member, value.
FUZZED: list[tuple[str, str, str, Any]] = [
    ("study", "l0h0", "attributes.metadata.config.observables.0.name", ["a", "list"]),
    ("samples", "", "attributes.devinterp_schema", "devinterp/\ud800@1"),
    ("samples", "", "\ud800", {"must_understand": True}),
]


@pytest.mark.parametrize(("kind", "path", "member", "value"), FUZZED)
def test_what_fuzzing_found_stays_mended(kind: str, path: str, member: str, value: Any, store_of: StoreOf) -> None:
    store = store_of(kind)
    file = store / path / "zarr.json"
    document = inner = json.loads(file.read_text())
    *parents, last = member.split(".")
    for name in parents:
        inner = inner[int(name)] if isinstance(inner, list) else inner[name]
    inner[last] = value
    file.write_text(json.dumps(document))
    report = validate(store)
    assert not report.ok
    assert "DI901" not in report.codes, str(report)
    for shown in (report.to_json(), report.to_sarif(), str(report), report._repr_html_()):
        assert shown.encode()


@settings(max_examples=40, deadline=None)
@given(member=_MEMBERS, value=_JSON, name=st.sampled_from(["sampling_loss", "n_beta", "row_code"]))
def test_no_metadata_document_makes_an_exception(
    member: str, value: Any, name: str, valid_stores: dict[str, Path]
) -> None:
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore

    make = default_buffer_prototype().buffer.from_bytes
    contents = {}
    root = valid_stores["samples"]
    for file in root.rglob("*"):
        if file.is_file():
            contents[str(file.relative_to(root))] = make(file.read_bytes())
    document = json.loads((root / name / "zarr.json").read_text())
    document[member] = value
    contents[f"{name}/zarr.json"] = make(json.dumps(document).encode())
    report = validate(MemoryStore(contents))
    assert "DI901" not in report.codes, str(report)
    assert json.loads(report.to_json())
