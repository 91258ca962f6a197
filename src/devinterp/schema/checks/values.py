"""The level ``values``: the data of every declared variable, streamed through pandera in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from devinterp.errors import PredicateError, StoreError
from devinterp.schema.checks.names_and_types import component, pinned
from devinterp.schema.definition.spec import stored_types
from devinterp.schema.findings.codes import RuleCode
from devinterp.schema.reading.decode_chunk import stored_fill
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
from devinterp.schema.rules.context import Context, written_rows
from devinterp.schema.rules.counted_values import Counted
from devinterp.schema.rules.registry import Predicate, find_predicate, resolve_arguments

if TYPE_CHECKING:
    from devinterp.schema.checks.structure import Checked
    from devinterp.schema.definition.spec import VariableSpec
    from devinterp.schema.findings.report import Collector
    from devinterp.schema.reading.limits import Limits
    from devinterp.schema.reading.nodes import ArrayNode
    from devinterp.schema.rules.bound import Bound

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
    (EscapeError, RuleCode.PATH_ESCAPE, "A chunk lies out of the store."),
    (StoreError, RuleCode.UNREADABLE, "A chunk cannot be read."),
)

# What is checked besides the rules that a variable names, by a number that none of these has: what is expected is
# told of the variable.
_FILL, _MASKED = -1, -2
_OWN = {
    _FILL: (RuleCode.NOT_FILL, "Rows behind the last written one are not fill.", "{0.spec.fill} from there on"),
    _MASKED: (RuleCode.MASKED_VALUE, "A value is a number where its mask is 0.", "NaN where {0.counted.mask} is 0"),
}


@dataclass(frozen=True)
class _Use:
    """One value rule of one variable, with its arguments filled in."""

    code: str
    predicate: Predicate
    arguments: dict[str, Any]


@dataclass
class _Tally:
    """What broke one rule of one variable, over all blocks."""

    count: int = 0
    first: str = ""


class _Variable:
    """One variable: its rules, its pandera schema, and how far its chains are written."""

    def __init__(self, bound: Bound, checked: Checked, array: ArrayNode, spec: VariableSpec, context: Context) -> None:
        self.array, self.spec = array, spec
        self.uses: list[_Use] = []
        self.unknown: list[str] = []
        for check in spec.checks:
            arguments = resolve_arguments(check.predicate, check.arguments, bound.root.attrs)
            if arguments is None:
                self.unknown.append(check.predicate)
            else:
                self.uses.append(_Use(check.code, find_predicate(check.predicate), arguments))
        self.whole = any(u.predicate.kind == "whole" for u in self.uses)
        compiled = checked.conformance.compiled(bound)
        self.schema: Any = component(compiled, array.name).to_data_array_schema(array.name)
        self.surely: list[int] | None = None
        self.at_most: list[int] | None = None
        if spec.prefix is not None and "chain" in array.dims and spec.prefix in array.dims:
            self.surely, self.at_most = written_rows(context, spec.prefix)
        states = context.setting("metadata.run.chains")
        # Of a chain that lost data, what can still be read behind the loss stays.
        self.kept = {
            chain
            for chain, state in enumerate(states if isinstance(states, list) else [])
            if isinstance(state, dict) and state.get("data_lost") is True
        }
        mask = bound.mask(array.name)
        self.counted = None if mask is None else Counted(context, array, mask)
        self.tallies: dict[int, _Tally] = {}
        self.failed: dict[int, PredicateError] = {}

    def check(self, block: NDArray[Any], offset: tuple[int, ...]) -> list[tuple[int, int, str]]:
        """Check one block; return (rule, number of values that break it, the first), the rule being one of ours too."""
        out = []
        for start, piece, kind in self._pieces(block, offset):
            if kind == "fill":
                broken = {_FILL: _differs(piece, self.spec.fill)}
            elif self.counted is not None:
                broken = self._masked(piece, self.counted.of(piece, start))
            else:
                broken = {n: self._broken(n, piece) for n in self._verdict(piece)}
            out += [
                (n, int(bad.sum()), _example(self.array, piece, bad, start)) for n, bad in broken.items() if bad.any()
            ]
        return out

    def _masked(self, piece: NDArray[Any], counts: NDArray[np.bool_]) -> dict[int, NDArray[np.bool_]]:
        """What breaks a rule of a variable with a mask: the values that count are as they must be, the others NaN."""
        broken = {_MASKED: ~(counts | np.isnan(piece))}
        for number in range(len(self.uses)):
            if self._broken(number, piece[counts]).any():
                broken[number] = self._broken(number, piece) & counts
        return broken

    def _broken(self, number: int, piece: NDArray[Any]) -> NDArray[np.bool_]:
        use = self.uses[number]
        try:
            if use.predicate.holds(piece, **use.arguments):
                return np.zeros(piece.shape, dtype=bool)
            return use.predicate.broken(piece, **use.arguments)
        except PredicateError as error:
            self.failed.setdefault(number, error)
            return np.zeros(piece.shape, dtype=bool)

    def _pieces(
        self, block: NDArray[Any], offset: tuple[int, ...]
    ) -> Iterator[tuple[tuple[int, ...], NDArray[Any], str]]:
        """Cut a block into rows that are written and rows that must be fill, per chain."""
        if self.surely is None or self.at_most is None:
            yield offset, block, "written"
            return
        assert self.spec.prefix is not None
        chain_axis, row_axis = self.array.dims.index("chain"), self.array.dims.index(self.spec.prefix)
        first, rows = offset[row_axis], block.shape[row_axis]
        chains = range(offset[chain_axis], offset[chain_axis] + block.shape[chain_axis])
        if all(c < len(self.surely) and self.surely[c] >= first + rows for c in chains):
            yield offset, block, "written"
            return
        for number, chain in enumerate(chains):
            own = np.take(block, [number], axis=chain_axis) if len(chains) > 1 else block
            start = list(offset)
            start[chain_axis] = chain
            written = min(max(self.surely[chain] - first, 0), rows) if chain < len(self.surely) else 0
            free = min(max(self.at_most[chain] - first, 0), rows) if chain < len(self.at_most) else 0
            if written:
                yield tuple(start), _rows(own, row_axis, 0, written), "written"
            if free < rows and chain not in self.kept:
                start[row_axis] = first + free
                yield tuple(start), _rows(own, row_axis, free, rows), "fill"

    def _verdict(self, piece: NDArray[Any]) -> list[int]:
        """Numbers of the rules that pandera says are broken."""
        import xarray as xr
        from pandera.errors import SchemaError, SchemaErrors

        try:
            with pinned("DATA_ONLY"):
                self.schema.validate(
                    xr.DataArray(piece, dims=self.array.dims, name=self.array.name), lazy=True, inplace=True
                )
        except SchemaErrors as errors:
            return [int(e.check_index) for e in errors.schema_errors]
        except SchemaError as error:
            return [int(error.check_index)]
        return []

    def take(self, results: list[tuple[int, int, str]]) -> None:
        """Add what a block's check found."""
        for number, count, example in results:
            tally = self.tallies.setdefault(number, _Tally())
            tally.count += count
            tally.first = tally.first or example

    def report(self, findings: Collector) -> None:
        """Add one finding per broken rule."""
        for number, tally in sorted(self.tallies.items()):
            found = f"{tally.count} value(s), the first {tally.first}"
            if number in _OWN:
                code, message, expected = _OWN[number]
                findings.add(code, self.array.path, message, expected=expected.format(self), found=found)
                continue
            use = self.uses[number]
            known = RuleCode.lookup(use.code)
            findings.add(
                use.code,
                self.array.path,
                "A value breaks its rule." if known is None else _sentence(known.title),
                expected=use.predicate.describe(**use.arguments),
                found=found,
                level="values",
            )
        for number, error in sorted(self.failed.items()):
            findings.add(
                RuleCode.RULE_FAILED,
                self.array.path,
                f"The rule {self.uses[number].code} {self.uses[number].predicate.name} could not be evaluated.",
                expected=error.expected,
                found=error.found,
                level="values",
            )
        for name in self.unknown:
            findings.skip(self.array.path, name.replace("_", " "), "the attributes do not say the limit")


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
                    variable = _Variable(bound, checked, array, bound.variables[name][0], context)
                    if isinstance(values, StoreValues):
                        _Stream(variable, values, limits, findings, pool).run()
                    else:
                        _check_view(variable, values, findings)
                    variable.report(findings)


def _workers() -> int:
    return max(1, min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


def _check_view(variable: _Variable, values: ViewValues, findings: Collector) -> None:
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
        self, variable: _Variable, values: StoreValues, limits: Limits, findings: Collector, pool: ThreadPoolExecutor
    ) -> None:
        self.variable, self.values, self.limits, self.findings, self.pool = variable, values, limits, findings, pool
        self.array = variable.array
        size = values.chunk_size(self.array)
        # A chunk is there encoded, decoded, and as the masks of whatever breaks a rule.
        self.window = max(1, min(4 * _workers(), int(0.8 * limits.memory) // max(1, 2 * size + 2**20)))
        self.whole: NDArray[Any] | None = None
        self.damaged = False
        self.placed: list[tuple[tuple[int, ...], tuple[slice, ...]]] = []
        self.text = 0

    def run(self) -> None:
        total = _nbytes(self.array)
        if self.variable.whole or total <= _SMALL:
            if total > self.values.budget:
                self.findings.skip(
                    self.array.path,
                    "values",
                    f"a rule needs all {total} bytes at once, more than the memory limit allows",
                )
                return
            self.whole = np.empty(self.array.shape, dtype=_memory_dtype(self.array))
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


def _nbytes(array: ArrayNode) -> int:
    count = 1
    for n in array.shape:
        count *= n
    return count * _memory_dtype(array).itemsize


def _memory_dtype(array: ArrayNode) -> np.dtype[Any]:
    from devinterp.schema.reading.decode_chunk import numpy_dtype

    return numpy_dtype(array)


def _rows(block: NDArray[Any], axis: int, start: int, stop: int) -> NDArray[Any]:
    index: list[slice] = [slice(None)] * block.ndim
    index[axis] = slice(start, stop)
    return block[tuple(index)]


def _differs(values: NDArray[Any], fill: Any) -> NDArray[np.bool_]:
    if isinstance(fill, float) and np.isnan(fill):
        bad: NDArray[np.bool_] = ~np.isnan(values)
    else:
        bad = values != fill
    return bad


def _example(array: ArrayNode, block: NDArray[Any], broken: NDArray[np.bool_], offset: tuple[int, ...]) -> str:
    """The first value that breaks a rule, and where it is."""
    flat = int(np.argmax(broken))
    place = np.unravel_index(flat, broken.shape)
    where = ", ".join(f"{d}={o + int(i)}" for d, o, i in zip(array.dims, offset, place, strict=True))
    return f"{block[place]!s} at {where}" if where else f"{block[()]!s}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
