"""The end of a run: attributes, validation, then ``completed`` and all metadata in one write of the root."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from devinterp.store.location import Location
from devinterp.store.metadata import documents, group_document

if TYPE_CHECKING:
    from devinterp.store.writing.run import Run

__all__ = ["complete_store", "write_consolidated_root"]


def complete_store(run: Run, validate: Callable[[Location], None] | None) -> None:
    """See `Run.complete`."""
    children = [g for g in run.requests if g != "/"]
    run.publish(completed=False)
    _write_containers(run, completed=False)  # what has grown lists more than it did
    if validate is not None:
        validate(run.location)
    for group in children:
        run.publish(completed=True, groups=[group])
    attributes = run.all_attributes(completed=True)
    _write_containers(run, completed=True)
    everything = documents(run.all_layouts(), attributes, run.schema.storage)
    write_consolidated_root(run.location, attributes["/"], everything)


def _write_containers(run: Run, *, completed: bool) -> None:
    """Write the attributes of the groups above samples groups; the root is completed by another write, the last."""
    attributes = run.all_attributes(completed=completed)
    for path in run.containers:
        if not (completed and path == "/"):
            run.location.set(f"{path.strip('/')}/zarr.json".lstrip("/"), group_document(attributes[path]))


def write_consolidated_root(location: Location, attributes: dict[str, Any], everything: dict[str, bytes]) -> None:
    """Write the root's document with the metadata of all groups and arrays below it.

    One write, so that no reader ever sees ``completed`` without the metadata or the other way round.
    """
    cache: dict[bytes, Any] = {}
    below = {}
    for key, text in everything.items():
        if key != "zarr.json":
            if text not in cache:
                cache[text] = json.loads(text)
            below[key.removesuffix("/zarr.json")] = cache[text]
    location.set("zarr.json", group_document(attributes, below))
