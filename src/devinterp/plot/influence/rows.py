"""What the rows of an influence are called: by observable and number, and by label."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import DataError, SettingError
from devinterp.plain_json import listed
from devinterp.slt.runs.results import result_of_tokens, with_unit
from devinterp.wording import one_of

__all__ = [
    "describe",
    "kind_of_rows",
    "label_of",
    "numbers_along",
    "observable_of",
    "place_of",
    "position_of",
    "scale_label",
]


def observable_of(result: xr.Dataset, index: int) -> tuple[str, int] | None:
    """Return the observable that a concatenated sequence belongs to and its row there, where the result tells."""
    start = 0
    for name, size in zip(*(listed(result.attrs, key) for key in ("observables", "observable_sizes")), strict=True):
        if index < start + int(size):
            return str(name), index - start
        start += int(size)
    return None


def numbers_along(result: xr.Dataset, dim: str) -> npt.NDArray[np.int64]:
    """Return the coordinate of a dimension; where it has none, rows are counted from 0, and predicted tokens from 1.

    Raises
    ------
    DataError
        A dimension of positions has no coordinate, and not as many positions as the rows have.
    """
    if dim in result.coords:
        return np.asarray(result[dim].values, dtype=np.int64)
    size, first = result.sizes[dim], int(dim.startswith("target_position"))
    if first and size + 1 != result.sizes.get("position", size + 1):
        raise DataError(
            f"It is not known which positions these influences are of: the coordinate {dim!r} is missing.",
            expected=f"{result.sizes['position'] - 1} positions, or the coordinate",
            found=f"{size} positions",
            remedy=f"Select from the result with its coordinate, or assign it: result.assign_coords({dim}=...).",
        )
    return np.arange(first, first + size)


def position_of(result: xr.Dataset, dim: str, index: int) -> int:
    """Return where a sequence, row or position stands along a dimension of the result."""
    labels = numbers_along(result, dim)
    found = np.flatnonzero(labels == index)
    if found.size == 0:
        raise SettingError(
            f"The result has no {'sequence' if dim.startswith('batch') else 'position'} {index} along {dim}.",
            expected=one_of(labels),
            found=index,
        )
    return int(found[0])


def kind_of_rows(result: xr.Dataset) -> str:
    """Return what the rows are: sequences of tokens, or plain rows."""
    return "sequence" if result_of_tokens(result.attrs) else "row"


def place_of(result: xr.Dataset, index: int) -> str:
    """Return a row's observable and number there."""
    found = observable_of(result, index)
    return f"{kind_of_rows(result)} {index}" if found is None else f"{found[0]}, row {found[1]}"


def label_of(result: xr.Dataset, index: int) -> str:
    """Return what a row was called when it was sampled; empty where nobody said."""
    return str(result["label"].values[index]) if "label" in result.coords else ""


def describe(result: xr.Dataset, index: int) -> str:
    """Return a row's place, and its label where it has one."""
    label = label_of(result, index)
    return place_of(result, index) + (f" ({label})" if label else "")


def scale_label(result: xr.Dataset) -> str:
    """Return what stands beside a scale of influences."""
    unit = str(result["influences"].attrs.get("units", "1"))
    covariance = bool(result.attrs.get("compute_covariance", 0))
    return with_unit("influence", f"covariance, {unit}" if covariance else "correlation, dimensionless")
