"""What a named mutation is, and the register that `devinterp.testing.mutations` is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from devinterp.testing.factory import StoreRecipe, make_store
from devinterp.testing.mutations.bases import BASES
from devinterp.testing.mutations.editor import StoreEditor

if TYPE_CHECKING:
    from devinterp.schema import RuleCode
    from devinterp.schema.model.spec import Level
    from devinterp.store.location import StoreLike

__all__ = ["CATALOGUE", "Mutation", "mutation"]


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
    found_at : str or None
        The level, where it is not that of the code.
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
    found_at: Level | None = None

    @property
    def rule(self) -> RuleCode:
        """The code, with its words."""
        from devinterp.schema import RuleCode

        return RuleCode(self.code)

    @property
    def level(self) -> Level:
        """The lowest level at which it must be found."""
        return self.found_at or self.rule.level

    def write(self, target: StoreLike) -> StoreLike:
        """Write the valid base to ``target`` and break it; return ``target``."""
        if self.base is not None:
            make_store(target, self.base, consolidated=self.consolidated)
        self.apply(StoreEditor(target))
        return target


CATALOGUE: dict[str, Mutation] = {}


def mutation(
    code: str,
    base: str | StoreRecipe | None = "samples",
    *,
    also: Iterable[str] = (),
    needs_folder: bool = False,
    consolidated: bool = False,
    found_at: Level | None = None,
    **options: Any,
) -> Callable[[Callable[[StoreEditor], None]], Callable[[StoreEditor], None]]:
    """Register a function that breaks a store as the mutation of its own name.

    Parameters
    ----------
    code : str
        The code it must be found under.
    base : str or StoreRecipe or None
        The valid store it starts from: a name of `devinterp.testing.mutations.bases.BASES`, a recipe, or None for
        nothing.
    also : iterable of str
        Codes of what the same damage also breaks.
    needs_folder, consolidated, found_at
        As in `Mutation`.
    **options
        Arguments of `devinterp.validate` that it needs.
    """

    def register(function: Callable[[StoreEditor], None]) -> Callable[[StoreEditor], None]:
        name = function.__name__.strip("_").replace("_", "-")
        if name in CATALOGUE:
            raise ValueError(f"two mutations are called {name!r}")
        recipe = BASES[base] if isinstance(base, str) else base
        implied: dict[str, Any] = {}
        if recipe is not None and recipe.profile != "strict":
            implied["profile"] = recipe.profile
        if recipe is not None and isinstance(recipe.schema, Mapping):  # no document of that name is installed
            implied["schema"] = recipe.schema
        doc = (function.__doc__ or "").strip()
        CATALOGUE[name] = Mutation(
            name, code, recipe, function, doc, tuple(also), {**implied, **options}, needs_folder, consolidated, found_at
        )
        return function

    return register
