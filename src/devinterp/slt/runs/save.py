"""A part of a run, study, series or sweep, or of a result, as a store of its own."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from devinterp.errors import DataError, MissingVariableError
from devinterp.plain_json import dig
from devinterp.schema import load, validate
from devinterp.schema.definition.layout import dimension_sizes
from devinterp.schema.reading.limits import Limits
from devinterp.schema.reading.memory_tree import read_view, strangers
from devinterp.schema.reading.memory_values import ViewValues
from devinterp.schema.rules.bound import Bound
from devinterp.schema.rules.context import Context, out_of_order
from devinterp.slt.runs.chains import are_reordered
from devinterp.slt.runs.grid import grid_of
from devinterp.slt.runs.kind import kind_of
from devinterp.slt.runs.results import refuse_empty
from devinterp.slt.runs.run import Samples, Tree, metadata_of, series_members, study_members
from devinterp.store.location import Location, StoreLike
from devinterp.store.reading.fast_chunks import refuse_gone_tree
from devinterp.store.writing.result import write_result

__all__ = ["save"]


def save(obj: Tree, target: StoreLike) -> None:
    """Write a tree, or what was selected from one, to a new store that is valid by itself.

    Analyses of the new store give what they give of ``obj``. Settings stay those that the run was sampled with;
    what is left of it stands in ``metadata.selection``: ``sizes`` of the dimensions that are not what the settings
    make them, or whose places are known to be in another order, and in the root of a study, series or sweep the names
    that are ``left_out``. Coordinates along the dimensions (``token_pos``, ``chain``, ``draw`` ...) are written too,
    and say which places are left.

    Parameters
    ----------
    obj : DataTree or Dataset
        A run, study, series, sweep or result, whole or a selection of it along any dimension. A ``chain``, ``draw`` or
        ``step`` that an integer selection dropped is written with size 1.
    target : path, URL or zarr Store
        Where it goes; nothing may lie there. On a local disk it appears when everything is written.

    Raises
    ------
    DataError
        It is not known which positions of the rows are left (select with coordinates ``token_pos`` and ``token``), or
        nothing is left along a dimension, or a variable lost one.
    ValidationError
        It is not valid as it is: the run has not completed, a study lacks ``full``, variables are undeclared, or what
        is left of a result does not follow from the rest (the mean of an LLC, where chains were selected from it).
    StoreExistsError
        Something lies there.
    """
    part = _part(obj)
    validate(part, level="structure").raise_for_errors()  # before anything is written

    def check(written: Location) -> None:
        replace(validate(written.store), target=f"What was to be saved to {target}").raise_for_errors()

    write_result(part, target, check=check)


def _part(obj: Tree) -> Tree:
    kind = kind_of(obj)
    refuse_empty(obj)
    if kind == "samples":
        return xr.DataTree(_run(obj, ""))
    if not isinstance(obj, xr.DataTree) or kind not in ("study", "series", "sweep"):
        return obj
    if kind == "series":
        studies = series_members(obj) or {}
        groups = {f"/{step}{path}": ds for step, study in studies.items() for path, ds in _study(study).items()}
        kept = {name for step in studies for name in study_members(studies[step]) or ()}
        root = _container(obj, {"checkpoints": list(studies), "restrictions": kept})
        return xr.DataTree.from_dict({"/": _along(root, "checkpoint"), **groups})
    if kind == "sweep":
        grid = grid_of(obj)
        cells = {} if grid is None else dict(grid.cells)
        groups = {f"/{name}": _run(cell, name) for name, cell in cells.items()}
        return xr.DataTree.from_dict({"/": _along(_container(obj, {"cells": list(cells)}), "cell"), **groups})
    return xr.DataTree.from_dict(_study(obj))


def _study(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    chosen = tree.coords.get("checkpoint")
    if chosen is not None and chosen.ndim == 0 and str(chosen.item()) in tree.children:
        tree = tree.children[str(chosen.item())]  # series.sel(checkpoint=7) keeps every group
    members = study_members(tree) or {}
    groups = {f"/{name}": _run(member, name) for name, member in members.items()}
    return {"/": _container(tree, {"restrictions": members}), **groups}


def _container(node: xr.DataTree, kept: Mapping[str, Any]) -> xr.Dataset:
    """Return the root of runs, its lists cut to what is left, with the names that are not."""
    dataset = node.to_dataset(inherit=False)
    metadata = deepcopy(dict(metadata_of(node)))
    left_out = list(dig(metadata, "selection.left_out") or [])
    for name, present in kept.items():
        listed = dig(metadata, f"config.{name}")
        if isinstance(listed, list):
            left_out += [entry for entry in listed if entry not in present and entry not in left_out]
            chosen = present if isinstance(present, list) else listed
            metadata["config"][name] = [entry for entry in chosen if entry in present and entry in listed]
    if left_out:
        metadata["selection"] = {"left_out": left_out}
    return dataset.assign_attrs(metadata=metadata)


def _along(root: xr.Dataset, dim: str) -> xr.Dataset:
    """Give a root the dimension that an integer selection dropped."""
    if dim in root.dims or dim not in root.coords:
        return root
    return xr.Dataset(coords={n: c.variable.expand_dims(dim) for n, c in root.coords.items()}, attrs=root.attrs)


def _run(obj: Tree, label: str) -> xr.Dataset:
    """Return one run with the dimensions that it was sampled with, its coordinates as a store has them, and sizes."""
    dataset = obj.to_dataset(inherit=False) if isinstance(obj, xr.DataTree) else obj
    dataset = dataset.drop_vars(strangers(dataset))
    stacked = [
        name
        for name, index in dataset.xindexes.items()
        if name in dataset.dims and len(index.to_pandas_index().names) > 1
    ]
    dataset = dataset.reset_index(stacked)  # its levels are coordinates that no schema declares
    refuse_gone_tree(dataset)
    schema = load(str(dataset.attrs.get("devinterp_schema", "samples")))
    node = schema.node("/")
    variables: dict[Hashable, xr.Variable] = {}
    for name, variable in dataset.variables.items():
        found = node.find(str(name))
        dims = () if found is None else tuple(d.format_map(found[1]) for d in found[0].dims)
        lost = [d for d in ("chain", "draw", "step") if d in dims and d not in variable.dims]
        whole = variable.set_dims((*lost, *variable.dims)) if lost else variable  # type: ignore[no-untyped-call]
        gone = [d for d in dims if d not in whole.dims and d not in dataset.dims]
        if gone:
            raise DataError(
                f"The variable {name!r}{f' of the run {label!r}' if label else ''} has lost {', '.join(gone)}.",
                expected=dims,
                found=whole.dims,
                remedy=f"Select by a list, which keeps the dimension: isel({gone[0]}=[3]).",
            )
        if set(dims) == set(whole.dims):
            whole = whole.transpose(*dims)
        if name in dataset.coords and np.issubdtype(whole.dtype, np.integer):
            whole = whole.astype(np.int64)  # whatever integers a user counts with
        variables[name] = whole
    dataset = xr.Dataset(
        {n: v for n, v in variables.items() if n not in dataset.coords},
        coords={n: v for n, v in variables.items() if n in dataset.coords},
        attrs=dataset.attrs,
    )
    samples = Samples(dataset, metadata_of(dataset), label)
    if "token_pos" in dataset.dims:
        samples.target_positions()
    if "token" in dataset.dims:
        samples.token_positions(beside_losses=False)
    if not dataset.data_vars:
        raise MissingVariableError("Nothing of the run is left to be saved.", remedy="Widen the selection.")
    metadata = {name: value for name, value in metadata_of(dataset).items() if name != "selection"}
    group = read_view(dataset)
    bound = Bound(schema, node, group, group, group)
    context = Context(bound, ViewValues(Limits()), {})
    free = {str(d): n for d, n in dataset.sizes.items() if d == "token_pos"}
    planned = dimension_sizes(node, bound.parameters, bound.members, free)

    def is_part(dim: str, size: int) -> bool:
        """Whether something of the run is left out along a dimension, or all of it is left in another order."""
        moved = dim in dataset.coords and dataset[dim].values.tolist() != list(range(size))
        moved |= are_reordered(samples, size) if dim == "chain" else out_of_order(context, dim)
        return moved or planned.get(dim, size) != size

    sizes = {str(d): n for d, n in dataset.sizes.items() if is_part(str(d), n)}
    if sizes:
        metadata["selection"] = {"sizes": sizes}
    return dataset.assign_attrs(metadata=metadata)
