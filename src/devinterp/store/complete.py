"""The end of a run: attributes, validation, then ``completed`` and all metadata in one write of the root."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from devinterp.store.layout import documents, group_document
from devinterp.store.location import Location

if TYPE_CHECKING:
    from devinterp.store.run import Run

__all__ = ["complete_store", "write_consolidated_root"]


def complete_store(run: Run, validate: Callable[[Location], None] | None) -> None:
    """See `Run.complete`."""
    children = [g for g in run.requests if g != "/"]
    run.publish(completed=False)
    if validate is not None:
        validate(run.location)
    for group in children:
        run.publish(completed=True, groups=[group])
    attributes = run.all_attributes(completed=True)
    for path in sorted((p for p in run.containers if p != "/"), reverse=True):
        run.location.set(f"{path.strip('/')}/zarr.json", group_document(attributes[path]))
    everything = documents(run.all_layouts(), attributes, run.schema.storage)
    write_consolidated_root(run.location, attributes["/"], everything)


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
