"""Correlation kernels: numpy (or torch on a GPU), no labels and no I/O.

Series stand in columns: ``(observation, series)``, as the losses come from the store, so that nothing is transposed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from devinterp.slt.uncertainty.batch_means import Batches

__all__ = ["average_product_se", "matrix_product", "product_se", "standardize", "tiles"]

F32 = npt.NDArray[np.float32]

STANDARDIZE_COLUMNS = 256  # one block in float64 stays within the second-level cache
TORCH_ROWS = 8192  # on a device: enough to fill it
TILE_COLUMNS = 1024  # a tile of the product (4 MB) is bounded and mirrored while it is still in the cache


def standardize(series: F32, *, covariance: bool = False) -> npt.NDArray[np.bool_]:
    """Centre the columns and scale them so that their products are correlations (or covariances), in place.

    Centring and scaling are done in float64 and rounded once. A column that never changes becomes zero, so that its
    correlation with anything, itself included, is 0.

    Parameters
    ----------
    series : array of float32, shape (observation, series)
        Overwritten.
    covariance : bool
        Divide by the square root of (observations - 1), not by the norm.

    Returns
    -------
    array of bool, shape (series,)
        Which columns are constant.
    """
    count, width = series.shape
    constant = np.zeros(width, dtype=bool)
    for start in range(0, width, STANDARDIZE_COLUMNS):
        block = slice(start, min(start + STANDARDIZE_COLUMNS, width))
        wide = series[:, block].astype(np.float64)
        wide -= wide.mean(axis=0)
        squares = np.einsum("ij,ij->j", wide, wide)
        constant[block] = squares == 0.0
        if covariance:
            wide /= np.sqrt(count - 1)
        else:
            wide /= np.sqrt(np.where(squares == 0.0, 1.0, squares))
        series[:, block] = wide
    return constant


def tiles(rows: int, columns: int, step: int, *, symmetric: bool) -> Iterator[tuple[slice, slice]]:
    """Yield the tiles of a matrix, row by row; of a symmetric one only those on and above the diagonal."""
    for i in range(0, rows, step):
        for j in range(i if symmetric else 0, columns, step):
            yield slice(i, min(i + step, rows)), slice(j, min(j + step, columns))


def matrix_product(first: F32, second: F32, *, bound: float | None, device: Any = None, out: F32 | None = None) -> F32:
    """Multiply every column of ``first`` with every column of ``second``.

    Parameters
    ----------
    first, second : array of float32, shape (observation, series)
        Standardised. Where they are the same object, one half of the product is computed and mirrored.
    bound : float or None
        Largest magnitude a product can have; rounding beyond it is cut off.
    device : optional
        A torch device to multiply on; None or ``"cpu"`` is numpy.
    out : array of float32, optional
        Where to put the product.

    Returns
    -------
    array of float32, shape (series of first, series of second)
    """
    rows, columns = first.shape[1], second.shape[1]
    out = np.empty((rows, columns), dtype=np.float32) if out is None else out
    symmetric = first is second
    if device is not None and str(device) != "cpu":
        _torch_product(first, second, out, bound, device)
        return out
    for i, j in tiles(rows, columns, TILE_COLUMNS, symmetric=symmetric):
        tile = np.matmul(first[:, i].T, second[:, j], out=out[i, j])
        if bound is not None:
            np.clip(tile, -bound, bound, out=tile)
        if symmetric and i.start != j.start:
            out[j, i] = tile.T
    return out


def _torch_product(first: F32, second: F32, out: F32, bound: float | None, device: Any) -> None:
    import torch

    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # TF32 would keep 10 bits
    try:
        left = torch.from_numpy(np.ascontiguousarray(first)).to(device)
        right = left if first is second else torch.from_numpy(np.ascontiguousarray(second)).to(device)
        step = TORCH_ROWS
        for i in range(0, out.shape[0], step):
            begin = i if first is second else 0  # of a symmetric product what lies right of the diagonal, and mirrored
            block = left[:, i : i + step].T @ right[:, begin:]
            if bound is not None:
                block.clamp_(-bound, bound)
            torch.from_numpy(out[i : i + step, begin:]).copy_(block)
            if first is second:
                torch.from_numpy(out[i + step :, i : i + step]).copy_(block[:, step:].T)
    finally:
        torch.set_float32_matmul_precision(precision)


def product_se(first: F32, second: F32, product: F32, groups: Batches, *, covariance: bool) -> npt.NDArray[np.float32]:
    """Standard error of a tile of correlations (or covariances), by batch means.

    The correlation is linearised in the draws, ``psi_t = x_t y_t - r (x_t**2 + y_t**2) / 2`` (its influence function),
    and the variance of the sum is estimated from the sums over batches of consecutive draws, which are nearly
    independent where a batch is longer than the autocorrelation.

    Parameters
    ----------
    first, second : array of float32, shape (observation, series)
        Standardised columns.
    product : array of float32, shape (series of first, series of second)
        Their products.
    groups : Batches
        The batches of observations.
    covariance : bool
        The columns were scaled for covariances.

    Returns
    -------
    array of float32, shape of ``product``
    """
    total = np.zeros(product.shape, dtype=np.float32)
    count = first.shape[0]
    for group in groups.together:
        part = np.zeros_like(total)
        for cut in group:
            a, b = first[cut], second[cut]
            part += a.T @ b
            if covariance:
                part -= product * np.float32((cut.stop - cut.start) / count)
            else:
                part -= product * (np.einsum("ij,ij->j", a, a)[:, None] / 2 + np.einsum("ij,ij->j", b, b)[None, :] / 2)
        total += part * part
    result: npt.NDArray[np.float32] = np.sqrt(total * np.float32(groups.scale))
    return result


def average_product_se(first: F32, second: F32, width: int, groups: Batches, *, covariance: bool) -> F32:
    """Standard error of products averaged over both positions of each pair of sequences; see `product_se`.

    Parameters
    ----------
    first, second : array of float32, shape (observation, sequence * width)
        Standardised columns.
    width : int
        Tokens per sequence.
    groups : Batches
        Batches of observations.
    covariance : bool
        The columns were scaled for covariances.

    Returns
    -------
    array of float32, shape (sequence of first, sequence of second)
    """
    count = first.shape[0]
    n1, n2 = first.shape[1] // width, second.shape[1] // width
    a, b = (x.reshape(count, -1, width) for x in (first, second))
    mean_a, mean_b = a.mean(axis=2), b.mean(axis=2)
    squares = [
        np.array(
            [sum(np.einsum("ixt,ixt->xt", x[g], x[g]) for g in group) for group in groups.together], dtype=np.float32
        )
        / (2 * width)
        for x in (a, b)
    ]
    result = np.empty((n1, n2), dtype=np.float32)
    for i in range(n1):
        product = (a[:, i].T @ second).reshape(width, n2, width)
        over_q, over_p = product.mean(axis=2), product.mean(axis=0)  # (p, n2), (n2, q)
        total: Any = np.zeros(n2, dtype=np.float32)
        for k, group in enumerate(groups.together):
            part = np.sum([mean_a[cut, i] @ mean_b[cut] for cut in group], axis=0)
            if covariance:
                part -= over_p.mean(axis=1) * np.float32(sum(cut.stop - cut.start for cut in group) / count)
            else:
                part -= squares[0][k, i] @ over_q + np.einsum("jq,jq->j", squares[1][k], over_p)
            total += part * part
        result[i] = np.sqrt(total * np.float32(groups.scale))
    return result
