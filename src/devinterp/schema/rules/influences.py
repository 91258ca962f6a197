"""Relations inside influences: of whole matrices, and of the strongest partners."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devinterp.schema.rules.context import Context
from devinterp.schema.rules.registry import Problem, predicate

__all__: list[str] = []

# Correlations are float32 products of standardised losses.
_CORRELATION = 1e-5


@predicate("bif_indices", kind="relation")
def bif_indices(context: Context) -> Iterator[Problem]:
    """Indices of sequences exist, and so do the positions that are predicted."""
    rows, positions = context.size("batch"), context.size("position")
    for name in ("batch_1", "batch_2"):
        if context.has(name) and rows is not None:
            found = context.read(name)
            if found.size and int(found.max()) >= rows:
                yield Problem(f"{name} names a sequence that is not there.", f"below {rows}", int(found.max()), name)
    for name in ("target_position", "target_position_T"):
        if context.has(name) and positions is not None:
            found = context.read(name)
            if found.size and int(found.max()) >= positions:
                yield Problem(f"{name} lies beyond the last token.", f"below {positions}", int(found.max()), name)
    both = ("target_position", "target_position_T")
    if context.has(*both) and context.size(both[0]) == context.size(both[1]):
        rows_of, columns_of = (context.read(name) for name in both)
        if not np.array_equal(rows_of, columns_of):
            yield Problem(
                "The positions of both sides are not the same.", rows_of.tolist()[:8], columns_of.tolist()[:8], both[1]
            )


@predicate("masked_pairs", kind="relation")
def masked_pairs(context: Context, *, variable: str) -> Iterator[Problem]:
    """NaN stands exactly where a position of either sequence is masked; between sequences, where no position counts."""
    if not context.has("mask", variable, "batch_1", "batch_2"):
        return
    counts = context.read("mask") == 1
    first, second = (context.read(name) for name in ("batch_1", "batch_2"))
    dims, values = context.group.arrays[variable].dims, np.isnan(context.read(variable))
    start = int(dims[:1] == ("checkpoint",))
    if not first.size or not second.size or max(first.max(), second.max()) >= counts.shape[0]:
        return  # the indices have their own finding
    if len(dims) - start == 2:
        wanted = ~(counts[first].any(axis=1)[:, None] & counts[second].any(axis=1))
    else:
        wanted = ~(counts[first][:, None, :, None] & counts[second][None, :, None, :])
    if values.shape[start:] != wanted.shape:
        return  # the sizes have their own finding
    off = values != wanted
    if off.any():
        place = np.argwhere(off)[0]
        where = ", ".join(f"{d}={i}" for d, i in zip(dims, place, strict=True))
        found = "NaN" if values[tuple(place)] else "a number"
        yield Problem(
            f"{variable} is not NaN exactly where a position is masked.",
            "a number" if found == "NaN" else "NaN",
            f"{int(off.sum())} value(s), the first {found} at {where}",
            variable,
        )


@predicate("topk_partners", kind="relation")
def topk_partners(context: Context) -> Iterator[Problem]:
    """Partners are other sequences that are there, the strongest first, of their sign, and with their token."""
    if not context.has("influences", "partner_batch", "batch_1", "sign"):
        return
    names = ("influences", "partner_batch", "batch_1", "sign")
    influences, partner, own, sign = (context.read(n) for n in names)
    if influences.shape != partner.shape or influences.shape[-2:-1] != sign.shape or influences.shape[:1] != own.shape:
        return  # the sizes have their own finding
    there, rows = partner >= 0, context.size("batch")
    if not np.array_equal(there, np.isfinite(influences)):
        yield Problem("There is a partner without an influence, or the other way round.", name="influences")
    if rows is not None and (partner >= rows).any():
        yield Problem(
            "A partner is a sequence that is not there.", f"below {rows}", int(partner.max()), "partner_batch"
        )
    if (there & (partner == own.reshape(-1, *[1] * (partner.ndim - 1)))).any():
        yield Problem("A partner lies in the query's own sequence.", name="partner_batch")
    signed = np.where(there, influences * sign[:, None], 0)
    if (signed < 0).any():
        yield Problem("An influence does not have the sign that it is listed under.", name="influences")
    if (np.abs(np.where(there, influences, 0)) > 1 + _CORRELATION).any():
        yield Problem("A correlation is beyond 1.", "from -1 to 1", float(np.nanmax(np.abs(influences))), "influences")
    if (np.diff(np.where(there, np.abs(influences), -1), axis=-1) > 0).any():
        yield Problem("The strongest partner does not come first.", name="influences")
    if not context.has("partner_position", "partner_token", "input_ids"):
        return
    position, token, ids = (context.read(n) for n in ("partner_position", "partner_token", "input_ids"))
    inside = there & (partner < len(ids)) & (position >= 1) & (position < ids.shape[-1])
    if position.shape != partner.shape or not np.array_equal(inside, there):
        yield Problem("A partner's position is not there.", f"from 1 to {ids.shape[-1] - 1}", name="partner_position")
    elif not np.array_equal(token[there], ids[partner[there], position[there]]):
        yield Problem("A partner's token is not the one at its position.", name="partner_token")


@predicate("bif_correlation", kind="relation")
def bif_correlation(context: Context) -> Iterator[Problem]:
    """Symmetric; a correlation lies in [-1, 1] and is 1 with itself, 0 where a loss is constant."""
    if not context.has("influences", "batch_1", "batch_2"):
        return
    array = context.group.arrays["influences"]
    first, second = context.read("batch_1"), context.read("batch_2")
    start = int(array.dims[:1] == ("checkpoint",))
    if array.dims[start : start + 2] != ("batch_1", "batch_2"):
        return
    if array.shape[start : start + 2] != (first.size, second.size):
        return
    every = context.read("influences")
    for values in every if start else every[None]:
        yield from _one_correlation(context, values, first, second)


def _one_correlation(
    context: Context, values: NDArray[Any], first: NDArray[Any], second: NDArray[Any]
) -> Iterator[Problem]:
    by_token = values.ndim == 4
    if by_token and values.shape[2] != values.shape[3]:
        return  # the sizes have their own finding
    shared, left, right = np.intersect1d(first, second, return_indices=True)
    covariance = _is_covariance(context, values, left, right)
    if not covariance:
        worst = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 0.0
        if worst > 1 + _CORRELATION:
            yield Problem("A correlation is beyond 1.", "from -1 to 1", worst, "influences")
    yield from _asymmetry("influences", values, shared, left, right)
    if not covariance and (by_token or context.setting("correlation_method") == "sequence"):
        yield from _check_diagonal(values, left, right, by_token)


def _asymmetry(
    name: str, values: NDArray[Any], shared: NDArray[Any], left: NDArray[Any], right: NDArray[Any], least: float = 1.0
) -> Iterator[Problem]:
    known = values.size and np.isfinite(values).any()
    scale = max(least, float(np.nanmax(np.abs(values)))) if known else 1.0
    for row in range(shared.size):
        ours, theirs = values[left[row], right], values[left, right[row]]
        mirrored = np.swapaxes(theirs, -1, -2) if values.ndim == 4 else theirs
        difference = np.abs(ours - mirrored)
        if difference.size and float(np.nanmax(difference, initial=0.0)) > 2 * _CORRELATION * scale:
            yield Problem(
                f"The {name} are not symmetric.",
                "the same value under (batch_1, p) and (batch_2, q) exchanged",
                f"a difference of {float(np.nanmax(difference))} in the row of sequence {int(shared[row])}",
                name,
            )
            return


@predicate("symmetric", kind="relation")
def symmetric(context: Context, *, variable: str) -> Iterator[Problem]:
    """What two sequences do to each other is the same either way, and no loss is raised by weight on itself."""
    if not context.has(variable, "batch_1", "batch_2"):
        return
    values, first, second = (context.read(name) for name in (variable, "batch_1", "batch_2"))
    square = values.ndim == 2 or (values.ndim == 4 and values.shape[2] == values.shape[3])
    if not square or values.shape[:2] != (first.size, second.size):
        return  # the sizes have their own finding
    shared, left, right = np.intersect1d(first, second, return_indices=True)
    yield from _asymmetry(variable, values, shared, left, right, least=0.0)
    own = _diagonal(values, left, right, values.ndim == 4)
    if (own > 0).any():
        yield Problem(f"{variable} are positive with themselves.", "0 or less", float(own[own > 0][0]), variable)


def _is_covariance(context: Context, values: NDArray[Any], left: NDArray[Any], right: NDArray[Any]) -> bool:
    said = context.setting("compute_covariance")
    if said is not None:
        return bool(said)
    # The peer's results do not say: a correlation has ones on its diagonal.
    diagonal = _diagonal(values, left, right, values.ndim == 4)
    return bool(diagonal.size) and float(np.median(np.abs(diagonal - 1))) > 1e-3 and values.ndim == 4


def _diagonal(values: NDArray[Any], left: NDArray[Any], right: NDArray[Any], by_token: bool) -> NDArray[Any]:
    blocks = values[left, right]
    return np.diagonal(blocks, axis1=-2, axis2=-1) if by_token else blocks


def _check_diagonal(values: NDArray[Any], left: NDArray[Any], right: NDArray[Any], by_token: bool) -> Iterator[Problem]:
    diagonal = _diagonal(values, left, right, by_token)
    wrong = (np.abs(diagonal - 1) > _CORRELATION) & (diagonal != 0)
    if wrong.any():
        yield Problem(
            "A loss does not correlate with itself.",
            "1 on the diagonal, or 0 for a constant loss",
            float(diagonal[wrong].ravel()[0]),
            "influences",
        )
