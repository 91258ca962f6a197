"""Relations between the cells of a sweep and the settings on its root."""

from __future__ import annotations

from collections.abc import Iterator

from devinterp.errors import RestrictionError
from devinterp.names import SWEPT, check_restriction_names
from devinterp.schema.context import Context
from devinterp.schema.predicates import Problem, predicate

__all__: list[str] = []


@predicate("sweep_cells_listed", kind="relation")
def sweep_cells_listed(context: Context) -> Iterator[Problem]:
    """The listed cells, the groups and the dimension ``cell`` are of the same cells, and every name is legal."""
    groups = [g for g in context.group.groups if not g.startswith(".")]
    try:
        check_restriction_names(groups)
    except RestrictionError as error:
        yield Problem(error.problem, error.expected)
    listed = context.setting("metadata.config.cells")
    if not isinstance(listed, list):
        return
    for name in listed:
        if isinstance(name, str) and name not in context.group.groups and name not in context.group.broken:
            yield Problem("A listed cell has no group.", repr(name), ", ".join(sorted(groups)[:20]) or "no groups")
    for name in groups:
        if name not in listed:
            yield Problem("A group is not among the listed cells.", "a name of the list", repr(name), name)
    size = context.size("cell")
    if size is not None and size != len(listed):
        yield Problem("The root has settings of another number of cells than are listed.", len(listed), size)


@predicate("sweep_settings", kind="relation")
def sweep_settings(context: Context) -> Iterator[Problem]:
    """The settings on the root are those of the cells, in the list's order, and no two cells share them all."""
    listed = context.setting("metadata.config.cells")
    if not isinstance(listed, list) or not context.has(*SWEPT) or context.size("cell") != len(listed):
        return
    columns = [context.read(name).tolist() for name in SWEPT]
    seen: dict[tuple[float, ...], str] = {}
    for name, values in zip(listed, zip(*columns, strict=True), strict=True):
        other = seen.setdefault(values, name)
        if other != name:
            yield Problem("Two cells have the same settings.", f"settings other than those of {other!r}", name, name)
        cell = context.child(name) if isinstance(name, str) else None
        if cell is None:
            continue
        for setting, value in zip(SWEPT, values, strict=True):
            sampled = cell.setting(f"metadata.config.sampler.{setting}")
            if isinstance(sampled, int | float) and float(sampled) != value:
                yield Problem(f"{setting} of the cell {name!r} is not what it was sampled with.", sampled, value, name)
