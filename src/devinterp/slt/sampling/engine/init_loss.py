"""Losses before sampling: each chain's own, and those of observables and minibatches at the caller's weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from devinterp.slt.sampling.engine.frozen_prefix import Evaluator, FrozenPrefix
from devinterp.slt.sampling.engine.health import not_finite
from devinterp.slt.sampling.engine.losses import NonFiniteError, PerTokenLoss, StepMean, all_finite
from devinterp.slt.sampling.engine.parameters import SampledParameter
from devinterp.slt.sampling.engine.restore_model import Generators, put_buffers, restoring, seed_generators
from devinterp.slt.sampling.inputs.batches import Feed, SamplingData
from devinterp.slt.sampling.inputs.nested import Batch
from devinterp.slt.sampling.inputs.observables import Observable
from devinterp.slt.sampling.settings import SamplerSettings

__all__ = ["PairedLosses", "StartLosses", "initial_losses", "losses_or_nan", "observable_initial_losses"]

StartLosses = dict[tuple[int, bytes], torch.Tensor]
"""Losses of micro-batches at the caller's weights, (batch, token_pos), by ``init_seed`` and `Feed.batch_key`."""


def initial_losses(
    model: nn.Module,
    loss: PerTokenLoss,
    settings: SamplerSettings,
    data: SamplingData,
    device: torch.device,
    first: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """Mean per-token loss of every chain's first batches, at the weights that its chain starts from.

    Masks play no part: with ``init_noise``, every parameter gets noise.

    Parameters
    ----------
    first : (batch, token_pos) float32, optional
        The loss of the first batch of the first chain, at the model's own weights, where that is known.

    Returns
    -------
    (chain, token_pos) float32, in nat
        Equal rows are computed once: chains that share their batches and whose generators the model leaves alone
        have one initial loss.
    """
    rows: list[npt.NDArray[np.float32]] = []
    for chain in range(settings.num_chains):
        known = first if chain == 0 and not settings.init_noise else None
        row, touched = _initial_loss(model, loss, settings, data, device, chain, known)
        rows.append(row)
        if chain == 0 and data.shared and not settings.init_noise and not touched:
            rows *= settings.num_chains
            break
    return np.stack(rows)


@torch.no_grad()
def _initial_loss(
    model: nn.Module,
    loss: PerTokenLoss,
    settings: SamplerSettings,
    data: SamplingData,
    device: torch.device,
    chain: int,
    first: npt.NDArray[np.float32] | None,
) -> tuple[npt.NDArray[np.float32], bool]:
    """One chain's initial loss, and whether the model drew from a global generator on the way."""
    feed = data.feed(chain)
    total = StepMean(settings.num_init_batches, [feed.counted(n) for n in range(settings.num_init_batches)])
    with restoring(model, device, mode=settings.mode):
        seed_generators(settings.chain_seed(chain), device)
        if settings.init_noise:
            for parameter in model.parameters():
                parameter.data = parameter.data + torch.randn_like(parameter.data) * settings.init_noise
        before = Generators(device)
        for number in range(settings.num_init_batches):
            batch = feed.batch(number).to(device)
            given = first if number == 0 else None
            total.add(loss(model, batch) if given is None else torch.from_numpy(given).to(device), batch)
        touched = before != Generators(device)
    row: npt.NDArray[np.float32] = total.per_position().cpu().numpy()
    return row, touched


def losses_or_nan(model: nn.Module, loss: PerTokenLoss, batch: Batch) -> torch.Tensor:
    """Return the losses of rows whose logits are not all finite; NaN for the rows that have such logits."""
    return torch.cat([_or_nan(model, loss, batch.some(slice(row, row + 1))) for row in range(batch.size)])


def _or_nan(model: nn.Module, loss: PerTokenLoss, row: Batch) -> torch.Tensor:
    """Return the loss of one row, NaN where the model's logits are not finite."""
    try:
        return loss(model, row).to(torch.float32, copy=True)
    except NonFiniteError:  # of logits, which tokens have
        return torch.full((1, row.ids.shape[1] - 1), torch.nan, device=row.ids.device)


def observable_initial_losses(
    model: nn.Module,
    loss: PerTokenLoss,
    settings: SamplerSettings,
    observables: Sequence[Observable],
    device: torch.device,
    evaluator: Evaluator | None = None,
    sampled: frozenset[str] | None = None,
) -> dict[str, npt.NDArray[np.float32]]:
    """Losses of each observable row at the caller's weights, in the sampling mode.

    Parameters
    ----------
    evaluator : Evaluator, optional
        Keeps what the draws of the chains to come can leave out.
    sampled : frozenset of str, optional
        Parameters that get gradients in those chains: what they evaluate may go by that.

    Returns
    -------
    dict of obs_id to (batch_{obs}, token_pos) float32, in nat
    """
    losses = {}

    def evaluate(batch: Batch) -> torch.Tensor:
        return loss(model, batch)

    with restoring(model, device, mode=settings.mode, sampled=sampled), torch.no_grad():
        seed_generators(settings.init_seed, device)
        for observable in observables:
            parts: list[torch.Tensor] = []
            fixed = observable.batch().to(device)
            for start in range(0, fixed.size, settings.batch_size):
                rows, key = fixed.some(slice(start, start + settings.batch_size)), observable.batch_key(start)
                try:
                    per_token = evaluate(rows) if evaluator is None else evaluator(evaluate, rows, key)
                except NonFiniteError:  # of the logits: row by row, to name the one
                    per_token = losses_or_nan(model, loss, rows)
                parts.append(per_token.to(torch.float32, copy=True))
            losses[observable.obs_id] = fixed.where_counted(torch.cat(parts), math.nan).cpu().numpy()
    return losses


class PairedLosses:
    """Losses of a chain's minibatches at the caller's weights, evaluated while the chain stands elsewhere.

    Parameters
    ----------
    model : torch.nn.Module
    loss : PerTokenLoss
    settings : SamplerSettings
    sampled : sequence of SampledParameter
        What the chain moves.
    buffers : mapping of str to tensor
        The caller's.
    device : torch.device
    evaluator : Evaluator
        The chain's.
    prefix : FrozenPrefix
    known : StartLosses
        What has been evaluated already; what comes again is added.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: PerTokenLoss,
        settings: SamplerSettings,
        sampled: Sequence[SampledParameter],
        buffers: Mapping[str, torch.Tensor],
        device: torch.device,
        evaluator: Evaluator,
        prefix: FrozenPrefix,
        known: StartLosses,
    ) -> None:
        self._model, self._loss, self._settings, self._device = model, loss, settings, device
        self._sampled, self._buffers = sampled, buffers
        self._evaluator, self._prefix, self._known = evaluator, prefix, known

    def losses(self, feed: Feed, step: int) -> torch.Tensor:
        """Return those of a step's minibatch, (batch, token_pos), put together as the step's own are.

        Raises
        ------
        NonFiniteError
            One that counts is not finite.
        """
        parts = self._settings.gradient_accumulation_steps
        numbers = range(step * parts, (step + 1) * parts)
        mean, seen = StepMean(parts, [feed.counted(number) for number in numbers]), []
        for number in numbers:
            batch, key = feed.batch(number), feed.batch_key(number)
            named = self._settings.init_seed, key
            losses = self._known.get(named)
            if losses is None:
                losses = self._evaluate(batch.to(self._device), key).cpu()
                if self._prefix.minibatches:
                    self._known[named] = losses
            seen.append(mean.add(losses, batch)[1])
        if not all_finite(torch.cat(seen)):
            raise NonFiniteError(not_finite("the loss at the start", partial(feed.not_finite, numbers[0]), seen))
        return mean.losses()

    def _evaluate(self, batch: Batch, key: bytes) -> torch.Tensor:
        """Evaluate a micro-batch and leave no trace in the chain.

        What a model draws by itself is the same for a batch whenever it is evaluated: any chain may be the one.
        """
        with restoring(self._model, self._device, mode=self._settings.mode):
            for sampled in self._sampled:
                sampled.parameter.data = sampled.initial
            put_buffers(self._model, self._buffers)
            seed_generators(self._settings.init_seed, self._device)
            # What is kept of the batch is from a pass with gradients.
            again = key if self._prefix.modes_agree else None
            try:
                per_token = self._evaluator(lambda rows: self._loss(self._model, rows), batch, again)
            except NonFiniteError:
                per_token = losses_or_nan(self._model, self._loss, batch)
            losses = per_token.to(torch.float32, copy=True)
        if not self._prefix.minibatches:
            self._prefix.drop(key)
        self._loss.finite()  # what an accelerator knows of the logits, the losses tell as well
        return losses
