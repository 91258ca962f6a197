"""What the roots of sweeps and series share: a list of members, a group for each, and a dimension along them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from devinterp.schema.context import Context
from devinterp.schema.predicates import Problem

__all__ = ["members_listed", "own_groups"]


def own_groups(context: Context) -> list[str]:
    """Return the groups below that may be members: hidden ones are none."""
    return [name for name in context.group.groups if not name.startswith(".")]


def members_listed(
    context: Context, kind: str, names: Sequence[object], *, listed_as: str, told: str
) -> Iterator[Problem]:
    """Yield where the listed names, the groups and the size of the dimension ``kind`` disagree.

    Parameters
    ----------
    kind : str
        What a member is, and the name of its dimension.
    names : sequence
        The list of the root; what in it is no string is the business of the check of attributes.
    listed_as, told : str
        For the message: what a group should be, and what the root tells of every member.
    """
    groups = own_groups(context)
    for name in names:
        if isinstance(name, str) and name not in context.group.groups and name not in context.group.broken:
            yield Problem(f"A listed {kind} has no group.", repr(name), ", ".join(sorted(groups)[:20]) or "no groups")
    for name in groups:
        if name not in names:
            yield Problem(f"A group is not among the listed {kind}s.", listed_as, repr(name), name)
    size = context.size(kind)
    if size is not None and size != len(names):
        yield Problem(f"The root has {told} of another number of {kind}s than are listed.", len(names), size)
