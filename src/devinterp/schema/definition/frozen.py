"""A mapping that cannot be changed, and can travel: `types.MappingProxyType` cannot be pickled."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from typing import Any, Generic, TypeVar

__all__ = ["FrozenMapping"]

Key = TypeVar("Key")
Value = TypeVar("Value", covariant=True)


class FrozenMapping(Mapping[Key, Value], Generic[Key, Value]):
    """A copy of a mapping that nothing changes; it pickles, deep-copies and compares like the mapping.

    Parameters
    ----------
    mapping : mapping
        What it holds; values are taken as they are.
    """

    __slots__ = ("_items",)

    def __init__(self, mapping: Mapping[Key, Value]) -> None:
        self._items = dict(mapping)

    def __getitem__(self, key: Key) -> Value:
        return self._items[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def values(self) -> ValuesView[Value]:
        """Return what it holds; what a mapping has by itself looks every key up again, as for `items`."""
        return self._items.values()

    def items(self) -> ItemsView[Key, Value]:
        """Return keys and what each holds."""
        return self._items.items()

    def __repr__(self) -> str:
        return repr(self._items)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self._items,))
