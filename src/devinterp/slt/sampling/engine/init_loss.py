"""Losses before sampling: each chain's initial loss, and the observables' losses at the caller's weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from devinterp.slt.sampling.engine.frozen_prefix import Evaluator
from devinterp.slt.sampling.engine.losses import NonFiniteError, PerTokenLoss
from devinterp.slt.sampling.engine.restore import Generators, restoring, seed_generators
from devinterp.slt.sampling.inputs.batches import SamplingData
from devinterp.slt.sampling.inputs.observables import Observable
from devinterp.slt.sampling.settings import SamplerSettings

__all__ = ["initial_losses", "losses_or_nan", "observable_initial_losses"]


def initial_losses(
    model: nn.Module, loss: PerTokenLoss, settings: SamplerSettings, data: SamplingData, device: torch.device
) -> npt.NDArray[np.float32]:
    """Mean per-token loss of every chain's first batches, at the weights that its chain starts from.

    Masks play no part: with ``init_noise``, every parameter gets noise.

    Returns
    -------
    (chain, token_pos) float32, in nat
        Equal rows are computed once: chains that share their batches and whose generators the model leaves alone
        have one initial loss.
    """
    rows: list[npt.NDArray[np.float32]] = []
    for chain in range(settings.num_chains):
        row, touched = _initial_loss(model, loss, settings, data, device, chain)
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
) -> tuple[npt.NDArray[np.float32], bool]:
    """One chain's initial loss, and whether the model drew from a global generator on the way."""
    feed = data.feed(chain)
    total = torch.zeros(settings.batch_size, data.length - 1, dtype=torch.float32, device=device)
    with restoring(model, device, mode=settings.mode):
        seed_generators(settings.init_seed + chain, device)
        if settings.init_noise:
            for parameter in model.parameters():
                parameter.data = parameter.data + torch.randn_like(parameter.data) * settings.init_noise
        before = Generators(device)
        for number in range(settings.num_init_batches):
            per_token = loss(model, feed.batch(number).to(device))
            total += per_token.float() / settings.num_init_batches
        touched = before != Generators(device)
    row: npt.NDArray[np.float32] = total.mean(dim=0).cpu().numpy()
    return row, touched


def losses_or_nan(model: nn.Module, loss: PerTokenLoss, rows: torch.Tensor) -> torch.Tensor:
    """Return the per-token loss of rows whose logits are not all finite; NaN for the rows that have such logits."""
    return torch.cat([_or_nan(model, loss, row[None]) for row in rows])


def _or_nan(model: nn.Module, loss: PerTokenLoss, row: torch.Tensor) -> torch.Tensor:
    """Return the loss of one row, NaN where the model's logits are not finite."""
    try:
        return loss(model, row).to(torch.float32, copy=True)
    except NonFiniteError:
        return torch.full((1, row.shape[1] - 1), torch.nan, device=row.device)


@torch.no_grad()
def observable_initial_losses(
    model: nn.Module,
    loss: PerTokenLoss,
    settings: SamplerSettings,
    observables: Sequence[Observable],
    device: torch.device,
    evaluator: Evaluator | None = None,
) -> dict[str, npt.NDArray[np.float32]]:
    """Per-token loss of each observable row at the caller's weights, in the sampling mode.

    Parameters
    ----------
    evaluator : Evaluator, optional
        Keeps what the draws of the chains to come can leave out.

    Returns
    -------
    dict of obs_id to (batch_{obs}, token_pos) float32, in nat
    """
    losses = {}

    def evaluate(rows: torch.Tensor) -> torch.Tensor:
        return loss(model, rows)

    with restoring(model, device, mode=settings.mode):
        seed_generators(settings.init_seed, device)
        for observable in observables:
            parts: list[torch.Tensor] = []
            for number, rows in enumerate(torch.split(observable.ids.to(device), settings.batch_size)):
                key = observable.batch_key(number * settings.batch_size)
                try:
                    per_token = evaluate(rows) if evaluator is None else evaluator(evaluate, rows, key)
                except NonFiniteError:  # of the logits: row by row, to name the one
                    per_token = losses_or_nan(model, loss, rows)
                parts.append(per_token.to(torch.float32, copy=True))
            losses[observable.obs_id] = torch.cat(parts).cpu().numpy()
    return losses
