"""Relations between the cells of a sweep and the settings on its root."""

from __future__ import annotations

from collections.abc import Iterator

from devinterp.errors import RestrictionError
from devinterp.names import SWEPT, check_restriction_names
from devinterp.schema.context import Context
from devinterp.schema.predicates import Problem, predicate
from devinterp.schema.relations_members import members_listed, own_groups

__all__: list[str] = []


@predicate("sweep_cells_listed", kind="relation")
def sweep_cells_listed(context: Context) -> Iterator[Problem]:
    """The listed cells, the groups and the dimension ``cell`` are of the same cells, and every name is legal."""
    try:
        check_restriction_names(own_groups(context))
    except RestrictionError as error:
        yield Problem(error.problem, error.expected)
    listed = context.setting("metadata.config.cells")
    if isinstance(listed, list):
        yield from members_listed(context, "cell", listed, listed_as="a name of the list", told="settings")


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
