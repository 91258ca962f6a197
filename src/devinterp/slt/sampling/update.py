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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from devinterp.slt.sampling.settings import METRICS, SamplerSettings

__all__ = ["SampledParameter", "UpdateRule", "pool_metrics"]

_HALF = (torch.float16, torch.bfloat16)
_NORMS = 6  # of METRICS, the rest are dot products
_ROW = {name: row for row, name in enumerate(METRICS)}


@dataclass
class SampledParameter:
    """One parameter of the model that a chain moves.

    Attributes
    ----------
    name : str
    parameter : torch.nn.Parameter
        Its ``data`` is a working copy of the chain's.
    weight : tensor
        What is updated: ``parameter.data`` itself, or a float32 master copy of it in half precision, where the
        parameter's own dtype would round small steps away.
    initial : tensor
        w0, in the parameter's dtype. Never written to.
    mask : float32 tensor or None
        Multiplies the update, same shape; None is 1 everywhere.
    """

    name: str
    parameter: nn.Parameter
    weight: torch.Tensor
    initial: torch.Tensor
    mask: torch.Tensor | None

    @classmethod
    def take(cls, name: str, parameter: nn.Parameter, mask: torch.Tensor | None) -> SampledParameter:
        """Give the parameter a working copy; its present values become `initial`, untouched from here on."""
        initial = parameter.data
        parameter.data = initial.clone()
        weight = initial.float() if initial.dtype in _HALF else parameter.data
        return cls(name, parameter, weight, initial, None if mask is None else mask.to(initial.device).float())

    def publish(self) -> None:
        """Show the model the updated weight, where that is a copy."""
        if self.weight.dtype != self.parameter.dtype:
            self.parameter.data.copy_(self.weight)


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
        # Scratch serves every parameter whose results it can hold exactly; others get fresh tensors (None).
        self._shared = [
            p.weight.is_contiguous() and p.weight.dtype == torch.get_default_dtype() == torch.float32
            for p in self.parameters
        ]
        self._largest = max(
            (p.weight.numel() for p, s in zip(self.parameters, self._shared, strict=True) if s), default=0
        )
        self._scratch: dict[str, list[torch.Tensor | None]] = {}
        self.sums: torch.Tensor | None = None
        if settings.save_metrics:
            device = self.parameters[0].weight.device
            self.sums = torch.zeros(len(METRICS), len(self.parameters), dtype=torch.float32, device=device)
            self._cells = [list(row.unbind()) for row in self.sums.unbind()]

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient, and drop the gradients.

        A parameter without gradient is left alone and draws no noise. With ``save_metrics``, ``sums`` holds the sums
        of squares and the dot products of this step afterwards, (metric, parameter).
        """
        if self.sums is not None:
            self.sums.zero_()
        for index, sampled in enumerate(self.parameters):
            gradient = sampled.parameter.grad
            if gradient is None:
                continue
            sampled.parameter.grad = None
            if gradient.dtype != sampled.weight.dtype:
                gradient = gradient.to(sampled.weight.dtype)
            self._move(index, sampled, gradient)
            sampled.publish()

    def _move(self, index: int, sampled: SampledParameter, gradient: torch.Tensor) -> None:
        weight, mask = sampled.weight, sampled.mask
        precondition = self._precondition(index, gradient) if self._rmsprop else None
        drift = gradient.mul_(self._n_beta)  # the gradient is ours alone: it saves a buffer
        metrics = self.sums is not None
        scaled = self._gradient_metrics(index, drift, precondition, mask) if metrics else None
        if precondition is not None:
            drift.mul_(precondition)

        decay = pull = None
        if self._weight_decay > 0:
            decay = torch.mul(weight, self._weight_decay, out=self._out("decay", index))
        if self._localization > 0 or metrics:
            pull = torch.sub(weight, sampled.initial, out=self._out("pull", index))
            if metrics:
                self._add_product("distance", index, pull, pull)
            if self._localization > 0:
                pull.mul_(self._localization)
            else:
                pull = None
        prior = None
        if scaled is not None:
            prior = self._prior_metrics(index, scaled, pull, decay, precondition, mask)
        total = pull if decay is None else decay if pull is None else decay.add_(pull)
        if total is not None:
            drift.add_(total if precondition is None else total.mul_(precondition))
        if mask is not None:
            drift.mul_(mask)
        weight.add_(drift, alpha=-0.5 * self._lr)

        noise = self._noise(index, weight)
        if mask is not None:
            noise = torch.mul(mask, noise, out=self._out("noise", index))
        root = None
        if precondition is not None:
            root = precondition.sqrt_()
        if scaled is not None:
            self._noise_metrics(index, noise, root, scaled, prior)
        if root is not None:
            noise = torch.mul(root, noise, out=self._out("noise", index))
        weight.add_(noise, alpha=self._lr**0.5)

        if self._box is not None:
            low = torch.sub(sampled.initial, self._box, out=self._out("pull", index))
            high = torch.add(sampled.initial, self._box, out=self._out("noise", index))
            weight.clamp_(min=low, max=high)

    def _precondition(self, index: int, gradient: torch.Tensor) -> torch.Tensor:
        average = self.square_avg[index]
        if average is None:
            average = self.square_avg[index] = torch.zeros_like(gradient)
        average.mul_(self._alpha).addcmul_(gradient, gradient, value=1 - self._alpha)
        return torch.sqrt(average, out=self._out("precondition", index)).add_(self._eps).reciprocal_()

    def _noise(self, index: int, weight: torch.Tensor) -> torch.Tensor:
        buffer = self._out("noise", index)
        if buffer is None:
            return torch.normal(0.0, self._noise_level, size=weight.shape, device=weight.device)
        return buffer.normal_(0.0, self._noise_level)

    # Diagnostics: the terms of the update as they are applied, from the intermediates of the update itself.

    def _gradient_metrics(
        self, index: int, drift: torch.Tensor, precondition: torch.Tensor | None, mask: torch.Tensor | None
    ) -> torch.Tensor:
        scaled = torch.mul(drift, 0.5 * self._lr, out=self._out("scaled", index))
        self._add_product("unscaled_grad", index, scaled, scaled)
        if precondition is None and mask is None:
            self._cells[_ROW["scaled_grad"]][index].copy_(self._cells[_ROW["unscaled_grad"]][index])
            return scaled
        term = drift
        if precondition is not None:
            term = torch.mul(precondition, term, out=self._out("scaled", index))
        if mask is not None:
            term = torch.mul(mask, term, out=self._out("scaled", index))
        scaled = torch.mul(term, 0.5 * self._lr, out=self._out("scaled", index))
        self._add_product("scaled_grad", index, scaled, scaled)
        return scaled

    def _prior_metrics(
        self,
        index: int,
        scaled: torch.Tensor,
        pull: torch.Tensor | None,
        decay: torch.Tensor | None,
        precondition: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> torch.Tensor | None:
        if pull is None and decay is None:
            return None
        scale: float | torch.Tensor = 0.5 * self._lr
        if precondition is not None:
            scale = torch.mul(precondition, 0.5 * self._lr, out=self._out("scale", index))
        if mask is not None:
            scale = _times(scale, mask, self._out("scale", index))
        terms = []
        for metric, term, buffer in (("localization", pull, "prior"), ("weight_decay", decay, "noise")):
            if term is not None:
                terms.append(_times(scale, term, self._out(buffer, index)))
                self._add_product(metric, index, terms[-1], terms[-1])
        # The noise is drawn into its buffer later, so the sum must not stay there.
        prior = torch.add(terms[0], terms[1] if len(terms) > 1 else 0, out=self._out("prior", index))
        self._add_product("dot_grad_prior", index, scaled, prior)
        return prior

    def _noise_metrics(
        self,
        index: int,
        noise: torch.Tensor,
        root: torch.Tensor | None,
        scaled: torch.Tensor,
        prior: torch.Tensor | None,
    ) -> None:
        factor: float | torch.Tensor = self._lr**0.5
        if root is not None:
            factor = torch.mul(root, self._lr**0.5, out=self._out("scale", index))
        term = _times(factor, noise, self._out("pull", index))
        self._add_product("noise", index, term, term)
        self._add_product("dot_grad_noise", index, scaled, term)
        if prior is not None:
            self._add_product("dot_prior_noise", index, prior, term)

    def _add_product(self, metric: str, index: int, one: torch.Tensor, other: torch.Tensor) -> None:
        product = torch.mul(one.float(), other.float(), out=self._out("product", index))
        torch.sum(product, dim=tuple(range(product.ndim)), out=self._cells[_ROW[metric]][index])

    def _out(self, name: str, index: int) -> torch.Tensor | None:
        """Scratch shaped like the weight of a parameter, or None where a fresh tensor must be made."""
        views = self._scratch.get(name)
        if views is None:
            views = self._scratch[name] = self._allocate()
        return views[index]

    def _allocate(self) -> list[torch.Tensor | None]:
        if not self._largest:
            return [None] * len(self.parameters)
        device = self.parameters[0].weight.device
        flat = torch.empty(self._largest, dtype=torch.float32, device=device)
        return [
            flat[: p.weight.numel()].view(p.weight.shape) if shared else None
            for p, shared in zip(self.parameters, self._shared, strict=True)
        ]

    @torch.no_grad()
    def finite(self) -> torch.Tensor:
        """Whether every weight, and every diagnostic that is kept, is finite: a 0-d bool on the device."""
        weights = [p.weight for p in self.parameters]
        total = torch.stack([weight.sum(dtype=torch.float32) for weight in weights]).sum()
        if self.sums is not None:
            total = total + self.sums.sum()
        fine = torch.isfinite(total)
        if fine.device.type == "cpu" and not fine:  # perhaps a mere overflow of the sum
            every = [torch.isfinite(weight).all() for weight in weights]
            every += [torch.isfinite(self.sums).all()] if self.sums is not None else []
            fine = torch.stack(every).all()
        return fine

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
            self.square_avg[index] = None if average is None else average.to(sampled.weight.device).clone()


def _times(factor: float | torch.Tensor, term: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
    """Multiply in this order: a fresh result takes its memory layout, and sums over it their order, from the first."""
    if isinstance(factor, float):
        return torch.mul(term, factor, out=out)
    return torch.mul(factor, term, out=out)


def pool_metrics(sums: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Pool the diagnostics of parameters into one number per metric.

    Norms are taken per parameter, squared again, added in the order of the parameters and rooted; dot products add.
    Every operation is in float32.

    Parameters
    ----------
    sums : (step, metric, parameter) float32

    Returns
    -------
    (step, metric) float32
    """
    squares = np.square(_root(sums[:, :_NORMS]))
    # cumsum adds one by one; sum would add in pairs and round otherwise
    norms = _root(np.cumsum(squares, axis=-1, dtype=np.float32)[..., -1])
    dots = np.cumsum(sums[:, _NORMS:], axis=-1, dtype=np.float32)[..., -1]
    return np.concatenate([norms, dots], axis=1)


def _root(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Square root as torch takes it, which differs from numpy's in the last bit where torch was built with MKL."""
    root: npt.NDArray[np.float32] = torch.from_numpy(np.ascontiguousarray(values)).sqrt().numpy()
    return root
