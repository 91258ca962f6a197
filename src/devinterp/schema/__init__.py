"""Schemas loaded from declarative documents, and everything that is derived from them.

The documents are ``schemas/*.yaml`` at the root of the repository (``_schemas`` in the wheel): what every variable is
called, its dimensions, type, unit and rules stand there and nowhere else.
"""

from __future__ import annotations

from devinterp.schema.checks.to_pandera import to_pandera
from devinterp.schema.definition.load import available, load
from devinterp.schema.definition.schema import Schema
from devinterp.schema.definition.spec import (
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
    StorageSpec,
    VariableSpec,
)
from devinterp.schema.findings.codes import RuleCode
from devinterp.schema.findings.finding import Finding, NotChecked
from devinterp.schema.findings.report import Report
from devinterp.schema.reading.limits import Limits
from devinterp.schema.rules.context import Context
from devinterp.schema.rules.registry import Problem, predicate
from devinterp.schema.validation import validate

__all__ = [
    "ArrayLayout",
    "Check",
    "Context",
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
