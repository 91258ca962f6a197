"""What lies at a path, from a handful of small reads, and whether it is this request's."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from devinterp.errors import StoreConflictError, StoreError
from devinterp.store.checkpoint import STATE_FOLDER
from devinterp.store.layout import jsonable
from devinterp.store.location import Location

if TYPE_CHECKING:
    from devinterp.store.request import SamplesRequest

__all__ = ["PathState", "compare_requests", "differences", "inspect_path", "read_group"]

# Facts of the run, not of the request: they may differ between two calls for the same numbers.
_VOLATILE = frozenset({"metadata.run", "metadata.provenance.versions"})


class PathState(enum.Enum):
    """The states that a path can be in."""

    ABSENT = "absent"
    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    FOREIGN = "foreign"


def read_group(location: Location, group: str = "/") -> dict[str, Any] | None:
    """Return a group's ``zarr.json``, or None where there is none or it is no JSON object."""
    raw = location.get(f"{group.strip('/')}/zarr.json".lstrip("/"))
    if raw is None:
        return None
    try:
        document = json.loads(raw)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def inspect_path(location: Location) -> PathState:
    """Say what lies at ``location``."""
    if location.folder is not None and not location.folder.exists():
        return PathState.ABSENT
    if location.folder is not None and not location.folder.is_dir():
        return PathState.FOREIGN
    document = read_group(location)
    if document is None:
        # A creation that was killed leaves our state folder and perhaps part of the hierarchy, the root last.
        names: set[str] = set(location.list_dir())
        if not names - {STATE_FOLDER}:
            return PathState.ABSENT
        return PathState.FOREIGN
    attributes = document.get("attributes")
    if not isinstance(attributes, dict) or "devinterp_schema" not in attributes:
        return PathState.FOREIGN
    return PathState.COMPLETE if attributes.get("completed") == 1 else PathState.INTERRUPTED


def differences(ours: Any, theirs: Any, where: str = "metadata") -> Iterator[str]:
    """Yield one line per leaf that two JSON documents do not share."""
    if where in _VOLATILE:
        return
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for key in sorted({*ours, *theirs}):
            yield from differences(ours.get(key), theirs.get(key), f"{where}.{key}")
    elif ours != theirs:
        name = where.removeprefix("metadata.config.sampler.").removeprefix("metadata.")
        yield f"{name}: the store has {_short(theirs)}, this call {_short(ours)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def compare_requests(
    location: Location, requests: Mapping[str, SamplesRequest], root: Mapping[str, Any] | None, *, interrupted: bool
) -> None:
    """Raise `StoreConflictError` naming every difference between the store and the request."""
    found: list[str] = []
    if root is not None:
        stored = (read_group(location) or {}).get("attributes", {}).get("metadata", {})
        found += differences(jsonable(root), stored)
    for group, request in requests.items():
        document = read_group(location, group)
        if document is None:
            found.append(f"group {group}: the store does not have it")
            continue
        stored = document.get("attributes", {}).get("metadata", {})
        prefix = "" if group == "/" else f"{group.strip('/')}: "
        found += [prefix + line for line in differences(jsonable(request.metadata()), stored)]
    if found:
        shown = found[:20] + ([f"and {len(found) - 20} more"] if len(found) > 20 else [])
        state = "An interrupted run" if interrupted else "A completed store"
        raise StoreConflictError(
            f"{state} of another request lies at {location.name}:\n  " + "\n  ".join(shown),
            remedy="Choose another output_path, or call again with the settings, model, data and masks of that store.",
        )


def require_group(location: Location, group: str) -> dict[str, Any]:
    """Return a group's document or raise `StoreError`."""
    document = read_group(location, group)
    if document is None:
        raise StoreError(f"{location.name} has no group {group!r}.")
    return document
