"""What a named mutation is, and the table ``catalogue.yaml`` of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from devinterp.schema import Limits
from devinterp.testing.factory import StoreRecipe, make_store
from devinterp.testing.mutations import compound_edits
from devinterp.testing.mutations.bases import BASES, table
from devinterp.testing.mutations.store_editor import StoreEditor

if TYPE_CHECKING:
    from devinterp.schema import RuleCode
    from devinterp.schema.definition.spec import Level
    from devinterp.store.location import StoreLike

__all__ = ["MUTATIONS", "Mutation", "mutations_of"]


@dataclass(frozen=True)
class Mutation:
    """One way in which a valid store can be wrong.

    Attributes
    ----------
    name : str
        Unique, as in ``a-loss-is-nan``.
    code : str
        The `RuleCode` that it must be found under.
    base : StoreRecipe or None
        The valid store that it starts from; None starts from an empty place.
    apply : callable
        Takes a `StoreEditor` and breaks one rule.
    doc : str
        What is wrong, in one sentence.
    also : tuple of str
        Codes of what the same damage also breaks.
    options : mapping
        Arguments of `devinterp.validate` that it needs.
    needs_folder : bool
        Whether it works on a local disk only (symbolic links).
    consolidated : bool
        Whether the base carries consolidated metadata.
    """

    name: str
    code: str
    base: StoreRecipe | None
    apply: Callable[[StoreEditor], None]
    doc: str
    also: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    needs_folder: bool = False
    consolidated: bool = False

    @property
    def rule(self) -> RuleCode:
        """The code, with its words."""
        from devinterp.schema import RuleCode

        return RuleCode(self.code)

    @property
    def level(self) -> Level:
        """The lowest level at which it must be found."""
        return self.rule.level

    def write(self, target: StoreLike) -> StoreLike:
        """Write the valid base to ``target`` and break it; return ``target``."""
        if self.base is not None:
            make_store(target, self.base, consolidated=self.consolidated)
        self.apply(StoreEditor(target))
        return target


def _mutation(code: str, name: str, row: dict[str, Any]) -> Mutation:
    """Make a row of the table a mutation."""
    base = row.pop("base", "samples")
    recipe = None if base is None else BASES[base]
    options: dict[str, Any] = {}
    if recipe is not None and recipe.profile != "strict":
        options["profile"] = recipe.profile
    if recipe is not None and isinstance(recipe.schema, Mapping):  # no document of that name is installed
        options["schema"] = recipe.schema
    options |= row.pop("options", {})
    if "limits" in options:
        options["limits"] = Limits(**options["limits"])
    fields = {key: row.pop(key) for key in ("doc", "needs_folder", "consolidated") if key in row}
    also = tuple(row.pop("also", ()))
    return Mutation(name, code, recipe, _edit(row), also=also, options=options, **fields)


def _edit(operations: Mapping[str, list[Any]]) -> Callable[[StoreEditor], None]:
    """Return the function that applies a row's edits."""
    calls = [
        (getattr(StoreEditor, name, None) or getattr(compound_edits, name), arguments)
        for name, given in operations.items()
        for arguments in (given if given and isinstance(given[0], list) else [given])
    ]

    def apply(store: StoreEditor) -> None:
        for function, arguments in calls:
            function(store, *arguments)

    return apply


MUTATIONS: tuple[Mutation, ...] = tuple(
    _mutation(code, name, row)
    for code, rows in sorted(table("catalogue.yaml").items())
    for name, row in sorted(rows.items())
)
"""Every mutation, by code."""


def mutations_of(code: str) -> tuple[Mutation, ...]:
    """Return the mutations that must be found under a code.

    Parameters
    ----------
    code : str
        Such as ``"DI101"``.
    """
    return tuple(m for m in MUTATIONS if m.code == code)
