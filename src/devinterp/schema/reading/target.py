"""What a user names a store by: a path, a URL, a Zarr store, a group of one; decided in one place for every reader."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from devinterp.errors import MissingDependencyError, SettingError, StoreError
from devinterp.schema.reading.keys import documented_node

if TYPE_CHECKING:
    from fsspec.mapping import FSMap
    from zarr.abc.store import Store
    from zarr.storage import FsspecStore

__all__ = ["Target", "asked_rightly", "check_archive", "open_url", "plain_folder", "protocols", "resolve_target"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(::.+)?://")
_FILE = re.compile(r"(?:file|local):(?=/)", re.IGNORECASE)


@dataclass(frozen=True)
class Target:
    """One of three: a place on this machine, a URL for fsspec, or a Zarr store object with a path inside it.

    Attributes
    ----------
    path : Path or None
    url : str or None
    store : zarr.abc.store.Store or None
    inside : str
        Path of the group inside `store`, empty for its root.
    """

    path: Path | None = None
    url: str | None = None
    store: Store | None = None
    inside: str = ""

    @property
    def is_archive(self) -> bool:
        """Whether it is a ZIP archive, whatever it is called (``.zip``, ``.ozx``)."""
        import zipfile

        return self.path is not None and self.path.is_file() and zipfile.is_zipfile(self.path)

    @property
    def asks_for_archive(self) -> bool:
        """Whether it is a ZIP archive, or would be taken for one by its name once it is written."""
        path = self.path
        return self.is_archive or (path is not None and path.suffix in (".zip", ".ozx") and not path.is_dir())


def resolve_target(target: Any) -> Target:
    """Say what a target is; nothing is opened, looked for or created.

    A ``file:`` URL is percent-decoded, and all of it is the path: ``#`` and ``?`` are characters of a file's name.

    Raises
    ------
    SettingError
        It is nothing that names a store.
    StoreError
        A path that no file can have, or a ``file:`` URL of another machine.
    """
    import zarr
    from zarr.abc.store import Store
    from zarr.storage import StorePath

    if isinstance(target, zarr.Group):
        return Target(store=asked_rightly(target.store), inside=target.store_path.path.strip("/"))
    if isinstance(target, StorePath):
        return Target(store=asked_rightly(target.store), inside=target.path.strip("/"))
    if isinstance(target, Store):
        return Target(store=asked_rightly(target))
    mapping = _as_mapping(target)
    if mapping is not None:
        return _of_mapping(mapping)
    try:
        text = os.fspath(target)
    except TypeError:
        raise SettingError(
            "This does not name a store.",
            expected="a path, URL, Zarr store or Zarr group, a UPath or a mapping of fsspec",
            found=type(target).__name__,
        ) from None
    if not isinstance(text, str):
        raise SettingError("A store's path must be text.", expected="str or os.PathLike", found=type(target).__name__)
    named = _FILE.match(text)
    if named is not None:
        return Target(path=_absolute(_path_of_url(text, text[named.end() :]), text))
    if isinstance(target, str) and _SCHEME.match(text):
        return Target(url=text)
    try:
        return Target(path=_absolute(Path(text).expanduser(), text))
    except RuntimeError as error:  # no such user's home
        raise StoreError(f"{text!r} cannot be opened: {error}.") from error


def _as_mapping(target: Any) -> FSMap | None:
    """Return fsspec's mapping for a target that is one, or a `UPath` that is not a path of this machine."""
    if not hasattr(target, "fs"):
        return None
    from fsspec.mapping import FSMap

    if isinstance(target, FSMap):
        return target
    if hasattr(target, "path") and not isinstance(target, os.PathLike):
        return FSMap(target.path, target.fs)
    return None


def _of_mapping(mapping: FSMap) -> Target:
    from zarr.storage import FsspecStore

    names = protocols(mapping.fs)
    if {"file", "local"} & names:
        return Target(path=_absolute(Path(mapping.root), mapping.root))
    try:
        return Target(store=asked_rightly(FsspecStore.from_mapper(mapping)))
    except Exception as error:  # fsspec implementations raise what they like
        raise StoreError(f"The mapping of {mapping.root!r} cannot be opened: {error}.") from error


def protocols(filesystem: Any) -> set[str]:
    """Return the names of an fsspec implementation, none of what is not one."""
    names = getattr(getattr(filesystem, "sync_fs", filesystem), "protocol", ())  # zarr wraps what is not asynchronous
    return {names} if isinstance(names, str) else set(names)


def _path_of_url(url: str, rest: str) -> Path:
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host not in ("", "localhost") or not slash:
            raise StoreError(
                f"The URL {url!r} names a file of another machine, {host!r}.",
                expected="file:///absolute/path",
                remedy="Give a path without file://, or three slashes before an absolute one.",
            )
        rest = f"/{path}"
    return Path(unquote(rest))


def _absolute(path: Path, text: str) -> Path:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # a name that a file may have
    except (OSError, ValueError) as error:  # no name of a file, or too long a one
        raise StoreError(f"{text!r} cannot be opened: {error}.") from error
    return path.absolute()


def plain_folder(store: Any) -> Path | None:
    """Return the folder whose files are a store's objects; None for any other store.

    A subclass of zarr's `LocalStore` may change what it reads, unless it says ``plain = True``.
    """
    from zarr.storage import LocalStore

    return store.root if type(store) is LocalStore or getattr(store, "plain", False) is True else None


def check_archive(path: Path, memory: int = 2**28) -> None:
    """Refuse a ZIP archive whose names are none that readers of Zarr ask for, or too many for the memory limit.

    Raises
    ------
    StoreError
    """
    import zipfile

    entries, most = zip_entries(path), memory // 1024
    if entries > most:
        raise StoreError(
            f"{path} says that it holds {entries} objects.", expected=f"at most {most} within the memory limit"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise StoreError(f"{path} cannot be read: {error}.") from error
    odd = next((name for name in names if _misspelt(name)), None)
    if odd is not None:
        raise StoreError(
            f"The names in the archive {path} are not those that readers of Zarr ask for.",
            expected=_plain_name(odd),
            found=odd,
            remedy="Pack it again: unzip it, and there zip -r0 ../store.zip .",
        )


def _plain_name(name: str) -> str:
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _misspelt(name: str) -> bool:
    """Whether it is a document's name as some programs write it: with backslashes, or a leading ``/`` or ``./``."""
    return name != (plain := _plain_name(name)) and documented_node(plain) is not None


def zip_entries(path: Path) -> int:
    """Return how many objects a ZIP archive has room to list: reading the list takes half a kilobyte for each.

    Taken from the size of the list (its end stands at the archive's end), since the stated number need not be true.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - 66_000))
        tail = file.read()
    # Where the size stands behind the marks of an ordinary archive's end and of a ZIP64 one. Readers differ about which
    # mark counts where there are several: the largest size is the one to be ready for.
    sizes = [0]
    for mark, offset, width in ((b"PK\x05\x06", 12, 4), (b"PK\x06\x06", 40, 8)):
        for found in re.finditer(re.escape(mark), tail):
            place = found.start() + offset
            sizes.append(int.from_bytes(tail[place : place + width], "little"))
    listed = max(n for n in sizes if n != 0xFFFFFFFF)
    return min(listed, size) // 47 + 1  # 46 bytes and a name


def open_url(url: str, storage_options: dict[str, Any] | None, *, read_only: bool) -> Store:
    """Return the store of a URL that fsspec knows.

    Raises
    ------
    StoreError, MissingDependencyError
        It cannot be opened, or only with a package that is not installed.
    """
    from zarr.storage import FsspecStore

    web = re.match(r"(?:.*::)?https?://[^?#]*([?#])", url, re.IGNORECASE)
    if web is not None:  # keys would be joined to what stands behind it
        raise StoreError(
            f"The URL {url!r} does not name a folder: {web[1]!r} ends the path.",
            expected="the URL of the folder alone",
            remedy=f"Where {web[1]!r} is part of a name, write {quote(web[1])}; a signature goes into "
            "storage_options={'params': {...}}, and is sent with every request.",
        )
    try:
        return asked_rightly(FsspecStore.from_url(url, storage_options=storage_options, read_only=read_only))
    except ImportError as error:
        raise MissingDependencyError(
            f"The URL {url!r} needs a package that is not installed: {error}.",
            remedy="Install devinterp[remote] and the fsspec implementation of that scheme.",
        ) from error
    except Exception as error:  # fsspec implementations raise what they like
        raise StoreError(f"The URL {url!r} cannot be opened: {error}.") from error


def asked_rightly(store: Store) -> Store:
    """Return a store so that its file system is asked as it can answer; any other store as it is.

    Of a web server: zarr joins keys to the URL as they are, and for a group ``l0 h#1`` would ask for ``l0 h``. Of
    a cache on this machine (``filecache::``): fsspec's list of what it has is not made for several threads, and zarr
    asks for many keys at once.
    """
    from zarr.storage import FsspecStore

    if type(store) is not FsspecStore:
        return store
    chain = list(_chain(store.fs))
    web = any({"http", "https"} & protocols(filesystem) for filesystem in chain)
    if not web and not _caches(chain):
        return store
    return _careful_store()(store.fs, store.read_only, store.path, store.allowed_exceptions)


def _chain(filesystem: Any) -> Iterator[Any]:
    """Yield a file system and those that it reads from: zarr wraps what is not asynchronous, and URLs chain them."""
    while filesystem is not None:
        yield filesystem
        inner = getattr(filesystem, "sync_fs", None)
        filesystem = inner if inner is not None else getattr(filesystem, "fs", None)


def _caches(chain: Iterable[Any]) -> bool:
    from fsspec.implementations.cached import CachingFileSystem

    return any(isinstance(filesystem, CachingFileSystem) for filesystem in chain)


@cache  # zarr is imported only where a store is opened
def _careful_store() -> type[FsspecStore]:
    from zarr.storage import FsspecStore

    class CarefulStore(FsspecStore):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            chain = list(_chain(self.fs))
            # Only what is nearest to the keys takes them: a ZIP archive on a web server has plain names in it.
            inner = chain[-1] if _caches(chain) else chain[0]
            self._spell = quote if {"http", "https"} & protocols(inner) else str
            self._turn: AbstractAsyncContextManager[Any] = asyncio.Lock() if _caches(chain) else nullcontext()

        def __reduce__(self) -> tuple[Any, ...]:  # a class that is made in a function has no name to be found by
            return asked_rightly, (FsspecStore(self.fs, self.read_only, self.path, self.allowed_exceptions),)

        async def get(self, key: str, *args: Any, **options: Any) -> Any:
            async with self._turn:
                return await super().get(self._spell(key), *args, **options)

        async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
            async with self._turn:
                ranges = [(self._spell(key), part) for key, part in key_ranges]
                return await super().get_partial_values(prototype, ranges)

        async def exists(self, key: str) -> bool:
            async with self._turn:
                return await super().exists(self._spell(key))

        async def getsize(self, key: str) -> int:
            async with self._turn:
                return await super().getsize(self._spell(key))

        async def set(self, key: str, *args: Any, **options: Any) -> None:
            await super().set(self._spell(key), *args, **options)

        async def delete(self, key: str) -> None:
            await super().delete(self._spell(key))

        async def delete_dir(self, prefix: str) -> None:
            await super().delete_dir(self._spell(prefix))

        async def list(self) -> AsyncIterator[str]:
            async for key in super().list():
                yield self._read(key)

        async def list_dir(self, prefix: str) -> AsyncIterator[str]:
            async for name in super().list_dir(self._spell(prefix)):
                yield self._read(name)

        async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
            async for key in super().list_prefix(self._spell(prefix)):
                yield self._read(key)

        def _read(self, key: str) -> str:
            return unquote(key) if self._spell is quote else key

    return CarefulStore
