"""Where a store lies, to be read and written; what a caller's words mean, `schema.reading.target` says."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, MemoryStore, StorePath, WrapperStore, ZipStore

from devinterp.errors import StoreError, StoreGoneError
from devinterp.schema.reading.keys import DOCUMENT, STATE_FOLDER, documented_node, join_key
from devinterp.schema.reading.target import check_archive, open_url, protocols, resolve_target
from devinterp.store.filesystem import sync_files

__all__ = ["Location", "OpenedFolder", "StoreLike", "locate", "refuse_gone", "require_any_key"]

StoreLike = str | os.PathLike[str] | Store | StorePath | zarr.Group


@dataclass(frozen=True)
class Location:
    """A Zarr store, with the local folder behind it where there is one.

    Attributes
    ----------
    store : zarr.abc.store.Store
    name : str
        What messages call it.
    folder : Path or None
        The local directory, for locks and free-space messages.
    url : str or None
        What reopens it in another process (None for a store object that cannot travel).
    """

    store: Store
    name: str
    folder: Path | None
    url: str | None

    def get(self, key: str) -> bytes | None:
        """Return the bytes at ``key``, or None."""
        try:
            buffer = sync(self.store.get(key, prototype=default_buffer_prototype()))
        except FileNotFoundError:  # a read-only local store whose folder is not there
            return None
        return None if buffer is None else buffer.to_bytes()

    def set(self, key: str, value: bytes) -> None:
        """Write ``value`` at ``key``, whole or not at all."""
        sync(self.store.set(key, default_buffer_prototype().buffer.from_bytes(value)))

    def set_parts(self, key: str, *parts: bytes) -> None:
        """Write `parts`, one after the other, at ``key``, whole or not at all; on a local disk without joining them."""
        if self.folder is None:
            self.set(key, b"".join(parts))
        else:
            _write_file(self.folder / key, parts)

    def set_many(self, items: Mapping[str, bytes]) -> None:
        """Write many small documents, each whole or not at all; the root's comes first.

        Whatever a killed creation leaves is known for ours by it. On a local disk the files are written directly: a
        study has ten thousand of them, and one hop through an event loop and a thread pool for each costs six times
        the write itself.
        """
        if self.folder is None:
            if DOCUMENT in items:
                self.set(DOCUMENT, items[DOCUMENT])
            sync(_set_all(self.store, {key: value for key, value in items.items() if key != DOCUMENT}))
            return
        for key, value in items.items():
            _write_file(self.folder / key, (value,))

    def fsync(self, keys: Iterable[str]) -> None:
        """Wait until what was written at ``keys`` survives a power cut; an object store has seen to that already."""
        if self.folder is not None:
            sync_files(self.folder / key for key in keys)

    def delete(self, key: str) -> None:
        """Remove ``key`` where it is there."""
        sync(self.store.delete(key))

    def undo_write(self, key: str) -> None:
        """Remove what was written at ``key`` into a store that is gone, and the folders that this made."""
        if self.exists(DOCUMENT):  # it is there again, and another's
            return
        self.delete(key)
        if self.folder is not None:
            for above in (self.folder / key).parents:
                try:
                    above.rmdir()
                except OSError:  # something else is in it, or it is gone
                    return
                if above == self.folder:
                    return

    def exists(self, key: str) -> bool:
        """Whether there is something at ``key``."""
        return bool(sync(self.store.exists(key)))

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """Yield every key below ``prefix``."""
        yield from sync(_collect(lambda: self.store.list_prefix(prefix)))

    def list_dir(self, prefix: str = "") -> list[str]:
        """Names directly below ``prefix``."""
        return sync(_collect(lambda: self.store.list_dir(prefix)))

    def delete_below(self, prefix: str) -> None:
        """Remove everything below ``prefix``."""
        sync(self.store.delete_dir(prefix))

    def takes_any_key(self) -> bool:
        """Whether objects may lie here that are not Zarr's own, such as locks: icechunk takes none."""
        try:
            self.exists(join_key(STATE_FOLDER, "lock"))
        except Exception:  # a store may raise whatever its transport raises
            return False
        return True

    @property
    def in_memory(self) -> bool:
        """Whether it is this process's own memory, so that no other process can reach it."""
        return isinstance(self.store, MemoryStore) or "memory" in protocols(getattr(self.store, "fs", None))

    def watched(self) -> Location:
        """Return the same location for a tree that stays open, so that its store may go meanwhile."""
        return self if self.folder is not None else replace(self, store=OpenedStore(self.store, self.name))

    def read_only(self) -> Location:
        """Return the same location, opened for reading."""
        return Location(self.store.with_read_only(True), self.name, self.folder, self.url)


def _write_file(path: Path, parts: Sequence[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            file.writelines(parts)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


async def _set_all(store: Store, items: Mapping[str, bytes]) -> None:
    make = default_buffer_prototype().buffer.from_bytes
    await asyncio.gather(*(store.set(key, make(value)) for key, value in items.items()))


async def _collect(listed: Callable[[], AsyncIterator[str]]) -> list[str]:
    return [item async for item in listed()]  # obstore's listings begin inside an event loop alone


def require_any_key(target: StoreLike) -> None:
    """Refuse a place where a run cannot lie, since nothing can be written there but what Zarr itself writes.

    Raises
    ------
    StoreError
        The locks and checkpoints of a run cannot be kept there, or nothing can be written there.
    """
    location = locate(target, mode="w")
    if not location.takes_any_key():
        raise StoreError(
            f"No run can be sampled into {location.name}: it takes no key beside those of Zarr's own objects, and so "
            "neither locks nor checkpoints.",
            expected="a folder, a URL, or a store of any keys (zarr's, fsspec's, obstore's)",
            remedy="Sample into a folder, then write it there: devinterp.open_store(path).devinterp.save(store); of an "
            "icechunk session, commit it then.",
        )


def locate(target: StoreLike, *, mode: str = "r", storage_options: dict[str, Any] | None = None) -> Location:
    """Turn what a user gives into a `Location`; nothing is created yet.

    Parameters
    ----------
    target : path, URL, zarr Store, StorePath or Group
    mode : {"r", "w"}
    storage_options : dict, optional
        Passed to fsspec for a URL.

    Raises
    ------
    StoreError
        A scheme that fsspec does not know, or a store that cannot be rewritten though ``mode`` is ``"w"``.
    """
    read_only = mode == "r"
    found = resolve_target(target)
    if found.store is not None:
        return _of_object(_inside(found.store, found.inside), read_only=read_only)
    if found.url is not None:
        return Location(open_url(found.url, storage_options, read_only=read_only), found.url, None, found.url)
    path = found.path
    assert path is not None
    if not read_only and found.asks_for_archive:
        raise _not_rewritable(str(path))
    if found.is_archive:
        check_archive(path)
        archive = sync(ZipStore.open(path, mode="r"))  # a closed one cannot be read
        return Location(archive, str(path), None, str(path))
    return Location(OpenedFolder(path, read_only=read_only), str(path), path, str(path))


class OpenedFolder(LocalStore):
    """A folder that tells a chunk which is not there from a store that is no longer there.

    Zarr reads both as the fill value, and a run whose folder was moved under an open tree as one that diverged.
    """

    plain = True

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        """Return what lies at ``key``, or None; refuse to where a chunk is not there because its array is not."""
        found = await super().get(key, prototype, byte_range)
        if found is None and is_chunk(key):
            refuse_gone(self.root, key)
        return found


def refuse_gone(root: Path, key: str) -> None:
    """Refuse to read on where the array of the chunk at ``key`` is not there any more.

    Raises
    ------
    StoreGoneError
    """
    for above in (root / key).parents:
        document = above / DOCUMENT
        if document.exists():
            if json.loads(document.read_bytes()).get("node_type") == "array":
                return
            break
        if above == root:
            break
    raise _gone(root, key)


class OpenedStore(WrapperStore[Store]):
    """A store of any other make that tells the same: `OpenedFolder` for object stores, URLs and memory."""

    def __init__(self, store: Store, name: str = "", arrays: Iterable[str] = ()) -> None:
        super().__init__(store)
        self._name = name
        self._arrays = set(arrays)
        """Arrays that were there when one of their chunks was not."""

    def _with_store(self, store: Store) -> OpenedStore:
        return type(self)(store, self._name, self._arrays)

    def with_read_only(self, read_only: bool = False) -> OpenedStore:
        return self._with_store(self._store.with_read_only(read_only))

    def __str__(self) -> str:
        return str(self._store)

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        """Return what lies at ``key``, or None; refuse to where a chunk is not there because its array is not."""
        prototype = prototype or default_buffer_prototype()
        found = await self._store.get(key, prototype, byte_range)
        if found is None and is_chunk(key) and not await self._has_array(key, prototype):
            raise _gone(self._name, key)
        return found

    async def _has_array(self, key: str, prototype: Any) -> bool:
        known = next((path for path in self._arrays if key.startswith(f"{path}/")), None)
        if known is not None:
            return await self._store.exists(join_key(known, DOCUMENT))
        parts = key.split("/")[:-1]
        for depth in range(len(parts), 0, -1):
            raw = await self._store.get("/".join([*parts[:depth], DOCUMENT]), prototype)
            if raw is not None:
                is_array = json.loads(raw.to_bytes()).get("node_type") == "array"
                self._arrays |= {"/".join(parts[:depth])} if is_array else set()
                return bool(is_array)
        return False


def is_chunk(key: str) -> bool:
    """Whether a chunk may lie there: documents (of Zarr v2 too: .zgroup) and the state of a run may not be there."""
    return documented_node(key) is None and "/." not in f"/{key}"


def _gone(name: object, key: str) -> StoreGoneError:
    return StoreGoneError(
        f"The store {name} is gone, or the array of {key} in it: it was moved or deleted after it was opened.",
        remedy="Open it again where it lies now.",
    )


def _of_object(store: Store, *, read_only: bool) -> Location:
    if not read_only and store.read_only:
        raise StoreError(f"The store {store} is read-only.", remedy="Open it for writing.")
    if not read_only and not (store.supports_writes and store.supports_deletes):
        raise _not_rewritable(str(store))
    if isinstance(store, FsspecStore) and {"file", "local"} & protocols(store.fs):
        store = OpenedFolder(store.path, read_only=read_only)  # fsspec's own way to a disk tears files when killed
    if type(store) is LocalStore:
        store = OpenedFolder(store.root, read_only=store.read_only)
    folder = Path(store.root) if isinstance(store, LocalStore) else None
    return Location(store, str(store), folder, str(folder) if folder is not None else None)


def _inside(store: Store, path: str) -> Store:
    """Return the store of a group inside another one."""
    if not path:
        return store
    if isinstance(store, LocalStore):
        return LocalStore(Path(store.root) / path, read_only=store.read_only)
    if type(store) is FsspecStore:  # others may change keys on the way
        return FsspecStore(store.fs, read_only=store.read_only, path=f"{store.path.rstrip('/')}/{path}")
    return GroupStore(store, path)


class GroupStore(WrapperStore[Store]):
    """A group of a store as a store of its own: keys begin below it."""

    def __init__(self, store: Store, path: str = "") -> None:
        super().__init__(store)
        self._path = path

    def _with_store(self, store: Store) -> GroupStore:
        return type(self)(store, self._path)

    def with_read_only(self, read_only: bool = False) -> GroupStore:
        return self._with_store(self._store.with_read_only(read_only))

    def __str__(self) -> str:
        return f"{self._store}/{self._path}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GroupStore) and (self._store, self._path) == (other._store, other._path)

    __hash__ = None  # type: ignore[assignment]  # as other stores

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        return await self._store.get(join_key(self._path, key), *args, **options)

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
        ranges = [(join_key(self._path, key), part) for key, part in key_ranges]
        return await self._store.get_partial_values(prototype, ranges)

    async def exists(self, key: str) -> bool:
        return await self._store.exists(join_key(self._path, key))

    async def set(self, key: str, value: Any) -> None:
        await self._store.set(join_key(self._path, key), value)

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        await self._store.set_if_not_exists(join_key(self._path, key), value)

    async def delete(self, key: str) -> None:
        await self._store.delete(join_key(self._path, key))

    async def delete_dir(self, prefix: str) -> None:
        await self._store.delete_dir(join_key(self._path, prefix))

    async def clear(self) -> None:
        await self.delete_dir("")

    async def is_empty(self, prefix: str) -> bool:
        return await self._store.is_empty(join_key(self._path, prefix))

    async def getsize(self, key: str) -> int:
        return await self._store.getsize(join_key(self._path, key))

    async def list(self) -> AsyncIterator[str]:
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        async for key in self._store.list_prefix(f"{self._path}/{prefix}"):
            yield key.removeprefix(f"{self._path}/")

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        async for name in self._store.list_dir(join_key(self._path, prefix)):
            yield name


def _not_rewritable(name: str) -> StoreError:
    return StoreError(
        f"{name} cannot be written to: nothing in it can be replaced or removed, as in every zip archive.",
        remedy="Write to a folder or URL, and pack that when the run is complete.",
    )
