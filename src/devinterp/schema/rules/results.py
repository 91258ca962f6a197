"""Relations inside results: LLC, BIF and susceptibilities."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devinterp.plain_json import listed
from devinterp.schema.reading.nodes import NotReadableError
from devinterp.schema.rules.context import Context
from devinterp.schema.rules.registry import Problem, predicate

__all__: list[str] = []

# Correlations are float32 products of standardised losses.
_CORRELATION = 1e-5


@predicate("llc_identities", kind="relation")
def llc_identities(context: Context) -> Iterator[Problem]:
    """llc_mean and llc_std are those of llc_per_chain, over the chains that are not NaN."""
    yield from moments_of_chains(context, of="llc_per_chain", mean="llc_mean", std="llc_std")


@predicate("moments_of_chains", kind="relation")
def moments_of_chains(context: Context, *, of: str, mean: str, std: str) -> Iterator[Problem]:
    """Mean and standard deviation (ddof 0) are those over the chains that are not NaN."""
    names = (mean, std)
    if not context.has(of, *names):
        return
    per_chain = context.read(of).astype(np.float64)
    tolerance = 1e-4 if context.group.arrays[of].dtype == "float32" else 1e-9
    counted = np.isfinite(per_chain).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = np.where(np.isfinite(per_chain), per_chain, 0.0).sum(axis=-1)
        centre = np.where(counted > 0, total / counted, np.nan)
        apart = np.where(np.isfinite(per_chain), per_chain - np.expand_dims(centre, -1), 0.0)
        spread = np.where(counted > 0, np.sqrt((apart**2).sum(axis=-1) / counted), np.nan)
    # The spread of nearly equal numbers is only as good as the numbers.
    scale = tolerance * np.maximum(np.abs(centre), 1e-12)
    for name, wanted in zip(names, (centre, spread), strict=True):
        found = context.read(name).astype(np.float64)
        if found.shape != wanted.shape:
            continue  # the dimensions have their own finding
        close = (np.abs(found - wanted) <= scale + tolerance * np.abs(wanted)) | (np.isnan(found) & np.isnan(wanted))
        if not close.all():
            where = int(np.flatnonzero(~close.ravel())[0])
            yield Problem(f"{name} is not that of {of}.", wanted.ravel()[where], found.ravel()[where], name)


@predicate("sum_of_products", kind="relation")
def sum_of_products(context: Context, *, variable: str, terms: list[list[Any]]) -> Iterator[Problem]:
    """A variable is a sum of products of other variables, of numbers, and of numbers in attributes (``@n_beta``)."""
    values = _terms(context, terms) if context.has(variable) else None
    if values is None:
        return
    found, dims = context.read(variable).astype(np.float64), context.group.arrays[variable].dims
    wanted, size = (sum(each) for each in (values, [abs(v) for v in values]))
    if set(wanted.dims) != set(dims) or wanted.transpose(*dims).shape != found.shape:
        return  # the dimensions have their own finding
    wanted, size = (v.transpose(*dims).values for v in (wanted, size))
    close = (np.abs(found - wanted) <= 1e-9 * size) | (np.isnan(found) & np.isnan(wanted))
    if not close.all():
        where = int(np.flatnonzero(~close.ravel())[0])
        said = " + ".join(" * ".join(str(factor).lstrip("@") for factor in term) for term in terms)
        yield Problem(
            f"{variable} does not follow from the other numbers.",
            f"{said} = {wanted.ravel()[where]:.9g}",
            f"{found.ravel()[where]:.9g}",
            variable,
        )


def _terms(context: Context, terms: list[list[Any]]) -> list[Any] | None:
    """Return the products with their dimensions, or None where one is not known."""
    import xarray as xr

    out = []
    for term in terms:
        product = xr.Variable((), 1.0)
        for factor in term:
            value = factor
            if isinstance(factor, str) and factor.startswith("@"):
                value = context.setting(factor[1:])
            elif isinstance(factor, str):
                known = context.has(factor)
                value = xr.Variable(context.group.arrays[factor].dims, context.read(factor)) if known else None
            if isinstance(value, bool) or not isinstance(value, int | float | xr.Variable):
                return None  # of a study an attribute is a mapping
            product = product * value
        out.append(product)
    return out


@predicate("llc_from_trace", kind="relation")
def llc_from_trace(context: Context) -> Iterator[Problem]:
    """llc_per_chain and llc_scalar are n_beta * (mean of loss_trace - init_loss), where a single run says n_beta.

    Where there is a loss_count, the mean is that over the losses which count.
    """
    n_beta = context.setting("n_beta")
    if not context.has("llc_per_chain", "llc_scalar", "loss_trace", "init_loss") or context.has("wr"):
        return
    if isinstance(n_beta, bool) or not isinstance(n_beta, int | float) or not math.isfinite(n_beta):
        return
    per_chain, trace = (context.read(n).astype(np.float64) for n in ("llc_per_chain", "loss_trace"))
    init, scalar = (context.read(n).astype(np.float64) for n in ("init_loss", "llc_scalar"))
    if trace.ndim != 2 or per_chain.shape != trace.shape[:1] or init.shape or scalar.shape:
        return  # stacked along checkpoints; or the sizes have their own finding
    weights = context.read("loss_count") if context.has("loss_count") else np.ones(trace.shape)
    if weights.shape != trace.shape:
        return
    trace = np.where(weights > 0, trace, 0.0)
    used, weights = trace[np.isfinite(per_chain)], weights[np.isfinite(per_chain)]
    # Of chains of different lengths those draws count that all of them have.
    length = int(np.isfinite(used).sum(axis=1).min(initial=trace.shape[1]))
    if not used.size or not length or not np.isfinite(used[:, :length]).all():
        return
    # The trace was rounded to single precision after the estimate was made.
    tolerance = abs(n_beta) * 1e-6 * (float(np.abs(used[:, :length]).max()) + abs(float(init))) + 1e-9
    used, weights = used[:, :length], weights[:, :length]
    if not (weights.sum(axis=1) > 0).all():
        return
    wanted = n_beta * (np.average(used, axis=1, weights=weights) - init)
    whole = n_beta * (np.average(used, weights=weights) - init)
    found = per_chain[np.isfinite(per_chain)]
    for name, ours, theirs in (("llc_per_chain", wanted, found), ("llc_scalar", whole, scalar)):
        off = np.abs(np.atleast_1d(ours - theirs))
        if not (off <= tolerance).all():  # NaN too
            worst = int(np.argmax(np.nan_to_num(off, nan=np.inf)))
            yield Problem(
                f"{name} does not follow from loss_trace, init_loss and n_beta.",
                f"n_beta * (mean of loss_trace - init_loss) = {np.atleast_1d(ours)[worst]:.9g}",
                f"{np.atleast_1d(theirs)[worst]:.9g}",
                name,
            )


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
                yield Problem(f"{name} lies behind the last token.", f"below {positions}", int(found.max()), name)
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
        yield Problem("An influence has not the sign that it is listed under.", name="influences")
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


def _flat(context: Context, position: str) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], int] | None:
    names = listed(context.attrs, "dataset_id_to_name")
    told = isinstance(context.attrs.get("dataset_id_to_name"), list | str)
    if not context.has("dataset_id", "batch", position) or not told:
        return None
    total = context.group.arrays["dataset_id"].shape
    if len(total) != 1 or 5 * 8 * total[0] > context.budget:
        raise NotReadableError(f"the flat index has {math.prod(total)} entries, more than fit the memory limit at once")
    parts = [context.read(n) for n in ("dataset_id", "batch", position)]
    return None if len({p.shape for p in parts}) > 1 else (parts[0], parts[1], parts[2], len(names))


@predicate("flat_bijection", kind="relation")
def flat_bijection(context: Context, *, position: str, start: int) -> Iterator[Problem]:
    """Every (observable, row, position) exactly once, every row with the same positions, or of a masked one some."""
    flat = _flat(context, position)
    if flat is None:
        return
    dataset, row, place, count = flat
    masked, names = (listed(context.attrs, key) for key in ("masked", "dataset_id_to_name"))
    gaps = {names.index(name) for name in masked if name in names}
    if dataset.size and (dataset.min() < 0 or dataset.max() >= count):
        yield Problem(
            "dataset_id names an observable that is not there.", f"below {count}", int(dataset.max()), "dataset_id"
        )
        return
    for identity in range(count):
        here = dataset == identity
        rows, places = row[here], place[here] - start
        if not rows.size:
            yield Problem(
                "An observable has no entries.", "every listed observable", f"dataset_id {identity}", "dataset_id"
            )
            continue
        if rows.min() < 0 or places.min() < 0:
            yield Problem(
                "An index is negative.", f"rows from 0, {position} from {start}", f"dataset_id {identity}", position
            )
            continue
        height, width = int(rows.max()) + 1, int(places.max()) + 1
        seen = np.unique(places)
        if seen.size < width:  # of selected positions
            places, width = np.searchsorted(seen, places), seen.size
        whole = height * width == rows.size or identity in gaps
        if not whole or np.unique(rows * width + places).size != rows.size:
            yield Problem(
                "The flat index is not a grid of rows and positions.",
                f"{height} x {width} different pairs",
                f"{rows.size} entries in dataset_id {identity}",
                position,
            )


@predicate("flat_names_agree", kind="relation")
def flat_names_agree(context: Context) -> Iterator[Problem]:
    """Both groups list the same observables in the same order."""
    sus, tokens = context.child("susceptibilities"), context.child("context")
    if sus is None or tokens is None:
        return
    if not all(isinstance(c.attrs.get("dataset_id_to_name"), list | str) for c in (sus, tokens)):
        return  # the attributes have their own finding
    wanted, found = (listed(c.attrs, "dataset_id_to_name") for c in (sus, tokens))
    if wanted != found:
        yield Problem("The groups list different observables.", wanted, found, "context")


@predicate("flat_groups_agree", kind="relation")
def flat_groups_agree(context: Context) -> Iterator[Problem]:
    """Both groups speak of the same observables and rows, and every predicted position has its token."""
    sus, tokens = context.child("susceptibilities"), context.child("context")
    if sus is None or tokens is None or context.attrs.get("rows_are_tokens") in (0, False):
        return
    if listed(sus.attrs, "dataset_id_to_name") != listed(tokens.attrs, "dataset_id_to_name"):
        return  # the lists have their own finding
    predicted, there = (_grids(c, p) or {} for c, p in ((sus, "target_position"), (tokens, "position")))
    for identity, (rows, targets) in predicted.items():
        height, places = there.get(identity, (0, np.array([], dtype=np.int64)))
        if rows != height or not np.isin(targets, places).all() or places.size <= targets.size:
            yield Problem(
                "The groups have different rows or positions.",
                f"{rows} rows of {targets.size + 1} tokens or more in dataset_id {identity}",
                f"{height} rows of {places.size} tokens" if height else "none",
                "context",
            )


def _grids(context: Context, position: str) -> Mapping[int, tuple[int, NDArray[np.int64]]] | None:
    """Number of rows, and the positions of them, by observable."""
    flat = _flat(context, position)
    if flat is None:
        return None
    dataset, row, place, count = flat
    here = {identity: dataset == identity for identity in range(count)}
    return {i: (int(row[at].max()) + 1, np.unique(place[at])) for i, at in here.items() if at.any()}
