"""Decoding one chunk, with every size known before anything is inflated.

The codecs are those of `array_metadata.SAFE_CODECS`. What a chunk decodes to follows from its array's metadata, so that
a compressed frame that declares more is refused unread.

zarrs 0.2.3 (Rust) reads a local store with half the CPU time of zarr-python and finds what is flipped, cut short, empty
or noise; but it inflates a frame of 2 GB before it says that the chunk is too large, and is a pipeline of zarr-python,
without a function that decodes bytes. So the decoding here is our own.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devinterp.errors import StoreError
from devinterp.schema.reading.array_metadata import fill_number, inner_codecs
from devinterp.schema.reading.nodes import ArrayNode, CodecNode

__all__ = [
    "BombError",
    "CorruptChunkError",
    "chunk_bytes",
    "decode_chunk",
    "encoded_bound",
    "numpy_dtype",
    "object_bound",
    "stored_fill",
]

_MISSING = 2**64 - 1
_MOST_IN_SHARD = 100_000
_BYTES_CODECS = frozenset({"zstd", "gzip", "blosc", "crc32c"})


class CorruptChunkError(StoreError):
    """A chunk does not decode to what its array's metadata say."""


class BombError(StoreError):
    """A chunk declares that it decodes to more than its array's metadata say."""


def numpy_dtype(array: ArrayNode) -> np.dtype[Any]:
    """Return the type that decoded values have in memory."""
    if array.dtype == "string":
        return np.dtype(object)
    if array.dtype == "fixed_length_utf32":
        return np.dtype(f"<U{max(1, array.storage.length // 4 if array.storage else 1)}")
    return np.dtype(array.dtype).newbyteorder("<")


def stored_fill(array: ArrayNode) -> Any:
    """Return what an absent chunk reads as: the array's own fill, or nothing (0, "") where that is none of its type.

    Such fill values are met: null or 0 for text, NaN for integers.
    """
    fill = array.storage.fill if array.storage else None
    dtype = numpy_dtype(array)
    if dtype.kind in "OU":
        return fill if isinstance(fill, str) else ""
    number = fill_number(fill)
    try:
        return np.array(0 if number is None else number, dtype=dtype)[()]
    except (ValueError, OverflowError):
        return np.zeros((), dtype=dtype)[()]


def chunk_bytes(array: ArrayNode, text_limit: int) -> int:
    """Return how many bytes a decoded chunk takes at most.

    Strings say nothing beforehand: ``text_limit`` bounds their bytes, which as Python's strings take up to twelve times
    as much ("ab" is 51 bytes and a pointer to them, and takes 6 in a chunk).
    """
    assert array.storage is not None
    count = math.prod(array.storage.chunks)
    if array.dtype == "string":
        return 12 * text_limit + 8 * count
    return count * numpy_dtype(array).itemsize


def encoded_bound(size: int) -> int:
    """Return how many bytes an encoded chunk may have: compression of noise grows it a little."""
    return size + size // 64 + 65536


def object_bound(array: ArrayNode, text_limit: int) -> int:
    """Return how many bytes the object of a chunk (or shard) may have."""
    assert array.storage is not None
    size = text_limit if array.dtype == "string" else chunk_bytes(array, text_limit)
    # In a shard each inner chunk is packed for itself, and has its place in the index.
    sharded = any(codec.name == "sharding_indexed" for codec in array.storage.codecs)
    return encoded_bound(size) * (2 if sharded else 1)


def decode_chunk(raw: bytes, array: ArrayNode, text_limit: int) -> NDArray[Any]:
    """Decode one chunk (or shard) of an array.

    Parameters
    ----------
    raw : bytes
        The object as stored.
    text_limit : int
        Most bytes that a chunk of strings may decode to.

    Raises
    ------
    CorruptChunkError, BombError
    """
    assert array.storage is not None
    decoder = _Decoder(array, text_limit)
    return decoder.decode(memoryview(raw), array.storage.codecs, array.storage.chunks)


class _Decoder:
    def __init__(self, array: ArrayNode, text_limit: int) -> None:
        self.array, self.text_limit = array, text_limit
        self.dtype = numpy_dtype(array)

    def decode(self, data: Any, codecs: Sequence[CodecNode], shape: tuple[int, ...]) -> NDArray[Any]:
        before = [c for c in codecs if c.name == "transpose"]
        serializers = [c for c in codecs if c.name not in _BYTES_CODECS and c.name != "transpose"]
        packers = [c for c in codecs if c.name in _BYTES_CODECS]
        if len(serializers) != 1 or list(codecs) != [*before, *serializers, *packers]:
            raise CorruptChunkError("its codecs are in an impossible order")
        orders = [_order(c.configuration, len(shape)) for c in before]
        inner = shape
        for order in orders:
            inner = tuple(inner[i] for i in order)
        serializer = serializers[0]
        if serializer.name == "sharding_indexed":
            if packers:
                raise CorruptChunkError("its shards are compressed as a whole")
            values = self._shard(data, serializer.configuration, inner)
        elif serializer.name == "vlen-utf8":
            values = _strings(self._unpack(data, packers, None), inner)
        else:
            size = math.prod(inner) * self.dtype.itemsize
            values = self._numbers(self._unpack(data, packers, size), serializer.configuration, inner)
        for order in reversed(orders):
            values = values.transpose(np.argsort(order))
        return values

    def _unpack(self, data: Any, packers: Sequence[CodecNode], size: int | None) -> Any:
        """Undo the packing codecs, the last first; ``size`` is what the first was given (None: at most the limit)."""
        bounds: list[tuple[int, bool]] = []
        bound, exact = (self.text_limit, False) if size is None else (size, True)
        for codec in packers:
            bounds.append((bound, exact))
            if codec.name == "crc32c":
                bound += 4
            else:
                bound, exact = encoded_bound(bound), False
        for codec, (limit, is_exact) in zip(reversed(packers), reversed(bounds), strict=True):
            data = _UNPACK[codec.name](data, limit, is_exact)
        if size is not None and len(data) != size:
            raise CorruptChunkError(f"it has {len(data)} bytes where {size} belong")
        return data

    def _numbers(self, data: Any, configuration: Mapping[str, Any], shape: tuple[int, ...]) -> NDArray[Any]:
        dtype = self.dtype.newbyteorder(">") if configuration.get("endian") == "big" else self.dtype
        values = np.frombuffer(data, dtype=dtype).reshape(shape)
        return values if dtype == self.dtype else values.astype(self.dtype)

    def _shard(self, data: Any, configuration: Mapping[str, Any], shape: tuple[int, ...]) -> NDArray[Any]:
        chunks = configuration.get("chunk_shape")
        if (
            not isinstance(chunks, list)
            or len(chunks) != len(shape)
            or not all(type(c) is int and c > 0 and n % c == 0 for c, n in zip(chunks, shape, strict=True))
        ):
            raise CorruptChunkError("its shards and chunks do not fit")
        grid = tuple(n // c for n, c in zip(shape, chunks, strict=True))
        if math.prod(grid) > _MOST_IN_SHARD:
            raise CorruptChunkError(f"its shards hold {math.prod(grid)} chunks, more than {_MOST_IN_SHARD}")
        index = _shard_index(data, configuration, math.prod(grid)).reshape(*grid, 2)
        out = np.full(shape, stored_fill(self.array), dtype=self.dtype)
        codecs = inner_codecs(configuration)
        for place in np.ndindex(*grid):
            offset, length = (int(v) for v in index[place])
            if offset == length == _MISSING:
                continue
            if offset + length > len(data):
                raise CorruptChunkError(f"the chunk {place} of its shard lies beyond its end")
            region = tuple(slice(i * c, (i + 1) * c) for i, c in zip(place, chunks, strict=True))
            out[region] = self.decode(data[offset : offset + length], codecs, tuple(chunks))
        return out


def _shard_index(data: Any, configuration: Mapping[str, Any], count: int) -> NDArray[np.uint64]:
    names = [c if isinstance(c, str) else c.get("name") for c in configuration.get("index_codecs", [])]
    if names not in (["bytes"], ["bytes", "crc32c"]):
        raise CorruptChunkError("the index of its shard is encoded in an unknown way")
    size = 16 * count + (4 if len(names) == 2 else 0)
    if len(data) < size:
        raise CorruptChunkError("the index of its shard is cut off")
    raw = data[:size] if configuration.get("index_location", "end") == "start" else data[len(data) - size :]
    if len(names) == 2:
        raw = _crc32c(raw, size, False)
    return np.frombuffer(raw, dtype="<u8")


def _order(configuration: Mapping[str, Any], ndim: int) -> list[int]:
    order = configuration.get("order")
    if order == "C":
        return list(range(ndim))
    if order == "F":
        return list(reversed(range(ndim)))
    if isinstance(order, list) and all(type(i) is int for i in order) and sorted(order) == list(range(ndim)):
        return order
    raise CorruptChunkError("its transposition cannot be read")


def _strings(data: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    count = math.prod(shape)
    view = memoryview(data).cast("B")
    # Each string has its length in front, so that a number of them that the data have no room for costs no memory.
    if len(view) < 4 + 4 * count or int.from_bytes(view[:4], "little") != count:
        raise CorruptChunkError(f"it does not hold {count} strings")
    out = np.empty(count, dtype=object)
    position = 4
    for number in range(count):
        length = int.from_bytes(view[position : position + 4], "little")
        end = position + 4 + length
        if position + 4 > len(view) or end > len(view):
            raise CorruptChunkError("a string is cut off")
        try:
            out[number] = str(view[position + 4 : end], "utf-8")
        except UnicodeDecodeError as error:
            raise CorruptChunkError("a string is not UTF-8") from error
        position = end
    return out.reshape(shape)


def _crc32c(data: Any, limit: int, exact: bool) -> Any:
    import google_crc32c

    body, stored = data[:-4], data[-4:]
    if len(data) < 4 or google_crc32c.value(np.frombuffer(body, np.uint8)) != int.from_bytes(stored, "little"):
        raise CorruptChunkError("its checksum is wrong")
    return body


def _zstd(data: Any, limit: int, exact: bool) -> Any:
    from numcodecs import zstd

    declared = zstd_declared_size(data)
    if declared is None:
        if not exact:
            raise CorruptChunkError("its zstd frame declares no size")
        declared = limit
    _check_declared(declared, limit, exact)
    out = np.empty(declared, np.uint8)
    try:
        zstd.decompress(data, out)
    except (RuntimeError, ValueError) as error:
        raise CorruptChunkError(f"its zstd frame is damaged ({_plain(error)})") from error
    return out.data


def zstd_declared_size(data: Any) -> int | None:
    """Return the size that a zstd frame says it inflates to, or None where it says none (RFC 8878, 3.1.1.1)."""
    head = bytes(data[:18])
    if len(head) < 6 or head[:4] != b"\x28\xb5\x2f\xfd":
        raise CorruptChunkError("it is not a zstd frame")
    descriptor = head[4]
    single_segment = bool(descriptor & 0x20)
    width = (0, 2, 4, 8)[descriptor >> 6]
    if width == 0:
        if not single_segment:
            return None
        width = 1
    start = 5 + (0 if single_segment else 1) + (0, 1, 2, 4)[descriptor & 3]
    if len(head) < start + width:
        raise CorruptChunkError("its zstd frame is cut off")
    return int.from_bytes(head[start : start + width], "little") + (256 if width == 2 else 0)


def _gzip(data: Any, limit: int, exact: bool) -> Any:
    inflater = zlib.decompressobj(wbits=31)
    try:
        out = inflater.decompress(data, limit + 1)
    except zlib.error as error:
        raise CorruptChunkError(f"its gzip stream is damaged ({_plain(error)})") from error
    if len(out) > limit:
        raise BombError(f"it inflates to more than {limit} bytes")
    if not inflater.eof:
        raise CorruptChunkError("its gzip stream is cut off")
    return out


def _blosc(data: Any, limit: int, exact: bool) -> Any:
    from numcodecs import blosc

    if len(data) < 16:
        raise CorruptChunkError("it is not a blosc frame")
    declared = int.from_bytes(data[4:8], "little")
    _check_declared(declared, limit, exact)
    if int.from_bytes(data[12:16], "little") != len(data):
        raise CorruptChunkError("its blosc frame has another length than it says")
    out = np.empty(declared, np.uint8)
    try:
        blosc.decompress(bytes(data), out)
    except (RuntimeError, ValueError) as error:
        raise CorruptChunkError(f"its blosc frame is damaged ({_plain(error)})") from error
    return out.data


def _check_declared(declared: int, limit: int, exact: bool) -> None:
    if declared > limit:
        raise BombError(f"it declares {declared} bytes where {limit} belong")
    if exact and declared != limit:
        raise CorruptChunkError(f"it declares {declared} bytes where {limit} belong")


def _plain(error: Exception) -> str:
    return str(error)[:120]


_UNPACK = {"crc32c": _crc32c, "zstd": _zstd, "gzip": _gzip, "blosc": _blosc}
