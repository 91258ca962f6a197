"""A checked document becomes a frozen `Schema` under one profile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from devinterp.errors import SchemaError
from devinterp.schema.model.frozen import FrozenMapping
from devinterp.schema.model.schema import Schema
from devinterp.schema.model.size_expression import parse_expression
from devinterp.schema.model.spec import (
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

__all__ = ["freeze_schema"]


def freeze_schema(
    document: Mapping[str, Any], profile: str, extends: tuple[str, ...], included: Callable[[str], Schema]
) -> Schema:
    """Build the `Schema` that ``document`` (grammar checked, extensions merged) describes under ``profile``."""
    profiles = {
        name: Profile(name, p["doc"], p.get("undeclared", "error"), _frozen(p))
        for name, p in document.get("profiles", {"strict": {"doc": "Exactly the schema."}}).items()
    }
    if profile not in profiles:
        raise SchemaError(
            f"The schema {document['schema']!r} has no profile {profile!r}.", expected=f"one of {sorted(profiles)}"
        )
    chosen = profiles[profile].overrides
    storage = {**document.get("storage", {}), **chosen.get("storage", {})}
    families = {
        name: FamilySpec(name, f["doc"], f.get("path"), f.get("key"), tuple(f.get("parameters", {})))
        for name, f in document.get("families", {}).items()
    }
    schema = Schema(
        name=document["schema"],
        version=document["version"],
        doc=document["doc"],
        parameters=_frozen(
            {
                name: ParameterSpec(name, p["path"], p["type"], p["doc"], p.get("default"))
                for name, p in document.get("parameters", {}).items()
            }
        ),
        families=_frozen(families),
        nodes=tuple(
            _node(path, node, chosen)
            for path, node in sorted(document.get("nodes", {}).items(), key=lambda i: len(i[0]))
        ),
        profiles=_frozen(profiles),
        storage=StorageSpec(
            codecs=tuple(storage.get("codecs", StorageSpec.codecs)),
            checksums=storage.get("checksums", StorageSpec.checksums),
            chunks=storage.get("chunks", StorageSpec.chunks),
            empty_chunks=storage.get("empty_chunks", StorageSpec.empty_chunks),
            shards=storage.get("shards", StorageSpec.shards),
        ),
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


def _node(path: str, node: Mapping[str, Any], profile: Mapping[str, Any]) -> NodeSpec:
    overrides = profile.get("variables", {})
    dropped = set(profile.get("without_rules", ()))
    return NodeSpec(
        path=path,
        doc=node["doc"],
        dimensions=_frozen(
            {
                name: DimensionSpec(
                    name, d["doc"], parse_expression(d["size"]) if "size" in d else None, d.get("minimum", 0)
                )
                for name, d in node.get("dimensions", {}).items()
            }
        ),
        variables=_frozen(
            {name: _variable(name, {**v, **overrides.get(name, {})}) for name, v in node.get("variables", {}).items()}
        ),
        attributes=profile.get("attributes", {}).get(path, node.get("attributes", {})),
        rules=tuple(
            Rule(
                r["code"],
                r["predicate"],
                r.get("level", "values"),
                r.get("severity", "error"),
                _frozen(r.get("arguments", {})),
                r.get("views", "check"),
            )
            for r in node.get("rules", ())
            if r["code"] not in dropped
        ),
        include=node.get("include"),
        minimum=node.get("minimum", 1),
    )


def _variable(name: str, v: Mapping[str, Any]) -> VariableSpec:
    presence = v.get("presence", "required")
    if isinstance(presence, Mapping):
        ((kind, argument),) = presence.items()
        frozen = Presence(kind, argument)
    else:
        frozen = Presence(presence)
    return VariableSpec(
        name=name,
        dims=tuple(v["dims"]),
        dtype=v["dtype"],
        unit=v["unit"],
        doc=v["doc"],
        fill=_fill(v.get("fill"), v["dtype"]),
        role=v.get("role", "data"),
        presence=frozen,
        alternatives=tuple(tuple(a) for a in v.get("alternatives", ())),
        leading=tuple(v.get("leading", ())),
        chunks=_frozen(v.get("chunks", {})),
        prefix=v.get("prefix"),
        checks=tuple(Check(c["code"], c["predicate"], _frozen(c.get("arguments", {}))) for c in v.get("checks", ())),
        alternative_units=tuple(v.get("alternative_units", ())),
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
            presence = variable.presence
            if presence.kind == "when" and presence.argument not in schema.parameters:
                problems.append(f"{variable.name} depends on the parameter {presence.argument!r}")
        problems += [f"{node.path} uses the family {f!r}" for f in node.placeholders if f not in schema.families]
    if problems:
        raise SchemaError(
            f"{schema.id} names what it does not declare:\n  " + "\n  ".join(problems),
            remedy="Declare it, or mend the name.",
        )
