"""A tree in memory as a store: laid out by its schema, whole or not there at all."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from devinterp.errors import DataError, StoreError, StoreExistsError
from devinterp.schema import load
from devinterp.schema.definition.layout import array_attributes, chunk_shape
from devinterp.schema.definition.schema import Schema
from devinterp.schema.definition.spec import ArrayLayout, GroupLayout, NodeSpec
from devinterp.schema.reading.keys import DOCUMENT
from devinterp.store.location import Location, StoreLike, locate
from devinterp.store.reading.path_state import PathState, inspect_path
from devinterp.store.zarr_metadata import documents, open_array, write_consolidated_root
from devinterp.wording import one_of

__all__ = ["write_result"]

CHUNK_BYTES = 32 * 2**20


def write_result(
    result: xr.Dataset | xr.DataTree, target: StoreLike, *, check: Callable[[Location], None] | None = None
) -> None:
    """Write what an analysis returned, or any tree of a declared kind, to a new Zarr store.

    On a local disk nothing lies at ``target`` before everything is written; elsewhere the store says that it has not
    completed until then, and goes again where writing fails. Values are read and written chunk by chunk.

    Parameters
    ----------
    result : Dataset or DataTree
        With the attribute ``devinterp_schema``, as every analysis returns it.
    target : path, URL or zarr Store
        Where it goes; nothing may lie there.
    check : callable, optional
        Looks at what was written, before it is there to stay; whatever it raises leaves nothing.

    Raises
    ------
    DataError
        It does not say what it is, or holds groups or variables that its schema does not know.
    StoreExistsError
        Something lies there.
    StoreError
        The place is inside another store.
    """
    declared = result.attrs.get("devinterp_schema")
    if not isinstance(declared, str):
        raise DataError(
            "This is not a result that could be written: it does not say of which schema it is.",
            expected="the attribute devinterp_schema",
            remedy="Use to_zarr() of xarray.",
        )
    location = locate(target, mode="w")
    if inspect_path(location) is not PathState.ABSENT:
        raise _exists(location)
    _refuse_inside(location)
    tree = result if isinstance(result, xr.DataTree) else xr.DataTree(result)
    groups: dict[str, tuple[xr.Dataset, Schema]] = {}
    layouts: dict[str, GroupLayout] = {}
    for path, dataset, node, schema in _groups(tree, load(declared), "/", "/"):
        groups[path] = dataset, schema
        if dataset.variables:
            layouts[path] = _layout(path, node, schema, dataset)
    attributes = {path: _attributes(dataset) for path, (dataset, _) in groups.items()}
    root = attributes["/"]
    with _whole(location) as place:
        attributes["/"] = {**root, "completed": 0}
        place.set_many(_documents(groups, layouts, attributes))
        for path, layout in layouts.items():
            dataset, schema = groups[path]
            for name, array in layout.arrays.items():
                _write(open_array(place, f"{path}/{name}", array, schema.storage), array, dataset[name].variable)
        attributes["/"] = {**root, "completed": 1}
        write_consolidated_root(place, dict(attributes["/"]), _documents(groups, layouts, attributes))
        if check is not None:
            check(place)


def _exists(location: Location) -> StoreExistsError:
    return StoreExistsError(
        f"Something lies at {location.name}; it was left untouched.", remedy="Choose another path, or remove it."
    )


def _refuse_inside(location: Location) -> None:
    """Refuse a place inside a store, which would have a group that its schema does not know."""
    for above in () if location.folder is None else location.folder.absolute().parents:
        if (above / DOCUMENT).is_file():
            raise StoreError(
                f"{location.name} lies inside the Zarr group at {above}, which was left untouched.",
                remedy="Choose a path beside it.",
            )


@contextmanager
def _whole(location: Location) -> Iterator[Location]:
    """Give a place to write to, that becomes ``location`` once everything is written, and goes where that fails."""
    if location.folder is None:
        try:
            yield location
        except BaseException:
            location.delete_below("")
            raise
        return
    folder = Path(location.folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
    try:
        yield locate(aside, mode="w")
        try:
            aside.rename(folder)
        except OSError as error:
            if folder.exists():  # somebody else was faster, or left files there that no reader sees
                raise _exists(location) from error
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _groups(
    node: xr.DataTree, schema: Schema, relative: str, path: str
) -> Iterator[tuple[str, xr.Dataset, NodeSpec, Schema]]:
    match = schema.match_node(relative)
    if match is None:
        raise DataError(
            f"The schema does not know the group {path!r}.",
            expected=one_of(sorted(n.path for n in schema.nodes)),
            remedy="Drop it, or use to_zarr() of xarray.",
        )
    spec = match[0]
    if spec.include is not None:
        own = node.attrs.get("devinterp_schema")
        yield from _groups(node, load(own if isinstance(own, str) else spec.include), "/", path)
        return
    yield path, node.to_dataset(inherit=False), spec, schema
    for name, child in node.children.items():
        yield from _groups(child, schema, f"{relative.rstrip('/')}/{name}", f"{path.rstrip('/')}/{name}")


def _documents(
    groups: Mapping[str, tuple[xr.Dataset, Schema]],
    layouts: Mapping[str, GroupLayout],
    attributes: Mapping[str, Mapping[str, Any]],
) -> dict[str, bytes]:
    """Return every document of the store, each array's by the storage of the schema that its group is of."""
    everything: dict[str, bytes] = {}
    for storage in {id(schema.storage): schema.storage for _, schema in groups.values()}.values():
        theirs = {path: layout for path, layout in layouts.items() if groups[path][1].storage is storage}
        everything.update(documents(theirs, attributes, storage))
    return everything


def _attributes(dataset: xr.Dataset) -> dict[str, Any]:
    """Attributes of a group as xarray stores them: coordinates that belong to no data variable are named there."""
    alone = [
        str(name)
        for name, coord in dataset.coords.items()
        if name not in dataset.dims and not any(set(coord.dims) <= set(v.dims) for v in dataset.data_vars.values())
    ]
    own = {str(key): value for key, value in dataset.attrs.items()}
    return {**own, "coordinates": " ".join(sorted(alone))} if alone else own


def _layout(path: str, node: NodeSpec, schema: Schema, dataset: xr.Dataset) -> GroupLayout:
    arrays = {}
    for name, variable in dataset.variables.items():
        found = node.find(str(name))
        if found is None:
            raise DataError(
                f"The schema does not know the variable {name!r}.",
                expected=one_of(sorted(node.variables)),
                remedy="Drop it, or use to_zarr() of xarray.",
            )
        spec, bound = found
        attrs = {**array_attributes(spec, bound), **{str(k): v for k, v in variable.attrs.items()}}
        beside = [
            str(c) for c in dataset.coords if c not in dataset.dims and set(dataset[c].dims) <= set(variable.dims)
        ]
        if beside and name in dataset.data_vars:
            attrs["coordinates"] = " ".join(sorted(beside))  # how xarray knows them again when it opens the store
        dims, shape = tuple(map(str, variable.dims)), variable.shape
        chunks = chunk_shape(spec, dims, shape) if schema.storage.chunks == "declared" else _chunks(shape, spec.dtype)
        arrays[str(name)] = ArrayLayout(str(name), dims, shape, spec.dtype, spec.fill, chunks, attrs, spec)
    return GroupLayout(path, arrays, {str(d): n for d, n in dataset.sizes.items()})


def _write(array: Any, layout: ArrayLayout, variable: xr.Variable) -> None:
    """Write a variable chunk by chunk."""
    dtype = np.dtypes.StringDType() if layout.dtype == "string" else np.dtype(layout.dtype)
    steps = [range(0, n, c) for n, c in zip(layout.shape, layout.chunks, strict=True)]
    for start in product(*steps):
        block = tuple(slice(i, i + c) for i, c in zip(start, layout.chunks, strict=True))
        array[block if block else ...] = variable[block].values.astype(dtype)


def _chunks(shape: tuple[int, ...], dtype: str) -> tuple[int, ...]:
    """One chunk, or as many rows in each as fit."""
    if not shape:
        return ()
    size = 8 if dtype == "string" else np.dtype(dtype).itemsize
    per_row = max(1, size * int(np.prod(shape[1:], dtype=np.int64)))
    return (min(max(shape[0], 1), max(1, CHUNK_BYTES // per_row)), *(max(n, 1) for n in shape[1:]))
