"""Stores that try to harm their reader: what each tries, and the code under which it must be found."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from edits import chunk_files, edit_array, edit_attributes, edit_json

__all__ = ["HOSTILE", "HUGE"]

Spoil = Callable[[Path], Any]


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
    path = store / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    path.symlink_to(target)


def _codec(name: str) -> Spoil:
    return lambda s: edit_array(s, "sampling_loss", codecs=[{"name": name, "configuration": {}}])


def _gathered(nodes: Callable[[Any], dict[str, Any]]) -> Spoil:
    """Consolidated metadata of nodes that are made from the document of a scalar."""

    def change(store: Path) -> None:
        gathered = nodes(json.loads((store / "n_beta/zarr.json").read_text()))
        edit_json(
            store / "zarr.json",
            lambda d: d.update(
                consolidated_metadata={"kind": "inline", "must_understand": False, "metadata": gathered}
            ),
        )

    return change


def _sharded_pickles(store: Path) -> None:
    configuration = {"codecs": ["numcodecs.pickle"], "index_codecs": ["bytes"]}
    edit_array(store, "sampling_loss", codecs=[{"name": "sharding_indexed", "configuration": configuration}])


def _chunk_shape(name: str, *shape: int) -> Spoil:
    def change(document: dict[str, Any]) -> None:
        document["chunk_grid"]["configuration"]["chunk_shape"] = list(shape)

    return lambda s: edit_json(s / name / "zarr.json", change)


def _pipe(store: Path, key: str) -> None:
    (store / key).unlink()
    os.mkfifo(store / key)


def _branching_links(store: Path) -> None:
    """Folders that link to each other twice: 2 to the power of 60 names for one file."""
    folder = store / "sampling_loss" / "c"
    for depth in range(60):
        (folder / f"x{depth}").mkdir()
    for depth in range(59):
        for name in "ab":
            (folder / f"x{depth}" / name).symlink_to(f"../x{depth + 1}")


def _strings_of_nothing(store: Path) -> None:
    """A chunk that says that it holds two thousand million strings, in an object of 8 GB without content."""
    _chunk_shape("susceptibilities/wr", 2**31)(store)
    edit_array(store, "susceptibilities/wr", codecs=[{"name": "vlen-utf8"}])
    with open(store / "susceptibilities/wr/c/0", "wb") as file:
        file.write((2**31).to_bytes(4, "little"))
        file.truncate(2**33 + 4)


def _short_strings(store: Path) -> None:
    """A chunk of millions of strings of two letters, each of which takes Python nine times its place on disk."""
    count = 600_000
    edit_array(store, "susceptibilities/wr", shape=[count], codecs=[{"name": "vlen-utf8"}])
    _chunk_shape("susceptibilities/wr", count)(store)
    raw = np.zeros((count, 6), dtype=np.uint8)
    raw[:, 0] = 2
    raw[:, 4:] = np.random.default_rng(0).integers(97, 123, (count, 2))
    (store / "susceptibilities/wr/c/0").write_bytes(count.to_bytes(4, "little") + raw.tobytes())


def _many_documents(store: Path) -> None:
    """Five hundred documents of half a megabyte."""
    document = json.loads((store / "n_beta/zarr.json").read_text())
    for number in range(500):
        (store / f"x{number}").mkdir()
        document["attributes"] = {"x": [{"n": number}] * 50_000}
        (store / f"x{number}" / "zarr.json").write_text(json.dumps(document, separators=(",", ":")))


def _chains(store: Path) -> None:
    def change(attrs: dict[str, Any]) -> None:
        attrs["metadata"]["run"]["chains"] = [
            {"status": "failed", "reason": f"r{n}", "step": n} for n in range(200_000)
        ]

    edit_attributes(store, change)


def _observables(count: int) -> Spoil:
    def change(attrs: dict[str, Any]) -> None:
        attrs["metadata"]["config"]["observables"] = [
            {"obs_id": f"o{n}", "name": f"o{n}", "batches_per_draw": 1} for n in range(count)
        ]

    return lambda s: edit_attributes(s, change)


HOSTILE: dict[str, tuple[str, str, Spoil]] = {
    "a codec that unpickles": ("DI251", "samples", _codec("numcodecs.pickle")),
    "a codec of its own": ("DI251", "samples", _codec("com.example.exec")),
    "a codec that unpickles, inside shards": ("DI251", "samples", _sharded_pickles),
    "an array of objects": ("DI252", "samples", lambda s: edit_array(s, "sampling_loss", data_type="object")),
    "an unknown type": ("DI252", "samples", lambda s: edit_array(s, "sampling_loss", data_type={"name": "r0"})),
    "strings of a gigabyte each": (
        "DI252",
        "samples",
        lambda s: edit_array(
            s, "n_beta", data_type={"name": "fixed_length_utf32", "configuration": {"length_bytes": 2**30}}
        ),
    ),
    "a negative size": ("DI253", "samples", lambda s: edit_array(s, "sampling_loss", shape=[2, -3, 2, 2])),
    "a size of 10^30": ("DI253", "samples", lambda s: edit_array(s, "sampling_loss", shape=[2, 10**30, 2, 2])),
    "a size that is text": ("DI253", "samples", lambda s: edit_array(s, "sampling_loss", shape=["a", 1, 1, 1])),
    "4000 dimensions": ("DI253", "samples", lambda s: edit_array(s, "sampling_loss", shape=[1] * 4000)),
    "10^24 elements": ("DI253", "samples", lambda s: edit_array(s, "sampling_loss", shape=[2**20] * 4)),
    "chunks of size 0": ("DI253", "samples", _chunk_shape("sampling_loss", 0, 0, 0, 0)),
    "10^10 chunks": ("DI254", "samples", lambda s: edit_array(s, "step_loss", shape=[2, 10**10])),
    "attributes nested 200 deep": (
        "DI255", "samples", lambda s: edit_attributes(s, lambda a: a.update(x=_nested(200)))
    ),
    "nesting beyond recursion": (
        "DI255", "samples", lambda s: (s / "n_beta/zarr.json").write_text('{"a":' + "[" * 100_000)
    ),
    "attributes of 70 MB": (
        "DI255", "samples", lambda s: edit_attributes(s, lambda a: a.update(x="y" * 70_000_000))
    ),
    "ten million objects in a document": (
        "DI255", "samples", lambda s: (s / "n_beta/zarr.json").write_text('{"a":[' + "{}," * 10_000_000 + "0]}"),
    ),
    "a consolidated key out of the store": ("DI257", "samples", _gathered(lambda n: {"../../etc/passwd": n})),
    "an absolute consolidated key": ("DI257", "samples", _gathered(lambda n: {"/etc/passwd": n})),
    "a consolidated key that is not text": ("DI257", "samples", _gathered(lambda n: {"a\ud800": n})),
    "a link to a folder outside": ("DI257", "samples", lambda s: _link(s, "sampling_loss", "/etc")),
    "a link to a document outside": ("DI257", "samples", lambda s: _link(s, "n_beta/zarr.json", "/etc/passwd")),
    "a link to a chunk outside": ("DI257", "samples", lambda s: _link(s, "n_beta/c", "/etc/passwd")),
    "a folder that contains itself": ("DI256", "samples", lambda s: (s / "loop").symlink_to(s)),
    "folders that link to each other": ("DI502", "samples", _branching_links),
    "a pipe for a document": ("DI001", "samples", lambda s: _pipe(s, "n_beta/zarr.json")),
    "a pipe for a chunk": ("DI001", "samples", lambda s: _pipe(s, "n_beta/c")),
    "bare NaN": ("DI258", "samples", lambda s: (s / "n_beta/zarr.json").write_text('{"fill_value": NaN}')),
    "not UTF-8": ("DI258", "samples", lambda s: (s / "n_beta/zarr.json").write_bytes(b"\xff\xfe{}")),
    "a number of 5000 digits": (
        "DI258", "samples", lambda s: (s / "n_beta/zarr.json").write_text('{"shape": [' + "9" * 5000 + "]}"),
    ),
    "a document that is a list": ("DI208", "samples", lambda s: (s / "n_beta/zarr.json").write_text("[1]")),
    "a storage transformer": (
        "DI208", "samples", lambda s: edit_array(s, "n_beta", storage_transformers=[{"name": "x"}])
    ),
    "a zstd bomb of a gigabyte": ("DI259", "samples", _bomb),
    "an object of 20 MB for a number": (
        "DI506", "samples", lambda s: chunk_files(s, "n_beta")[0].write_bytes(bytes(20_000_000))
    ),
    "2 x 10^9 strings in a chunk": ("DI902", "susceptibilities", _strings_of_nothing),
    "commands for the terminal in a name": (
        "DI102", "samples", lambda s: shutil.copytree(s / "n_beta", s / "n\x1b[2J\x1b]0;owned\x07")
    ),
}  # fmt: skip
"""By what is tried: the code, the kind of the valid store it starts from, and what is done to it."""

HUGE: dict[str, tuple[str, str, Spoil]] = {
    "600 000 strings of two letters": ("DI304", "susceptibilities", _short_strings),
    "250 MB of documents": ("DI255", "samples", _many_documents),
    "15 000 arrays that are not declared": (
        "DI102", "samples", _gathered(lambda n: {f"x{i}": {**n, "attributes": {"i": i}} for i in range(15_000)})
    ),
    "15 000 arrays, each wrong in its own way": (
        "DI253", "samples", _gathered(lambda n: {f"x{i}": {**n, "shape": [-1 - i]} for i in range(15_000)})
    ),
    "200 000 failed chains": ("DI405", "samples", _chains),
    "100 000 observables": ("DI255", "samples", _observables(100_000)),
    "100 000 restrictions that are objects": (
        "DI110",
        "study",
        lambda s: edit_attributes(
            s, lambda a: a["metadata"]["config"].update(restrictions=[{"n": i} for i in range(100_000)])
        ),
    ),
    "a list of 300 000 names of observables": (
        "DI444",
        "susceptibilities",
        lambda s: edit_attributes(
            s, lambda a: a.update(dataset_id_to_name=[f"o{i}" for i in range(300_000)]), "susceptibilities"
        ),
    ),
    "20 arrays of a million chunks with all but one missing": (
        "DI254", "samples", lambda s: _nearly_empty(s, 20)
    ),
}  # fmt: skip
"""The same, of stores that take seconds to make or to look through: for the benchmark."""


def _nearly_empty(store: Path, count: int) -> None:
    _observables(count)(store)
    for number in range(count):
        target = store / f"row_o{number}"
        shutil.copytree(store / "row_code", target)
        edit_array(store, target.name, shape=[1_000_000], dimension_names=[f"batch_o{number}"])
        _chunk_shape(target.name, 1)(store)
