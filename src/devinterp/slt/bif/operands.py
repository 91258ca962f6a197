"""Standardised losses, and any tile of a BIF from them; `to_store` and `strongest` cut them into more than one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from devinterp.slt.bif.kernels import F32, average_product_se, matrix_product, product_se, standardize
from devinterp.slt.bif.loss_matrix import LossMatrix
from devinterp.slt.bif.request import BifPlan
from devinterp.slt.uncertainty.batch_means import Batches, batch_groups, sample_of, shares_minibatches

__all__ = ["Counts", "Operands", "Source", "average_tokens", "influence_tile"]

Counts = tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]] | None
"""Which series of both operands count, (sequence, width); None where all do."""


class Source(Protocol):
    """Where tiles of a BIF come from: losses in memory (`Operands`), or on a cluster."""

    @property
    def plan(self) -> BifPlan:
        """What was asked for."""

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of the result."""

    @property
    def groups(self) -> Batches | None:
        """Batches of observations for standard errors."""

    @property
    def symmetric(self) -> bool:
        """Whether both operands are the same sequences."""

    def identity(self) -> str:
        """Hash of what the numbers come from."""

    def series(self, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> tuple[F32, F32]:
        """Standardised columns at some positions of each operand."""

    def tile(
        self, rows: slice, columns: slice, *, se: bool = False
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """Influences of some sequences on some others, and with ``se`` their standard errors."""


@dataclass(frozen=True)
class Operands:
    """Both operands of a BIF, standardised.

    Attributes
    ----------
    first, second : array of float32, shape (observation, sequence * width)
        The same object where they are the same sequences.
    plan : BifPlan
        What was asked for.
    width : int
        Series per sequence.
    groups : Batches or None
        Batches of observations for standard errors.
    attrs : dict
        Attributes of the result.
    device : optional
        Where to multiply.
    """

    first: F32
    second: F32
    plan: BifPlan
    width: int
    groups: Batches | None
    attrs: dict[str, Any]
    device: Any = None

    @classmethod
    def of(cls, plan: BifPlan, losses: LossMatrix, *, batches: bool, device: Any) -> Operands:
        """Standardise the losses, in place; with ``batches`` cut the draws into batches for standard errors first."""
        groups, counts = None, plan.counts(losses.sequences)
        if batches:
            some = losses.values if counts is None else losses.values[:, sample_of(counts.size, counts.ravel())]
            groups = batch_groups(some, losses.num_chains, shared=shares_minibatches(plan.run))
        constant = standardize(losses.values, covariance=plan.covariance)
        if counts is not None:
            constant &= counts.ravel()
        first = losses.columns(plan.first)
        second = first if np.array_equal(plan.first, plan.second) else losses.columns(plan.second)
        attrs = plan.attrs(losses.selection, int(constant.sum()))
        return cls(first, second, plan, losses.width, groups, attrs, device)

    @property
    def symmetric(self) -> bool:
        """Whether both operands are the same sequences."""
        return self.first is self.second

    def identity(self) -> str:
        """Hash of everything that the numbers come from."""
        digest = hashlib.sha256()
        counts = self.plan.sequences.counts
        for part in (self.plan.first, self.plan.second, *(() if counts is None else (counts,))):
            digest.update(part.tobytes())
        for matrix in (self.first,) if self.symmetric else (self.first, self.second):
            for row in matrix:
                digest.update(np.ascontiguousarray(row).data)
        return digest.hexdigest()

    def series(self, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> tuple[F32, F32]:
        """Standardised columns at some positions of each operand."""
        return self.first[:, first], self.second[:, second]

    def tile(
        self, rows: slice, columns: slice, *, se: bool = False
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """Influences of some sequences on some others, and with ``se`` their standard errors."""
        first = self.first[:, rows.start * self.width : rows.stop * self.width]
        same = self.symmetric and rows == columns
        second = first if same else self.second[:, columns.start * self.width : columns.stop * self.width]
        return influence_tile(
            first,
            second,
            width=self.width,
            by_token=self.plan.by_token,
            average=self.plan.average,
            covariance=self.plan.covariance,
            groups=self.groups if se else None,
            counts=self._counts(rows, columns),
            device=self.device,
        )

    def _counts(self, rows: slice, columns: slice) -> Counts:
        first, second = (
            self.plan.counts(chosen[at]) for chosen, at in ((self.plan.first, rows), (self.plan.second, columns))
        )
        return None if first is None or second is None else (first, second)


def influence_tile(
    first: F32,
    second: F32,
    *,
    width: int,
    by_token: bool,
    average: bool,
    covariance: bool,
    groups: Batches | None = None,
    counts: Counts = None,
    device: Any = None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """Influences between two sets of standardised series, and their standard errors.

    ``first`` and ``second`` are (observation, sequence * width); where they are one object, one half is computed and
    mirrored. ``covariance`` says that the columns were scaled for covariances; without ``groups``, batches of
    observations, there are no standard errors (None). ``counts`` are the series of both sides that count, (sequence,
    width), where not all do: the others are 0 in every observation, and what is of them becomes NaN. Returns both as
    (sequence of first, sequence of second, width, width), a view of the product; without the last two dimensions where
    ``average`` is true or ``by_token`` false.
    """
    spread: npt.NDArray[np.float32] | None = None
    if average:
        if groups is not None:
            spread = average_product_se(first, second, width, groups, covariance=covariance)
        same = first is second
        first = average_tokens(first, width)
        second = first if same else average_tokens(second, width)
        groups = None
    product = matrix_product(first, second, bound=None if covariance else 1.0, device=device)
    if groups is not None:
        spread = product_se(first, second, product, groups, covariance=covariance)
    if by_token and not average:
        product, spread = _fold(product, width), None if spread is None else _fold(spread, width)
    if counts is not None:
        product = _of_counted(product, *counts, average=average, bound=None if covariance else 1.0)
        spread = None if spread is None else _of_counted(spread, *counts, average=average, bound=None)
    return product, spread


def _of_counted(
    tile: npt.NDArray[np.float32],
    first: npt.NDArray[np.bool_],
    second: npt.NDArray[np.bool_],
    *,
    average: bool,
    bound: float | None,
) -> npt.NDArray[np.float32]:
    """NaN where a side does not count; an average over all pairs of tokens as that over the pairs that count."""
    if not average:
        if tile.ndim == 2:
            return np.where(first & second.T, tile, np.float32(np.nan))
        return np.where(first[:, None, :, None] & second[None, :, None, :], tile, np.float32(np.nan))
    with np.errstate(divide="ignore", invalid="ignore"):
        more = tuple((side.shape[1] / side.sum(axis=1)) for side in (first, second))
        found = (tile * (more[0][:, None] * more[1])).astype(np.float32)
    return np.asarray(found if bound is None else np.clip(found, -bound, bound))


def average_tokens(values: F32, width: int) -> F32:
    """Average standardised series over the tokens of each sequence: products are then averages of products."""
    wide = values.reshape(values.shape[0], -1, width)
    averaged: F32 = wide.mean(axis=2, dtype=np.float64).astype(np.float32)
    return averaged


def _fold(flat: npt.NDArray[np.float32], width: int) -> npt.NDArray[np.float32]:
    """View (series, series) as (sequence, sequence, token, token), without a copy."""
    return flat.reshape(flat.shape[0] // width, width, flat.shape[1] // width, width).transpose(0, 2, 1, 3)
