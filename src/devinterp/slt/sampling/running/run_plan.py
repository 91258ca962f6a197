"""A run as a value: everything that any process needs to sample any of its chains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from devinterp.errors import StoreConflictError, warn_caller
from devinterp.plain_json import dig
from devinterp.schema.definition.may_differ import settings_that
from devinterp.schema.definition.spec import NAT
from devinterp.slt.batches_seen import batches_seen
from devinterp.slt.sampling.engine.chain import ChainResult, ChainSink, moving, run_chain
from devinterp.slt.sampling.engine.check_model import Probe, check_parameters, choose_device, probe_model
from devinterp.slt.sampling.engine.frozen_prefix import Evaluator, FrozenPrefix
from devinterp.slt.sampling.engine.init_loss import StartLosses
from devinterp.slt.sampling.engine.losses import LossFn, PerTokenLoss
from devinterp.slt.sampling.engine.restore_model import LENDING, parameter_hooks
from devinterp.slt.sampling.inputs.batches import SamplingData
from devinterp.slt.sampling.inputs.observables import Observable, open_observables
from devinterp.slt.sampling.inputs.parameter_masks import Masks, check_masks, hash_masks, sampled_size, scaled_weights
from devinterp.slt.sampling.inputs.provenance import (
    describe_loss,
    describe_tokenizer,
    describe_versions,
    hashing_weights,
    unwrapped,
)
from devinterp.slt.sampling.inputs.rows import SAMPLING, RowOptions, open_rows, read_alike
from devinterp.slt.sampling.inputs.rows_in_memory import lacks_tokens, with_attention
from devinterp.slt.sampling.running.same_computation import Held, describe_computation, reconcile, unproved
from devinterp.slt.sampling.settings import SamplerSettings
from devinterp.store import Location, SamplesRequest, StoreLike, locate
from devinterp.store.reading.path_state import read_group

__all__ = ["RunPlan", "Variant", "check_visited", "describe", "make_plan"]


@dataclass(frozen=True)
class Variant:
    """One samples tree of a run: its settings and the parameters that its chains move."""

    settings: SamplerSettings
    masks: Masks


@dataclass(frozen=True)
class RunPlan:
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
    loss_unit : str
    prefix : FrozenPrefix
        What this process remembers of activations that no chain changes.
    probed : list of Probe
        What `describe` saw of the model, last.
    at_start : StartLosses
        What this process knows of minibatches at the caller's weights.
    """

    model: nn.Module
    loss: PerTokenLoss
    data: SamplingData
    observables: tuple[Observable, ...]
    variants: Mapping[str, Variant]
    device: str
    loss_unit: str = NAT
    prefix: FrozenPrefix = field(default_factory=FrozenPrefix)
    probed: list[Probe] = field(default_factory=list)
    at_start: StartLosses = field(default_factory=dict)

    def first_loss(self) -> npt.NDArray[np.float32] | None:
        """Return the loss of the first chain's first batch, (batch, token_pos), where no other pass would differ."""
        probe = next(iter(self.probed), None)
        quiet = probe is not None and not (probe.random or probe.stateful) and self.loss.loss_fn is None
        return probe.losses if probe is not None and quiet else None

    def first_sampled(self) -> frozenset[str]:
        """Return what the first chain moves that can leave out anything; of the first one where none can."""
        every = sum(1 for _ in self.model.parameters())
        sampled = [names for _, names in sorted(map(self.depth, self.variants))]
        return frozenset(next((names for names in sampled if len(names) < every), sampled[0]))

    def evaluator_at_start(self) -> Evaluator:
        """Return what evaluates the model before any chain, and keeps what the first that can will leave out."""
        settings = next(iter(self.variants.values())).settings
        return Evaluator(
            self.prefix,
            self.model,
            self.first_sampled(),
            torch.device(self.device),
            settings.mode,
            at_start=True,
            checked_later=not settings.init_noise,
        )

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
            at_start=self.at_start,
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
    options: RowOptions | None = None,
) -> RunPlan:
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
    check_parameters(model)
    chosen = choose_device(device)
    checked = {
        group: Variant(settings, check_masks(model, masks, _label(group)))
        for group, (settings, masks) in variants.items()
    }
    settings = [variant.settings for variant in checked.values()]
    options, own_loss = options or RowOptions(), loss_fn is not None
    name = "The sampling dataset"
    rows = open_rows(dataset, name, own_loss=own_loss, loss_mask=options.mask_of(SAMPLING))
    opened = open_observables(observables, settings[0], own_loss=own_loss, options=options)
    built, data = read_alike(
        [rows, *(each.rows for each in opened)],
        lambda: (tuple(each.read(rows) for each in opened), SamplingData(rows, settings)),
    )
    if own_loss and any(lacks_tokens(held) for held in (data.held, *(each.held for each in built))):
        # One loss is called alike with rows of all datasets: with a dict where a token is missing in any.
        data.held = with_attention(data.held)
        built = tuple(replace(each, held=with_attention(each.held)) for each in built)
    loss = PerTokenLoss(loss_fn)
    prefix = FrozenPrefix(minibatches=_come_again(settings, data), any_length=not own_loss)
    return RunPlan(model, loss, data, built, checked, str(chosen), options.loss_unit, prefix)


def _come_again(settings: Sequence[SamplerSettings], data: SamplingData) -> bool:
    """Whether steps of this run evaluate rows that others have evaluated before."""
    runs = sum(each.num_chains for each in settings) if data.shared else len(settings)
    return runs > 1 or settings[0].num_batches > data.num_rows // settings[0].batch_size


def _label(group: str) -> str:
    return "param_masks" if group == "/" else f"The weight restriction {group.strip('/')!r}"


def describe(
    plan: RunPlan, *, tokenizer: Any, target: StoreLike | None = None, below: str = ""
) -> dict[str, SamplesRequest]:
    """Return what the store is asked for, per group: settings, observables, sizes and provenance.

    The model is called once for it, on the first batch: what comes of it is compared with what the store at the target
    was sampled from.

    Parameters
    ----------
    plan : RunPlan
    tokenizer : HuggingFace tokenizer, str or None
    target : path, URL, zarr Store or None
        Where the run is to go.
    below : str
        Path of the plan's groups in that store.

    Raises
    ------
    DataError, ModelError
        The model does not fit the data.

    Warns
    -----
    DevinterpWarning
        The losses vary by themselves, hooks are set aside, parameters get no gradient, or the store does not tell what
        it was sampled from.
    """
    first = next(iter(plan.variants.values())).settings
    device = torch.device(plan.device)
    everything = dict.fromkeys(name for variant in plan.variants.values() for name in variant.masks)

    def probe(evaluator: Evaluator | None = None) -> Probe:
        return probe_model(plan.model, plan.loss, first, plan.data, plan.observables, everything, device, evaluator)

    loss_fn = plan.loss.loss_fn
    with LENDING:  # or another thread's chain would be hashed
        held = Held.by(plan.model, loss_fn)
        with hashing_weights(plan.model) as weights:
            seen = probe(plan.evaluator_at_start())
            plan.probed[:] = [seen]
            requests = _requests(plan, tokenizer, seen, weights())
        computation = describe_computation(plan.model, loss_fn, seen.losses, held, plan.device)
    if seen.random or seen.stateful:
        what = " and ".join(
            text
            for text, found in (
                ("draws random numbers (dropout)", seen.random),
                ("mixes the rows of a batch or changes its buffers (BatchNorm)", seen.stateful),
            )
            if found
        )
        mode = next(iter(plan.variants.values())).settings.mode
        warn_caller(
            f"The model {what} in mode={mode!r}, so the losses vary for reasons other than its weights. "
            "Pass mode='eval' to switch that off; this run records it in its provenance."
        )
    hooked = [name for name, parameter in plan.model.named_parameters() if parameter_hooks(parameter)]
    if hooked:
        warn_caller(
            f"Hooks on the gradients of {_few(hooked)} are set aside while the model is sampled: the draws are those "
            "of the loss alone. Use param_masks to sample some weights only."
        )
    at_draws = [batches_seen(v.settings.as_dict(), plan.data.num_rows) for v in plan.variants.values()]
    blind = next((batches for batches in at_draws if batches is not None and batches.blind), None)
    if blind is not None:
        warn_caller(str(blind))
    if seen.idle:
        warn_caller(
            f"The loss of the first batch gives no gradient to {_few(seen.idle)}. A step leaves alone what has no "
            "gradient, so these are not counted as sampled."
        )
    place = None if target is None else locate(target)
    unknown, doubtful = False, dict[str, None]()
    for group, request in requests.items():
        stored = None if place is None else _stored_provenance(place, f"{below}{group}")
        own: Mapping[str, Any] = {**request.provenance, "computes": computation}
        if stored is not None and "computes" not in stored:  # written before that was recorded
            unknown = True
            own = {**request.provenance, "sampled": _sampled(plan, group, ())}
        elif stored is not None:
            own = {**own, "computes": reconcile(computation, stored["computes"], lambda: probe().losses)}
            if own["computes"] == stored["computes"]:
                doubtful |= dict.fromkeys(unproved(computation, stored["computes"]))
        requests[group] = replace(request, provenance=own)
    if doubtful:
        warn_caller(
            f"Of what the model holds, {_few(list(doubtful))} differ from what {target} was sampled with. The "
            "losses of the first batch are the same, so that it is taken for the same request; where other rows have "
            "another loss now, choose another output_path."
        )
    if unknown:
        warn_caller(
            f"The store {target} does not tell what its model and loss computed, since it was written before that was "
            "recorded. Whether this call computes the same is known only as far as settings, weights, rows, masks and "
            "the source of the loss tell."
        )
    return requests


def _stored_provenance(location: Location, group: str) -> Mapping[str, Any] | None:
    """Return what a samples group at the target says of its origin, None where it says nothing."""
    attributes = (read_group(location, group) or {}).get("attributes", {})
    stored = dig(attributes, "metadata.provenance")
    return stored if isinstance(stored, Mapping) and stored else None


def _few(names: Sequence[str]) -> str:
    """Name some parameters in a sentence."""
    shown = ", ".join(map(repr, names[:4]))
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"


def _requests(plan: RunPlan, tokenizer: Any, probe: Probe, weights: str) -> dict[str, SamplesRequest]:
    model = unwrapped(plan.model)
    common: dict[str, Any] = {
        "weights": weights,
        "dataset": plan.data.identity,
        "observables": {observable.obs_id: observable.provenance() for observable in plan.observables},
        "loss": describe_loss(plan.loss.loss_fn),
        "tokenizer": describe_tokenizer(tokenizer),
        "model": f"{type(model).__module__}.{type(model).__qualname__}",
        "versions": describe_versions(),
        "random_forward": probe.random,
        "stateful_forward": probe.stateful,
    }
    if probe.vocabulary is not None:
        common["vocabulary_size"] = probe.vocabulary
    listed = [{"obs_id": o.obs_id, "name": o.name, "batches_per_draw": o.batches_per_draw} for o in plan.observables]
    config: dict[str, Any] = {} if plan.data.positions is not None else {"rows_are_tokens": False}
    if plan.loss_unit != NAT:  # what goes without saying is not written
        config["loss_unit"] = plan.loss_unit
    optional = {f"label_{o.obs_id}" for o in plan.observables if o.labels is not None}
    optional |= {f"mask_{o.obs_id}" for o in plan.observables if o.held.counts is not None}
    if plan.data.held.counts is not None:
        optional |= {"mask_sampling", "mask_sampling_micro", "step_count"}
    requests = {}
    for group, variant in plan.variants.items():
        requests[group] = SamplesRequest(
            parameters=variant.settings.as_dict(),
            observables=[dict(each) for each in listed],
            sizes={"token_pos": probe.losses.shape[1]},
            config=config,
            optional=frozenset(optional),
            provenance={
                **common,
                "visited": plan.data.visited(variant.settings),
                "masks": hash_masks(plan.model, variant.masks),
                "sampled": _sampled(plan, group, probe.idle),
                "mode": variant.settings.mode,
            },
        )
    return requests


def _sampled(plan: RunPlan, group: str, idle: Sequence[str]) -> dict[str, Any]:
    masks = {name: mask for name, mask in plan.variants[group].masks.items() if name not in idle}
    tensors, weights = sampled_size(plan.model, masks)
    return {"parameters": tensors, "weights": weights, **scaled_weights(masks)}


def check_visited(plan: RunPlan, location: Location) -> None:
    """See that a shorter run in the store, which this plan would lengthen, visited the rows that this one begins with.

    Raises
    ------
    StoreConflictError
        It visited others.
    """
    for group, variant in plan.variants.items():
        metadata = dig(read_group(location, group), "attributes.metadata")
        before, visited = dig(metadata, "config.sampler") or {}, dig(metadata, "provenance.visited")
        counts = {name: before.get(name) for name in settings_that("resume", "grows")}
        longer = {name: getattr(variant.settings, name) for name in counts}
        if visited is None or not all(isinstance(n, int) and 0 < n <= longer[name] for name, n in counts.items()):
            continue  # `open_run` says what is wrong with it
        if counts != longer and plan.data.visited(variant.settings.override(**counts)) != visited:
            raise StoreConflictError(
                f"The run in {location.name} cannot be lengthened: it visited other rows of the sampling dataset.",
                remedy="Choose another output_path, or pass the dataset that the store was sampled on.",
            )
