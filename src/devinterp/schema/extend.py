"""``extends:`` a consumer's document added onto ours; it may add and tighten, never loosen."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from devinterp.errors import SchemaError

__all__ = ["merge_documents"]

Document = dict[str, Any]


def merge_documents(base: Document, derived: Document) -> Document:
    """Return ``derived`` on top of ``base``.

    New parameters, families, nodes, dimensions, variables, rules and profiles are added. A variable or dimension that
    the base declares may be tightened: ``presence`` from optional to required, fewer ``alternatives``, more
    ``checks``, a larger ``minimum``, a ``size`` where there was none.

    Raises
    ------
    SchemaError
        ``derived`` changes or loosens what the base fixes; the message names every such place.
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
            nodes[path] = deepcopy(node)
    for name, profile in derived.get("profiles", {}).items():
        profiles = merged.setdefault("profiles", {})
        if name in profiles:
            profiles[name] = _merge_profile(name, profiles[name], profile, problems)
        else:
            profiles[name] = deepcopy(profile)
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
        known[name] = deepcopy(new)
        return
    for fixed in ("dims", "dtype", "fill", "unit", "role", "leading", "chunks", "prefix"):
        if fixed in new and new[fixed] != old.get(fixed, {"role": "data"}.get(fixed)):
            problems.append(f"{where}/{fixed} is {new[fixed]!r}, the base says {old.get(fixed)!r}")
    extra = [d for d in new.get("alternatives", []) if d not in old.get("alternatives", [])]
    if extra:
        problems.append(f"{where}/alternatives adds {extra}")
    before, after = old.get("presence", "required"), new.get("presence", old.get("presence", "required"))
    if after != before and not (before == "optional" and after in ("required", "forbidden")):
        problems.append(f"{where}/presence is {after!r}, the base says {before!r}")
    merged = {**old, **deepcopy(new)}
    merged["checks"] = [*old.get("checks", []), *deepcopy(new.get("checks", []))]
    known[name] = merged


def _merge_profile(name: str, old: Document, new: Document, problems: list[str]) -> Document:
    for key in ("undeclared", "without_rules", "variables", "storage"):
        if key in new and new[key] != old.get(key):
            problems.append(f"profiles/{name}/{key} differs from the base's")
    return {**old, **deepcopy(new)}


def _tighten_storage(merged: Document, new: Document, problems: list[str]) -> None:
    old = merged.setdefault("storage", {})
    strict = {"checksums": "required", "chunks": "declared"}
    for key, value in new.items():
        if key in strict and old.get(key, strict[key]) != value and value != strict[key]:
            problems.append(f"storage/{key} is {value!r}, the base says {old.get(key, strict[key])!r}")
        elif key == "codecs" and value != old.get("codecs"):
            problems.append("storage/codecs differ from the base's")
    old.update(new)
