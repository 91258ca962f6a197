"""The value rules of one variable: what of a block of its values breaks them, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from devinterp.errors import PredicateError
from devinterp.schema.checks.names_and_types import component, pinned
from devinterp.schema.findings.codes import RuleCode
from devinterp.schema.rules.context import Context
from devinterp.schema.rules.counted_values import Counted
from devinterp.schema.rules.registry import Predicate, find_predicate, resolve_arguments

if TYPE_CHECKING:
    from devinterp.schema.checks.structure import Checked
    from devinterp.schema.definition.spec import VariableSpec
    from devinterp.schema.findings.report import Collector
    from devinterp.schema.reading.nodes import ArrayNode
    from devinterp.schema.rules.bound import Bound

__all__ = ["VariableRules"]

# What is checked besides the rules that a variable names, by a number that none of these has: what is expected is
# told of the variable.
_FILL, _MASKED = -1, -2
_OWN = {
    _FILL: (RuleCode.NOT_FILL, "Rows after the last written one are not fill.", "{0.spec.fill} from there on"),
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


class VariableRules:
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
            self.surely, self.at_most = context.rows_of_chains(spec.prefix)
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
