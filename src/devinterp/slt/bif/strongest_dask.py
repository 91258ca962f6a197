"""The strongest partners, found where the losses are: what comes back are k partners per query, and no influences."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from devinterp.errors import imported
from devinterp.slt.bif.dask_tiles import LazyOperands
from devinterp.slt.bif.kernels import F32
from devinterp.slt.bif.operands import influence_tile
from devinterp.slt.bif.partners import Strongest, as_matrix, leave_out

__all__ = ["gather_strongest"]


def gather_strongest(source: LazyOperands, k: int, ids: npt.NDArray[np.int64]) -> dict[int, Strongest]:
    """Search every pair of blocks of sequences on a worker, and put together what was found for each block of queries.

    ``ids`` is (sequence, position): token ids of all sequences. Returns what was found by sign, 1 and -1.
    """
    dask = imported("dask", extra="dask", purpose="A lazy BIF")
    plan = source.plan
    tokens = plan.sequences.num_tokens if plan.by_token else 1
    first, second = (x.to_delayed().ravel() for x in (source.first, source.second))
    rows, columns = (_bounds(x.chunks[1]) for x in (source.first, source.second))
    shared = dask.delayed(ids)
    search = dask.delayed(partial(_search, tokens=tokens, by_token=plan.by_token, k=k), pure=True, nout=2)
    found: list[list[Any]] = [[] for _ in rows]
    for i, at in enumerate(rows):
        for j, other in enumerate(columns):
            if source.symmetric and j < i:
                continue
            mirror = source.symmetric and i != j
            ours, theirs = search(first[i], second[j], plan.first[at], plan.second[other], shared, (at, other), mirror)
            found[i].append(ours)
            if mirror:
                found[j].append(theirs)
    together = dask.delayed(_together, pure=True)
    parts = dask.compute(*(together(of_block) for of_block in found))
    return {
        sign: Strongest(
            np.concatenate([part[sign][0] for part in parts]), np.concatenate([part[sign][1] for part in parts]), k
        )
        for sign in (1, -1)
    }


Found = dict[int, tuple[F32, npt.NDArray[np.int64]]]


def _search(
    first: F32,
    second: F32,
    queries: npt.NDArray[np.int64],
    corpus: npt.NDArray[np.int64],
    ids: npt.NDArray[np.int64],
    at: tuple[slice, slice],
    mirror: bool,
    *,
    tokens: int,
    by_token: bool,
    k: int,
) -> tuple[Found, Found]:
    """The strongest partners of one block's sequences among another's, and with ``mirror`` the other way round."""
    flat = [np.ascontiguousarray(x).reshape(x.shape[0], -1) for x in (first, second)]
    product, _ = influence_tile(*flat, width=tokens, by_token=by_token, average=False, covariance=False)
    tile = as_matrix(product)
    leave_out(tile, queries, corpus, ids, tokens, by_token)
    return (
        _found(tile, at[1].start * tokens, k),
        _found(np.ascontiguousarray(tile.T), at[0].start * tokens, k) if mirror else {},
    )


def _found(tile: F32, first_partner: int, k: int) -> Found:
    out = {}
    for sign in (1, -1):
        best = Strongest.empty(tile.shape[0], k)
        best.add(tile if sign > 0 else -tile, 0, first_partner)
        out[sign] = best.values, best.partners
    return out


def _together(parts: list[Found]) -> Found:
    """The strongest of one block's queries, of all that was found for them."""
    out = {}
    for sign in (1, -1):
        values, partners = parts[0][sign]
        best = Strongest(values.copy(), partners.copy(), values.shape[1])
        for part in parts[1:]:
            best.merge(*part[sign])
        out[sign] = best.values, best.partners
    return out


def _bounds(sizes: tuple[int, ...]) -> list[slice]:
    return [slice(int(a), int(b)) for a, b in pairwise(np.cumsum([0, *sizes]))]
