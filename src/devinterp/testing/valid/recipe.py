"""The small description that a whole valid tree follows from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devinterp.schema import load
from devinterp.schema.definition.schema import Schema

__all__ = ["StoreRecipe"]


@dataclass(frozen=True)
class StoreRecipe:
    """A small description that a whole valid tree follows from.

    Attributes
    ----------
    schema : str, Path, mapping or Schema
        Anything `devinterp.schema.load` takes: a kind (``"samples"``), an id, the path of a consumer's document.
    profile : str
        The profile the store must be valid under.
    parameters : mapping
        Values of the schema's parameters (``num_chains``, ``num_draws`` ...); what is missing gets a small value.
    members : mapping
        Members of each family, with their parameters and further fields:
        ``{"obs": {"code": {"batches_per_draw": 2, "name": "code"}}}``.
    sizes : mapping of str to int
        Sizes of dimensions that no expression gives (``token_pos``).
    optional : frozenset of str
        Optional variables to include, as patterns (``mask_{obs}``) or of single members (``mask_code``). Masks are
        those of every run below, too.
    leading : frozenset of str
        Leading dimensions that results have (``wr``, ``checkpoint``).
    alternative : int
        Which of the legal dimensions a variable with alternatives takes: 0 is the documented one.
    failed : mapping of int to int
        Draws that each failed chain has, less than ``num_draws``.
    attributes : mapping
        Attributes of the root that are given and not drawn; also undeclared ones.
    children : mapping of str to mapping
        Changes to the recipes of single members of a tree of trees: ``{"l0h0": {"failed": {0: 1}}}``.
    seed : int
        Of all values.
    """

    schema: str | Path | Mapping[str, Any] | Schema = "samples"
    profile: str = "strict"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    members: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    leading: frozenset[str] = frozenset()
    alternative: int = 0
    failed: Mapping[int, int] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    children: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seed: int = 0

    def load(self) -> Schema:
        """Return the schema under the recipe's profile."""
        if isinstance(self.schema, Schema):
            return self.schema
        return load(self.schema, profile=self.profile)
