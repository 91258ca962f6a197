"""How far the runs in a store have come, from small reads: attributes, progress files, names of chunks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from devinterp.errors import StoreError
from devinterp.plain_json import dig, in_order
from devinterp.schema.checks.recognise import has_completed
from devinterp.schema.reading.keys import DOCUMENT, ChunkKeys, join_key
from devinterp.schema.reading.store_tree import gathered_documents
from devinterp.steps import StepLayout
from devinterp.store.chain_checkpoints import read_progress
from devinterp.store.location import Location
from devinterp.store.lock import LOCK_KEY
from devinterp.store.lock_holder import live_holder
from devinterp.store.reading.open import root_document
from devinterp.store.reading.path_state import read_group

__all__ = ["ChainStatus", "RunStatus", "StoreStatus", "read_status"]

_MOST_DEPTH = 4


@dataclass(frozen=True)
class ChainStatus:
    """One chain.

    Attributes
    ----------
    draws, steps : int
        Draws and steps that are on disk (at least so many: chunks are written when they are full).
    status : str
        ``waiting``, ``running``, ``complete``, ``failed`` or ``interrupted``.
    reason : str or None
        Why it failed or was interrupted.
    loss : float or None
        Mean loss of its last recorded draw (nat), where that is known.
    """

    draws: int
    steps: int
    status: str
    reason: str | None = None
    loss: float | None = None


@dataclass(frozen=True)
class RunStatus:
    """One samples group.

    Attributes
    ----------
    group : str
        Its path, ``"/"`` for a store of its own.
    metadata : mapping
        Its attribute ``metadata``.
    chains : tuple of ChainStatus
    """

    group: str
    metadata: Mapping[str, Any]
    chains: tuple[ChainStatus, ...]

    @property
    def num_draws(self) -> int:
        """Draws of every chain, when it is done."""
        return self.layout.draws

    @property
    def num_steps(self) -> int:
        """Steps of every chain, when it is done."""
        return self.layout.num_steps

    @property
    def layout(self) -> StepLayout:
        """How the draws of a chain lie among its steps."""
        sampler = self.metadata["config"]["sampler"]
        return StepLayout.of(sampler) or StepLayout(0, 1, _whole(sampler.get("num_draws")))

    @property
    def done(self) -> float:
        """Share of the steps that are done, from 0 to 1; a chain that failed is done."""
        ended = [1.0 if c.status in ("complete", "failed") else c.steps / max(self.num_steps, 1) for c in self.chains]
        return sum(ended) / len(ended) if ended else 0.0


@dataclass(frozen=True)
class StoreStatus:
    """A store at one moment.

    Attributes
    ----------
    name : str
        Its path or URL.
    schema : str or None
        What the root says that it is.
    completed : bool
        Whether its run has ended and was validated.
    writer : str or None
        The live process that writes to it, where there is one.
    runs : tuple of RunStatus
        Its samples groups, in the order that the store records.
    attributes : mapping
        The root's.
    """

    name: str
    schema: str | None
    completed: bool
    writer: str | None
    runs: tuple[RunStatus, ...]
    attributes: Mapping[str, Any]

    @property
    def saved(self) -> str | None:
        """What frozen prefixes left out of the runs' forward passes, in words; None where runs do not tell."""
        facts = [found for run in self.runs if isinstance(found := dig(run.metadata, "run.frozen_prefix"), Mapping)]
        passes = sum(int(each.get("passes", 0)) for each in facts)
        if not passes:
            return None
        reused = sum(int(each.get("reused", 0)) for each in facts)
        share = sum(int(each.get("reused", 0)) * float(each.get("share", 0.0)) for each in facts) / passes
        if reused:
            return (
                f"{reused:,} of {passes:,} forward passes began behind a frozen prefix: {share:.0%} of their arithmetic"
            )
        reasons = sorted({str(each["reason"]) for each in facts if "reason" in each})
        return f"none of {passes:,} forward passes began behind a frozen prefix: {'; '.join(reasons)}"


def read_status(location: Location) -> StoreStatus:
    """Read how far a store has come; nothing is written, no loss is read.

    Raises
    ------
    StoreNotFoundError
        There is no store.
    StoreError
        It cannot be read as a Zarr v3 group.
    """
    document = root_document(location)
    attributes = document.get("attributes", {})
    if not isinstance(attributes, Mapping):
        raise StoreError(f"The attributes of {location.name} are not a JSON object.", found=type(attributes).__name__)
    schema = attributes.get("devinterp_schema")
    completed = has_completed(attributes)
    runs = tuple(
        _run(location, group, found.get("attributes", {}), completed=completed)
        for group, found in _samples_groups(location, document)
    )
    return StoreStatus(
        location.name,
        schema if isinstance(schema, str) else None,
        completed,
        None if completed else live_holder(location, LOCK_KEY),
        runs,
        attributes,
    )


def _samples_groups(
    location: Location, document: Mapping[str, Any], path: str = "", depth: int = 0
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the groups that hold a run, by path, with their documents."""
    config = dig(document, "attributes.metadata.config")
    if isinstance(dig(config, "sampler"), Mapping):
        yield path or "/", document
        return
    if depth == _MOST_DEPTH:
        return
    below = gathered_documents(document) if not path else None
    names: list[str]
    if below is not None:
        names = [key for key, child in below.items() if "/" not in key and child.get("node_type") == "group"]
    else:
        names = [n for n in location.list_dir(path.strip("/")) if not n.startswith(".") and n != DOCUMENT]
    names.sort(key=lambda n: (not n.isdecimal(), int(n) if n.isdecimal() else 0, n))  # checkpoints by training step
    listed = dig(config, "restrictions") or dig(config, "cells")
    for name in in_order(names, listed):
        child = below.get(name) if below is not None else read_group(location, f"{path}/{name}")
        if not isinstance(child, Mapping) or child.get("node_type") != "group":
            continue
        if below is not None:
            prefix = f"{name}/"
            inner = {k.removeprefix(prefix): v for k, v in below.items() if k.startswith(prefix)}
            child = {**child, "consolidated_metadata": {"metadata": inner}}
            if not isinstance(dig(child, "attributes.metadata.config.sampler"), Mapping):
                child = read_group(location, f"{path}/{name}") or child
        yield from _samples_groups(location, child, f"{path}/{name}", depth + 1)


def _run(location: Location, group: str, attributes: Mapping[str, Any], *, completed: bool) -> RunStatus:
    metadata = attributes.get("metadata", {})
    sampler = metadata["config"]["sampler"]
    run = RunStatus(group, metadata, ())
    count, draws, total = _whole(sampler.get("num_chains")), run.num_draws, run.num_steps
    recorded = dig(metadata, "run.chains")
    states = recorded if isinstance(recorded, list) else []
    chains = []
    for chain in range(min(count, 100_000)):
        state = states[chain] if chain < len(states) and isinstance(states[chain], Mapping) else {}
        if completed and attributes.get("completed", 1) == 1:
            status = str(state.get("status", "complete"))
            step = total if status == "complete" else _whole(state.get("step"))
            written = draws if status == "complete" else run.layout.draws_taken(step)
            chains.append(ChainStatus(written, step, status, state.get("reason")))
            continue
        progress = read_progress(location, group, chain)
        if progress is None:
            chains.append(ChainStatus(0, 0, "waiting"))
            continue
        steps = progress.steps
        if progress.status == "running":
            steps = max(steps, _steps_on_disk(location, group, chain, steps, total))
        chains.append(ChainStatus(progress.draws, steps, progress.status, progress.reason, progress.loss))
    return replace(run, chains=tuple(chains))


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


def _steps_on_disk(location: Location, group: str, chain: int, known: int, total: int) -> int:
    """Count the full chunks of ``step_loss`` past what the last checkpoint knows."""
    path = join_key(group, "step_loss")
    document = read_group(location, path)
    shape = dig(document, "chunk_grid.configuration.chunk_shape")
    try:
        keys = ChunkKeys.parse(dig(document, "chunk_key_encoding"))
    except ValueError:
        return known
    if not isinstance(shape, list) or len(shape) != 2 or not all(isinstance(n, int) and n >= 1 for n in shape):
        return known
    index = known // shape[1]
    while index * shape[1] < total and location.exists(join_key(path, keys.name((chain // shape[0], index)))):
        index += 1
    # The last chunk that is there may hold fewer steps than it has room for: it was flushed by a checkpoint.
    return max(known, (index - 1) * shape[1]) if index else known
