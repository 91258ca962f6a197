"""Reading a store's objects, and nothing but reading: a folder, an archive, a URL or a Zarr store object.

No name that a store contains is followed out of it, and no object is read beyond the size that its reader states.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from devinterp.errors import StoreError
from devinterp.schema.reading.keys import DOCUMENT, document_key, join_key
from devinterp.schema.reading.target import Target, check_archive, open_url, plain_folder, resolve_target

if TYPE_CHECKING:
    from pathlib import Path

    from zarr.abc.store import Store

__all__ = [
    "Access",
    "Entry",
    "EscapeError",
    "TooLargeError",
    "UnlistableError",
    "open_access",
    "read_many",
    "refuse_links_out",
]

# Answers of servers that give out objects, and no list of them.
_NO_LISTING = frozenset({401, 403, 405, 501})
# Requests in flight at a remote store.
CONCURRENCY = 32
# Documents are asked for this many at once, in the expectation that they are no larger than this: an answer of bytes.
BATCH, USUAL = 64, 2**20


class EscapeError(StoreError):
    """A key or a symbolic link would lead out of the store."""


class TooLargeError(StoreError):
    """An object is larger than its reader accepts."""


class UnlistableError(StoreError):
    """The store cannot say what it holds (plain HTTP)."""


class Entry:
    """A name in a store: whether it may hold further keys, is a link, and one that leads out of it or to nothing."""

    __slots__ = ("dangling", "escapes", "folder", "linked", "name")

    def __init__(
        self, name: str, *, folder: bool, escapes: bool = False, linked: bool = False, dangling: bool = False
    ) -> None:
        self.name, self.folder, self.escapes, self.linked, self.dangling = name, folder, escapes, linked, dangling


class Access(Protocol):
    """What the validator needs of a store."""

    name: str
    archive: bool

    def get(self, key: str, limit: int) -> bytes | None:
        """Return the bytes at ``key``, None where there are none; raise `TooLargeError` beyond ``limit``."""

    def get_many(self, keys: Sequence[str], limit: int) -> list[bytes | StoreError | None]:
        """Return what `get` returns for each key, or the error it raised."""

    def entries(self, prefix: str) -> list[Entry]:
        """Return what lies directly below ``prefix``."""

    def keys(self, prefix: str) -> Iterator[Entry]:
        """Yield every object below ``prefix``, its name without the prefix; raise `UnlistableError`."""

    def exist(self, keys: Sequence[str]) -> list[bool]:
        """Return for each key whether something is there, without reading it."""


class LocalAccess:
    """A folder on this machine.

    Parameters
    ----------
    follow_links : bool
        Whether symbolic links may lead out of it, as those of git-annex and DVC do.
    """

    def __init__(self, root: str | os.PathLike[str], *, follow_links: bool = False) -> None:
        self.name, self.archive = os.fspath(root), False
        self._root, self._follow = os.path.realpath(root), follow_links
        self._inside = {self._root, self._root.rstrip("/")}

    def get(self, key: str, limit: int) -> bytes | None:
        path = self._resolve(key)
        try:
            with open(path, "rb", buffering=0, opener=_open_at_once) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise StoreError(f"{key} is not a regular file.")
                if status.st_size > limit:
                    raise TooLargeError(f"{key} has {status.st_size} bytes.", expected=f"at most {limit}")
                return file.read(limit + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
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
                    linked = entry.is_symlink()
                    escapes = linked and not self._is_inside(entry.path)
                    opens = not escapes and entry.is_dir()
                    dangling = linked and not escapes and not os.path.exists(entry.path)
                    out.append(Entry(entry.name, folder=opens, escapes=escapes, linked=linked, dangling=dangling))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreError(f"{prefix or '/'} cannot be listed: {error}.") from error
        return sorted(out, key=lambda e: e.name)

    def keys(self, prefix: str) -> Iterator[Entry]:
        pending, linked = [""], set()
        while pending:
            inner = pending.pop()
            for entry in self.entries(join_key(prefix, inner)):
                path = join_key(inner, entry.name)
                if entry.linked and entry.folder:
                    # Links between folders can make endlessly many names of one file: each folder is looked into once.
                    target = os.path.realpath(os.path.join(self._root, prefix, path))
                    if target in linked or self._is_above(target, prefix, inner):
                        yield Entry(path, folder=False)
                        continue
                    linked.add(target)
                if entry.folder and path.count("/") < 64:
                    pending.append(path)
                else:
                    yield Entry(path, folder=False, escapes=entry.escapes, dangling=entry.dangling)

    def exist(self, keys: Sequence[str]) -> list[bool]:
        return [os.path.isfile(self._resolve(key)) for key in keys]

    def _is_above(self, target: str, prefix: str, inner: str) -> bool:
        here = os.path.realpath(os.path.join(self._root, prefix, inner))
        return here == target or here.startswith(target.rstrip("/") + "/")

    def _resolve(self, key: str) -> str:
        if not safe_key(key):
            raise EscapeError(f"The key {key!r} leads out of the store.")
        folder, _, name = os.path.join(self._root, key).rpartition("/")
        if not self._leads_inside(folder):
            raise EscapeError(f"{key!r} lies behind a symbolic link out of the store.")
        self._inside.add(folder)
        path = f"{folder}/{name}"
        if os.path.islink(path) and not self._is_inside(path):
            raise EscapeError(f"{key!r} is a symbolic link out of the store.")
        return path

    def _leads_inside(self, folder: str) -> bool:
        """Whether a folder's path stays in the store: no further up than to a folder that does is it followed."""
        while folder not in self._inside:
            if os.path.islink(folder):
                return self._is_inside(folder)
            folder = os.path.dirname(folder)
        return True

    def _is_inside(self, path: str) -> bool:
        if self._follow:
            return True
        real = os.path.realpath(path)
        return real == self._root or real.startswith(self._root.rstrip("/") + "/")


def refuse_links_out(folder: Path | None) -> None:
    """Refuse the folder of a store in which a symbolic link leads out of it, to whatever file.

    Raises
    ------
    EscapeError
    """
    out = None if folder is None else next((e.name for e in LocalAccess(folder).keys("") if e.escapes), None)
    if out is not None:
        raise EscapeError(
            f"A symbolic link leads out of the store {folder}: {out}.",
            remedy="Where you trust whoever made it, as with git-annex and DVC: --follow-links.",
        )


class ZarrAccess:
    """A Zarr store object: memory, archive, URL, icechunk session ..."""

    def __init__(self, store: Store, name: str, prefix: str = "") -> None:
        from zarr.core.buffer import default_buffer_prototype
        from zarr.storage import FsspecStore, LocalStore, MemoryStore, ZipStore

        self.name, self.archive = name, isinstance(store, ZipStore)
        self._store, self._prefix = store, prefix.strip("/")
        self._prototype = default_buffer_prototype()
        # Whose answer to a range past an object's end is the object; icechunk panics, others raise.
        self._clamps = isinstance(store, FsspecStore | LocalStore | MemoryStore | ZipStore)

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
            part: Any = RangeByteRequest(0, limit + 1)
            if not self._clamps:
                size = await self._store.getsize(self._full(key))
                if size > limit:
                    return TooLargeError(f"{key} has {size} bytes.", expected=f"at most {limit}")
                part = None
            buffer = await self._store.get(self._full(key), self._prototype, byte_range=part)
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
        names = {str(n).strip("/") for n in self._list(lambda: self._store.list_dir(self._full(prefix)))} - {""}
        if not names and self.get(document_key(prefix), USUAL) is not None:
            raise UnlistableError(f"{self.name} does not list what it holds.")
        return [Entry(n, folder=n != DOCUMENT) for n in sorted(names)]

    def keys(self, prefix: str) -> Iterator[Entry]:
        full = join_key(self._prefix, prefix)
        skip = len(full) + 1 if full else 0
        start = f"{self._full(prefix)}/" if full else ""
        found = [str(key)[skip:] for key in self._list(lambda: self._store.list_prefix(start))]
        if DOCUMENT not in found:
            # A server without listings answers as if nothing were there, though the array's own document is.
            raise UnlistableError(f"{self.name} does not list what it holds.")
        for key in found:
            if key and not key.endswith("/"):  # archives list their folders too
                yield Entry(key, folder=False)

    def exist(self, keys: Sequence[str]) -> list[bool]:
        from zarr.core.sync import sync

        async def gather() -> list[bool]:
            slots = asyncio.Semaphore(CONCURRENCY)

            async def one(key: str) -> bool:
                async with slots:
                    return await self._store.exists(self._full(key))

            return list(await asyncio.gather(*(one(key) for key in keys)))

        try:
            return sync(gather())
        except Exception as error:  # a store may raise whatever its transport raises
            raise StoreError(f"{self.name} cannot be asked: {type(error).__name__}: {error}.") from error

    def _list(self, listed: Callable[[], AsyncIterator[str]]) -> list[str]:
        from zarr.core.sync import sync

        async def collect() -> list[str]:
            await self._store._ensure_open()
            # obstore's listings begin inside an event loop alone
            return [item async for item in listed()]

        try:
            return sync(collect())
        except NotImplementedError as error:
            raise UnlistableError(f"{self.name} cannot list what it holds.") from error
        except (FileNotFoundError, NotADirectoryError):
            return []
        except Exception as error:  # a store may raise whatever its transport raises
            if isinstance(error, PermissionError) or getattr(error, "status", None) in _NO_LISTING:
                raise UnlistableError(f"{self.name} does not let its contents be listed: {error}.") from error
            raise StoreError(f"{self.name} cannot be listed: {type(error).__name__}: {error}.") from error

    def _full(self, key: str) -> str:
        return join_key(self._prefix, key)


def _open_at_once(path: str, flags: int) -> int:
    """Open for reading; a named pipe without a writer would otherwise be waited for endlessly."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _attempt(access: Access, key: str, limit: int) -> bytes | StoreError | None:
    try:
        return access.get(key, limit)
    except StoreError as error:
        return error


def read_many(access: Access, keys: Sequence[str], limit: int) -> Iterator[bytes | StoreError | None]:
    """Yield what lies at each key, no more of it at once than a few dozen documents of the usual size."""
    for start in range(0, len(keys), BATCH):
        batch = keys[start : start + BATCH]
        for key, found in zip(batch, access.get_many(batch, min(limit, USUAL)), strict=True):
            yield access.get_many([key], limit)[0] if isinstance(found, TooLargeError) else found


def safe_key(key: str) -> bool:
    """Whether a key stays inside the store on every file system."""
    parts = key.split("/")
    try:
        key.encode()  # half a surrogate pair, which JSON can spell, names no file
    except UnicodeEncodeError:
        return False
    return (
        not any(p in ("", ".", "..") for p in parts)
        and "\0" not in key
        and "\\" not in key
        # Elsewhere "a:" is a name like any other, of a weight restriction perhaps.
        and not (os.name == "nt" and ":" in key)
    )


def open_access(
    target: Any,
    storage_options: dict[str, Any] | None = None,
    memory: int = 2**28,
    *,
    follow_links: bool = False,
) -> Access:
    """Turn a path, URL, Zarr store or Zarr group into an `Access`.

    Parameters
    ----------
    memory : int
        Bytes that a validation may use: an archive's list of contents must fit well inside.
    follow_links : bool
        Whether symbolic links in a folder may lead out of it.

    Raises
    ------
    SettingError
        It is none of these.
    StoreError, MissingDependencyError
        A URL that cannot be opened, or a path with no store, or a damaged archive.
    """
    found = resolve_target(target)
    if found.store is not None:
        return open_store_object(found.store, found.inside, follow_links=follow_links)
    if found.url is not None:
        return ZarrAccess(open_url(found.url, storage_options, read_only=True), found.url)
    assert found.path is not None
    return _open_path(found, memory, follow_links)


def _open_path(target: Target, memory: int, follow_links: bool) -> Access:
    path = target.path
    assert path is not None
    if path.is_file():
        if not target.is_archive:
            raise StoreError(
                f"{path} is a file, and not a ZIP archive.", expected="the folder of a store, or an archive"
            )
        from zarr.storage import ZipStore

        check_archive(path, memory)

        return ZarrAccess(ZipStore(path, mode="r"), str(path))
    return LocalAccess(path, follow_links=follow_links)


def open_store_object(store: Store, path: str, *, follow_links: bool = False) -> Access:
    """Return the access to a Zarr store object, directly where it is a folder of this machine."""
    folder = plain_folder(store)
    if folder is not None:
        return LocalAccess(folder / path if path else folder, follow_links=follow_links)
    return ZarrAccess(store, f"{store}/{path}".rstrip("/") if path else str(store), path)
