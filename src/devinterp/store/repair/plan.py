"""What a store has lost: chunks that are missing or cannot be decoded, and the draws that stand before them.

A chain is a prefix: whatever was lost in it, the draws before the first lost chunk stand. Only what is proved counts as
lost: where chunks lie is taken from each array's own metadata, and a chunk that is absent is a loss only where what
reads in its place, the array's fill value, cannot be what was written. (Zarr's own default leaves chunks out that hold
nothing but fill.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import zarr

from devinterp.errors import StoreError
from devinterp.schema import load
from devinterp.schema.definition.spec import NodeSpec, VariableSpec
from devinterp.schema.reading.access import refuse_links_out
from devinterp.schema.reading.keys import ChunkKeys, chunk_grid, is_leftover, join_key
from devinterp.schema.rules.registry import holds_where_filled
from devinterp.store.location import Location, StoreLike, locate
from devinterp.store.reading.status import RunStatus, read_status
from devinterp.store.repair.record import open_records
from devinterp.store.run_state import read_checkpoint, state_key

__all__ = ["ChainLoss", "RepairPlan", "StoredArray", "draws_written", "known_arrays", "plan_repair"]


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


class StoredArray:
    """An array of a run as it lies in the store, whoever wrote it last.

    Attributes
    ----------
    array : zarr.Array
    spec : VariableSpec
        What the schema declares of it.
    keys : ChunkKeys
    chunks : tuple of int
        Shape of what one object holds: of a shard, where there are shards.
    """

    def __init__(self, location: Location, group: str, name: str, spec: VariableSpec, mode: Any = "r") -> None:
        self.path, self.spec, self._location = join_key(group, name), spec, location
        try:
            array = zarr.open_array(location.store, path=self.path, mode=mode)
            # A chunk that equals the fill value is written too: only then does its object show that it was written.
            self.array = array.with_config({"write_empty_chunks": True})
            self.keys = ChunkKeys.parse(array.metadata.to_dict()["chunk_key_encoding"])
            dims = array.metadata.dimension_names  # type: ignore[union-attr]
        except Exception as error:  # whatever zarr raises at a document that is not an array's
            raise StoreError(
                f"The metadata of {self.path} in {location.name} cannot be read: {error}.",
                expected="a zarr.json as it was written",
                remedy="Copy the store again, or take that file from a store of the same settings.",
            ) from error
        self.chunks: tuple[int, ...] = array.shards or array.chunks
        self._dims = tuple(map(str, dims or ()))
        if spec.prefix is not None and not {"chain", spec.prefix} <= set(self._dims):
            raise StoreError(
                f"{self.path} in {location.name} has other dimensions than a run's.",
                expected=", ".join(spec.dims),
                found=", ".join(self._dims) or "none",
                remedy="See what `devinterp validate` says of it.",
            )

    def key(self, index: tuple[int, ...]) -> str:
        """Return the key of a chunk in the store."""
        return join_key(self.path, self.keys.name(index))

    def all_chunks(self) -> Iterator[tuple[int, ...]]:
        """Yield the index of every chunk."""
        yield from np.ndindex(*chunk_grid(self.array.shape, self.chunks))

    def region(self, index: tuple[int, ...]) -> tuple[slice, ...]:
        """Return what a chunk covers of the array."""
        return tuple(
            slice(i * c, min((i + 1) * c, n)) for i, c, n in zip(index, self.chunks, self.array.shape, strict=True)
        )

    def chains(self, index: tuple[int, ...]) -> range:
        """Return the chains that a chunk holds rows of."""
        part = self.region(index)[self._dims.index("chain")]
        return range(part.start, part.stop)

    def rows(self, index: tuple[int, ...]) -> range:
        """Return the rows along the prefix's dimension that a chunk holds."""
        assert self.spec.prefix is not None
        part = self.region(index)[self._dims.index(self.spec.prefix)]
        return range(part.start, part.stop)

    def loss(self, index: tuple[int, ...], listed: set[str], attributes: Mapping[str, Any]) -> str | None:
        """Say why a chunk is lost, ``missing`` or unreadable; None where it is not, or where nothing proves it.

        Raises
        ------
        StoreError
            The store cannot say: a disk or network that fails has lost nothing.
        """
        key, region = self.key(index), self.region(index)
        if key not in listed and not self._location.exists(key):  # a listing may be cut short, or forbidden
            self._refuse_misplaced(index, listed)
            shape = tuple(part.stop - part.start for part in region)
            fill = np.asarray(self.array.fill_value, self.array.dtype)
            return None if holds_where_filled(self.spec.checks, fill, shape, attributes) else "missing"
        raw = self._bytes(key)
        try:
            self.array[region if region else ...]
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # whatever a codec raises means that the chunk cannot be decoded
            if raw is None or self._bytes(key) != raw:
                raise StoreError(
                    f"{key} in {self._location.name} changed while it was read.",
                    remedy="Repair the store when nobody writes to it.",
                ) from error
            return f"unreadable ({type(error).__name__})"
        return None

    def _refuse_misplaced(self, index: tuple[int, ...], listed: set[str]) -> None:
        for name in self.keys.elsewhere(index):
            if (found := join_key(self.path, name)) in listed:
                raise StoreError(
                    f"A chunk of {self.path} in {self._location.name} is not lost: it lies at another key.",
                    expected=self.key(index),
                    found=found,
                    remedy="Give it the name that readers look for, then repair what is left.",
                )

    def _bytes(self, key: str) -> bytes | None:
        try:
            return self._location.get(key)
        except Exception as error:  # a store may raise whatever its transport raises
            raise StoreError(
                f"{key} in {self._location.name} cannot be read: {type(error).__name__}: {error}.",
                remedy="Nothing shows that it is lost: mend the cause, then repair.",
            ) from error


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
        The store holds no run that `devinterp` wrote, its metadata are damaged, it cannot be read, or a repair of it
        was killed; or a symbolic link leads out of it.
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
    if any(not record.done for record in open_records(location)):
        raise StoreError(
            f"A repair of {location.name} was killed before its end.",
            remedy="Take back what it did: devinterp repair STORE --undo. Then repair again.",
        )
    leftovers = tuple(sorted(k for k in location.list_keys() if is_leftover(k)))
    plan = RepairPlan(location, status.completed, leftovers=leftovers)
    for run in status.runs:
        plan = _look(plan, run)
    return plan


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


def known_arrays(location: Location, group: str, node: NodeSpec, mode: Any = "r") -> dict[str, StoredArray]:
    """The group's arrays that the schema knows, by name."""
    found: dict[str, StoredArray] = {}
    for name in sorted(location.list_dir(join_key(group))):
        known = node.find(name)
        if known is not None:
            found[name] = StoredArray(location, group, name, known[0], mode)
    return found


def draws_written(plan: RepairPlan, run: RunStatus, arrays: Mapping[str, StoredArray]) -> list[int]:
    """How many draws each chain had: as stored, else by its state, else by where its losses end."""
    if "draws_written" in arrays:
        stored = arrays["draws_written"]
        if any(plan.location.exists(stored.key(index)) for index in stored.all_chunks()):
            try:
                return [int(n) for n in np.asarray(stored.array[...])]
            except Exception:  # unreadable: derived below
                pass
    return [run.num_draws if chain.status == "complete" else chain.draws for chain in run.chains]
