"""Which node of which schema each group of a tree belongs to, and what its settings make of that node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from devinterp.errors import SchemaError
from devinterp.schema.definition.load import find_schema, load
from devinterp.schema.definition.schema import Schema
from devinterp.schema.definition.suggest import suggestion
from devinterp.schema.findings.codes import RuleCode
from devinterp.schema.findings.report import Collector
from devinterp.schema.reading.limits import Limits
from devinterp.schema.reading.nodes import GroupNode, join
from devinterp.schema.rules.bound import Bound, members_of

__all__ = ["bind_tree", "load_by_id"]


def bind_tree(root: GroupNode, schema: Schema, findings: Collector, limits: Limits) -> Iterator[Bound]:
    """Yield every group that the schema has a node for; the others become findings."""
    for bound in _bind(root, schema, "/", root, root, findings, {}):
        bound = replace(bound, limits=limits)
        _count_members(bound, findings)
        yield bound


def _count_members(bound: Bound, findings: Collector) -> None:
    """Say where there are more members of a family than variables are looked for."""
    for family, own in members_of(bound.schema, bound.node, bound.root.attrs, bound.group.arrays).items():
        if len(own) > bound.limits.members:
            findings.add(
                RuleCode.OVERSIZED_METADATA,
                bound.path,
                f"There are too many members of the family {family!r}.",
                expected=f"at most {bound.limits.members}",
                found=len(own),
            )


def _bind(
    group: GroupNode,
    schema: Schema,
    relative: str,
    root: GroupNode,
    top: GroupNode,
    findings: Collector,
    loaded: dict[str, Schema | None],
) -> Iterator[Bound]:
    match = schema.match_node(relative)
    if match is None:
        _undeclared(group, schema, relative, findings)
        return
    node, placeholders = match
    if node.include is not None:
        included = _included(group, node.include, schema.profile, findings, loaded)
        yield from _bind(group, included, "/", group, top, findings, loaded)
        return
    yield Bound(schema, node, group, root, top, placeholders)
    bound = []
    for name, child in group.groups.items():
        if node.find(name) is not None:
            findings.add(RuleCode.NODE_TYPE, child.path, "A group lies where an array belongs.", expected="an array")
            continue
        inner = join(relative, name)
        found = schema.match_node(inner)
        bound += [found[0].path] if found is not None else []
        yield from _bind(child, schema, inner, root, top, findings, loaded)
    _missing_groups(group, schema, node.path, bound, findings)


def _included(
    group: GroupNode, identity: str, profile: str, findings: Collector, loaded: dict[str, Schema | None]
) -> Schema:
    """The schema of an included tree: the node's, or the one that the tree itself names if it extends the node's."""
    named = group.attrs.get("devinterp_schema")
    base = loaded.get(identity) or _load(identity, profile)
    loaded[identity] = base
    if not isinstance(named, str) or named == identity:
        return base
    if named not in loaded:
        try:
            loaded[named] = load_by_id(named, profile)
        except SchemaError:  # a group is not to blame for what is installed here, and is that of its base all the same
            loaded[named] = None
    own = loaded[named]
    if own is None:
        findings.add(
            RuleCode.UNKNOWN_SCHEMA,
            group.path,
            "The schema of the group cannot be loaded.",
            expected=identity,
            found=named,
        )
        return base
    if identity not in own.extends:
        findings.add(
            RuleCode.OTHER_SCHEMA,
            group.path,
            "The group is of another schema than belongs here.",
            expected=f"{identity}, or one that extends it",
            found=named,
        )
        return base
    return own


def load_by_id(identity: str, profile: str) -> Schema | None:
    """Return an installed schema by its id, or None. The id comes from a store: it is never taken as a path.

    Raises `SchemaError` where the schema is there, but has no such profile or is broken.
    """
    path = find_schema(identity)
    return None if path is None else _load(path, profile)


def _load(source: Any, profile: str) -> Schema:
    try:
        schema: Schema = load(source, profile=profile)
    except SchemaError:
        # A schema need not have every profile of the tree that it is part of.
        schema = load(source)
        if profile in schema.profiles:
            raise
    return schema


def _undeclared(group: GroupNode, schema: Schema, relative: str, findings: Collector) -> None:
    parent, _, name = relative.rpartition("/")
    siblings = [n.path.rpartition("/")[2] for n in schema.nodes if n.path.rpartition("/")[0] == parent]
    findings.add(
        RuleCode.UNDECLARED_GROUP,
        group.path,
        "The group is not declared.",
        expected=", ".join(s for s in siblings if s) or "no groups here",
        remedy=suggestion(name, siblings),
        severity=schema.undeclared,
    )


def _missing_groups(group: GroupNode, schema: Schema, pattern: str, bound: list[str], findings: Collector) -> None:
    for node in schema.nodes:
        parent, _, name = node.path.rpartition("/")
        if node.path == "/" or (parent or "/") != pattern or name in group.broken:
            continue
        if name in group.arrays:
            findings.add(
                RuleCode.NODE_TYPE, join(group.path, name), "An array lies where a group belongs.", expected="a group"
            )
        elif bound.count(node.path) < node.minimum:
            findings.add(
                RuleCode.MISSING_GROUP,
                group.path,
                "A group is missing.",
                expected=node.path if not node.placeholders else f"at least {node.minimum} of {node.path}",
                found=", ".join(sorted(group.groups)) or "no groups",
            )
