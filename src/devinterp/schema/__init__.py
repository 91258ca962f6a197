"""Schemas loaded from declarative documents, and everything that is derived from them."""

from __future__ import annotations

from devinterp.schema.codes import RuleCode
from devinterp.schema.compile import to_pandera
from devinterp.schema.limits import Limits
from devinterp.schema.loader import available, load
from devinterp.schema.predicates import Problem, predicate
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
from devinterp.schema.validation import validate

__all__ = [
    "ArrayLayout",
    "Check",
    "DimensionSpec",
    "FamilySpec",
    "Finding",
    "GroupLayout",
    "Limits",
    "NodeSpec",
    "NotChecked",
    "ParameterSpec",
    "Presence",
    "Problem",
    "Profile",
    "Report",
    "Rule",
    "RuleCode",
    "Schema",
    "StorageSpec",
    "VariableSpec",
    "available",
    "load",
    "predicate",
    "to_pandera",
    "validate",
]
