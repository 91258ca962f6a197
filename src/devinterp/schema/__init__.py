"""Schemas loaded from declarative documents, and everything that is derived from them."""

from __future__ import annotations

from devinterp.schema.codes import RuleCode
from devinterp.schema.loader import available, load
from devinterp.schema.report import Finding, NotChecked, Report
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
    "Finding",
    "GroupLayout",
    "NodeSpec",
    "NotChecked",
    "ParameterSpec",
    "Presence",
    "Profile",
    "Report",
    "Rule",
    "RuleCode",
    "Schema",
    "StorageSpec",
    "VariableSpec",
    "available",
    "load",
]
