"""Zarr groups and arrays, created as layouts have it: codecs, chunk keys, fill values; every chunk is written."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Mapping
from functools import cache
from typing import Any, cast

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.dtype import ZDType, parse_dtype
from zarr.core.metadata.v3 import ArrayV3Metadata
from zarr.storage import StorePath

from devinterp.plain_json import plain_json
from devinterp.schema.definition.spec import ArrayLayout, GroupLayout, StorageSpec, VariableSpec
from devinterp.schema.reading.keys import DOCUMENT, document_key, documented_node
from devinterp.store.location import Location

__all__ = [
    "array_metadata",
    "beside",
    "create_groups",
    "differs_from_ours",
    "documents",
    "group_document",
    "open_array",
    "write_consolidated_root",
]

_CODECS: dict[str, dict[str, Any]] = {
    "bytes": {"name": "bytes", "configuration": {"endian": "little"}},
    "zstd": {"name": "zstd", "configuration": {"level": 0, "checksum": False}},
    "crc32c": {"name": "crc32c"},
    "vlen-utf8": {"name": "vlen-utf8"},
}
# A chunk that equals the fill value is written too: only then does an absent file prove a loss.
_CONFIG: dict[str, Any] = {"write_empty_chunks": True, "order": "C"}
# xarray marks missing floats with this attribute and reads it back; with it, rewriting a store changes no byte.
_NAN_ATTRIBUTE = base64.standard_b64encode(struct.pack("<d", math.nan)).decode()


def array_metadata(layout: ArrayLayout, storage: StorageSpec) -> ArrayV3Metadata:
    """Return the Zarr metadata of one array."""
    attributes = dict(layout.attrs)
    dtype, stored_type = _types(layout.dtype)
    if np.issubdtype(dtype, np.floating):
        attributes["_FillValue"] = _NAN_ATTRIBUTE
    # Booleans and single bytes have no byte order to declare.
    codecs: list[dict[str, Any]] = [
        _CODECS["vlen-utf8"]
        if name == "bytes" and layout.dtype == "string"
        else ({"name": "bytes"} if name == "bytes" and dtype.itemsize == 1 else _CODECS[name])
        for name in storage.codecs
    ]
    return ArrayV3Metadata(
        shape=layout.shape,
        data_type=stored_type,
        chunk_grid={"name": "regular", "configuration": {"chunk_shape": list(layout.chunks)}},
        chunk_key_encoding={"name": "default", "configuration": {"separator": "/"}},
        fill_value=layout.fill,
        codecs=cast(Any, codecs),
        attributes=attributes,
        dimension_names=layout.dims,
    )


@cache  # Zarr asks each of its types in turn: half of the time that a document takes
def _types(declared: str) -> tuple[np.dtype[Any], ZDType[Any, Any]]:
    """Return the type of a declared one in memory, and what Zarr makes of it."""
    dtype: np.dtype[Any] = np.dtypes.StringDType() if declared == "string" else np.dtype(declared)
    return dtype, parse_dtype(dtype, zarr_format=3)


def beside(stored: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return our attributes with those that lie there beside them, and the id of the schema that lies there."""
    named = {"devinterp_schema": stored["devinterp_schema"]} if "devinterp_schema" in stored else {}
    metadata, written = ours.get("metadata", {}), stored.get("metadata", {})
    config = {"config": {**written.get("config", {}), **metadata["config"]}} if "config" in metadata else {}
    return {**stored, **ours, **named, "metadata": {**written, **metadata, **config}}


def differs_from_ours(document: Mapping[str, Any], spec: VariableSpec, storage: StorageSpec) -> str | None:
    """Say in what an array that lies in a store is stored otherwise than ours are; None where it is as we write it.

    Shape and chunks may be others: a store that grew keeps the chunks that it began with. Only the rows of one chain
    lie together, whole in all but draws or steps.
    """
    try:
        theirs = ArrayV3Metadata.from_dict(dict(document)).to_dict()
        grid = tuple(cast(Any, theirs["chunk_grid"])["configuration"]["chunk_shape"])
    except Exception as error:  # whatever zarr raises at a document that it does not understand
        return f"metadata that zarr does not read ({type(error).__name__}: {error})"
    shape, dims = tuple(document["shape"]), tuple(document.get("dimension_names") or ())
    ours = array_metadata(ArrayLayout(spec.name, dims, shape, spec.dtype, spec.fill, grid, {}, spec), storage).to_dict()
    for member in ("data_type", "chunk_key_encoding", "codecs", "fill_value"):
        if repr(theirs[member]) != repr(ours[member]):
            return f"{member} {theirs[member]}"
    if spec.prefix is not None and grid[0] != 1:
        return f"{grid[0]} chains in one chunk"
    if spec.prefix is not None and any(c < n for c, n in zip(grid[2:], shape[2:], strict=True)):
        return f"chunks of {grid}"
    return None


def group_document(attributes: Mapping[str, Any], consolidated: Mapping[str, Any] | None = None) -> bytes:
    """Return the ``zarr.json`` of a group, with the metadata of everything below it where given."""
    document: dict[str, Any] = {"attributes": plain_json(attributes), "zarr_format": 3, "node_type": "group"}
    if consolidated is not None:
        document["consolidated_metadata"] = {
            "kind": "inline",
            "must_understand": False,
            "metadata": {key: consolidated[key] for key in sorted(consolidated, key=lambda k: (k.count("/"), k))},
        }
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()


def create_groups(
    location: Location,
    groups: Mapping[str, GroupLayout],
    attributes: Mapping[str, Mapping[str, Any]],
    storage: StorageSpec,
) -> None:
    """Create every group and array; chunks are not written yet.

    Parameters
    ----------
    location : Location
        An empty place.
    groups : mapping of str to GroupLayout
        By group path (``"/"`` for the root).
    attributes : mapping of str to mapping
        Group attributes, by the same paths; paths without a layout are groups without arrays.
    storage : StorageSpec
    """
    location.set_many(documents(groups, attributes, storage))


def documents(
    groups: Mapping[str, GroupLayout], attributes: Mapping[str, Mapping[str, Any]], storage: StorageSpec
) -> dict[str, bytes]:
    """Return every ``zarr.json`` of the hierarchy by its key, parents first."""
    paths = {"/", *groups, *attributes}
    out = {document_key(path): group_document(attributes.get(path, {})) for path in sorted(paths)}
    encoded: dict[int, dict[str, bytes]] = {}  # the restrictions of a study share one layout
    for path, group in groups.items():
        arrays = encoded.get(id(group))
        if arrays is None:
            arrays = {name: _array_document(layout, storage) for name, layout in group.arrays.items()}
            encoded[id(group)] = arrays
        out.update({document_key(path, name): text for name, text in arrays.items()})
    return out


def _array_document(layout: ArrayLayout, storage: StorageSpec) -> bytes:
    buffers = array_metadata(layout, storage).to_buffer_dict(default_buffer_prototype())
    return buffers[DOCUMENT].to_bytes()


def open_array(location: Location, path: str, layout: ArrayLayout, storage: StorageSpec) -> zarr.Array[Any]:
    """Return a handle for writing, made from the layout without reading the store."""
    metadata, path_in_store = array_metadata(layout, storage), StorePath(location.store, path.strip("/"))
    return zarr.Array(zarr.AsyncArray(metadata, path_in_store, config=cast(Any, _CONFIG)))


def write_consolidated_root(location: Location, attributes: dict[str, Any], everything: dict[str, bytes]) -> None:
    """Write the root's document with the metadata of all groups and arrays below it.

    One write, so that no reader ever sees ``completed`` without the metadata or the other way round.
    """
    cache: dict[bytes, Any] = {}
    below = {}
    for key, text in everything.items():
        node = documented_node(key)
        if node:
            if text not in cache:
                cache[text] = json.loads(text)
            below[node] = cache[text]
    location.set(DOCUMENT, group_document(attributes, below))
