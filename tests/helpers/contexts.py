"""Relations on trees in memory, each by itself: also those that a validation leaves out of a view."""

from __future__ import annotations

from typing import Any

from devinterp.schema import Limits, load
from devinterp.schema.checks.bind import bind_tree
from devinterp.schema.findings.report import Collector
from devinterp.schema.reading.memory_tree import read_view
from devinterp.schema.reading.memory_values import ViewValues
from devinterp.schema.rules.bound import Bound
from devinterp.schema.rules.context import Context
from devinterp.schema.rules.registry import Problem, find_predicate


def context_of(tree: Any, schema: str = "samples", *, values: bool = True, path: str = "/") -> Context:
    """The context of a group of a tree."""
    root = read_view(tree)
    bounds: dict[str, Bound] = {b.path: b for b in bind_tree(root, load(schema), Collector(), Limits())}
    return Context(bounds[path], ViewValues(Limits()) if values else None, bounds)


def problems(rule: str, tree: Any, schema: str = "samples", *, group: str = "/", **arguments: Any) -> list[Problem]:
    """What one relation finds."""
    return list(find_predicate(rule).function(context_of(tree, schema, path=group), **arguments))


def said(rule: str, tree: Any, schema: str = "samples", **arguments: Any) -> list[tuple[str, Any, Any, str]]:
    """What one relation says of each."""
    return [(p.message, p.expected, p.found, p.name) for p in problems(rule, tree, schema, **arguments)]
