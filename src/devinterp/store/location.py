"""Where a store lies: a path, a URL that fsspec knows, or a Zarr store object."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ZipStore

from devinterp.errors import MissingDependencyError, StoreError
from devinterp.schema.reading.keys import DOCUMENT
from devinterp.store.filesystem import sync_files

__all__ = ["Location", "StoreLike", "locate"]

StoreLike = str | os.PathLike[str] | Store


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
        yield from sync(_collect(self.store.list_prefix(prefix)))

    def list_dir(self, prefix: str = "") -> list[str]:
        """Names directly below ``prefix``."""
        return sync(_collect(self.store.list_dir(prefix)))

    def delete_below(self, prefix: str) -> None:
        """Remove everything below ``prefix``."""
        sync(self.store.delete_dir(prefix))

    @property
    def in_memory(self) -> bool:
        """Whether it is this process's own memory, so that no other process can reach it."""
        return isinstance(self.store, MemoryStore) or "memory" in _protocols(self.store)

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


async def _collect(items: AsyncIterator[str]) -> list[str]:
    return [item async for item in items]


def locate(target: StoreLike, *, mode: str = "r", storage_options: dict[str, Any] | None = None) -> Location:
    """Turn what a user gives into a `Location`; nothing is created yet.

    Parameters
    ----------
    target : path, URL or zarr Store
    mode : {"r", "w"}
    storage_options : dict, optional
        Passed to fsspec for a URL.

    Raises
    ------
    StoreError
        A scheme that fsspec does not know, or a store that cannot be rewritten though ``mode`` is ``"w"``.
    """
    read_only = mode == "r"
    if isinstance(target, Store):
        if not read_only and target.read_only:
            raise StoreError(f"The store {target} is read-only.", remedy="Open it for writing.")
        if not read_only and not (target.supports_writes and target.supports_deletes):
            raise _not_rewritable(str(target))
        if isinstance(target, FsspecStore) and {"file", "local"} & _protocols(target):
            target = LocalStore(target.path, read_only=read_only)  # fsspec's own way to a disk tears files when killed
        folder = Path(target.root) if isinstance(target, LocalStore) else None
        return Location(target, str(target), folder, str(folder) if folder is not None else None)
    text = os.fspath(target)
    if not isinstance(text, str):
        raise StoreError("A store's path must be text.", expected="str, os.PathLike or zarr Store", found=type(target))
    scheme = urlsplit(text).scheme if "://" in text else ""
    if scheme in ("", "file", "local"):
        path = Path(urlsplit(text).path if scheme else text).expanduser().absolute()
        if path.is_file() and path.suffix == ".zip":
            if not read_only:
                raise _not_rewritable(str(path))
            archive = sync(ZipStore.open(path, mode="r"))  # a closed one cannot be read
            return Location(archive, str(path), None, str(path))
        return Location(LocalStore(path, read_only=read_only), str(path), path, str(path))
    try:
        store = FsspecStore.from_url(text, storage_options=storage_options, read_only=read_only)
    except ImportError as error:
        raise MissingDependencyError(
            f"The URL {text!r} needs a package that is not installed: {error}.",
            remedy="Install devinterp[remote] and the fsspec implementation of that scheme.",
        ) from error
    except ValueError as error:
        raise StoreError(f"The URL {text!r} cannot be opened: {error}.") from error
    return Location(store, text, None, text)


def _protocols(store: Store) -> set[str]:
    """Return the names of the fsspec implementation behind a store, none where there is none."""
    filesystem = getattr(store, "fs", None)
    names = getattr(getattr(filesystem, "sync_fs", filesystem), "protocol", ())  # zarr wraps what is not asynchronous
    return {names} if isinstance(names, str) else set(names)


def _not_rewritable(name: str) -> StoreError:
    return StoreError(
        f"{name} cannot be written to: nothing in it can be replaced or removed, as in every zip archive.",
        remedy="Write to a folder or URL, and pack that when the run is complete.",
    )
