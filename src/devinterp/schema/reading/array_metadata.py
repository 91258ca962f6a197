"""The ``zarr.json`` of an array: what may be believed of it, decided before any chunk is decoded."""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn

from devinterp.schema.findings.codes import RuleCode
from devinterp.schema.findings.report import Collector
from devinterp.schema.reading.keys import ChunkKeys, chunk_grid
from devinterp.schema.reading.limits import Limits
from devinterp.schema.reading.nodes import ArrayNode, CodecNode, StorageNode
from devinterp.wording import one_of, shown

__all__ = [
    "NUMERIC",
    "SAFE_CODECS",
    "TEXT",
    "ArrayDocuments",
    "fill_attribute",
    "fill_number",
    "inner_codecs",
    "read_array_document",
]

NUMERIC = frozenset(
    {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"}
)
TEXT = frozenset({"string", "fixed_length_utf32"})
# Harmless, though no schema declares them: they are read as what they are, and found to be the wrong type.
_PLAIN = frozenset({"complex64", "complex128", "numpy.datetime64", "numpy.timedelta64", "fixed_length_bytes"})
# Codecs that run no code of the store and whose output can be bounded beforehand.
SAFE_CODECS = frozenset({"bytes", "vlen-utf8", "zstd", "crc32c", "gzip", "blosc", "transpose", "sharding_indexed"})
_MEMBERS = frozenset(
    {
        "zarr_format",
        "node_type",
        "shape",
        "data_type",
        "chunk_grid",
        "chunk_key_encoding",
        "fill_value",
        "codecs",
        "attributes",
        "dimension_names",
        "storage_transformers",
    }
)


class _Broken(Exception):
    """A document that cannot be used; the finding is already made."""


def read_array_document(
    document: Mapping[str, Any], path: str, limits: Limits, findings: Collector
) -> ArrayNode | None:
    """Return the array that a parsed document describes, or None after the findings that say why not."""
    reader = _Reader(document, path, limits, findings)
    try:
        return reader.read()
    except _Broken:
        return None


class ArrayDocuments:
    """Reads documents, each different one once: the groups of a study hold the same arrays."""

    def __init__(self, limits: Limits, findings: Collector) -> None:
        self._limits, self._findings = limits, findings
        self._known: dict[str, ArrayNode] = {}

    def read(self, document: Mapping[str, Any], path: str) -> ArrayNode | None:
        """Return what `read_array_document` returns."""
        key = repr(document)
        known = self._known.get(key)
        if known is not None:
            return replace(known, path=path, name=path.rsplit("/", 1)[-1])
        array = read_array_document(document, path, self._limits, self._findings)
        if array is not None:
            self._known[key] = array
        return array


class _Reader:
    def __init__(self, document: Mapping[str, Any], path: str, limits: Limits, findings: Collector) -> None:
        self.document, self.path, self.limits, self.findings = document, path, limits, findings

    def read(self) -> ArrayNode:
        self._members()
        shape = self._shape(self.document["shape"], "shape", minimum=0)
        dtype, length = self._dtype()
        chunks = self._chunks(len(shape))
        self._count_chunks(shape, chunks)
        codecs = self._codecs(self.document["codecs"])
        keys = self._keys()
        dims = self._dims(len(shape))
        attrs = self.document.get("attributes", {})
        if not isinstance(attrs, dict):
            self._refuse(RuleCode.METADATA, "attributes are not a JSON object.", "an object", type(attrs).__name__)
        storage = StorageNode(chunks, keys, codecs, self.document["fill_value"], length)
        return ArrayNode(self.path, self.path.rsplit("/", 1)[-1], dims, shape, dtype, attrs, storage)

    def _refuse(self, code: RuleCode, message: str, expected: object = None, found: object = None) -> NoReturn:
        self.findings.add(code, self.path, message, expected=expected, found=found)
        raise _Broken

    def _members(self) -> None:
        missing = sorted(
            {"shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs"} - set(self.document)
        )
        if missing:
            self._refuse(RuleCode.METADATA, "The array's document lacks members.", ", ".join(missing))
        for name, value in self.document.items():
            optional = isinstance(value, Mapping) and value.get("must_understand") is False
            if name not in _MEMBERS and not optional:
                self._refuse(RuleCode.METADATA, "The array's document has an unknown member.", None, repr(name))
        if self.document.get("storage_transformers") not in (None, [], ()):
            self._refuse(RuleCode.METADATA, "The array has storage transformers.", "none", "some")

    def _shape(self, value: Any, what: str, minimum: int) -> tuple[int, ...]:
        if not isinstance(value, list):
            self._refuse(RuleCode.METADATA, f"{what} is not a list.", "a list of sizes", value)
        if len(value) > 32:
            self._refuse(RuleCode.ABSURD_SHAPE, f"{what} has {len(value)} dimensions.", "at most 32")
        for size in value:
            if type(size) is not int:
                self._refuse(RuleCode.ABSURD_SHAPE, f"A size in {what} is not an integer.", "integers", value)
            if not minimum <= size <= self.limits.size:
                self._refuse(
                    RuleCode.ABSURD_SHAPE,
                    f"A size in {what} is out of bounds.",
                    f"from {minimum} to {self.limits.size}",
                    size,
                )
        if math.prod(value) > self.limits.elements:
            self._refuse(
                RuleCode.ABSURD_SHAPE, f"{what} has too many elements.", f"at most {self.limits.elements}", value
            )
        return tuple(value)

    def _dtype(self) -> tuple[str, int]:
        value = self.document["data_type"]
        name = value.get("name") if isinstance(value, Mapping) else value
        if not isinstance(name, str) or name not in NUMERIC | TEXT | _PLAIN:
            self._refuse(RuleCode.UNSAFE_DTYPE, "The data type is not known to be safe.", None, value)
        length = 0
        if name == "fixed_length_utf32":
            configuration = value.get("configuration") if isinstance(value, Mapping) else None
            length = configuration.get("length_bytes", 0) if isinstance(configuration, Mapping) else 0
            if type(length) is not int or not 0 <= length <= 2**20 or length % 4:
                self._refuse(RuleCode.UNSAFE_DTYPE, "The length of the strings is absurd.", "at most 1 MiB", value)
        return str(name), length

    def _chunks(self, ndim: int) -> tuple[int, ...]:
        name, configuration = self._named(self.document["chunk_grid"], "chunk_grid")
        if name != "regular":
            self._refuse(RuleCode.METADATA, "The chunk grid is not regular.", "regular", name)
        chunks = self._shape(configuration.get("chunk_shape"), "chunk_shape", minimum=1 if ndim else 0)
        if len(chunks) != ndim:
            self._refuse(RuleCode.METADATA, "chunk_shape and shape differ in length.", ndim, len(chunks))
        return chunks

    def _count_chunks(self, shape: tuple[int, ...], chunks: tuple[int, ...]) -> None:
        count = math.prod(chunk_grid(shape, chunks))
        if count > self.limits.chunks:
            self._refuse(
                RuleCode.TOO_MANY_CHUNKS,
                "The array has too many chunks.",
                f"at most {self.limits.chunks}",
                count,
            )

    def _codecs(self, value: Any) -> tuple[CodecNode, ...]:
        if not isinstance(value, list) or not value:
            self._refuse(RuleCode.METADATA, "codecs is not a list of codecs.", "a non-empty list", value)
        if len(value) > 16:
            self._refuse(RuleCode.METADATA, "There are too many codecs.", "at most 16", len(value))
        out = []
        for entry in value:
            name, configuration = self._named(entry, "codecs")
            if name not in SAFE_CODECS:
                self._refuse(
                    RuleCode.UNSAFE_CODEC,
                    "A codec is not known to be safe.",
                    one_of(sorted(SAFE_CODECS)),
                    name,
                )
            if name == "sharding_indexed":
                for inner in ("codecs", "index_codecs"):
                    for codec in self._codecs(configuration.get(inner)):
                        if codec.name == "sharding_indexed":
                            self._refuse(RuleCode.METADATA, "There are shards inside shards.")
            out.append(CodecNode(name, configuration))
        return tuple(out)

    def _keys(self) -> ChunkKeys:
        value = self.document["chunk_key_encoding"]
        self._named(value, "chunk_key_encoding")
        try:
            return ChunkKeys.parse(value)
        except ValueError:
            self._refuse(RuleCode.CHUNK_KEYS, "The chunk key encoding is not known.", "default", value)

    def _dims(self, ndim: int) -> tuple[str, ...]:
        names = self.document.get("dimension_names")
        if names is None and ndim == 0:
            return ()
        if not isinstance(names, list) or len(names) != ndim or not all(isinstance(n, str) and n for n in names):
            self._refuse(RuleCode.DIMENSION_NAMES, "Not every dimension has a name.", f"{ndim} names", shown(names))
        if len(set(names)) != ndim:
            self._refuse(RuleCode.DIMENSION_NAMES, "A dimension is named twice.", "different names", names)
        return tuple(names)

    def _named(self, value: Any, what: str) -> tuple[str, Mapping[str, Any]]:
        """A Zarr v3 extension object, in its short form (a string) or its long one."""
        if isinstance(value, str):
            return value, {}
        configuration = value.get("configuration", {}) if isinstance(value, Mapping) else None
        if not isinstance(configuration, Mapping) or not isinstance(value.get("name"), str):
            self._refuse(RuleCode.METADATA, f"{what} cannot be read.", "a name and a configuration", value)
        return value["name"], configuration


def inner_codecs(configuration: Mapping[str, Any]) -> list[CodecNode]:
    """Return the codecs of the chunks inside a shard."""
    return [
        CodecNode(c, {}) if isinstance(c, str) else CodecNode(c["name"], c.get("configuration", {}))
        for c in configuration["codecs"]
    ]


def fill_attribute(marker: Any) -> float | None:
    """Return the number that an attribute ``_FillValue`` of a float array stands for; None where xarray reads none.

    xarray reads and writes one spelling of it in Zarr v3, and opens no store that has another: a double in base64.
    """
    try:
        raw = base64.b64decode(marker, validate=True) if isinstance(marker, str) else b""
    except (binascii.Error, ValueError):
        return None
    plain = len(raw) == 8 and base64.b64encode(raw).decode() == marker
    return float(struct.unpack("<d", raw)[0]) if plain else None


def fill_number(value: Any) -> float | int | None:
    """Return the number that a fill value in JSON stands for, or None where it stands for none."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int | float):
        return value
    if not isinstance(value, str):
        return None
    named = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    if value in named:
        return named[value]
    formats = {4: ">e", 8: ">f", 16: ">d"}
    if value.startswith("0x") and len(value) - 2 in formats:
        try:
            return float(struct.unpack(formats[len(value) - 2], bytes.fromhex(value[2:]))[0])
        except ValueError:
            return None
    return None
