"""What a caller asks of a store: one request per samples tree, and how a worker process reopens a chain's writer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from devinterp.schema import load
from devinterp.schema.spec import GroupLayout, Schema
from devinterp.store.checkpoint import STATE_FOLDER, ChainProgress, read_checkpoint
from devinterp.store.location import Location, locate
from devinterp.store.lock import WriterLock
from devinterp.store.writer import ChainWriter, StepLayout

__all__ = ["SamplesRequest", "WriterAddress", "open_writer"]


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
class WriterAddress:
    """Everything a worker process needs to open one chain's writer; it travels by pickle."""

    target: str
    group: str
    chain: int
    request: SamplesRequest
    checkpoint_every: int | None

    def open(self) -> tuple[ChainWriter, bytes | None, WriterLock]:
        """Return the writer, the state to go on from (None at the start), and the chain's lock."""
        location = locate(self.target, mode="w")
        key = f"{STATE_FOLDER}/{self.group.strip('/')}/chain-{self.chain:04d}.lock".replace("//", "/")
        lock = WriterLock(location, key)
        try:
            writer, state = open_writer(
                location, self.group, self.chain, self.request, load("samples"), self.checkpoint_every
            )
        except BaseException:
            lock.release()
            raise
        return writer, state, lock


def open_writer(
    location: Location,
    group: str,
    chain: int,
    request: SamplesRequest,
    schema: Schema,
    checkpoint_every: int | None,
) -> tuple[ChainWriter, bytes | None]:
    """Return the writer of a chain, placed behind its last checkpoint, and that checkpoint's state."""
    saved = read_checkpoint(location, group, chain)
    start, state = (ChainProgress(), None) if saved is None else (saved[0], saved[1])
    writer = ChainWriter(
        location,
        group,
        chain,
        request.layout(schema),
        schema.storage,
        request.step_layout(),
        start=ChainProgress(draws=start.draws, steps=start.steps, step=start.step, loss=start.loss),
        checkpoint_every=checkpoint_every,
    )
    return writer, state
