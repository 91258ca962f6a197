"""Schemas loaded from declarative documents, and everything that is derived from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from devinterp.schema.loader import available, load
from devinterp.schema.spec import (
    ArrayLayout,
    Check,
    DimensionSpec,
    FamilySpec,
    GroupLayout,
    NodeSpec,
    ParameterSpec,
    Presence,
    Profile,
    Rule,
    Schema,
    StorageSpec,
    VariableSpec,
)

__all__ = [
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
    "Schema",
    "StorageSpec",
    "VariableSpec",
    "available",
    "load",
]
