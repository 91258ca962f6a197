"""The coordinator of a sampling run's store: the one writer of attributes.

A `Run` comes from `devinterp.store.writing.open_run.open_run`. It knows which chains remain, hands out their writers,
keeps ``draws_written`` and the chains' states current, and completes the store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devinterp.errors import StoreError
from devinterp.plain_json import dig
from devinterp.schema import load
from devinterp.schema.definition.spec import ArrayLayout, GroupLayout
from devinterp.schema.reading.keys import DOCUMENT, STATE_FOLDER, ChunkKeys, document_key, join_key
from devinterp.store.chain_checkpoints import ChainProgress, read_progress
from devinterp.store.filesystem import remove_empty
from devinterp.store.location import Location
from devinterp.store.lock import LOCK_KEY, WriterLock, one_error
from devinterp.store.reading.path_state import read_group
from devinterp.store.writing.chain_writer import ChainWriter
from devinterp.store.writing.request import Container, SamplesRequest, WriterAddress
from devinterp.store.zarr_metadata import beside, documents, group_document, open_array, write_consolidated_root

__all__ = ["Run", "remove_states"]

_ENVIRONMENTS_KEY = f"{STATE_FOLDER}/environments"


class Run:
    """A store that is being written; use as a context manager, so that the lock is given back in every exit.

    Parameters
    ----------
    location : Location
    requests : mapping of str to SamplesRequest
        By group path; ``{"/": request}`` for a samples store.
    containers : mapping of str to Container
        The groups above them (a study's root); empty for a samples store.
    finished : bool
        Whether the store was complete already; then there is nothing to do and no lock.
    """

    def __init__(
        self,
        location: Location,
        requests: Mapping[str, SamplesRequest],
        containers: Mapping[str, Container],
        *,
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
        self.whole: Run = self  # of a part: the run that it was taken from
        self.schema = load("samples")
        self.containers = dict(containers)
        self._lock = lock
        self._keep_state = keep_state
        self._checkpoint_every = checkpoint_every
        self._layouts: dict[str, GroupLayout] = {}  # by group; a grown store keeps the chunks it was created with
        self._progress: dict[tuple[str, int], ChainProgress] = {}
        self._facts: dict[str, dict[str, Any]] = {}
        self._published: dict[str, list[int]] = {}
        self.kept_attributes: dict[str, Mapping[str, Any]] = {}  # by group: what others wrote beside ours
        self.kept_documents: dict[str, bytes] = {}
        self.environments: list[dict[str, Any]] = []
        if not finished:
            self.environments = self._read_environments() if resumed else []
            self.refresh()

    def layout(self, group: str = "/") -> GroupLayout:
        """Return the arrays of a samples group."""
        if group not in self._layouts:
            self._layouts[group] = self.requests[group].layout(self.schema)
        return self._layouts[group]

    @property
    def chains(self) -> list[tuple[str, int]]:
        """Every (group, chain) of the run."""
        return [(g, c) for g, r in self.requests.items() for c in range(r.num_chains)]

    def remaining(self) -> list[tuple[str, int]]:
        """(group, chain) pairs that have not reached their end."""
        if self.finished:
            return []
        return [key for key in self.chains if self.progress(*key).status not in ("complete", "failed")]

    def progress(self, group: str, chain: int) -> ChainProgress:
        """How far a chain had come at the last `refresh`."""
        return self._progress.get((group, chain), ChainProgress())

    def write_array(self, group: str, name: str, values: NDArray[Any] | Sequence[str] | float) -> None:
        """Write one whole array that belongs to no chain (``init_loss``, ``input_ids_{obs}``, ``n_beta`` ...)."""
        layout = self.layout(group).arrays[name]
        block = np.asarray(values, dtype=np.dtypes.StringDType() if layout.dtype == "string" else layout.dtype)
        if block.shape != layout.shape:
            raise StoreError(f"{name!r} does not fit the store.", expected=layout.shape, found=block.shape)
        with self._writing():
            open_array(self.location, f"{group}/{name}", layout, self.schema.storage)[...] = block

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Write only into a store that is still ours, and name it where it cannot be written."""
        with one_error(f"{self.location.name} could not be written"):
            self.confirm()
            yield

    def confirm(self) -> None:
        """See that the store is still there, and still this run's.

        Raises
        ------
        StoreError
            It was removed underneath, or another process has taken it over.
        """
        if self._lock is not None:
            self._lock.confirm()

    @property
    def token(self) -> str | None:
        """What names this run in its lock, for workers that must end when it does."""
        return None if self._lock is None else self._lock.token

    def unwritten(self, group: str) -> list[str]:
        """Names of arrays of a group that belong to no chain and are not written: their one chunk is not there."""
        alone = [a for a in self.layout(group).arrays.values() if a.spec.prefix is None and a.name != "draws_written"]
        keys = {a.name: join_key(group, a.name, ChunkKeys().name((0,) * len(a.shape))) for a in alone}
        return [name for name, key in keys.items() if not self.location.exists(key)]

    def writer(self, group: str, chain: int, *, patience: float = 0.0) -> tuple[ChainWriter, bytes | None]:
        """Return a chain's writer and the state to go on from (None at the start); see `WriterAddress.open_in`."""
        return self._address(group, chain, self.location.url or "").open_in(self.location, patience=patience)

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
        return self._address(group, chain, self.location.url)

    def _address(self, group: str, chain: int, url: str) -> WriterAddress:
        chunks = {name: a.chunks for name, a in self.layout(group).arrays.items()}
        return WriterAddress(url, group, chain, self.requests[group], self._checkpoint_every, self._keep_state, chunks)

    def record(self, group: str, chain: int, progress: ChainProgress) -> None:
        """Take note of a chain's progress (sequential runs hand it over, parallel ones are polled)."""
        self._progress[group, chain] = progress

    def part(self, groups: Iterable[str]) -> Run:
        """Return a view of this run that knows only some of its groups; progress, facts and lock are shared.

        The view neither completes the store nor is it closed: that stays with the whole run.
        """
        part = copy(self)
        part.requests = {group: self.requests[group] for group in groups}
        part.containers = {}
        return part

    def refresh(self, chains: Iterable[tuple[str, int]] | None = None) -> dict[tuple[str, int], ChainProgress]:
        """Read the progress of chains from the store; by default of every one."""
        for group, chain in self.chains if chains is None else chains:
            if self.progress(group, chain).status in ("complete", "failed"):
                continue
            found = read_progress(self.location, group, chain)
            if found is not None:
                self._progress[group, chain] = found
        return dict(self._progress)

    @property
    def nothing_done_yet(self) -> bool:
        """Whether no chain of the store has anything yet that would have to be computed again."""
        return not any(p.steps or p.status in ("complete", "failed") for p in self._progress.values())

    def record_environment(self, environment: Mapping[str, Any]) -> None:
        """Record where the chains are sampled from here on: on disk at once, and in ``metadata.run.environments``."""
        if self.nothing_done_yet:
            self.environments.clear()
        self.environments.append(dict(environment))
        self.write_state(_ENVIRONMENTS_KEY, json.dumps(self.environments).encode())

    def _read_environments(self) -> list[dict[str, Any]]:
        raw = self.location.get(_ENVIRONMENTS_KEY)
        if raw is not None:
            return list(json.loads(raw))
        for group in self.requests:
            found = dig(read_group(self.location, group), "attributes.metadata.run.environments")
            if found:
                return list(found)
        return []

    def write_state(self, key: str, value: bytes) -> None:
        """Write a file of the run's own, below the state folder."""
        with self._writing():
            self.location.set(key, value)

    def use_layout(self, group: str, layout: GroupLayout) -> None:
        """Use ``layout`` for a group: shared between restrictions, or with the chunks that lie on disk."""
        self._layouts[group] = layout

    def add_facts(self, group: str, facts: Mapping[str, Any]) -> None:
        """Add facts to ``metadata.run`` of a group (start, end, device); written with the attributes."""
        self._facts.setdefault(group, {}).update(facts)

    def note_seconds(self) -> None:
        """Add how long each chain took, over all processes that took it up, to the facts of its group."""
        for group, request in self.requests.items():
            times = [self.progress(group, c).seconds or None for c in range(request.num_chains)]
            self.add_facts(group, {"seconds": times})

    def publish(self, *, completed: bool = False, groups: list[str] | None = None) -> None:
        """Write ``draws_written`` and the attributes, as far as the chains have come."""
        for group in groups if groups is not None else list(self.requests):
            self._published.pop(group, None)
            self.publish_draws(group)
            with self._writing():
                self.location.set(document_key(group), group_document(self.attributes(group, completed=completed)))

    def publish_draws(self, group: str) -> None:
        """Write ``draws_written`` where it has changed: what whoever reads the store meanwhile may rely on."""
        draws = [self.progress(group, c).draws for c in range(self.requests[group].num_chains)]
        if self._published.get(group) != draws:
            self.write_array(group, "draws_written", np.array(draws))
            self._published[group] = draws

    def attributes(self, group: str, *, completed: bool) -> dict[str, Any]:
        """Return the attributes of a samples group as they should stand now."""
        request = self.requests[group]
        metadata = request.metadata()
        metadata["run"] = {
            **self._facts.get(group, {}),
            **({"environments": [dict(e) for e in self.environments]} if self.environments else {}),
            "chains": [_state(self.progress(group, c)) for c in range(request.num_chains)],
        }
        ours = {"devinterp_schema": self.schema.id, "completed": int(completed), "metadata": metadata}
        ours |= _coordinates(self.layout(group).arrays)
        return beside(self.kept_attributes.get(group, {}), ours)

    def all_attributes(self, *, completed: bool) -> dict[str, dict[str, Any]]:
        """Return the attributes of every group, containers included, as they should stand now."""
        found = {g: self.attributes(g, completed=completed) for g in self.requests}
        for path, container in self.containers.items():
            ours = {"devinterp_schema": container.schema, "completed": int(completed), "metadata": container.metadata}
            found[path] = beside(self.kept_attributes.get(path, {}), ours)
            found[path] |= _coordinates(dict(_arrays(container)))
        return found

    def all_layouts(self) -> dict[str, GroupLayout]:
        """Return the layout of every group that has arrays, containers' coordinates included."""
        above = {path: layout for path, c in self.containers.items() if (layout := c.layout()) is not None}
        return {**above, **{g: self.layout(g) for g in self.requests}}

    def write_coordinates(self) -> None:
        """Write the coordinates that stand on containers (``checkpoint``)."""
        for path, container in self.containers.items():
            layout = container.layout()
            if layout is None:
                continue
            for name, values in container.coordinates.items():
                array = open_array(self.location, f"{path}/{name}", layout.arrays[name], self.schema.storage)
                array[...] = np.asarray(values, dtype=layout.arrays[name].dtype)

    def _complete(self, validate: Callable[[Location], None] | None) -> None:
        children = [g for g in self.requests if g != "/"]
        self.publish(completed=False)
        self._write_containers(completed=False)  # what has grown lists more than it did
        if validate is not None:
            validate(self.location)
        for group in children:
            self.publish(completed=True, groups=[group])
        attributes = self.all_attributes(completed=True)
        self._write_containers(completed=True)
        everything = documents(self.all_layouts(), attributes, self.schema.storage)
        if self.resumed:  # arrays may say more than we wrote there
            everything = {key: self.location.get(key) or text for key, text in everything.items()}
        write_consolidated_root(self.location, attributes["/"], {**everything, **self.kept_documents})

    def _write_containers(self, *, completed: bool) -> None:
        """Write the attributes of the groups above samples groups; the root is completed by another write, the last."""
        attributes = self.all_attributes(completed=completed)
        for path in self.containers:
            if not (completed and path == "/"):
                self.location.set(document_key(path), group_document(attributes[path]))

    def complete(self, validate: Callable[[Location], None] | None = None) -> None:
        """Write everything that is still open, validate, then set ``completed`` and consolidate in one write.

        Parameters
        ----------
        validate : callable, optional
            Called with the location before ``completed`` is set; it raises where the store breaks its schema.
        """
        with self._writing():
            self._complete(validate)
            self.location.fsync([DOCUMENT])
            if not self._keep_state:
                remove_states(self.location)
        self.finished = True

    def close(self) -> None:
        """Give the lock back; remove the state folder where nothing is left in it."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        folder = self.location.folder
        if folder is not None and self.finished and not self._keep_state:
            remove_empty(folder / STATE_FOLDER)

    def discard(self) -> None:
        """Remove a store that holds nothing yet (it could not be created), and give the lock back."""
        if self.resumed or self.finished:
            return
        # The lock stays until the rest is gone: whoever gets it next must not lose what it creates.
        for key in list(self.location.list_keys()):
            if key != LOCK_KEY:
                self.location.delete(key)
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        if self.location.folder is not None:
            remove_empty(self.location.folder)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _coordinates(arrays: Mapping[str, ArrayLayout]) -> dict[str, str]:
    """Return how xarray knows coordinates again that are not indexes: the group names them."""
    alone = sorted(n for n, array in arrays.items() if array.spec.role == "coordinate" and array.dims != (n,))
    return {"coordinates": " ".join(alone)} if alone else {}


def _arrays(container: Container) -> list[tuple[str, ArrayLayout]]:
    layout = container.layout()
    return [] if layout is None else list(layout.arrays.items())


def _state(progress: ChainProgress) -> dict[str, Any]:
    # A chain that is still running would read as interrupted if its process died now, and so it is written.
    status = "interrupted" if progress.status == "running" else progress.status
    return {"status": status, "reason": progress.reason, "step": progress.step}


def remove_states(location: Location) -> None:
    """Remove what chains could go on from; the store can then be given no further draws."""
    for key in list(location.list_keys(f"{STATE_FOLDER}/")):
        if key != LOCK_KEY:
            location.delete(key)
