"""One chain: the loop over steps, its records, its health, and the state that it can go on from."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy.typing as npt
import torch
from torch import nn

from devinterp.slt.sampling.engine.allocator import give_back_freed_memory, keep_freed_memory
from devinterp.slt.sampling.engine.frozen_prefix import Evaluator, FrozenPrefix, Reuse
from devinterp.slt.sampling.engine.health import Health, not_finite
from devinterp.slt.sampling.engine.init_loss import PairedLosses, StartLosses, losses_or_nan
from devinterp.slt.sampling.engine.losses import NonFiniteError, PerTokenLoss, StepMean
from devinterp.slt.sampling.engine.metrics import pool_metrics
from devinterp.slt.sampling.engine.parameters import SampledParameter
from devinterp.slt.sampling.engine.restore_model import Generators, put_buffers, restoring, same_values, seed_generators
from devinterp.slt.sampling.engine.update import UpdateRule
from devinterp.slt.sampling.inputs.batches import Feed
from devinterp.slt.sampling.inputs.nested import Batch
from devinterp.slt.sampling.inputs.observables import Observable
from devinterp.slt.sampling.inputs.parameter_masks import Masks
from devinterp.slt.sampling.settings import METRICS, SamplerSettings

__all__ = ["ChainResult", "ChainSink", "moving", "run_chain"]

_FLUSH_STEPS = 50  # rows of a chunk on disk
_STATE_VERSION = 1
_LARGE_STATE = 16 * 2**20


class ChainSink(Protocol):
    """Where a chain hands its records; see docs/architecture.md."""

    def steps(self, first_step: int, arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Take the rows of consecutive steps."""

    def draw(self, draw: int, arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Take one draw, whole."""

    def checkpoint_due(self, draws: int) -> bool:
        """Whether a checkpoint should follow `draws` recorded draws."""

    def checkpoint(self, draws: int, step: int, state: bytes) -> None:
        """Keep the state from which the chain goes on with `step`."""

    def finish(self, status: str, reason: str | None, step: int) -> object:
        """End the chain; everything that was taken is written when this returns."""


@dataclass(frozen=True)
class ChainResult:
    """How a chain ended.

    Attributes
    ----------
    chain : int
    status : {"complete", "failed", "interrupted"}
    reason : str or None
        What ended a chain that is not complete.
    step : int
        Steps that were done in full.
    draws : int
        Draws that were recorded.
    reuse : Reuse
        What its evaluations could leave out.
    """

    chain: int
    status: str
    reason: str | None
    step: int
    draws: int
    reuse: Reuse = field(default_factory=Reuse)


@dataclass
class _Records:
    """Rows of steps that wait to be handed over together."""

    first: int
    rows: dict[str, list[Any]] = field(default_factory=dict)
    count: int = 0

    def add(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            self.rows.setdefault(name, []).append(value)
        self.count += 1

    def take(self) -> tuple[int, dict[str, npt.NDArray[Any]]]:
        first, rows = self.first, self.rows
        self.first, self.rows, self.count = first + self.count, {}, 0
        arrays = {name: torch.stack(values).cpu().numpy() for name, values in rows.items()}
        sums = arrays.pop("sums", None)
        if sums is not None:
            pooled = pool_metrics(sums)
            arrays.update({f"metrics_{name}": pooled[:, row].copy() for row, name in enumerate(METRICS)})
        return first, arrays


class _Chain:
    """What a running chain holds. The model is already borrowed."""

    def __init__(
        self,
        model: nn.Module,
        loss: PerTokenLoss,
        settings: SamplerSettings,
        masks: Masks,
        chain: int,
        device: torch.device,
        prefix: FrozenPrefix,
        at_start: StartLosses,
    ) -> None:
        self.model, self.loss, self.settings, self.device = model, loss, settings, device
        parameters = dict(model.named_parameters())
        moved = moving(model, masks, settings)
        self.prefix = prefix
        self.evaluator = Evaluator(prefix, model, moved, device, settings.mode, at_start=not settings.init_noise)
        self.buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        seed_generators(settings.chain_seed(chain), device)
        # What never moves needs neither a copy nor a place in a checkpoint.
        self.rule = UpdateRule(
            [SampledParameter.take(n, parameters[n], masks[n]) for n in masks if n in moved], settings
        )
        self.pairing = PairedLosses(
            model, loss, settings, self.rule.parameters, self.buffers, device, self.evaluator, prefix, at_start
        )
        self.health = Health(device)
        self.step = 0

    def add_init_noise(self) -> None:
        """Move the sampled weights off their start, which localization, box and distance still refer to."""
        scale = self.settings.init_noise
        if not scale:
            return
        for sampled in self.rule.parameters:
            noise = torch.randn_like(sampled.weight) * scale
            sampled.weight.add_(noise if sampled.mask is None else noise * sampled.mask)
            sampled.publish()

    def advance(self, feed: Feed) -> dict[str, torch.Tensor]:
        """Do one step; return its loss (batch, token_pos), diagnostics, and micro-batches where they are kept."""
        settings = self.settings
        parts = settings.gradient_accumulation_steps
        first = self.step * parts
        losses, ids, masks = [], [], []
        seen: list[torch.Tensor] = []

        def not_finite_here(what: str) -> str:
            return not_finite(what, partial(feed.not_finite, first), seen)

        step = StepMean(parts, [feed.counted(first + part) for part in range(parts)])
        for number in range(first, first + parts):
            torch.clear_autocast_cache()  # it keeps weights as they were cast, whatever becomes of them
            batch = feed.batch(number)
            key, here = feed.batch_key(number), batch.to(self.device)
            comes_again = self.prefix.minibatches or self.pairs_now() or self.prefix.kept(key) is not None
            try:
                per_token = self.evaluator(self.evaluate, here, key if comes_again else None)
            except NonFiniteError:  # of the logits, on the CPU
                with torch.no_grad():
                    seen.append(here.where_counted(losses_or_nan(self.model, self.loss, here), 0.0))
                raise NonFiniteError(not_finite_here("the logits")) from None
            if settings.save_step_losses:
                copied = per_token.detach().to(torch.float32, copy=True)
                losses.append(here.where_counted(copied, math.nan))
                ids += [batch.ids] if batch.tokens else []
                masks += [] if batch.counts is None else [batch.counts.to(torch.int8)]
            part, share = step.add(per_token, here)
            self.evaluator.backward_begins()
            part.backward()  # type: ignore[no-untyped-call]
            seen.append(share)
        self.health.expect(self.loss.finite(), partial(not_finite_here, "the logits"))
        mean = step.mean()  # not finite where any loss is not, nor where finite ones are too large to be added
        self.health.expect(self.health.finite(mean), partial(not_finite_here, "the loss"))
        self.rule.step()
        self.evaluator.step_ends()
        self.health.expect(self.rule.finite(), "the weights are not finite")
        record = {"loss": step.losses(), "step_loss": mean}
        if step.count is not None:
            record |= {"mask": step.mask(), "step_count": torch.tensor(step.count)}
        if self.rule.sums is not None:
            record["sums"] = self.rule.sums.clone()
        if settings.save_step_losses:
            record["sampling_loss_micro"] = torch.cat(losses).cpu()
        if ids:
            record["sampling_input_ids_micro"] = torch.cat(ids)
        if masks:
            record["mask_sampling_micro"] = torch.cat(masks)
        return record

    def pairs_now(self) -> bool:
        """Whether the minibatch of this step is evaluated at the start's weights too."""
        return self.settings.save_paired_losses and self.settings.steps.draw_at(self.step) is not None

    def evaluate(self, batch: Batch) -> torch.Tensor:
        """Return the losses at the present weights, (batch, token_pos)."""
        return self.loss(self.model, batch)

    @torch.no_grad()
    def observe(self, observables: Sequence[Observable], fixed: Sequence[Batch]) -> dict[str, torch.Tensor]:
        """Evaluate the observables at the present weights, batch by batch in the caller's order."""
        size = self.settings.batch_size
        losses = {}
        torch.clear_autocast_cache()
        for observable, rows in zip(observables, fixed, strict=True):
            # Copied batch by batch: a compiled loss may give out one and the same memory at every call.
            parts: list[torch.Tensor] = []
            for start in range(0, rows.size, size):
                some = rows.some(slice(start, start + size))
                try:
                    per_token = self.evaluator(self.evaluate, some, observable.batch_key(start))
                except NonFiniteError:  # on the CPU, at the first such batch
                    parts.append(losses_or_nan(self.model, self.loss, some))
                    out = torch.cat(parts)
                    counted = rows.some(slice(len(out))).where_counted(out, 0.0)
                    raise NonFiniteError(not_finite("the logits", observable.not_finite, [counted])) from None
                parts.append(per_token.to(torch.float32, copy=True))
            out = torch.cat(parts)
            counted = rows.where_counted(out, 0.0)
            for what, fine in (("the logits", self.loss.finite()), ("the loss", self.health.finite(counted))):
                self.health.expect(fine, partial(not_finite, what, observable.not_finite, [counted]))
            losses[f"loss_{observable.obs_id}"] = rows.where_counted(out, math.nan)
        return losses

    def state(self) -> bytes:
        """Return everything that the steps to come depend on, for `torch.load` with ``weights_only=True``."""
        changed = {
            name: buffer.detach()
            for name, buffer in self.model.named_buffers()
            if name not in self.buffers or not same_values(buffer, self.buffers[name])
        }
        state = {
            "version": _STATE_VERSION,
            "step": self.step,
            **self.rule.state(),
            "buffers": changed,
            "generators": Generators(self.device).as_dict(),
        }
        size = sum(t.numel() * t.element_size() for t in _tensors(state))
        if size > _LARGE_STATE:
            give_back_freed_memory()  # gradients, as large as the state
        stream = io.BytesIO()
        stream.seek(size)  # room for it at once: a stream that grows holds itself twice
        stream.write(b"\0")
        stream.seek(0)
        torch.save(state, stream)
        stream.truncate()
        return stream.getvalue()

    def load(self, data: bytes) -> None:
        """Go on from `state`."""
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if state["version"] != _STATE_VERSION:
            raise ValueError(f"checkpoint version {state['version']}, this release reads {_STATE_VERSION}")
        self.rule.load(state)
        put_buffers(self.model, state["buffers"])
        self.step, self.evaluator.at_start = int(state["step"]), False
        Generators.from_dict(state["generators"], self.device).restore()


def moving(model: nn.Module, masks: Masks, settings: SamplerSettings) -> frozenset[str]:
    """Return the names of the parameters that a chain changes.

    Noise at the start spares none of its masks, frozen or not: devinterp 2.0.1 draws it so.
    """
    parameters = dict(model.named_parameters())
    return frozenset(name for name in masks if settings.init_noise or parameters[name].requires_grad)


def _tensors(state: Mapping[str, Any]) -> Iterator[torch.Tensor]:
    for value in state.values():
        if isinstance(value, Mapping):
            yield from _tensors(value)
        elif isinstance(value, torch.Tensor):
            yield value


def run_chain(
    model: nn.Module,
    loss: PerTokenLoss,
    settings: SamplerSettings,
    feed: Feed,
    observables: Sequence[Observable],
    masks: Masks,
    sink: ChainSink,
    *,
    chain: int,
    device: torch.device,
    start_state: bytes | None = None,
    keep_state: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[int], None] = lambda step: None,
    prefix: FrozenPrefix | None = None,
    at_start: StartLosses | None = None,
) -> ChainResult:
    """Sample one chain from the model's present weights, and give the model back unchanged.

    Parameters
    ----------
    model : torch.nn.Module
    loss : PerTokenLoss
    settings : SamplerSettings
    feed : Feed
        Batches of this chain.
    observables : sequence of Observable
        Evaluated after the update of every draw.
    masks : mapping
        The parameters to sample, in the order of the update.
    sink : ChainSink
        Takes the records.
    chain : int
        Number of the chain; with ``init_seed`` it decides the seeds.
    device : torch.device
    start_state : bytes, optional
        A state that an earlier run of the same chain handed to ``sink.checkpoint``.
    keep_state : bool
        Whether a complete chain hands over its last state, so that more draws can follow one day.
    should_stop : callable, optional
        Asked after each draw, and after each step of the burn-in; True ends the chain as interrupted, with a
        checkpoint.
    on_step : callable, optional
        Told the number of steps that are done.
    prefix : FrozenPrefix, optional
        What other chains of the same weights have left to give out; one of the chain's own by default.
    at_start : StartLosses, optional
        Losses of minibatches at the caller's weights that other chains have evaluated; what this one evaluates is
        added.

    Returns
    -------
    ChainResult
        Failed where a loss, logit or weight is not finite. That step, and a draw that falls on it, are not recorded.

    Raises
    ------
    Exception
        Whatever the model or its loss raises, with a note that names the chain and the step. Complete draws are kept.
    """
    keep_freed_memory()
    with restoring(model, device, mode=settings.mode, sampled=frozenset(masks)):
        state = _Chain(
            model, loss, settings, masks, chain, device, prefix or FrozenPrefix(), {} if at_start is None else at_start
        )
        if start_state is None:
            state.add_init_noise()
        else:
            state.load(start_state)
        draws = settings.steps.draws_taken(state.step)
        records = _Records(state.step)
        rows = [observable.batch().to(device) for observable in observables]
        status, reason = "complete", None
        try:
            while state.step < settings.num_steps:
                record = state.advance(feed)
                total, mask = record.pop("loss"), record.pop("mask", None)
                draw = settings.steps.draw_at(state.step)
                arrays = {} if draw is None else state.observe(observables, rows)
                if state.pairs_now():
                    arrays["init_loss_sampling"] = state.pairing.losses(feed, state.step)
                state.health.settle()
                records.add(record)
                state.step += 1
                on_step(state.step)
                if draw is not None:
                    arrays["sampling_loss"] = total
                    arrays |= {} if mask is None else {"mask_sampling": mask}
                    sink.draw(draw, {name: values.cpu().numpy() for name, values in arrays.items()})
                    draws = draw + 1
                end = state.step == settings.num_steps
                stop = (draw is not None or state.step <= settings.num_burnin_steps) and should_stop()
                keep = stop or (draw is not None and sink.checkpoint_due(draws)) or (end and keep_state)
                if keep or end or records.count >= _FLUSH_STEPS:
                    sink.steps(*records.take())
                if keep:
                    sink.checkpoint(draws, state.step, state.state())
                if stop and not end:
                    status, reason = "interrupted", "stopped on request"
                    break
        except NonFiniteError as failure:
            status, reason = "failed", str(failure)
            if records.count:
                sink.steps(*records.take())
        except BaseException as error:
            error.add_note(f"in chain {chain} at step {state.step}; its {draws} complete draws are kept")
            with suppress(Exception):  # the sink itself may be what broke
                sink.finish("interrupted", f"{type(error).__name__}: {error}", state.step)
            raise
        sink.finish(status, reason, state.step)
        return ChainResult(chain, status, reason, state.step, draws, state.evaluator.reuse)
