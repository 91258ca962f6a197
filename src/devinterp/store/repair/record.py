"""What a repair did to a store, and the way back: every object that it changes is kept as it was.

A record lies in the store's state folder, one folder for each repair: ``record.json`` names the objects that the repair
may change, in order, and for each the file that holds what it was (none where there was nothing), itself named by what
it holds. It is written before
the first change, so that a repair that was killed can be taken back as well. It is of no use once the run goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from devinterp.errors import StoreError
from devinterp.schema.reading.keys import STATE_FOLDER, join_key
from devinterp.store.location import Location

__all__ = ["RepairRecord", "begin_record", "open_records"]

_FOLDER = join_key(STATE_FOLDER, "repair")
_NAME = "record.json"


@dataclass
class RepairRecord:
    """One repair.

    Attributes
    ----------
    number : int
    did : list of str
        What it did, one line each.
    before : dict of str to (str or None)
        By key of an object: SHA-256 of what it was, under which it is kept in the record's folder; None for nothing.
    after : dict of str to (str or None)
        SHA-256 of what the repair left there; None for nothing. Empty until it is done.
    done : bool
        Whether it came to its end.
    """

    location: Location
    number: int
    did: list[str]
    before: dict[str, str | None] = field(default_factory=dict)
    after: dict[str, str | None] = field(default_factory=dict)
    done: bool = False

    def finish(self) -> None:
        """Note what the repair left, by which `undo` knows whether the run has gone on since."""
        self.after = {key: _digest(self.location.get(key)) for key in self.before}
        self.done = True
        self._write()

    def changed_since(self) -> list[str]:
        """Return the keys of objects that are not as the repair left them."""
        return [key for key, digest in self.after.items() if _digest(self.location.get(key)) != digest]

    def restore(self) -> None:
        """Put everything back as it was, in the opposite order, and remove the record.

        Raises
        ------
        StoreError
            Something that was kept is gone or damaged; then nothing is put back.
        """
        for key, digest in self.before.items():
            if digest is not None and _digest(self.location.get(self._key(digest))) != digest:
                raise StoreError(
                    f"What the repair of {self.location.name} kept of {key} is gone or damaged.",
                    remedy="The repair can no longer be taken back; the store stays as the repair left it.",
                )
        for key, digest in reversed(self.before.items()):
            kept = None if digest is None else self.location.get(self._key(digest))
            if kept is None:
                self.location.delete(key)
            else:
                self.location.set(key, kept)
        self.location.delete(self._key(_NAME))  # first of all: without it the rest means nothing
        for digest in {d for d in self.before.values() if d is not None}:
            self.location.delete(self._key(digest))

    def _key(self, name: str) -> str:
        return join_key(_FOLDER, f"{self.number:04d}", name)

    def _write(self) -> None:
        content = {"did": self.did, "before": self.before, "after": self.after, "done": self.done}
        self.location.set(self._key(_NAME), json.dumps(content, indent=1).encode())


def begin_record(location: Location, keys: Iterable[str], did: list[str]) -> RepairRecord:
    """Keep what lies at `keys`, in the order in which a repair will change them, and say so in a new record."""
    number = max((record.number for record in open_records(location)), default=0) + 1
    record = RepairRecord(location, number, did)
    for key in dict.fromkeys(keys):
        raw = location.get(key)
        record.before[key] = digest = _digest(raw)
        if raw is not None and digest is not None:
            location.set(record._key(digest), raw)
    record._write()
    return record


def open_records(location: Location) -> list[RepairRecord]:
    """Return the records of a store's repairs, the oldest first; a store that takes Zarr's keys alone has none."""
    found: list[RepairRecord] = []
    if not location.takes_any_key():
        return found
    for key in sorted(location.list_keys(f"{_FOLDER}/")):
        folder, _, name = key.removeprefix(f"{_FOLDER}/").partition("/")
        raw = location.get(key) if name == _NAME and folder.isdecimal() else None
        if raw is not None:
            found.append(_parsed(location, int(folder), raw))
    return found


def _parsed(location: Location, number: int, raw: bytes) -> RepairRecord:
    try:
        content: dict[str, Any] = json.loads(raw)
        return RepairRecord(location, number, content["did"], content["before"], content["after"], content["done"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"The record of a repair in {location.name} cannot be read.",
            found=join_key(_FOLDER, f"{number:04d}", _NAME),
            remedy="Remove that folder: the repair can then not be taken back.",
        ) from error


def _digest(raw: bytes | None) -> str | None:
    return None if raw is None else hashlib.sha256(raw).hexdigest()
