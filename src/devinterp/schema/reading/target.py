"""What a user names a store by: a path, a URL, a Zarr store, a group of one; decided in one place for every reader."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from devinterp.errors import MissingDependencyError, SettingError, StoreError

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = ["Target", "open_url", "resolve_target"]

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
        return Target(store=target.store, inside=target.store_path.path.strip("/"))
    if isinstance(target, StorePath):
        return Target(store=target.store, inside=target.path.strip("/"))
    if isinstance(target, Store):
        return Target(store=target)
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
        path.exists()
        return path.absolute()
    except (OSError, ValueError) as error:  # no name of a file, or too long a one
        raise StoreError(f"{text!r} cannot be opened: {error}.") from error


def open_url(url: str, storage_options: dict[str, Any] | None, *, read_only: bool) -> Store:
    """Return the store of a URL that fsspec knows.

    Raises
    ------
    StoreError, MissingDependencyError
        It cannot be opened, or only with a package that is not installed.
    """
    from zarr.storage import FsspecStore

    try:
        return FsspecStore.from_url(url, storage_options=storage_options, read_only=read_only)
    except ImportError as error:
        raise MissingDependencyError(
            f"The URL {url!r} needs a package that is not installed: {error}.",
            remedy="Install devinterp[remote] and the fsspec implementation of that scheme.",
        ) from error
    except Exception as error:  # fsspec implementations raise what they like
        raise StoreError(f"The URL {url!r} cannot be opened: {error}.") from error
