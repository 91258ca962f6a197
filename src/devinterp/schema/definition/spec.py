"""Frozen specs: what a schema document says, after loading, and the concrete layouts that come from it.

They are patterns: sizes are expressions over parameters, ``{obs}`` stands for every member of a family.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from devinterp.schema.definition.frozen import FrozenMapping
from devinterp.schema.definition.size_expression import Expression

__all__ = [
    "DECODED",
    "ArrayLayout",
    "Check",
    "DimensionSpec",
    "FamilySpec",
    "GroupLayout",
    "NodeSpec",
    "ParameterSpec",
    "Presence",
    "Profile",
    "Rule",
    "SchemaSpec",
    "StorageSpec",
    "VariableSpec",
    "kind_named",
]

NAT = "nat"
"""The unit of a loss that is minus a natural logarithm of a probability."""

DECODED = ("scale_factor", "add_offset", "missing_value", "_Unsigned", "dtype", "_Encoding")
"""Attributes of arrays at which xarray changes values on reading, or fails to read them."""

Level = Literal["structure", "completeness", "values"]
Severity = Literal["error", "warning", "note"]


def _empty() -> Mapping[str, Any]:
    return FrozenMapping({})


@dataclass(frozen=True)
class ParameterSpec:
    """A setting that sizes or presence depend on, and its dotted path in the root attributes."""

    name: str
    path: str
    type: str
    doc: str
    default: Any = None


@dataclass(frozen=True)
class FamilySpec:
    """A placeholder such as ``{obs}``: one variable, dimension or group per member.

    ``path`` is the dotted path of the list of members in the attributes and ``key`` the field that names a member;
    both are None where the members are known from the names in the store alone.
    """

    name: str
    doc: str
    path: str | None = None
    key: str | None = None
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class DimensionSpec:
    """A named dimension; ``size`` is None where any size (from ``minimum`` up) is right."""

    name: str
    doc: str
    size: Expression | None = None
    minimum: int = 0


@dataclass(frozen=True)
class Check:
    """A value rule of one variable: a registered predicate with its arguments."""

    code: str
    predicate: str
    arguments: Mapping[str, Any] = field(default_factory=_empty)


@dataclass(frozen=True)
class Rule:
    """A rule over several variables, or over a node's attributes, by a registered predicate.

    ``views`` is ``skip`` where the rule relates values to settings: a selection in memory breaks it by right.
    """

    code: str
    predicate: str
    level: Level = "values"
    severity: Severity = "error"
    arguments: Mapping[str, Any] = field(default_factory=_empty)
    views: Literal["check", "skip"] = "check"


@dataclass(frozen=True)
class Presence:
    """When a variable must be there.

    ``required``, ``optional`` or ``forbidden`` as such; ``when`` names a boolean parameter, or several joined by
    ``and`` (required where all are true, forbidden where one is false); ``with_dimension`` requires the variable
    exactly where another variable uses that dimension.
    """

    kind: Literal["required", "optional", "forbidden", "when", "with_dimension"] = "required"
    argument: str | None = None

    @property
    def parameters(self) -> tuple[str, ...]:
        """The boolean parameters that ``when`` names."""
        return tuple((self.argument or "").split(" and ")) if self.kind == "when" else ()

    def holds(self, values: Mapping[str, Any]) -> bool | None:
        """Whether all parameters that ``when`` names are true; None where one is not known and none is false."""
        found = [values.get(name) for name in self.parameters]
        return None if None in found and all(v is None or v for v in found) else all(found)


@dataclass(frozen=True)
class VariableSpec:
    """One variable or coordinate: the only place where its shape, type, fill and unit stand.

    Attributes
    ----------
    name : str
        May contain a family's placeholder, as in ``loss_{obs}``.
    dims : tuple of str
        The documented dimensions; ``alternatives`` are other legal ones.
    leading : tuple of str
        Dimensions that may stand before them, in this order (a study's ``wr``).
    dtype : str
        A NumPy dtype name; ``string`` for variable-length strings, ``text`` for strings of any representation.
    fill : float or int or str
        Zarr fill value.
    unit : str
        ``nat``, ``nat^2``, ``1`` ...; ``alternative_units`` are legal too.
    doc : str
        What it means; ``doc_unless`` says of a parameter what it means instead where that is false.
    chunks : mapping of str to int
        Largest chunk along a dimension; the others are whole.
    prefix : str or None
        The dimension along which a chain that stopped early leaves fill behind its prefix.
    mask : str or None
        The variable, where it is there, that is 1 where a value of this one counts and 0 where it is NaN. One with
        dimensions that this variable lacks says only that some values may be NaN.
    """

    name: str
    dims: tuple[str, ...]
    dtype: str
    unit: str
    doc: str
    fill: float | int | str | bool | None = None
    role: Literal["data", "coordinate"] = "data"
    presence: Presence = Presence()
    alternatives: tuple[tuple[str, ...], ...] = ()
    leading: tuple[str, ...] = ()
    chunks: Mapping[str, int] = field(default_factory=_empty)
    prefix: str | None = None
    mask: str | None = None
    checks: tuple[Check, ...] = ()
    alternative_units: tuple[str, ...] = ()
    doc_unless: Mapping[str, str] = field(default_factory=_empty)

    @property
    def placeholders(self) -> tuple[str, ...]:
        """Families in the name."""
        return _families(self.name)

    def meaning(self, values: Mapping[str, Any]) -> str:
        """Return what the variable means under the values of its schema's parameters."""
        return next((doc for name, doc in self.doc_unless.items() if values.get(name) is False), self.doc)

    def units(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the legal units, the documented one first, where losses are in the parameter ``loss_unit``."""
        given = str(values.get("loss_unit", NAT))
        return tuple(_in_unit(unit, given) for unit in (self.unit, *self.alternative_units))

    def mask_name(self, families: Mapping[str, str]) -> str | None:
        """Return the name of `mask` for a member of each family in the variable's name."""
        return None if self.mask is None else self.mask.format_map(families)

    def matches(self, name: str) -> dict[str, str] | None:
        """Return the placeholder values for which ``name`` is this variable's, or None."""
        return match_pattern(self.name, name)

    def legal_dims(self) -> tuple[tuple[str, ...], ...]:
        """Every legal tuple of dimensions, the documented one first."""
        bases = (self.dims, *self.alternatives)
        prefixes: list[tuple[str, ...]] = [()]
        for dim in reversed(self.leading):
            prefixes += [(dim, *p) for p in prefixes]
        return tuple(p + base for p in sorted(prefixes, key=len) for base in bases)


@dataclass(frozen=True)
class StorageSpec:
    """How chunks are stored.

    Attributes
    ----------
    codecs : tuple of str
        Their names, in order (``bytes`` stands for ``vlen-utf8`` where an array holds strings).
    checksums : {"required", "optional"}
        Whether crc32c must close them.
    chunks : {"declared", "any"}
        Whether the chunk grid is the one that variables declare.
    empty_chunks : {"written", "omitted"}
        Whether the writer writes a chunk that is all fill, so that an absent one proves a loss.
    shards : {"forbidden", "allowed"}
        Whether several chunks may share an object.
    """

    codecs: tuple[str, ...] = ("bytes", "zstd", "crc32c")
    checksums: Literal["required", "optional"] = "required"
    chunks: Literal["declared", "any"] = "declared"
    empty_chunks: Literal["written", "omitted"] = "written"
    shards: Literal["forbidden", "allowed"] = "forbidden"


@dataclass(frozen=True)
class NodeSpec:
    """One group of the tree: its path pattern, variables, dimensions and a JSON Schema of its attributes.

    A node with ``include`` is a tree of another schema (its id), mounted at ``path``.
    """

    path: str
    doc: str
    dimensions: Mapping[str, DimensionSpec] = field(default_factory=_empty)
    variables: Mapping[str, VariableSpec] = field(default_factory=_empty)
    attributes: Mapping[str, Any] = field(default_factory=_empty)
    rules: tuple[Rule, ...] = ()
    include: str | None = None
    minimum: int = 1

    @property
    def placeholders(self) -> tuple[str, ...]:
        """Families in the path."""
        return _families(self.path)

    def find(self, name: str) -> tuple[VariableSpec, dict[str, str]] | None:
        """Return the spec that ``name`` belongs to and its placeholders; an exact name wins over a pattern."""
        exact = self.variables.get(name)
        if exact is not None:
            return exact, {}
        best: tuple[VariableSpec, dict[str, str]] | None = None
        for spec in self.variables.values():
            bound = spec.matches(name) if spec.placeholders else None
            # 'init_loss_x' is init_loss_{obs}, not loss_{obs}: the longest literal part wins.
            if bound is not None and (best is None or len(spec.name) > len(best[0].name)):
                best = (spec, bound)
        return best

    @property
    def masks(self) -> frozenset[str]:
        """Variables (patterns) that say which values of others count."""
        return frozenset(v.mask for v in self.variables.values() if v.mask is not None)

    def mask_of(self, name: str) -> str | None:
        """Return the name of the variable that says which values of ``name`` count, whether it is there or not."""
        spec, families = self.find(name) or (None, {})
        return None if spec is None else spec.mask_name(families)


@dataclass(frozen=True)
class Profile:
    """A named variant of a schema, for stores of another writer."""

    name: str
    doc: str
    undeclared: Severity = "error"
    overrides: Mapping[str, Any] = field(default_factory=_empty)


@dataclass(frozen=True)
class ArrayLayout:
    """One concrete array."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    fill: float | int | str | bool | None
    chunks: tuple[int, ...]
    attrs: Mapping[str, Any]
    spec: VariableSpec

    @property
    def mask(self) -> str | None:
        """Name of the array that says which of this one's values count, where it is there."""
        return None if self.spec.mask is None else self.spec.mask.format_map(self.spec.matches(self.name) or {})

    @property
    def nbytes(self) -> int:
        """Uncompressed size in bytes (strings count 8 per element)."""
        itemsize = 8 if self.dtype in ("string", "text") else np.dtype(self.dtype).itemsize
        return int(np.prod(self.shape, dtype=np.int64)) * itemsize


@dataclass(frozen=True)
class GroupLayout:
    """One concrete group: the arrays it must have and the sizes of its dimensions."""

    path: str
    arrays: Mapping[str, ArrayLayout]
    sizes: Mapping[str, int]


@dataclass(frozen=True, eq=False)  # a schema is itself: loading twice gives one object, and it can be a key
class SchemaSpec:
    """A loaded schema document.

    Attributes
    ----------
    name, version : str, int
        Together the id, ``devinterp/samples@1``.
    nodes : tuple of NodeSpec
        The root first.
    document : mapping
        The merged document it was loaded from (extensions applied), JSON-able.
    included : callable
        Returns the schema that a node mounts (`NodeSpec.include`), by its id, under this profile.
    """

    name: str
    version: int
    doc: str
    parameters: Mapping[str, ParameterSpec]
    families: Mapping[str, FamilySpec]
    nodes: tuple[NodeSpec, ...]
    profiles: Mapping[str, Profile]
    storage: StorageSpec
    profile: str
    undeclared: Severity
    document: Mapping[str, Any]
    included: Callable[[str], SchemaSpec] = field(repr=False)
    extends: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """``name@version``, as written to the attribute ``devinterp_schema``."""
        return f"{self.name}@{self.version}"

    @property
    def kind(self) -> str:
        """What kind of tree this describes: the last part of the name it goes back to (``samples``)."""
        return kind_named(self.extends[-1] if self.extends else self.name)

    def node(self, path: str = "/") -> NodeSpec:
        """Return the node whose path pattern is ``path``."""
        for node in self.nodes:
            if node.path == path:
                return node
        raise KeyError(path)

    def match_node(self, path: str) -> tuple[NodeSpec, dict[str, str]] | None:
        """Return the node that a concrete group path belongs to, literal paths before patterns."""
        for node in sorted(self.nodes, key=lambda n: len(n.placeholders)):
            bound = match_pattern(node.path, path, separator="/")
            if bound is not None:
                return node, bound
        return None


def _in_unit(unit: str, loss: str) -> str:
    """Return a unit that is written for losses in nat for losses in another."""
    if loss == NAT or NAT not in unit.split("^"):
        return unit
    if loss == "1":
        return "1"
    return unit.replace(NAT, loss if loss.isalnum() else f"({loss})") if "^" in unit else loss


def legal_dims(spec: VariableSpec, placeholders: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Every legal tuple of dimensions of a concrete variable, the documented one first."""
    return [tuple(d.format_map(placeholders) for d in dims) for dims in spec.legal_dims()]


def stored_types(spec: VariableSpec) -> tuple[str, ...]:
    """Data types, as a store names them, whose values can be checked as those of the variable."""
    return ("string", "fixed_length_utf32") if spec.dtype in ("string", "text") else (spec.dtype,)


def match_pattern(pattern: str, name: str, separator: str | None = None) -> dict[str, str] | None:
    """Match ``loss_{obs}`` against ``loss_code`` and return ``{"obs": "code"}``, or None."""
    found = _regex(pattern, r"[^/]+" if separator == "/" else r"\w+").fullmatch(name)
    return dict(found.groupdict()) if found else None


# A validation asks both of every name of every group; documents have a few hundred patterns.
@lru_cache(maxsize=4096)
def _regex(pattern: str, inner: str) -> re.Pattern[str]:
    parts = re.split(r"(\{\w+\})", pattern)
    return re.compile(
        "".join(f"(?P<{p[1:-1]}>{inner})" if p.startswith("{") and p.endswith("}") else re.escape(p) for p in parts)
    )


@lru_cache(maxsize=4096)
def _families(pattern: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\{(\w+)\}", pattern))


def kind_named(identity: str) -> str:
    """Return the kind that the id of a schema names, ``samples`` of ``devinterp/samples@1``."""
    return identity.split("@")[0].rsplit("/", 1)[-1]
