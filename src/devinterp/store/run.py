"""The coordinator of a sampling run's store: one answer for every state of a path, one writer of attributes.

`open_run` looks at what lies at the path and creates, resumes, returns or refuses. The `Run` it gives out knows which
chains remain, hands out their writers, keeps ``draws_written`` and the chains' states current, and completes the store.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devinterp.errors import StoreError, StoreExistsError
from devinterp.schema import load
from devinterp.schema.spec import GroupLayout
from devinterp.store.checkpoint import STATE_FOLDER, ChainProgress, read_progress
from devinterp.store.complete import complete_store
from devinterp.store.inspect import PathState, compare_requests, inspect_path, read_group
from devinterp.store.layout import create_groups, documents, group_document, open_array
from devinterp.store.location import Location, StoreLike, locate
from devinterp.store.lock import WriterLock
from devinterp.store.request import SamplesRequest, WriterAddress, open_writer
from devinterp.store.writer import ChainWriter

__all__ = ["Run", "SamplesRequest", "WriterAddress", "open_run"]

LOCK_KEY = f"{STATE_FOLDER}/lock"


class Run:
    """A store that is being written; use as a context manager, so that the lock is given back in every exit.

    Parameters
    ----------
    location : Location
    requests : mapping of str to SamplesRequest
        By group path; ``{"/": request}`` for a samples store.
    root : mapping or None
        ``metadata`` of the root of a study, None for a samples store.
    finished : bool
        Whether the store was complete already; then there is nothing to do and no lock.
    """

    def __init__(
        self,
        location: Location,
        requests: Mapping[str, SamplesRequest],
        root: Mapping[str, Any] | None,
        *,
        root_schema: str,
        lock: WriterLock | None,
        finished: bool,
        resumed: bool,
        keep_state: bool,
        checkpoint_every: int | None,
        temporary: bool,
    ) -> None:
        self.location = location
        self.requests = dict(requests)
        self.finished = finished
        self.resumed = resumed
        self.temporary = temporary
        self.schema = load("samples")
        self._root = root
        self._root_schema = root_schema
        self._lock = lock
        self._keep_state = keep_state
        self._checkpoint_every = checkpoint_every
        self._layouts: dict[str, GroupLayout] = {}
        self._progress: dict[tuple[str, int], ChainProgress] = {}
        self._facts: dict[str, dict[str, Any]] = {}
        if not finished:
            self.refresh()

    def layout(self, group: str = "/") -> GroupLayout:
        """Return the arrays of a samples group."""
        if group not in self._layouts:
            self._layouts[group] = self.requests[group].layout(self.schema)
        return self._layouts[group]

    @property
    def chains(self) -> list[tuple[str, int]]:
        """Every (group, chain) of the run."""
        return [(g, c) for g, r in self.requests.items() for c in range(int(r.parameters["num_chains"]))]

    def remaining(self) -> list[tuple[str, int]]:
        """(group, chain) pairs that have not reached their end."""
        return [key for key in self.chains if self.progress(*key).status not in ("complete", "failed")]

    def progress(self, group: str, chain: int) -> ChainProgress:
        """How far a chain had come at the last `refresh`."""
        return self._progress.get((group, chain), ChainProgress())

    def write_array(self, group: str, name: str, values: NDArray[Any] | float) -> None:
        """Write one whole array that belongs to no chain (``init_loss``, ``input_ids_{obs}``, ``n_beta`` ...)."""
        layout = self.layout(group).arrays[name]
        block = np.asarray(values, dtype=layout.dtype)
        if block.shape != layout.shape:
            raise StoreError(f"{name!r} does not fit the store.", expected=layout.shape, found=block.shape)
        open_array(self.location, f"{group}/{name}", layout, self.schema.storage)[...] = block

    def read_array(self, group: str, name: str) -> NDArray[Any]:
        """Return one whole array of an earlier attempt (a resumed run need not compute it again)."""
        layout = self.layout(group).arrays[name]
        return np.asarray(open_array(self.location, f"{group}/{name}", layout, self.schema.storage)[...])

    def has_array(self, group: str, name: str) -> bool:
        """Whether an array that belongs to no chain was written (its one chunk is there)."""
        layout = self.layout(group).arrays[name]
        key = "/".join([f"{group}/{name}".strip("/"), "c", *("0" for _ in layout.shape)])
        return self.location.exists(key)

    def writer(self, group: str, chain: int) -> tuple[ChainWriter, bytes | None]:
        """Return a chain's writer and the state to go on from (None at the start)."""
        return open_writer(self.location, group, chain, self.requests[group], self.schema, self._checkpoint_every)

    def address(self, group: str, chain: int) -> WriterAddress:
        """Return what a worker process needs to open the writer itself.

        Raises
        ------
        StoreError
            The store is an object that cannot be reopened elsewhere.
        """
        if self.location.url is None:
            raise StoreError(
                f"The store {self.location.name} cannot be opened by another process.",
                remedy='Give a path or a URL, or use chain_method="sequential".',
            )
        return WriterAddress(self.location.url, group, chain, self.requests[group], self._checkpoint_every)

    def record(self, group: str, chain: int, progress: ChainProgress) -> None:
        """Take note of a chain's progress (sequential runs hand it over, parallel ones are polled)."""
        self._progress[group, chain] = progress

    def refresh(self) -> dict[tuple[str, int], ChainProgress]:
        """Read the progress of every chain from the store."""
        for group, chain in self.chains:
            if self.progress(group, chain).status in ("complete", "failed"):
                continue
            found = read_progress(self.location, group, chain)
            if found is not None:
                self._progress[group, chain] = found
        return dict(self._progress)

    def note(self, group: str, facts: Mapping[str, Any]) -> None:
        """Add facts to ``metadata.run`` of a group (start, end, device); written with the attributes."""
        self._facts.setdefault(group, {}).update(facts)

    def publish(self, *, completed: bool = False, groups: list[str] | None = None) -> None:
        """Write ``draws_written`` and the attributes, as far as the chains have come."""
        for group in groups if groups is not None else list(self.requests):
            count = int(self.requests[group].parameters["num_chains"])
            states = [self.progress(group, c) for c in range(count)]
            self.write_array(group, "draws_written", np.array([s.draws for s in states]))
            key = f"{group.strip('/')}/zarr.json".lstrip("/")
            self.location.set(key, group_document(self.attributes(group, completed=completed)))

    def attributes(self, group: str, *, completed: bool) -> dict[str, Any]:
        """Return the attributes of a samples group as they should stand now."""
        count = int(self.requests[group].parameters["num_chains"])
        metadata = self.requests[group].metadata()
        metadata["run"] = {
            **self._facts.get(group, {}),
            "chains": [_state(self.progress(group, c)) for c in range(count)],
        }
        return {"devinterp_schema": self.schema.id, "completed": int(completed), "metadata": metadata}

    def root_attributes(self, *, completed: bool) -> dict[str, Any]:
        """Return the attributes of the root: of the study, or of the one samples group."""
        if self._root is None:
            return self.attributes("/", completed=completed)
        return {"devinterp_schema": self._root_schema, "completed": int(completed), "metadata": dict(self._root)}

    def complete(self, validate: Callable[[Location], None] | None = None) -> None:
        """Write everything that is still open, validate, then set ``completed`` and consolidate in one write.

        Parameters
        ----------
        validate : callable, optional
            Called with the location before ``completed`` is set; it raises where the store breaks its schema.
        """
        complete_store(self, validate)
        if not self._keep_state:
            self._remove_state()
        self.finished = True

    def _remove_state(self) -> None:
        for key in list(self.location.list_keys(f"{STATE_FOLDER}/")):
            if key != LOCK_KEY:
                self.location.delete(key)

    def close(self) -> None:
        """Give the lock back; remove the state folder where nothing is left in it."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        folder = self.location.folder
        if folder is not None and self.finished and not self._keep_state:
            _remove_empty(folder / STATE_FOLDER)

    def discard(self) -> None:
        """Remove a store that holds nothing yet (bad input found late)."""
        if self.resumed or self.finished:
            return
        self.location.delete_below("")
        if self.location.folder is not None and self.location.folder.is_dir():
            import shutil

            shutil.rmtree(self.location.folder, ignore_errors=True)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _state(progress: ChainProgress) -> dict[str, Any]:
    # A chain that is still running would read as interrupted if its process died now, and so it is written.
    status = "interrupted" if progress.status == "running" else progress.status
    return {"status": status, "reason": progress.reason, "step": progress.step}


def _remove_empty(folder: Path) -> None:
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


def open_run(
    target: StoreLike | None,
    requests: Mapping[str, SamplesRequest],
    *,
    root: Mapping[str, Any] | None = None,
    root_schema: str = "devinterp/study@1",
    resume: bool = True,
    keep_state: bool = False,
    checkpoint_every: int | None = None,
) -> Run:
    """Create, resume, return or refuse, by what lies at ``target``.

    Parameters
    ----------
    target : path, URL, zarr Store or None
        None makes a temporary directory.
    requests : mapping of str to SamplesRequest
    root : mapping, optional
        ``metadata`` of a study's root.
    resume : bool
        False refuses an interrupted store.

    Raises
    ------
    StoreConflictError
        A store of another request lies there; the message names each difference.
    StoreExistsError
        Something that is not ours lies there, or an interrupted store and ``resume=False``.
    StoreLockedError
        A live process is writing to it.
    """
    temporary = target is None
    location = locate(tempfile.mkdtemp(prefix="devinterp-", suffix=".zarr") if target is None else target, mode="w")
    state = inspect_path(location)
    common: dict[str, Any] = {
        "root_schema": root_schema,
        "keep_state": keep_state,
        "checkpoint_every": checkpoint_every,
        "temporary": temporary,
    }
    if state is PathState.FOREIGN:
        raise StoreExistsError(
            f"Something that is not a devinterp store lies at {location.name}; it was left untouched.",
            remedy="Choose another output_path.",
        )
    if state is PathState.COMPLETE:
        compare_requests(location, requests, root, interrupted=False)
        return Run(location, requests, root, lock=None, finished=True, resumed=True, **common)
    lock = WriterLock(location, LOCK_KEY)
    try:
        state = inspect_path(location)  # again, now that nobody else can change it
        if state is PathState.COMPLETE:
            compare_requests(location, requests, root, interrupted=False)
            lock.release()
            return Run(location, requests, root, lock=None, finished=True, resumed=True, **common)
        if state is PathState.INTERRUPTED:
            compare_requests(location, requests, root, interrupted=True)
            if not resume:
                raise StoreExistsError(
                    f"An interrupted run lies at {location.name}.",
                    remedy="Leave resume=True to go on with it, or choose another output_path.",
                )
            _remove_leftovers(location)
            run = Run(location, requests, root, lock=lock, finished=False, resumed=True, **common)
            _restore_documents(run)
            return run
        return _create(location, requests, root, lock, common)
    except BaseException:
        lock.release()
        raise


def _create(
    location: Location,
    requests: Mapping[str, SamplesRequest],
    root: Mapping[str, Any] | None,
    lock: WriterLock,
    common: Mapping[str, Any],
) -> Run:
    run = Run(location, requests, root, lock=lock, finished=False, resumed=False, **common)
    shared: dict[str, GroupLayout] = {}
    layouts = {}
    for group, request in requests.items():
        # Restrictions of a study differ in their masks only: one layout, encoded once, serves them all.
        key = json.dumps(
            [dict(request.parameters), request.observables, dict(request.sizes)], sort_keys=True, default=str
        )
        layouts[group] = shared.setdefault(key, request.layout(run.schema))
    run._layouts.update(layouts)
    attributes = {g: run.attributes(g, completed=False) for g in requests}
    attributes["/"] = run.root_attributes(completed=False)
    try:
        create_groups(location, layouts, attributes, run.schema.storage)
    except OSError as error:
        run.discard()
        raise StoreError(f"The store {location.name} could not be created: {error}.") from error
    return run


def _restore_documents(run: Run) -> None:
    """Write the documents that a creation that was killed had not come to."""
    attributes = {g: run.attributes(g, completed=False) for g in run.requests}
    attributes["/"] = run.root_attributes(completed=False)
    everything = documents({g: run.layout(g) for g in run.requests}, attributes, run.schema.storage)
    present = {key for key in run.location.list_keys() if key.endswith("zarr.json")}
    missing = {key: text for key, text in everything.items() if key not in present}
    if missing:
        run.location.set_many(missing)


def _remove_leftovers(location: Location) -> None:
    """Remove what a killed writer left behind: temporary files that were never renamed."""
    if location.folder is not None:
        for path in location.folder.rglob("*.partial"):
            path.unlink(missing_ok=True)


def stored_attributes(location: Location, group: str = "/") -> dict[str, Any]:
    """Return the attributes of a group as they stand on disk."""
    document = read_group(location, group)
    return dict(document.get("attributes", {})) if document is not None else {}
