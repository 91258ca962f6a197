"""The strongest partners seen so far, and which pairs say nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from devinterp.slt.bif.kernels import F32

__all__ = ["Strongest", "as_matrix", "leave_out"]


@dataclass
class Strongest:
    """The k largest positive values seen so far of every query, and where they came from.

    Attributes
    ----------
    values : array of float32, shape (query, k)
        Descending; 0 where there is none yet.
    partners : array of int64, shape (query, k)
        Series of the corpus; -1 where there is none yet.
    """

    values: F32
    partners: npt.NDArray[np.int64]
    k: int = field(default=1)

    @classmethod
    def empty(cls, queries: int, k: int) -> Strongest:
        """Nothing seen yet."""
        return cls(np.zeros((queries, k), dtype=np.float32), np.full((queries, k), -1, dtype=np.int64), k)

    def add(self, tile: F32, first_query: int, first_partner: int) -> None:
        """Take in a tile, (query, partner); NaN is passed over."""
        at = slice(first_query, first_query + tile.shape[0])
        with np.errstate(invalid="ignore"):
            candidate = tile > self.values[at, -1:]
            if np.count_nonzero(candidate) > 8 * self.k * tile.shape[0] and tile.shape[1] > self.k:
                # Early on half of all values would do: take each query's own k-th largest for the threshold.
                known = np.where(candidate, tile, np.float32(0))
                candidate &= tile >= np.partition(known, -self.k, axis=1)[:, -self.k, None]
        where = np.flatnonzero(candidate)
        if where.size == 0:
            return
        query, partner = np.divmod(where, tile.shape[1])
        value = tile.ravel()[where]
        order = np.lexsort((partner, -value, query))
        query, partner, value = query[order], partner[order], value[order]
        touched, start, count = np.unique(query, return_index=True, return_counts=True)
        rank = np.arange(query.size) - np.repeat(start, count)
        kept = rank < self.k
        line = np.repeat(np.arange(touched.size), count)[kept]
        new_values = np.zeros((touched.size, self.k), dtype=np.float32)
        new_partners = np.full((touched.size, self.k), -1, dtype=np.int64)
        new_values[line, rank[kept]] = value[kept]
        new_partners[line, rank[kept]] = partner[kept] + first_partner
        self.merge(new_values, new_partners, first_query + touched)

    def merge(self, values: F32, partners: npt.NDArray[np.int64], rows: Any = slice(None)) -> None:
        """Take in what was seen elsewhere for some of the queries, all of them by default; both (query, k)."""
        values = np.concatenate([self.values[rows], values], axis=1)
        partners = np.concatenate([self.partners[rows], partners], axis=1)
        best = np.argsort(-values, axis=1, kind="stable")[:, : self.k]
        self.values[rows] = np.take_along_axis(values, best, axis=1)
        self.partners[rows] = np.take_along_axis(partners, best, axis=1)


def as_matrix(tile: F32) -> F32:
    """A tile as (series, series), writable."""
    if tile.ndim == 4:
        tile = tile.transpose(0, 2, 1, 3).reshape(tile.shape[0] * tile.shape[2], -1)
    return np.require(tile, requirements=["C", "W"])


def leave_out(
    tile: F32,
    first: npt.NDArray[np.int64],
    second: npt.NDArray[np.int64],
    ids: npt.NDArray[np.int64],
    tokens: int,
    by_token: bool,
) -> None:
    """Put NaN where a pair says nothing, in place."""
    wide = tile.reshape(first.size, tokens, second.size, tokens)
    alike = np.logical_and.accumulate(ids[first][:, None, :] == ids[second][None, :, :], axis=2).sum(axis=2)
    own = (first[:, None] == second[None, :]) | (alike == ids.shape[1])
    for i, j in np.argwhere(own):
        wide[i, :, j, :] = np.nan
    if not by_token:
        return
    # Token p (from 0) is predicted at p + 1, so its loss is shared where the first p + 2 tokens are.
    shared = np.where(own, 0, np.clip(alike - 1, 0, tokens))
    longest = int(shared.max(initial=0))
    if longest:
        inside = np.arange(longest) < shared[:, :, None]  # (first, second, token)
        wide[:, :longest][inside.transpose(0, 2, 1)] = np.nan
        np.copyto(wide[..., :longest], np.nan, where=inside[:, None, :, :])
