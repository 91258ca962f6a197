"""One answer for every state of a path: create, resume, grow, return, or refuse."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from devinterp.errors import StoreError, StoreExistsError
from devinterp.schema.definition.spec import GroupLayout
from devinterp.schema.reading.keys import document_key, documented_node
from devinterp.store.location import Location, StoreLike, locate
from devinterp.store.lock import LOCK_KEY, WriterLock
from devinterp.store.reading.path_state import PathState, inspect_path
from devinterp.store.writing.compare_requests import compare_requests
from devinterp.store.writing.extend_run import grow_run
from devinterp.store.writing.request import Container, SamplesRequest
from devinterp.store.writing.run import Run
from devinterp.store.zarr_metadata import create_groups, documents

__all__ = ["open_run"]


def open_run(
    target: StoreLike | None,
    requests: Mapping[str, SamplesRequest],
    *,
    root: Mapping[str, Any] | None = None,
    containers: Mapping[str, Container] | None = None,
    resume: bool = True,
    keep_state: bool = False,
    checkpoint_every: int | None = None,
) -> Run:
    """Create, resume, grow, return or refuse, by what lies at ``target``.

    Parameters
    ----------
    target : path, URL, zarr Store or None
        None makes a temporary directory.
    requests : mapping of str to SamplesRequest
        By group path.
    root : mapping, optional
        ``metadata`` of a study's root; short for a `Container` at ``"/"``.
    containers : mapping of str to Container, optional
        Every group above the samples groups.
    resume : bool
        False refuses an interrupted store.
    keep_state : bool
        Leave the chains' last states in the completed store, so that it can be given more draws later.
    checkpoint_every : int, optional
        Draws between checkpoints.

    Raises
    ------
    StoreConflictError
        A store of another request lies there; the message names each difference.
    StoreExistsError
        Something that is not ours lies there, or an interrupted store and ``resume=False``.
    StoreLockedError
        A live process is writing to it.
    """
    above = dict(containers or {})
    if root is not None:
        above["/"] = Container("devinterp/study@1", root)
    temporary = target is None
    location = locate(tempfile.mkdtemp(prefix="devinterp-", suffix=".zarr") if target is None else target, mode="w")
    common: dict[str, Any] = {
        "keep_state": keep_state,
        "checkpoint_every": checkpoint_every,
        "temporary": temporary,
    }
    state = inspect_path(location)
    if state is PathState.FOREIGN:
        raise StoreExistsError(
            f"Something that is not a devinterp store lies at {location.name}; it was left untouched.",
            remedy="Choose another output_path.",
        )
    if state is PathState.COMPLETE and not compare_requests(location, requests, above, interrupted=False):
        return Run(location, requests, above, lock=None, finished=True, resumed=True, **common)
    lock = WriterLock(location, LOCK_KEY)
    try:
        state = inspect_path(location)  # again, now that nobody else can change it
        if state is PathState.ABSENT:
            return _create(location, requests, above, lock, common)
        growth = compare_requests(location, requests, above, interrupted=state is PathState.INTERRUPTED)
        if state is PathState.COMPLETE and not growth:
            lock.release()
            return Run(location, requests, above, lock=None, finished=True, resumed=True, **common)
        if state is PathState.INTERRUPTED and not resume:
            raise StoreExistsError(
                f"An interrupted run lies at {location.name}.",
                remedy="Leave resume=True to go on with it, or choose another output_path.",
            )
        _remove_leftovers(location)
        run = Run(location, requests, above, lock=lock, finished=False, resumed=True, **common)
        grow_run(run)
        _restore_documents(run)
        return run
    except BaseException:
        lock.release()
        raise


def _create(
    location: Location,
    requests: Mapping[str, SamplesRequest],
    above: Mapping[str, Container],
    lock: WriterLock,
    common: Mapping[str, Any],
) -> Run:
    run = Run(location, requests, above, lock=lock, finished=False, resumed=False, **common)
    _share_layouts(run)
    try:
        create_groups(location, run.all_layouts(), run.all_attributes(completed=False), run.schema.storage)
        run.write_coordinates()
    except BaseException as error:
        with suppress(OSError):  # where nothing can be created, nothing may be removable either
            run.discard()
        if isinstance(error, OSError) and not isinstance(error, StoreError):
            raise StoreError(f"The store {location.name} could not be created: {error}.") from error
        raise
    return run


def _share_layouts(run: Run) -> None:
    """Give restrictions of one study, which differ in their masks only, one layout, to be encoded once."""
    shared: dict[str, GroupLayout] = {}
    for group, request in run.requests.items():
        decides = [request.parameters, request.observables, request.sizes, request.config, sorted(request.optional)]
        key = json.dumps([dict(d) if isinstance(d, Mapping) else d for d in decides], sort_keys=True, default=str)
        if key not in shared:
            shared[key] = request.layout(run.schema)
        run.use_layout(group, shared[key])


def _restore_documents(run: Run) -> None:
    """Write the documents that a creation that was killed had not come to, or that a grown store lacks."""
    everything = documents(run.all_layouts(), run.all_attributes(completed=False), run.schema.storage)
    present = {key for key in run.location.list_keys() if documented_node(key) is not None}
    # A container's coordinate grows with its list, so its document is written anew.
    coordinates = {document_key(path, name) for path, c in run.containers.items() for name in c.coordinates}
    missing = {key: text for key, text in everything.items() if key not in present}
    for key in coordinates & present:
        before = json.loads(run.location.get(key) or b"{}")
        now = json.loads(everything[key])
        missing[key] = json.dumps({**now, "attributes": {**before.get("attributes", {}), **now["attributes"]}}).encode()
    if missing:
        run.location.set_many(missing)
    run.write_coordinates()


def _remove_leftovers(location: Location) -> None:
    """Remove what a killed writer left behind: temporary files that were never renamed."""
    if location.folder is not None:
        for path in location.folder.rglob("*.partial"):
            if path.is_file():  # a restriction may be called so
                path.unlink(missing_ok=True)
