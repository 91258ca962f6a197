"""The level ``values``: the data of every declared variable, streamed through pandera in bounded memory."""

from __future__ import annotations

import math
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from devinterp.cores import available_cores
from devinterp.errors import StoreError
from devinterp.schema.checks.value_rules import VariableRules
from devinterp.schema.definition.spec import stored_types
from devinterp.schema.findings.codes import RuleCode
from devinterp.schema.reading.decode_chunk import numpy_dtype, stored_fill
from devinterp.schema.reading.memory_values import ViewValues
from devinterp.schema.reading.nodes import NotReadableError, join
from devinterp.schema.reading.store_values import (
    BombError,
    CorruptChunkError,
    EscapeError,
    OverMemoryError,
    StoreValues,
    all_chunks,
    text_bytes,
)
from devinterp.schema.rules.context import Context

if TYPE_CHECKING:
    from devinterp.schema.checks.structure import Checked
    from devinterp.schema.findings.report import Collector
    from devinterp.schema.reading.limits import Limits

__all__ = ["check_values"]

# Arrays up to this size are put together and checked in one piece: pandera costs more than their chunks.
_SMALL = 8 * 2**20
# Blocks of larger ones: small enough for the processor's cache to be of use.
_BLOCK = 16 * 2**20
# Arrays up to this size are read in one go, without threads.
_AT_ONCE = 2**19
# What can come of a chunk, the narrower errors first.
_FAILURES: tuple[tuple[type[StoreError], RuleCode, str], ...] = (
    (OverMemoryError, RuleCode.OVER_MEMORY, "A chunk was not checked."),
    (BombError, RuleCode.DECOMPRESSION_BOMB, "A chunk declares too large a size."),
    (CorruptChunkError, RuleCode.CORRUPT_CHUNK, "A chunk is damaged."),
    (EscapeError, RuleCode.PATH_ESCAPE, "A chunk lies outside the store."),
    (StoreError, RuleCode.UNREADABLE, "A chunk cannot be read."),
)


def check_values(checked: Checked, values: StoreValues | ViewValues, limits: Limits, findings: Collector) -> None:
    """Check the values of every variable whose dimensions and type are right."""
    with ThreadPoolExecutor(_workers(), thread_name_prefix="devinterp-validate") as pool:
        for bound in checked.bounds.values():
            context = Context(bound, values, checked.bounds)
            for name, array in bound.group.arrays.items():
                if name not in bound.variables:
                    findings.skip(array.path, "values", "the variable is not declared")
                elif name not in checked.sound[bound.path] or array.dtype not in stored_types(bound.variables[name][0]):
                    findings.skip(array.path, "values", "the dimensions or the data type are wrong")
                elif isinstance(values, StoreValues) and array.path in values.left_out:
                    findings.skip(array.path, "values", values.left_out[array.path])
                else:
                    variable = VariableRules(bound, checked, array, bound.variables[name][0], context)
                    if isinstance(values, StoreValues):
                        _Stream(variable, values, limits, findings, pool).run()
                    else:
                        _check_view(variable, values, findings)
                    variable.report(findings)


def _workers() -> int:
    return max(1, min(4, available_cores()))


def _check_view(variable: VariableRules, values: ViewValues, findings: Collector) -> None:
    array = variable.array
    try:
        if variable.whole:
            variable.take(variable.check(values.read(array), (0,) * len(array.dims)))
            return
        for offset, block in values.blocks(array, _BLOCK):
            findings.checked["bytes"] += block.nbytes
            variable.take(variable.check(block, offset))
    except NotReadableError as error:
        findings.skip(array.path, "values", error.problem)


class _Stream:
    """The chunks of one array, read and decoded by a few threads, never more at once than memory allows."""

    def __init__(
        self,
        variable: VariableRules,
        values: StoreValues,
        limits: Limits,
        findings: Collector,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.variable, self.values, self.findings, self.pool = variable, values, findings, pool
        self.array = variable.array
        size = values.chunk_size(self.array)
        # A chunk is there encoded, decoded, and as the masks of whatever breaks a rule.
        self.window = max(1, min(4 * _workers(), int(0.8 * limits.memory) // max(1, 2 * size + 2**20)))
        self.whole: NDArray[Any] | None = None
        self.damaged = False
        self.placed: list[tuple[tuple[int, ...], tuple[slice, ...]]] = []
        self.text = 0

    def run(self) -> None:
        total = math.prod(self.array.shape) * numpy_dtype(self.array).itemsize
        if self.variable.whole or total <= _SMALL:
            if total > self.values.budget:
                self.findings.skip(
                    self.array.path,
                    "values",
                    f"a rule needs all {total} bytes at once, more than the memory limit allows",
                )
                return
            self.whole = np.empty(self.array.shape, dtype=numpy_dtype(self.array))
        if self.whole is not None and total <= _AT_ONCE:
            self._run_at_once()
        else:
            self._run_in_threads()
        if self.whole is not None and not self.damaged:
            self.variable.take(self.variable.check(self.whole, (0,) * len(self.array.dims)))
            self.values.keep(self.array, self.whole)
        elif self.whole is not None and not self.variable.whole:
            for start, region in self.placed:  # what is left of it, chunk by chunk
                self.variable.take(self.variable.check(self.whole[region], start))

    def _run_at_once(self) -> None:
        """Ask for all chunks in one go: handing each to a thread would take longer than decoding it."""
        try:
            for index, block in self.values.chunks(self.array):
                if isinstance(block, StoreError):
                    self._report(index, block)
                else:
                    self._take(index, 0 if block is None else block.nbytes, block, [])
        except OverMemoryError as error:
            self._report((0,) * len(self.array.dims), error)

    def _run_in_threads(self) -> None:
        pending: deque[tuple[tuple[int, ...], Future[Any]]] = deque()
        for index in all_chunks(self.array):
            if len(pending) >= self.window:
                self._take_result(*pending.popleft())
            pending.append((index, self.pool.submit(self._work, index)))
        while pending:
            self._take_result(*pending.popleft())

    def _work(self, index: tuple[int, ...]) -> tuple[int, NDArray[Any] | None, list[tuple[int, int, str]]]:
        assert self.array.storage is not None
        block = self.values.chunk(self.array, index)
        if block is None:
            return 0, None, []
        if self.whole is not None:
            return block.nbytes, block, []
        offset = tuple(i * c for i, c in zip(index, self.array.storage.chunks, strict=True))
        return block.nbytes, None, self.variable.check(block, offset)

    def _take_result(self, index: tuple[int, ...], future: Future[Any]) -> None:
        try:
            result = future.result()
        except StoreError as error:
            self._report(index, error)
        else:
            self._take(index, *result)

    def _take(
        self, index: tuple[int, ...], size: int, block: NDArray[Any] | None, results: list[tuple[int, int, str]]
    ) -> None:
        self.findings.checked["bytes"] += size
        self.variable.take(results)
        if self.whole is None or self.text > self.values.budget:
            return
        self.text += 0 if block is None else text_bytes(block)
        if self.text > self.values.budget:
            self._report(index, OverMemoryError(f"its text has more than {self.values.budget} bytes"))
            return
        self._place(index, block)

    def _report(self, index: tuple[int, ...], error: StoreError) -> None:
        """Add the finding that says why a chunk could not be checked."""
        self.damaged = True
        assert self.array.storage is not None
        path = join(self.array.path, self.array.storage.keys.name(index))
        for kind, code, message in _FAILURES:
            if isinstance(error, kind):
                # What is too large is a matter of the array, whichever of its chunks comes first.
                where = self.array.path if code == RuleCode.OVER_MEMORY else path
                self.findings.add(code, where, message, found=error.problem, level="values")
                return

    def _place(self, index: tuple[int, ...], block: NDArray[Any] | None) -> None:
        assert self.array.storage is not None
        assert self.whole is not None
        if block is None and self.array.path not in self.values.omittable:
            self.damaged = True  # the chunk is absent, which the level completeness has said
            return
        start = tuple(i * c for i, c in zip(index, self.array.storage.chunks, strict=True))
        region = tuple(
            slice(s, min(s + c, n)) for s, c, n in zip(start, self.array.storage.chunks, self.array.shape, strict=True)
        )
        self.whole[region] = stored_fill(self.array) if block is None else block
        self.placed.append((start, region))
