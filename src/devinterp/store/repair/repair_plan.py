"""What a store has lost: chunks that are missing or cannot be decoded, and the draws that stand before them.

A chain is a prefix: whatever was lost in it, the draws before the first lost chunk stand. Only what is proved counts as
lost: where chunks lie is taken from each array's own metadata, and a chunk that is absent is a loss only where what
reads in its place, the array's fill value, cannot be what was written. (Zarr's own default leaves chunks out that hold
nothing but fill.) Of a shard, each chunk inside it is looked at for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from devinterp.errors import SchemaError, StoreError
from devinterp.plain_json import dig
from devinterp.schema import load
from devinterp.schema.reading.access import refuse_links_out
from devinterp.schema.reading.keys import is_leftover, join_key
from devinterp.schema.reading.store_tree import gathered_documents, same_document
from devinterp.store.chain_checkpoints import read_checkpoint, state_key
from devinterp.store.location import Location, StoreLike, locate
from devinterp.store.reading.open import root_document
from devinterp.store.reading.path_state import read_group
from devinterp.store.reading.status import RunStatus, StoreStatus, read_status
from devinterp.store.repair.record import open_records
from devinterp.store.repair.stored_array import StoredArray, known_arrays

__all__ = ["ChainLoss", "RepairPlan", "draws_written", "plan_repair"]


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
    others : mapping of str to str
        Keys of lost chunks of an extension's own arrays, with why: what wrote these must write them again.
    """

    location: Location
    completed: bool
    chains: tuple[ChainLoss, ...] = ()
    derived: tuple[str, ...] = ()
    recomputed: Mapping[str, str] = field(default_factory=dict)
    leftovers: tuple[str, ...] = ()
    others: Mapping[str, str] = field(default_factory=dict)

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to mend here."""
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
        out += [
            f"{key}: {why}; what wrote this array beside the run must write it again"
            for key, why in self.others.items()
        ]
        return out + [f"{key}: left behind by a writer that was killed; will be removed" for key in self.leftovers]


def plan_repair(target: StoreLike, *, follow_links: bool = False) -> RepairPlan:
    """Look for what is lost: every chunk is read; nothing is changed.

    Parameters
    ----------
    target : path, URL or zarr Store
    follow_links : bool
        Whether symbolic links may lead out of the store's folder; what a repair writes replaces a link and not what it
        leads to.

    Returns
    -------
    RepairPlan

    Raises
    ------
    StoreError
        The store holds no run that `devinterp` wrote, or a part of one, its metadata are damaged, it cannot be read, or
        a repair of it was killed; or a symbolic link leads out of it.
    """
    location = locate(target)
    if not follow_links:
        refuse_links_out(location.folder)
    status = read_status(location)
    if not status.runs or status.schema is None:
        raise StoreError(
            f"There is no run to repair in {location.name}.",
            expected="a store that sample() or sample_restrictions() wrote",
            remedy="Results of an analysis are computed again instead.",
        )
    parts = [run.group for run in status.runs if dig(run.metadata, "selection") is not None]
    if parts:
        raise StoreError(
            f"{location.name} holds a part of a run, of which nothing says what it lost.",
            expected="whole runs",
            found=f"metadata.selection of {', '.join(parts)}",
            remedy="Save the part again from where it was selected: tree.isel(...).devinterp.save(path).",
        )
    if any(not record.done for record in open_records(location)):
        raise StoreError(
            f"A repair of {location.name} was killed before its end.",
            remedy="Take back what it did: devinterp repair STORE --undo. Then repair again.",
        )
    leftovers = tuple(sorted(k for k in location.list_keys() if is_leftover(k)))
    plan = RepairPlan(location, status.completed, leftovers=leftovers, others=_lost_by_others(location, status))
    for run in status.runs:
        plan = _look(plan, run)
    if plan.chains or plan.derived or plan.recomputed:
        _refuse_two_stories(location)
        for run in status.runs if plan.completed else ():
            _refuse_without_states(location, run)
    return plan


def _lost_by_others(location: Location, status: StoreStatus) -> dict[str, str]:
    """Return the lost chunks of arrays that an extension declares in a run of its own kind, where it is known here."""
    try:
        extension = load(status.schema or "")
    except SchemaError:
        return {}
    ours = load("samples").node("/")
    if extension.kind != "samples" or not status.completed:
        return {}
    listed = set(location.list_keys())
    found = {}
    for name, stored in known_arrays(location, "/", extension.node("/")).items():
        for index in stored.all_chunks() if ours.find(name) is None else ():
            why = stored.loss(index, listed, status.attributes)
            if why is not None:
                found[stored.key(index)] = why
    return found


def _refuse_two_stories(location: Location) -> None:
    """Refuse where the gathered metadata read chunks otherwise than the arrays' own: either may be the right ones."""
    for path, gathered in (gathered_documents(root_document(location)) or {}).items():
        if not same_document(read_group(location, path), gathered):
            raise StoreError(
                f"Nothing shows what is lost in {location.name}: its metadata are two stories.",
                expected=f"what the root's zarr.json says of {path}",
                found="another document there",
                remedy="Whichever reads its chunks is right: restore that document, or gather the metadata again by "
                "zarr.consolidate_metadata(path); then repair.",
            )


def _refuse_without_states(location: Location, run: RunStatus) -> None:
    states = dig(run.metadata, "run.chains")
    if not isinstance(states, list) or len(states) != len(run.chains) or not all(isinstance(s, dict) for s in states):
        raise StoreError(
            f"The metadata of {run.group} in {location.name} do not say how its chains ended.",
            expected=f"metadata.run.chains with {len(run.chains)} entries",
            remedy="See what `devinterp validate` says of it, and mend that first.",
        )


def _look(plan: RepairPlan, run: RunStatus) -> RepairPlan:
    location = plan.location
    arrays = known_arrays(location, run.group, load("samples").node("/"))
    attributes = {"metadata": run.metadata}
    listed = set(location.list_keys(f"{join_key(run.group)}/" if join_key(run.group) else ""))
    derived, recomputed = list(plan.derived), dict(plan.recomputed)
    written = draws_written(plan, run, arrays)
    for name, stored in arrays.items():
        if stored.spec.prefix is not None:
            continue
        for index in stored.all_chunks():
            why = stored.loss(index, listed, attributes)
            if name == "draws_written" and plan.completed and why is None:
                # Fill that a reader may take for numbers is none of a complete chain's.
                read = np.asarray(stored.array[...]).tolist()
                why = "missing" if stored.key(index) not in listed and read != written else None
            if why is None:
                continue
            if name in ("n_beta", "draws_written"):
                derived += [stored.path] if plan.completed or name == "n_beta" else []
            elif plan.completed or why != "missing":  # an interrupted run may not have come to it yet
                recomputed[stored.path] = why
    draws = {c: written[c] if plan.completed else state.draws for c, state in enumerate(run.chains)}
    steps = {c: run.layout.steps_of(draws[c]) if plan.completed else state.steps for c, state in enumerate(run.chains)}
    lost: dict[int, dict[str, str]] = {chain: {} for chain in draws}
    after = dict(draws)
    for stored in arrays.values():
        if stored.spec.prefix is None:
            continue
        ends = draws if stored.spec.prefix == "draw" else steps
        for index in stored.all_chunks():
            first = stored.rows(index).start
            held = [c for c in stored.chains(index) if first < ends.get(c, 0)]
            why = stored.loss(index, listed, attributes) if held else None
            if why is not None:
                before = first if stored.spec.prefix == "draw" else run.layout.whole_draws(first)
                for chain in held:
                    lost[chain][stored.key(index)] = why
                    after[chain] = min(after[chain], before)
    losses = list(plan.chains)
    for chain, state in enumerate(run.chains):
        if not plan.completed and _damaged_checkpoint(location, run.group, chain):
            lost[chain][state_key(run.group, chain, "state")] = "damaged"
            after[chain] = 0
        if lost[chain]:
            losses.append(ChainLoss(run.group, chain, draws[chain], after[chain], state.status, lost[chain]))
    return replace(plan, chains=tuple(losses), derived=tuple(dict.fromkeys(derived)), recomputed=recomputed)


def _damaged_checkpoint(location: Location, group: str, chain: int) -> bool:
    try:
        read_checkpoint(location, group, chain)
    except StoreError:
        return True
    return False


def draws_written(plan: RepairPlan, run: RunStatus, arrays: Mapping[str, StoredArray]) -> list[int]:
    """How many draws each chain had: as stored, else by its state, else by where its losses end."""
    if "draws_written" in arrays:
        stored = arrays["draws_written"]
        if all(plan.location.exists(stored.key(index)) for index in stored.all_chunks()):
            try:
                return [int(n) for n in np.asarray(stored.array[...])]
            except Exception:  # unreadable: derived below
                pass
    return [run.num_draws if chain.status == "complete" else chain.draws for chain in run.chains]
