"""Rules of the trees that hold several runs: studies, series, sweeps.

Their roots list members, have a group for each, and series and sweeps a dimension along them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from devinterp.errors import RestrictionError
from devinterp.names import SECONDARY, SWEPT, check_restriction_names, swept_value
from devinterp.plain_json import dig
from devinterp.schema.definition.may_differ import MAY, Combined, that
from devinterp.schema.rules.context import Context
from devinterp.schema.rules.registry import Problem, predicate
from devinterp.wording import shown

__all__: list[str] = []


def own_groups(context: Context) -> list[str]:
    """Return the groups below that may be members: hidden ones are none."""
    return [name for name in context.group.groups if not name.startswith(".")]


def members_listed(
    context: Context, kind: str, names: Sequence[object], *, listed_as: str, told: str
) -> Iterator[Problem]:
    """Yield where the listed names, the groups and the size of the dimension ``kind`` disagree."""
    groups = own_groups(context)
    for name in names:
        if isinstance(name, str) and name not in context.group.groups and name not in context.group.broken:
            yield Problem(f"A listed {kind} has no group.", shown(name), ", ".join(sorted(groups)[:20]) or "no groups")
    for name in groups:
        if name not in names:
            yield Problem(f"A group is not among the listed {kind}s.", listed_as, shown(name), name)
    size = context.size(kind)
    if size is not None and size != len(names):
        yield Problem(f"The root has {told} of another number of {kind}s than are listed.", len(names), size)


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
        yield Problem("A listed restriction has no group.", shown(name), there)
    for name in groups:
        if name not in named:
            yield Problem("A group is not among the listed restrictions.", "a name of the list", shown(name), name)


@predicate("study_members_agree", kind="relation")
def study_members_agree(
    context: Context, *, paths: Sequence[str] = (), combined_as: Combined | None = None, ignoring: Sequence[str] = ()
) -> Iterator[Problem]:
    """What stands at ``paths`` of the attributes is the same in every run, but for what may differ.

    That is ``ignoring``, and what ``schemas/runs/may_differ.yaml`` lets differ between the runs of what they are
    ``combined_as``; by default ``paths`` are what it never lets. The runs of a series are compared with those of the
    same restriction.
    """
    may = set(ignoring)
    if combined_as is not None:
        may |= {f"metadata.{entry.path}" for entry in that(combined_as, *MAY)}
        paths = paths or [f"metadata.{entry.path}" for entry in that(combined_as, "never")]
    if combined_as != "series":
        yield from _agree(dict(context.children()), paths, may)
        return
    studies = {step: dict(study.children()) for step, study in context.children()}
    for restriction in dict.fromkeys(name for study in studies.values() for name in study):
        runs = {f"{step}/{restriction}": s[restriction] for step, s in studies.items() if restriction in s}
        yield from _agree(runs, paths, may)


def _agree(members: Mapping[str, Context], paths: Sequence[str], may: Collection[str]) -> Iterator[Problem]:
    if len(members) < 2:
        return
    name, reference = ("full", members["full"]) if "full" in members else next(iter(members.items()))
    untold = {f"metadata.{entry.path}" for entry in that("unknown", True)}
    for path in paths:
        wanted = _canonical(dig(reference.attrs, path), path, may)
        for other, member in members.items():
            found = _canonical(dig(member.attrs, path), path, may)
            if found == wanted:
                continue
            for where, ours, theirs in _differences(path, wanted, found):
                if where not in untold or (ours is not None and theirs is not None):
                    yield Problem(f"{where} differs from that of {name!r}.", shown(ours), shown(theirs), other)


def _canonical(value: Any, path: str, ignoring: Collection[str]) -> Any:
    if isinstance(value, Mapping):
        return {k: _canonical(v, f"{path}.{k}", ignoring) for k, v in value.items() if f"{path}.{k}" not in ignoring}
    return value


def _differences(path: str, ours: Any, theirs: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for key in sorted({*ours, *theirs}):
            if ours.get(key) != theirs.get(key):
                yield from _differences(f"{path}.{key}", ours.get(key), theirs.get(key))
    else:
        yield path, ours, theirs


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


@predicate("rows_agree", kind="relation")
def rows_agree(context: Context) -> Iterator[Problem]:
    """Every run saw the same fixed rows: ``input_ids_{obs}``, ``row_{obs}``, ``mask_{obs}`` are those of the first."""
    members = dict(context.children())
    if len(members) < 2:
        return
    name, reference = ("full", members["full"]) if "full" in members else next(iter(members.items()))
    for obs in reference.bound.members.get("obs", {}):
        mask = f"mask_{obs}"
        for variable in (f"input_ids_{obs}", f"row_{obs}", mask):
            others = {n: m for n, m in members.items() if m is not reference and m.has(variable)}
            if variable == mask:  # without one, all positions count
                lone = members.keys() - others.keys() - {name} if reference.has(mask) else others.keys()
                there = ("a mask", "none") if reference.has(mask) else ("no mask", "one")
                for other in sorted(lone):
                    yield Problem(f"{mask} is not that of {name!r}.", *there, other)
            if not others or not reference.has(variable):
                continue
            wanted = reference.read(variable)
            for other, member in others.items():
                found = member.read(variable)
                if found.shape != wanted.shape:
                    yield Problem(f"{variable} has another shape.", wanted.shape, found.shape, f"{other}/{variable}")
                elif (found != wanted).any():
                    where = tuple(int(i) for i in np.argwhere(found != wanted)[0])
                    yield Problem(
                        f"{variable} is not that of {name!r}.",
                        f"{wanted[where]} at {shown(where)}",
                        found[where],
                        f"{other}/{variable}",
                    )


# Runs of one study may be of two machines and two precisions; other weights or other rows differ by more than this.
_PRECISION, _NAT = 2e-2, 2e-2


@predicate("starts_agree", kind="relation")
def starts_agree(context: Context) -> Iterator[Problem]:
    """Every run began at the same losses: ``init_loss_{obs}`` is that of the first, as far as precisions allow.

    Noise on the start of chains does not enter there. Where the model draws random numbers, nothing is said.
    """
    members = dict(context.children())
    if len(members) < 2 or any(m.setting("metadata.provenance.random_forward") for m in members.values()):
        return
    name, reference = ("full", members["full"]) if "full" in members else next(iter(members.items()))
    for variable in (f"init_loss_{obs}" for obs in reference.bound.members.get("obs", {})):
        others = {n: m for n, m in members.items() if m is not reference and m.has(variable)}
        if not others or not reference.has(variable):
            continue
        wanted = reference.read(variable)
        for other, member in others.items():
            found = member.read(variable)
            if found.shape != wanted.shape:
                continue  # other rows, which is found as such
            off = np.abs(found - wanted) > _PRECISION * np.abs(wanted) + _NAT  # not of what is NaN in either
            if off.any():
                where = tuple(int(i) for i in np.argwhere(off)[0])
                yield Problem(
                    f"{variable} is not that of {name!r}, which began at the same weights.",
                    f"{wanted[where]} at {shown(where)}",
                    f"{found[where]}; {int(off.sum())} value(s) differ",
                    f"{other}/{variable}",
                )


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
                yield Problem(f"{path} differs from that of the series.", shown(ours), shown(theirs), name)


@predicate("series_steps", kind="relation")
def series_steps(context: Context) -> Iterator[Problem]:
    """The coordinate ``checkpoint`` holds the listed training steps, in the list's order."""
    listed = context.setting("metadata.config.checkpoints")
    if not isinstance(listed, list) or not context.has("checkpoint") or context.size("checkpoint") != len(listed):
        return
    steps = context.read("checkpoint").tolist()
    if steps != listed:
        yield Problem("checkpoint does not hold the listed training steps.", shown(listed), shown(steps), "checkpoint")


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
    axes = (*SWEPT, *(name for name in SECONDARY if context.has(name)))
    columns = [context.read(name).tolist() for name in axes]
    shared: dict[str, Any] = {}
    seen: dict[tuple[float, ...], str] = {}
    for name, values in zip(listed, zip(*columns, strict=True), strict=True):
        other = seen.setdefault(values, name)
        if other != name:
            yield Problem("Two cells have the same settings.", f"settings other than those of {other!r}", name, name)
        cell = context.child(name) if isinstance(name, str) else None
        if cell is None:
            continue
        sampler = cell.setting("metadata.config.sampler")
        sampler = sampler if isinstance(sampler, Mapping) else {}
        for setting in (name for name in SECONDARY if name not in axes):
            sampled = swept_value(sampler, setting)
            if shared.setdefault(setting, sampled) != sampled:
                message = f"{setting} varies, and the root has no coordinate of this name."
                yield Problem(message, shared[setting], sampled, name)
        for setting, value in zip(axes, values, strict=True):
            sampled = swept_value(sampler, setting)
            if sampled is not None and sampled != value:
                yield Problem(f"{setting} of the cell {name!r} is not what it was sampled with.", sampled, value, name)
