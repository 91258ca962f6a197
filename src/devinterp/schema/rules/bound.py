"""A group of a tree, bound to the node of its schema that it must conform to under its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

from devinterp.names import sanitize_observable_name
from devinterp.plain_json import dig
from devinterp.schema.definition.layout import bindings
from devinterp.schema.definition.schema import Schema
from devinterp.schema.definition.spec import NodeSpec, VariableSpec
from devinterp.schema.reading.limits import Limits
from devinterp.schema.reading.nodes import GroupNode

__all__ = ["Bound", "members_of", "parameters_of"]


@dataclass(frozen=True)
class Bound:
    """One group and the node that it must conform to.

    Attributes
    ----------
    schema, node : Schema, NodeSpec
    group : GroupNode
    root : GroupNode
        The group at the root of the schema's tree: its attributes hold the settings.
    top : GroupNode
        The root of the whole tree.
    """

    schema: Schema
    node: NodeSpec
    group: GroupNode
    root: GroupNode
    top: GroupNode
    placeholders: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    @property
    def path(self) -> str:
        """The group's path."""
        return self.group.path

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Values of the schema's parameters that the attributes hold, in their declared types."""
        return parameters_of(self.schema, self.root.attrs)

    @cached_property
    def members(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Members of every family: those that the attributes list, else those that the names speak of."""
        found = members_of(self.schema, self.node, self.root.attrs, self.group.arrays)
        return {family: dict(islice(own.items(), self.limits.members)) for family, own in found.items()}

    @cached_property
    def variables(self) -> dict[str, tuple[VariableSpec, dict[str, str]]]:
        """Every variable that may be here, by its concrete name."""
        return {
            spec.name.format_map(bound): (spec, bound)
            for spec in self.node.variables.values()
            for bound in bindings(spec.name, self.members)
        }

    def mask(self, name: str) -> str | None:
        """Name of the variable, if there is one here, that says which values of ``name`` count."""
        spec, families = self.variables.get(name) or (None, {})
        mask = None if spec is None else spec.mask_name(families)
        return mask if mask in self.variables and mask in self.group.arrays else None

    def presence(self, spec: VariableSpec) -> str:
        """``required``, ``optional`` or ``forbidden``, as the settings have it."""
        kind, argument = spec.presence.kind, spec.presence.argument
        if kind == "when":
            value = spec.presence.holds(self.parameters)
            return "optional" if value is None else ("required" if value else "forbidden")
        if kind == "with_dimension":
            # A variable of its own name would make every stray coordinate required by itself.
            used = {d for a in self.group.arrays.values() for d in a.dims if a.name != argument}
            return "required" if argument in used else "optional"
        return kind


def parameters_of(schema: Schema, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that ``attrs`` hold; one of the wrong type is left out, and found by another rule."""
    types: dict[str, tuple[type, ...]] = {
        "integer": (int,),
        "number": (int, float),
        "boolean": (bool,),
        "string": (str,),
    }
    out: dict[str, Any] = {}
    for name, spec in schema.parameters.items():
        value = dig(attrs, spec.path)
        if value is None:
            value = spec.default
        numeric = spec.type in ("integer", "number")
        if spec.type == "integer" and isinstance(value, float) and value.is_integer():
            value = int(value)  # JSON knows one sort of number: some writers say 2.0
        if spec.type == "boolean" and value in (0, 1):
            value = bool(value)  # netCDF knows no truth values, and results are saved with it
        if isinstance(value, types[spec.type]) and not (numeric and isinstance(value, bool)):
            out[name] = value
    return out


def members_of(
    schema: Schema, node: NodeSpec, attrs: Mapping[str, Any], names: Mapping[str, Any]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the members of every family that the node's variables use."""
    used = {p for spec in node.variables.values() for p in spec.placeholders}
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for family in schema.families.values():
        if family.name not in used:
            continue
        listed = dig(attrs, family.path) if family.path else None
        if isinstance(listed, list):
            found = {}
            for entry in listed:
                member = entry.get(family.key) if family.key and isinstance(entry, Mapping) else entry
                if isinstance(member, str):
                    own = entry if isinstance(entry, Mapping) else {}
                    values = {p: own[p] for p in family.parameters if type(own.get(p)) is int}
                    found[sanitize_observable_name(member)] = values
            out[family.name] = found
        else:
            out[family.name] = {m: {} for m in _spoken_of(node, family.name, names)}
    return out


def _spoken_of(node: NodeSpec, family: str, names: Mapping[str, Any]) -> list[str]:
    out: dict[str, None] = {}
    for name in names:
        match = node.find(name)
        if match is not None and family in match[1]:
            out[match[1][family]] = None
    return list(out)
