"""A loaded schema, with what it turns into: concrete layouts, and JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from devinterp.schema.definition.layout import resolve_node
from devinterp.schema.definition.spec import GroupLayout, SchemaSpec
from devinterp.schema.definition.to_json_schema import json_document, json_schema

__all__ = ["Schema"]


@dataclass(frozen=True, eq=False)  # a schema is itself: loading twice gives one object, and it can be a key
class Schema(SchemaSpec):
    """A loaded schema document; see `SchemaSpec` for its parts.

    `resolve` turns its patterns into `GroupLayout` objects, from which stores are created and against which they are
    checked.
    """

    def to_json_schema(self) -> dict[str, Any]:
        """Return a JSON Schema (draft 2020-12) of a store's ``zarr.json`` with consolidated metadata."""
        return json_schema(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the document, extensions merged, as JSON types: the whole contract for another language."""
        return json_document(self)

    def resolve(
        self,
        parameters: Mapping[str, Any],
        *,
        members: Mapping[str, Mapping[str, Mapping[str, int]]] | None = None,
        sizes: Mapping[str, int] | None = None,
        optional: frozenset[str] | set[str] = frozenset(),
    ) -> GroupLayout:
        """Turn the root node's patterns into concrete arrays.

        Parameters
        ----------
        parameters : mapping
            Values of the schema's parameters.
        members : mapping
            For each family its members with their own parameters:
            ``{"obs": {"code": {"batches_per_draw": 3}}}``.
        sizes : mapping
            Sizes of dimensions that no expression gives (``token_pos``).
        optional : set of str
            Names of optional variables to include: patterns (``mask_{obs}``), or of single members (``mask_code``).
            A mask of losses that are not there is left out.

        Raises
        ------
        SchemaError
            A size cannot be computed from what was given.
        """
        values = {name: spec.default for name, spec in self.parameters.items() if spec.default is not None}
        values.update(parameters)
        return resolve_node(self.node("/"), values, members or {}, sizes or {}, frozenset(optional))
