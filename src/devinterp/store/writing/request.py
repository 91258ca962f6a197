"""What a caller asks of a store: one request per samples tree, and how a worker process reopens a chain's writer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from devinterp.schema import load
from devinterp.schema.definition.schema import Schema
from devinterp.schema.definition.spec import GroupLayout
from devinterp.steps import StepLayout
from devinterp.store.chain_checkpoints import ChainProgress, read_checkpoint, read_progress, state_key
from devinterp.store.location import Location, locate
from devinterp.store.lock import WriterLock
from devinterp.store.writing.chain_writer import ChainWriter

__all__ = ["Container", "SamplesRequest", "WriterAddress"]


@dataclass(frozen=True)
class SamplesRequest:
    """What one samples tree must become.

    Attributes
    ----------
    parameters : mapping
        Every sampler setting under its ``sample()`` argument name; written to ``metadata.config.sampler``.
    observables : list of mapping
        ``{obs_id, name, batches_per_draw}``, in the caller's order; written to ``metadata.config.observables``.
    sizes : mapping
        Sizes that no setting gives: ``token_pos``.
    provenance : mapping
        Written to ``metadata.provenance``.
    config : mapping
        Further entries of ``metadata.config``.
    optional : frozenset of str
        Variables that the schema leaves open and this run has.
    """

    parameters: Mapping[str, Any]
    observables: list[Mapping[str, Any]]
    sizes: Mapping[str, int]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()

    def layout(self, schema: Schema) -> GroupLayout:
        """Return the concrete arrays."""
        members = {"obs": {o["obs_id"]: {"batches_per_draw": o["batches_per_draw"]} for o in self.observables}}
        return schema.resolve(
            {**self.config, **self.parameters}, members=members, sizes=self.sizes, optional=self.optional
        )

    def metadata(self) -> dict[str, Any]:
        """Return ``metadata`` as it stands before any chain has run."""
        config = {**self.config, "sampler": dict(self.parameters), "observables": [dict(o) for o in self.observables]}
        return {"config": config, "provenance": dict(self.provenance), "run": {"chains": []}}

    @property
    def num_chains(self) -> int:
        """Chains that are asked for."""
        return int(self.parameters["num_chains"])

    def step_layout(self) -> StepLayout:
        """Return how draws and steps relate."""
        p = self.parameters
        return StepLayout(int(p["num_burnin_steps"]), int(p["num_steps_bw_draws"]), int(p["num_draws"]))


@dataclass(frozen=True)
class Container:
    """A group above samples groups: the root of a study or series, a checkpoint of a series.

    Attributes
    ----------
    schema : str
        Id of its schema.
    metadata : mapping
        Written to its attribute ``metadata``.
    coordinates : mapping of str to sequence
        Arrays of its root node, by name (``checkpoint``).
    grows : tuple of str
        Lists in ``metadata.config`` that a later call may append to (``restrictions``, ``checkpoints``).
    """

    schema: str
    metadata: Mapping[str, Any]
    coordinates: Mapping[str, Any] = field(default_factory=dict)
    grows: tuple[str, ...] = ("restrictions", "checkpoints")

    def layout(self) -> GroupLayout | None:
        """Return the arrays of its coordinates, or None where it has none."""
        if not self.coordinates:
            return None
        schema = load(self.schema)
        variables = schema.node("/").variables
        sizes = {variables[name].dims[0]: len(values) for name, values in self.coordinates.items()}
        layout: GroupLayout = schema.resolve({}, sizes=sizes, optional=frozenset(self.coordinates))
        return layout


@dataclass(frozen=True)
class WriterAddress:
    """Everything a worker process needs to open one chain's writer; it travels by pickle.

    Attributes
    ----------
    target : str
        Path or URL of the store.
    group : str
    chain : int
    request : SamplesRequest
    checkpoint_every : int or None
    keep_state : bool
    chunks : mapping of str to tuple of int
        Chunk shapes as they lie on disk; a store that has grown keeps those it was created with.
    """

    target: str
    group: str
    chain: int
    request: SamplesRequest
    checkpoint_every: int | None
    keep_state: bool
    chunks: Mapping[str, tuple[int, ...]]

    def open(self, *, patience: float = 0.0) -> tuple[ChainWriter, bytes | None]:
        """Return the writer and the state to go on from (None at the start); see `open_in`."""
        return self.open_in(locate(self.target, mode="w"), patience=patience)

    def open_in(self, location: Location, *, patience: float = 0.0) -> tuple[ChainWriter, bytes | None]:
        """Return the writer in an open location, placed behind the last checkpoint, and that checkpoint's state.

        The writer holds the chain's lock.

        Parameters
        ----------
        location : Location
        patience : float
            Seconds to wait for a worker of a dead coordinator, which ends after its present draw.

        Raises
        ------
        StoreLockedError
            Another process is still writing to the chain.
        StoreError
            The checkpoint is damaged.
        """
        key = state_key(self.group, self.chain, "lock")
        inner = self.group.strip("/")
        what = f"chain {self.chain} of {f'{inner} in ' if inner else ''}{location.name}"
        # The run's own lock keeps other coordinators away, so that nobody reaches for this one at the same time.
        lock = WriterLock(location, key, what=what, patience=patience, settle=False)
        try:
            return self._writer(location, lock)
        except BaseException:
            lock.release()
            raise

    def _writer(self, location: Location, lock: WriterLock) -> tuple[ChainWriter, bytes | None]:
        schema = load("samples")
        resolved = self.request.layout(schema)
        arrays = {n: replace(a, chunks=self.chunks.get(n, a.chunks)) for n, a in resolved.arrays.items()}
        saved = read_checkpoint(location, self.group, self.chain)
        start, state = (ChainProgress(), None) if saved is None else saved
        told = read_progress(location, self.group, self.chain)
        if saved is not None and told is not None:
            start = replace(start, seconds=max(start.seconds, told.seconds))
        writer = ChainWriter(
            location,
            self.group,
            self.chain,
            GroupLayout(resolved.path, arrays, resolved.sizes),
            schema.storage,
            self.request.step_layout(),
            start=replace(start, status="running", reason=None),
            checkpoint_every=self.checkpoint_every,
            keep_state=self.keep_state,
            lock=lock,
        )
        return writer, state
