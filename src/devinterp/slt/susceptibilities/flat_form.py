"""The flat form of susceptibilities: one row per predicted token, three coordinates that say which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import MissingVariableError
from devinterp.slt.runs.results import label_result, refuse_empty, schema_id, string_index

__all__ = ["VALUES", "flat_tree", "group_of"]

VALUES = ("sus", "sus_cov", "sus_shift", "sus_se")

Positions = Sequence[npt.NDArray[np.int64]]


def flat_tree(
    data: Mapping[str, npt.NDArray[np.float32]],
    tokens: Mapping[str, npt.NDArray[np.int64]],
    restrictions: Sequence[str],
    attrs: Mapping[str, Any],
    *,
    probes: Sequence[str] | None = None,
    batches: Positions,
    targets: Positions,
    positions: Positions,
    counts: Sequence[npt.NDArray[np.bool_] | None] | None = None,
    labels: Mapping[str, Sequence[npt.NDArray[Any]]] | None = None,
    checkpoints: npt.NDArray[np.int64] | None = None,
    root: Mapping[str, Any] | None = None,
) -> xr.DataTree:
    """Put flattened values and tokens into the tree of the schema.

    Parameters
    ----------
    data : mapping of str to array, shape (sus_flat, wr) or (checkpoint, sus_flat, wr)
        ``sus`` and what else there is, (observable, batch, target_position) flattened.
    tokens : mapping of str to array, shape (batch, position)
        Token ids of each observable, in the order of ``sus_flat``; empty where rows are not tokens.
    restrictions : sequence of str
        Names, in the order of ``wr``.
    attrs : mapping
        Further attributes of ``/susceptibilities``.
    probes : sequence of str, optional
        The observables; by default those of `tokens`.
    batches, targets, positions : sequence of arrays
        Per observable its rows, the positions predicted (from 1), and those of all tokens (from 0).
    counts : sequence of (array of bool, shape (batch, target_position), or None), optional
        Per observable which of its losses the values are of, where it is not all of them.
    labels : mapping of str to sequence of arrays, optional
        Further coordinates of the rows of each observable.
    checkpoints : array of int64, optional
        Training steps, where the values lead with them.
    root : mapping, optional
        Attributes of the root.

    Returns
    -------
    xarray.DataTree
        Schema ``devinterp/susceptibilities@1``.
    """
    kind = "susceptibilities"
    probes = list(tokens) if probes is None else probes
    names = {"dataset_id_to_name": list(probes)}
    masked = [name for name, mask in zip(probes, counts or (), strict=False) if mask is not None]
    attrs = {**attrs, **({"masked": masked} if masked else {})}
    dims = ("sus_flat", "wr") if checkpoints is None else ("checkpoint", "sus_flat", "wr")
    axes: dict[str, Any] = {"wr": ("wr", string_index(restrictions))}
    axes |= {} if checkpoints is None else {"checkpoint": ("checkpoint", checkpoints)}
    sus = xr.Dataset(
        {variable: (dims, values) for variable, values in data.items()},
        coords=_flat("sus_flat", "target_position", batches, targets, labels or {}, counts),
    ).assign_coords(axes)
    context = xr.Dataset()
    if tokens:
        context = xr.Dataset(
            {"input_ids": ("ctx_flat", np.concatenate([ids.ravel() for ids in tokens.values()]))},
            coords=_flat("ctx_flat", "position", batches, positions, labels or {}),
        )
    told = root or {}
    tree = xr.DataTree.from_dict(
        {
            "/susceptibilities": label_result(
                sus, kind, node="/susceptibilities", attrs={**names, **attrs}, loss_unit=told.get("loss_unit")
            ),
            "/context": label_result(context, kind, node="/context", attrs=names),
        }
    )
    tree.attrs = {"devinterp_schema": schema_id(kind), **told}
    return tree


def _flat(
    dim: str,
    position: str,
    batches: Positions,
    places: Positions,
    labels: Mapping[str, Sequence[npt.NDArray[Any]]],
    counts: Sequence[npt.NDArray[np.bool_] | None] | None = None,
) -> xr.Coordinates:
    """Coordinates dataset_id, batch and position of the flattened rows of several observables, and their labels."""
    sizes = [(rows.size, at.size) for rows, at in zip(batches, places, strict=True)]
    flat: dict[str, list[Any]] = {
        "dataset_id": [np.full(n * m, k, dtype=np.int64) for k, (n, m) in enumerate(sizes)],
        "batch": [np.repeat(rows, m) for rows, (_, m) in zip(batches, sizes, strict=True)],
        position: [np.tile(at, n) for at, (n, _) in zip(places, sizes, strict=True)],
    }
    for name, given in labels.items():
        if name not in flat:
            flat[name] = [np.repeat(rows, m) for rows, (_, m) in zip(given, sizes, strict=True)]
    if counts is not None:
        kept = [slice(None) if mask is None else mask.ravel() for mask in counts]
        flat = {name: [part[at] for part, at in zip(parts, kept, strict=True)] for name, parts in flat.items()}
    joined: dict[str, Any] = {name: (dim, np.concatenate(parts)) for name, parts in flat.items()}
    for name in ("dataset_id", "batch", position):
        joined[name] = (dim, joined[name][1].astype(np.int64))
    return xr.Coordinates(joined, indexes={})


def group_of(result: xr.DataTree, name: str) -> xr.Dataset:
    """Return a group of a result as a dataset.

    Raises `MissingVariableError` where there is none, `DataError` where a selection left nothing of the result.
    """
    if not isinstance(result, xr.DataTree) or name not in result.children:
        raise MissingVariableError(
            "The tree holds no susceptibilities.",
            expected="the groups /susceptibilities and /context",
            found=list(result.children) if isinstance(result, xr.DataTree) else type(result).__name__,
        )
    refuse_empty(result)
    return result[name].to_dataset()
