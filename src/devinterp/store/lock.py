"""One live writer per store (and per chain of it).

On a local disk this is ``flock``: the kernel frees the lock when its holder dies, so the pid in the file is only for
the message. On network file systems and in object stores an object with a heartbeat stands in, free once its holder is
known to be dead, or once nothing has been heard of it for a minute.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from devinterp.errors import DevinterpError, StoreError, StoreLockedError
from devinterp.schema.reading.keys import STATE_FOLDER, join_key
from devinterp.store.location import Location
from devinterp.store.lock_holder import STALE_SECONDS, has_flock, lives, name_of, pid_space, read_lock

__all__ = ["LOCK_KEY", "WriterLock", "one_error"]

LOCK_KEY = join_key(STATE_FOLDER, "lock")
"""The lock of whoever writes to the store."""

_BEAT_SECONDS = 10.0
# Longer than the way from a look at the object to its being written: of two that start together, one sees the other.
_SETTLE_SECONDS = 1.0
_LOOK_SECONDS = 0.25
_ASKING_SECONDS = 0.02  # a worker that asks whether its coordinator lives holds the lock for a moment
_NO_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
_IN_PROCESS = threading.Lock()  # threads of one process take objects in turn


class WriterLock:
    """Hold ``key`` in ``location`` until `release`.

    Parameters
    ----------
    location : Location
    key : str
    what : str, optional
        What is locked, for messages; by default the store.
    patience : float
        Seconds to wait for another holder.
    settle : bool
        Whether others may reach for a heartbeat lock at the same time, so that a second must show who was last.

    Raises
    ------
    StoreLockedError
        Another live process holds it; the message names that process.
    StoreError
        The place cannot be written to.
    """

    def __init__(
        self, location: Location, key: str, *, what: str | None = None, patience: float = 0.0, settle: bool = True
    ) -> None:
        self.token = uuid.uuid4().hex
        self._what = what or location.name
        identity = {"pid": os.getpid(), "host": socket.gethostname(), "where": pid_space(), "since": time.time()}
        identity["token"] = self.token
        deadline = time.monotonic() + patience
        while True:
            try:
                self._hold: _FileLock | _Heartbeat | None = _take(location, key, identity, self._what, settle)
                return
            except StoreLockedError:
                if time.monotonic() >= deadline:
                    raise
            except OSError as error:
                if isinstance(error, StoreError):
                    raise
                raise StoreError(
                    f"{self._what} cannot be locked: {str(error).rstrip('.')}.",
                    remedy="Mend the cause, then call again.",
                ) from error
            time.sleep(_LOOK_SECONDS)

    def confirm(self) -> None:
        """See that the lock is still held; call it before a write that another writer would suffer from.

        Raises
        ------
        StoreError
            The store was removed underneath or cannot be looked at, or another process has taken the lock over.
        """
        if self._hold is None:
            raise StoreError(f"The lock of {self._what} was given back.")
        with one_error(f"{self._what} could not be looked at"):
            self._hold.confirm()

    def release(self) -> None:
        """Give the lock up; its file or object goes too."""
        if self._hold is not None:
            self._hold.release()
            self._hold = None

    def __enter__(self) -> WriterLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def _take(location: Location, key: str, identity: dict[str, Any], what: str, settle: bool) -> _FileLock | _Heartbeat:
    if has_flock(location):
        assert location.folder is not None
        with contextlib.suppress(_NoFlockError):
            return _FileLock(location.folder / key, identity, what)
    return _Heartbeat(location, key, identity, what, settle=settle)


class _NoFlockError(Exception):
    """The file system knows no ``flock``."""


class _FileLock:
    def __init__(self, path: Path, identity: dict[str, Any], what: str) -> None:
        self._path, self._what = path, what
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor: int | None = self._open()
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(identity).encode(), 0)
        except BaseException:
            self.release()
            raise
        _HELD.add(self)

    def _open(self) -> int:
        import fcntl

        tries = 0
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 4096, 0)
                os.close(descriptor)
                tries += 1
                if tries == 3:
                    raise _locked(holder, self._what) from None
                time.sleep(_ASKING_SECONDS)
                continue
            except OSError as error:
                os.close(descriptor)
                if error.errno in _NO_FLOCK:
                    raise _NoFlockError from error
                raise
            # Another process may have removed the file between our open and our lock.
            if _same_file(self._path, descriptor):
                return descriptor
            os.close(descriptor)

    def confirm(self) -> None:
        if self._descriptor is None or not _same_file(self._path, self._descriptor):
            raise _removed(self._what)

    def release(self) -> None:
        if self._descriptor is None:
            return
        # Where the file may no longer be removed it stays: without its holder it locks nothing.
        with contextlib.suppress(OSError):
            if _same_file(self._path, self._descriptor):  # else another writer's, in a store that was made anew
                self._path.unlink()
        os.close(self._descriptor)
        self._descriptor = None

    def forget(self) -> None:
        """Close a copy that a forked child got: it would keep the lock beyond its holder's death."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


_HELD: weakref.WeakSet[_FileLock] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_HELD):
        lock.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


class _Heartbeat:
    def __init__(self, location: Location, key: str, identity: dict[str, Any], what: str, *, settle: bool) -> None:
        self._location, self._key, self._identity, self._what = location, key, identity, what
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        self._lost: StoreError | None = None
        with _IN_PROCESS:
            held = location.get(key)
            if held is not None and lives(location, key, held):
                raise _locked(held, what)
            self._write()
            if settle and not location.in_memory:
                time.sleep(_SETTLE_SECONDS)
            last = location.get(key)
            if read_lock(last).get("token") != identity["token"]:
                raise _locked(last or b"", what)
        self._thread = threading.Thread(target=self._keep_beating, daemon=True, name="devinterp-lock")
        self._thread.start()

    def _write(self) -> None:
        self._location.set(self._key, json.dumps({**self._identity, "beat": time.time()}).encode())
        self._beaten = time.monotonic()

    def _beat(self) -> None:
        with self._mutex:
            if self._lost is not None:
                return
            held = self._location.get(self._key)
            if held is None:
                self._lost = _removed(self._what)
            elif read_lock(held).get("token") != self._identity["token"]:
                self._lost = _locked(held, self._what)
            else:
                self._write()

    def _keep_beating(self) -> None:
        while not self._stop.wait(_BEAT_SECONDS):
            # A network that fails for a moment is not a reason to give up; `confirm` raises what lasts.
            with contextlib.suppress(Exception):
                self._beat()

    def confirm(self) -> None:
        if self._lost is None and time.monotonic() - self._beaten > STALE_SECONDS / 2:  # e.g. the machine slept
            self._beat()
        if self._lost is not None:
            raise self._lost

    def release(self) -> None:
        self._stop.set()
        if self._pid != os.getpid():  # a forked child's copy
            return
        self._thread.join()
        # An object that can no longer be removed is stale in a minute; one that is not ours stays.
        with contextlib.suppress(OSError):
            if read_lock(self._location.get(self._key)).get("token") == self._identity["token"]:
                self._location.delete(self._key)


def _locked(holder: bytes, what: str) -> StoreLockedError:
    return StoreLockedError(
        f"Another process is writing to {what}.",
        found=name_of(read_lock(holder)),
        remedy="Wait for it, or stop it: what it has written stays, and the same call then resumes.",
    )


@contextlib.contextmanager
def one_error(problem: str) -> Iterator[None]:
    """Make whatever a store raises while a run is written to it one error: closed folders, networks that are away."""
    try:
        yield
    except DevinterpError:
        raise
    except Exception as error:
        raise StoreError(
            f"{problem}: {str(error).rstrip('.')}.",
            remedy="What was written stays; mend the cause and call again with the same arguments to resume.",
        ) from error


def _removed(what: str) -> StoreError:
    return StoreError(
        f"{what} was removed or replaced while it was being written.",
        remedy="Call again with the same arguments: the run begins anew, or goes on where the store is back.",
    )


def _same_file(path: Path, descriptor: int) -> bool:
    try:
        ours, there = os.fstat(descriptor), path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)
