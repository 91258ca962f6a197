"""Which schema a tree is to be held against: the one asked for, the one it names, or the one it looks like."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from devinterp.errors import SchemaError
from devinterp.plain_json import dig
from devinterp.schema.checks.bind import load_by_id
from devinterp.schema.definition.load import available, load, usable
from devinterp.schema.definition.schema import Schema
from devinterp.schema.definition.spec import NodeSpec
from devinterp.schema.findings.codes import RuleCode
from devinterp.schema.findings.report import Collector, clip
from devinterp.schema.rules.registry import verify_predicates
from devinterp.schema.rules.samples import is_complete
from devinterp.wording import one_of

if TYPE_CHECKING:
    from devinterp.schema.reading.nodes import GroupNode

__all__ = ["choose_schema", "fitting_node", "recognise"]

_ID = re.compile(r"[A-Za-z0-9][\w./-]*@[1-9][0-9]{0,5}")
_THRESHOLD = 0.3


def choose_schema(root: GroupNode, asked: Any, profile: str, findings: Collector) -> Schema | None:
    """Return the schema, or None after the finding that says that there is none.

    Raises `SchemaError` where the schema or profile that was asked for does not exist.
    """
    named = root.attrs.get("devinterp_schema")
    if asked is not None:
        schema: Schema = asked if isinstance(asked, Schema) else load(asked, profile=profile)
        if isinstance(named, str) and named not in (schema.id, *schema.extends):
            own = _sound(named, "strict")[0] if _ID.fullmatch(named) else None
            if own is None or schema.id not in own.extends:
                findings.add(
                    RuleCode.OTHER_SCHEMA, "/", "The store names another schema.", expected=schema.id, found=named
                )
        return schema
    if isinstance(named, str):
        own, why = _named_schema(named, profile)
        if own is not None:
            return own
        message = f"The schema that the store names cannot be loaded{why}."
        findings.add(RuleCode.UNKNOWN_SCHEMA, "/", message, found=clip(named, 120))
    recognised = recognise(root, profile)
    if recognised is None:
        names = [*root.arrays, *(f"{g}/" for g in root.groups)]
        findings.add(
            RuleCode.UNKNOWN_KIND,
            "/",
            "The store fits no known schema.",
            expected=one_of(s.id for s in known_schemas("strict")),
            found=", ".join(names[:20]) or "an empty group",
        )
    return recognised


def _named_schema(named: str, profile: str) -> tuple[Schema | None, str]:
    """Return the schema that a store names, or None and why: a store is not to blame for what is installed here."""
    if not _ID.fullmatch(named):
        return None, ""
    found, why = _sound(named, profile)
    if found is not None and found.profile != profile:
        raise SchemaError(f"The schema {named!r} has no profile {profile!r}.", expected=one_of(sorted(found.profiles)))
    return found, why


def _sound(identity: str, profile: str) -> tuple[Schema | None, str]:
    try:
        found = load_by_id(identity, profile)
        if found is not None:
            verify_predicates(found)
    except SchemaError as error:
        return None, f": {str(error).rstrip('.')}"
    return found, ""


def known_schemas(profile: str) -> list[Schema]:
    """Every installed schema that extends none, under ``profile`` where it has it."""
    paths = available()
    schemas = {i: s for i, s in usable().items() if not s.extends and profile in s.profiles}
    return [s if s.profile == profile else load(paths[i], profile=profile) for i, s in schemas.items()]


def recognise(root: GroupNode, profile: str) -> Schema | None:
    """Return the schema whose names fit the tree best, or None where none fits.

    Raises `SchemaError` where no schema has the profile.
    """
    schemas = known_schemas(profile)
    if not schemas:
        raise SchemaError(f"No schema has a profile {profile!r}.", expected="strict, open or devinterp-2.0")
    best = max(schemas, key=lambda s: fit(root, s))
    return best if fit(root, best) >= _THRESHOLD else None


def fit(group: GroupNode, schema: Schema, depth: int = 0) -> float:
    """How well names fit, from 0 to 1: of the arrays here and required here, and of the groups below."""
    node = next((n for n in schema.nodes if n.path == "/"), None)
    if node is None or depth > 4:
        return 0.0
    if node.variables:
        return _fit_node(group, node)
    below = [n for n in schema.nodes if n.path.count("/") == 1 and n.path != "/"]
    if not below or group.arrays:
        return 0.0
    literal = [n for n in below if not n.placeholders]
    if literal:
        scores = [_fit_node(group.groups[n.path[1:]], n) if n.path[1:] in group.groups else 0.0 for n in literal]
        return sum(scores) / len(scores)
    included = [n for n in below if n.include is not None]
    if not included or not group.groups:
        return 0.0
    inner = load_by_id(str(included[0].include), schema.profile)
    children = list(group.groups.values())[:8]
    return 0.0 if inner is None else sum(fit(c, inner, depth + 1) for c in children) / len(children)


def _fit_node(group: GroupNode, node: NodeSpec) -> float:
    required = {v.name for v in node.variables.values() if v.presence.kind == "required" and not v.placeholders}
    if "inference_library" in group.attrs:  # a group as ArviZ lays it out, which has names of ours
        return 0.0
    names = set(group.arrays) | group.broken
    declared = {n for n in names if node.find(n) is not None}
    # A name that another schema shares (init_loss, input_ids) says little: the required ones must be there too.
    return len(declared) / len(names | required) if names else 0.0


def fitting_node(group: GroupNode, profile: str) -> tuple[Schema, NodeSpec] | None:
    """Return the schema and node that a single dataset fits best, the roots of schemas first."""
    best: tuple[float, Schema, NodeSpec] | None = None
    for schema in known_schemas(profile):
        for node in schema.nodes:
            score = _fit_node(group, node) if node.variables else 0.0
            if score >= _THRESHOLD and (best is None or score > best[0]):
                best = (score, schema, node)
    return None if best is None else best[1:]


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
