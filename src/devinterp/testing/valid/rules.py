"""How the rules of what is sampled are satisfied by construction, registered under its predicate."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np

from devinterp.errors import SchemaError
from devinterp.names import SECONDARY, sanitize_observable_name, swept_value
from devinterp.plain_json import dig
from devinterp.schema.definition.may_differ import that
from devinterp.steps import StepLayout
from devinterp.testing.valid.attributes import put
from devinterp.testing.valid.draft import Draft, GroupDraft, rule_maker
from devinterp.wording import shown

__all__: list[str] = []

Arguments = Mapping[str, Any]


# ---- samples -------------------------------------------------------------------------------------------------------


@rule_maker("sanitized_observables")
def _sanitized(draft: Draft, group: GroupDraft, arguments: Arguments) -> None:
    for entry in dig(group.attributes, "metadata.config.observables", []):
        given = draft.members["obs"][entry["obs_id"]].get("name")
        safe = given is not None and sanitize_observable_name(given) == entry["obs_id"]
        entry["name"] = given if safe else entry["obs_id"]


@rule_maker("scalar_equals_parameter")
def _scalar(draft: Draft, group: GroupDraft, arguments: Arguments) -> None:
    if arguments["variable"] in group.names:
        group.set(arguments["variable"], dig(group.attributes, arguments["path"]))


@rule_maker("metric_inequalities")
def _metrics(draft: Draft, group: GroupDraft, arguments: Arguments) -> None:
    """Walk a few parameters by random updates and measure them, as the sampler does."""
    names = {n for n in group.names if n.startswith("metrics_")}
    if not names:
        return
    rng = draft.rng
    chains, steps = group.values["metrics_noise"].shape
    width = int(rng.integers(1, 5))  # with one parameter Cauchy-Schwarz is an equality
    grad, local, decay, noise = (rng.normal(0.0, s, (chains, steps, width)) for s in (1e-2, 3e-3, 1e-3, 2e-2))
    prior = local + decay
    walk = np.cumsum(noise - grad - prior, axis=1)
    distance = np.concatenate([np.zeros((chains, 1, width)), walk[:, :-1]], axis=1)

    def norm(values: Any) -> Any:
        return np.sqrt((values**2).sum(axis=-1))

    measured = {
        "metrics_scaled_grad": norm(grad),
        "metrics_unscaled_grad": norm(grad),
        "metrics_localization": norm(local),
        "metrics_weight_decay": norm(decay),
        "metrics_noise": norm(noise),
        "metrics_distance": norm(distance),
        "metrics_dot_grad_prior": (grad * prior).sum(axis=-1),
        "metrics_dot_grad_noise": (grad * noise).sum(axis=-1),
        "metrics_dot_prior_noise": (prior * noise).sum(axis=-1),
    }
    for name in names & set(measured):
        group.set(name, measured[name])


@rule_maker("chain_states")
def _chain_states(draft: Draft, group: GroupDraft, arguments: Arguments) -> None:
    """Say how each chain ended, and leave fill behind the prefix of those that failed."""
    p = draft.parameters
    steps = StepLayout(*(int(p[n]) for n in ("num_burnin_steps", "num_steps_bw_draws", "num_draws")))
    states, ends = [], []
    for chain in range(int(p["num_chains"])):
        written = draft.recipe.failed.get(chain)
        if written is None:
            states.append({"status": "complete", "reason": None, "step": steps.num_steps})
            ends.append({"draw": steps.draws, "step": steps.num_steps})
            continue
        if not 0 <= written <= steps.draws:
            raise SchemaError(f"Chain {chain} cannot fail after {written} draws.", expected=f"from 0 to {steps.draws}")
        # The chain ended before the next draw, or at it.
        step = int(draft.rng.integers(steps.fewest_steps(written), steps.steps_of(written) + 1))
        states.append({"status": "failed", "reason": f"non-finite loss at step {step}", "step": step})
        ends.append({"draw": written, "step": step})
    put(group.attributes, "metadata.run.chains", states)
    assert group.layout is not None
    for name, layout in group.layout.arrays.items():
        if layout.spec.prefix is not None:
            for chain, end in enumerate(ends):
                group.values[name][chain, end[layout.spec.prefix] :] = layout.fill
    if "draws_written" in group.names:
        group.set("draws_written", [end["draw"] for end in ends])


@rule_maker("paired_losses")
def _paired_losses(draft: Draft, group: GroupDraft, arguments: Arguments) -> None:
    """Give all chains the minibatches of the first, and what a draw before the first step has; fill and masks stay."""
    name, drawn = "init_loss_sampling", "sampling_loss"
    if name not in group.names:
        return
    start, losses = group.values[name], group.values[drawn].copy()
    one = np.fmax.reduce(start, axis=0)  # a number where any chain has one
    group.set(name, np.where(np.isnan(start), start, one))
    if dig(group.attributes, "metadata.config.sampler.num_burnin_steps") == 0:
        losses[:, 0] = np.where(np.isnan(losses[:, 0]), losses[:, 0], np.broadcast_to(one[0], losses[:, 0].shape))
        group.set(drawn, losses)


@rule_maker("positions_count")
def _positions_count(draft: Draft, group: GroupDraft, arguments: Arguments) -> None:
    """Draw masks with a position that counts in every row, and make the losses NaN where none does."""
    assert group.layout is not None
    layouts = group.layout.arrays
    for name in sorted({group.node.mask_of(n) or "" for n in layouts} & layouts.keys()):
        fill: Any = layouts[name].fill
        drawn, written = group.values[name], group.values[name] != fill
        always = draft.rng.integers(0, drawn.shape[-1], (*drawn.shape[:-1], 1))
        masked = (always + 1) % drawn.shape[-1]
        np.put_along_axis(drawn[..., :1, :], masked[..., :1, :], 0, axis=-1)  # a mask is there because of something
        np.put_along_axis(drawn, always, 1, axis=-1)
        group.set(name, np.where(written, drawn, fill))
    mask_values(group)


def mask_values(group: GroupDraft) -> None:
    """Make every value NaN that its mask does not count, and a number that it does."""
    layouts = {} if group.layout is None else group.layout.arrays
    for name, layout in layouts.items():
        mask = layouts.get(group.node.mask_of(name) or "")
        if mask is not None and set(mask.dims) <= set(layout.dims):
            wide = tuple(n if d in mask.dims else 1 for d, n in zip(layout.dims, layout.shape, strict=True))
            counts, values = group.values[mask.name].reshape(wide) == 1, group.values[name]
            own = np.fmax.reduce(values, axis=-1, keepdims=True)  # NaN in a row that was never written
            group.set(name, np.where(counts, np.where(np.isnan(values), own, values), np.nan))


# ---- study ---------------------------------------------------------------------------------------------------------


@rule_maker("study_has_full", stage="plan")
def _has_full(draft: Draft, group: GroupDraft, arguments: Arguments) -> None:
    draft.members["restriction"].setdefault("full", {})
    listed = list(dict.fromkeys([*dig(group.attributes, "metadata.config.restrictions", []), "full"]))
    put(group.attributes, "metadata.config.restrictions", [n for n in listed if n in draft.members["restriction"]])


_PER_CHAIN = ("mask_sampling", "mask_sampling_micro", "init_loss_sampling")


@rule_maker("study_members_agree")
def _members_agree(draft: Draft, group: GroupDraft, arguments: Arguments) -> None:
    """All restrictions were sampled from the same weights, on the same rows, with the same settings."""
    if arguments.get("combined_as") == "series":
        _checkpoints_agree(draft)
        return
    children = [child.root for child in draft.shared.get("children", {}).values()]
    first = children[0]
    rows = {name: shape for name, shape in _shapes(first).items() if name.startswith(("input_ids_", "row_"))}
    for other in children[1:]:
        found = _shapes(other)
        if rows != {name: found[name] for name in found if name.startswith(("input_ids_", "row_"))}:
            raise SchemaError(
                f"The runs of {draft.schema.id} see the same rows, and these children do not.",
                expected=f"those of {first.path}: {shown(sorted(rows))}",
                found=f"other names or sizes in {other.path}",
                remedy="Give members=, sizes= and parameters= of the observables for the whole tree.",
            )
        own = {k: v for k, v in other.attributes["metadata"].items() if k == "run"}
        other.attributes = {**first.attributes, "metadata": {**first.attributes["metadata"], **own}}
        for name in other.names:
            if name.startswith(("input_ids_", "row_", "init_loss_", "mask_", "n_beta")) and name not in _PER_CHAIN:
                other.values[name] = first.values[name].copy()
        mask_values(other)


def _shapes(group: GroupDraft) -> dict[str, tuple[int, ...]]:
    return {} if group.layout is None else {name: array.shape for name, array in group.layout.arrays.items()}


def _checkpoints_agree(draft: Draft) -> None:
    """At every checkpoint the data, the loss and each restriction's masks are those of the first."""
    first, *others = [study.shared["children"] for study in draft.shared["children"].values()]
    for entry in that("series", "never"):
        path = f"metadata.{entry.path}"
        for name, run in ((name, run) for study in others for name, run in study.items() if name in first):
            shared = dig(first[name].root.attributes, path)
            if shared is not None or dig(run.root.attributes, path) is not None:
                put(run.root.attributes, path, deepcopy(shared))


@rule_maker("sampling_task_observed")
def _sampling_task(draft: Draft, group: GroupDraft, arguments: Arguments) -> None:
    children = draft.shared.get("children", {})
    observables = dig(next(iter(children.values())).root.attributes, "metadata.config.observables", [])
    ids = [entry["obs_id"] for entry in observables]
    if dig(group.attributes, "metadata.config.sampling_task") not in ids:
        put(group.attributes, "metadata.config.sampling_task", ids[int(draft.rng.integers(len(ids)))])


# ---- sweep ---------------------------------------------------------------------------------------------------------


@rule_maker("sweep_cells_listed", stage="plan")
def _cells_listed(draft: Draft, group: GroupDraft, arguments: Arguments) -> None:
    group.sizes["cell"] = len(draft.members["cell"])


@rule_maker("sweep_settings")
def _sweep_settings(draft: Draft, group: GroupDraft, arguments: Arguments) -> None:
    """Every cell has settings of its own, and the root says which; what else was drawn they share."""
    lr, n_beta, localization = (float(x) for x in draft.rng.uniform(0.5, 2.0, 3))
    settings = []
    for index, child in enumerate(draft.shared["children"].values()):
        own = {
            "lr": lr * (1 + index // 2),
            "n_beta": n_beta * float(draft.rng.integers(3)),
            "localization": localization * (index % 2),
        }
        child.root.attributes = deepcopy(child.root.attributes)  # they share them with the first cell
        for name, value in own.items():
            put(child.root.attributes, f"metadata.config.sampler.{name}", value)
        child.root.set("n_beta", own["n_beta"])
        settings.append(own)
    for name in ("lr", "n_beta", "localization"):
        group.set(name, [own[name] for own in settings])
    cells = draft.shared["children"].values()
    for name in (name for name in SECONDARY if name in group.names):
        for child in cells:  # a run of the other method has none of the settings of RMSprop
            sampler = child.root.attributes["metadata"]["config"]["sampler"]
            if swept_value(sampler, name) is None:
                put(child.root.attributes, f"metadata.config.sampler.{name}", 0.5)
        group.set(name, [swept_value(child.root.attributes["metadata"]["config"]["sampler"], name) for child in cells])


# ---- series --------------------------------------------------------------------------------------------------------


@rule_maker("series_checkpoints_listed", stage="plan")
def _checkpoints_listed(draft: Draft, group: GroupDraft, arguments: Arguments) -> None:
    group.sizes["checkpoint"] = len(draft.members["checkpoint"])


@rule_maker("series_steps")
def _series_steps(draft: Draft, group: GroupDraft, arguments: Arguments) -> None:
    """The root says which steps there are, and every study has the first one's restrictions and sampling task."""
    group.set("checkpoint", [int(name) for name in draft.members["checkpoint"]])
    studies = [child.root for child in draft.shared["children"].values()]
    for path in ("metadata.config.restrictions", "metadata.config.sampling_task"):
        shared = dig(studies[0].attributes, path)
        for each in (group, *studies):
            put(each.attributes, path, deepcopy(shared))
