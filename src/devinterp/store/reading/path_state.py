"""What lies at a path, from a handful of small reads; whose it is, `writing.compare_requests` says."""

from __future__ import annotations

import enum
import json
import re
from typing import Any

from devinterp.schema.checks.recognise import has_completed
from devinterp.schema.reading.keys import document_key, is_unseen
from devinterp.store.location import Location

__all__ = ["PathState", "inspect_path", "read_group"]

_HALF_ROOT = re.compile(r"zarr(\.json)?\.[0-9a-f]{32}\.partial")  # what LocalStore and `Location.set_many` rename


class PathState(enum.Enum):
    """The states that a path can be in."""

    ABSENT = "absent"
    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    FOREIGN = "foreign"


def read_group(location: Location, group: str = "/") -> dict[str, Any] | None:
    """Return a group's ``zarr.json``, or None where there is none or it is not a JSON object."""
    raw = location.get(document_key(group))
    if raw is None:
        return None
    try:
        document = json.loads(raw)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _says_nothing(name: str) -> bool:
    """Whether a name is found where nobody has put anything; the documents of Zarr v2 are hidden and say a lot."""
    return _HALF_ROOT.fullmatch(name) is not None or (is_unseen(name) and not name.startswith(".z"))


def inspect_path(location: Location) -> PathState:
    """Say what lies at ``location``."""
    if location.folder is not None and not location.folder.exists():
        return PathState.ABSENT
    if location.folder is not None and not location.folder.is_dir():
        return PathState.FOREIGN
    document = read_group(location)
    if document is None:
        # A creation that was killed leaves our (hidden) state folder, and perhaps the root's document half written.
        if all(_says_nothing(name) for name in location.list_dir()):
            return PathState.ABSENT
        document = read_group(location)  # another process may have created it between the two looks
        if document is None:
            return PathState.FOREIGN
    attributes = document.get("attributes")
    if not isinstance(attributes, dict) or "devinterp_schema" not in attributes:
        return PathState.FOREIGN
    return PathState.COMPLETE if has_completed(attributes) else PathState.INTERRUPTED
