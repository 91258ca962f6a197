"""One chain's region of a samples store, written behind the engine's back and in an order that survives a crash.

How many draws of it count, ``draws_written``, the coordinator writes: `devinterp.store.writing.run`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devinterp.errors import StoreError
from devinterp.schema.definition.spec import ArrayLayout, GroupLayout, StorageSpec
from devinterp.schema.reading.keys import ChunkKeys, join_key
from devinterp.steps import StepLayout
from devinterp.store.chain_checkpoints import ChainProgress, state_key, write_checkpoint, write_progress
from devinterp.store.location import Location
from devinterp.store.lock import WriterLock
from devinterp.store.zarr_metadata import open_array
from devinterp.wording import shown

__all__ = ["ChainWriter"]

# Flushes that may wait behind the disk: the writer's memory is these, the chunk being filled, and no more.
_MAX_PENDING = 2
_CHECKPOINT_SECONDS = 60.0
# A larger state is waited for: behind the disk it would be one copy more of the weights, beside the next gradients.
_WAITING_BYTES = 2**24


@dataclass(frozen=True)
class _Write:
    """One chunk or state, and what puts it there."""

    key: str
    run: Callable[[], None]


class _Region:
    """The rows of one array along ``chain``, gathered one chunk at a time."""

    def __init__(self, location: Location, group: str, layout: ArrayLayout, storage: StorageSpec, chain: int) -> None:
        self.layout = layout
        self.rows = layout.shape[1]
        self.per_chunk = layout.chunks[1]
        self._chain = chain
        self._path = join_key(group, layout.name)
        self._array = open_array(location, f"{group}/{layout.name}", layout, storage)
        self._start = 0
        self._buffer = self._blank(0)

    def _blank(self, start: int) -> NDArray[Any]:
        count = min(self.per_chunk, self.rows - start)
        return np.full((count, *self.layout.shape[2:]), self.layout.fill, self.layout.dtype)

    def put(self, row: int, values: NDArray[Any]) -> list[_Write]:
        """Copy consecutive rows in; return the writes of the chunks that this filled."""
        writes = []
        done = 0
        while done < len(values):
            offset = row + done - self._start
            count = min(len(self._buffer) - offset, len(values) - done)
            self._buffer[offset : offset + count] = values[done : done + count]
            done += count
            if offset + count == len(self._buffer):
                writes.append(self._write(self._start, self._buffer))
                self._start += len(self._buffer)
                self._buffer = self._blank(self._start) if self._start < self.rows else self._buffer[:0]
        return writes

    def flush(self) -> list[_Write]:
        """Return the write of the chunk that is being filled, as it stands."""
        return [self._write(self._start, self._buffer.copy())] if len(self._buffer) else []

    def truncate(self, row: int) -> list[_Write]:
        """Make every row from ``row`` on fill, on disk too, and return the writes (all chunks that are left)."""
        writes = []
        if row < self._start:  # rows beyond the prefix lie in a chunk that was written already
            first = (row // self.per_chunk) * self.per_chunk
            kept = np.asarray(self._array[self._chain, first:row])
            self._start, self._buffer = first, self._blank(first)
            self._buffer[: row - first] = kept
        else:
            self._buffer[max(0, row - self._start) :] = self.layout.fill
        start, block = self._start, self._buffer
        while len(block):
            writes.append(self._write(start, block))
            start += len(block)
            block = self._blank(start) if start < self.rows else block[:0]
        self._start, self._buffer = self.rows, self._buffer[:0]
        return writes

    def restore(self, row: int) -> None:
        """Take up again at ``row``, with what its chunk already holds."""
        self._start = min((row // self.per_chunk) * self.per_chunk, self.rows)
        self._buffer = self._blank(self._start) if self._start < self.rows else self._buffer[:0]
        if row > self._start:
            self._buffer[: row - self._start] = np.asarray(self._array[self._chain, self._start : row])

    def _write(self, start: int, block: NDArray[Any]) -> _Write:
        def write() -> None:
            self._array[self._chain, start : start + len(block)] = block

        rest = (0,) * (len(self.layout.shape) - 2)  # every other dimension is whole in a chunk
        chunk = ChunkKeys().name((self._chain, start // self.per_chunk, *rest))
        return _Write(join_key(self._path, chunk), write)


class ChainWriter:
    """The sink of one chain; see ``docs/architecture.md`` for what the engine calls.

    Parameters
    ----------
    location : Location
    group : str
        Path of the samples group inside the store (``"/"`` for a store of its own).
    chain : int
    layout : GroupLayout
    storage : StorageSpec
    steps : StepLayout
    start : ChainProgress, optional
        Where a resumed chain goes on.
    checkpoint_every : int, optional
        Draws between checkpoints; by default a chunk of draws, and also whenever a minute has passed.
    keep_state : bool
        Ask for the state behind the last draw too, from which the chain can be given more.
    lock : WriterLock, optional
        The chain's; confirmed before every write, and given back by `finish` and `abort`.

    Notes
    -----
    The order on disk is arrays, checkpoint, progress, also across a power cut: each waits until what it speaks of has
    reached the disk. Behind a write that failed nothing more is written, so that no checkpoint stands past a gap.
    """

    def __init__(
        self,
        location: Location,
        group: str,
        chain: int,
        layout: GroupLayout,
        storage: StorageSpec,
        steps: StepLayout,
        *,
        start: ChainProgress | None = None,
        checkpoint_every: int | None = None,
        keep_state: bool = False,
        lock: WriterLock | None = None,
    ) -> None:
        self.group, self.chain = group, chain
        self._lock = lock
        self._location, self._steps = location, steps
        self._masks = {name for name in layout.arrays if any(a.mask == name for a in layout.arrays.values())}
        regions = {
            a.name: _Region(location, group, a, storage, chain)
            for a in layout.arrays.values()
            if a.spec.prefix is not None
        }
        self._by_draw = {n: r for n, r in regions.items() if r.layout.spec.prefix == "draw"}
        self._by_step = {n: r for n, r in regions.items() if r.layout.spec.prefix == "step"}
        self._progress = self._durable = start or ChainProgress()
        self._last_loss: NDArray[Any] | None = None
        for region in self._by_draw.values():
            region.restore(self._progress.draws)
        for region in self._by_step.values():
            region.restore(self._progress.steps)
        chunk = max((r.per_chunk for r in self._by_draw.values()), default=50)
        self._interval = checkpoint_every or chunk
        self._keep_state = keep_state
        self._began = self._last_checkpoint = time.monotonic()
        self._seconds_before = self._progress.seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"devinterp-writer-{chain}")
        self._pending: deque[Future[None]] = deque()
        self._unsynced: set[str] = set()  # of the thread's own: chunks that may not have reached the disk
        self._error: Exception | None = None

    @property
    def progress(self) -> ChainProgress:
        """How far the chain has come, in what was handed over; after a failed write, in what is on disk."""
        if self._last_loss is not None:  # averaged where somebody asks, not at every draw
            loss = float(np.nanmean(self._last_loss, dtype=np.float64))
            self._progress, self._last_loss = replace(self._progress, loss=loss), None
        return self._progress if self._error is None else self.durable

    @property
    def durable(self) -> ChainProgress:
        """How far the chain has come on disk: its last checkpoint, or its end."""
        return self._durable

    def confirm(self) -> None:
        """See that the chain is still this writer's; see `WriterLock.confirm`."""
        if self._lock is not None:
            self._lock.confirm()

    def steps(self, first_step: int, rows: Mapping[str, NDArray[Any]]) -> None:
        """Take the diagnostics of consecutive steps: name to (n, ...)."""
        self._take(self._by_step, first_step, rows, self._progress.steps, "step")
        count = len(next(iter(rows.values())))
        self._progress = replace(self._progress, steps=first_step + count, step=first_step + count)

    def draw(self, draw: int, rows: Mapping[str, NDArray[Any]]) -> None:
        """Take one draw: name to the draw's row."""
        self._take(self._by_draw, draw, {n: v[None] for n, v in rows.items()}, self._progress.draws, "draw")
        self._progress = replace(self._progress, draws=draw + 1)
        self._last_loss = rows.get("sampling_loss")

    def checkpoint_due(self, draws: int) -> bool:
        """Whether the engine should hand over its state after so many draws."""
        if draws == self._steps.draws:  # nothing is left to lose but what a longer run would need
            return self._keep_state
        return draws % self._interval == 0 or time.monotonic() - self._last_checkpoint > _CHECKPOINT_SECONDS

    def checkpoint(self, draws: int, step: int, state: bytes) -> None:
        """Put every row so far on disk, then the state, then the progress."""
        self._last_checkpoint = time.monotonic()
        progress = replace(self.progress, draws=draws, steps=step, step=step, seconds=self._seconds())
        for region in (*self._by_draw.values(), *self._by_step.values()):
            self._submit_all(region.flush())
        self._submit(_Write(state_key(self.group, self.chain, "state"), lambda: self._save(progress, state)))
        self._submit(self._telling(progress))
        if len(state) > _WAITING_BYTES:
            self._drain(0)

    def _save(self, progress: ChainProgress, state: bytes) -> None:
        self._settle()
        write_checkpoint(self._location, self.group, self.chain, progress, state)

    def _telling(self, progress: ChainProgress) -> _Write:
        def tell() -> None:
            self._settle()
            write_progress(self._location, self.group, self.chain, progress)
            self._durable = progress

        return _Write(state_key(self.group, self.chain, "progress"), tell)

    def _settle(self) -> None:
        self._location.fsync(self._unsynced)
        self._unsynced.clear()

    def finish(self, status: str, reason: str | None, step: int) -> ChainProgress:
        """Write what is left, wait for the disk, and return the final progress.

        A chain that is ``complete`` or ``failed`` gets all its chunks, fill behind its prefix; one that was
        ``interrupted`` stops where its last rows are, to be resumed.

        Raises
        ------
        StoreError
            Something could not be written, now or before.
        """
        draws = self._progress.draws
        try:
            self._drain(0)
            if status == "interrupted":
                for region in (*self._by_draw.values(), *self._by_step.values()):
                    self._submit_all(region.flush())
            else:
                for region in self._by_draw.values():
                    self._submit_all(region.truncate(draws))
                limit = self._steps.steps_of(draws)
                for region in self._by_step.values():
                    self._submit_all(region.truncate(min(limit, self._progress.steps)))
            self._progress = replace(self.progress, status=status, reason=reason, step=step, seconds=self._seconds())
            final = self._progress
            self._submit(self._telling(final))
            self._drain(0)
            if status != "interrupted" and not self._keep_state:
                # A study has many chains, and each of their states is as large as the model.
                self._location.delete(state_key(self.group, self.chain, "state"))
        finally:
            self.abort()
        return self._progress

    def abort(self) -> None:
        """Let the writes that were handed over end, and stop: the last checkpoint stands."""
        self._thread.shutdown(wait=True)
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _seconds(self) -> float:
        """Time spent on the chain so far, rounded to milliseconds."""
        return round(self._seconds_before + time.monotonic() - self._began, 3)

    def _take(
        self,
        regions: Mapping[str, _Region],
        first: int,
        rows: Mapping[str, NDArray[Any]],
        expected_first: int,
        axis: str,
    ) -> None:
        if set(rows) != set(regions):
            raise StoreError(
                f"The rows of {axis} {first} of chain {self.chain} are not those of the schema.",
                expected=sorted(regions),
                found=sorted(rows),
            )
        if first != expected_first:
            raise StoreError(
                f"Chain {self.chain} hands over {axis} {first} out of turn.", expected=expected_first, found=first
            )
        for name, values in rows.items():
            layout = regions[name].layout
            # The schema may ask for a wider type than the engine computes in; nothing is lost by that.
            wider = values.dtype != layout.dtype and not np.can_cast(values.dtype, layout.dtype, "safe")
            if wider or values.shape[1:] != layout.shape[2:]:
                raise StoreError(
                    f"A row of {name!r} does not fit the store.",
                    expected=f"{shown(layout.shape[2:])} {layout.dtype}",
                    found=f"{shown(values.shape[1:])} {values.dtype}",
                )
            if values.dtype.kind == "f" and not self._is_finite(values, layout.mask, rows):
                raise StoreError(f"A row of {name!r} of chain {self.chain}, {axis} {first}, is not finite.")
            if values.dtype.kind in "iu" and (values < 0).any():
                raise StoreError(f"A row of {name!r} of chain {self.chain}, {axis} {first}, has negative token ids.")
        for name, values in rows.items():
            self._submit_all(regions[name].put(first, values.astype(regions[name].layout.dtype, copy=False)))

    def _is_finite(self, values: NDArray[Any], mask: str | None, rows: Mapping[str, NDArray[Any]]) -> bool:
        """Whether values are finite where they count, and NaN elsewhere; a mask of fixed rows is not handed over."""
        finite = np.isfinite(values)
        if mask in self._masks and not finite.all():
            finite |= np.isnan(values) if mask not in rows else np.isnan(values) & (rows[mask] == 0)
        return bool(finite.all())

    def _submit_all(self, writes: list[_Write]) -> None:
        for write in writes:
            self._submit(write)

    def _submit(self, write: _Write) -> None:
        self._pending.append(self._thread.submit(self._carry_out, write))
        per_flush = len(self._by_draw) + len(self._by_step) + 2
        self._drain(_MAX_PENDING * per_flush)

    def _carry_out(self, write: _Write) -> None:
        """Write, on the thread; nothing any more once something has failed."""
        if self._error is not None:
            return
        try:
            self.confirm()
            write.run()
            self._unsynced.add(write.key)
            try:
                self.confirm()
            except StoreError:  # it was removed between our look and our write, which has made part of it anew
                self._location.undo_write(write.key)
                raise
        except Exception as error:  # whatever a store raises: `_drain` raises it where it is heard
            self._error = error

    def _drain(self, allowed: int) -> None:
        while len(self._pending) > allowed or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()
        if self._error is not None:
            raise StoreError(
                f"Chain {self.chain} could not be written to {self._location.name}: {str(self._error).rstrip('.')}.",
                remedy="All complete draws up to the last checkpoint are readable; mend the cause and call again with "
                "the same arguments to resume.",
            ) from self._error
