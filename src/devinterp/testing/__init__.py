"""What consumers need to test their own code against the format: strategies, a store factory, named mutations.

Every name below is resolved on first use, so that the pytest plugin of this package costs a session nothing.
Strategies need hypothesis: ``pip install devinterp[testing]``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from devinterp.testing.factory import StoreRecipe as StoreRecipe
    from devinterp.testing.factory import make_store as make_store
    from devinterp.testing.factory import make_tree as make_tree
    from devinterp.testing.mutations import MUTATIONS as MUTATIONS
    from devinterp.testing.mutations import Mutation as Mutation
    from devinterp.testing.mutations import mutations_of as mutations_of
    from devinterp.testing.strategies import observable_names as observable_names
    from devinterp.testing.strategies import recipes as recipes
    from devinterp.testing.strategies import restriction_names as restriction_names
    from devinterp.testing.strategies import sample_settings as sample_settings
    from devinterp.testing.strategies import trees as trees
    from devinterp.testing.valid.draft import Draft as Draft
    from devinterp.testing.valid.draft import GroupDraft as GroupDraft
    from devinterp.testing.valid.draft import rule_maker as rule_maker
    from devinterp.testing.valid.values import value_maker as value_maker

_PUBLIC = {
    "Draft": "valid.draft",
    "GroupDraft": "valid.draft",
    "MUTATIONS": "mutations",
    "Mutation": "mutations",
    "StoreRecipe": "factory",
    "make_store": "factory",
    "make_tree": "factory",
    "mutations_of": "mutations",
    "observable_names": "strategies",
    "recipes": "strategies",
    "restriction_names": "strategies",
    "rule_maker": "valid.draft",
    "sample_settings": "strategies",
    "trees": "strategies",
    "value_maker": "valid.values",
}

__all__ = [
    "MUTATIONS",
    "Draft",
    "GroupDraft",
    "Mutation",
    "StoreRecipe",
    "make_store",
    "make_tree",
    "mutations_of",
    "observable_names",
    "recipes",
    "restriction_names",
    "rule_maker",
    "sample_settings",
    "trees",
    "value_maker",
]


if not TYPE_CHECKING:  # a checker shall know the names that there are

    def __getattr__(name: str) -> Any:
        if name in _PUBLIC:
            return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
