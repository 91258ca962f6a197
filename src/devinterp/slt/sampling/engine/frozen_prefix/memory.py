"""What a process remembers of a frozen prefix: a plan per set of sampled parameters, and outputs per batch."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from devinterp.slt.sampling.engine.frozen_prefix.call_trace import tensors_of
from devinterp.slt.sampling.engine.frozen_prefix.prefix_plan import Planned, PrefixPlan
from devinterp.slt.sampling.engine.frozen_prefix.side_effects import Changes, State
from devinterp.slt.sampling.inputs.nested import each_tensor

__all__ = ["MEMORY_BUDGET", "Cut", "FrozenPrefix", "Kept", "Look", "plain_passes"]

MEMORY_BUDGET = 2**30
"""Bytes of activations that a process keeps in host memory, at most; an accelerator keeps a tenth of its own first."""

_HOST = torch.device("cpu")
_ENABLED = ContextVar("devinterp_frozen_prefix", default=True)


@contextmanager
def plain_passes() -> Iterator[None]:
    """Have runs that are begun inside leave nothing out; for tests, which compare the bytes."""
    token = _ENABLED.set(False)
    try:
        yield
    finally:
        _ENABLED.reset(token)


@dataclass(frozen=True)
class Look:
    """An evaluation that was watched: of which rows, in which mode of gradients, what it gave and left."""

    rows: Any
    gradients: bool
    loss: torch.Tensor | None
    changes: Changes


@dataclass(eq=False)
class Cut:
    """What is known of one set of sampled parameters: nothing yet, a plan, or a reason why there is none.

    Attributes
    ----------
    frozen : sequence of modules
        Whose calls come before the first sampled weight.
    look : Look or None
    comes_again : bool
        Whether its rows gave the same again after others had been evaluated.
    trusted : bool
        Whether a batch was the same with and without.
    """

    plan: PrefixPlan | None = None
    frozen: Sequence[nn.Module] = ()
    look: Look | None = None
    reason: str | None = None
    comes_again: bool = False
    trusted: bool = False
    size: int = 0  # bytes per batch

    @property
    def calls(self) -> tuple[Planned, ...]:
        """What is left out."""
        return () if self.plan is None else self.plan.calls

    def shared_with(self, other: Cut) -> int:
        """How many calls, from the first on, can be given out of what was kept for another cut."""
        if self.plan is None or other.plan is None or not (self.trusted and other.trusted):
            return 0
        return self.plan.shared_with(other.plan)


@dataclass
class Kept:
    """What the calls of a cut's plan give out for one batch, in their order.

    Attributes
    ----------
    cut : Cut
    outputs : list
    versions : list of list of int
        How often each tensor of them had been written to when it was kept.
    loss : tensor or None
        Of the plain pass that gave them, where no weight had moved yet.
    size : int
        Bytes.
    place : torch.device
    """

    cut: Cut
    outputs: list[Any] = field(default_factory=list)
    versions: list[list[int]] = field(default_factory=list)
    loss: torch.Tensor | None = None
    size: int = 0
    place: torch.device = _HOST

    def put(self, place: torch.device) -> None:
        """Move what is needed to where it is kept."""
        self.place = place
        for position, planned in enumerate(self.cut.calls):
            if planned.needed:
                self.outputs[position] = moved = each_tensor(self.outputs[position], lambda tensor: tensor.to(place))
                self.versions[position] = _versions(moved)

    def add(self, output: Any) -> None:
        """Take the output of the next call."""
        self.outputs.append(output)
        self.versions.append(_versions(output))

    def untouched(self) -> bool:
        """Whether nobody has written to what was given out."""
        return [_versions(output) for output in self.outputs] == self.versions


class FrozenPrefix:
    """What a process remembers of a model whose weights, but for those that a chain moves, stay what they are.

    Parameters
    ----------
    enabled : bool, optional
        Whether anything is left out; for tests, since no number depends on it.
    minibatches : bool
        Whether the batches of steps come again too, in other chains or restrictions.
    any_length : bool
        Whether rows of tokens may be shortened for a look: no loss of the caller's stands in the way.
    budget : int
        Bytes in host memory.

    Attributes
    ----------
    modes_agree : bool
        Whether passes with and without gradients were seen to give the same bits, so that one may serve the other.
    asks_mode : bool
        Whether a pass was seen to ask for the mode of gradients: then neither serves the other.
    failed : str or None
        Why nothing is left out any more: a check has shown that something of the model is not seen.
    """

    def __init__(
        self,
        *,
        enabled: bool | None = None,
        minibatches: bool = False,
        any_length: bool = False,
        budget: int = MEMORY_BUDGET,
    ) -> None:
        self.enabled = _ENABLED.get() if enabled is None else enabled
        self.minibatches, self.any_length, self.budget = minibatches, any_length, budget
        self.modes_agree = self.asks_mode = False
        self.failed: str | None = None
        self._cuts: dict[tuple[frozenset[str], bool], Cut] = {}
        self._kept: dict[Hashable, Kept] = {}
        self._stand_ins: dict[Hashable, torch.Tensor] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process without what this one remembers."""
        settings = {name: getattr(self, name) for name in ("enabled", "minibatches", "any_length", "budget")}
        return partial(FrozenPrefix, **settings), ()

    def cut(self, names: frozenset[str], gradients: bool) -> Cut:
        """Return what is known of a set of sampled parameters, in passes with or without gradients."""
        return self._cuts.setdefault((names, gradients and not self.modes_agree), Cut())

    def kept(self, batch: Hashable) -> Kept | None:
        """Return what is remembered of a batch."""
        return self._kept.get(batch)

    def keep(self, batch: Hashable, new: Kept, device: torch.device, *, dear: bool) -> None:
        """Remember what a batch gave, as far as there is room; `dear` ones take the room of others."""
        self._kept.pop(batch, None)
        new.size = _size(new)
        new.cut.size = max(new.cut.size, new.size)
        for place in _places(device):
            if self._make_room(new, dear, place):
                new.put(place)
                self._kept[batch] = new
                return

    def has_room(self, cut: Cut, device: torch.device, *, dear: bool) -> bool:
        """Whether the outputs of one more batch would be kept."""
        probe = Kept(cut, size=cut.size)
        return any(self._make_room(probe, dear, place) for place in _places(device))

    def drop(self, batch: Hashable) -> None:
        """Forget a batch that does not come again."""
        self._kept.pop(batch, None)

    def forget(self, cut: Cut) -> None:
        """Drop everything that belongs to a cut."""
        self._kept = {batch: kept for batch, kept in self._kept.items() if kept.cut is not cut}

    def after_step(self, before: State, model: nn.Module) -> None:
        """Give up where a step has changed more of what modules hold and name than the weights."""
        aside = [module for cut in self._cuts.values() for module in cut.frozen]
        if aside:
            changes = before.changes(State(model), aside)
            if changes.lasting or changes.counted:
                self.give_up("a step changes something beside the weights")

    def give_up(self, reason: str) -> None:
        """Leave nothing out from here on, whatever is sampled."""
        self.failed = reason
        self._kept.clear()

    def stand_in(self, output: Any) -> Any:
        """Return something of the same shapes that nobody may read: NaN where it can be."""

        def make(tensor: torch.Tensor) -> torch.Tensor:
            key = (tensor.dtype, tensor.device, tuple(tensor.shape), tensor.stride())
            if key not in self._stand_ins:
                new = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
                self._stand_ins[key] = new.fill_(float("nan") if tensor.is_floating_point() else 0)
            return self._stand_ins[key]

        return each_tensor(output, make)

    def _make_room(self, new: Kept, dear: bool, place: torch.device) -> bool:
        budget = torch.cuda.get_device_properties(place).total_memory // 10 if place.type == "cuda" else self.budget
        held = {b: k for b, k in self._kept.items() if k.place == place}
        used = sum(kept.size for kept in held.values())
        spare = [b for b, k in held.items() if k.cut is not new.cut and not new.cut.shared_with(k.cut)]
        if dear:
            spare += [b for b in held if isinstance(b, bytes) and b not in spare]
        while used + new.size > budget and spare:
            used -= self._kept.pop(spare.pop()).size
        return used + new.size <= budget


def _versions(output: Any) -> list[int]:
    return [each._version for each in tensors_of(output) or ()]


def _size(kept: Kept) -> int:
    storages = {
        tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes()
        for planned, output in zip(kept.cut.calls, kept.outputs, strict=True)
        if planned.needed
        for tensor in tensors_of(output) or ()
    }
    return sum(storages.values())


def _places(device: torch.device) -> tuple[torch.device, ...]:
    """Where activations of a device may be kept, the best place first."""
    return (device,) if device == _HOST else (device, _HOST)
