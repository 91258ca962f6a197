"""An array of a run as it lies in a store, whoever wrote it last: where its chunks lie, and which of them are lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import zarr

from devinterp.errors import StoreError
from devinterp.schema.definition.spec import NodeSpec, VariableSpec
from devinterp.schema.reading.keys import ChunkKeys, chunk_grid, join_key
from devinterp.schema.rules.registry import holds_where_filled
from devinterp.store.location import Location

__all__ = ["StoredArray", "innermost_chunks", "known_arrays"]


class StoredArray:
    """An array of a run as it lies in the store, whoever wrote it last.

    Attributes
    ----------
    array : zarr.Array
    spec : VariableSpec
        What the schema declares of it.
    keys : ChunkKeys
    objects : tuple of int
        Shape of what one object holds: of a shard, where there are shards.
    chunks : tuple of int
        Shape of what can be lost by itself: of a chunk inside a shard, where there are shards.
    """

    def __init__(self, location: Location, group: str, name: str, spec: VariableSpec, mode: Any = "r") -> None:
        self.path, self.spec, self._location = join_key(group, name), spec, location
        try:
            array = zarr.open_array(location.store, path=self.path, mode=mode)
            # A chunk that equals the fill value is written too: only then does its object show that it was written.
            self.array = array.with_config({"write_empty_chunks": True})
            self.keys = ChunkKeys.parse(array.metadata.to_dict()["chunk_key_encoding"])
            dims = array.metadata.dimension_names  # type: ignore[union-attr]
            codecs = array.metadata.to_dict()["codecs"]
        except Exception as error:  # whatever zarr raises at a document that is not an array's
            raise StoreError(
                f"The metadata of {self.path} in {location.name} cannot be read: {error}.",
                expected="a zarr.json as it was written",
                remedy="Install the package of a codec that is not known here. Otherwise copy the store again, or take "
                "that file from a store of the same settings.",
            ) from error
        self.objects: tuple[int, ...] = array.shards or array.chunks
        self.chunks = innermost_chunks(codecs, self.objects)
        self.mask: StoredArray | None = None
        self._read: tuple[str, tuple[int, ...], Any] = ("", (), None)
        self._dims = tuple(map(str, dims or ()))
        if spec.prefix is not None and not {"chain", spec.prefix} <= set(self._dims):
            raise StoreError(
                f"{self.path} in {location.name} has other dimensions than a run's.",
                expected=", ".join(spec.dims),
                found=", ".join(self._dims) or "none",
                remedy="See what `devinterp validate` says of it.",
            )

    def key(self, index: tuple[int, ...]) -> str:
        """Return the key of the object in the store that holds a chunk."""
        return join_key(self.path, self.keys.name(self._object(index)))

    def _object(self, index: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(i * c // o for i, c, o in zip(index, self.chunks, self.objects, strict=True))

    def all_chunks(self) -> Iterator[tuple[int, ...]]:
        """Yield the index of every chunk."""
        yield from np.ndindex(*chunk_grid(self.array.shape, self.chunks))

    def region(self, index: tuple[int, ...]) -> tuple[slice, ...]:
        """Return what a chunk covers of the array."""
        return self._within(index, self.chunks)

    def _within(self, index: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[slice, ...]:
        return tuple(slice(i * c, min((i + 1) * c, n)) for i, c, n in zip(index, sizes, self.array.shape, strict=True))

    def chains(self, index: tuple[int, ...]) -> range:
        """Return the chains that a chunk holds rows of."""
        part = self.region(index)[self._dims.index("chain")]
        return range(part.start, part.stop)

    def rows(self, index: tuple[int, ...]) -> range:
        """Return the rows along the prefix's dimension that a chunk holds."""
        assert self.spec.prefix is not None
        part = self.region(index)[self._dims.index(self.spec.prefix)]
        return range(part.start, part.stop)

    def loss(self, index: tuple[int, ...], listed: set[str], attributes: Mapping[str, Any]) -> str | None:
        """Say why a chunk is lost, ``missing`` or unreadable; None where it is not, or where nothing proves it.

        Raises
        ------
        StoreError
            The store cannot say: a disk or network that fails has lost nothing.
        """
        key, region = self.key(index), self.region(index)
        if key not in listed and not self._location.exists(key):  # a listing may be cut short, or forbidden
            self._refuse_misplaced(self._object(index), listed)
            return None if self._may_be_fill(region, attributes) else "missing"
        if self.chunks == self.objects:
            return self._unreadable(key, region)
        if self._read[0] != key:  # a shard that can be read whole need not be read chunk by chunk
            whole = self._within(self._object(index), self.objects)
            sound = self._unreadable(key, whole) is None
            self._read = (key, tuple(part.start for part in whole), self.array[whole] if sound else None)
        _, starts, values = self._read
        if values is None:
            why = self._unreadable(key, region)
            if why is not None:
                return why
            found = self.array[region]
        else:
            found = values[tuple(slice(r.start - s, r.stop - s) for r, s in zip(region, starts, strict=True))]
        return None if not _same(found, self._fill) or self._may_be_fill(region, attributes) else "lacks a part"

    def _unreadable(self, key: str, region: tuple[slice, ...]) -> str | None:
        """Say why a region of an object cannot be read, or None where it can."""
        raw = self._bytes(key)
        try:
            self.array[region if region else ...]
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # whatever a codec raises means that it cannot be decoded
            if raw is None or self._bytes(key) != raw:
                raise StoreError(
                    f"{key} in {self._location.name} changed while it was read.",
                    remedy="Repair the store when nobody writes to it.",
                ) from error
            return f"unreadable ({type(error).__name__})"
        return None

    def readable(self, chunks: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], Any]:
        """Return the values of those chunks that can be read."""
        found = {}
        for index in chunks:
            try:
                found[index] = self.array[self.region(index)]
            except (ImportError, MemoryError):
                raise
            except Exception:  # it is lost, which `loss` has said
                continue
        return found

    @property
    def _fill(self) -> Any:
        return np.asarray(self.array.fill_value, self.array.dtype)

    def _may_be_fill(self, region: tuple[slice, ...], attributes: Mapping[str, Any]) -> bool:
        """Whether nothing but the array's fill may have been written there."""
        shape = tuple(part.stop - part.start for part in region)
        if holds_where_filled(self.spec.checks, self._fill, shape, attributes):
            return True
        if self.mask is None or not np.isnan(self._fill):
            return False
        return self.mask.masks(dict(zip(self._dims, region, strict=True)))

    def masks(self, region: Mapping[str, slice]) -> bool:
        """Whether this mask is 0 all over a region of what it masks: there NaN is what was written."""
        try:
            found = np.asarray(self.array[tuple(region.get(d, slice(None)) for d in self._dims)])
        except Exception:  # the mask is lost itself
            return False
        return bool(found.size) and not found.any()

    def _refuse_misplaced(self, index: tuple[int, ...], listed: set[str]) -> None:
        for name in self.keys.elsewhere(index):
            if (found := join_key(self.path, name)) in listed:
                raise StoreError(
                    f"A chunk of {self.path} in {self._location.name} is not lost: it lies at another key.",
                    expected=self.key(index),
                    found=found,
                    remedy="Give it the name that readers look for, then repair what is left.",
                )

    def _bytes(self, key: str) -> bytes | None:
        try:
            return self._location.get(key)
        except Exception as error:  # a store may raise whatever its transport raises
            raise StoreError(
                f"{key} in {self._location.name} cannot be read: {type(error).__name__}: {error}.",
                remedy="Nothing shows that it is lost: mend the cause, then repair.",
            ) from error


def known_arrays(location: Location, group: str, node: NodeSpec, mode: Any = "r") -> dict[str, StoredArray]:
    """The group's arrays that the schema knows, by name."""
    found: dict[str, StoredArray] = {}
    for name in sorted(location.list_dir(join_key(group))):
        known = node.find(name)
        if known is not None:
            found[name] = StoredArray(location, group, name, known[0], mode)
    for name, stored in found.items():
        stored.mask = found.get(node.mask_of(name) or "")
    return found


def innermost_chunks(codecs: Any, objects: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the chunks inside shards, of shards inside shards too; else that of the objects."""
    chunks, order = list(objects), list(range(len(objects)))
    for codec in codecs:
        configuration = codec.get("configuration", {})
        if codec["name"] == "transpose":
            order = [order[i] for i in configuration["order"]]
        elif codec["name"] == "sharding_indexed":
            inner = innermost_chunks(configuration["codecs"], tuple(configuration["chunk_shape"]))
            for axis, size in zip(order, inner, strict=True):
                chunks[axis] = size
    return tuple(chunks)


def _same(values: Any, fill: Any) -> bool:
    return bool(np.asarray((values == fill) | ((values != values) & (fill != fill))).all())
