"""Values of variables in memory, dask or lazily opened ones among them, a block at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from devinterp.schema.reading.nodes import NotReadableError

if TYPE_CHECKING:
    from devinterp.schema.reading.limits import Limits
    from devinterp.schema.reading.nodes import ArrayNode

__all__ = ["ViewValues"]


class ViewValues:
    """The values of a tree in memory.

    Parameters
    ----------
    limits : Limits
    """

    def __init__(self, limits: Limits) -> None:
        self.budget = limits.memory // 4

    def read(self, array: ArrayNode, selection: Mapping[str, slice] | None = None) -> NDArray[Any]:
        """Return values; see `devinterp.schema.rules.context.Values`.

        Raises
        ------
        NotReadableError
            They are more than the budget, or their file or graph cannot be read.
        """
        part = array.values.isel({d: s for d, s in (selection or {}).items() if d in array.dims})
        loaded = isinstance(part._data, np.ndarray)
        if not loaded and part.size * part.dtype.itemsize > self.budget:
            raise NotReadableError(f"{array.path} is larger than what a rule may hold at once ({self.budget} bytes)")
        try:
            return np.asarray(part.values)
        except Exception as error:  # a lazy array fails in whatever way its source does
            raise NotReadableError(f"{array.path} cannot be read: {type(error).__name__}: {error}") from error

    def blocks(self, array: ArrayNode, size: int) -> Iterator[tuple[tuple[int, ...], NDArray[Any]]]:
        """Yield (offset, block) over the array, in blocks of at most about ``size`` bytes, cut along its chunks."""
        itemsize = max(1, array.values.dtype.itemsize)
        shape = block_shape(array.shape, _preferred(array), max(1, size // itemsize))
        for index in np.ndindex(*(-(-n // b) for n, b in zip(array.shape, shape, strict=True))):
            start = tuple(i * b for i, b in zip(index, shape, strict=True))
            part = {d: slice(s, s + b) for d, s, b in zip(array.dims, start, shape, strict=True)}
            yield start, self.read(array, part)


def _preferred(array: ArrayNode) -> tuple[int, ...]:
    """Chunk sizes that reading is cheap by."""
    chunks = array.values.chunks
    if chunks is not None:
        return tuple(max(c, default=1) for c in chunks)
    encoded = array.values.encoding.get("preferred_chunks", {})
    return tuple(
        int(encoded.get(d, n)) if isinstance(encoded, dict) else n for d, n in zip(array.dims, array.shape, strict=True)
    )


def block_shape(shape: tuple[int, ...], chunks: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Return a block of at most ``count`` elements, cut from chunks along the leading dimensions first."""
    block = [max(1, min(c, n)) for c, n in zip(chunks, shape, strict=True)]
    for axis in range(len(block)):
        others = math.prod(block) // block[axis]
        block[axis] = max(1, min(block[axis], count // max(1, others)))
        if math.prod(block) <= count:
            break
    return tuple(block)
