"""What a user names a store by: a path, a URL, a Zarr store, a group of one; decided in one place for every reader."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from devinterp.errors import MissingDependencyError, SettingError, StoreError

if TYPE_CHECKING:
    from zarr.abc.store import Store
    from zarr.storage import FsspecStore

__all__ = ["Target", "open_url", "percent_encoded", "resolve_target"]

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
        return Target(store=percent_encoded(target.store), inside=target.store_path.path.strip("/"))
    if isinstance(target, StorePath):
        return Target(store=percent_encoded(target.store), inside=target.path.strip("/"))
    if isinstance(target, Store):
        return Target(store=percent_encoded(target))
    try:
        text = os.fspath(target)
    except TypeError:
        raise SettingError(
            "This does not name a store.",
            expected="a path, URL, Zarr store or Zarr group",
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


def open_url(url: str, storage_options: dict[str, Any] | None, *, read_only: bool) -> Store:
    """Return the store of a URL that fsspec knows.

    Raises
    ------
    StoreError, MissingDependencyError
        It cannot be opened, or only with a package that is not installed.
    """
    from zarr.storage import FsspecStore

    web = re.match(r"https?://[^?#]*([?#])", url, re.IGNORECASE)
    if web is not None:  # keys would be joined to what stands behind it
        raise StoreError(
            f"The URL {url!r} does not name a folder: {web[1]!r} ends the path.",
            expected="the URL of the folder alone",
            remedy=f"Where {web[1]!r} is part of a name, write {quote(web[1])}; a signature goes into "
            "storage_options={'params': {...}}, and is sent with every request.",
        )
    try:
        return percent_encoded(FsspecStore.from_url(url, storage_options=storage_options, read_only=read_only))
    except ImportError as error:
        raise MissingDependencyError(
            f"The URL {url!r} needs a package that is not installed: {error}.",
            remedy="Install devinterp[remote] and the fsspec implementation of that scheme.",
        ) from error
    except Exception as error:  # fsspec implementations raise what they like
        raise StoreError(f"The URL {url!r} cannot be opened: {error}.") from error


def percent_encoded(store: Store) -> Store:
    """Return a store on a web server so that keys are asked for as servers take them; any other store as it is.

    zarr joins keys to the URL as they are: of a group ``l0 h#1`` a server would be asked for ``l0 h``.
    """
    from zarr.storage import FsspecStore

    if type(store) is not FsspecStore:
        return store
    names = getattr(store.fs, "protocol", ())
    if not {"http", "https"} & ({names} if isinstance(names, str) else set(names)):
        return store
    return _web_store()(store.fs, store.read_only, store.path, store.allowed_exceptions)


@cache  # zarr is imported only where a store is opened
def _web_store() -> type[FsspecStore]:
    from zarr.storage import FsspecStore

    class WebStore(FsspecStore):
        def __reduce__(self) -> tuple[Any, ...]:  # a class that is made in a function has no name to be found by
            return percent_encoded, (FsspecStore(self.fs, self.read_only, self.path, self.allowed_exceptions),)

        async def get(self, key: str, *args: Any, **options: Any) -> Any:
            return await super().get(quote(key), *args, **options)

        async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
            return await super().get_partial_values(prototype, [(quote(key), part) for key, part in key_ranges])

        async def exists(self, key: str) -> bool:
            return await super().exists(quote(key))

        async def getsize(self, key: str) -> int:
            return await super().getsize(quote(key))

        async def set(self, key: str, *args: Any, **options: Any) -> None:
            await super().set(quote(key), *args, **options)

        async def delete(self, key: str) -> None:
            await super().delete(quote(key))

        async def delete_dir(self, prefix: str) -> None:
            await super().delete_dir(quote(prefix))

        async def list(self) -> AsyncIterator[str]:
            async for key in super().list():
                yield unquote(key)

        async def list_dir(self, prefix: str) -> AsyncIterator[str]:
            async for name in super().list_dir(quote(prefix)):
                yield unquote(name)

        async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
            async for key in super().list_prefix(quote(prefix)):
                yield unquote(key)

    return WebStore
