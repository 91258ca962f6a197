"""Whether a store is whole, by the attributes of its root and the rule of the schema that they name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from devinterp.errors import SchemaError
from devinterp.plain_json import dig
from devinterp.schema.checks.bind import load_by_id
from devinterp.schema.rules.samples import is_complete

__all__ = ["has_completed"]


def has_completed(attrs: Mapping[str, Any]) -> bool:
    """Return whether what a root says of itself is that everything is there.

    What our writers make says ``completed``, 0 until the end. A result that xarray saved says nothing of it: its
    schema does not ask, and neither does anything else. A run without the attribute has not completed, whoever wrote
    it; of what is neither a run nor of a known schema nothing is said.
    """
    if "completed" in attrs:
        return bool(attrs["completed"] == 1)
    named = attrs.get("devinterp_schema")
    try:
        schema = load_by_id(named, "strict") if isinstance(named, str) else None
    except SchemaError:  # it is broken, which the validator says
        schema = None
    if schema is None:
        return dig(attrs, "metadata.config.sampler") is None
    rules = [rule for node in schema.nodes if node.path == "/" for rule in node.rules if rule.predicate == "completed"]
    return all(is_complete(attrs, rule.arguments.get("unless_without", ())) for rule in rules)
