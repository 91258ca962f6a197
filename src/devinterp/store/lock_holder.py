"""Who holds a lock of a store, and whether that process lives."""

from __future__ import annotations

import functools
import json
import os
import time
from pathlib import Path
from typing import Any

from devinterp.store.filesystem import is_network_folder
from devinterp.store.location import Location

__all__ = [
    "STALE_SECONDS",
    "HolderWatch",
    "has_flock",
    "live_holder",
    "lives",
    "name_of",
    "pid_space",
    "process_is_dead",
    "read_lock",
]

STALE_SECONDS = 60.0
_WATCH_SECONDS = 15.0
_LOOK_SECONDS = 0.25


class HolderWatch:
    """Whether the process that took a lock still holds it, for those who must end when it does.

    Parameters
    ----------
    location : Location
    key, token : str
        Of the lock.
    """

    def __init__(self, location: Location, key: str, token: str) -> None:
        self._location, self._key, self._token = location, key, token
        self._last, self._changed = b"", time.monotonic()

    def holds(self) -> bool:
        """Look once."""
        held = self._location.get(self._key)
        who = read_lock(held)
        if held is None or who.get("token") != self._token:
            return False
        if "beat" not in who:
            return self._location.folder is None or _is_free(self._location.folder / self._key) is not True
        if held != self._last:
            self._last, self._changed = held, time.monotonic()
        return not process_is_dead(who) and time.monotonic() - self._changed <= STALE_SECONDS


def live_holder(location: Location, key: str) -> str | None:
    """Name the live process that holds a lock, or return None; nothing is written, nobody is waited for.

    Whom a second `WriterLock` would be refused for is named, and nobody else: a lock that was left behind by a process
    that died, before a reboot or in another container among them, holds nothing.
    """
    held = location.get(key)
    if held is None:
        return None
    who = read_lock(held)
    alive = _beats(who) if "beat" in who else _holds_without_beat(location, key, who)
    return name_of(who) if alive and not process_is_dead(who) else None


def lives(location: Location, key: str, held: bytes) -> bool:
    """Whether a lock that has to do without the kernel is held; waits where only time can tell."""
    who = read_lock(held)
    if process_is_dead(who):
        return False
    if "beat" not in who:  # torn, or left by a lock of the kernel, which says no more than whether its process lives
        return _is_of_this_machine(who)
    if _beats(who):
        return True
    # The clocks of two machines may differ by more than that; what still changes is alive.
    deadline = time.monotonic() + _WATCH_SECONDS
    while time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
        if location.get(key) != held:
            return True
    return False


def _beats(who: dict[str, Any]) -> bool:
    return abs(time.time() - float(who["beat"])) <= STALE_SECONDS


def _holds_without_beat(location: Location, key: str, who: dict[str, Any]) -> bool:
    """Whether a lock of the kernel is held: it is asked where it can be."""
    if has_flock(location):
        assert location.folder is not None
        free = _is_free(location.folder / key)
        if free is not None:
            return not free
    return _is_of_this_machine(who)


def _is_of_this_machine(who: dict[str, Any]) -> bool:
    return who.get("where") is not None and who["where"] == pid_space()


def process_is_dead(who: dict[str, Any]) -> bool:
    """Whether the process that a lock names is known to be dead: it was one of this machine, and has ended."""
    where = pid_space()
    if where is None or who.get("where") != where or not isinstance(who.get("pid"), int):
        return False
    try:
        os.kill(who["pid"], 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


@functools.cache
def pid_space() -> str | None:
    """Name the space in which pids of this process mean something: this boot of this kernel, this namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux
        return None


def _is_free(path: Path) -> bool | None:
    """Whether the kernel's lock of a file is free, or None where it cannot be asked."""
    try:
        import fcntl

        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return True


def has_flock(location: Location) -> bool:
    """Whether the kernel's locks tell who holds one: of a folder that no other machine sees."""
    try:
        import fcntl  # noqa: F401
    except ImportError:
        return False
    return location.folder is not None and not is_network_folder(location.folder)


def read_lock(held: bytes | None) -> dict[str, Any]:
    """Return what a lock says of its holder; nothing of one that is gone or torn."""
    try:
        who = json.loads(held or b"{}")
        float(who.get("beat", 0.0))
    except (ValueError, TypeError, AttributeError):
        return {}
    return dict(who)


def name_of(who: dict[str, Any]) -> str:
    """Return how messages call a holder."""
    if "pid" in who and "host" in who:
        return f"process {who['pid']} on {who['host']}"
    return "a process that has not said who it is"
