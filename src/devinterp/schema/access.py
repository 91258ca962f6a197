"""Reading a store's objects, and nothing but reading: a folder, an archive, a URL or a Zarr store object.

No name that a store contains is followed out of it, and no object is read beyond the size that its reader states.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from devinterp.errors import MissingDependencyError, SettingError, StoreError

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = ["Access", "Entry", "EscapeError", "TooLargeError", "UnlistableError", "open_access"]

# Requests in flight at a remote store.
CONCURRENCY = 32


class EscapeError(StoreError):
    """A key or a symbolic link would lead out of the store."""


class TooLargeError(StoreError):
    """An object is larger than its reader accepts."""


class UnlistableError(StoreError):
    """The store cannot say what it holds (plain HTTP)."""


class Entry:
    """A name in a store: whether it may hold further keys, and whether it is a link that leads out of the store."""

    __slots__ = ("escapes", "folder", "name")

    def __init__(self, name: str, *, folder: bool, escapes: bool = False) -> None:
        self.name, self.folder, self.escapes = name, folder, escapes


class Access(Protocol):
    """What the validator needs of a store."""

    name: str

    def get(self, key: str, limit: int) -> bytes | None:
        """Return the bytes at ``key``, None where there are none; raise `TooLargeError` beyond ``limit``."""

    def get_many(self, keys: Sequence[str], limit: int) -> list[bytes | StoreError | None]:
        """Return what `get` returns for each key, or the error it raised."""

    def entries(self, prefix: str) -> list[Entry]:
        """Return what lies directly below ``prefix``."""

    def keys(self, prefix: str) -> Iterator[Entry]:
        """Yield every object below ``prefix``, its name without the prefix."""


class LocalAccess:
    """A folder on this machine."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.name = os.fspath(root)
        self._root = os.path.realpath(root)
        self._inside: set[str] = {self._root}

    def get(self, key: str, limit: int) -> bytes | None:
        path = self._resolve(key)
        try:
            with open(path, "rb", buffering=0) as file:
                # Asking for one byte more than the limit tells a large file from one that just fits.
                size = os.fstat(file.fileno()).st_size
                if size > limit:
                    raise TooLargeError(f"{key} has {size} bytes.", expected=f"at most {limit}")
                return file.read(limit + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except IsADirectoryError:
            return None
        except StoreError:
            raise
        except (OSError, ValueError) as error:
            raise StoreError(f"{key} cannot be read: {error}.") from error

    def get_many(self, keys: Sequence[str], limit: int) -> list[bytes | StoreError | None]:
        return [_attempt(self, key, limit) for key in keys]

    def entries(self, prefix: str) -> list[Entry]:
        folder = self._resolve(prefix) if prefix else self._root
        out = []
        try:
            with os.scandir(folder) as found:
                for entry in found:
                    escapes = entry.is_symlink() and not self._is_inside(entry.path)
                    out.append(Entry(entry.name, folder=not escapes and entry.is_dir(), escapes=escapes))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreError(f"{prefix or '/'} cannot be listed: {error}.") from error
        return sorted(out, key=lambda e: e.name)

    def keys(self, prefix: str) -> Iterator[Entry]:
        pending = [""]
        while pending:
            inner = pending.pop()
            for entry in self.entries("/".join(p for p in (prefix, inner) if p)):
                path = f"{inner}/{entry.name}" if inner else entry.name
                if entry.folder and path.count("/") < 64:
                    pending.append(path)
                else:
                    yield Entry(path, folder=False, escapes=entry.escapes)

    def _resolve(self, key: str) -> str:
        if not safe_key(key):
            raise EscapeError(f"The key {key!r} leads out of the store.")
        folder, _, name = os.path.join(self._root, key).rpartition("/")
        if folder not in self._inside:
            if not self._is_inside(folder):
                raise EscapeError(f"{key!r} lies behind a symbolic link out of the store.")
            self._inside.add(folder)
        path = f"{folder}/{name}"
        if os.path.islink(path) and not self._is_inside(path):
            raise EscapeError(f"{key!r} is a symbolic link out of the store.")
        return path

    def _is_inside(self, path: str) -> bool:
        real = os.path.realpath(path)
        return real == self._root or real.startswith(self._root.rstrip("/") + "/")


class ZarrAccess:
    """A Zarr store object: memory, archive, URL, icechunk session ..."""

    def __init__(self, store: Store, name: str, prefix: str = "") -> None:
        from zarr.core.buffer import default_buffer_prototype

        self.name = name
        self._store, self._prefix = store, prefix.strip("/")
        self._prototype = default_buffer_prototype()

    def get(self, key: str, limit: int) -> bytes | None:
        (found,) = self.get_many([key], limit)
        if isinstance(found, StoreError):
            raise found
        return found

    def get_many(self, keys: Sequence[str], limit: int) -> list[bytes | StoreError | None]:
        from zarr.core.sync import sync

        async def gather() -> list[bytes | StoreError | None]:
            slots = asyncio.Semaphore(CONCURRENCY)

            async def one(key: str) -> bytes | StoreError | None:
                async with slots:
                    return await self._get(key, limit)

            return list(await asyncio.gather(*(one(key) for key in keys)))

        return sync(gather())

    async def _get(self, key: str, limit: int) -> bytes | StoreError | None:
        from zarr.abc.store import RangeByteRequest

        if not safe_key(key):
            return EscapeError(f"The key {key!r} leads out of the store.")
        try:
            await self._store._ensure_open()  # a ZIP archive that was never opened lacks even its lock
            buffer = await self._store.get(self._full(key), self._prototype, byte_range=RangeByteRequest(0, limit + 1))
        except (FileNotFoundError, KeyError, NotADirectoryError, IsADirectoryError):
            return None
        except Exception as error:  # a store may raise whatever its transport raises
            return StoreError(f"{key} cannot be read: {type(error).__name__}: {error}.")
        if buffer is None:
            return None
        data = buffer.to_bytes()
        if len(data) > limit:
            return TooLargeError(f"{key} has more than {limit} bytes.", expected=f"at most {limit}")
        return data

    def entries(self, prefix: str) -> list[Entry]:
        if prefix and not safe_key(prefix):
            raise EscapeError(f"The key {prefix!r} leads out of the store.")
        # Whether a name holds further keys is only known by looking below it; zarr.json is asked for there anyway.
        names = self._list(self._store.list_dir(self._full(prefix)))
        return [Entry(n, folder=n != "zarr.json") for n in sorted({str(n).strip("/") for n in names} - {""})]

    def keys(self, prefix: str) -> Iterator[Entry]:
        full = self._full(prefix)
        skip = len(full) + 1 if full else 0
        for key in self._list(self._store.list_prefix(f"{full}/" if full else "")):
            yield Entry(str(key)[skip:], folder=False)

    def _list(self, items: AsyncIterator[str]) -> list[str]:
        from zarr.core.sync import sync

        async def collect() -> list[str]:
            await self._store._ensure_open()
            return [item async for item in items]

        try:
            return sync(collect())
        except NotImplementedError as error:
            raise UnlistableError(f"{self.name} cannot list what it holds.") from error
        except (FileNotFoundError, NotADirectoryError):
            return []
        except Exception as error:  # a store may raise whatever its transport raises
            raise StoreError(f"{self.name} cannot be listed: {type(error).__name__}: {error}.") from error

    def _full(self, key: str) -> str:
        return "/".join(p for p in (self._prefix, key.strip("/")) if p)


def _attempt(access: Access, key: str, limit: int) -> bytes | StoreError | None:
    try:
        return access.get(key, limit)
    except StoreError as error:
        return error


def safe_key(key: str) -> bool:
    """Whether a key stays inside the store on every file system."""
    parts = key.split("/")
    return (
        not any(p in ("", ".", "..") for p in parts)
        and "\0" not in key
        and "\\" not in key
        and not (len(parts[0]) == 2 and parts[0][1] == ":")
    )


def open_access(target: Any, storage_options: dict[str, Any] | None = None) -> Access:
    """Turn a path, URL, Zarr store or Zarr group into an `Access`.

    Raises
    ------
    SettingError
        It is none of these.
    StoreError, MissingDependencyError
        A URL that cannot be opened, or a path with no store, or a damaged archive.
    """
    import zarr
    from zarr.abc.store import Store

    if isinstance(target, zarr.Group):
        path = target.store_path.path
        return open_store_object(target.store, path)
    if isinstance(target, Store):
        return open_store_object(target, "")
    try:
        text = os.fspath(target)
    except TypeError:
        raise SettingError(
            "This is nothing that can be validated.",
            expected="a path, URL, Zarr store or group, DataTree or Dataset",
            found=type(target).__name__,
        ) from None
    if not isinstance(text, str):
        raise SettingError("A store's path must be text.", expected="str or os.PathLike", found=type(target).__name__)
    scheme = urlsplit(text).scheme if "://" in text else ""
    if scheme in ("", "file"):
        return _open_path(Path(urlsplit(text).path if scheme else text).expanduser())
    from zarr.storage import FsspecStore

    try:
        store = FsspecStore.from_url(text, storage_options=storage_options, read_only=True)
    except ImportError as error:
        raise MissingDependencyError(
            f"The URL {text!r} needs a package that is not installed: {error}.",
            remedy="Install devinterp[remote] and the fsspec implementation of that scheme.",
        ) from error
    except Exception as error:  # fsspec implementations raise what they like
        raise StoreError(f"The URL {text!r} cannot be opened: {error}.") from error
    return ZarrAccess(store, text)


def _open_path(path: Path) -> Access:
    import zipfile

    if path.is_file():
        if not zipfile.is_zipfile(path):
            raise StoreError(f"{path} is a file, and no ZIP archive.", expected="the folder of a store, or an archive")
        from zarr.storage import ZipStore

        return ZarrAccess(ZipStore(path, mode="r"), str(path))
    return LocalAccess(path)


def open_store_object(store: Store, path: str) -> Access:
    """Return the access to a Zarr store object, directly where it is a folder of this machine."""
    from zarr.storage import LocalStore

    if type(store) is LocalStore:
        return LocalAccess(store.root / path if path else store.root)
    return ZarrAccess(store, f"{store}/{path}".rstrip("/") if path else str(store), path)
