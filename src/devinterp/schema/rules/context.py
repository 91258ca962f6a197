"""What a relation is given: a group with its settings, the values it asks for, and the groups around it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from devinterp.plain_json import dig
from devinterp.schema.definition.spec import legal_dims, stored_types
from devinterp.schema.reading.nodes import NotReadableError, Values, join
from devinterp.steps import StepLayout

if TYPE_CHECKING:
    from devinterp.schema.reading.nodes import GroupNode
    from devinterp.schema.rules.bound import Bound

__all__ = ["Context", "out_of_order"]

Written = tuple[list[int] | None, list[int] | None]


class Context:
    """One group, as a relation sees it.

    Attributes
    ----------
    bound : Bound
        The group with the node of its schema: ``bound.schema``, ``bound.node``, ``bound.parameters`` (the settings that
        the schema names, by name), ``bound.members`` (of every family, with its parameters), ``bound.variables`` (what
        is declared, by concrete name), ``bound.path``.
    attrs : mapping
        Attributes of the group.
    group : GroupNode
        The group with what lies below it: ``group.arrays[name]`` has ``dims``, ``shape``, ``dtype`` and ``attrs``.
    budget : int
        Bytes that a relation may hold at once.
    """

    def __init__(self, bound: Bound, values: Values | None, tree: Mapping[str, Bound]) -> None:
        self.bound, self._values, self._tree = bound, values, tree
        self.attrs: Mapping[str, Any] = bound.group.attrs
        self._rows: dict[str, Written] = {}

    @property
    def group(self) -> GroupNode:
        """The group, with what lies below it."""
        return self.bound.group

    @property
    def budget(self) -> int:
        """Bytes that a relation may hold at once."""
        return self._values.budget if self._values is not None else 0

    def setting(self, path: str) -> Any:
        """Return what stands at a dotted path of the attributes, or None."""
        return dig(self.attrs, path)

    def has(self, *names: str) -> bool:
        """Whether every one of the variables is there and declared."""
        return all(n in self.group.arrays and n in self.bound.variables for n in names)

    def size(self, dim: str) -> int | None:
        """Return the size of a dimension, or None where no declared variable has it."""
        for name in self.bound.variables:
            array = self.group.arrays.get(name)
            if array is not None and dim in array.dims:
                return array.shape[array.dims.index(dim)]
        return None

    def read(self, name: str, **selection: slice) -> NDArray[Any]:
        """Return the values of a variable, or of a part of it by dimension.

        Raises
        ------
        NotReadableError
            They are damaged, missing or more than the budget.
        """
        array = self.group.arrays.get(name)
        if self._values is None or array is None:
            raise NotReadableError(f"{name} cannot be read.")
        declared = self.bound.variables.get(name)
        if declared is not None and (
            array.dtype not in stored_types(declared[0]) or array.dims not in legal_dims(*declared)
        ):
            raise NotReadableError(f"{array.path} has the wrong dimensions or the wrong data type")
        return self._values.read(array, selection)

    def written_rows(self, dim: str) -> list[int] | None:
        """For each chain how many rows along ``dim`` are surely written; None where nothing says so."""
        return self.rows_of_chains(dim)[0]

    def rows_of_chains(self, dim: str) -> Written:
        """Return for each chain how many rows along ``dim`` are surely written, and behind which all is fill.

        Between a draw and the next the steps of a chain that failed may or may not have been kept, so that for steps
        the two numbers differ. Both are None where no ``draws_written`` is declared, or where it makes no sense. Of a
        part of a run nobody knows which rows are left: all of a chain that went to its end are written, and any of
        another one.
        """
        if dim not in self._rows:  # every variable along it asks
            self._rows[dim] = _rows_of_chains(self, dim)
        return self._rows[dim]

    def child(self, name: str) -> Context | None:
        """Return the context of a group below, or None."""
        bound = self._tree.get(join(self.group.path, name))
        return None if bound is None else Context(bound, self._values, self._tree)

    def children(self) -> Iterator[tuple[str, Context]]:
        """Yield the groups below by name."""
        for name in self.group.groups:
            child = self.child(name)
            if child is not None:
                yield name, child


def _rows_of_chains(context: Context, dim: str) -> Written:
    found, rows = _rows_when_sampled(context, dim), context.size(dim)
    if found is None or rows is None:
        return None, None
    whole, surely, at_most = found
    sizes = (context.group.selected or {}).get("sizes")
    recorded = isinstance(sizes, Mapping) and dim in sizes
    if not context.group.whole and (rows != whole or recorded or out_of_order(context, dim)):
        return [rows if n == whole else 0 for n in surely], [rows] * len(surely)
    return [min(n, rows) for n in surely], [min(n, rows) for n in at_most]


def out_of_order(context: Context, dim: str) -> bool:
    """Whether each chain of a tree in memory has the rows that it wrote, and yet some of them behind fill.

    ``isel(draw=slice(None, None, -1))`` keeps the size, so that the values of a chain that stopped alone show it.
    """
    found, rows = _rows_when_sampled(context, dim), context.size(dim)
    losses = [
        array
        for name, (spec, _) in context.bound.variables.items()
        if spec.prefix == dim and spec.dtype == "float32" and (array := context.group.arrays.get(name)) is not None
    ]
    if not context.group.view or found is None or rows != found[0] or not losses:
        return False
    smallest, moved = min(losses, key=lambda array: math.prod(array.shape)), False
    for chain, (surely, at_most) in enumerate(zip(*found[1:], strict=True)):
        if surely == rows:
            continue
        try:
            values = context.read(smallest.name, chain=slice(chain, chain + 1))
        except NotReadableError:
            return False
        there = ~np.isnan(values).reshape(rows, -1).all(axis=1)
        if not surely <= there.sum() <= at_most:
            return False
        moved |= not there[: there.sum()].all()
    return moved


def _rows_when_sampled(context: Context, dim: str) -> tuple[int, list[int], list[int]] | None:
    """Rows of a whole chain along ``dim``, and for each chain how many are surely written and how many at most."""
    if dim not in ("draw", "step") or not context.has("draws_written"):
        return None
    try:
        draws = context.read("draws_written").astype(np.int64)
    except NotReadableError:
        return None
    planned = context.bound.parameters.get("num_draws")
    if context.group.whole or type(planned) is not int:
        planned = context.size("draw")
    if draws.ndim != 1 or planned is None or (draws < 0).any() or (draws > planned).any():
        return None
    written = draws.tolist()
    if dim == "draw":
        return planned, written, written
    layout = StepLayout.of({**context.bound.parameters, "num_draws": planned})
    if layout is None:
        return None
    steps = layout.num_steps
    surely = [steps if n == planned else layout.fewest_steps(n) for n in written]
    return steps, surely, [steps if n == planned else layout.steps_of(n) for n in written]
