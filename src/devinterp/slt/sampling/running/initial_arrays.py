"""What a store holds beside its chains: fixed rows, their labels and masks, and the losses before sampling."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from devinterp.errors import SamplingError
from devinterp.slt.sampling.engine.init_loss import initial_losses, observable_initial_losses
from devinterp.slt.sampling.running.run_plan import RunPlan
from devinterp.store import Run

__all__ = ["write_initial_arrays"]


def write_initial_arrays(plan: RunPlan, run: Run, *, chains_follow: bool) -> None:
    """Write what is not there yet; initial losses are computed once for all variants.

    Parameters
    ----------
    plan : RunPlan
    run : Run
    chains_follow : bool
        Whether the chains are sampled in this process, and can leave out what these passes keep.

    Raises
    ------
    SamplingError
        An initial loss is not finite.
    """
    missing = {group: run.unwritten(group) for group in plan.variants}
    values = _values(plan, {name for names in missing.values() for name in names}, chains_follow)
    for group, names in missing.items():
        each = plan.variants[group].settings
        own = {**values, "n_beta": each.n_beta}
        if "init_loss" in own:
            own["init_loss"] = own["init_loss"][: each.num_chains]
        for name in names:
            run.write_array(group, name, own[name])


def _values(plan: RunPlan, wanted: set[str], chains_follow: bool) -> dict[str, Any]:
    """Return the arrays by name; losses only where they are wanted."""
    settings = [variant.settings for variant in plan.variants.values()]
    device = torch.device(plan.device)
    values: dict[str, Any] = {}
    for observable in plan.observables:
        batch = observable.batch()
        if batch.tokens:
            values[f"input_ids_{observable.obs_id}"] = batch.ids.numpy()
        values[f"row_{observable.obs_id}"] = observable.rows
        values[f"label_{observable.obs_id}"] = observable.labels
        values[f"mask_{observable.obs_id}"] = observable.held.counts
    if "init_loss" in wanted:
        most = max(settings, key=lambda each: each.num_chains)
        values["init_loss"] = initial_losses(plan.model, plan.loss, most, plan.data, device, plan.first_loss())
    if any(f"init_loss_{observable.obs_id}" in wanted for observable in plan.observables):
        evaluator = plan.evaluator_at_start() if chains_follow else None
        losses = observable_initial_losses(
            plan.model, plan.loss, settings[0], plan.observables, device, evaluator, plan.first_sampled()
        )
        values |= {f"init_loss_{obs_id}": loss for obs_id, loss in losses.items()}
    for name, array in values.items():
        if name.startswith("init_loss") and not np.isfinite(array[_counted(plan, name, array)]).all():
            raise SamplingError(
                f"The initial loss is not finite ({_where(plan, name, array)}); nothing can be measured against it.",
                remedy="Look at the model's losses on these rows.",
            )
    return values


def _counted(plan: RunPlan, name: str, losses: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Say where an initial loss must be a number: of the minibatches, where any of their rows counts."""
    for observable in plan.observables:
        if name == f"init_loss_{observable.obs_id}" and observable.held.counts is not None:
            return observable.held.counts
    if name == "init_loss" and plan.data.held.counts is not None:
        return ~np.isnan(losses) if np.isfinite(losses).any(axis=1).all() else np.ones(losses.shape, dtype=bool)
    return np.ones(losses.shape, dtype=bool)


def _where(plan: RunPlan, name: str, losses: npt.NDArray[np.float32]) -> str:
    """Say which rows of an initial loss are not finite."""
    for observable in plan.observables:
        if name == f"init_loss_{observable.obs_id}":
            return f"{name}: {observable.not_finite(np.where(_counted(plan, name, losses), losses, 0))}"
    chain, position = (int(index[0]) for index in np.nonzero(~np.isfinite(losses)))
    return f"{name}: the first batches of chain {chain}, at token position {position}"
