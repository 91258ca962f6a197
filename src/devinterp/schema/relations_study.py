"""Relations between the runs of a study."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from devinterp.errors import RestrictionError
from devinterp.names import check_restriction_names
from devinterp.schema.context import Context
from devinterp.schema.predicates import Problem, predicate
from devinterp.schema.tree import dig

__all__: list[str] = []


@predicate("study_has_full", kind="relation")
def study_has_full(context: Context) -> Iterator[Problem]:
    """The run without a restriction is among the groups."""
    if "full" not in context.group.groups and "full" not in context.group.broken:
        yield Problem("The study has no group 'full'.", "full", ", ".join(sorted(context.group.groups)) or "no groups")


@predicate("study_restrictions_listed", kind="relation")
def study_restrictions_listed(context: Context) -> Iterator[Problem]:
    """The listed restrictions and the groups are the same names, and every name is legal."""
    groups = [g for g in context.group.groups if not g.startswith(".")]
    try:
        check_restriction_names(groups)
    except RestrictionError as error:
        yield Problem(error.problem, error.expected)
    listed = context.setting("metadata.config.restrictions")
    if not isinstance(listed, list):
        return
    named = {name for name in listed if isinstance(name, str)}
    there = ", ".join(sorted(groups)[:20])
    for name in sorted(named - set(context.group.groups) - context.group.broken):
        yield Problem("A listed restriction has no group.", repr(name), there)
    for name in groups:
        if name not in named:
            yield Problem("A group is not among the listed restrictions.", "a name of the list", repr(name), name)


@predicate("study_members_agree", kind="relation")
def study_members_agree(context: Context, *, paths: Sequence[str], ignoring: Sequence[str] = ()) -> Iterator[Problem]:
    """What stands at ``paths`` of the attributes is the same in every run, but for ``ignoring``."""
    members = dict(context.children())
    if len(members) < 2:
        return
    name, reference = ("full", members["full"]) if "full" in members else next(iter(members.items()))
    for path in paths:
        wanted = _canonical(dig(reference.attrs, path), path, ignoring)
        for other, member in members.items():
            found = _canonical(dig(member.attrs, path), path, ignoring)
            if found == wanted:
                continue
            for where, ours, theirs in _differences(path, wanted, found):
                yield Problem(f"{where} differs from that of {name!r}.", ours, theirs, other)


def _canonical(value: Any, path: str, ignoring: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return {k: _canonical(v, f"{path}.{k}", ignoring) for k, v in value.items() if f"{path}.{k}" not in ignoring}
    return value


def _differences(path: str, ours: Any, theirs: Any) -> Iterator[tuple[str, str, str]]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for key in sorted({*ours, *theirs}):
            if ours.get(key) != theirs.get(key):
                yield from _differences(f"{path}.{key}", ours.get(key), theirs.get(key))
    else:
        yield path, json.dumps(ours), json.dumps(theirs)


@predicate("sampling_task_observed", kind="relation")
def sampling_task_observed(context: Context) -> Iterator[Problem]:
    """Every run observed the sampling task."""
    task = context.setting("metadata.config.sampling_task")
    if not isinstance(task, str):
        return
    for name, member in context.children():
        observables = member.bound.members.get("obs", {})
        listed = member.setting("metadata.config.observables")
        names = [e.get("name") for e in listed if isinstance(e, dict)] if isinstance(listed, list) else []
        if task not in observables and task not in names:
            yield Problem("The sampling task is not observed.", task, ", ".join(sorted(observables)) or "none", name)
