"""A schema as JSON Schema: of the ``zarr.json`` of a store's root, for tools in other languages.

It takes whatever `devinterp.validate` takes. What it cannot say, and takes too: sizes that follow from settings or from
each other and from the number of dimensions, chunk grids, variables that settings ask for or forbid, which arrays are
coordinates, how ``_FillValue`` of floats is encoded, and relations between attributes and groups. The merged document,
which can say so, travels along under ``x-devinterp``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from devinterp.plain_json import plain_json
from devinterp.schema.definition.spec import DECODED, NodeSpec, SchemaSpec, StorageSpec, VariableSpec

__all__ = ["json_document", "json_schema"]

# What a store may call our types of text.
_TEXT = {"text": ["string", "fixed_length_utf32"]}
# NaN as Zarr spells it: by its name, or by the bytes of any NaN of 16, 32 or 64 bits.
_NAN = (
    "^(?:NaN|0x[7fF](?:[cC](?!00$)|[d-fD-F])[0-9a-fA-F]{2}|0x[7fF][fF](?:8(?!0{5}$)|[9a-fA-F])[0-9a-fA-F]{5}"
    "|0x[7fF][fF]{2}(?!0{13}$)[0-9a-fA-F]{13})$"
)
# The same of a double in base64, the least byte first, which is how xarray spells its marker of missing numbers.
_NAN_MARKER = "^(?!A{8}8[HP]8=$)[A-Za-z0-9+/]{8}[89+/][HXn3Pfv/]8=$"
_REQUIRED = ("shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs")
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(schema: SchemaSpec) -> dict[str, Any]:
    """Return a JSON Schema (draft 2020-12) of the root's ``zarr.json`` with consolidated metadata."""
    definitions: dict[str, Any] = {}
    exact: dict[str, Any] = {}
    patterns: dict[str, Any] = {}
    required: list[str] = []
    root: Any = {"type": "object"}
    for path, node, owner in _nodes(schema):
        prefix = path.strip("/")
        if node.attributes and not prefix:
            root = _with_names(plain_json(node.attributes, nonfinite="text"))
        elif prefix:
            group: dict[str, Any] = {
                "type": "object",
                "required": ["node_type"],
                "description": node.doc,
                "properties": {"node_type": {"const": "group"}},
            }
            if node.attributes:
                group["properties"]["attributes"] = _with_names(plain_json(node.attributes, nonfinite="text"))
            _put(prefix, group, exact, patterns)
        for variable in node.variables.values():
            if variable.presence.kind == "forbidden":
                continue
            key = f"{owner.id} {node.path} {variable.name}"
            definitions[key] = _array(variable, owner)
            name = f"{prefix}/{variable.name}".lstrip("/")
            _put(name, {"$ref": f"#/$defs/{_pointer(key)}"}, exact, patterns)
            if variable.presence.kind == "required" and "{" not in name:
                required.append(name)
    metadata: dict[str, Any] = {
        "type": "object",
        "required": required,
        "properties": exact,
        "patternProperties": {_except(pattern, exact): value for pattern, value in patterns.items()},
    }
    if schema.undeclared == "error":
        metadata["additionalProperties"] = False
    return {
        "$schema": _DIALECT,
        "$id": f"urn:devinterp:{schema.name}:{schema.version}:{schema.profile}",
        "title": schema.id,
        "description": schema.doc,
        "type": "object",
        "required": ["zarr_format", "node_type", "attributes"],
        "properties": {
            "zarr_format": {"const": 3},
            "node_type": {"const": "group"},
            "attributes": root,
            "consolidated_metadata": {"type": ["object", "null"], "properties": {"metadata": metadata}},
        },
        "$defs": definitions,
        "x-devinterp": json_document(schema),
    }


def json_document(schema: SchemaSpec) -> dict[str, Any]:
    """Return the schema's own document, extensions merged, as JSON types (NaN as the string ``"NaN"``)."""
    plain: dict[str, Any] = plain_json(schema.document, "document", nonfinite="text")
    return plain


def _nodes(schema: SchemaSpec, mount: str = "") -> list[tuple[str, NodeSpec, SchemaSpec]]:
    """Every node with its path pattern and its schema, those of included schemas below where they are mounted."""
    out: list[tuple[str, NodeSpec, SchemaSpec]] = []
    for node in schema.nodes:
        path = f"{mount}{node.path}".rstrip("/") or "/"
        if node.include is None:
            out.append((path, node, schema))
            continue
        out += _nodes(schema.included(node.include), path)
    return out


def _put(name: str, value: Any, exact: dict[str, Any], patterns: dict[str, Any]) -> None:
    if "{" in name:
        patterns[_regex(name)] = value
    else:
        exact[name] = value


def _regex(pattern: str) -> str:
    """Return the regular expression of names; a placeholder stands for anything within one path component."""
    parts = re.split(r"\{\w+\}", pattern)
    return "^" + "[^/]+".join(map(_escape, parts)) + "$"


def _escape(text: str) -> str:
    """As `re.escape`, of what ECMAScript lets be escaped alone."""
    return re.sub(r"[\\^$.*+?()\[\]{}|]", r"\\\g<0>", text)


def _with_names(schema: Any) -> Any:
    """Return a JSON Schema in which names that are required stand among the properties, as strict readers ask."""

    def name_required(part: dict[str, Any]) -> dict[str, Any]:
        names = part.get("required")
        if isinstance(names, list) and "type" in part:
            part["properties"] = {**dict.fromkeys(names, True), **part.get("properties", {})}
        return part

    return json.loads(json.dumps(schema), object_hook=name_required)


def _except(pattern: str, names: Iterable[str]) -> str:
    """Leave names of their own out of a pattern: JSON Schema would apply both, and the array `lr` be a cell too."""
    own = "|".join(_escape(n) for n in sorted(names) if re.fullmatch(pattern, n))
    return f"^(?!(?:{own})$){pattern[1:]}" if own else pattern


def _array(variable: VariableSpec, owner: SchemaSpec) -> dict[str, Any]:
    storage, legal = owner.storage, variable.legal_dims()
    units: dict[str, Any] = {"enum": [None, *variable.units({})]}
    if "loss_unit" in owner.parameters and variable.units({}) != variable.units({"loss_unit": "of the caller"}):
        units = {"type": ["string", "null"]}  # a setting says which

    dtype = "text" if variable.dtype == "string" and storage.empty_chunks == "omitted" else variable.dtype
    types = _TEXT.get(dtype, [dtype])
    dims: dict[str, Any]
    if any("{" in d for t in legal for d in t):
        dims = {
            "type": "array",
            "prefixItems": [{"type": "string", "pattern": _regex(d)} if "{" in d else {"const": d} for d in legal[0]],
            "minItems": len(legal[0]),
            "maxItems": len(legal[0]),
        }
    else:
        dims = {"enum": [list(t) for t in legal]}
    properties: dict[str, Any] = {
        "node_type": {"const": "array"},
        "zarr_format": {"const": 3},
        # Without a type, what is said of members would hold for any string.
        "data_type": {
            "anyOf": [
                {"enum": types},
                {"type": "object", "required": ["name"], "properties": {"name": {"enum": types}}},
            ]
        },
        "chunk_grid": {
            "type": "object",
            "required": ["name", "configuration"],
            "properties": {
                "name": {"const": "regular"},
                "configuration": {
                    "type": "object",
                    "required": ["chunk_shape"],
                    "properties": {"chunk_shape": {"type": "array", "items": {"type": "integer", "minimum": 0}}},
                },
            },
        },
        "chunk_key_encoding": {
            "anyOf": [
                {"const": "default"},
                {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": {"const": "default"},
                        "configuration": {
                            "type": ["object", "null"],
                            "properties": {"separator": {"const": "/"}},
                        },
                    },
                },
            ]
        },
        "fill_value": True,
        "storage_transformers": {"enum": [None, []]},
        "dimension_names": dims,
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "attributes": {
            "type": "object",
            "properties": {
                "units": units,
                "coordinates": {"type": "string"},
                "_FillValue": {"type": "string", "pattern": _NAN_MARKER}
                if variable.dtype.startswith("float")
                else False,
                **dict.fromkeys(DECODED, False),
            },
        },
        "codecs": {"anyOf": [_codec_list(names) for names in _codecs(dtype, storage)]},
    }
    ranks = sorted({len(t) for t in (legal[:1] if "prefixItems" in dims else legal)})
    named = ["dimension_names"]
    if () in legal:  # Zarr leaves the names out where there are none
        properties["dimension_names"] = {"enum": [None, *map(list, legal)]}
        named = []
    fill = variable.fill
    if fill is not None and storage.empty_chunks == "written":  # elsewhere another one is a warning
        nan = isinstance(fill, float) and fill != fill
        properties["fill_value"] = {"type": "string", "pattern": _NAN} if nan else {"const": fill}
    return {
        "type": "object",
        "description": f"{variable.doc} (unit: {variable.unit})",
        "required": ["node_type", "zarr_format", *_REQUIRED, *named],
        "properties": properties,
        # A document whose shape, chunks and names are of different numbers of dimensions is not an array's.
        "anyOf": [
            _of_rank(rank, [list(t) for t in legal if len(t) == rank] if len(ranks) > 1 else []) for rank in ranks
        ],
        # A member that Zarr does not know may be there where readers need not understand it.
        "additionalProperties": {
            "type": "object",
            "required": ["must_understand"],
            "properties": {"must_understand": {"const": False}},
        },
    }


def _of_rank(rank: int, dims: list[list[str]]) -> dict[str, Any]:
    """What members have in common that speak of every dimension; ``dims`` where arrays of other ranks are legal too."""
    each = {"type": "array", "minItems": rank, "maxItems": rank}
    named = {"dimension_names": {"enum": [*dims, *([None] if not rank else [])]}} if dims else {}
    configuration = {"type": "object", "properties": {"chunk_shape": each}}
    return {
        "properties": {
            **named,
            "shape": each,
            "chunk_grid": {"type": "object", "properties": {"configuration": configuration}},
        },
        **({"required": ["dimension_names"]} if named and rank else {}),
    }


def _codecs(dtype: str, storage: StorageSpec) -> list[list[str]]:
    """Every legal list of codecs."""
    serializers = {"string": ["vlen-utf8"], "text": ["vlen-utf8", "bytes"]}.get(dtype, ["bytes"])
    bare = [c for c in storage.codecs if c != "crc32c"]
    closed = [storage.codecs, [*bare, "crc32c"]] if storage.checksums == "optional" else [storage.codecs]
    lists = [*closed, bare] if storage.checksums == "optional" else closed
    return [[s if c == "bytes" else c for c in names] for s in serializers for names in lists]


def _codec_list(names: list[str]) -> dict[str, Any]:
    return {
        "type": "array",
        "prefixItems": [
            {
                "anyOf": [
                    {"const": c},  # the short form
                    {"type": "object", "required": ["name"], "properties": {"name": {"const": c}}},
                ]
            }
            for c in names
        ],
        "minItems": len(names),
        "maxItems": len(names),
    }


def _pointer(key: str) -> str:
    from urllib.parse import quote

    return quote(key.replace("~", "~0").replace("/", "~1"), safe="~")
