"""Stores that lost chunks: find out what is lost, and mark it, so that what is left can be trusted or computed again.

A chain is a prefix: whatever was lost in it, the draws before the first lost chunk stand. Marking makes the chain a
failed one with so many draws, and puts fill where the others were. Reopening takes the whole chain back, for a
``sample()`` call with the same arguments to compute it again. Arrays that belong to no chain can be derived anew
(``n_beta``, ``draws_written``) or computed again by such a call.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import zarr

from devinterp.errors import StoreError
from devinterp.schema import load
from devinterp.schema.spec import NodeSpec
from devinterp.store.checkpoint import STATE_FOLDER, ChainProgress, read_checkpoint, state_key, write_progress
from devinterp.store.inspect import read_group
from devinterp.store.layout import group_document
from devinterp.store.location import Location, StoreLike, locate
from devinterp.store.lock import WriterLock
from devinterp.store.open import root_document
from devinterp.store.run import LOCK_KEY, remove_empty
from devinterp.store.status import RunStatus, read_status

__all__ = ["ChainLoss", "RepairPlan", "apply_repair", "plan_repair"]


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
    arrays = _arrays(plan.location, run.group, node)
    derived, recomputed = list(plan.derived), dict(plan.recomputed)
    keys = set(plan.location.list_keys(f"{run.group.strip('/')}/" if run.group != "/" else ""))
    for name, (array, prefix) in arrays.items():
        if prefix is None:
            for key, why in _lost_chunks(plan.location, array, keys, lambda _: True):
                if name in ("n_beta", "draws_written"):
                    derived += [key.split("/c")[0]] if plan.completed or name == "n_beta" else []
                elif plan.completed or why != "missing":  # an interrupted run may not have come to it yet
                    recomputed[key.split("/c")[0]] = why
    written = _draws_written(plan, run, arrays)
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


def _arrays(location: Location, group: str, node: NodeSpec) -> dict[str, tuple[zarr.Array[Any], str | None]]:
    """The group's arrays that the schema knows, with the dimension along which a chain is a prefix."""
    found: dict[str, tuple[zarr.Array[Any], str | None]] = {}
    for name in sorted(location.list_dir(group.strip("/"))):
        known = node.find(name)
        if known is not None:
            found[name] = (_open(location, group, name, "r"), known[0].prefix)
    return found


def _open(location: Location, group: str, name: str, mode: Any) -> zarr.Array[Any]:
    path = f"{group.strip('/')}/{name}".lstrip("/")
    try:
        # A chunk that equals the fill value is written too: only then does an absent one prove a loss.
        return zarr.open_array(location.store, path=path, mode=mode).with_config({"write_empty_chunks": True})
    except Exception as error:  # whatever zarr raises at a document that is no array's
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
        key = "/".join([array.path, "c", *map(str, place)])
        if key not in keys:
            yield key, "missing"
            continue
        region = tuple(slice(i * c, (i + 1) * c) for i, c in zip(place, shape, strict=True))
        try:
            array[region if region else ...]
        except Exception as error:  # whatever a codec raises means that the chunk cannot be read
            yield key, f"unreadable ({type(error).__name__})"


def _place(array: zarr.Array[Any], key: str) -> tuple[int, ...]:
    return tuple(map(int, key.removeprefix(f"{array.path}/c/").split("/")))


def _draws_written(plan: RepairPlan, run: RunStatus, arrays: Mapping[str, tuple[zarr.Array[Any], Any]]) -> list[int]:
    """How many draws each chain had: as stored, else by its state, else by where its losses end."""
    if "draws_written" in arrays:
        array = arrays["draws_written"][0]
        if plan.location.exists(f"{array.path}/c/0"):
            try:
                return [int(n) for n in np.asarray(array[...])]
            except Exception:  # unreadable: derived below
                pass
    return [run.num_draws if chain.status == "complete" else chain.draws for chain in run.chains]


def apply_repair(plan: RepairPlan, *, reopen: bool = False) -> None:
    """Do what the plan says.

    Parameters
    ----------
    plan : RepairPlan
        Of `plan_repair`, made just before.
    reopen : bool
        Take chains that lost draws back, for the same ``sample()`` call to compute them again, instead of marking them
        as failed. A run that has not completed is always treated so.

    Raises
    ------
    StoreLockedError
        A live process writes to the store.
    StoreError
        Something is lost that only sampling brings back, and ``reopen`` is false.
    """
    reopen = reopen or not plan.completed
    if plan.recomputed and not reopen:
        raise StoreError(
            f"{', '.join(plan.recomputed)} cannot be mended without sampling again.",
            remedy="Repair with reopen=True (--reopen), then call sample() again with the same arguments.",
        )
    location = locate(plan.location.url if plan.location.url is not None else plan.location.store, mode="w")
    lock = WriterLock(location, LOCK_KEY)
    try:
        document = dict(root_document(location))
        attributes = document.get("attributes", {})
        changes = bool(plan.chains or plan.recomputed or plan.derived)
        if plan.completed and changes:
            # First of all: whoever reads while we work, or after we were killed, must not take this for whole.
            location.set("zarr.json", group_document({**attributes, "completed": 0}))
        for key in plan.leftovers:
            location.delete(key)
        if reopen:
            _reopen(location, plan)
        else:
            for loss in plan.chains:
                _truncate(location, loss)
        _derive(location, plan)
        if plan.completed and not reopen and changes:
            _finish(location, plan)
    finally:
        lock.release()
        if plan.completed and not reopen and location.folder is not None:
            remove_empty(location.folder / STATE_FOLDER)  # where nothing but our lock was in it


def _truncate(location: Location, loss: ChainLoss) -> None:
    """Put fill behind the draws that stand, in every array of the chain."""
    node = load("samples").node("/")
    sampler = _metadata(location, loss.group)["config"]["sampler"]
    steps = int(sampler["num_burnin_steps"]) + loss.draws_after * int(sampler["num_steps_bw_draws"])
    for name in sorted(location.list_dir(loss.group.strip("/"))):
        known = node.find(name)
        if known is None or known[0].prefix is None:
            continue
        array = _open(location, loss.group, name, "r+")
        kept = loss.draws_after if known[0].prefix == "draw" else steps
        per_chunk = (array.shards or array.chunks)[1]
        for start in range(kept // per_chunk * per_chunk, array.shape[1], per_chunk):
            stop = min(start + per_chunk, array.shape[1])
            block = np.full((stop - start, *array.shape[2:]), array.fill_value, array.dtype)
            if start < kept:
                block[: kept - start] = array[loss.chain, start:kept]
            array[loss.chain, start:stop] = block


def _reopen(location: Location, plan: RepairPlan) -> None:
    """Leave the store as an interrupted run whose lost chains have not begun."""
    lost = {(loss.group, loss.chain): loss for loss in plan.chains}
    for run in read_status(location).runs:
        attributes = dict((read_group(location, run.group) or {}).get("attributes", {}))
        known = _completed(run) if plan.completed else run
        written = _draws_written(plan, known, _arrays(location, run.group, load("samples").node("/")))
        for chain in range(len(run.chains)):
            if (run.group, chain) in lost:
                saved = _checkpoint(location, run.group, chain)
                if saved is not None and saved.draws <= lost[run.group, chain].draws_after:
                    write_progress(location, run.group, chain, saved)
                    continue
                location.delete(state_key(run.group, chain, "state"))
                location.delete(state_key(run.group, chain, "progress"))
            elif plan.completed:
                recorded = attributes["metadata"]["run"]["chains"][chain]
                progress = ChainProgress(
                    written[chain], 0, recorded["status"], recorded.get("reason"), int(recorded.get("step") or 0)
                )
                write_progress(location, run.group, chain, progress)
        if attributes.get("completed") == 1:
            key = f"{run.group.strip('/')}/zarr.json".lstrip("/")
            location.set(key, group_document({**attributes, "completed": 0}))
    for name in plan.recomputed:
        location.delete_below(f"{name}/c")
        location.delete(f"{name}/c")  # a scalar's one chunk


def _checkpoint(location: Location, group: str, chain: int) -> ChainProgress | None:
    try:
        saved = read_checkpoint(location, group, chain)
    except StoreError:
        return None
    return None if saved is None else replace(saved[0], status="interrupted")


def _derive(location: Location, plan: RepairPlan) -> None:
    """Write ``n_beta`` from the settings; ``draws_written`` follows in `_finish`."""
    for name in plan.derived:
        if name.rsplit("/", 1)[-1] == "n_beta":
            group = name.rpartition("/")[0]
            value = float(_metadata(location, group or "/")["config"]["sampler"]["n_beta"])
            _open(location, group, "n_beta", "r+")[...] = value


def _finish(location: Location, plan: RepairPlan) -> None:
    """Write ``draws_written``, the chains' states, and last of all the root, complete and consolidated again."""
    losses: dict[str, list[ChainLoss]] = {}
    for loss in plan.chains:
        losses.setdefault(loss.group, []).append(loss)
    derived = {n.rpartition("/")[0] or "/" for n in plan.derived if n.endswith("draws_written")}
    for group in {*losses, *(f"/{g.strip('/')}" for g in derived)}:
        run = next(r for r in read_status(location).runs if r.group == group)
        arrays = _arrays(location, group, load("samples").node("/"))
        written = _draws_written(replace(plan, completed=True), _completed(run), arrays)
        attributes = (read_group(location, group) or {}).get("attributes", {})
        chains = [dict(c) for c in attributes["metadata"]["run"]["chains"]]
        sampler = attributes["metadata"]["config"]["sampler"]
        for loss in losses.get(group, []):
            written[loss.chain] = loss.draws_after
            step = int(sampler["num_burnin_steps"]) + loss.draws_after * int(sampler["num_steps_bw_draws"])
            chains[loss.chain] = {"status": "failed", "reason": loss.reason, "step": step}
        _open(location, group, "draws_written", "r+")[...] = np.asarray(written, dtype=np.int64)
        metadata = {**attributes["metadata"], "run": {**attributes["metadata"]["run"], "chains": chains}}
        completed = 0 if group == "/" else 1
        key = f"{group.strip('/')}/zarr.json".lstrip("/")
        location.set(key, group_document({**attributes, "completed": completed, "metadata": metadata}))
    consolidate(location)


def _completed(run: RunStatus) -> RunStatus:
    """The run with its chains' states from the attributes, not from progress files."""
    states = run.metadata.get("run", {}).get("chains", [])
    chains = []
    for chain, state in zip(run.chains, states, strict=True):
        step, sampler = int(state.get("step") or 0), run.metadata["config"]["sampler"]
        draws = max(
            0, min(run.num_draws, (step - int(sampler["num_burnin_steps"])) // int(sampler["num_steps_bw_draws"]))
        )
        chains.append(replace(chain, status=state.get("status", "complete"), draws=draws))
    return replace(run, chains=tuple(chains))


def consolidate(location: Location) -> None:
    """Gather the metadata of everything below the root into it, and mark it as completed, in one write."""
    root = root_document(location)
    below = {}
    for key in sorted(k for k in location.list_keys() if k.endswith("/zarr.json")):
        raw = location.get(key)
        if raw is not None:
            below[key.removesuffix("/zarr.json")] = json.loads(raw)
    location.set("zarr.json", group_document({**root.get("attributes", {}), "completed": 1}, below))


def _metadata(location: Location, group: str) -> Mapping[str, Any]:
    document = read_group(location, group) or {}
    metadata = document.get("attributes", {}).get("metadata")
    if not isinstance(metadata, Mapping):
        raise StoreError(f"The group {group!r} of {location.name} has no metadata.")
    return metadata
