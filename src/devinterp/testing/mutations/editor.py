"""A store in the hands of someone who breaks it: documents, chunks and values changed one at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from devinterp.schema.reading.keys import document_key, documented_node
from devinterp.store.location import Location, StoreLike, locate

__all__ = ["StoreEditor"]


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

    def edit(self, path: str, **members: Any) -> None:
        """Set members of a ``zarr.json``; ``None`` removes one."""
        document = self.document(path)
        for name, value in members.items():
            if value is None:
                document.pop(name, None)
            else:
                document[name] = value
        self.write_document(path, document)

    def set_attribute(self, path: str, dotted: str, value: Any) -> None:
        """Set one attribute of a group or array, at a dotted path."""
        document = self.document(path)
        inner = document.setdefault("attributes", {})
        *parents, last = dotted.split(".")
        for part in parents:
            inner = inner[int(part)] if isinstance(inner, list) else inner.setdefault(part, {})
        if isinstance(inner, list):
            inner[int(last)] = value
        else:
            inner[last] = value
        self.write_document(path, document)

    def remove_attribute(self, path: str, dotted: str) -> None:
        """Remove one attribute."""
        document = self.document(path)
        inner = document["attributes"]
        *parents, last = dotted.split(".")
        for part in parents:
            inner = inner[int(part)] if isinstance(inner, list) else inner[part]
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

    def put(self, key: str, value: bytes) -> None:
        """Write bytes at a key."""
        self.location.set(key, value)

    def delete(self, key: str) -> None:
        """Remove a key."""
        self.location.delete(key)

    def remove(self, path: str) -> None:
        """Remove a group or array with everything below it."""
        for key in self.keys(f"{path}/"):
            self.location.delete(key)
        if self.location.folder is not None:
            _remove_empty(self.location.folder / path)

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

    def set_value(self, path: str, index: Any, value: Any) -> None:
        """Set one value of an array."""

        def put(values: NDArray[Any]) -> None:
            values[index] = value

        self.change(path, put)

    def rewrite(self, path: str, values: Any = None, **members: Any) -> None:
        """Write an array anew with other metadata (``data_type``, ``chunk_grid`` ...), values kept or given."""
        kept = self.read(path) if values is None else np.asarray(values)
        for key in self.chunks(path):
            self.delete(key)
        document = {**self.document(path), **members}
        document["shape"] = list(kept.shape)
        if "chunk_grid" not in members:
            grid = [max(1, min(n, c)) for n, c in zip(kept.shape, _chunk_shape(document, kept.ndim), strict=True)]
            document["chunk_grid"] = {"name": "regular", "configuration": {"chunk_shape": grid}}
        self.write_document(path, document)
        self.array(path)[...] = kept

    def arrays(self) -> Iterator[str]:
        """Paths of every array."""
        for key in self.keys():
            node = documented_node(key)
            if node and json.loads(self.get(key)).get("node_type") == "array":
                yield node


def _chunk_shape(document: Mapping[str, Any], ndim: int) -> list[int]:
    found = list(document["chunk_grid"]["configuration"]["chunk_shape"])
    return found if len(found) == ndim else [2**31] * ndim


def _remove_empty(folder: Path) -> None:
    if folder.is_dir():
        for inner in sorted((p for p in folder.rglob("*") if p.is_dir()), key=lambda p: len(p.parts), reverse=True):
            inner.rmdir()
        folder.rmdir()
