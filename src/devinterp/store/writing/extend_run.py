"""A finished store takes more: restrictions and checkpoints as new groups, chains and draws as longer arrays.

Nothing that is there is computed again. More draws need the chains' last states (``keep_state=True``), more chains and
groups do not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from devinterp.errors import StoreConflictError
from devinterp.plain_json import dig
from devinterp.schema.definition.spec import ArrayLayout, GroupLayout
from devinterp.schema.reading.keys import DOCUMENT, ChunkKeys, document_key, join_key
from devinterp.store.chain_checkpoints import ChainProgress, read_checkpoint, write_progress
from devinterp.store.reading.path_state import read_group
from devinterp.store.writing.foreign_contents import check_growth, keep_others
from devinterp.store.zarr_metadata import differs_from_ours, documents, group_document, open_array
from devinterp.wording import shown

if TYPE_CHECKING:
    from devinterp.store.writing.run import Run

__all__ = ["grow_run"]


def grow_run(run: Run) -> None:
    """Bring what lies on disk to the shapes of the request, and note what is already done.

    Raises
    ------
    StoreConflictError
        More draws are asked of a store that did not keep its chains' states, it holds what cannot grow with it, or
        another tool has written an array of it anew, so that what sampling writes would not be read.
    """
    keep_others(run)
    present = {g: run.kept_attributes[g] for g in run.requests if g in run.kept_attributes}
    stored = _StoredArrays(run)
    layouts = {group: stored.layout(group) for group in present}
    root = read_group(run.location) or {}
    completed = dig(root, "attributes.completed") == 1
    if completed:
        check_growth(run, {group: _grown_dims(run.layout(group), layouts[group]) for group in present})
    for group, attributes in present.items():
        earlier = dig(attributes, "metadata.run") or {}
        run.add_facts(group, {name: fact for name, fact in earlier.items() if name != "chains"})
        if attributes.get("completed") == 1:
            _adopt_progress(run, group, attributes, layouts[group].arrays["draws_written"])
    if completed:
        _reopen_root(run, root)
    for group, on_disk in layouts.items():  # a new group's documents are written with the missing ones
        grown = {a.name: a for a in on_disk.arrays.values() if a.shape != run.layout(group).arrays[a.name].shape}
        if grown:
            _resize(run, group, on_disk, grown)
        else:
            run.use_layout(group, on_disk)


def _reopen_root(run: Run, root: dict[str, Any]) -> None:
    """Take ``completed`` back before anything changes, and the consolidated metadata that will no longer be true."""
    attributes = {**root["attributes"], "completed": 0}
    run.location.set(DOCUMENT, group_document(attributes))


class _StoredArrays:
    """What lies on disk of the arrays of a run, each different document looked at once: groups hold the same arrays."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._known: dict[tuple[str, bytes], dict[str, Any]] = {}

    def layout(self, group: str) -> GroupLayout:
        """Return the group's layout with the shapes and chunks that lie on disk."""
        wanted = self._run.layout(group)
        arrays: dict[str, ArrayLayout] = {}
        for name, layout in wanted.arrays.items():
            raw = self._run.location.get(document_key(group, name))
            if raw is None:
                arrays[name] = layout
                continue
            if (name, raw) not in self._known:
                self._known[name, raw] = self._read(join_key(group, name), layout, raw)
            document = self._known[name, raw]
            chunks = tuple(document["chunk_grid"]["configuration"]["chunk_shape"])
            attrs = {**layout.attrs, **document.get("attributes", {})}
            arrays[name] = replace(layout, shape=tuple(document["shape"]), chunks=chunks, attrs=attrs)
        return GroupLayout(wanted.path, arrays, wanted.sizes)

    def _read(self, path: str, layout: ArrayLayout, raw: bytes) -> dict[str, Any]:
        """Return an array's document, or refuse what sampling would not go on writing as it lies there."""
        try:
            document: dict[str, Any] = json.loads(raw)
            found = differs_from_ours(document, layout.spec, self._run.schema.storage)
            if found is None and tuple(document.get("dimension_names") or ()) != layout.dims:
                found = f"the dimensions ({', '.join(map(str, document['dimension_names']))})"
            if found is None and any(n > m for n, m in zip(document["shape"], layout.shape, strict=True)):
                found = f"the shape {shown(tuple(document['shape']))}"
        except (ValueError, TypeError, AttributeError, KeyError) as error:  # not JSON, or not of an array
            found = f"metadata that cannot be read ({type(error).__name__}: {error})"
        if found is None:
            return document
        raise StoreConflictError(
            f"{path} in {self._run.location.name} was written anew by another tool: sampling cannot go on in it.",
            expected="arrays as sample() writes them",
            found=found,
            remedy="Sample into another output_path, or put the store back as sample() left it.",
        )


def _grown_dims(wanted: GroupLayout, stored: GroupLayout) -> set[str]:
    """Return the dimensions along which arrays of a group get longer."""
    pairs = [(wanted.arrays[name], stored.arrays[name]) for name in wanted.arrays]
    return {d for new, old in pairs for d, n, m in zip(new.dims, new.shape, old.shape, strict=True) if n != m}


def _adopt_progress(run: Run, group: str, attributes: Mapping[str, Any], written: ArrayLayout) -> None:
    """Take over how far the chains of a completed group came, and put it on disk: ``completed`` is about to go."""
    stored = attributes["metadata"]["config"]["sampler"]
    more_draws = run.requests[group].parameters["num_draws"] != stored["num_draws"]
    draws = np.asarray(open_array(run.location, f"{group}/draws_written", written, run.schema.storage)[...])
    facts = attributes["metadata"]["run"]
    times = facts.get("seconds", [])
    for chain, state in enumerate(facts["chains"]):
        progress = ChainProgress(
            int(draws[chain]),
            0,
            state["status"],
            state["reason"],
            state["step"],
            seconds=(times[chain] if chain < len(times) else None) or 0.0,
        )
        if state["status"] == "complete" and more_draws:
            saved = read_checkpoint(run.location, group, chain)
            if saved is None:
                raise StoreConflictError(
                    f"{run.location.name} cannot be given more draws: it did not keep the states of its chains.",
                    remedy="Sample into another output_path, with keep_state=True if it is to grow later.",
                )
            # The state was saved before the chain's last rows had reached the disk, which took time too.
            progress = replace(saved[0], status="running", seconds=max(saved[0].seconds, progress.seconds))
        write_progress(run.location, group, chain, progress)
        run.record(group, chain, progress)


def _resize(run: Run, group: str, on_disk: GroupLayout, grown: dict[str, ArrayLayout]) -> None:
    """Give the grown arrays their new shapes; those in one chunk are written anew by the coordinator."""
    wanted = run.layout(group)
    arrays = dict(on_disk.arrays)
    for name, old in grown.items():
        new = wanted.arrays[name]
        if new.spec.prefix is not None:
            # The chunks that lie there stay valid only while the grid keeps its shape.
            arrays[name] = replace(new, chunks=old.chunks, attrs=old.attrs)
        else:
            arrays[name] = replace(new, attrs=old.attrs)
            run.location.delete_below(join_key(group, name, ChunkKeys().name(())))
    layout = GroupLayout(wanted.path, arrays, wanted.sizes)
    changed = GroupLayout(wanted.path, {n: arrays[n] for n in grown}, wanted.sizes)
    texts = documents({group: changed}, {group: run.attributes(group, completed=False)}, run.schema.storage)
    run.location.set_many({k: v for k, v in texts.items() if k != DOCUMENT or group == "/"})
    run.use_layout(group, layout)
