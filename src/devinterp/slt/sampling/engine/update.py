"""The update rule of SGLD and RMSprop-preconditioned SGLD, parameter by parameter, with its diagnostics.

For each sampled parameter w with start w0, gradient g, mask m and step size ε (Welling & Teh 2011; localization after
Lau et al. 2023; preconditioner G after Li et al. 2016, G = 1 for plain SGLD)::

    v  = alpha v + (1 - alpha) g²                    G = 1 / (sqrt(v) + eps)        (rmsprop_sgld only)
    d  = m (G (nβ g) + G (weight_decay w + localization (w - w0)))
    w += -ε/2 d
    w += sqrt(ε) sqrt(G) m N(0, noise_level²)
    w  = clamp(w, w0 - box, w0 + box)                                               (where a box is set)

The order of operations is part of the contract: floating-point sums depend on it, and draws are promised bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from devinterp.slt.sampling.engine.losses import all_finite
from devinterp.slt.sampling.engine.metrics import UpdateMetrics
from devinterp.slt.sampling.engine.parameters import Block, SampledParameter, Scratch, make_blocks
from devinterp.slt.sampling.settings import SamplerSettings

__all__ = ["UpdateRule"]


class UpdateRule:
    """Steps all sampled parameters of one chain.

    Parameters
    ----------
    parameters : sequence of SampledParameter
        In the order of the masks, which is the order that noise is drawn in.
    settings : SamplerSettings
    """

    def __init__(self, parameters: Sequence[SampledParameter], settings: SamplerSettings) -> None:
        self.parameters = tuple(parameters)
        self._lr = settings.lr
        self._n_beta = settings.n_beta
        self._localization = settings.localization
        self._weight_decay = settings.llc_weight_decay
        self._noise_level = settings.noise_level
        self._box = settings.bounding_box_size
        self._rmsprop = settings.sampling_method == "rmsprop_sgld"
        self._alpha = settings.sampling_method_kwargs.get("alpha", 0.0)
        self._eps = settings.sampling_method_kwargs.get("eps", 0.0)
        self.square_avg: list[torch.Tensor | None] = [None] * len(self.parameters)
        # Made before the first gradients, among which they would lie scattered.
        self._averages = [torch.zeros_like(p.weight) for p in self.parameters] if self._rmsprop else []
        self._scratch = Scratch(self.parameters)
        self._blocks: dict[tuple[bool, ...], list[Block]] = {}
        self._metrics: UpdateMetrics | None = None
        if settings.save_metrics:
            self._metrics = UpdateMetrics(settings.lr, len(self.parameters), self.parameters[0].weight.device)

    @property
    def sums(self) -> torch.Tensor | None:
        """Sums of squares and dot products of the last step, (metric, parameter); None without ``save_metrics``."""
        return None if self._metrics is None else self._metrics.sums

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient, and drop the gradients.

        A parameter without gradient is left alone and draws no noise.
        """
        if self._metrics is not None:
            self._metrics.sums.zero_()
        gradients = [sampled.parameter.grad for sampled in self.parameters]
        gradients = [g.to_dense() if g is not None and g.layout != torch.strided else g for g in gradients]
        for sampled in self.parameters:
            sampled.parameter.grad = None
        for block in self._divide(tuple(gradient is not None for gradient in gradients)):
            own = gradients[block.first : block.last]
            gradients[block.first : block.last] = [None] * len(own)  # freed as soon as they are used
            self._move(block, own)
            block.publish()

    def _divide(self, moved: tuple[bool, ...]) -> list[Block]:
        """Return the blocks of the parameters that are to move."""
        if moved not in self._blocks:
            which = [index for index, moves in enumerate(moved) if moves]
            self._blocks[moved] = make_blocks(self.parameters, which, self._scratch)
        return self._blocks[moved]

    def _move(self, block: Block, gradients: list[torch.Tensor | None]) -> None:
        metrics = self._metrics
        gradient = block.take_gradients([g for g in gradients if g is not None])
        gradients.clear()  # ours alone: to write to the one saves a buffer, and the several have been copied
        precondition = self._precondition(block, gradient) if self._rmsprop else None
        drift = gradient.mul_(self._n_beta)
        scaled = None if metrics is None else metrics.gradient(block, drift, precondition)
        if precondition is not None:
            drift.mul_(precondition)

        decay = block.scaled_weights(self._weight_decay) if self._weight_decay > 0 else None
        pull = None
        if self._localization > 0 or metrics is not None:
            displacement = block.displacement()
            if metrics is not None:
                metrics.distance(block, displacement)
            if self._localization > 0:
                pull = displacement.mul_(self._localization)
        prior = None
        if metrics is not None and scaled is not None:
            prior = metrics.prior(block, scaled, pull, decay, precondition)
        total = pull if decay is None else decay if pull is None else decay.add_(pull)
        if total is not None:
            drift.add_(total if precondition is None else total.mul_(precondition))
        if block.mask is not None:
            drift.mul_(block.mask)
        block.add("drift", drift, alpha=-0.5 * self._lr)

        noise = block.draw_noise(self._noise_level)
        if block.mask is not None:
            noise = torch.mul(block.mask, noise, out=block.out("noise"))
        root = None if precondition is None else block.root("precondition", precondition)
        if metrics is not None and scaled is not None:
            metrics.noise(block, noise, root, scaled, prior)
        if root is not None:
            noise = torch.mul(root, noise, out=block.out("noise"))
        block.add("noise", noise, alpha=self._lr**0.5)

        if self._box is not None:
            block.clamp(self._box)

    def _precondition(self, block: Block, gradient: torch.Tensor) -> torch.Tensor:
        """Return G = 1 / (sqrt(v) + eps), v brought up to date."""
        averages = []
        for index in range(block.first, block.last):
            average = self.square_avg[index]
            if average is None:
                average = self._averages[index]
                if not block.together and average.stride() != gradient.stride():
                    average = self._averages[index] = torch.zeros_like(gradient)
                self.square_avg[index] = average
            averages.append(average.view(-1) if block.together else average)
        for average, part in zip(averages, block.parts("drift", gradient), strict=True):
            average.mul_(self._alpha).addcmul_(part, part, value=1 - self._alpha)
        if block.together:
            root = block.root("precondition", torch.cat(averages, out=block.out("precondition")))
        else:
            root = torch.sqrt(averages[0], out=block.out("precondition"))
        return root.add_(self._eps).reciprocal_()

    @torch.no_grad()
    def finite(self) -> torch.Tensor | bool:
        """Whether every weight, and every diagnostic that is kept, is finite: a 0-d bool on a device, else Python's."""
        moving = tuple(p.parameter.requires_grad for p in self.parameters)  # what is frozen may hold -inf, a mask
        totals = [block.total() for block in self._divide(moving)]
        if self.sums is not None:
            totals.append(self.sums.sum())
        if totals[0].device.type != "cpu":
            return torch.isfinite(torch.stack(totals).sum())
        if math.isfinite(sum(total.item() for total in totals)):
            return True
        # perhaps a mere overflow of the sum
        moved = (p.weight for p in self.parameters if p.parameter.requires_grad)
        return all(map(all_finite, moved)) and (self.sums is None or all_finite(self.sums))

    def state(self) -> dict[str, Any]:
        """Return weights and preconditioner by parameter name, as the update will go on from."""
        return {
            "weights": {p.name: p.weight for p in self.parameters},
            "square_avg": {
                p.name: average
                for p, average in zip(self.parameters, self.square_avg, strict=True)
                if average is not None
            },
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take weights and preconditioner from `state`."""
        for index, sampled in enumerate(self.parameters):
            sampled.weight.copy_(state["weights"][sampled.name])
            sampled.publish()
            average = state["square_avg"].get(sampled.name)
            if average is not None:
                self._averages[index] = average.to(sampled.weight.device, copy=True)
            self.square_avg[index] = None if average is None else self._averages[index]
