"""The level ``structure``: what metadata alone decide, group by group, and the rules of every level by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from devinterp.errors import SchemaError
from devinterp.schema.checks.attributes import AttributeRules
from devinterp.schema.checks.bind import bind_tree
from devinterp.schema.checks.names_and_types import Conformance
from devinterp.schema.checks.sizes import check_sizes
from devinterp.schema.checks.storage import check_storage
from devinterp.schema.definition.load import load
from devinterp.schema.findings.codes import RuleCode
from devinterp.schema.findings.report import Collector
from devinterp.schema.reading.limits import Limits
from devinterp.schema.reading.nodes import NotReadableError, Values, join
from devinterp.schema.rules.bound import Bound
from devinterp.schema.rules.context import Context
from devinterp.schema.rules.registry import find_predicate, verify_predicates

if TYPE_CHECKING:
    from devinterp.schema.definition.schema import Schema
    from devinterp.schema.definition.spec import Level, Rule
    from devinterp.schema.reading.nodes import GroupNode

__all__ = ["Checked", "check_structure", "offer_profile", "run_rules"]


class Checked:
    """What the structure level leaves for the deeper ones.

    Attributes
    ----------
    bounds : dict of str to Bound
        Every declared group by its path.
    sound : dict of str to set of str
        For each of them the variables whose dimensions and types are right.
    """

    def __init__(self) -> None:
        self.bounds: dict[str, Bound] = {}
        self.sound: dict[str, set[str]] = {}
        self.conformance = Conformance()


def check_structure(
    root: GroupNode, schema: Schema, findings: Collector, limits: Limits, only: Bound | None = None
) -> Checked:
    """Run every check that needs metadata alone."""
    checked = Checked()
    attributes = AttributeRules()
    in_order: set[tuple[Any, ...]] = set()
    groups: Iterator[Bound] = iter([only]) if only is not None else bind_tree(root, schema, findings, limits)
    for bound in groups:
        verify_predicates(bound.schema)
        checked.bounds[bound.path] = bound
        attributes.check(bound, findings)
        sound = checked.conformance.check(bound, findings)
        check_sizes(bound, sound, findings)
        for name in sound:
            array, spec = bound.group.arrays[name], bound.variables[name][0]
            # Arrays that say the same of their storage share it; one that is in order needs no second look.
            key = (id(spec), id(array.storage), id(array.attrs), array.shape, array.dims)
            if array.storage is None or key not in in_order:
                before = findings.total
                check_storage(bound, array, spec, findings)
                if findings.total == before:
                    in_order.add(key)
        checked.sound[bound.path] = sound
        findings.checked["groups"] += 1
        findings.checked["arrays"] += len(bound.group.arrays)
    run_rules(checked, "structure", None, findings)
    return checked


def run_rules(checked: Checked, level: Level, values: Values | None, findings: Collector) -> None:
    """Evaluate the relations of one level in every group."""
    for bound in checked.bounds.values():
        for rule in bound.node.rules:
            if rule.level != level:
                continue
            if not bound.group.whole and rule.views == "skip":
                of = "stores, not for a tree in memory" if bound.group.view else "whole runs, not for a part of one"
                findings.skip(bound.path, rule.predicate.replace("_", " "), f"a rule for {of}")
                continue
            _run_rule(bound, rule, values, checked.bounds, findings)


def _run_rule(bound: Bound, rule: Rule, values: Values | None, tree: Mapping[str, Bound], findings: Collector) -> None:
    relation = find_predicate(rule.predicate)
    try:
        for problem in relation.function(Context(bound, values, tree), **rule.arguments):
            findings.add(
                rule.code,
                join(bound.path, problem.name) if problem.name else bound.path,
                problem.message,
                expected=problem.expected,
                found=problem.found,
                severity=rule.severity,
                level=rule.level,
            )
    except NotReadableError as error:
        findings.skip(bound.path, rule.predicate.replace("_", " "), error.problem)
    except SchemaError:
        raise
    except (
        Exception,
        SystemExit,
    ) as error:  # a rule meets what other findings are about; the report must still come to its end
        findings.add(
            RuleCode.RULE_FAILED,
            bound.path,
            f"The rule {rule.code} {rule.predicate} could not be evaluated.",
            found=f"{type(error).__name__}: {error}",
            level=rule.level,
        )


def offer_profile(root: GroupNode, schema: Schema, findings: Collector, limits: Limits) -> None:
    """Add a note where the tree breaks this profile and another one fits it plainly better."""
    errors = _departures(findings)
    best: tuple[int, str] | None = None
    for name in schema.profiles:
        if name in (schema.profile, "open") or not errors:
            continue
        other: Any = load(dict(schema.document), profile=name) if schema.extends else load(schema.id, profile=name)
        trial = Collector()
        check_structure(root, other, trial, limits)
        found = _departures(trial)
        if 3 * found <= errors and (best is None or found < best[0]):
            best = (found, name)
    if best is not None:
        number, name = best
        findings.add(
            RuleCode.OTHER_PROFILE,
            "/",
            f"The store is as the profile {name!r} has it{f', but for {number} finding(s)' if number else ''}.",
            expected=f"{schema.profile}",
            found=name,
            remedy=f"Validate or open it with profile={name!r}.",
        )


def _departures(findings: Collector) -> int:
    """How often the metadata depart from a profile; the state of a run tells nothing of its writer."""
    state = (RuleCode.INCOMPLETE, RuleCode.FAILED_CHAIN)
    return sum(f.severity != "note" and f.level == "structure" and f.code not in state for f in findings.findings())
