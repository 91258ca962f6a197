"""The strongest partners of every token or sequence, without the matrix of all pairs.

Memory: the losses, one tile, and k partners per query. Left out are pairs that say nothing: a token with itself, two
tokens of one sequence, and tokens in a prefix that two sequences share, which have the very same loss in both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import DataError
from devinterp.slt.bif.dask_tiles import LazyOperands
from devinterp.slt.bif.kernels import product_se
from devinterp.slt.bif.operands import Source
from devinterp.slt.bif.partners import Strongest, as_matrix, leave_out
from devinterp.slt.bif.request import BifPlan
from devinterp.slt.bif.strongest_dask import gather_strongest
from devinterp.slt.runs.results import label_result, schema_id

__all__ = ["topk_of_source"]

ROW_SERIES, COLUMN_SERIES = 1024, 4096
NOISE_SERIES, NULL_PARTNERS = 64, 512
NULL_SHIFTS = 6


def topk_of_source(source: Source, k: int) -> xr.Dataset:
    """Find the k strongest positive and negative partners of every query.

    Parameters
    ----------
    source : Source
        Where tiles come from, its draws cut into batches: the first operand are the queries, the second the corpus.
    k : int
        Partners of each sign.

    Returns
    -------
    xarray.Dataset
        Schema ``devinterp/bif_topk@1``. ``influences`` (batch_1, target_position, sign, rank) float32, strongest
        first, and beside it ``partner_batch``, ``partner_position`` and ``partner_token`` int64; for sequences
        (batch_1, sign, rank) and ``partner_batch`` alone. NaN and -1 where there are fewer than k. Attributes
        ``effective_draws`` (of a correlation between unrelated losses, autocorrelation included), ``noise_floor``
        (what 95 % of unrelated pairs stay below) and ``noise_floor_strongest`` (what the strongest of that many
        unrelated partners stays below, for 95 % of queries).

    Notes
    -----
    Left out: pairs within one sequence; and of two sequences that begin alike, every pair with a token of the shared
    beginning, since that token has the same context, hence the same loss, in both. Sequences that are identical are
    left out as wholes.
    """
    plan = source.plan
    found = plan.input_ids
    # Of rows that are not tokens none begins like another, as far as anybody can tell.
    ids = np.arange(len(plan.sequences))[:, None] if found is None else found
    tokens = plan.sequences.num_tokens if plan.by_token else 1
    if plan.by_token and not np.array_equal(plan.target_positions, np.arange(1, tokens + 1)):
        raise DataError(
            "top_k needs the losses of every position from the first on, in order: partners within a beginning that "
            "two rows share are left out, and how far that reaches is counted from there.",
            expected=list(range(1, min(tokens, 8) + 1)),
            found=plan.target_positions.tolist()[:8],
            remedy="Compute it of all positions and select in its result (along target_position), or leave out top_k.",
        )
    best = gather_strongest(source, k, ids) if isinstance(source, LazyOperands) else _strongest(source, k, ids)
    return _result(source, k, ids, tokens, best, _effective_draws(source))


def _strongest(source: Source, k: int, ids: npt.NDArray[np.int64]) -> dict[int, Strongest]:
    """Go through all pairs tile by tile; by sign, 1 and -1."""
    plan = source.plan
    tokens = plan.sequences.num_tokens if plan.by_token else 1
    best = {sign: Strongest.empty(plan.first.size * tokens, k) for sign in (1, -1)}
    step = (max(1, ROW_SERIES // tokens), max(1, COLUMN_SERIES // tokens))
    for i in range(0, plan.first.size, step[0]):
        rows = slice(i, min(i + step[0], plan.first.size))
        for j in range(i if source.symmetric else 0, plan.second.size, step[1]):
            columns = slice(j, min(j + step[1], plan.second.size))
            tile = as_matrix(source.tile(rows, columns)[0])
            leave_out(tile, plan.first[rows], plan.second[columns], ids, tokens, plan.by_token)
            for sign, strongest in best.items():
                strongest.add(tile if sign > 0 else -tile, rows.start * tokens, columns.start * tokens)
            if source.symmetric and columns.stop > rows.stop:
                # What lies right of the diagonal block serves the other sequences as queries too.
                ahead = max(rows.stop, columns.start)
                mirrored = np.ascontiguousarray(tile[:, (ahead - columns.start) * tokens :].T)
                for sign, strongest in best.items():
                    strongest.add(mirrored if sign > 0 else -mirrored, ahead * tokens, rows.start * tokens)
    return best


def _series(plan: BifPlan, sequences: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Places of the series of some sequences that count."""
    counts, width = plan.counts(sequences), plan.sequences.num_tokens if plan.by_token else 1
    return np.arange(sequences.size * width) if counts is None else np.flatnonzero(counts)


def _spread(series: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """At most so many of them, evenly spaced."""
    return np.unique(series[np.linspace(0, series.size - 1, most).round().astype(np.int64)])


def _effective_draws(source: Source) -> float:
    """Draws that a correlation between unrelated losses is worth, by batch means over a sample of pairs."""
    plan = source.plan
    at = [_spread(_series(plan, n), NOISE_SERIES) for n in (plan.first, plan.second)]
    first, second = source.series(*at)
    product = first.T @ second
    assert source.groups is not None  # the noise floor is asked of sources that were made with batches
    spread = product_se(first, second, product, source.groups, covariance=False)
    related = np.abs(product) > 0.9  # a loss with itself, or a constant one (spread 0)
    null = (spread / np.where(related, 1, 1 - product**2))[~related & (spread > 0)]
    count = float(first.shape[0])
    return min(count, 1 + 1 / float((null.astype(np.float64) ** 2).mean())) if null.size else count


def _null_strongest(source: Source, corpus: int) -> float:
    """What the strongest of ``corpus`` unrelated partners stays below for 95 % of queries, by losses out of step.

    Draws of one chain beside other draws of another have nothing to do with each other, but they have all of the
    losses' skewness, from which strong correlations come by chance, and of their autocorrelation. Of log-normal losses,
    squares and fourth powers of Gaussian ones 2 to 8 % of the strongest lie above it, in chains of ten relaxation times
    and more; of Gaussian ones that relax as slowly, hardly any.
    """
    plan = source.plan
    at = [_spread(_series(plan, n), most) for n, most in ((plan.first, NOISE_SERIES), (plan.second, NULL_PARTNERS))]
    first, second = source.series(*at)
    assert source.groups is not None
    chains = source.groups.num_chains
    beside = second.reshape(chains, -1, second.shape[1])
    strongest = []
    for k in range(1, NULL_SHIFTS + 1):
        shift = k * beside.shape[1] // (NULL_SHIFTS + 1)
        moved = np.roll(beside, (k % chains, shift), axis=(0, 1)).reshape(second.shape)
        strongest.append(np.abs(first.T @ moved).max(axis=1))
    found = float(np.quantile(strongest, 0.96))  # a little beyond, since it is an estimate itself
    few, many = (_normal_quantile(n) for n in (at[1].size, corpus))
    return min(1.0, found * (many / few) ** 2)  # tails of skewed losses fall no slower than exponentially


def _normal_quantile(pairs: int) -> float:
    """What the largest magnitude of so many standard normal numbers stays below with 95 %."""
    from scipy import special  # type: ignore[import-untyped]  # ships no types

    return -float(special.ndtri(0.05 / (2 * pairs)))


def _floor(effective: float, pairs: int) -> float:
    """Correlation that the largest of ``pairs`` unrelated ones stays below with 95 % (Fisher's z)."""
    return float(np.tanh(_normal_quantile(pairs) / np.sqrt(max(1.0, effective - 3))))


def _result(
    source: Source,
    k: int,
    ids: npt.NDArray[np.int64],
    tokens: int,
    best: dict[int, Strongest],
    effective: float,
) -> xr.Dataset:
    plan = source.plan
    shape = (plan.first.size, tokens, k) if plan.by_token else (plan.first.size, k)
    partners = np.stack([s.partners.reshape(shape) for s in best.values()], axis=-2)
    values = np.stack([sign * s.values.reshape(shape) for sign, s in best.items()], axis=-2)
    found = partners >= 0
    values[~found] = np.nan
    sequence = np.where(found, plan.second[np.maximum(partners, 0) // tokens], -1)
    dims = ("batch_1", "target_position", "sign", "rank") if plan.by_token else ("batch_1", "sign", "rank")
    data: dict[str, Any] = {"influences": (dims, values), "partner_batch": (dims, sequence)}
    coords: dict[str, Any] = {"batch_1": plan.first, "sign": np.array(list(best), dtype=np.int64)}
    coords |= plan.row_labels(batch_1=plan.first)
    if plan.by_token:
        position = np.maximum(partners, 0) % tokens
        labels = plan.target_positions
        data["partner_position"] = (dims, np.where(found, labels[position], -1))
        if plan.run.has_tokens:
            data["partner_token"] = (dims, np.where(found, ids[np.maximum(sequence, 0), labels[position]], -1))
        coords["target_position"] = labels
    if plan.run.has_tokens:
        data["input_ids"] = (("batch", "position"), ids)
    corpus = _series(plan, plan.second).size
    attrs = {
        **source.attrs,
        "devinterp_schema": schema_id("bif_topk"),
        "top_k": k,
        "effective_draws": round(effective, 3),
        "noise_floor": round(_floor(effective, 1), 6),
        "noise_floor_strongest": round(max(_floor(effective, corpus), _null_strongest(source, corpus)), 6),
    }
    for setting in ("average_tokenwise_bif", "compute_covariance"):
        attrs.pop(setting)
    return label_result(xr.Dataset(data, coords=coords), "bif_topk", attrs=attrs)
