"""A checked document becomes a frozen `Schema` under one profile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar, cast

from devinterp.errors import SchemaError
from devinterp.schema.definition.frozen import FrozenMapping
from devinterp.schema.definition.schema import Schema
from devinterp.schema.definition.size_expression import parse_expression
from devinterp.schema.definition.spec import (
    Check,
    DimensionSpec,
    FamilySpec,
    NodeSpec,
    ParameterSpec,
    Presence,
    Profile,
    Rule,
    StorageSpec,
    VariableSpec,
)
from devinterp.wording import one_of

__all__ = ["freeze_schema"]

Spec = TypeVar("Spec")


def freeze_schema(
    document: Mapping[str, Any], profile: str, extends: tuple[str, ...], included: Callable[[str], Schema]
) -> Schema:
    """Build the `Schema` that ``document`` (grammar checked, extensions merged) describes under ``profile``."""
    profiles = {
        name: _spec(Profile, p, name=name, overrides=_frozen(p))
        for name, p in document.get("profiles", {"strict": {"doc": "Exactly the schema."}}).items()
    }
    if profile not in profiles:
        raise SchemaError(
            f"The schema {document['schema']!r} has no profile {profile!r}.",
            expected=one_of(sorted(profiles)),
        )
    chosen = profiles[profile].overrides
    schema = Schema(
        name=document["schema"],
        version=document["version"],
        doc=document["doc"],
        parameters=_frozen({n: _spec(ParameterSpec, p, name=n) for n, p in document.get("parameters", {}).items()}),
        families=_frozen(
            {
                name: _spec(FamilySpec, f, name=name, parameters=tuple(f.get("parameters", {})))
                for name, f in document.get("families", {}).items()
            }
        ),
        nodes=tuple(
            _node(path, node, chosen)
            for path, node in sorted(document.get("nodes", {}).items(), key=lambda i: len(i[0]))
        ),
        profiles=_frozen(profiles),
        storage=_spec(StorageSpec, {**document.get("storage", {}), **chosen.get("storage", {})}),
        profile=profile,
        undeclared=profiles[profile].undeclared,
        document=_frozen(document),
        included=included,
        extends=extends,
    )
    _check_names(schema)
    return schema


def _frozen(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    return FrozenMapping(mapping)


def _spec(kind: Callable[..., Spec], given: Mapping[str, Any], **own: Any) -> Spec:
    """Make a spec of the members of the same names, the grammar having seen to their types; ``own`` are ready-made.

    A class of pydantic or attrs would be as long as the spec, and want a converter for each field that is frozen.
    """
    return kind(
        **{f.name: _deep(given[f.name]) for f in fields(cast(Any, kind)) if f.name in given.keys() - own.keys()}, **own
    )


def _deep(value: Any) -> Any:
    """Freeze a mapping, or a list and the lists in it."""
    if isinstance(value, Mapping):
        return _frozen(value)
    return tuple(map(_deep, value)) if isinstance(value, list) else value


def _node(path: str, node: Mapping[str, Any], profile: Mapping[str, Any]) -> NodeSpec:
    overrides = profile.get("variables", {})
    dropped = set(profile.get("without_rules", ()))
    return _spec(
        NodeSpec,
        node,
        path=path,
        dimensions=_frozen({name: _dimension(name, d) for name, d in node.get("dimensions", {}).items()}),
        variables=_frozen(
            {name: _variable(name, {**v, **overrides.get(name, {})}) for name, v in node.get("variables", {}).items()}
        ),
        attributes=profile.get("attributes", {}).get(path, node.get("attributes", {})),
        rules=tuple(_spec(Rule, r) for r in node.get("rules", ()) if r["code"] not in dropped),
    )


def _dimension(name: str, given: Mapping[str, Any]) -> DimensionSpec:
    return _spec(DimensionSpec, given, name=name, size=parse_expression(given["size"]) if "size" in given else None)


def _variable(name: str, given: Mapping[str, Any]) -> VariableSpec:
    presence = given.get("presence", "required")
    kind, argument = next(iter(presence.items())) if isinstance(presence, Mapping) else (presence, None)
    return _spec(
        VariableSpec,
        given,
        name=name,
        presence=Presence(kind, argument),
        fill=_fill(given.get("fill"), given["dtype"]),
        checks=tuple(_spec(Check, c) for c in given.get("checks", ())),
    )


def _fill(value: Any, dtype: str) -> float | int | str | bool | None:
    if value is None:
        defaults: dict[str, str | bool] = {"string": "", "text": "", "bool": False}
        return defaults.get(dtype, float("nan") if dtype.startswith("float") else -1)
    if dtype.startswith("float"):
        return float(value)
    if dtype in ("string", "text"):
        return str(value)
    if dtype == "bool":
        return bool(value)
    return int(value)


def _check_names(schema: Schema) -> None:
    """Raise where a document refers to a dimension, parameter or family that it does not declare."""
    problems = []
    for node in schema.nodes:
        family_parameters = {p for f in schema.families.values() for p in f.parameters}
        known = {*schema.parameters, *family_parameters, *node.dimensions}
        for dim in node.dimensions.values():
            unknown = (dim.size.names if dim.size else frozenset()) - known
            problems += [f"{node.path}/dimensions/{dim.name}/size names {n!r}" for n in sorted(unknown)]
        for variable in node.variables.values():
            used = {d for dims in variable.legal_dims() for d in dims} | set(variable.chunks)
            problems += [
                f"{node.path}/variables/{variable.name} uses dimension {d!r}"
                for d in sorted(used - set(node.dimensions))
            ]
            problems += [
                f"{variable.name} uses the family {f!r}" for f in variable.placeholders if f not in schema.families
            ]
            if variable.mask is not None and variable.mask not in node.variables:
                problems.append(f"{variable.name} is masked by {variable.mask!r}")
            presence = variable.presence
            problems += [
                f"{variable.name} depends on the parameter {p!r}"
                for p in (*presence.parameters, *variable.doc_unless)
                if p not in schema.parameters
            ]
        problems += [f"{node.path} uses the family {f!r}" for f in node.placeholders if f not in schema.families]
    if problems:
        raise SchemaError(
            f"{schema.id} names what it does not declare:\n  " + "\n  ".join(problems),
            remedy="Declare it, or mend the name.",
        )
