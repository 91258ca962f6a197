"""The tree of a DataTree or Dataset in memory, seen as the validator sees a store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from devinterp.plain_json import plain_json
from devinterp.schema.reading.nodes import ArrayNode, GroupNode, join
from devinterp.wording import shown

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["read_view", "strangers"]


def read_view(target: xr.DataTree | xr.Dataset) -> GroupNode:
    """Return the groups and variables of a tree or dataset; nothing is loaded."""
    import xarray as xr

    if isinstance(target, xr.Dataset):
        return _group(target, "/")
    return _node(target, "/")


def strangers(dataset: xr.Dataset) -> list[Any]:
    """Names of coordinates that say nothing of any variable.

    xarray leaves those of the parents in what is selected from a child: ``series["100/full"].isel(draw=[0])`` has the
    checkpoints of the whole series.
    """
    used = {dim for variable in dataset.data_vars.values() for dim in variable.dims}
    if not dataset.data_vars:  # the root of a series has coordinates alone
        return []
    return [name for name, c in dataset.coords.items() if c.dims and used.isdisjoint(c.dims)]


def _node(tree: xr.DataTree, path: str) -> GroupNode:
    group = _group(tree.to_dataset(inherit=False), path)
    for name, child in tree.children.items():
        group.groups[name] = _node(child, join(path, name))
    return group


def _group(dataset: xr.Dataset, path: str) -> GroupNode:
    group = GroupNode(path, attributes_of(dataset.attrs), view=True)
    dataset = dataset.drop_vars(strangers(dataset))
    for key, variable in dataset.variables.items():
        name = str(key)
        group.arrays[name] = ArrayNode(
            path=join(path, name),
            name=name,
            dims=tuple(str(d) for d in variable.dims),
            shape=tuple(variable.shape),
            dtype=_dtype(variable),
            attrs=attributes_of(variable.attrs),
            coordinate=key in dataset.coords,
            values=variable,
        )
    return group


def _dtype(variable: xr.Variable) -> str:
    dtype = variable.dtype
    if dtype.kind in "UT":
        return "string"
    if dtype.kind == "O":
        # Strings in memory are often Python objects; a lazily opened array of them cannot be looked into for free.
        data = variable._data
        sample = data.ravel()[:1000] if isinstance(data, np.ndarray) else ()
        return "string" if all(isinstance(v, str) for v in sample) else "object"
    return str(dtype.name)


def attributes_of(attrs: Mapping[Any, Any]) -> Any:
    """Return attributes as JSON types; what has none, or lies too deep, becomes its text."""
    return plain_json(attrs, nonfinite="keep", other=_text)


def _text(value: Any) -> str:
    if isinstance(value, int):
        return f"an integer of {value.bit_length()} bits"
    return shown(value) if isinstance(value, Mapping | list | tuple | set | frozenset) else str(value)
