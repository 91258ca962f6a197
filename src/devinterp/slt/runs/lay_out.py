"""Results of single runs laid out side by side along new dimensions, whatever these are."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from devinterp.errors import ProvenanceError
from devinterp.slt.runs.results import told

__all__ = ["lay_out", "shared_attrs"]

RAGGED = ("chain", "draw", "step")
"""Dimensions along which runs may have other sizes: NaN fills up."""


def lay_out(
    results: Mapping[Any, xr.Dataset],
    axes: Mapping[str, Any],
    places: Mapping[Any, tuple[int, ...]] | None = None,
    *,
    what: str,
) -> xr.Dataset:
    """Put results side by side.

    Parameters
    ----------
    results : mapping to Dataset
        By restriction, checkpoint or cell, with the same variables.
    axes : mapping of str to array
        The new leading dimensions and their coordinates.
    places : mapping to tuple of int, optional
        Where each result stands along `axes`; by default one after the other along the only one. Where nothing stands
        there is NaN.
    what : str
        What is put side by side, for messages: ``"checkpoints of the series"``.

    Returns
    -------
    xarray.Dataset
        A coordinate along chains, draws or steps is kept where all results have the same.

    Raises
    ------
    ProvenanceError
        They are of other restrictions, rows or positions.
    """
    keys = list(results)
    places = {key: (i,) for i, key in enumerate(keys)} if places is None else places
    first = results[keys[0]]
    sizes = {dim: max(r.sizes.get(dim, 0) for r in results.values()) for dim in first.dims}
    fixed = {name: c.variable for name, c in first.coords.items() if not set(c.dims) & set(RAGGED)}
    for key, result in results.items():
        same = all(result.sizes.get(dim) == size for dim, size in sizes.items() if dim not in RAGGED)
        if not same or any(
            name not in result.coords or not v.equals(result[name].variable) for name, v in fixed.items()
        ):
            raise ProvenanceError(
                f"The {what} have different weight restrictions or rows.",
                expected=f"those of {keys[0]!r} everywhere",
                found=f"others in {key!r}",
                remedy="Select what all have, or analyse them one by one.",
            )
    shape = tuple(len(axis) for axis in axes.values())
    laid: dict[Hashable, Any] = {}
    for name, variable in first.data_vars.items():
        if not all(name in result for result in results.values()):
            continue
        values = np.full((*shape, *(sizes[d] for d in variable.dims)), np.nan, dtype=variable.dtype)
        for key, result in results.items():
            own = result[name].transpose(*variable.dims).values
            place: tuple[Any, ...] = (*places[key], *(slice(n) for n in own.shape))
            values[place] = own
        laid[name] = ((*axes, *variable.dims), values, variable.attrs)
    coords = dict(fixed)
    for name, c in first.coords.items():
        if name not in fixed and all(
            name in r.coords and c.variable.equals(r[name].variable) for r in results.values()
        ):
            coords[name] = c.variable
    return xr.Dataset(laid, coords={**coords, **{name: (name, axis) for name, axis in axes.items()}})


def shared_attrs(results: Mapping[Any, xr.Dataset], *, each: Collection[str] = ()) -> dict[str, Any]:
    """Return the attributes that results share; one that differs, or is among ``each``, as a mapping by their names."""
    first = next(iter(results.values()))
    return {
        str(key): value
        if key not in each and all(r.attrs.get(key) == value for r in results.values())
        else {str(name): told(r.attrs, str(key)) for name, r in results.items()}
        for key, value in first.attrs.items()
    }
