"""``extends:`` a consumer's document added onto ours; it may add and tighten, never loosen."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

from devinterp.errors import SchemaError
from devinterp.schema.definition.spec import match_pattern
from devinterp.wording import shown

__all__ = ["merge_documents"]

Document = dict[str, Any]


def merge_documents(base: Document, derived: Document) -> Document:
    """Return ``derived`` on top of ``base``.

    New parameters, families, nodes, dimensions, variables, rules and profiles are added; a new name may be none
    that a pattern of the base stands for already (``loss_mine`` is the loss of an observable ``mine``). A variable
    or dimension that the base declares may be tightened: ``presence`` from optional to required, fewer
    ``alternatives``, more ``checks``, a larger ``minimum``, a ``size`` where there was none. What it demands of
    attributes holds under every profile; a profile of the base may be told what to make of the variables that are
    new.

    Raises `SchemaError` where ``derived`` changes or loosens what the base fixes; the message names every such place.
    """
    problems: list[str] = []
    merged = deepcopy(base)
    merged.update(schema=derived["schema"], version=derived["version"], doc=derived["doc"])
    for section in ("parameters", "families"):
        _add_new(merged, derived, section, problems)
    for path, node in derived.get("nodes", {}).items():
        nodes = merged.setdefault("nodes", {})
        if path in nodes:
            _merge_node(path, nodes[path], node, problems)
        else:
            problems += [f"{path} would also be {p}, which the base declares" for p in nodes if _captures(path, p, "/")]
            nodes[path] = deepcopy(node)
    for name, profile in derived.get("profiles", {}).items():
        profiles = merged.setdefault("profiles", {})
        if name in profiles:
            profiles[name] = _merge_profile(name, profiles[name], profile, base, problems)
        else:
            profiles[name] = deepcopy(profile)
    _keep_attributes(merged, derived)
    if "storage" in derived and derived["storage"] != base.get("storage"):
        _tighten_storage(merged, derived["storage"], problems)
    if problems:
        raise SchemaError(
            f"{derived['schema']}@{derived['version']} changes what {base['schema']}@{base['version']} fixes:\n  "
            + "\n  ".join(problems),
            remedy="An extension may add and tighten only.",
        )
    return merged


def _add_new(merged: Document, derived: Document, section: str, problems: list[str]) -> None:
    for name, value in derived.get(section, {}).items():
        known = merged.setdefault(section, {})
        if name in known and known[name] != value:
            problems.append(f"{section}/{name} is declared differently in the base")
        known[name] = deepcopy(value)


def _merge_node(path: str, base: Document, derived: Document, problems: list[str]) -> None:
    if derived.get("include", base.get("include")) != base.get("include"):
        problems.append(f"{path} includes another schema than in the base")
    if derived.get("minimum", base.get("minimum", 1)) < base.get("minimum", 1):
        problems.append(f"{path}/minimum is smaller than in the base")
    base["doc"] = derived["doc"]
    for name, dimension in derived.get("dimensions", {}).items():
        _merge_dimension(f"{path}/dimensions/{name}", base.setdefault("dimensions", {}), name, dimension, problems)
    for name, variable in derived.get("variables", {}).items():
        _merge_variable(f"{path}/variables/{name}", base.setdefault("variables", {}), name, variable, problems)
    if "attributes" in derived:
        base["attributes"] = {"allOf": [base.get("attributes", {}), deepcopy(derived["attributes"])]}
    base["rules"] = [*base.get("rules", []), *deepcopy(derived.get("rules", []))]


def _merge_dimension(where: str, known: Document, name: str, new: Document, problems: list[str]) -> None:
    old = known.get(name)
    if old is not None:
        if "size" in old and new.get("size", old["size"]) != old["size"]:
            problems.append(f"{where}/size is {new['size']!r}, the base says {old['size']!r}")
        if new.get("minimum", old.get("minimum", 0)) < old.get("minimum", 0):
            problems.append(f"{where}/minimum is smaller than in the base")
    known[name] = {**(old or {}), **deepcopy(new)}


def _merge_variable(where: str, known: Document, name: str, new: Document, problems: list[str]) -> None:
    old = known.get(name)
    if old is None:
        problems += [
            f"{where} would also be {other}, which the base declares" for other in known if _captures(name, other)
        ]
        known[name] = deepcopy(new)
        return
    for fixed in ("dims", "dtype", "fill", "unit", "role", "leading", "chunks", "prefix", "mask"):
        if fixed in new and new[fixed] != old.get(fixed, {"role": "data"}.get(fixed)):
            problems.append(f"{where}/{fixed} is {shown(new[fixed])}, the base says {shown(old.get(fixed))}")
    extra = [d for d in new.get("alternatives", []) if d not in old.get("alternatives", [])]
    if extra:
        problems.append(f"{where}/alternatives adds {shown([tuple(dims) for dims in extra])}")
    units = [u for u in new.get("alternative_units", []) if u not in old.get("alternative_units", [])]
    if units:
        problems.append(f"{where}/alternative_units adds {shown(units)}")
    before, after = old.get("presence", "required"), new.get("presence", old.get("presence", "required"))
    if after != before and not (before == "optional" and after in ("required", "forbidden")):
        problems.append(f"{where}/presence is {after!r}, the base says {before!r}")
    # What the base says of other cases goes with the meaning that is replaced.
    merged = {**{k: v for k, v in old.items() if k != "doc_unless" or "doc" not in new}, **deepcopy(new)}
    merged["checks"] = [*old.get("checks", []), *deepcopy(new.get("checks", []))]
    known[name] = merged


def _captures(new: str, known: str, separator: str | None = None) -> bool:
    """Whether a new name with a placeholder stands for what a known one declares already, or the other way round."""
    return any(
        "{" in pattern and match_pattern(pattern, re.sub(r"\{\w+\}", "x", name), separator) is not None
        for pattern, name in ((new, known), (known, new))
    )


def _merge_profile(name: str, old: Document, new: Document, base: Document, problems: list[str]) -> Document:
    """A profile of the base may say something of what the extension adds, and nothing else."""
    for key in ("undeclared", "without_rules", "attributes", "storage"):
        if key in new and new[key] != old.get(key):
            problems.append(f"profiles/{name}/{key} differs from the base's")
    declared = {v for node in base.get("nodes", {}).values() for v in node.get("variables", {})}
    for variable, override in new.get("variables", {}).items():
        if variable in declared and override != old.get("variables", {}).get(variable):
            problems.append(f"profiles/{name}/variables/{variable} differs from the base's")
    variables = {**old.get("variables", {}), **deepcopy(new.get("variables", {}))}
    return {**old, **deepcopy(new), **({"variables": variables} if variables else {})}


def _keep_attributes(merged: Document, derived: Document) -> None:
    """What an extension demands of attributes holds under every profile, also one of the base that has its own."""
    for path, node in derived.get("nodes", {}).items():
        for name, profile in merged.get("profiles", {}).items():
            own = profile.get("attributes", {})
            if "attributes" in node and path in own and path not in _attributes_of(derived, name):
                profile["attributes"] = {**own, path: {"allOf": [own[path], deepcopy(node["attributes"])]}}


def _attributes_of(document: Document, profile: str) -> Document:
    found: Document = document.get("profiles", {}).get(profile, {}).get("attributes", {})
    return found


# The value that demands more of a store, and the one that demands less.
_STRICTER = {
    "checksums": ("required", "optional"),
    "chunks": ("declared", "any"),
    "empty_chunks": ("written", "omitted"),
    "shards": ("forbidden", "allowed"),
}


def _tighten_storage(merged: Document, new: Document, problems: list[str]) -> None:
    old = merged.setdefault("storage", {})
    for key, value in new.items():
        if key in _STRICTER and old.get(key, _STRICTER[key][0]) != value and value != _STRICTER[key][0]:
            problems.append(f"storage/{key} is {shown(value)}, the base says {shown(old.get(key, _STRICTER[key][0]))}")
        elif key == "codecs" and value != old.get("codecs"):
            problems.append("storage/codecs differ from the base's")
    old.update(new)
