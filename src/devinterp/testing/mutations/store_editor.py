"""A store in the hands of someone who breaks it: documents, chunks and values changed one at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from devinterp.schema.reading.keys import document_key, documented_node
from devinterp.store.filesystem import remove_empty
from devinterp.store.location import Location, StoreLike, locate

__all__ = ["StoreEditor"]

_CODECS: dict[str, dict[str, Any]] = {
    "bytes": {"configuration": {"endian": "little"}},
    "zstd": {"configuration": {"level": 0, "checksum": False}},
    "crc32c": {},
}


class StoreEditor:
    """Raw access to a store, past every check that the package's own writer makes.

    Paths are those of groups and arrays inside the store (``"full/loss_code"``); the root is ``""``.

    Parameters
    ----------
    target : path, URL or zarr Store
    """

    def __init__(self, target: StoreLike) -> None:
        self.location: Location = locate(target, mode="w")

    @property
    def folder(self) -> Path:
        """The local directory of the store."""
        if self.location.folder is None:
            raise ValueError(f"{self.location.name} is not on a local disk")
        return self.location.folder

    # ---- documents

    def document(self, path: str = "") -> dict[str, Any]:
        """Return the ``zarr.json`` of a group or array."""
        raw = self.location.get(document_key(path))
        if raw is None:
            raise KeyError(f"{path or '/'} has no zarr.json")
        document: dict[str, Any] = json.loads(raw)
        return document

    def write_document(self, path: str, document: Mapping[str, Any]) -> None:
        """Replace a ``zarr.json``."""
        self.location.set(document_key(path), json.dumps(document).encode())

    def add_group(self, path: str) -> None:
        """Write an empty group."""
        self.write_document(path, {"zarr_format": 3, "node_type": "group", "attributes": {}})

    def edit(self, path: str, members: Mapping[str, Any]) -> None:
        """Set members of a ``zarr.json`` (or those that `_member` abbreviates); ``None`` removes one."""
        document = {**self.document(path), **dict(starmap(_member, members.items()))}
        self.write_document(path, {name: value for name, value in document.items() if value is not None})

    def set_attribute(self, path: str, dotted: str, value: Any) -> None:
        """Set one attribute of a group or array, at a dotted path."""
        document = self.document(path)
        inner, last = _walk(document.setdefault("attributes", {}), dotted)
        inner[last] = value
        self.write_document(path, document)

    def remove_attribute(self, path: str, dotted: str) -> None:
        """Remove one attribute."""
        document = self.document(path)
        inner, last = _walk(document["attributes"], dotted)
        del inner[last]
        self.write_document(path, document)

    # ---- keys

    def keys(self, prefix: str = "") -> list[str]:
        """Every key below ``prefix``, sorted."""
        return sorted(self.location.list_keys(prefix))

    def chunks(self, path: str) -> list[str]:
        """The keys of an array's chunks, sorted."""
        return [k for k in self.keys(f"{path}/") if documented_node(k) is None]

    def get(self, key: str) -> bytes:
        """Return the bytes at a key."""
        raw = self.location.get(key)
        if raw is None:
            raise KeyError(key)
        return raw

    def put(self, key: str, value: bytes | str) -> None:
        """Write bytes, or text, at a key."""
        self.location.set(key, value.encode() if isinstance(value, str) else value)

    def copy_key(self, source: str, target: str) -> None:
        """Write the bytes of one key at another."""
        self.put(target, self.get(source))

    def cut_short(self, key: str, end: int) -> None:
        """Keep the bytes before ``end``, which counts from the end where it is negative."""
        self.put(key, self.get(key)[:end])

    def replace(self, key: str, old: str, new: str) -> None:
        """Replace text in the object at a key."""
        self.put(key, self.get(key).decode().replace(old, new))

    def delete(self, key: str) -> None:
        """Remove a key."""
        self.location.delete(key)

    def remove(self, path: str) -> None:
        """Remove a group or array with everything below it."""
        for key in self.keys(f"{path}/"):
            self.location.delete(key)
        if self.location.folder is not None:
            remove_empty(self.location.folder / path)

    def copy(self, source: str, target: str) -> None:
        """Copy a group or array."""
        for key in self.keys(f"{source}/"):
            self.location.set(f"{target}{key[len(source) :]}", self.get(key))

    def rename(self, source: str, target: str) -> None:
        """Rename a group or array."""
        self.copy(source, target)
        self.remove(source)

    def flip(self, key: str, position: int = -1) -> None:
        """Flip one bit of the object at a key."""
        raw = bytearray(self.get(key))
        raw[position] ^= 1
        self.put(key, bytes(raw))

    # ---- arrays

    def array(self, path: str) -> zarr.Array[Any]:
        """Return an array, opened for writing."""
        found = zarr.open_group(self.location.store, mode="r+", use_consolidated=False)[path]
        assert isinstance(found, zarr.Array)
        return found.with_config({"write_empty_chunks": True})

    def read(self, path: str) -> NDArray[Any]:
        """Return the values of an array."""
        return np.asarray(self.array(path)[...])

    def change(self, path: str, function: Callable[[NDArray[Any]], Any]) -> None:
        """Replace the values of an array by a function of them."""
        values = self.read(path).copy()
        changed = function(values)
        self.array(path)[...] = values if changed is None else changed

    def set_value(self, path: str, index: str | int, value: Any) -> None:
        """Set values of an array, at an index as in ``"1, :2, ..."``."""
        self.change(path, lambda values: values.__setitem__(_index(index), value))

    def scale(self, path: str, factor: float, offset: float = 0, index: str | int = "...") -> None:
        """Multiply values of an array, and add to them."""
        self.change(path, lambda values: values.__setitem__(_index(index), values[_index(index)] * factor + offset))

    def reverse(self, path: str, index: str | int = "...") -> None:
        """Reverse the order of values along their first axis."""
        self.change(path, lambda values: values.__setitem__(_index(index), values[_index(index)][::-1].copy()))

    def select(self, path: str, index: str | int, members: Mapping[str, Any] | None = None) -> None:
        """Write an array anew with a part of its values."""
        self.rewrite(path, members, self.read(path)[_index(index)])

    def rewrite(self, path: str, members: Mapping[str, Any] | None = None, values: Any = None) -> None:
        """Write an array anew with other metadata, members as those of `edit`, values kept or given."""
        kept = self.read(path) if values is None else np.asarray(values)
        for key in self.chunks(path):
            self.delete(key)
        document = self.document(path)
        grid = [max(1, min(n, c)) for n, c in zip(kept.shape, _chunk_shape(document, kept.ndim), strict=True)]
        self.edit(path, {"shape": list(kept.shape), "chunks": grid, **(members or {})})
        self.array(path)[...] = kept

    def arrays(self) -> Iterator[str]:
        """Paths of every array."""
        for key in self.keys():
            node = documented_node(key)
            if node and json.loads(self.get(key)).get("node_type") == "array":
                yield node


def _member(name: str, value: Any) -> tuple[str, Any]:
    """Write out a member of a ``zarr.json``: ``chunks``, ``shards``, ``chunk_keys`` and codecs by name."""
    if name == "chunks":
        return "chunk_grid", {"name": "regular", "configuration": {"chunk_shape": value}}
    if name == "chunk_keys":
        return "chunk_key_encoding", {"name": value[0], "configuration": {"separator": value[1]}}
    if name == "shards":
        _, codecs = _member("codecs", ["bytes", "zstd", "crc32c"])
        index = {"index_codecs": [codecs[0], codecs[2]], "index_location": "end"}
        return "codecs", [
            {"name": "sharding_indexed", "configuration": {"chunk_shape": value, "codecs": codecs, **index}}
        ]
    if name == "codecs" and value is not None:
        return name, [{"name": c, **_CODECS[c]} if isinstance(c, str) else c for c in value]
    return name, value


def _index(text: str | int) -> tuple[Any, ...]:
    """Read an index as it stands between brackets."""

    def part(text: str) -> Any:
        if ":" in text:
            return slice(*(int(n) if n else None for n in text.split(":")))
        return {"...": ..., "None": None}[text] if text in ("...", "None") else int(text)

    return tuple(map(part, str(text).split(", ")))


def _walk(inner: Any, dotted: str) -> tuple[Any, Any]:
    """Return what holds the last part of a dotted path, and that part: a number in a list."""
    *parents, last = dotted.split(".")
    for part in parents:
        inner = inner[int(part)] if isinstance(inner, list) else inner.setdefault(part, {})
    return inner, int(last) if isinstance(inner, list) else last


def _chunk_shape(document: Mapping[str, Any], ndim: int) -> list[int]:
    found = list(document["chunk_grid"]["configuration"]["chunk_shape"])
    return found if len(found) == ndim else [2**31] * ndim
