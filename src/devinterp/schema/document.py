"""A schema as Markdown tables, for the documentation of whoever extends it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from devinterp.schema.codes import RuleCode

if TYPE_CHECKING:
    from devinterp.schema.spec import NodeSpec, Schema, VariableSpec

__all__ = ["tables"]


def tables(schema: Schema) -> str:
    """Return the dimensions, variables, attributes and rules of every node as Markdown.

    Parameters
    ----------
    schema : Schema
        Under the profile to describe.

    Returns
    -------
    str
        One section per group.
    """
    parts = [f"# {schema.id}", schema.doc]
    for node in schema.nodes:
        parts += _node(node)
    return "\n\n".join(parts) + "\n"


def _node(node: NodeSpec) -> Iterator[str]:
    yield f"## `{node.path}`"
    yield node.doc
    if node.include is not None:
        yield f"A whole tree of `{node.include}`."
    if node.dimensions:
        rows = [
            (_code(d.name), _code(str(d.size)) if d.size is not None else "any", str(d.minimum), d.doc)
            for d in node.dimensions.values()
        ]
        yield _table(("dimension", "size", "at least", "meaning"), rows)
    if node.variables:
        head = ("variable", "dimensions", "type", "unit", "fill", "there", "meaning")
        yield _table(head, [_variable(v) for v in node.variables.values()])
    attributes = list(_attributes(node.attributes, ""))
    if attributes:
        yield _table(("attribute", "value", "required"), attributes)
    rules = [
        (c.code, f"{v.name}: {c.predicate}", "values", c.arguments) for v in node.variables.values() for c in v.checks
    ]
    rules += [(r.code, r.predicate, r.level, r.arguments) for r in node.rules]
    if rules:
        yield _table(("code", "rule", "level", "means"), [(c, _rule(r, a), lv, _title(c)) for c, r, lv, a in rules])


def _variable(spec: VariableSpec) -> tuple[str, ...]:
    dims = " or ".join(f"({', '.join(d)})" for d in (spec.dims, *spec.alternatives))
    if spec.leading:
        dims += f", {', '.join(spec.leading)} before them where the result has it"
    there = spec.presence.kind.replace("_", " ") + (f" {spec.presence.argument}" if spec.presence.argument else "")
    role = " (coordinate)" if spec.role == "coordinate" else ""
    return _code(spec.name) + role, dims, spec.dtype, spec.unit, str(spec.fill), there, spec.doc


def _attributes(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, str, str]]:
    for part in schema.get("allOf", ()):
        yield from _attributes(part, path)
    required = schema.get("required", ())
    for name, inner in schema.get("properties", {}).items():
        where = f"{path}.{name}" if path else name
        yield _code(where), _value(inner), "yes" if name in required else "no"
        yield from _attributes(inner, where)
        yield from _attributes(inner.get("items", {}), f"{where}[]")


def _value(schema: Mapping[str, Any]) -> str:
    shown = {k: v for k, v in schema.items() if k not in ("properties", "required", "items", "allOf")}
    return ", ".join(f"{k} {v}" for k, v in shown.items()) or "any"


def _rule(name: str, arguments: Mapping[str, Any]) -> str:
    given = ", ".join(f"{k} {v}" for k, v in arguments.items())
    return f"{name} ({given})" if given else name


def _title(code: str) -> str:
    known = RuleCode.lookup(code)
    return "" if known is None else known.title


def _code(text: str) -> str:
    return f"`{text}`"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in row) + " |" for row in lines
    )
