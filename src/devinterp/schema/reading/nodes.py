"""A tree as the validator sees it: groups, arrays and what is said about them, from a store or from memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from devinterp.errors import StoreError
from devinterp.plain_json import dig
from devinterp.schema.reading.keys import ChunkKeys

__all__ = ["ArrayNode", "CodecNode", "GroupNode", "NotReadableError", "StorageNode", "Values", "join"]


@dataclass(frozen=True)
class CodecNode:
    """One codec of an array, as its metadata name it."""

    name: str
    configuration: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StorageNode:
    """How an array lies in a store.

    Attributes
    ----------
    chunks : tuple of int
        Shape of a chunk of the grid (of a shard, where there are shards).
    keys : ChunkKeys
        How its chunks are named.
    codecs : tuple of CodecNode
        In the order of encoding.
    fill : object
        The fill value as JSON.
    length : int
        Bytes per element of a fixed-length string, else 0.
    """

    chunks: tuple[int, ...]
    keys: ChunkKeys
    codecs: tuple[CodecNode, ...]
    fill: Any
    length: int = 0


@dataclass
class ArrayNode:
    """One array.

    Attributes
    ----------
    path, name : str
    dims : tuple of str
    shape : tuple of int
    dtype : str
        A NumPy name, ``string`` (variable length) or ``fixed_length_utf32``.
    attrs : mapping
    storage : StorageNode or None
        None for a variable in memory.
    coordinate : bool or None
        Whether a variable in memory is a coordinate; in a store the attributes say so.
    values : object
        The `xarray.Variable` of a variable in memory.
    """

    path: str
    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    attrs: Mapping[str, Any]
    storage: StorageNode | None = None
    coordinate: bool | None = None
    values: Any = None


@dataclass
class GroupNode:
    """One group with everything below it.

    Attributes
    ----------
    path : str
        ``/`` for the root.
    attrs : dict
    arrays, groups : dict
        By name.
    broken : set of str
        Names whose document could not be used; each has its finding, and is not called missing too.
    view : bool
        Whether it is a tree in memory, which may be a selection.
    """

    path: str
    attrs: dict[str, Any]
    arrays: dict[str, ArrayNode] = field(default_factory=dict)
    groups: dict[str, GroupNode] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    view: bool = False

    @property
    def selected(self) -> Mapping[str, Any] | None:
        """What the group of a store says it holds of a run, or None where that is the whole run."""
        found = dig(self.attrs, "metadata.selection")
        return found if isinstance(found, Mapping) else None

    @property
    def whole(self) -> bool:
        """Whether relations to the settings of a run apply: neither a view nor recorded as a part of one."""
        return not self.view and self.selected is None

    def coordinates(self) -> frozenset[str]:
        """Names of the arrays that xarray would make coordinates."""
        named: set[str] = set()
        for attrs in (self.attrs, *(a.attrs for a in self.arrays.values())):
            listed = attrs.get("coordinates")
            if isinstance(listed, str):
                named.update(listed.split())
        return frozenset(
            name
            for name, array in self.arrays.items()
            if (array.coordinate if array.coordinate is not None else name in named or array.dims == (name,))
        )

    def subtree(self) -> Iterator[GroupNode]:
        """Yield this group and every group below it."""
        yield self
        for group in self.groups.values():
            yield from group.subtree()


def join(parent: str, name: str) -> str:
    """Return the path of ``name`` below ``parent``."""
    return f"/{name}" if parent == "/" else f"{parent}/{name}"


class NotReadableError(StoreError):
    """A relation needs values that are damaged, missing, unsafe or too large; the relation is then not checked."""


class Values(Protocol):
    """Where values come from: the chunks of a store, or variables in memory."""

    budget: int

    def read(self, array: ArrayNode, selection: Mapping[str, slice] | None = None) -> NDArray[Any]:
        """Return values of an array; raise `NotReadableError` where that cannot be."""
