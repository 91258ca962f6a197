"""What a store has lost: chunks that are missing or cannot be decoded, and the draws that stand before them.

A chain is a prefix: whatever was lost in it, the draws before the first lost chunk stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import zarr

from devinterp.errors import StoreError
from devinterp.schema import load
from devinterp.schema.model.spec import NodeSpec
from devinterp.schema.reading.keys import ChunkKeys, chunk_grid, join_key
from devinterp.store.location import Location, StoreLike, locate
from devinterp.store.reading.status import RunStatus, read_status
from devinterp.store.run_state import read_checkpoint, state_key

__all__ = ["ChainLoss", "RepairPlan", "draws_written", "known_arrays", "open_known", "plan_repair"]


@dataclass(frozen=True)
class ChainLoss:
    """What a chain lost.

    Attributes
    ----------
    group, chain : str, int
    draws_before, draws_after : int
        Draws it had, and draws that stand.
    status : str
        What it was: ``complete``, ``failed``, or of an interrupted run ``running`` or ``interrupted``.
    keys : mapping of str to str
        Key of each lost chunk, and ``missing`` or why it cannot be read.
    """

    group: str
    chain: int
    draws_before: int
    draws_after: int
    status: str
    keys: Mapping[str, str]

    @property
    def reason(self) -> str:
        """One line for the chain's state."""
        first, why = next(iter(self.keys.items()))
        more = f" and {len(self.keys) - 1} more" if len(self.keys) > 1 else ""
        return f"data lost: {first} {why}{more}"


@dataclass(frozen=True)
class RepairPlan:
    """What is lost in a store, before anything is changed.

    Attributes
    ----------
    location : Location
    completed : bool
        Whether the run had completed.
    chains : tuple of ChainLoss
    derived : tuple of str
        Arrays that are lost and follow from what is left.
    recomputed : mapping of str to str
        Arrays of no chain that are lost, with why: only another ``sample()`` call computes them again.
    leftovers : tuple of str
        Files that a killed writer left behind.
    """

    location: Location
    completed: bool
    chains: tuple[ChainLoss, ...] = ()
    derived: tuple[str, ...] = ()
    recomputed: Mapping[str, str] = field(default_factory=dict)
    leftovers: tuple[str, ...] = ()

    @property
    def nothing(self) -> bool:
        """Whether nothing is lost."""
        return not (self.chains or self.derived or self.recomputed or self.leftovers)

    def lines(self, *, reopen: bool = False) -> list[str]:
        """Return what is lost and what would be done about it, one line each."""
        again = reopen or not self.completed
        out = []
        for loss in self.chains:
            where = f"chain {loss.chain}" if loss.group == "/" else f"{loss.group.strip('/')}, chain {loss.chain}"
            out += [f"{where}: {key}: {why}" for key, why in loss.keys.items()]
            out.append(
                f"{where}: will be sampled again from its start"
                if again
                else f"{where}: {loss.draws_after} of {loss.draws_before} draws stand; it will be marked as failed"
            )
        out += [f"{name}: lost; follows from the rest" for name in self.derived]
        for name, why in self.recomputed.items():
            mend = "will be computed again by sample()" if again else "cannot be mended without sampling: see --reopen"
            out.append(f"{name}: {why}; {mend}")
        return out + [f"{key}: left behind by a writer that was killed; will be removed" for key in self.leftovers]


def plan_repair(target: StoreLike) -> RepairPlan:
    """Look for what is lost: every chunk is read; nothing is changed.

    Parameters
    ----------
    target : path, URL or zarr Store

    Returns
    -------
    RepairPlan

    Raises
    ------
    StoreError
        The store holds no run that `devinterp` wrote, or its metadata are damaged.
    """
    location = locate(target)
    status = read_status(location)
    if not status.runs or status.schema is None:
        raise StoreError(
            f"There is no run to repair in {location.name}.",
            expected="a store that sample() or sample_restrictions() wrote",
            remedy="Results of an analysis are computed again instead.",
        )
    leftovers = tuple(sorted(k for k in location.list_keys() if k.endswith(".partial")))
    plan = RepairPlan(location, status.completed, leftovers=leftovers)
    for run in status.runs:
        plan = _look(plan, run)
    return plan


def _look(plan: RepairPlan, run: RunStatus) -> RepairPlan:
    node = load("samples").node("/")
    sampler = run.metadata["config"]["sampler"]
    burnin, between = int(sampler["num_burnin_steps"]), int(sampler["num_steps_bw_draws"])
    arrays = known_arrays(plan.location, run.group, node)
    derived, recomputed = list(plan.derived), dict(plan.recomputed)
    keys = set(plan.location.list_keys(f"{run.group.strip('/')}/" if run.group != "/" else ""))
    for name, (array, prefix) in arrays.items():
        if prefix is None:
            for _, why in _lost_chunks(plan.location, array, keys, lambda _: True):
                if name in ("n_beta", "draws_written"):
                    derived += [array.path] if plan.completed or name == "n_beta" else []
                elif plan.completed or why != "missing":  # an interrupted run may not have come to it yet
                    recomputed[array.path] = why
    written = draws_written(plan, run, arrays)
    losses = list(plan.chains)
    for chain, state in enumerate(run.chains):
        draws = written[chain] if plan.completed else state.draws
        steps = burnin + draws * between if plan.completed else state.steps
        lost: dict[str, str] = {}
        after = draws
        for array, prefix in arrays.values():
            if prefix is None or array.shape[0] <= chain:
                continue
            rows = draws if prefix == "draw" else min(steps, array.shape[1])
            per_chunk = (array.shards or array.chunks)[1]

            def wanted(
                place: tuple[int, ...], chain: int = chain, rows: int = rows, per_chunk: int = per_chunk
            ) -> bool:
                return place[0] == chain and place[1] * per_chunk < rows

            for key, why in _lost_chunks(plan.location, array, keys, wanted):
                lost[key] = why
                first = _place(array, key)[1] * per_chunk
                after = min(after, first if prefix == "draw" else max(0, (first - burnin) // between))
        if not plan.completed and _damaged_checkpoint(plan.location, run.group, chain):
            lost[state_key(run.group, chain, "state")] = "damaged"
            after = 0
        if lost:
            losses.append(ChainLoss(run.group, chain, draws, after, state.status, lost))
    return replace(plan, chains=tuple(losses), derived=tuple(derived), recomputed=recomputed)


def _damaged_checkpoint(location: Location, group: str, chain: int) -> bool:
    try:
        read_checkpoint(location, group, chain)
    except StoreError:
        return True
    return False


def known_arrays(location: Location, group: str, node: NodeSpec) -> dict[str, tuple[zarr.Array[Any], str | None]]:
    """The group's arrays that the schema knows, with the dimension along which a chain is a prefix."""
    found: dict[str, tuple[zarr.Array[Any], str | None]] = {}
    for name in sorted(location.list_dir(group.strip("/"))):
        known = node.find(name)
        if known is not None:
            found[name] = (open_known(location, group, name, "r"), known[0].prefix)
    return found


def open_known(location: Location, group: str, name: str, mode: Any) -> zarr.Array[Any]:
    """Open one of the arrays that the schema knows; metadata that cannot be read are a `StoreError`."""
    path = f"{group.strip('/')}/{name}".lstrip("/")
    try:
        # A chunk that equals the fill value is written too: only then does an absent one prove a loss.
        return zarr.open_array(location.store, path=path, mode=mode).with_config({"write_empty_chunks": True})
    except Exception as error:  # whatever zarr raises at a document that is not an array's
        raise StoreError(
            f"The metadata of {path} in {location.name} cannot be read: {error}.",
            expected="a zarr.json as it was written",
            remedy="Copy the store again, or take that file from a store of the same settings.",
        ) from error


def _lost_chunks(
    location: Location,
    array: zarr.Array[Any],
    keys: set[str],
    wanted: Callable[[tuple[int, ...]], bool],
) -> Iterator[tuple[str, str]]:
    """Yield the key of every wanted chunk that is missing or cannot be decoded, and which."""
    shape = array.shards or array.chunks
    for place in np.ndindex(*(-(-n // max(c, 1)) for n, c in zip(array.shape, shape, strict=True))):
        if not wanted(place):
            continue
        key = join_key(array.path, _chunk_keys(array).name(place))
        if key not in keys:
            yield key, "missing"
            continue
        region = tuple(slice(i * c, (i + 1) * c) for i, c in zip(place, shape, strict=True))
        try:
            array[region if region else ...]
        except Exception as error:  # whatever a codec raises means that the chunk cannot be read
            yield key, f"unreadable ({type(error).__name__})"


def _place(array: zarr.Array[Any], key: str) -> tuple[int, ...]:
    found = _chunk_keys(array).index(key.removeprefix(f"{array.path}/"), chunk_grid(array.shape, _chunks(array)))
    assert found is not None
    return found


def _chunks(array: zarr.Array[Any]) -> tuple[int, ...]:
    return array.shards or array.chunks


def _chunk_keys(array: zarr.Array[Any]) -> ChunkKeys:
    return ChunkKeys.parse(array.metadata.to_dict()["chunk_key_encoding"])


def draws_written(plan: RepairPlan, run: RunStatus, arrays: Mapping[str, tuple[zarr.Array[Any], Any]]) -> list[int]:
    """How many draws each chain had: as stored, else by its state, else by where its losses end."""
    if "draws_written" in arrays:
        array = arrays["draws_written"][0]
        if plan.location.exists(join_key(array.path, _chunk_keys(array).name((0,)))):
            try:
                return [int(n) for n in np.asarray(array[...])]
            except Exception:  # unreadable: derived below
                pass
    return [run.num_draws if chain.status == "complete" else chain.draws for chain in run.chains]
