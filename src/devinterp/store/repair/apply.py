"""Stores that lost chunks: mark what is lost, so that what is left can be trusted or computed again.

Marking makes a chain that lost draws a failed one with those before the loss, and puts fill where the others were.
Reopening takes the whole chain back, for a ``sample()`` call with the same arguments to compute it again. Arrays that
belong to no chain can be derived anew (``n_beta``, ``draws_written``) or computed again by such a call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from devinterp.errors import StoreError
from devinterp.schema import load
from devinterp.schema.reading.keys import DOCUMENT, STATE_FOLDER, document_key, documented_node
from devinterp.store.filesystem import remove_empty
from devinterp.store.location import Location, locate
from devinterp.store.lock import WriterLock
from devinterp.store.metadata import group_document
from devinterp.store.reading.open import root_document
from devinterp.store.reading.path_state import read_group
from devinterp.store.reading.status import RunStatus, read_status
from devinterp.store.repair.plan import ChainLoss, RepairPlan, draws_written, known_arrays, open_known
from devinterp.store.run_state import LOCK_KEY, ChainProgress, read_checkpoint, state_key, write_progress

__all__ = ["apply_repair"]


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
            location.set(DOCUMENT, group_document({**attributes, "completed": 0}))
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
        array = open_known(location, loss.group, name, "r+")
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
        for key in list(location.list_keys(f"{name}/")):
            if documented_node(key) is None:
                location.delete(key)


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
            open_known(location, group, "n_beta", "r+")[...] = value


def _finish(location: Location, plan: RepairPlan) -> None:
    """Write ``draws_written``, the chains' states, and last of all the root, complete and consolidated again."""
    losses: dict[str, list[ChainLoss]] = {}
    for loss in plan.chains:
        losses.setdefault(loss.group, []).append(loss)
    derived = {n.rpartition("/")[0] or "/" for n in plan.derived if n.endswith("draws_written")}
    for group in {*losses, *(f"/{g.strip('/')}" for g in derived)}:
        run = next(r for r in read_status(location).runs if r.group == group)
        arrays = known_arrays(location, group, load("samples").node("/"))
        written = draws_written(replace(plan, completed=True), _completed(run), arrays)
        attributes = (read_group(location, group) or {}).get("attributes", {})
        chains = [dict(c) for c in attributes["metadata"]["run"]["chains"]]
        sampler = attributes["metadata"]["config"]["sampler"]
        for loss in losses.get(group, []):
            written[loss.chain] = loss.draws_after
            step = int(sampler["num_burnin_steps"]) + loss.draws_after * int(sampler["num_steps_bw_draws"])
            chains[loss.chain] = {"status": "failed", "reason": loss.reason, "step": step}
        open_known(location, group, "draws_written", "r+")[...] = np.asarray(written, dtype=np.int64)
        metadata = {**attributes["metadata"], "run": {**attributes["metadata"]["run"], "chains": chains}}
        completed = 0 if group == "/" else 1
        location.set(document_key(group), group_document({**attributes, "completed": completed, "metadata": metadata}))
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
    for key in sorted(location.list_keys()):
        node = documented_node(key)
        raw = location.get(key) if node else None
        if node and raw is not None:
            below[node] = json.loads(raw)
    location.set(DOCUMENT, group_document({**root.get("attributes", {}), "completed": 1}, below))


def _metadata(location: Location, group: str) -> Mapping[str, Any]:
    document = read_group(location, group) or {}
    metadata = document.get("attributes", {}).get("metadata")
    if not isinstance(metadata, Mapping):
        raise StoreError(f"The group {group!r} of {location.name} has no metadata.")
    return metadata
