"""Attributes drawn from the JSON Schema that a node declares for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from devinterp.errors import SchemaError
from devinterp.schema.definition.schema import Schema
from devinterp.wording import shown

__all__ = ["declared_attributes", "draw_instance", "put", "subschema"]

_UNSET: Any = object()


def put(document: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a dotted path, making the objects on the way."""
    *parents, last = path.split(".")
    for key in parents:
        document = document.setdefault(key, {})
    document[last] = value


def subschema(schema: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """Return what ``schema`` demands of the value at a dotted path; an empty mapping where it demands nothing."""
    found = flatten(schema)
    for key in path.split(".") if path else ():
        found = flatten(found.get("properties", {}).get(key, {}))
    return found


def declared_attributes(schema: Schema, path: str = "/") -> Mapping[str, Any]:
    """Return the JSON Schema of a node's attributes.

    A profile that restates it says what is required under it; of what type a value is, the document still tells.
    """
    node = next((n for n in schema.nodes if n.path == path), None)
    document: Mapping[str, Any] = schema.document.get("nodes", {}).get(path, {}).get("attributes", {})
    if node is None or node.attributes == document:
        return document
    return {"allOf": [_without_required(document), node.attributes]}


def _without_required(schema: Any) -> Any:
    if isinstance(schema, Mapping):
        return {k: _without_required(v) for k, v in schema.items() if k != "required"}
    if isinstance(schema, list):
        return [_without_required(v) for v in schema]
    return schema


def flatten(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Merge ``allOf`` (how an extension adds its demands) into one schema."""
    merged: dict[str, Any] = {k: v for k, v in schema.items() if k != "allOf"}
    for part in schema.get("allOf", ()):
        for key, value in flatten(part).items():
            if key == "required":
                merged[key] = list(dict.fromkeys([*merged.get(key, ()), *value]))
            elif key == "properties":
                known = dict(merged.get(key, {}))
                for name, inner in value.items():
                    known[name] = {"allOf": [known[name], inner]} if name in known else inner
                merged[key] = known
            elif key in ("minimum", "exclusiveMinimum", "minLength", "minItems") and key in merged:
                merged[key] = max(merged[key], value)
            elif key in ("maximum", "exclusiveMaximum", "maxLength", "maxItems") and key in merged:
                merged[key] = min(merged[key], value)
            elif key == "enum" and key in merged:
                merged[key] = [v for v in merged[key] if v in value]
            else:
                merged[key] = value
    return merged


def draw_instance(
    schema: Mapping[str, Any], rng: np.random.Generator, known: Any = _UNSET, where: str = "attributes"
) -> Any:
    """Draw a value that ``schema`` allows, keeping what is ``known`` of it already.

    Only required properties are drawn. Any JSON Schema may stand in a schema document; the part that is understood
    here is what describes data (types, enumerations, bounds, required properties, items), without patterns.

    Raises `SchemaError` where a required value is described by something else; give it in the recipe.
    """
    schema = flatten(schema)
    kind = schema.get("type")
    if isinstance(known, Mapping) or (known is _UNSET and (kind == "object" or "properties" in schema)):
        return _draw_object(schema, rng, {} if known is _UNSET else dict(known), where)
    if isinstance(known, list | tuple):
        items = schema.get("items", {})
        return [draw_instance(items, rng, item, f"{where}[{i}]") for i, item in enumerate(known)]
    if known is not _UNSET:
        return known
    if "anyOf" in schema:
        return draw_instance(schema["anyOf"][0], rng, _UNSET, where)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][int(rng.integers(len(schema["enum"])))]
    if isinstance(kind, list):
        kind = kind[int(rng.integers(len(kind)))]
    if "pattern" in schema or kind not in _SCALARS:
        if kind == "array":
            return _draw_array(schema, rng, where)
        raise SchemaError(
            f"No value can be drawn for {where}: its JSON Schema says {shown(dict(schema))}.",
            remedy="Give it in the recipe: StoreRecipe(..., attributes={...}).",
        )
    return _SCALARS[kind](schema, rng)


def _draw_object(
    schema: Mapping[str, Any], rng: np.random.Generator, known: dict[str, Any], where: str
) -> dict[str, Any]:
    properties = schema.get("properties", {})
    for name in dict.fromkeys([*schema.get("required", ()), *known]):
        known[name] = draw_instance(properties.get(name, {}), rng, known.get(name, _UNSET), f"{where}.{name}")
    return known


def _draw_array(schema: Mapping[str, Any], rng: np.random.Generator, where: str) -> list[Any]:
    count = int(schema.get("minItems", 0))
    out: list[Any] = []
    while len(out) < count:
        item = draw_instance(schema.get("items", {}), rng, _UNSET, f"{where}[{len(out)}]")
        if not schema.get("uniqueItems") or item not in out:
            out.append(item)
    if "contains" in schema and "const" in schema["contains"] and schema["contains"]["const"] not in out:
        out.append(schema["contains"]["const"])
    return out


def _string(schema: Mapping[str, Any], rng: np.random.Generator) -> str:
    length = max(int(schema.get("minLength", 0)), int(rng.integers(1, 9)))
    return "".join(chr(97 + int(c)) for c in rng.integers(0, 26, min(length, int(schema.get("maxLength", length)))))


def _number(schema: Mapping[str, Any], rng: np.random.Generator) -> float:
    low = float(schema.get("minimum", schema.get("exclusiveMinimum", 0.0)))
    high = float(schema.get("maximum", schema.get("exclusiveMaximum", low + 2.0)))
    return low + (high - low) * float(rng.uniform(0.01, 0.99))


def _integer(schema: Mapping[str, Any], rng: np.random.Generator) -> int:
    low = int(schema.get("minimum", int(schema["exclusiveMinimum"]) + 1 if "exclusiveMinimum" in schema else 0))
    high = int(schema.get("maximum", int(schema["exclusiveMaximum"]) - 1 if "exclusiveMaximum" in schema else low + 3))
    return int(rng.integers(low, high + 1))


_SCALARS: dict[str, Callable[[Mapping[str, Any], np.random.Generator], Any]] = {
    "string": _string,
    "number": _number,
    "integer": _integer,
    "boolean": lambda schema, rng: bool(rng.integers(2)),
    "null": lambda schema, rng: None,
}
