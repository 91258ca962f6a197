"""From patterns, which stand in ``schemas/``, to concrete arrays: placeholders bound, sizes computed, chunks cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from devinterp.errors import SchemaError
from devinterp.schema.definition.frozen import FrozenMapping
from devinterp.schema.definition.spec import ArrayLayout, GroupLayout, NodeSpec, VariableSpec
from devinterp.wording import shown

__all__ = ["array_attributes", "chunk_shape", "dimension_sizes", "resolve_node"]


def resolve_node(
    node: NodeSpec,
    values: Mapping[str, Any],
    members: Mapping[str, Mapping[str, Mapping[str, int]]],
    sizes: Mapping[str, int],
    optional: frozenset[str],
) -> GroupLayout:
    """Resolve one node under the values of its schema's parameters."""
    concrete = dimension_sizes(node, values, members, sizes)
    arrays: dict[str, ArrayLayout] = {}
    for spec in node.variables.values():
        for bound in bindings(spec.name, members):
            name = spec.name.format_map(bound)
            if not _included(spec, name, values, optional):
                continue
            dims = tuple(d.format_map(bound) for d in spec.dims)
            missing = [d for d in dims if d not in concrete]
            if missing:
                raise SchemaError(
                    f"The size of dimension {missing[0]!r} of {name!r} is not known.",
                    expected=f"a value for it, or for what it is computed from ({node.dimensions})",
                    found=f"sizes of {shown(sorted(concrete))}",
                )
            shape = tuple(concrete[d] for d in dims)
            arrays[name] = ArrayLayout(
                name=name,
                dims=dims,
                shape=shape,
                dtype=spec.dtype,
                fill=spec.fill,
                chunks=chunk_shape(spec, dims, shape),
                attrs=array_attributes(spec, bound, values),
                spec=spec,
            )
    masked = {node.mask_of(name) for name in arrays}
    arrays = {name: a for name, a in arrays.items() if a.spec.name not in node.masks or name in masked}
    used = {d for a in arrays.values() for d in a.dims}
    return GroupLayout(node.path, arrays, {d: n for d, n in concrete.items() if d in used})


def _included(spec: VariableSpec, name: str, values: Mapping[str, Any], optional: frozenset[str]) -> bool:
    kind = spec.presence.kind
    if kind == "when":
        return bool(spec.presence.holds(values))
    return kind == "required" or bool({spec.name, name} & optional)


def bindings(pattern: str, members: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    """Yield every binding of the placeholders in ``pattern`` to members (one placeholder per name at most)."""
    for family, names in members.items():
        if f"{{{family}}}" in pattern:
            for name in names:
                yield {family: name}
            return
    if "{" not in pattern:
        yield {}


def dimension_sizes(
    node: NodeSpec,
    values: Mapping[str, Any],
    members: Mapping[str, Mapping[str, Mapping[str, int]]],
    sizes: Mapping[str, int],
) -> dict[str, int]:
    """Compute every dimension's size that can be computed; dimensions may refer to each other."""
    known = dict(sizes)
    pending: list[tuple[str, Any, dict[str, Any]]] = []
    for dim in node.dimensions.values():
        for bound in bindings(dim.name, members):
            own: dict[str, Any] = {}
            for family, member in bound.items():
                own.update(members[family][member])
            if dim.size is not None:
                pending.append((dim.name.format_map(bound), dim.size, own))
    progress = True
    while progress:
        progress = False
        for name, expression, own in pending:
            if name not in known:
                value = expression.evaluate({**values, **known, **own})
                if value is not None:
                    known[name] = value
                    progress = True
    return known


def chunk_shape(spec: VariableSpec, dims: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Chunks as declared, never larger than the array, never 0."""
    return tuple(max(1, min(spec.chunks.get(d, n), n)) for d, n in zip(dims, shape, strict=True))


def array_attributes(
    spec: VariableSpec, bound: Mapping[str, str], values: Mapping[str, Any] = FrozenMapping({})
) -> dict[str, Any]:
    """The attributes written beside an array: its meaning and its unit, by the values of the schema's parameters."""
    doc = spec.meaning(values)
    for family, member in bound.items():
        doc = doc.replace(f"{{{family}}}", member)
    return {"long_name": doc, "units": spec.units(values)[0]}
