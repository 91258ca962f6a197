"""Reading losses block by block, ahead of their use, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.cores import available_cores
from devinterp.store.reading.fast_chunks import BlockReader, block_reader

__all__ = [
    "Block",
    "block_slices",
    "counted_means",
    "in_memory",
    "is_dask",
    "read_blocks",
    "read_whole",
    "reading_once",
    "row_means",
]

READ_AHEAD_BYTES = 48 * 2**20
BLOCK_BYTES = 8 * 2**20  # stays within the cache of the last level
READERS = min(8, available_cores())  # more than there are cores only cost memory that is got and given back
REMEMBERED_BYTES = 256 * 2**20


@dataclass
class _Read:
    """What was read within `reading_once`.

    By what was made of it and the identity of the variable, which is kept so that no other can take its place.
    """

    arrays: dict[tuple[str, int], tuple[xr.Variable, npt.NDArray[np.float64]]] = field(default_factory=dict)
    nbytes: int = 0


_read: ContextVar[_Read | None] = ContextVar("read", default=None)


class Block(NamedTuple):
    """Part of one array: whole along all dimensions but the first two, (chain, draw) or (chain, step)."""

    key: str
    chains: slice
    draws: slice
    values: npt.NDArray[Any]


def is_dask(array: xr.DataArray) -> bool:
    """Whether the array is backed by dask."""
    return array.chunks is not None


def in_memory(array: xr.DataArray) -> bool:
    """Whether reading the array costs no I/O.

    xarray has no public name for it. It decides what a block may hold in memory, not speed: 50 MB in memory are read as
    fast either way.
    """
    return bool(array.variable._in_memory)


def block_slices(array: xr.DataArray) -> list[tuple[slice, slice]]:
    """Cut the first two dimensions along the store's chunks, chain by chain.

    Small chunks of one chain are taken together, and then small chains, since every read has a cost of its own; an
    array in memory is cut into views of the same size.
    """
    num_chains, num_draws = array.shape[:2]
    per_draw = max(1, int(np.prod(array.shape[2:], dtype=np.int64)) * array.dtype.itemsize)
    if in_memory(array):
        chain_step, draw_step = 1, max(1, BLOCK_BYTES // per_draw)
    else:
        chunks = array.encoding.get("preferred_chunks") or {}
        chain_step = int(chunks.get(array.dims[0], 1))
        draw_step = int(chunks.get(array.dims[1], num_draws))
        draw_step *= max(1, BLOCK_BYTES // (per_draw * draw_step * chain_step))
        if draw_step >= num_draws:
            chain_step *= max(1, BLOCK_BYTES // (per_draw * num_draws * chain_step))
    return [
        (slice(c, min(c + chain_step, num_chains)), slice(d, min(d + draw_step, num_draws)))
        for c in range(0, num_chains, chain_step)
        for d in range(0, num_draws, draw_step)
    ]


def read_blocks(requests: Iterable[tuple[str, xr.DataArray, slice, slice]]) -> Iterator[Block]:
    """Yield the requested blocks in order, reading ahead on a few threads.

    At most `READ_AHEAD_BYTES` (and always one block) wait in memory. Values of arrays in memory are views.
    """
    pending: deque[tuple[str, slice, slice, Future[npt.NDArray[Any]] | npt.NDArray[Any], int]] = deque()
    waiting = 0
    readers: dict[int, tuple[xr.Variable, BlockReader]] = {}  # the variable is kept, so that its identity is
    with ThreadPoolExecutor(max_workers=READERS, thread_name_prefix="devinterp-read") as pool:
        try:
            for key, array, chains, draws in requests:
                if in_memory(array):
                    pending.append((key, chains, draws, np.asarray(array.variable[chains, draws].values), 0))
                else:
                    rows = (chains.stop - chains.start) * (draws.stop - draws.start)
                    size = rows * int(np.prod(array.shape[2:], dtype=np.int64)) * array.dtype.itemsize
                    while pending and waiting + size > READ_AHEAD_BYTES:
                        block, freed = _finish(pending)
                        yield block
                        del block
                        waiting -= freed
                    variable = array.variable
                    if id(variable) not in readers:
                        readers[id(variable)] = variable, block_reader(variable)
                    pending.append((key, chains, draws, pool.submit(readers[id(variable)][1], chains, draws), size))
                    waiting += size
                while pending and isinstance(pending[0][3], np.ndarray):
                    yield _finish(pending)[0]
            while pending:
                yield _finish(pending)[0]
        finally:
            for *_, value, _size in pending:
                if isinstance(value, Future):
                    value.cancel()


def read_whole(arrays: Mapping[str, xr.DataArray]) -> dict[str, npt.NDArray[np.float64]]:
    """Read small arrays, (chain, draw or step, ...), all at once: as float64, by their keys."""
    there = {key: _recalled("values", array) for key, array in arrays.items()}
    found = {
        k: np.empty(arrays[k].shape, dtype=np.float64) if values is None else values for k, values in there.items()
    }
    lacking = [key for key, values in there.items() if values is None]
    for block in read_blocks((key, arrays[key], *cut) for key in lacking for cut in block_slices(arrays[key])):
        found[block.key][block.chains, block.draws] = block.values
    for key in lacking:
        _remember("values", arrays[key], found[key])
    return found


def _finish(pending: deque[Any]) -> tuple[Block, int]:
    key, chains, draws, value, size = pending.popleft()
    return Block(key, chains, draws, value.result() if isinstance(value, Future) else value), size


def row_means(array: xr.DataArray, counts: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.float64]:
    """Average over tokens in float64, one pass over the array's chunks.

    Parameters
    ----------
    array : DataArray, dims (chain, draw or step, row, token_pos)
        Losses (nat), lazily loaded, in memory, or backed by dask.
    counts : array of bool, shape (row, token_pos), optional
        Which of them count, where not all do.

    Returns
    -------
    array of float64, shape (chain, draw or step, row)
        NaN or infinite where a token's loss is; NaN of a row in which nothing counts.
    """
    if is_dask(array):
        kept = array if counts is None else array.where(xr.DataArray(counts, dims=array.dims[2:]), 0.0)
        found = np.asarray(kept.mean([array.dims[-1]], dtype=np.float64, skipna=False).values)
        return found if counts is None else _of_counted(found * array.shape[-1], counts.sum(axis=1))
    remembered = _recalled("means", array)
    if remembered is not None:
        return remembered
    means = np.empty(array.shape[:3], dtype=np.float64)
    requests = (("", array, chains, draws) for chains, draws in block_slices(array))
    with np.errstate(invalid="ignore", over="ignore"):
        for block in read_blocks(requests):
            if counts is None:
                np.mean(block.values, axis=-1, dtype=np.float64, out=means[block.chains, block.draws])
            else:
                total = np.add.reduce(block.values, axis=-1, dtype=np.float64, where=counts)
                means[block.chains, block.draws] = _of_counted(total, counts.sum(axis=1))
    _remember("means", array, means)
    return means


def _of_counted(total: npt.NDArray[np.float64], number: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = np.full(total.shape, np.nan)
    np.divide(total, number, out=found, where=np.broadcast_to(number > 0, total.shape))
    return found


def counted_means(
    array: xr.DataArray, mask: xr.DataArray, known: npt.NDArray[np.bool_] | None = None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Average over the tokens that count, where these are others at every draw.

    Parameters
    ----------
    array, mask : DataArray, dims (chain, draw or step, row, token_pos)
        Losses (nat), and 1 where one counts, 0 where it does not, another number where none was written.
    known : array of bool, shape (token_pos,), optional
        Positions to look at; by default all.

    Returns
    -------
    means, number : array of float64, shape (chain, draw or step, row)
        NaN or infinite where a loss that counts is. A row that was never written has one loss, which is NaN.
    """
    means, number = (np.empty(array.shape[:3]) for _ in range(2))
    requests = ((key, a, c, d) for c, d in block_slices(array) for key, a in (("mask", mask), ("loss", array)))
    with np.errstate(invalid="ignore", over="ignore"):
        for block in read_blocks(requests):
            if block.key == "mask":
                written = (block.values >= 0).any(axis=-1)
                counts = (block.values == 1) & (True if known is None else known)
                continue
            at = block.chains, block.draws
            total = np.add.reduce(block.values, axis=-1, dtype=np.float64, where=counts)
            number[at] = np.where(written, counts.sum(axis=-1), 1)
            means[at] = _of_counted(np.where(written, total, np.nan), number[at])
    return means, number


@contextmanager
def reading_once() -> Iterator[None]:
    """While the context lasts, `row_means` and `read_whole` read every stored array once.

    For callers that make several analyses of one and the same store, as a report and the summary of a sweep do: what
    one has averaged, another needs again.
    """
    token = _read.set(_read.get() or _Read())
    try:
        yield
    finally:
        _read.reset(token)


def _recalled(what: str, array: xr.DataArray) -> npt.NDArray[np.float64] | None:
    known = _read.get()
    return None if known is None else known.arrays.get((what, id(array.variable)), (None, None))[1]


def _remember(what: str, array: xr.DataArray, values: npt.NDArray[np.float64]) -> None:
    known = _read.get()
    if known is not None and known.nbytes + values.nbytes <= REMEMBERED_BYTES:
        values.flags.writeable = False
        known.arrays[what, id(array.variable)] = (array.variable, values)
        known.nbytes += values.nbytes
