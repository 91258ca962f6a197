"""Susceptibilities by observable, an array of (batch, target_position, wr) each, and back to the flat form."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import MissingVariableError, SettingError
from devinterp.plain_json import listed
from devinterp.slt.runs.results import SAID_OF_ROWS
from devinterp.slt.susceptibilities.flat_form import VALUES, flat_tree, group_of

__all__ = ["flatten", "unflatten"]


def unflatten(result: xr.DataTree) -> xr.DataTree:
    """Give every observable an array of its own.

    Parameters
    ----------
    result : DataTree
        What `devinterp.slt.susceptibilities.compute_susceptibilities` returned; ``sus_flat`` may be a selection, as
        long as whole rows remain.

    Returns
    -------
    xarray.DataTree
        One child per observable: ``sus`` (batch, target_position, wr), and what else there is of it, with ``input_ids``
        (batch, position) beside it; a leading ``checkpoint`` stays in front. NaN where a position does not count.
        `flatten` goes back.

    Raises
    ------
    MissingVariableError
        The tree holds no susceptibilities.
    SettingError
        A selection left rows of unequal length.
    """
    sus, context = (group_of(result, name) for name in ("susceptibilities", "context"))
    names = listed(sus.attrs, "dataset_id_to_name")
    groups: dict[str, xr.Dataset] = {}
    for k, name in enumerate(names):
        inside = sus["dataset_id"].values == k
        if not inside.any():
            continue
        tokens = context["dataset_id"].values == k if "input_ids" in context else np.zeros(0, dtype=bool)
        known = np.unique(sus["target_position"].values[inside])
        ids_rows, ids_position = _grid(context, tokens, "position")[:2] if tokens.size else (known[:0], known)
        holes = ids_position if name in listed(sus.attrs, "masked") else None
        rows, position, at = _grid(sus, inside, "target_position", among=holes)
        part, shape = sus.isel(sus_flat=inside), (rows.size, position.size)
        data: dict[str, Any] = {variable: _folded(part[variable], shape, at) for variable in VALUES if variable in part}
        coords: dict[str, Any] = {"batch": rows, "target_position": position}
        if tokens.size:
            ids = context["input_ids"].values[tokens].reshape(ids_rows.size, ids_position.size)
            order = np.argsort(ids_rows)
            data["input_ids"] = (("batch", "position"), ids[order[np.searchsorted(ids_rows, rows, sorter=order)]])
            coords["position"] = ids_position
        coords |= {name: sus[name].variable for name in ("wr", "checkpoint") if name in sus.coords}
        by_row = np.argsort(part["batch"].values, kind="stable")
        first = by_row[np.searchsorted(part["batch"].values, rows, sorter=by_row)]
        coords |= {
            str(name): ("batch", c.values[first])
            for name, c in part.coords.items()
            if c.dims == ("sus_flat",) and name not in ("dataset_id", "batch", "target_position")
        }
        dataset = xr.Dataset(data, coords=coords)
        for variable in data:
            source = context if variable == "input_ids" else sus
            dataset[variable].attrs = dict(source[variable].attrs)
        groups[f"/{name}"] = dataset
    tree = xr.DataTree.from_dict(groups)
    attrs = {key: value for key, value in sus.attrs.items() if key != "dataset_id_to_name"}
    attrs |= {key: value for key, value in result.attrs.items() if key in SAID_OF_ROWS}
    tree.attrs = {**attrs, "dataset_id_to_name": [name for name in names if f"/{name}" in groups]}
    return tree


def flatten(tree: xr.DataTree) -> xr.DataTree:
    """Put the arrays of `unflatten` back into the flat form, in the order of the attribute ``dataset_id_to_name``.

    Parameters
    ----------
    tree : DataTree
        One child per observable, as `unflatten` returns them.

    Returns
    -------
    xarray.DataTree
        Schema ``devinterp/susceptibilities@1``.

    Raises
    ------
    MissingVariableError
        A child has no ``sus``.
    """
    names = [name for name in listed(tree.attrs, "dataset_id_to_name") or tree.children if name in tree.children]
    children = [tree[name].to_dataset() for name in names]
    if not children or any("sus" not in child for child in children):
        raise MissingVariableError(
            "The tree holds no susceptibilities by observable.",
            expected="children with a variable sus (batch, target_position, wr), as unflatten() returns them",
            found=list(tree.children),
        )
    present = [variable for variable in VALUES if all(variable in child for child in children)]
    holes = listed(tree.attrs, "masked")
    counts = [_numbers(child) if name in holes else None for name, child in zip(names, children, strict=True)]
    order = ("batch", "target_position", "wr")
    flat = {}
    for variable in present:
        parts = [child[variable].transpose(..., *order).values for child in children]
        folded = [part.reshape(*part.shape[:-3], -1, part.shape[-1]) for part in parts]
        kept = [p if at is None else p[..., at.ravel(), :] for p, at in zip(folded, counts, strict=True)]
        flat[variable] = np.concatenate(kept, axis=-2)
    attrs = {str(key): value for key, value in tree.attrs.items() if key not in ("dataset_id_to_name", "masked")}
    root: dict[str, Any] = {key: attrs.pop(key) for key in SAID_OF_ROWS if key in attrs}
    ids = {
        n: child["input_ids"].transpose("batch", "position").values
        for n, child in zip(names, children, strict=True)
        if "input_ids" in child
    }
    return flat_tree(
        flat,
        ids,
        children[0]["wr"].values.tolist(),
        attrs,
        batches=[child["batch"].values for child in children],
        targets=[child["target_position"].values for child in children],
        probes=names,
        positions=[child["position"].values for child in children if "position" in child.coords],
        root=root,
        counts=counts,
        labels={
            str(name): [child[name].values for child in children]
            for name, c in children[0].coords.items()
            if c.dims == ("batch",) and name != "batch" and all(name in child.coords for child in children)
        },
        checkpoints=children[0]["checkpoint"].values if "checkpoint" in children[0].coords else None,
    )


def _folded(
    values: xr.DataArray, shape: tuple[int, int], at: npt.NDArray[np.int64] | None
) -> tuple[tuple[str, ...], npt.NDArray[np.float32]]:
    """Fold ``sus_flat`` into (batch, target_position), after a leading ``checkpoint`` where there is one.

    ``at`` are the places of the values in the folded dimension, where it has others, which become NaN.
    """
    leading = [str(dim) for dim in values.dims if dim not in ("sus_flat", "wr")]
    ordered = values.transpose(*leading, "sus_flat", "wr").values
    if at is not None:
        given = ordered
        ordered = np.full((*given.shape[:-2], shape[0] * shape[1], given.shape[-1]), np.nan, dtype=given.dtype)
        ordered[..., at, :] = given
    folded = ordered.reshape(*ordered.shape[:-2], *shape, ordered.shape[-1])
    return (*leading, "batch", "target_position", "wr"), folded


def _numbers(child: xr.Dataset) -> npt.NDArray[np.bool_]:
    """Where an array of (batch, target_position) has values."""
    values = child["sus"].notnull()
    return np.asarray(values.any([d for d in values.dims if d not in ("batch", "target_position")]).values)


def _grid(
    dataset: xr.Dataset, inside: npt.NDArray[np.bool_], position: str, among: npt.NDArray[np.int64] | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64] | None]:
    """Rows and positions of one observable, in the order that they have; every row must have the same ones.

    Unless it is known ``among`` which positions, in which order, they are: then rows may have gaps, and the places of
    the values are returned, too.
    """
    batch, at = dataset["batch"].values[inside], dataset[position].values[inside]
    rows, positions = (values[np.sort(np.unique(values, return_index=True)[1])] for values in (batch, at))
    if among is not None:
        positions = among[np.isin(among, at)]
        row, column = ((values[:, None] == known).argmax(axis=1) for values, known in ((batch, rows), (at, positions)))
        return rows, positions, row * positions.size + column
    complete = batch.size == rows.size * positions.size
    if not complete or (batch != np.repeat(rows, positions.size)).any() or (at != np.tile(positions, rows.size)).any():
        raise SettingError(
            "The selection does not consist of whole rows, so that it has no rectangular form.",
            expected=f"every {position} of every row that is there, in the same order",
            remedy="Select by batch or observable, or select after unflatten().",
        )
    return rows, positions, None
