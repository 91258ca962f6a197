"""Values from the chunks of a store, read and decoded one by one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from devinterp.errors import StoreError
from devinterp.schema.reading.access import EscapeError, TooLargeError, read_many
from devinterp.schema.reading.decode_chunk import (
    BombError,
    CorruptChunkError,
    chunk_bytes,
    decode_chunk,
    numpy_dtype,
    object_bound,
    stored_fill,
)
from devinterp.schema.reading.keys import chunk_grid, join_key
from devinterp.schema.reading.nodes import NotReadableError

if TYPE_CHECKING:
    from devinterp.schema.reading.access import Access
    from devinterp.schema.reading.limits import Limits
    from devinterp.schema.reading.nodes import ArrayNode

__all__ = ["OverMemoryError", "StoreValues"]

TEXT_LIMIT = 4 * 2**20
_CACHED = 8 * 2**20
_TOO_LARGE = "the object is larger than any chunk of the array can be"


class OverMemoryError(NotReadableError):
    """A chunk is larger than the memory limit allows."""


class StoreValues:
    """The values of the arrays of one store.

    Parameters
    ----------
    access : Access
    limits : Limits

    Attributes
    ----------
    omittable : set of str
        Paths of arrays whose absent chunks are fill by right.
    left_out : dict of str to str
        Paths of arrays whose chunks need not be asked for, and why.
    """

    def __init__(self, access: Access, limits: Limits) -> None:
        self._access, self._limits = access, limits
        self.budget = limits.memory // 4
        self.omittable: set[str] = set()
        self.left_out: dict[str, str] = {}
        self._cache: dict[str, NDArray[Any]] = {}
        self._cached = 0

    def chunk_size(self, array: ArrayNode) -> int:
        """Bytes of one decoded chunk."""
        return chunk_bytes(array, self._text_limit)

    @property
    def _text_limit(self) -> int:
        return min(TEXT_LIMIT, self._limits.chunk // 16)

    def chunk(self, array: ArrayNode, index: tuple[int, ...]) -> NDArray[Any] | None:
        """Return one chunk, cut to the array's end, or None where it is not there.

        Raises
        ------
        CorruptChunkError, BombError, EscapeError
            It cannot be decoded, or must not be.
        OverMemoryError
            It is too large.
        StoreError
            It cannot be read.
        """
        self._check_size(array)
        try:
            raw = self._access.get(self._key(array, index), object_bound(array, self._text_limit))
        except TooLargeError as error:
            raise CorruptChunkError(_TOO_LARGE) from error
        return None if raw is None else self._decode(array, index, raw)

    def chunks(self, array: ArrayNode) -> Iterator[tuple[tuple[int, ...], NDArray[Any] | StoreError | None]]:
        """Yield what `chunk` returns or raises for every chunk of a small array, asked for all at once."""
        self._check_size(array)
        indices = list(all_chunks(array))
        found = read_many(self._access, [self._key(array, i) for i in indices], object_bound(array, self._text_limit))
        for index, raw in zip(indices, found, strict=True):
            if isinstance(raw, TooLargeError):
                yield index, CorruptChunkError(_TOO_LARGE)
            elif isinstance(raw, bytes):
                try:
                    yield index, self._decode(array, index, raw)
                except StoreError as error:
                    yield index, error
            else:
                yield index, raw

    def _check_size(self, array: ArrayNode) -> None:
        size = self.chunk_size(array)
        if size > self._limits.chunk:
            raise OverMemoryError(
                f"its chunks have {size} bytes, more than {self._limits.chunk}: raise limits.memory to check them"
            )

    def _key(self, array: ArrayNode, index: tuple[int, ...]) -> str:
        assert array.storage is not None
        return join_key(array.path, array.storage.keys.name(index))

    def _decode(self, array: ArrayNode, index: tuple[int, ...], raw: bytes) -> NDArray[Any]:
        assert array.storage is not None
        values = decode_chunk(raw, array, self._text_limit)
        inside = tuple(
            slice(0, min(c, n - i * c)) for i, c, n in zip(index, array.storage.chunks, array.shape, strict=True)
        )
        return values[inside]

    def keep(self, array: ArrayNode, values: NDArray[Any]) -> None:
        """Keep a small array that was read whole: relations will ask for it again."""
        if values.dtype != object and values.nbytes + self._cached <= _CACHED:
            self._cache[array.path] = values
            self._cached += values.nbytes

    def read(self, array: ArrayNode, selection: Mapping[str, slice] | None = None) -> NDArray[Any]:
        """Return values of an array, or of a part of it.

        Raises
        ------
        NotReadableError
            They are damaged, missing or more than the budget.
        """
        region = [range(n)[(selection or {}).get(d, slice(None))] for d, n in zip(array.dims, array.shape, strict=True)]
        if array.path in self._cache:
            return self._cache[array.path][tuple(slice(r.start, r.stop) for r in region)]
        dtype = numpy_dtype(array)
        if math.prod(len(r) for r in region) * dtype.itemsize > self.budget:
            raise NotReadableError(f"{array.path} is larger than what a rule may hold at once ({self.budget} bytes)")
        out = np.empty(tuple(len(r) for r in region), dtype=dtype)
        text = 0
        touched = list(self._touched(array, region))
        for index in touched:
            try:
                part = self.chunk(array, index)
            except NotReadableError:
                raise
            except StoreError as error:
                raise NotReadableError(f"the chunk /{self._key(array, index)} is damaged") from error
            text += 0 if part is None else text_bytes(part)
            if text > self.budget:
                raise NotReadableError(f"{array.path} has more text than a rule may hold at once ({self.budget} bytes)")
            if part is not None and len(touched) == 1 and part.shape == out.shape:
                return part  # a whole chunk need not be copied
            self._place(array, index, region, part, out)
        return out

    def _touched(self, array: ArrayNode, region: list[range]) -> Iterator[tuple[int, ...]]:
        assert array.storage is not None
        first = [r.start // c for r, c in zip(region, array.storage.chunks, strict=True)]
        last = [-(-r.stop // c) for r, c in zip(region, array.storage.chunks, strict=True)]
        if any(len(r) == 0 for r in region):
            return
        for offset in np.ndindex(*(b - a for a, b in zip(first, last, strict=True))):
            yield tuple(a + o for a, o in zip(first, offset, strict=True))

    def _place(
        self,
        array: ArrayNode,
        index: tuple[int, ...],
        region: list[range],
        part: NDArray[Any] | None,
        out: NDArray[Any],
    ) -> None:
        assert array.storage is not None
        theirs, ours = [], []
        for i, c, n, r in zip(index, array.storage.chunks, array.shape, region, strict=True):
            start, stop = max(i * c, r.start), min((i + 1) * c, n, r.stop)
            theirs.append(slice(start - i * c, stop - i * c))
            ours.append(slice(start - r.start, stop - r.start))
        if part is not None:
            out[tuple(ours)] = part[tuple(theirs)]
        elif array.path in self.omittable:
            out[tuple(ours)] = stored_fill(array)
        else:
            raise NotReadableError(f"the chunk /{self._key(array, index)} is missing")


def text_bytes(values: NDArray[Any]) -> int:
    """Return the bytes of strings beyond those of the array that points to them."""
    return sum(49 + len(v) for v in values.ravel().tolist()) if values.dtype == object else 0


def all_chunks(array: ArrayNode) -> Iterator[tuple[int, ...]]:
    """Yield the index of every chunk of an array."""
    assert array.storage is not None
    yield from np.ndindex(*chunk_grid(array.shape, array.storage.chunks))


__all__ += ["BombError", "CorruptChunkError", "EscapeError", "all_chunks", "text_bytes"]
