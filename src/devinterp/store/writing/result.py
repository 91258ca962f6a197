"""A result of an analysis as a store: laid out by its schema, whole or not there at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from devinterp.errors import DataError, StoreExistsError
from devinterp.schema import load
from devinterp.schema.model.layout import array_attributes
from devinterp.schema.model.spec import ArrayLayout, GroupLayout, NodeSpec
from devinterp.store.location import StoreLike, locate
from devinterp.store.metadata import create_groups, documents, open_array, write_consolidated_root
from devinterp.store.reading.path_state import PathState, inspect_path

__all__ = ["write_result"]

CHUNK_BYTES = 32 * 2**20


def write_result(result: xr.Dataset | xr.DataTree, target: StoreLike) -> None:
    """Write what an analysis returned to a new Zarr store.

    Parameters
    ----------
    result : Dataset or DataTree
        With the attribute ``devinterp_schema``, as every analysis returns it.
    target : path, URL or zarr Store
        Where it goes; nothing may lie there.

    Raises
    ------
    DataError
        It does not say what it is, or holds variables that its schema does not know.
    StoreExistsError
        Something lies there.
    """
    declared = result.attrs.get("devinterp_schema")
    if not isinstance(declared, str):
        raise DataError(
            "This is not a result that could be written: it does not say of which schema it is.",
            expected="the attribute devinterp_schema",
            remedy="Use to_zarr() of xarray.",
        )
    schema = load(declared)
    location = locate(target, mode="w")
    if inspect_path(location) is not PathState.ABSENT:
        raise StoreExistsError(
            f"Something lies at {location.name}; it was left untouched.", remedy="Choose another path, or remove it."
        )
    datasets: dict[str, xr.Dataset] = {}
    for node in schema.nodes:
        if isinstance(result, xr.Dataset):
            found = result if node.path == "/" else None
        else:
            child = result if node.path == "/" else result.children.get(node.path.strip("/"))
            found = None if child is None else child.to_dataset(inherit=False)
        if found is not None:
            datasets[node.path] = found
    layouts = {path: _layout(schema.node(path), data) for path, data in datasets.items() if data.variables}
    root: dict[str, Any] = {str(key): value for key, value in result.attrs.items()}
    attributes: dict[str, Mapping[str, Any]] = {path: data.attrs for path, data in datasets.items()}
    attributes["/"] = {**root, "completed": 0}
    create_groups(location, layouts, attributes, schema.storage)
    for path, layout in layouts.items():
        for name, array in layout.arrays.items():
            values = datasets[path][name].values
            stored = values.astype(np.dtypes.StringDType()) if array.dtype == "string" else values.astype(array.dtype)
            open_array(location, f"{path}/{name}", array, schema.storage)[...] = stored
    attributes["/"] = {**root, "completed": 1}
    write_consolidated_root(location, dict(attributes["/"]), documents(layouts, attributes, schema.storage))


def _layout(node: NodeSpec, dataset: xr.Dataset) -> GroupLayout:
    arrays = {}
    for name, variable in dataset.variables.items():
        found = node.find(str(name))
        if found is None:
            raise DataError(
                f"The schema does not know the variable {name!r}.",
                expected=f"one of {sorted(node.variables)}",
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
        arrays[str(name)] = ArrayLayout(
            str(name), dims, shape, spec.dtype, spec.fill, _chunks(shape, spec.dtype), attrs, spec
        )
    return GroupLayout(node.path, arrays, {str(d): n for d, n in dataset.sizes.items()})


def _chunks(shape: tuple[int, ...], dtype: str) -> tuple[int, ...]:
    """One chunk, or as many rows in each as fit."""
    if not shape:
        return ()
    size = 8 if dtype == "string" else np.dtype(dtype).itemsize
    per_row = max(1, size * int(np.prod(shape[1:], dtype=np.int64)))
    return (min(max(shape[0], 1), max(1, CHUNK_BYTES // per_row)), *(max(n, 1) for n in shape[1:]))
