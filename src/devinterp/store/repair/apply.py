"""Stores that lost chunks: mark what is lost, so that what is left can be trusted or computed again.

Marking makes a chain that lost draws a failed one with those before the loss, and puts fill where the lost chunks were,
nowhere else: what can be read stays as it is, draws behind the loss among it. Reopening takes the whole chain back, for
a ``sample()`` call with the same arguments to compute it again. Arrays that belong to no chain can be derived anew
(``n_beta``, ``draws_written``) or computed again by such a call. `undo_repair` takes a repair back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from devinterp.errors import StoreError
from devinterp.plain_json import dig
from devinterp.schema import load
from devinterp.schema.reading.keys import DOCUMENT, STATE_FOLDER, document_key, documented_node, join_key
from devinterp.store.chain_checkpoints import ChainProgress, read_checkpoint, state_key, write_progress
from devinterp.store.filesystem import remove_empty
from devinterp.store.location import Location, StoreLike, locate
from devinterp.store.lock import LOCK_KEY, WriterLock
from devinterp.store.reading.open import root_document
from devinterp.store.reading.path_state import read_group
from devinterp.store.reading.status import RunStatus, read_status
from devinterp.store.repair.record import begin_record, open_records
from devinterp.store.repair.repair_plan import ChainLoss, RepairPlan, draws_written
from devinterp.store.repair.stored_array import StoredArray, known_arrays
from devinterp.store.zarr_metadata import differs_from_ours, group_document

__all__ = ["apply_repair", "undo_repair"]


def apply_repair(plan: RepairPlan, *, reopen: bool = False) -> None:
    """Do what the plan says, and keep a record by which `undo_repair` takes it back.

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
        Something is lost that only sampling brings back, and ``reopen`` is false; or the store was written anew by
        another tool, so that sampling cannot go on in it.
    """
    reopen = reopen or not plan.completed
    if plan.recomputed and not reopen:
        raise StoreError(
            f"{', '.join(plan.recomputed)} cannot be mended without sampling again.",
            remedy="Repair with reopen=True (--reopen), then call sample() again with the same arguments.",
        )
    location = locate(plan.location.url if plan.location.url is not None else plan.location.store, mode="w")
    if not location.takes_any_key():
        raise StoreError(
            f"{location.name} cannot be repaired: it takes no key beside those of Zarr's own objects, and so neither a "
            "lock nor the record by which a repair is taken back.",
            expected="a folder, a URL, or a store of any keys (zarr's, fsspec's, obstore's)",
            remedy="Copy what is in it into a folder, key by key, and repair that.",
        )
    lock = WriterLock(location, LOCK_KEY)
    try:
        attributes = root_document(location).get("attributes", {})
        changes = bool(plan.chains or plan.recomputed or plan.derived)
        if reopen and changes:
            _refuse_foreign(location, plan)
        record = (
            begin_record(location, _touched(location, plan, reopen), plan.lines(reopen=reopen)) if changes else None
        )
        if plan.completed and changes:
            # First of all: whoever reads while we work, or after we were killed, must not take this for whole.
            location.set(DOCUMENT, group_document({**attributes, "completed": 0}))
        for key in plan.leftovers:
            location.delete(key)
        if reopen:
            _reopen(location, plan)
        else:
            _blank(location, plan)
        _derive(location, plan)
        if plan.completed and not reopen and changes:
            _finish(location, plan)
        if record is not None:
            record.finish()
    finally:
        lock.release()
        if plan.completed and not reopen and location.folder is not None:
            remove_empty(location.folder / STATE_FOLDER)  # where nothing but our lock was in it


def undo_repair(target: StoreLike) -> list[str]:
    """Take the last repair of a store back: everything that it changed is as it was before.

    Parameters
    ----------
    target : path, URL or zarr Store

    Returns
    -------
    list of str
        What the repair had done, one line each.

    Raises
    ------
    StoreError
        There is no repair to take back, or the run has gone on since.
    StoreLockedError
        A live process writes to the store.
    """
    location = locate(target, mode="w")
    root_document(location)
    lock = WriterLock(location, LOCK_KEY)
    try:
        records = open_records(location)
        if not records:
            raise StoreError(f"No repair of {location.name} can be taken back.", expected="the record of a repair")
        changed = records[-1].changed_since()
        if changed:
            raise StoreError(
                f"The repair of {location.name} can no longer be taken back: the store has changed since.",
                found=", ".join(changed[:5]),
                remedy="What has been sampled since would be lost. Restore a copy instead.",
            )
        records[-1].restore()
        return records[-1].did
    finally:
        lock.release()
        if location.folder is not None:
            remove_empty(location.folder / STATE_FOLDER)


def _touched(location: Location, plan: RepairPlan, reopen: bool) -> Iterator[str]:
    """Yield the keys of everything that the repair may change, in the order in which it does."""
    yield DOCUMENT
    node = load("samples").node("/")
    lost = {(loss.group, loss.chain) for loss in plan.chains}
    if reopen:
        for run in read_status(location).runs:
            yield document_key(run.group)
            for chain in range(len(run.chains)):
                if plan.completed or (run.group, chain) in lost:
                    yield state_key(run.group, chain, "state")
                    yield state_key(run.group, chain, "progress")
        for name in plan.recomputed:
            yield from _chunks_below(location, name)
    else:
        yield from (key for loss in plan.chains for key in loss.keys)
    groups = {loss.group for loss in plan.chains} if not reopen else set()
    for path in plan.derived:
        group, _, name = path.rpartition("/")
        groups |= {f"/{group}"} if name == "draws_written" and not reopen else set()
        stored = known_arrays(location, group, node)[name]
        yield from map(stored.key, stored.all_chunks())
    for group in groups:
        yield document_key(group)
        stored = known_arrays(location, group, node)["draws_written"]
        yield from map(stored.key, stored.all_chunks())


def _refuse_foreign(location: Location, plan: RepairPlan) -> None:
    """Refuse to give a store back to sampling that lies otherwise than sampling would write it."""
    schema = load("samples")
    for run in read_status(location).runs:
        for stored in known_arrays(location, run.group, schema.node("/")).values():
            document = read_group(location, stored.path) or {}
            found = differs_from_ours(document, stored.spec, schema.storage)
            if found is not None:
                raise StoreError(
                    f"{stored.path} in {location.name} was written anew by another tool: sampling cannot go on in it.",
                    found=found,
                    remedy="Sample into another output_path"
                    + (", or repair without reopening." if plan.completed else "."),
                )


def _blank(location: Location, plan: RepairPlan) -> None:
    """Put fill where chunks are lost, and nowhere else."""
    node = load("samples").node("/")
    lost = {loss.group: set[str]() for loss in plan.chains}
    for loss in plan.chains:
        lost[loss.group] |= set(loss.keys)
    for group, keys in lost.items():
        for stored in known_arrays(location, group, node, "r+").values():
            for key in sorted(keys & set(map(stored.key, stored.all_chunks()))):
                inside = [index for index in stored.all_chunks() if stored.key(index) == key]
                kept = stored.readable(inside) if len(inside) > 1 else {}
                location.delete(key)  # zarr would read what it is to write over
                for index in inside:
                    stored.array[stored.region(index)] = kept.get(index, _fill(stored))


def _fill(stored: StoredArray) -> Any:
    """The schema's fill, which no reader takes for a value, whatever the array's own is."""
    return stored.array.fill_value if stored.spec.fill is None else stored.spec.fill


def _reopen(location: Location, plan: RepairPlan) -> None:
    """Leave the store as an interrupted run whose lost chains have not begun."""
    lost = {(loss.group, loss.chain): loss for loss in plan.chains}
    for run in read_status(location).runs:
        attributes = dict((read_group(location, run.group) or {}).get("attributes", {}))
        known = _completed(run) if plan.completed else run
        written = draws_written(plan, known, known_arrays(location, run.group, load("samples").node("/")))
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
            location.set(document_key(run.group), group_document({**attributes, "completed": 0}))
    for name in plan.recomputed:
        for key in list(_chunks_below(location, name)):
            location.delete(key)


def _chunks_below(location: Location, array: str) -> Iterator[str]:
    yield from (key for key in sorted(location.list_keys(f"{array}/")) if documented_node(key) is None)


def _checkpoint(location: Location, group: str, chain: int) -> ChainProgress | None:
    try:
        saved = read_checkpoint(location, group, chain)
    except StoreError:
        return None
    return None if saved is None else replace(saved[0], status="interrupted")


def _derive(location: Location, plan: RepairPlan) -> None:
    """Write ``n_beta`` from the settings; ``draws_written`` follows in `_finish`."""
    for path in plan.derived:
        group, _, name = path.rpartition("/")
        if name == "n_beta":
            value = float(_metadata(location, group or "/")["config"]["sampler"]["n_beta"])
            _overwrite(location, group, name, value)


def _overwrite(location: Location, group: str, name: str, value: Any) -> None:
    """Write a small array whole, whatever lies there."""
    stored = known_arrays(location, group, load("samples").node("/"), "r+")[name]
    for index in stored.all_chunks():
        location.delete(stored.key(index))
    stored.array[...] = value


def _finish(location: Location, plan: RepairPlan) -> None:
    """Write ``draws_written``, the chains' states, and last of all the root, complete and consolidated again."""
    losses: dict[str, list[ChainLoss]] = {}
    for loss in plan.chains:
        losses.setdefault(loss.group, []).append(loss)
    derived = {n.rpartition("/")[0] or "/" for n in plan.derived if n.endswith("draws_written")}
    for group in {*losses, *(f"/{join_key(g)}" for g in derived)}:
        run = next(r for r in read_status(location).runs if r.group == group)
        arrays = known_arrays(location, group, load("samples").node("/"))
        written = draws_written(replace(plan, completed=True), _completed(run), arrays)
        attributes = (read_group(location, group) or {}).get("attributes", {})
        chains = [dict(c) for c in attributes["metadata"]["run"]["chains"]]
        for loss in losses.get(group, []):
            written[loss.chain] = loss.draws_after
            step = run.layout.steps_of(loss.draws_after)
            chains[loss.chain] = {"status": "failed", "reason": loss.reason, "step": step, "data_lost": True}
        if "draws_written" in arrays:  # devinterp 2.0 wrote none
            _overwrite(location, group, "draws_written", np.asarray(written, dtype=np.int64))
        metadata = {**attributes["metadata"], "run": {**attributes["metadata"]["run"], "chains": chains}}
        completed = 0 if group == "/" else 1
        location.set(document_key(group), group_document({**attributes, "completed": completed, "metadata": metadata}))
    consolidate(location)


def _completed(run: RunStatus) -> RunStatus:
    """The run with its chains' states from the attributes, not from progress files."""
    states = dig(run.metadata, "run.chains") or []
    chains = []
    for chain, state in zip(run.chains, states, strict=True):
        draws = run.layout.draws_taken(int(state.get("step") or 0))
        chains.append(replace(chain, status=state.get("status", "complete"), draws=draws))
    return replace(run, chains=tuple(chains))


def consolidate(location: Location) -> None:
    """Gather the metadata of everything below the root into it, and mark it as completed, in one write."""
    root = root_document(location)
    below = {}
    for key in sorted(location.list_keys()):
        node = documented_node(key)
        raw = location.get(key) if node else None
        if node and raw is not None:
            below[node] = json.loads(raw)
    location.set(DOCUMENT, group_document({**root.get("attributes", {}), "completed": 1}, below))


def _metadata(location: Location, group: str) -> Mapping[str, Any]:
    metadata = dig(read_group(location, group), "attributes.metadata")
    if not isinstance(metadata, Mapping):
        raise StoreError(f"The group {group!r} of {location.name} has no metadata.")
    return metadata
