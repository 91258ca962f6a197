"""Metadata that are legal and that the installed zarr-python does not read: named, with what to write instead."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import zarr
from zarr.core.metadata.v3 import ArrayV3Metadata

from devinterp.errors import StoreError
from devinterp.schema.reading.array_metadata import TEXT, fill_attribute
from devinterp.schema.reading.keys import documented_node
from devinterp.schema.reading.store_tree import gathered_documents
from devinterp.store.location import Location

__all__ = ["refuse_unreadable", "why_unreadable"]

_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
_ZSTD = {"name": "zstd", "configuration": {"level": 0, "checksum": False}}


def why_unreadable(document: Mapping[str, Any]) -> str | None:
    """Say what zarr-python does not read in the document of an array, and how to spell it; None where it reads it."""
    try:
        ArrayV3Metadata.from_dict(dict(document))
    except Exception as error:  # whatever zarr raises at a document that it does not understand
        return next(_short_forms(document), f"its metadata ({type(error).__name__}: {error})")
    attributes, dtype = document.get("attributes"), document.get("data_type")
    if isinstance(attributes, Mapping) and "_FillValue" in attributes:
        marker, name = attributes["_FillValue"], dtype.get("name") if isinstance(dtype, Mapping) else str(dtype)
        number = isinstance(marker, int | float)
        if name in TEXT or (fill_attribute(marker) is None if str(name).startswith("float") else not number):
            return f"its attribute _FillValue, {json.dumps(marker)}, which xarray does not decode and is to be removed"
    return None


def _short_forms(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is spelt by its name alone, or without a configuration, where zarr-python wants more."""
    codecs = document.get("codecs")
    for codec in codecs if isinstance(codecs, list) else []:
        name = codec if isinstance(codec, str) else codec.get("name") if isinstance(codec, Mapping) else None
        if isinstance(codec, str) or (name == "zstd" and not codec.get("configuration")):
            long = {"bytes": _BYTES, "zstd": _ZSTD}.get(str(name), {"name": name})
            yield f"its codec {json.dumps(codec)}, which is to be spelt {json.dumps(long)}"
    if isinstance(document.get("chunk_key_encoding"), str):
        name = document["chunk_key_encoding"]
        yield f"its chunk_key_encoding {json.dumps(name)}, which is to be spelt {json.dumps({'name': name})}"
    data_type = document.get("data_type")
    if isinstance(data_type, Mapping) and not data_type.get("configuration"):
        yield f"its data_type {json.dumps(data_type)}, which is to be spelt {json.dumps(data_type.get('name'))}"


def refuse_unreadable(location: Location, root: Mapping[str, Any], consolidated: bool | None, error: Exception) -> None:
    """Raise one error that names the array which zarr-python does not read, where that is why a store did not open.

    Parameters
    ----------
    location : Location
    root : mapping
        The root's ``zarr.json``.
    consolidated : bool or None
        Whether the arrays' documents were read from the root's.
    error : Exception
        What opening ended in.

    Raises
    ------
    StoreError
        An array's metadata are spelt in a way that the installed zarr-python does not read, or the store cannot say
        which arrays it has.
    """
    for path, document in _arrays(location, root, consolidated):
        why = why_unreadable(document)
        if why is not None:
            raise StoreError(
                f"The installed xarray and zarr-python ({zarr.__version__}) cannot read the array {path!r} of "
                f"{location.name}: {why}.",
                remedy=f"Mend it in {path}/zarr.json, and in the root's zarr.json where metadata are consolidated.",
            ) from error


def _arrays(
    location: Location, root: Mapping[str, Any], consolidated: bool | None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield path and document of every array, as they were read in opening."""
    gathered = gathered_documents(root) if consolidated else None
    if gathered is not None:
        yield from ((p, d) for p, d in gathered.items() if isinstance(d, Mapping) and d.get("node_type") == "array")
        return
    try:
        keys = list(location.list_keys())
    except Exception as error:  # a store may raise whatever its transport raises
        raise StoreError(
            f"{location.name} does not let its contents be listed: {error}.",
            expected="consolidated metadata, or a store that lists what it holds",
            remedy="Consolidate where the store lies: zarr.consolidate_metadata(path).",
        ) from error
    for key in keys:
        path = documented_node(key)
        raw = location.get(key) if path else None
        try:
            document = json.loads(raw) if raw is not None else None
        except ValueError:
            continue
        if path and isinstance(document, dict) and document.get("node_type") == "array":
            yield path, document
