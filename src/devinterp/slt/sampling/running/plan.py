"""A run as a value: everything that any process needs to sample any of its chains."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from devinterp.errors import DevinterpWarning, ModelError, StoreConflictError
from devinterp.plain_json import plain_json
from devinterp.schema.model.may_differ import settings_that
from devinterp.slt.sampling.engine.chain import ChainResult, ChainSink, moving, run_chain
from devinterp.slt.sampling.engine.check_model import Probe, choose_device, probe_model
from devinterp.slt.sampling.engine.frozen_prefix import FrozenPrefix
from devinterp.slt.sampling.engine.losses import LossFn, PerTokenLoss
from devinterp.slt.sampling.engine.restore import LENDING, parameter_hooks
from devinterp.slt.sampling.inputs.batches import SamplingData
from devinterp.slt.sampling.inputs.masks import Masks, check_masks, hash_masks, sampled_size, scaled_weights
from devinterp.slt.sampling.inputs.observables import Observable, build_observables
from devinterp.slt.sampling.inputs.provenance import describe_loss, describe_tokenizer, describe_versions, hash_weights
from devinterp.slt.sampling.inputs.rows import TokenRows
from devinterp.slt.sampling.settings import SamplerSettings
from devinterp.store import Location, SamplesRequest, StoreLike, locate
from devinterp.store.reading.path_state import read_group
from devinterp.store.writing.compare_requests import differences

__all__ = ["Plan", "Variant", "check_visited", "describe", "make_plan"]


@dataclass(frozen=True)
class Variant:
    """One samples tree of a run: its settings and the parameters that its chains move."""

    settings: SamplerSettings
    masks: Masks


@dataclass(frozen=True)
class Plan:
    """A checked run.

    Attributes
    ----------
    model : torch.nn.Module
    loss : PerTokenLoss
    data : SamplingData
    observables : tuple of Observable
    variants : mapping of str to Variant
        By group path in the store, ``"/"`` for a run that is not a study.
    device : str
    prefix : FrozenPrefix
        What this process remembers of activations that no chain changes.
    """

    model: nn.Module
    loss: PerTokenLoss
    data: SamplingData
    observables: tuple[Observable, ...]
    variants: Mapping[str, Variant]
    device: str
    prefix: FrozenPrefix = field(default_factory=FrozenPrefix)

    def run(
        self,
        group: str,
        chain: int,
        sink: ChainSink,
        start_state: bytes | None,
        *,
        keep_state: bool,
        should_stop: Callable[[], bool],
        on_step: Callable[[int], None],
    ) -> ChainResult:
        """Sample one chain; see `run_chain`."""
        variant = self.variants[group]
        return run_chain(
            self.model,
            self.loss,
            variant.settings,
            self.data.feed(chain),
            self.observables,
            variant.masks,
            sink,
            chain=chain,
            device=torch.device(self.device),
            start_state=start_state,
            keep_state=keep_state,
            should_stop=should_stop,
            on_step=on_step,
            prefix=self.prefix,
        )

    def depth(self, group: str) -> tuple[int, list[str]]:
        """Return what to sort groups by, so that what one leaves in memory serves the next.

        Parameters are registered in the order of use, as a rule: later ones leave a longer prefix, which goes on from
        the one before.
        """
        names = moving(self.model, self.variants[group].masks, self.variants[group].settings)
        places = (place for place, (name, _) in enumerate(self.model.named_parameters()) if name in names)
        first = next(places, 0)
        return first, sorted(names)


def make_plan(
    model: nn.Module,
    dataset: Any,
    observables: Mapping[str, Any],
    variants: Mapping[str, tuple[SamplerSettings, Mapping[str, Any] | None]],
    *,
    device: str | torch.device | None,
    loss_fn: LossFn | None,
) -> Plan:
    """Check everything that a run needs before the model is called, without touching a store.

    Parameters
    ----------
    variants : mapping of group path to (settings, masks)
        Settings of several variants differ only in what ``schemas/runs/may_differ.yaml`` lets them.

    Raises
    ------
    SettingError, DataError, ModelError, RestrictionError
        Something does not fit; one clear error, before any sampling.
    """
    if not isinstance(model, nn.Module):
        raise ModelError("model is not a torch module.", expected="torch.nn.Module", found=type(model).__name__)
    if not any(True for _ in model.parameters()):
        raise ModelError("model has no parameters, so there is nothing to sample.")
    chosen = choose_device(device)
    loss = PerTokenLoss(loss_fn)
    checked = {
        group: Variant(settings, check_masks(model, masks, _label(group)))
        for group, (settings, masks) in variants.items()
    }
    settings = [variant.settings for variant in checked.values()]
    data = SamplingData(TokenRows(dataset, "The sampling dataset"), settings)
    built = build_observables(observables, settings[0], length=data.length)
    prefix = FrozenPrefix(minibatches=_come_again(settings, data))
    return Plan(model, loss, data, built, checked, str(chosen), prefix)


def _come_again(settings: Sequence[SamplerSettings], data: SamplingData) -> bool:
    """Whether steps of this run evaluate rows that others have evaluated before."""
    runs = sum(each.num_chains for each in settings) if data.shared else len(settings)
    return runs > 1 or settings[0].num_batches > data.num_rows // settings[0].batch_size


def _label(group: str) -> str:
    return "param_masks" if group == "/" else f"The weight restriction {group.strip('/')!r}"


def describe(
    plan: Plan, *, tokenizer: Any, stacklevel: int, target: StoreLike | None = None, below: str = ""
) -> dict[str, SamplesRequest]:
    """Return what the store is asked for, per group: settings, observables, sizes and provenance.

    The model is called once for it, unless a finished run of the same request is at the target, which tells what that
    would show.

    Parameters
    ----------
    plan : Plan
    tokenizer : HuggingFace tokenizer, str or None
    stacklevel : int
        What a `warnings.warn` in this function needs to point at the caller's line.
    target : path, URL, zarr Store or None
        Where the run is to go.
    below : str
        Path of the plan's groups in that store.

    Raises
    ------
    DataError, ModelError
        The model does not fit the data.
    """
    with LENDING:  # or another thread's chain would be hashed
        requests = _requests(plan, tokenizer)
    probe = None if target is None else _recorded(requests, locate(target), below)
    if probe is None:
        everything = dict.fromkeys(name for variant in plan.variants.values() for name in variant.masks)
        first = next(iter(plan.variants.values())).settings
        device = torch.device(plan.device)
        probe = probe_model(plan.model, plan.loss, first, plan.data, plan.observables, everything, device)
    if probe.random or probe.stateful:
        what = " and ".join(
            text
            for text, found in (
                ("draws random numbers (dropout)", probe.random),
                ("mixes the rows of a batch or changes its buffers (BatchNorm)", probe.stateful),
            )
            if found
        )
        mode = next(iter(plan.variants.values())).settings.mode
        warnings.warn(
            f"The model {what} in mode={mode!r}, so the losses vary for reasons other than its weights. "
            "Pass mode='eval' to switch that off; this run records it in its provenance.",
            DevinterpWarning,
            stacklevel=stacklevel,
        )
    hooked = [name for name, parameter in plan.model.named_parameters() if parameter_hooks(parameter)]
    if hooked:
        warnings.warn(
            f"Hooks on the gradients of {_few(hooked)} are set aside while the model is sampled: the draws are those "
            "of the loss alone. Use param_masks to sample some weights only.",
            DevinterpWarning,
            stacklevel=stacklevel,
        )
    facts = _facts(probe)
    return {g: replace(r, provenance={**r.provenance, **facts}) for g, r in requests.items()}


def _few(names: Sequence[str]) -> str:
    """Name some parameters in a sentence."""
    shown = ", ".join(map(repr, names[:4]))
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"


def _facts(probe: Probe) -> dict[str, Any]:
    facts: dict[str, Any] = {"random_forward": probe.random, "stateful_forward": probe.stateful}
    return facts if probe.vocabulary is None else {**facts, "vocabulary_size": probe.vocabulary}


def _recorded(requests: Mapping[str, SamplesRequest], location: Location, below: str) -> Probe | None:
    """Return what a finished run of these very requests recorded of its probe, None where there is no such run."""
    probe = None
    for group, request in requests.items():
        attributes = (read_group(location, f"{below}{group}") or {}).get("attributes", {})
        stored = attributes.get("metadata", {})
        if attributes.get("completed") != 1 or not isinstance(stored, Mapping):
            return None
        origin = stored.get("provenance", {})
        random, stateful = origin.get("random_forward"), origin.get("stateful_forward")
        if not isinstance(random, bool) or not isinstance(stateful, bool):
            return None
        probe = Probe(origin.get("vocabulary_size"), random, stateful)
        wanted = plain_json(request.metadata())
        if any(differences({**wanted, "provenance": {**wanted["provenance"], **_facts(probe)}}, stored)):
            return None
    return probe


def _requests(plan: Plan, tokenizer: Any) -> dict[str, SamplesRequest]:
    common: dict[str, Any] = {
        "weights": hash_weights(plan.model),
        "dataset": plan.data.identity,
        "observables": {observable.obs_id: observable.provenance() for observable in plan.observables},
        "loss": describe_loss(plan.loss.loss_fn),
        "tokenizer": describe_tokenizer(tokenizer),
        "model": f"{type(plan.model).__module__}.{type(plan.model).__qualname__}",
        "versions": describe_versions(),
    }
    listed = [{"obs_id": o.obs_id, "name": o.name, "batches_per_draw": o.batches_per_draw} for o in plan.observables]
    requests = {}
    for group, variant in plan.variants.items():
        tensors, weights = sampled_size(plan.model, variant.masks)
        requests[group] = SamplesRequest(
            parameters=variant.settings.as_dict(),
            observables=[dict(each) for each in listed],
            sizes={"token_pos": plan.data.length - 1},
            provenance={
                **common,
                "visited": plan.data.visited(variant.settings),
                "masks": hash_masks(plan.model, variant.masks),
                "sampled": {"parameters": tensors, "weights": weights, **scaled_weights(variant.masks)},
                "mode": variant.settings.mode,
            },
        )
    return requests


def check_visited(plan: Plan, location: Location) -> None:
    """See that a shorter run in the store, which this plan would lengthen, visited the rows that this one begins with.

    Raises
    ------
    StoreConflictError
        It visited others.
    """
    for group, variant in plan.variants.items():
        metadata = (read_group(location, group) or {}).get("attributes", {}).get("metadata", {})
        before = metadata.get("config", {}).get("sampler", {})
        visited = metadata.get("provenance", {}).get("visited")
        counts = {name: before.get(name) for name in settings_that("resume", "grows")}
        longer = {name: getattr(variant.settings, name) for name in counts}
        if visited is None or not all(isinstance(n, int) and 0 < n <= longer[name] for name, n in counts.items()):
            continue  # `open_run` says what is wrong with it
        if counts != longer and plan.data.visited(variant.settings.override(**counts)) != visited:
            raise StoreConflictError(
                f"The run in {location.name} cannot be lengthened: it visited other rows of the sampling dataset.",
                remedy="Choose another output_path, or pass the dataset that the store was sampled on.",
            )
