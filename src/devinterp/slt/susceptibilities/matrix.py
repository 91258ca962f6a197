"""Susceptibilities as a matrix of tokens by restrictions that can be compared, and its principal components.

Raw values are not comparable across restrictions: the susceptibility of a restriction scales with the spread of its
own phi, and with an error of the loss at the start that is common to its whole column. Standardise the columns before
comparing, and remove each token's mean before asking in what restrictions differ.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import xarray as xr

from devinterp.errors import DataError, MissingVariableError, SettingError
from devinterp.slt.susceptibilities.flat_form import VALUES, group_of
from devinterp.wording import one_of

__all__ = ["matrix", "pca", "refuse_missing"]


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
        ``standardize`` has a value that it cannot take, or the result has several checkpoints.
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
    dataset = group_of(result, "susceptibilities")
    if variable not in dataset or variable not in VALUES[:3]:
        raise MissingVariableError(
            f"The result has no {variable!r}.",
            expected=one_of([v for v in VALUES[:3] if v in dataset]),
            remedy="Compute it with terms=True.",
        )
    values = dataset[variable].astype(np.float64)
    rows = [dim for dim in values.dims if dim != "wr"]
    unit = values.attrs.get("units", "nat^2")
    if standardize:
        values = values - values.mean(rows)
        spread = xr.apply_ufunc(np.sqrt, (values**2).mean(rows))  # std() warns of a column of NaN before xarray 2026.9
        values = values / spread.where(spread > 0, 1.0)
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


def refuse_missing(values: xr.DataArray) -> None:
    """Raise `DataError` where some of the values are not finite: nothing can be laid out by them."""
    missing = values.copy(data=~np.isfinite(values.values))
    if not missing.any():
        return
    of = values["wr"].values[missing.any([dim for dim in values.dims if dim != "wr"]).values]
    raise DataError(
        "Some susceptibilities are not finite.",
        expected="a number for each token and restriction",
        found=f"{int(missing.sum())} of {missing.size} without one, of the restrictions {', '.join(map(str, of[:8]))}"
        + (f" and {len(of) - 8} more" if len(of) > 8 else ""),
        remedy="Leave these restrictions out: compute the susceptibilities of a study without them.",
    )
