"""Relations inside results: LLC, what is made of single terms, and susceptibilities."""

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
    """``variable`` is the sum of the products that ``terms`` lists; ``@n_beta`` is a number in the attributes."""
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
