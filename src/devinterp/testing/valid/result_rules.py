"""How the rules of results are satisfied by construction, registered under its predicate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from devinterp.testing.valid.draft import Draft, GroupDraft, rule_maker

__all__: list[str] = []

Arguments = Mapping[str, Any]


# ---- llc -----------------------------------------------------------------------------------------------------------


@rule_maker("llc_identities")
def _llc(draft: Draft, group: GroupDraft, arguments: Arguments) -> None:
    """Compute every number from the loss trace, as the definition says, with some chains left out."""
    rng = draft.rng
    axis = "step" if "step" in group.dims("loss_trace") else "draw"
    trace = group.values["loss_trace"].astype(np.float64)
    *leading, chains, length = trace.shape
    flat = trace.reshape(-1, chains, length)
    n_beta = float(rng.uniform(1.0, 50.0))
    count = min(len(draft.recipe.failed), chains - 1)
    excluded = sorted(int(c) for c in rng.permutation(chains)[:count])
    used = [c for c in range(chains) if c not in excluded]
    for chain, written in zip(excluded, draft.recipe.failed.values(), strict=False):
        flat[:, chain, min(written, length) :] = np.nan
    counts = np.ones(flat.shape)
    if "loss_count" in group.names:
        counts = rng.integers(1, 9, flat.shape).astype(np.float64)
        group.set("loss_count", counts.reshape(trace.shape))
    weights = counts[:, used]
    whole = (flat[:, used] * weights).sum(axis=(1, 2)) / weights.sum(axis=(1, 2))
    init = whole - rng.uniform(0.0, 1.0, len(flat))
    per_chain = np.full((len(flat), chains), np.nan)
    per_chain[:, used] = n_beta * ((flat[:, used] * weights).sum(axis=2) / weights.sum(axis=2) - init[:, None])
    group.set("loss_trace", flat.reshape(trace.shape))
    group.set("init_loss", init.reshape(leading))
    group.set("llc_per_chain", per_chain.reshape(*leading, chains))
    group.set("llc_mean", per_chain[:, used].mean(axis=1).reshape(leading))
    group.set("llc_std", per_chain[:, used].std(axis=1).reshape(leading))
    group.set("llc_scalar", (n_beta * (whole - init)).reshape(leading))
    facts: dict[str, Any] = {"n_beta": n_beta, "n_chains_used": len(used), "chains_excluded": excluded}
    if "wr" in group.names:  # of a study these are told for every restriction
        facts = {key: json.dumps({str(n): value for n in group.values["wr"]}) for key, value in facts.items()}
    group.attributes.update(over="steps" if axis == "step" else "draws", **facts)
    if "llc_ci" in group.names:
        centre = group.values["llc_mean"][..., None]
        group.set("llc_ci", np.concatenate([centre - 0.5, centre + 0.7], axis=-1))
        group.attributes["ci"] = 0.9


@rule_maker("moments_of_chains")
def _moments(draft: Draft, group: GroupDraft, arguments: Arguments) -> None:
    per_chain = group.values[arguments["of"]]
    group.set(arguments["mean"], per_chain.mean(axis=-1))
    group.set(arguments["std"], per_chain.std(axis=-1))


@rule_maker("sum_of_products")
def _sum(draft: Draft, group: GroupDraft, arguments: Arguments) -> None:
    """Compute the variable, where everything that it is made of is drawn."""
    total: Any = 0.0
    for term in arguments["terms"]:
        product: Any = xr.Variable((), 1.0)
        for factor in term:
            if isinstance(factor, str) and factor.startswith("@"):
                factor = group.attributes.setdefault(factor[1:], float(draft.rng.uniform(1.0, 50.0)))
            known = isinstance(factor, str)
            product = product * (xr.Variable(group.dims(factor), group.values[factor]) if known else factor)
        total = total + product
    group.set(arguments["variable"], total.transpose(*group.dims(arguments["variable"])).values)


@rule_maker("symmetric")
def _symmetric(draft: Draft, group: GroupDraft, arguments: Arguments) -> None:
    """Make what is drawn of pairs minus the covariance of as many random series."""
    name = arguments["variable"]
    places = [group.values[b] for b in ("batch_1", "batch_2")]
    tokens = group.sizes["target_position"] if "target_position" in group.dims(name) else 1
    series = draft.rng.normal(size=(int(max(p.max() for p in places)) + 1, tokens, 8))
    made = -np.einsum("ipk,jqk->ijpq", series[places[0]], series[places[1]])
    group.set(name, made if "target_position" in group.dims(name) else made[:, :, 0, 0])


# ---- bif -----------------------------------------------------------------------------------------------------------


@rule_maker("bif_indices", stage="plan")
def _bif_sizes(draft: Draft, group: GroupDraft, arguments: Arguments) -> None:
    sizes = group.sizes
    sizes["batch"] = max([sizes.get("batch", 3), sizes.get("batch_1", 1), sizes.get("batch_2", 1)])
    sizes["target_position"] = max(1, sizes.get("target_position", 2))
    sizes["position"] = sizes["target_position"] + 1


@rule_maker("bif_indices")
def _bif_indices(draft: Draft, group: GroupDraft, arguments: Arguments) -> None:
    for name in (n for n in ("batch_1", "batch_2") if n in group.names):
        group.set(name, draft.rng.permutation(group.sizes["batch"])[: group.sizes[name]])


@rule_maker("masked_pairs")
def _masked_pairs(draft: Draft, group: GroupDraft, arguments: Arguments) -> None:
    """Draw a mask with a position that counts in every sequence, and make what is of others NaN."""
    if "mask" not in group.names:
        return
    counts = draft.rng.integers(0, 2, group.values["mask"].shape)
    np.put_along_axis(counts, draft.rng.integers(0, counts.shape[1], (counts.shape[0], 1)), 1, axis=1)
    group.set("mask", counts)
    first, second = (counts[group.values[name]] == 1 for name in ("batch_1", "batch_2"))
    for name in group.names & {arguments["variable"], f"{arguments['variable']}_se"}:
        if "target_position" in group.dims(name):
            both = first[:, None, :, None] & second[None, :, None, :]
            group.set(name, np.where(both, group.values[name], np.nan))


@rule_maker("bif_correlation")
def _bif(draft: Draft, group: GroupDraft, arguments: Arguments) -> None:
    """Correlate series: a matrix that was drawn entry by entry would not be a correlation matrix."""
    dims = group.dims("influences")
    token, times = "target_position" in dims, group.sizes["checkpoint"] if "checkpoint" in dims else 1
    made = [_correlated(draft, group, token) for _ in range(times)]
    group.set("influences", np.stack([m for m, _ in made]) if "checkpoint" in dims else made[0][0])
    group.attributes.update(
        correlation_method="token" if token else "sequence",
        compute_covariance=0,
        average_tokenwise_bif=0,
        n_constant_losses=made[0][1],
    )


@rule_maker("topk_partners", stage="plan")
def _more_than_one_sequence(draft: Draft, group: GroupDraft, arguments: Arguments) -> None:
    group.sizes["batch"] = max(2, group.sizes.get("batch", 3), group.sizes.get("batch_1", 1))


@rule_maker("topk_partners")
def _partners(draft: Draft, group: GroupDraft, arguments: Arguments) -> None:
    """Other sequences, weaker and weaker, with the token at a position of theirs."""
    rng, shape = draft.rng, group.values["influences"].shape
    group.set("sign", [1, -1])
    own = group.values["batch_1"].reshape(-1, *[1] * (len(shape) - 1))
    partner = (own + rng.integers(1, group.sizes["batch"], shape)) % group.sizes["batch"]
    group.set("partner_batch", partner)
    group.set("influences", -np.sort(-rng.random(shape), axis=-1) * np.array([1, -1])[:, None])
    if "partner_position" in group.names:
        ids = group.values.get("input_ids")  # rows that are not tokens have none
        last = group.sizes["target_position"] if ids is None else ids.shape[-1] - 1
        position = rng.integers(1, last + 1, shape)
        group.set("partner_position", position)
        if ids is not None and "partner_token" in group.names:
            group.set("partner_token", ids[partner, position])


def _correlated(draft: Draft, group: GroupDraft, token: bool) -> tuple[Any, int]:
    """Correlations of random series, and how many of the series are constant."""
    rng = draft.rng
    count, width = group.sizes["batch"], group.sizes["target_position"] if token else 1
    series = rng.normal(size=(count, width, 12)) + rng.normal(size=12)
    constant = rng.random((count, width)) < 0.1
    series -= series.mean(axis=-1, keepdims=True)
    series /= np.sqrt((series**2).sum(axis=-1, keepdims=True))
    series[constant] = 0.0
    first, second = series[group.values["batch_1"]], series[group.values["batch_2"]]
    product = np.clip(np.einsum("ipn,jqn->ijpq", first, second), -1.0, 1.0)
    return product if token else product[:, :, 0, 0], int(constant.sum())


# ---- susceptibilities ----------------------------------------------------------------------------------------------


@rule_maker("flat_bijection", stage="plan")
def _flat_sizes(draft: Draft, group: GroupDraft, arguments: Arguments) -> None:
    """Choose how many rows and positions each observable has; the groups share them, so the first one chooses."""
    if "shape_of" not in draft.shared:
        names = draft.recipe.attributes.get("dataset_id_to_name", ("code", "math"))
        tokens = max(1, int(draft.recipe.sizes.get("token_pos", 2)))
        rows = [int(r) for r in draft.rng.integers(1, 4, len(names))]
        draft.shared["shape_of"] = {name: (r, tokens) for name, r in zip(names, rows, strict=True)}
    shapes = draft.shared["shape_of"].values()
    extra = 1 - int(arguments["start"])
    flat = _flat_dimension(group)
    group.sizes[flat] = sum(rows * (tokens + extra) for rows, tokens in shapes)
    group.attributes["dataset_id_to_name"] = list(draft.shared["shape_of"])


@rule_maker("flat_bijection")
def _flat_coordinates(draft: Draft, group: GroupDraft, arguments: Arguments) -> None:
    if "dataset_id" not in group.values:  # of rows that are not tokens
        return
    start = int(arguments["start"])
    parts = []
    for index, (rows, tokens) in enumerate(draft.shared["shape_of"].values()):
        batch, position = np.divmod(np.arange(rows * (tokens + 1 - start)), tokens + 1 - start)
        parts.append(np.stack([np.full_like(batch, index), batch, position + start]))
    dataset_id, batch, position = np.concatenate(parts, axis=1)
    group.set("dataset_id", dataset_id)
    group.set("batch", batch)
    group.set(arguments["position"], position)
    _, first, row = np.unique(np.stack([dataset_id, batch]), axis=1, return_index=True, return_inverse=True)
    for name in group.names & {"label", "row_number"}:  # of the row, at whichever position, in both groups
        group.set(name, draft.shared.setdefault(f"{name} of rows", group.values[name][first])[row.ravel()])


def _flat_dimension(group: GroupDraft) -> str:
    return group.node.variables["dataset_id"].dims[0]
