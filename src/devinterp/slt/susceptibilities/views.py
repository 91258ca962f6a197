"""Looking at susceptibilities: token by token, as a comparable matrix, by principal components, for reproducibility.

Raw values are not comparable across restrictions: the susceptibility of a restriction scales with the spread of its
own phi, and with an error of the loss at the start that is common to its whole column. Standardise the columns before
comparing, and remove each token's mean before asking in what restrictions differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import MissingVariableError, SettingError
from devinterp.plain_json import dig, listed
from devinterp.slt.runs.comparable import check_curve
from devinterp.slt.runs.results import SAID_OF_ROWS, refuse_missing
from devinterp.slt.runs.run import Tree, metadata_of, series_members, study_members
from devinterp.slt.runs.side_by_side import along_checkpoints
from devinterp.slt.susceptibilities.flat_form import flat_tree

__all__ = ["flatten", "matrix", "pca", "split_half", "unflatten"]

VALUES = ("sus", "sus_cov", "sus_shift", "sus_se")


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
    sus, context = (_group(result, name) for name in ("susceptibilities", "context"))
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


def matrix(
    result: xr.DataTree, *, standardize: bool | Literal["columns"] = True, variable: str = "sus"
) -> xr.DataArray:
    """Susceptibilities as a matrix of tokens by restrictions, comparable across restrictions.

    Parameters
    ----------
    result : DataTree
        What `devinterp.slt.susceptibilities.compute_susceptibilities` returned.
    standardize : bool or "columns"
        True: each restriction's column to mean 0 and standard deviation 1, then each token's mean over restrictions
        removed: what all restrictions share is gone, in a PCA the axis along which all load alike, which papers
        interpret first. ``"columns"``: the columns only, which keeps it. False: as they are.
    variable : str
        ``sus``, ``sus_cov`` or ``sus_shift``.

    Returns
    -------
    xarray.DataArray
        (sus_flat, wr), float64, with the coordinates of the result. A constant column becomes 0.

    Raises
    ------
    SettingError
        ``standardize`` has no such value, or the result has several checkpoints.
    MissingVariableError
        The result has no such variable.
    """
    values = _comparable(result, standardize, variable)
    if "checkpoint" in values.dims:
        raise SettingError(
            "The result has several checkpoints, and a matrix is of one.",
            found=f"{values.sizes['checkpoint']} checkpoints",
            remedy="Choose one: result.isel(checkpoint=0).",
        )
    return values.transpose("sus_flat", "wr")


def _comparable(result: xr.DataTree, standardize: bool | Literal["columns"], variable: str) -> xr.DataArray:
    """Standardise, of a series over the tokens of all checkpoints at once."""
    if standardize not in (True, False, "columns"):
        raise SettingError("There is no such standardisation.", expected="True, False or 'columns'", found=standardize)
    dataset = _group(result, "susceptibilities")
    if variable not in dataset or variable not in VALUES[:3]:
        raise MissingVariableError(
            f"The result has no {variable!r}.",
            expected=f"one of {[v for v in VALUES[:3] if v in dataset]}",
            remedy="Compute it with terms=True.",
        )
    values = dataset[variable].astype(np.float64)
    rows = [dim for dim in values.dims if dim != "wr"]
    unit = values.attrs.get("units", "nat^2")
    if standardize:
        spread = values.std(rows)
        values = (values - values.mean(rows)) / spread.where(spread > 0, 1.0)
        unit = "1"
    if standardize is True:
        values = values - values.mean("wr")
    values.attrs = {"units": unit, "standardize": str(standardize)}
    return values.rename(variable)


def pca(
    result: xr.DataTree, n_components: int | None = None, *, standardize: bool | Literal["columns"] = True
) -> xr.Dataset:
    """Principal components of the matrix of tokens by restrictions, of a series those of all checkpoints together.

    The components of checkpoints one by one have signs and an order of their own. Joint ones are the same axes at every
    checkpoint: the rows of the matrix are the tokens at each of them, its columns are centred and scaled over all.

    Parameters
    ----------
    result : DataTree
        What `devinterp.slt.susceptibilities.compute_susceptibilities` returned, of a study or of a series.
    n_components : int, optional
        How many; by default all.
    standardize : bool or "columns"
        As in `matrix`; columns are centred in any case.

    Returns
    -------
    xarray.Dataset
        ``scores`` (sus_flat, component), ``loadings`` (component, wr) of unit length, their largest entry positive,
        and ``explained_variance_ratio`` (component,). Of a series the scores are (checkpoint, sus_flat, component), and
        ``variance`` (checkpoint, component) is the mean square of a checkpoint's scores, a share of whose mean over
        checkpoints is explained.

    Raises
    ------
    SettingError
        There are not that many components.
    DataError
        Some of the susceptibilities are not finite.
    """
    values = _comparable(result, standardize, "sus")
    refuse_missing(values)
    rows = [str(dim) for dim in values.dims if dim != "wr"]
    values = values.transpose(*rows, "wr")
    centred = values - values.mean(rows)
    flat = centred.values.reshape(-1, centred.sizes["wr"])
    largest = min(flat.shape)
    count = largest if n_components is None else n_components
    if not 1 <= count <= largest:
        raise SettingError("There are not that many components.", expected=f"from 1 to {largest}", found=n_components)
    left, size, right = np.linalg.svd(flat, full_matrices=False)
    flip = np.sign(right[np.arange(right.shape[0]), np.abs(right).argmax(axis=1)])
    total = float((size**2).sum())
    scores = (left * size * flip)[:, :count].reshape(*centred.shape[:-1], count)
    found = xr.Dataset(
        {
            "scores": ((*rows, "component"), scores),
            "loadings": (("component", "wr"), (right * flip[:, None])[:count]),
            "explained_variance_ratio": ("component", (size**2 / total if total else size)[:count]),
        },
        coords={**values.drop_vars("wr").coords, "wr": values["wr"].variable, "component": np.arange(1, count + 1)},
        attrs={"standardize": str(standardize)},
    )
    if "checkpoint" in rows:
        found["variance"] = (found["scores"] ** 2).mean("sus_flat")
    return found


def split_half(
    wr_map: xr.DataTree | Mapping[str, Tree],
    sampling_task: str | None = None,
    *,
    allow_mixed: bool = False,
    **options: Any,
) -> xr.Dataset:
    """How well susceptibilities from one half of the chains predict those from the other.

    Parameters
    ----------
    wr_map, sampling_task, allow_mixed, **options
        As in `devinterp.slt.susceptibilities.compute_susceptibilities`.

    Returns
    -------
    xarray.Dataset
        ``reproducibility`` (wr,): the correlation over tokens of the first half's column with the second's; and
        ``reproducibility_standardized`` (wr,), the same after `matrix` has removed what all restrictions share. Of a
        series, both (checkpoint, wr).

    Raises
    ------
    SettingError
        A run has fewer than two chains.
    """
    from devinterp.slt.susceptibilities import compute_susceptibilities

    checkpoints = series_members(wr_map)
    if checkpoints is not None:
        mixed = check_curve(checkpoints, allow_mixed=allow_mixed)
        each = {step: split_half(study, sampling_task, **options) for step, study in checkpoints.items()}
        return along_checkpoints(each, mixed=mixed)
    members = study_members(wr_map) or {}
    single = [name for name, tree in members.items() if tree.sizes.get("chain", 1) < 2]
    if single or not members:
        raise SettingError("Halves need at least two chains in every run.", found=f"one chain in {single}")
    task = sampling_task if sampling_task is not None else _recorded_task(wr_map)
    halves = []
    for first in (True, False):
        cut = {}
        for name, tree in members.items():
            middle = tree.sizes["chain"] // 2
            cut[name] = tree.isel(chain=slice(0, middle) if first else slice(middle, None))
        halves.append(compute_susceptibilities(cut, task, **options))
    out = {}
    for name, standardize in (("reproducibility", False), ("reproducibility_standardized", True)):
        a, b = (matrix(half, standardize=standardize).values for half in halves)
        out[name] = ("wr", np.array([_correlation(a[:, k], b[:, k]) for k in range(a.shape[1])]))
    dataset = xr.Dataset(out, coords={"wr": halves[0]["susceptibilities"]["wr"].variable})
    for variable in out:
        dataset[variable].attrs = {"units": "1"}
    return dataset


def _recorded_task(wr_map: Any) -> str | None:
    if not isinstance(wr_map, xr.DataTree):
        return None
    found = dig(metadata_of(wr_map), "config.sampling_task")
    return None if found is None else str(found)


def _correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0


def _folded(
    values: xr.DataArray, shape: tuple[int, int], at: npt.NDArray[np.int64] | None
) -> tuple[tuple[str, ...], npt.NDArray[np.float32]]:
    """Fold ``sus_flat`` into (batch, target_position), behind a leading ``checkpoint`` where there is one.

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


def _group(result: xr.DataTree, name: str) -> xr.Dataset:
    if not isinstance(result, xr.DataTree) or name not in result.children:
        raise MissingVariableError(
            "The tree holds no susceptibilities.",
            expected="the groups /susceptibilities and /context",
            found=list(result.children) if isinstance(result, xr.DataTree) else type(result).__name__,
        )
    return result[name].to_dataset()


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
