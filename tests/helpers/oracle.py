"""SGLD the slow and plain way: one parameter after the other, a deep copy of the model per chain, torch's own loader.

Everything that the engine does faster is compared with this, bit for bit. The order of operations is that of the
reference implementation (devinterp 2.0.1), which floating-point results depend on.
"""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

METRIC_NORMS = ("scaled_grad", "unscaled_grad", "localization", "weight_decay", "noise", "distance")


class OracleUpdate:
    """One optimiser step, expression by expression."""

    def __init__(self, params: list[tuple[torch.Tensor, torch.Tensor | None]], settings: Any) -> None:
        self.params = [(p, p.detach().clone(), None if m is None else m.float()) for p, m in params]
        self.settings = settings
        self.average: dict[int, torch.Tensor] = {}

    @torch.no_grad()
    def step(self) -> dict[str, float]:
        s = self.settings
        squares = dict.fromkeys(METRIC_NORMS, torch.zeros(()))
        dots = dict.fromkeys(("dot_grad_prior", "dot_grad_noise", "dot_prior_noise"), torch.zeros(()))
        for index, (w, start, mask) in enumerate(self.params):
            if w.grad is None:
                continue
            m: Any = 1.0 if mask is None else mask
            g: Any = 1.0
            if s.sampling_method == "rmsprop_sgld":
                v = self.average.setdefault(index, torch.zeros_like(w.grad))
                v.mul_(s.rmsprop_alpha).addcmul_(w.grad, w.grad, value=1 - s.rmsprop_alpha)
                g = 1.0 / (torch.sqrt(v) + s.rmsprop_eps)
            decay = s.llc_weight_decay * w.data if s.llc_weight_decay > 0 else torch.zeros_like(w)
            pull = s.localization * (w.data - start) if s.localization > 0 else torch.zeros_like(w)
            distance = w.data - start
            gradient = g * w.grad.mul(s.n_beta)
            drift = m * (gradient + g * (decay + pull))
            half = 0.5 * s.lr
            w.data.add_(drift, alpha=-0.5 * s.lr)
            noise = m * torch.normal(mean=0.0, std=s.noise_level, size=w.shape)
            root = g if isinstance(g, float) else torch.sqrt(g)
            w.data.add_(root * noise, alpha=s.lr**0.5)
            if s.bounding_box_size is not None:
                torch.clamp_(w.data, min=start - s.bounding_box_size, max=start + s.bounding_box_size)
            terms = {
                "scaled_grad": half * (m * gradient),
                "unscaled_grad": half * w.grad.mul(s.n_beta),
                "localization": half * g * m * pull,
                "weight_decay": half * g * m * decay,
                "noise": (s.lr**0.5) * root * noise,
                "distance": distance,
            }
            prior = terms["localization"] + terms["weight_decay"]
            for name, term in terms.items():
                squares[name] = squares[name] + term.float().square().sum().sqrt().square()
            dots["dot_grad_prior"] = dots["dot_grad_prior"] + (terms["scaled_grad"].float() * prior.float()).sum()
            dots["dot_grad_noise"] = (
                dots["dot_grad_noise"] + (terms["scaled_grad"].float() * terms["noise"].float()).sum()
            )
            dots["dot_prior_noise"] = dots["dot_prior_noise"] + (prior.float() * terms["noise"].float()).sum()
        return {**{k: float(v.sqrt()) for k, v in squares.items()}, **{k: float(v) for k, v in dots.items()}}


def loss_of_logits(model: nn.Module, input_ids: torch.Tensor) -> torch.Tensor:
    log_probs = torch.nn.functional.log_softmax(model(input_ids), dim=-1)
    return -log_probs[:, :-1].gather(-1, input_ids[:, 1:, None])[..., 0]


def seed_everything(seed: int) -> None:
    np.random.seed(seed)  # noqa: NPY002 (what the reference seeds)
    torch.manual_seed(seed)
    random.seed(seed)


def loader(rows: np.ndarray, settings: Any, chain: int) -> Iterator[torch.Tensor]:
    """Batches of a chain; the first pass repeats."""
    matched = settings.match_sampling_input_ids_across_chains
    generator = torch.Generator().manual_seed(settings.init_seed + (0 if matched else chain))
    data = torch.from_numpy(rows)
    batches = DataLoader(data, settings.batch_size, shuffle=settings.shuffle, generator=generator, drop_last=True)
    return itertools.cycle(batches)


def oracle_chain(
    model: nn.Module, rows: np.ndarray, observables: dict[str, tuple[np.ndarray, int]], settings: Any, chain: int,
    masks: Any = None, loss: Any = loss_of_logits,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Every per-chain array of a run, without the leading chain axis."""
    s = settings
    feed = loader(rows, s, chain)
    model = copy.deepcopy(model)
    seed_everything(s.init_seed + chain)
    parameters = dict(model.named_parameters())
    masks = dict.fromkeys(parameters) if masks is None else masks
    for name, parameter in parameters.items():
        if name not in masks:
            parameter.requires_grad_(False)
    update = OracleUpdate([(parameters[name], mask) for name, mask in masks.items()], s)
    if s.init_noise:
        for name, mask in masks.items():
            w = parameters[name]
            w.data.add_(torch.randn_like(w.data) * s.init_noise * (1.0 if mask is None else mask))
    fixed = {}
    for name, (data, batches) in observables.items():
        chosen = random.Random(s.obs_seed).sample(range(len(data)), s.batch_size * batches)
        fixed[name] = torch.from_numpy(data[chosen])
    model.train(s.mode == "train")
    out: dict[str, list[Any]] = {}
    for step in range(s.num_burnin_steps + s.num_draws * s.num_steps_bw_draws):
        total = torch.zeros(())
        for _ in range(s.gradient_accumulation_steps):
            per_token = loss(model, next(feed)).float()
            (per_token.mean() / s.gradient_accumulation_steps).backward()
            total = total + per_token.detach() / s.gradient_accumulation_steps
        for name, value in update.step().items():
            out.setdefault(f"metrics_{name}", []).append(np.float32(value))
        out.setdefault("step_loss", []).append(total.mean().numpy())
        for parameter in parameters.values():
            parameter.grad = None
        since = step - s.num_burnin_steps
        if since >= 0 and since % s.num_steps_bw_draws == 0:
            out.setdefault("sampling_loss", []).append(total.numpy())
            with torch.no_grad():
                for name, ids in fixed.items():
                    parts = [loss(model, ids[i : i + s.batch_size]) for i in range(0, len(ids), s.batch_size)]
                    out.setdefault(f"loss_{name}", []).append(torch.cat(parts).float().numpy())
    return {name: np.stack(values) for name, values in out.items()}


@torch.no_grad()
def oracle_init_loss(
    model: nn.Module, rows: np.ndarray, settings: Any, chain: int, loss: Any = loss_of_logits
) -> np.ndarray:
    """``init_loss`` of one chain."""
    s = settings
    model = copy.deepcopy(model).train(s.mode == "train")
    seed_everything(s.init_seed + chain)
    if s.init_noise:
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter.data) * s.init_noise)
    number = s.gradient_accumulation_steps * s.num_init_loss_batches
    total: Any = 0.0
    for batch in itertools.islice(loader(rows, s, chain), number):
        total = total + loss(model, batch).float() / number
    return total.mean(dim=0).numpy()
