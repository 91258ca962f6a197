"""What a caller asks of a store: one request per samples tree, and how a worker process reopens a chain's writer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from devinterp.schema import load
from devinterp.schema.spec import GroupLayout, Schema
from devinterp.store.checkpoint import STATE_FOLDER, ChainProgress, read_checkpoint
from devinterp.store.location import Location, locate
from devinterp.store.lock import WriterLock
from devinterp.store.writer import ChainWriter, StepLayout

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
    """

    parameters: Mapping[str, Any]
    observables: list[Mapping[str, Any]]
    sizes: Mapping[str, int]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    def layout(self, schema: Schema) -> GroupLayout:
        """Return the concrete arrays."""
        members = {"obs": {o["obs_id"]: {"batches_per_draw": o["batches_per_draw"]} for o in self.observables}}
        return schema.resolve(self.parameters, members=members, sizes=self.sizes)

    def metadata(self) -> dict[str, Any]:
        """Return ``metadata`` as it stands before any chain has run."""
        config = {**self.config, "sampler": dict(self.parameters), "observables": [dict(o) for o in self.observables]}
        return {"config": config, "provenance": dict(self.provenance), "run": {"chains": []}}

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
        sizes = {name: len(values) for name, values in self.coordinates.items()}
        layout: GroupLayout = load(self.schema).resolve({}, sizes=sizes)
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

    def open(self) -> tuple[ChainWriter, bytes | None, WriterLock]:
        """Return the writer, the state to go on from (None at the start), and the chain's lock."""
        location = locate(self.target, mode="w")
        parts = (STATE_FOLDER, self.group.strip("/"), f"chain-{self.chain:04d}.lock")
        lock = WriterLock(location, "/".join(part for part in parts if part))
        try:
            writer, state = self.open_in(location)
        except BaseException:
            lock.release()
            raise
        return writer, state, lock

    def open_in(self, location: Location) -> tuple[ChainWriter, bytes | None]:
        """Return the writer in an open location, placed behind the last checkpoint, and that checkpoint's state."""
        schema = load("samples")
        resolved = self.request.layout(schema)
        arrays = {n: replace(a, chunks=self.chunks.get(n, a.chunks)) for n, a in resolved.arrays.items()}
        saved = read_checkpoint(location, self.group, self.chain)
        start, state = (ChainProgress(), None) if saved is None else saved
        writer = ChainWriter(
            location,
            self.group,
            self.chain,
            GroupLayout(resolved.path, arrays, resolved.sizes),
            schema.storage,
            self.request.step_layout(),
            start=ChainProgress(draws=start.draws, steps=start.steps, step=start.step, loss=start.loss),
            checkpoint_every=self.checkpoint_every,
            keep_state=self.keep_state,
        )
        return writer, state
