"""Relations between the checkpoints of a series, its groups and its training steps."""

from __future__ import annotations

from collections.abc import Iterator

from devinterp.schema.context import Context
from devinterp.schema.predicates import Problem, predicate
from devinterp.schema.relations_members import members_listed

__all__: list[str] = []

_SHARED = ("metadata.config.restrictions", "metadata.config.sampling_task")


@predicate("series_checkpoints_listed", kind="relation")
def series_checkpoints_listed(context: Context) -> Iterator[Problem]:
    """The listed checkpoints, the groups and the dimension are of the same checkpoints; every study is the series'."""
    listed = context.setting("metadata.config.checkpoints")
    if not isinstance(listed, list):
        return
    names = [str(step) for step in listed]
    yield from members_listed(context, "checkpoint", names, listed_as="a step of the list", told="training steps")
    for name, study in context.children():
        for path in _SHARED:
            ours, theirs = context.setting(path), study.setting(path)
            if ours is not None and theirs is not None and ours != theirs:
                yield Problem(f"{path} differs from that of the series.", repr(ours), repr(theirs), name)


@predicate("series_steps", kind="relation")
def series_steps(context: Context) -> Iterator[Problem]:
    """The coordinate ``checkpoint`` holds the listed training steps, in the list's order."""
    listed = context.setting("metadata.config.checkpoints")
    if not isinstance(listed, list) or not context.has("checkpoint") or context.size("checkpoint") != len(listed):
        return
    steps = context.read("checkpoint").tolist()
    if steps != listed:
        yield Problem("checkpoint does not hold the listed training steps.", repr(listed), repr(steps), "checkpoint")
