"""What kind of file system a folder lies on, and how its files come to rest on the disk."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["is_network_folder", "remove_empty", "sync_files"]

# fmt: off
_NETWORK = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fhgfs", "gfs2", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2",
    "orangefs", "pvfs2", "smb2", "smb3", "smbfs",
})
# fmt: on
_SYNC_THREADS = 12
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP}


def is_network_folder(folder: Path) -> bool:
    """Whether another machine may see the same folder, so that locks of this kernel say nothing about it.

    Where the system does not tell (it is not Linux), the folder counts as local.
    """
    kind = _kind(folder)
    return kind in _NETWORK or kind.startswith("fuse.")


def _kind(folder: Path) -> str:
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    real = os.path.realpath(folder)
    best, kind = "", ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        point = fields.split(" ")[4].encode().decode("unicode_escape")  # a space is written \040
        if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, rest.split(" ", 1)[0]
    return kind


def sync_files(paths: Iterable[Path]) -> None:
    """Wait until files, and their names in their folders, are on the disk itself: what is here survives a power cut.

    A file that is gone is passed over.
    """
    files = list(paths)
    if files:
        # Beside each other: the disk takes a dozen at once in the time of two.
        with ThreadPoolExecutor(min(len(files), _SYNC_THREADS)) as threads:
            list(threads.map(_sync, files))
        for folder in {path.parent for path in files}:
            with contextlib.suppress(PermissionError):  # Windows opens no folders
                _sync(folder)


def _sync(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:  # some file systems cannot; an error of the disk is another matter
            raise
    finally:
        os.close(descriptor)


def remove_empty(folder: Path) -> None:
    """Remove a folder and those in it, as far as nothing is in them."""
    if not folder.is_dir():
        return
    for inner in sorted((p for p in folder.rglob("*") if p.is_dir()), key=lambda p: len(p.parts), reverse=True):
        _remove_if_empty(inner)
    _remove_if_empty(folder)


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:  # something is left in it that is not ours to remove
        return
