"""How an array is stored, against what its spec and the schema's storage section say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from devinterp.schema.definition.layout import chunk_shape
from devinterp.schema.definition.spec import DECODED
from devinterp.schema.findings.codes import RuleCode
from devinterp.schema.findings.report import Collector
from devinterp.schema.reading.array_metadata import TEXT, fill_attribute, fill_number, inner_codecs
from devinterp.schema.reading.keys import ChunkKeys
from devinterp.wording import shown

if TYPE_CHECKING:
    from devinterp.schema.definition.spec import StorageSpec, VariableSpec
    from devinterp.schema.reading.nodes import ArrayNode, CodecNode, StorageNode
    from devinterp.schema.rules.bound import Bound

__all__ = ["check_storage"]


def check_storage(bound: Bound, array: ArrayNode, spec: VariableSpec, findings: Collector) -> None:
    """Check units, fill, chunks and codecs of one declared array (of a variable in memory: units alone)."""
    _check_units(array, spec.units(bound.parameters), findings)
    if array.storage is None:
        return
    storage = bound.schema.storage
    _check_fill(array, array.storage, spec, storage, findings)
    _check_decoding(array, findings)
    _check_grid(array, array.storage, spec, storage, findings)
    _check_codecs(array, array.storage, storage, findings)


def _check_units(array: ArrayNode, legal: tuple[str, ...], findings: Collector) -> None:
    found = array.attrs.get("units")
    if found is not None and found not in legal:
        expected = " or ".join(map(repr, legal))
        findings.add(RuleCode.UNIT, array.path, "The unit is wrong.", expected=expected, found=shown(found))


def _check_fill(
    array: ArrayNode, stored: StorageNode, spec: VariableSpec, storage: StorageSpec, findings: Collector
) -> None:
    if not _same(stored.fill, spec.fill, array.dtype):
        # Where any writer may leave chunks out, nobody counts on the fill to tell a loss: xarray itself takes 0.
        findings.add(
            RuleCode.FILL_VALUE,
            array.path,
            "The fill value is wrong.",
            expected=spec.fill,
            found=shown(stored.fill),
            severity="warning" if storage.empty_chunks == "omitted" else None,
        )


def _check_decoding(array: ArrayNode, findings: Collector) -> None:
    if "_FillValue" in array.attrs:
        _check_marker(array, array.attrs["_FillValue"], findings)
    beside = array.attrs.get("coordinates", "")
    if not isinstance(beside, str):
        findings.add(
            RuleCode.ATTRIBUTE,
            array.path,
            "The attribute coordinates, which xarray reads names from, is not text.",
            expected="names separated by blanks, or no such attribute",
            found=shown(beside),
        )
    for name in DECODED:
        if name in array.attrs:
            findings.add(
                RuleCode.ATTRIBUTE,
                array.path,
                f"The attribute {name} makes xarray change the values on reading.",
                found=shown(array.attrs[name]),
            )


def _check_marker(array: ArrayNode, marker: Any, findings: Collector) -> None:
    if array.dtype.startswith(("int", "uint")):
        findings.add(
            RuleCode.INTEGER_FILL_ATTRIBUTE, array.path, "An integer array has the attribute _FillValue.", found=marker
        )
    elif array.dtype.startswith("float"):
        number = fill_attribute(marker)
        if number is None or not math.isnan(number):
            findings.add(
                RuleCode.FILL_VALUE,
                array.path,
                "xarray does not read the attribute _FillValue."
                if number is None
                else "The attribute _FillValue makes xarray read a number as missing.",
                expected="none, or NaN as xarray writes it: 'AAAAAAAA+H8='",
                found=shown(marker),
            )
    elif array.dtype in TEXT:
        findings.add(
            RuleCode.FILL_VALUE,
            array.path,
            "xarray does not read the attribute _FillValue of text.",
            expected="none",
            found=shown(marker),
        )


def _check_grid(
    array: ArrayNode, storage: StorageNode, spec: VariableSpec, declared: StorageSpec, findings: Collector
) -> None:
    if storage.keys != ChunkKeys():
        findings.add(
            RuleCode.CHUNK_KEYS,
            array.path,
            "Chunks lie under other keys than the default ones.",
            expected="default, separated by '/'",
            found=f"{storage.keys.encoding}, separated by {storage.keys.separator!r}",
        )
    sharded = any(codec.name == "sharding_indexed" for codec in storage.codecs)
    if sharded and declared.shards == "forbidden":
        findings.add(RuleCode.SHARDED, array.path, "The array is sharded.", expected="one object per chunk")
    # Chunks are declared for the documented dimensions; under other legal ones they are free.
    if declared.chunks != "declared" or sharded or len(spec.dims) != len(array.dims):
        return
    wanted = chunk_shape(spec, array.dims, array.shape)
    whole = [max(1, n) for n in array.shape]
    # A declared chunk is the largest that is right: a store that was given more draws keeps its first, smaller chunks.
    fits = len(storage.chunks) == len(wanted) and all(
        1 <= n <= w if dim in spec.chunks else n == w
        # One that reaches beyond the array's end holds what one that ends there does.
        for dim, n, w in zip(array.dims, map(min, storage.chunks, whole), wanted, strict=True)
    )
    if not fits:
        findings.add(
            RuleCode.CHUNK_GRID,
            array.path,
            "The chunks are not as declared.",
            expected=f"at most {_sizes(array.dims, wanted)}" if spec.chunks else _sizes(array.dims, wanted),
            found=_sizes(array.dims, storage.chunks),
        )


def _check_codecs(array: ArrayNode, storage: StorageNode, declared: StorageSpec, findings: Collector) -> None:
    codecs: Sequence[CodecNode] = storage.codecs
    for codec in storage.codecs:
        if codec.name == "sharding_indexed":
            codecs = inner_codecs(codec.configuration)
    serializer = "vlen-utf8" if array.dtype == "string" else "bytes"
    wanted = [serializer if c == "bytes" else c for c in declared.codecs]
    found = [c.name for c in codecs]
    if found == [c for c in wanted if c != "crc32c"]:
        if declared.checksums == "required" and "crc32c" in wanted:
            findings.add(
                RuleCode.NO_CHECKSUM, array.path, "Chunks have no checksum.", expected=_list(wanted), found=_list(found)
            )
    elif found != wanted and not (declared.checksums == "optional" and found == [*wanted, "crc32c"]):
        findings.add(
            RuleCode.CODECS, array.path, "The codecs are not as declared.", expected=_list(wanted), found=_list(found)
        )
    for codec in codecs:
        if codec.name == "bytes" and codec.configuration.get("endian", "little") != "little":
            findings.add(RuleCode.CODECS, array.path, "The bytes are in another order.", expected="little", found="big")


def _same(found: Any, declared: float | int | str | bool | None, dtype: str) -> bool:
    if isinstance(declared, str):
        return bool(found == declared)
    if isinstance(declared, bool):
        return found is declared
    number = fill_number(found)
    if number is None or declared is None or (isinstance(found, bool) and dtype != "bool"):
        return False
    return number == declared or (math.isnan(number) and isinstance(declared, float) and math.isnan(declared))


def _sizes(dims: Sequence[str], sizes: Sequence[int]) -> str:
    return ", ".join(f"{d}: {n}" for d, n in zip(dims, sizes, strict=True)) or "()"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
