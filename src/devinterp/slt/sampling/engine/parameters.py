"""Parameters that are updated together, and the scratch memory that all of them take turns in.

A call into torch costs as much as the arithmetic on ten thousand numbers, and a model has dozens of parameters smaller
than that. So consecutive small ones are laid end to end in scratch memory and handled by one call per operation.

Results stay those of one parameter after the other, bit for bit: multiplication, addition and subtraction round each
element by itself. Operations whose vectorised body and scalar rest may round differently (``a + alpha * b``, square
roots), random numbers, and sums are still done per parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import nn

from devinterp.slt.sampling.settings import METRICS

__all__ = ["Block", "SampledParameter", "Scratch", "make_blocks"]

_HALF = (torch.float16, torch.bfloat16)
_TOGETHER = 32768
"""Elements of a block of several parameters, at most: what torch works on with one thread, and a cache holds."""


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

    @property
    def is_copy(self) -> bool:
        """Whether `weight` is a master copy, which the model does not see."""
        return self.weight.dtype != self.parameter.dtype

    def publish(self) -> None:
        """Show the model the updated weight, where that is a copy."""
        if self.is_copy:
            self.parameter.data.copy_(self.weight)


class Scratch:
    """Named flat float32 buffers for all blocks of a rule, made when they are first asked for."""

    def __init__(self, parameters: Sequence[SampledParameter]) -> None:
        self._longest = max((p.weight.numel() for p in parameters if _fits(p)), default=0)
        self._device = parameters[0].weight.device
        self._flat: dict[tuple[str, bool], torch.Tensor] = {}

    def flat(self, name: str, size: int, *, together: bool, rows: int = 1) -> torch.Tensor:
        """Return `size` elements of the buffer of that name; blocks of several parameters have their own."""
        key = (name, together)
        if key not in self._flat:
            length = rows * _TOGETHER if together else self._longest
            self._flat[key] = torch.empty(length, dtype=torch.float32, device=self._device)
        return self._flat[key][:size]


class Block:
    """One parameter, or several small ones laid end to end.

    Attributes
    ----------
    first, last : int
        Which of the rule's parameters these are: from `first`, before `last`.
    parameters : tuple of SampledParameter
    together : bool
        Whether they are several.
    weights, initials : list of tensor
        Theirs; flattened where they are several.
    mask : float32 tensor or None
        Shaped like `out`.
    bounds : list of (int, int)
        Each parameter's stretch of a flat buffer, where they are several.
    """

    def __init__(self, first: int, parameters: Sequence[SampledParameter], scratch: Scratch) -> None:
        self.first, self.last = first, first + len(parameters)
        self.parameters = tuple(parameters)
        self.together = len(parameters) > 1
        one = parameters[0]
        self.weights, self.initials, self.mask = [one.weight], [one.initial], one.mask
        self.bounds: list[tuple[int, int]] = []
        if self.together:
            self.weights = [p.weight.view(-1) for p in parameters]
            self.initials = [p.initial.view(-1) for p in parameters]
            self._start = torch.cat(self.initials)  # a copy, but of small parameters alone
            masks = [p.mask.reshape(-1) for p in parameters if p.mask is not None]
            self.mask = torch.cat(masks) if masks else None
            ends = list(accumulate(map(len, self.weights)))
            self.bounds = list(zip([0, *ends], ends, strict=False))
        self._size = sum(p.weight.numel() for p in parameters)
        self._copies = [p for p in parameters if p.is_copy]
        self._scratch = scratch if _fits(one) else None
        self._whole: dict[str, torch.Tensor] = {}
        self._parts: dict[str, list[torch.Tensor]] = {}

    def out(self, name: str) -> torch.Tensor | None:
        """Return scratch for the whole block, or None where a fresh tensor must be made.

        It has the shape of the parameter, or is flat where they are several.
        """
        if self._scratch is None:
            return None
        if name not in self._whole:
            flat = self._scratch.flat(name, self._size, together=self.together)
            self._whole[name] = flat if self.together else flat.view(self.weights[0].shape)
        return self._whole[name]

    @cached_property
    def rows(self) -> torch.Tensor:
        """Scratch for one flat row per metric, of a block of several parameters."""
        assert self._scratch is not None
        count = len(METRICS)
        flat = self._scratch.flat("rows", count * self._size, together=True, rows=count)
        return flat.view(count, self._size)

    def parts(self, name: str, whole: torch.Tensor) -> list[torch.Tensor]:
        """Return each parameter's share of `whole`, which is scratch of that name where there are several."""
        if not self.together:
            return [whole]
        if name not in self._parts:
            self._parts[name] = [whole[start:end] for start, end in self.bounds]
        return self._parts[name]

    def publish(self) -> None:
        """Show the model the updated weights, where they are copies."""
        for sampled in self._copies:
            sampled.publish()

    def take_gradients(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the gradients of the block's parameters as one tensor that may be written to."""
        if self.together:
            return torch.cat([gradient.reshape(-1) for gradient in gradients], out=self.out("drift"))
        return gradients[0].to(self.weights[0].dtype)

    def displacement(self) -> torch.Tensor:
        """Return w - w0."""
        if not self.together:
            return torch.sub(self.weights[0], self.initials[0], out=self.out("pull"))
        return torch.cat(self.weights, out=self.out("pull")).sub_(self._start)

    def scaled_weights(self, factor: float) -> torch.Tensor:
        """Return factor * w."""
        if not self.together:
            return torch.mul(self.weights[0], factor, out=self.out("decay"))
        return torch.cat(self.weights, out=self.out("decay")).mul_(factor)

    def add(self, name: str, whole: torch.Tensor, alpha: float) -> None:
        """Add ``alpha * whole`` to the weights."""
        if self.together:
            torch._foreach_add_(self.weights, self.parts(name, whole), alpha=alpha)
        else:
            self.weights[0].add_(whole, alpha=alpha)

    def root(self, name: str, whole: torch.Tensor) -> torch.Tensor:
        """Replace `whole` by its square root."""
        for part in self.parts(name, whole):
            part.sqrt_()
        return whole

    def draw_noise(self, level: float) -> torch.Tensor:
        """Return normal numbers of standard deviation `level`, drawn one parameter after the other."""
        buffer = self.out("noise")
        if buffer is None:
            weight = self.weights[0]
            return torch.normal(0.0, level, size=weight.shape, device=weight.device)
        for part in self.parts("noise", buffer):
            part.normal_(0.0, level)
        return buffer

    def clamp(self, box: float) -> None:
        """Keep the weights within `box` of their start."""
        lows, highs = self.out("pull"), self.out("noise")
        for index, (weight, initial) in enumerate(zip(self.weights, self.initials, strict=True)):
            low = torch.sub(initial, box, out=None if lows is None else self.parts("pull", lows)[index])
            high = torch.add(initial, box, out=None if highs is None else self.parts("noise", highs)[index])
            weight.clamp_(min=low, max=high)

    def total(self) -> torch.Tensor:
        """Return the sum of all weights, which is finite only if they all are: 0-d float32."""
        if self.together:
            return torch.cat(self.weights, out=self.out("pull")).sum()
        return self.weights[0].sum(dtype=torch.float32)


def make_blocks(parameters: Sequence[SampledParameter], which: Sequence[int], scratch: Scratch) -> list[Block]:
    """Divide the parameters of these indices into blocks, in their order.

    Only on the CPU are several taken together: there the results are known to be those of one after the other.
    """
    groups: list[list[int]] = []
    for index in which:
        if not (groups and _joins(parameters, groups[-1], index)):
            groups.append([])
        groups[-1].append(index)
    return [Block(group[0], [parameters[index] for index in group], scratch) for group in groups]


def _joins(parameters: Sequence[SampledParameter], group: Sequence[int], index: int) -> bool:
    size = sum(parameters[i].weight.numel() for i in (*group, index))
    masked = {parameters[i].mask is None for i in (group[0], index)}
    small = all(_small(parameters[i]) for i in (group[0], index))
    return index == group[-1] + 1 and size <= _TOGETHER and len(masked) == 1 and small


def _small(sampled: SampledParameter) -> bool:
    weight = sampled.weight
    plain = sampled.initial.dtype == weight.dtype and sampled.initial.is_contiguous()
    return weight.device.type == "cpu" and weight.numel() < _TOGETHER and _fits(sampled) and plain


def _fits(sampled: SampledParameter) -> bool:
    """Whether scratch can hold exactly what fresh tensors would: float32, and laid out as the weight is."""
    weight = sampled.weight
    return weight.is_contiguous() and weight.dtype == torch.get_default_dtype() == torch.float32
