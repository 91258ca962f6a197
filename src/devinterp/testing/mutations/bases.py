"""The valid stores that mutations start from, by name (``bases.yaml``)."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from typing import Any

import yaml

from devinterp.schema import predicate
from devinterp.testing.valid.recipe import StoreRecipe

__all__ = ["BASES", "EXTENDED", "table"]


def table(name: str) -> dict[str, Any]:
    """Read a table of this folder."""
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    return {key: row for key, row in yaml.safe_load(text).items() if not key.startswith(".")}


def _recipe(optional: tuple[str, ...] = (), leading: tuple[str, ...] = (), **fields: Any) -> StoreRecipe:
    return StoreRecipe(optional=frozenset(optional), leading=frozenset(leading), **fields)


BASES: dict[str, StoreRecipe] = {name: _recipe(**fields) for name, fields in table("bases.yaml").items()}

EXTENDED: dict[str, Any] = dict(BASES["extended"].schema)  # type: ignore[arg-type]
"""A consumer's document: one more variable, one more attribute."""

_BUGS: dict[str, Any] = {
    "divides": lambda context: 1 // 0,
    "looks up": lambda context: [context.attrs["nowhere"]],
    "adds": lambda context: [context.attrs + 1],
}


def _with_bug(verb: str) -> StoreRecipe:
    """The extension, with a rule that fails."""
    name = f"lab_{verb.replace(' ', '_')}"

    @predicate(name, kind="relation")
    def broken(context: Any) -> Any:
        """A rule with a bug."""
        return _BUGS[verb](context)

    rule = {"code": "LAB101", "predicate": name, "level": "structure", "arguments": {}}
    nodes = {"/": {**EXTENDED["nodes"]["/"], "rules": [rule]}}
    return replace(BASES["extended"], schema={**EXTENDED, "nodes": nodes})


BASES |= {f"rule that {verb}": _with_bug(verb) for verb in _BUGS}
