"""A BIF larger than memory: written tile by tile to a Zarr store, resumable."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import DataError, StoreConflictError, StoreExistsError
from devinterp.plain_json import plain_json
from devinterp.schema import ArrayLayout, GroupLayout, Schema, load, validate
from devinterp.schema.definition.layout import array_attributes
from devinterp.schema.reading.keys import ChunkKeys, chunk_grid
from devinterp.slt.bif.operands import Source
from devinterp.slt.bif.request import BifPlan
from devinterp.store.location import Location, locate
from devinterp.store.lock import LOCK_KEY, WriterLock
from devinterp.store.reading.path_state import PathState, inspect_path, read_group
from devinterp.store.writing.compare_requests import differences
from devinterp.store.zarr_metadata import create_groups, documents, open_array, write_consolidated_root
from devinterp.wording import shown

__all__ = ["check_path", "stream_bif"]

CHUNK_BYTES = 32 * 2**20
WRITERS = 2


def check_path(output_path: str | PathLike[str]) -> Location:
    """Return the place where a store is to go; raise `StoreExistsError` where something that is not ours lies."""
    location = locate(output_path, mode="w")
    if inspect_path(location) is PathState.FOREIGN:
        raise StoreExistsError(
            f"Something that is not a devinterp store lies at {location.name}; it was left untouched.",
            remedy="Choose another output_path.",
        )
    return location


def stream_bif(source: Source, location: Location, *, se: bool = False) -> xr.Dataset:
    """Write a BIF to a store and return it, lazily loaded.

    Every tile is checked and written once; of a symmetric BIF one half is computed. A store that an interrupted call
    of the same request left is completed, one that a finished call left is returned.

    Returns what `devinterp.slt.bif.compute_bif` does, its arrays lazily loaded from the store. Raises
    `StoreConflictError` where a BIF of other losses or another request lies there. Raises `StoreLockedError` where a
    live process is writing to it.
    """
    schema = load("bif")
    plan = source.plan
    layouts = GroupLayout("/", _layouts(plan, schema, se), {})
    attributes = {**source.attrs, "losses_sha256": source.identity()}
    if se and source.groups is not None:
        attributes["se_dof"] = len(source.groups) - 1
    used = {dim for a in layouts.arrays.values() if a.spec.role == "data" for dim in a.dims}
    alone = sorted(n for n, a in layouts.arrays.items() if a.dims != (n,) and not used.issuperset(a.dims))
    if alone:  # how xarray knows coordinates again that stand beside no data
        attributes["coordinates"] = " ".join(alone)
    _compare(location, attributes, layouts)
    if inspect_path(location) is not PathState.COMPLETE:
        lock = WriterLock(location, LOCK_KEY)
        try:
            if inspect_path(location) is PathState.ABSENT:
                create_groups(location, {"/": layouts}, {"/": {**attributes, "completed": 0}}, schema.storage)
            _write_small(location, plan, layouts, schema)
            _write_tiles(location, source, layouts, schema, se=se)
            # Values were checked tile by tile; what is left to check is that nothing is missing.
            validate(location.store, level="completeness").without("incomplete").raise_for_errors()
            finished = {**attributes, "completed": 1}
            write_consolidated_root(location, finished, documents({"/": layouts}, {"/": finished}, schema.storage))
        finally:
            lock.release()
            if location.folder is not None:  # an empty folder beside the arrays makes zarr warn
                (location.folder / LOCK_KEY).parent.rmdir()
    return xr.open_dataset(location.read_only().store, engine="zarr", consolidated=True)  # type: ignore[arg-type]


def _layouts(plan: BifPlan, schema: Schema, se: bool) -> dict[str, ArrayLayout]:
    """The arrays of the store, from the schema, at the sizes of this result."""
    sizes = dict(zip(plan.dims, plan.shape, strict=True))
    ids = plan.input_ids
    sizes |= {"batch": len(plan.sequences), **({} if ids is None else {"position": ids.shape[1]})}
    node = schema.node("/")
    labels = [name for name in plan.row_labels(batch_1=plan.first, batch_2=plan.second) if name in node.variables]
    names = ["influences", *(["influences_se"] if se else []), *plan.dims]
    names += ["input_ids"] if ids is not None else []
    names += ["mask"] if plan.mask is not None else []
    names += labels
    out = {}
    for name in names:
        spec = node.variables[name]
        dims = plan.dims if name.startswith("influences") else spec.dims
        shape = tuple(sizes[d] for d in dims)
        chunks = (*_tile_shape(plan), *shape[2:]) if name.startswith("influences") else shape
        attrs = {**array_attributes(spec, {}), **({"units": plan.units[name]} if name in plan.units else {})}
        beside = sorted(n for n in labels if spec.role == "data" and set(node.variables[n].dims) <= set(dims))
        if beside:
            attrs["coordinates"] = " ".join(beside)  # how xarray knows them again
        out[name] = ArrayLayout(name, dims, shape, spec.dtype, spec.fill, chunks, attrs, spec)
    return out


def _tile_shape(plan: BifPlan) -> tuple[int, int]:
    """Sequences per chunk along both axes: ``batch_size`` where that fits, more where a pair is a single number."""
    per_pair = 4 * int(np.prod(plan.shape[2:], dtype=np.int64))
    fits = max(1, int(np.sqrt(CHUNK_BYTES / per_pair)))
    side = min(fits, plan.batch_size) if len(plan.shape) == 4 else fits
    return min(side, plan.shape[0]), min(side, plan.shape[1])


def _compare(location: Location, attributes: dict[str, Any], layouts: GroupLayout) -> None:
    """Refuse a store of another request."""
    document = read_group(location)
    if document is None:
        return
    stored = {key: value for key, value in document.get("attributes", {}).items() if key != "completed"}
    found = list(differences(plain_json(attributes), stored, "request"))
    for name, layout in layouts.arrays.items():
        array = read_group(location, name)
        shape = None if array is None else tuple(array.get("shape", ()))
        if array is None or shape != layout.shape:
            found.append(f"{name}: the store has shape {shown(shape)}, this call {shown(layout.shape)}")
        elif tuple(array["chunk_grid"]["configuration"]["chunk_shape"]) != layout.chunks:
            found.append(f"{name}: the store has other chunks than {shown(layout.chunks)}")
    if found:
        raise StoreConflictError(
            f"A result of another request lies at {location.name}:\n  " + "\n  ".join(found[:20]) + "\n",
            remedy="Choose another output_path, or repeat the call that made that store.",
        )


def _write_small(location: Location, plan: BifPlan, layouts: GroupLayout, schema: Schema) -> None:
    values: dict[str, Any] = {"input_ids": plan.input_ids, "batch_1": plan.first, "batch_2": plan.second}
    values |= {name: label for name, (_, label) in plan.row_labels(batch_1=plan.first, batch_2=plan.second).items()}
    values |= dict.fromkeys(("target_position", "target_position_T"), plan.target_positions)
    if plan.mask is not None:
        values["mask"] = plan.mask
    for name, layout in layouts.arrays.items():
        if name in values:
            open_array(location, f"/{name}", layout, schema.storage)[...] = values[name]


def _pending(location: Location, layouts: GroupLayout, symmetric: bool) -> Iterator[tuple[slice, slice]]:
    """Yield the tiles that are not on disk yet, of a symmetric result those on and above the diagonal."""
    there: dict[str, set[tuple[int, ...]]] = {name: set() for name in layouts.arrays}
    for key in list(location.list_keys()):
        name, _, chunk = key.partition("/")
        if key.endswith(".partial"):  # left by a process that was killed while it wrote
            location.delete(key)
        elif name in there:
            array = layouts.arrays[name]
            index = ChunkKeys().index(chunk, chunk_grid(array.shape, array.chunks))
            if index is not None:
                there[name].add(index[:2])
    results = [name for name in layouts.arrays if name.startswith("influences")]
    layout = layouts.arrays["influences"]
    counts = [-(-size // chunk) for size, chunk in zip(layout.shape[:2], layout.chunks[:2], strict=True)]
    for i in range(counts[0]):
        for j in range(i if symmetric else 0, counts[1]):
            if any((i, j) not in there[name] or (symmetric and (j, i) not in there[name]) for name in results):
                rows, columns = (
                    slice(k * chunk, min((k + 1) * chunk, size))
                    for k, chunk, size in zip((i, j), layout.chunks, layout.shape, strict=False)
                )
                yield rows, columns


def _write_tiles(location: Location, source: Source, layouts: GroupLayout, schema: Schema, *, se: bool) -> None:
    """Compute tile after tile while others are being compressed and written."""
    arrays = {
        name: open_array(location, f"/{name}", layout, schema.storage)
        for name, layout in layouts.arrays.items()
        if name.startswith("influences")
    }
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(WRITERS, thread_name_prefix="devinterp-write") as pool:
        for rows, columns in _pending(location, layouts, source.symmetric):
            for name, values in zip(arrays, source.tile(rows, columns, se=se), strict=False):
                if values is None or not _finite(source.plan, values, rows, columns):
                    raise DataError(
                        f"A tile of {name} is not finite.", found=f"sequences {shown(rows)} and {shown(columns)}"
                    )
                waiting.append(pool.submit(_write, arrays[name], (rows, columns), values))
                if source.symmetric and rows != columns:
                    mirrored = values.transpose(1, 0, 3, 2) if values.ndim == 4 else values.T
                    waiting.append(pool.submit(_write, arrays[name], (columns, rows), mirrored))
            while len(waiting) > 2 * WRITERS:
                waiting.popleft().result()
        while waiting:
            waiting.popleft().result()


def _finite(plan: BifPlan, values: npt.NDArray[np.float32], rows: slice, columns: slice) -> bool:
    """Whether all that counts is finite."""
    first, second = plan.counts(plan.first[rows]), plan.counts(plan.second[columns])
    if first is None or second is None:
        return bool(np.isfinite(values).all())
    if values.ndim == 2:
        first, second = (np.asarray(side.any(axis=1))[:, None] for side in (first, second))
        values = values[:, :, None, None]
    return bool(np.isfinite(values[first[:, None, :, None] & second[None, :, None, :]]).all())


def _write(array: Any, where: tuple[slice, slice], values: npt.NDArray[np.float32]) -> None:
    array[where] = np.ascontiguousarray(values)
