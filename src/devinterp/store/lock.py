"""One live writer per store (and per chain of it).

On a local disk this is ``flock``: the kernel frees the lock when its holder dies, so the pid in the file is only for
the message. Elsewhere an object with a heartbeat stands in, free once the heartbeat is older than a minute.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from devinterp.errors import StoreLockedError
from devinterp.store.location import Location

__all__ = ["WriterLock"]

_BEAT_SECONDS = 10.0
_STALE_SECONDS = 60.0


class WriterLock:
    """Hold ``key`` in ``location`` until `release`.

    Raises
    ------
    StoreLockedError
        Another live process holds it; the message names that process.
    """

    def __init__(self, location: Location, key: str) -> None:
        self._location, self._key = location, key
        self._token = uuid.uuid4().hex
        self._descriptor: int | None = None
        self._stop = threading.Event()
        self._beat: threading.Thread | None = None
        if location.folder is not None:
            self._lock_file(location.folder / key)
        else:
            self._lock_object()

    def _identity(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time(), "token": self._token}

    def _lock_file(self, path: Path) -> None:
        try:
            import fcntl
        except ImportError:  # no flock on this system: the heartbeat serves
            self._lock_object()
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 4096, 0)
                os.close(descriptor)
                raise self._locked(holder) from None
            # Another process may have removed the file between our open and our lock.
            if _same_file(path, descriptor):
                break
            os.close(descriptor)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(self._identity()).encode(), 0)
        self._descriptor = descriptor

    def _lock_object(self) -> None:
        held = self._location.get(self._key)
        if held is not None:
            try:
                age = time.time() - float(json.loads(held).get("beat", 0.0))
            except (ValueError, TypeError, AttributeError):
                age = _STALE_SECONDS + 1
            if age <= _STALE_SECONDS:
                raise self._locked(held)
        self._write_beat()
        if json.loads(self._location.get(self._key) or b"{}").get("token") != self._token:
            raise self._locked(self._location.get(self._key) or b"")
        self._beat = threading.Thread(target=self._keep_beating, daemon=True, name="devinterp-lock")
        self._beat.start()

    def _write_beat(self) -> None:
        self._location.set(self._key, json.dumps({**self._identity(), "beat": time.time()}).encode())

    def _keep_beating(self) -> None:
        while not self._stop.wait(_BEAT_SECONDS):
            self._write_beat()

    def _locked(self, holder: bytes) -> StoreLockedError:
        try:
            who = json.loads(holder)
            found = f"process {who['pid']} on {who['host']}"
        except (ValueError, KeyError, TypeError):
            found = "a process that has not said who it is"
        return StoreLockedError(
            f"Another process is writing to {self._location.name}.",
            found=found,
            remedy="Wait for it, or stop it: what it has written stays, and the same call then resumes.",
        )

    def release(self) -> None:
        """Give the lock up; the file goes too."""
        if self._descriptor is not None:
            if self._location.folder is not None:
                # Where the file may no longer be removed it stays: without its holder it locks nothing.
                with contextlib.suppress(OSError):
                    (self._location.folder / self._key).unlink()
            os.close(self._descriptor)
            self._descriptor = None
        elif self._beat is not None:
            self._stop.set()
            self._beat.join()
            self._beat = None
            self._location.delete(self._key)

    def __enter__(self) -> WriterLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def _same_file(path: Path, descriptor: int) -> bool:
    try:
        ours, there = os.fstat(descriptor), path.stat()
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)
