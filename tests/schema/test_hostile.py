"""Stores that try to harm their reader: each gets its one-line answer, within the memory that was promised."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edits import chunk_files, edit_array, edit_attributes, edit_json
from hypothesis import given, settings
from hypothesis import strategies as st

from devinterp.schema import Limits, validate
from devinterp.schema.chunk_codecs import BombError, CorruptChunkError, decode_chunk, zstd_declared_size
from devinterp.schema.tree import ArrayNode, CodecNode, StorageNode

StoreOf = Callable[[str], Path]


def _bomb(store: Path) -> None:
    import google_crc32c
    from numcodecs import zstd

    frame = zstd.compress(bytes(2**30), 3)
    raw = frame + google_crc32c.value(frame).to_bytes(4, "little")
    chunk_files(store, "sampling_loss")[0].write_bytes(raw)


def _nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def _link(store: Path, name: str, target: str) -> None:
    import shutil

    path = store / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    path.symlink_to(target)


def _codec(name: str) -> Callable[[Path], None]:
    return lambda s: edit_array(s, "sampling_loss", codecs=[{"name": name, "configuration": {}}])


def _consolidated(key: str) -> Callable[[Path], None]:
    def change(store: Path) -> None:
        node = json.loads((store / "n_beta/zarr.json").read_text())
        edit_json(
            store / "zarr.json",
            lambda d: d.update(
                consolidated_metadata={"kind": "inline", "must_understand": False, "metadata": {key: node}}
            ),
        )

    return change


HOSTILE: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "pickled objects": ("DI251", _codec("numcodecs.pickle")),
    "a codec of its own": ("DI251", _codec("com.example.exec")),
    "pickles inside shards": (
        "DI251",
        lambda s: edit_array(
            s,
            "sampling_loss",
            codecs=[
                {
                    "name": "sharding_indexed",
                    "configuration": {"codecs": ["numcodecs.pickle"], "index_codecs": ["bytes"]},
                }
            ],
        ),
    ),
    "objects": ("DI252", lambda s: edit_array(s, "sampling_loss", data_type="object")),
    "an unknown type": ("DI252", lambda s: edit_array(s, "sampling_loss", data_type={"name": "r0"})),
    "strings of a gigabyte": (
        "DI252",
        lambda s: edit_array(
            s, "n_beta", data_type={"name": "fixed_length_utf32", "configuration": {"length_bytes": 2**30}}
        ),
    ),
    "a negative size": ("DI253", lambda s: edit_array(s, "sampling_loss", shape=[2, -3, 2, 2])),
    "an absurd size": ("DI253", lambda s: edit_array(s, "sampling_loss", shape=[2, 10**30, 2, 2])),
    "a size that is text": ("DI253", lambda s: edit_array(s, "sampling_loss", shape=["a", 1, 1, 1])),
    "too many dimensions": ("DI253", lambda s: edit_array(s, "sampling_loss", shape=[1] * 4000)),
    "too many elements": ("DI253", lambda s: edit_array(s, "sampling_loss", shape=[2**20] * 4)),
    "too many chunks": ("DI254", lambda s: edit_array(s, "step_loss", shape=[2, 10**10])),
    "chunks of size 0": ("DI253", lambda s: _zero_chunks(s)),
    "attributes nested deeply": ("DI255", lambda s: edit_attributes(s, lambda a: a.update(x=_nested(200)))),
    "nesting beyond recursion": ("DI255", lambda s: (s / "n_beta/zarr.json").write_text('{"a":' + "[" * 100_000)),
    "attributes of 70 MB": ("DI255", lambda s: edit_attributes(s, lambda a: a.update(x="y" * 70_000_000))),
    "ten million objects": (
        "DI255",
        lambda s: (s / "n_beta/zarr.json").write_text('{"a":[' + "{}," * 10_000_000 + "0]}"),
    ),
    "a key out of the store": ("DI257", _consolidated("../../etc/passwd")),
    "an absolute key": ("DI257", _consolidated("/etc/passwd")),
    "a link to a folder outside": ("DI257", lambda s: _link(s, "sampling_loss", "/etc")),
    "a link to a document outside": ("DI257", lambda s: _link(s, "n_beta/zarr.json", "/etc/passwd")),
    "a link to a chunk outside": ("DI257", lambda s: _link(s, "n_beta/c", "/etc/passwd")),
    "a folder that contains itself": ("DI256", lambda s: (s / "loop").symlink_to(s)),
    "bare NaN": ("DI258", lambda s: (s / "n_beta/zarr.json").write_text('{"fill_value": NaN}')),
    "no UTF-8": ("DI258", lambda s: (s / "n_beta/zarr.json").write_bytes(b"\xff\xfe{}")),
    "a number of 5000 digits": (
        "DI258",
        lambda s: (s / "n_beta/zarr.json").write_text('{"shape": [' + "9" * 5000 + "]}"),
    ),
    "no object at all": ("DI208", lambda s: (s / "n_beta/zarr.json").write_text("[1]")),
    "a storage transformer": ("DI208", lambda s: edit_array(s, "n_beta", storage_transformers=[{"name": "x"}])),
    "a zstd bomb of a gigabyte": ("DI259", _bomb),
    "a chunk of 20 MB of noise": ("DI506", lambda s: chunk_files(s, "n_beta")[0].write_bytes(bytes(20_000_000))),
}


def _zero_chunks(store: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["chunk_grid"]["configuration"]["chunk_shape"] = [0, 0, 0, 0]

    edit_json(store / "sampling_loss/zarr.json", change)


@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_hostile_store_gets_a_report_within_the_limit(name: str, store_of: StoreOf) -> None:
    code, change = HOSTILE[name]
    store = store_of("samples")
    change(store)
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


def _array(codecs: list[CodecNode], shape: tuple[int, ...] = (10,), dtype: str = "float32") -> ArrayNode:
    return ArrayNode("/a", "a", ("x",), shape, dtype, {}, StorageNode(shape, "default", "/", tuple(codecs), "NaN"))


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

    from devinterp.schema.array_document import read_array_document
    from devinterp.schema.report import Collector

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
