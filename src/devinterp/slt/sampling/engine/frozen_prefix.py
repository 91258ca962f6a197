"""Frozen prefix: what comes before the first sampled weight is computed once per fixed batch, and given out again.

A chain evaluates the same rows at every draw, and moves a part of the weights. The calls of modules that end before
the first operation on a moved weight then give the same activations at every draw, in every chain and in every
restriction that moves the same parameters. Of these calls only the outputs that something later still reads are kept,
as a rule one tensor per batch; the calls before it give out a stand-in of the right shape.

Nothing is known of architectures. An evaluation of two rows is watched (`call_trace`), which tells what may be left
out; the first batch is then evaluated with and without, and only if the losses agree bit for bit are results given out
from there on. Otherwise all passes are plain, and the store tells why.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from devinterp.slt.sampling.engine.call_trace import replaced_forward, tensors_of, trace_calls
from devinterp.slt.sampling.engine.losses import NonFiniteError
from devinterp.slt.sampling.engine.prefix_plan import Planned, PrefixPlan, Reuse, choose_calls
from devinterp.slt.sampling.engine.restore import restoring
from devinterp.slt.sampling.inputs.nested import each_tensor, first_tokens, take_rows

__all__ = ["MEMORY_BUDGET", "Evaluator", "FrozenPrefix", "plain_passes"]

MEMORY_BUDGET = 2**30
"""Bytes of activations that a process keeps in host memory, at most; an accelerator keeps a tenth of its own first."""

_ROWS, _TOKENS = 2, 16  # of the evaluation that is watched

_OF_WATCHING = (RuntimeError, TypeError, ValueError, AttributeError, IndexError, NonFiniteError)

_TOO_LITTLE = "too little comes before the first sampled weight"

_HOST = torch.device("cpu")
Evaluate = Callable[[Any], torch.Tensor]


_ENABLED = ContextVar("devinterp_frozen_prefix", default=True)


@contextmanager
def plain_passes() -> Iterator[None]:
    """Have runs that are begun inside leave nothing out; for tests, which compare the bytes."""
    token = _ENABLED.set(False)
    try:
        yield
    finally:
        _ENABLED.reset(token)


@dataclass(eq=False)
class _Cut:
    """What is known of one set of sampled parameters: nothing yet, a plan, or a reason why there is none."""

    plan: PrefixPlan | None = None
    reason: str | None = None
    trusted: bool = False
    size: int = 0  # bytes per batch

    @property
    def calls(self) -> tuple[Planned, ...]:
        return () if self.plan is None else self.plan.calls

    def shared_with(self, other: _Cut) -> int:
        """How many calls, from the first on, can be given out of what was kept for another cut."""
        if self.plan is None or other.plan is None or not (self.trusted and other.trusted):
            return 0
        return self.plan.shared_with(other.plan)


@dataclass
class _Kept:
    """What the calls of a cut's plan give out for one batch, in their order."""

    cut: _Cut
    outputs: list[Any] = field(default_factory=list)
    versions: list[list[int]] = field(default_factory=list)
    size: int = 0
    place: torch.device = _HOST

    def put(self, place: torch.device) -> None:
        """Move what is needed to where it is kept."""
        self.place = place
        for position, planned in enumerate(self.cut.calls):
            if planned.needed:
                self.outputs[position] = moved = each_tensor(self.outputs[position], lambda tensor: tensor.to(place))
                self.versions[position] = [each._version for each in tensors_of(moved) or ()]

    def add(self, output: Any) -> None:
        self.outputs.append(output)
        self.versions.append([each._version for each in tensors_of(output) or ()])

    def untouched(self) -> bool:
        """Whether nobody has written to what was given out."""
        now = [[each._version for each in tensors_of(output) or ()] for output in self.outputs]
        return now == self.versions


class _DivergedError(Exception):
    """The model went another way than in the evaluation that was watched."""


class _Pass:
    """One evaluation under way: gives out what is kept, and records the rest of the plan."""

    def __init__(self, cut: _Cut, given: _Kept | None, device: torch.device, stand_in: Callable[[Any], Any]) -> None:
        self.recorded = _Kept(cut)
        self.compiling = False
        self._plan, self._device, self._stand_in = cut.calls, device, stand_in
        self._given = [] if given is None else given.outputs
        self._records = given is None or given.cut is not cut
        if given is not None and given.cut is not cut:
            self._given = self._given[: cut.shared_with(given.cut)]
        self._next = 0
        self._inside = self._broken = False
        self._counts: dict[nn.Module, int] = {}

    def complete(self) -> bool:
        """Whether every call of the plan came, in order."""
        return self._next == len(self._plan) and not self._broken and not self.compiling

    def call(self, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Stand in for the forward of a module of the plan."""
        if torch.compiler.is_compiling():
            self.compiling = True
            return forward(*args, **kwargs)
        position = self._next
        if self._inside or self._broken or position == len(self._plan):
            return forward(*args, **kwargs)
        nth = self._counts.get(module, 0)
        self._counts[module] = nth + 1
        planned = self._plan[position]
        here = planned.module is module and planned.nth == nth
        if not here and position:
            self._broken = True
            if self._given:
                raise _DivergedError
        if here and position < len(self._given):
            self._next += 1
            output = self._given[position]
            if self._records:
                self._record(planned, output)
            return each_tensor(output, lambda tensor: tensor.to(self._device))
        self._inside = True
        try:
            output = forward(*args, **kwargs)
        finally:
            self._inside = False
        if here:
            self._next += 1
            self._record(planned, output)
        return output

    def _record(self, planned: Planned, output: Any) -> None:
        if tensors_of(output) is None:
            self._broken = True
            return
        # copied, since the caller may change a list that it is given
        self.recorded.add(each_tensor(output, lambda tensor: tensor) if planned.needed else self._stand_in(output))


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
        self._cuts: dict[tuple[frozenset[str], bool], _Cut] = {}
        self._kept: dict[Hashable, _Kept] = {}
        self._stand_ins: dict[Hashable, torch.Tensor] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process without what this one remembers."""
        settings = {name: getattr(self, name) for name in ("enabled", "minibatches", "any_length", "budget")}
        return partial(FrozenPrefix, **settings), ()

    def before(self, model: nn.Module, sampled: Collection[str], device: torch.device, mode: str) -> Evaluator:
        """Return what evaluates a loss of the model while the named parameters move."""
        return Evaluator(self, model, frozenset(sampled), device, mode)

    def cut(self, names: frozenset[str], gradients: bool) -> _Cut:
        """Return what is known of a set of sampled parameters, in passes with or without gradients."""
        return self._cuts.setdefault((names, gradients), _Cut())

    def kept(self, batch: Hashable) -> _Kept | None:
        """Return what is remembered of a batch."""
        return self._kept.get(batch)

    def keep(self, batch: Hashable, new: _Kept, device: torch.device, *, dear: bool) -> None:
        """Remember what a batch gave, as far as there is room; `dear` ones take the room of others."""
        self._kept.pop(batch, None)
        new.size = _size(new)
        new.cut.size = max(new.cut.size, new.size)
        for place in _places(device):
            if self._make_room(new, dear, place):
                new.put(place)
                self._kept[batch] = new
                return

    def has_room(self, cut: _Cut, device: torch.device, *, dear: bool) -> bool:
        """Whether the outputs of one more batch would be kept."""
        probe = _Kept(cut, size=cut.size)
        return any(self._make_room(probe, dear, place) for place in _places(device))

    def forget(self, cut: _Cut) -> None:
        """Drop everything that belongs to a cut."""
        self._kept = {batch: kept for batch, kept in self._kept.items() if kept.cut is not cut}

    def stand_in(self, output: Any) -> Any:
        """Return something of the same shapes that nobody may read: NaN where it can be."""

        def make(tensor: torch.Tensor) -> torch.Tensor:
            key = (tensor.dtype, tensor.device, tuple(tensor.shape), tensor.stride())
            if key not in self._stand_ins:
                new = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
                self._stand_ins[key] = new.fill_(float("nan") if tensor.is_floating_point() else 0)
            return self._stand_ins[key]

        return each_tensor(output, make)

    def _make_room(self, new: _Kept, dear: bool, place: torch.device) -> bool:
        budget = torch.cuda.get_device_properties(place).total_memory // 10 if place.type == "cuda" else self.budget
        held = {b: k for b, k in self._kept.items() if k.place == place}
        used = sum(kept.size for kept in held.values())
        spare = [b for b, k in held.items() if k.cut is not new.cut and not new.cut.shared_with(k.cut)]
        if dear:
            spare += [b for b in held if isinstance(b, bytes) and b not in spare]
        while used + new.size > budget and spare:
            used -= self._kept.pop(spare.pop()).size
        return used + new.size <= budget


class Evaluator:
    """Evaluates a loss while certain parameters of a model move, and leaves out what cannot change.

    Attributes
    ----------
    reuse : Reuse
        What it has done so far.
    """

    def __init__(
        self, prefix: FrozenPrefix, model: nn.Module, names: frozenset[str], device: torch.device, mode: str
    ) -> None:
        self._prefix, self._model, self._names, self._device, self._mode = prefix, model, names, device, mode
        self.reuse = Reuse(reason=None if prefix.enabled else "it is switched off")

    def __call__(self, evaluate: Evaluate, rows: Any, batch: Hashable = None) -> torch.Tensor:
        """Return ``evaluate(rows)``.

        Parameters
        ----------
        evaluate : callable
        rows : Batch, or tensors in plain containers
        batch : hashable, optional
            Equal where the rows are equal; bytes for a minibatch, anything else for rows that come at every draw.
            None for rows that do not come again.
        """
        self.reuse.passes += 1
        cut = self._cut(evaluate, rows, batch)
        if cut is None:
            return evaluate(rows)
        kept = self._prefix.kept(batch)
        if kept is not None and kept.cut is cut and cut.trusted:
            return self._served(cut, kept, evaluate, rows)
        dear = not isinstance(batch, bytes)
        if cut.trusted and kept is None and not self._prefix.has_room(cut, self._device, dear=dear):
            return evaluate(rows)
        under_way = self._pass(cut, kept if cut.trusted else None)
        loss = self._run(under_way, evaluate, rows)
        if loss is None:
            reason = "it is compiled" if under_way.compiling else "it goes different ways"
            return self._give_up(cut, reason, evaluate, rows)
        self._prefix.keep(batch, under_way.recorded, self._device, dear=dear)
        if not cut.trusted:
            return self._checked(cut, under_way.recorded, loss, evaluate, rows)
        return loss

    def _cut(self, evaluate: Evaluate, rows: Any, batch: Hashable) -> _Cut | None:
        """Return the plan for this evaluation, None where it must be plain."""
        if batch is None or not self._prefix.enabled:
            return None
        cut = self._prefix.cut(self._names, torch.is_grad_enabled())
        if cut.plan is None and cut.reason is None:
            self._watch(cut, evaluate, rows)
        if cut.reason is not None:
            self.reuse.reason = self.reuse.reason or cut.reason
            return None
        return cut

    def _watch(self, cut: _Cut, evaluate: Evaluate, rows: Any) -> None:
        parameters = dict(self._model.named_parameters())
        if self._names >= parameters.keys():
            cut.reason = "every weight is sampled"
            return
        few = first_tokens(rows, _ROWS, _TOKENS) if self._prefix.any_length else None
        if few is not None:
            # A few tokens show the same calls for a fraction of a pass; whatever goes wrong with them proves nothing.
            with suppress(Exception):
                self._look(cut, evaluate, few, parameters)
            if cut.plan is not None or cut.reason == _TOO_LITTLE:
                return
            cut.reason = None
        try:
            self._look(cut, evaluate, each_tensor(take_rows(rows, slice(_ROWS)), torch.clone), parameters)
        except _OF_WATCHING as error:  # or of the model, where the plain pass will meet it too
            cut.reason = f"it cannot be watched ({type(error).__name__})"

    def _look(self, cut: _Cut, evaluate: Evaluate, few: Any, parameters: Mapping[str, nn.Parameter]) -> None:
        """Watch an evaluation of a few rows, and plan what to leave out."""
        gradients = torch.is_grad_enabled()
        with restoring(self._model, self._device, mode=self._mode), torch.set_grad_enabled(gradients):
            trace = trace_calls(self._model, [parameters[name] for name in self._names], few, evaluate)
            cut.reason = trace.reason
            if cut.reason is None:  # generators of numpy, counters: what no operation shows
                again = evaluate(few).detach().clone()
                # The one that was watched may have gone another way: torch has faster ones that it takes unwatched.
                if not _same_bits(trace.loss, again) and not _same_bits(evaluate(few).detach(), again):
                    cut.reason = "two passes over the same rows differ"
        if cut.reason is None:
            cut.plan = choose_calls(trace)
            cut.reason = None if cut.plan is not None else _TOO_LITTLE

    def _served(self, cut: _Cut, kept: _Kept, evaluate: Evaluate, rows: Any) -> torch.Tensor:
        loss = self._run(self._pass(cut, kept), evaluate, rows)
        if loss is None:
            return self._give_up(cut, "it goes different ways", evaluate, rows)
        self.reuse.reused += 1
        self.reuse.share = 0.0 if cut.plan is None else cut.plan.share
        if not kept.untouched():
            cut.reason = "activations are written to in place"
            self._prefix.forget(cut)
        return loss

    def _checked(self, cut: _Cut, kept: _Kept, loss: torch.Tensor, evaluate: Evaluate, rows: Any) -> torch.Tensor:
        """Evaluate the first batch once more, without the prefix, and trust it from there on if nothing differs."""
        plain = loss.detach().clone()
        again = self._run(self._pass(cut, kept), evaluate, rows)
        if again is None or not _same_bits(plain, again.detach()) or not kept.untouched():
            return self._give_up(cut, "the check on the first batch failed", evaluate, rows)
        cut.trusted = True
        return loss if loss.requires_grad else plain  # a compiled loss gives out the same memory at every call

    def _pass(self, cut: _Cut, given: _Kept | None) -> _Pass:
        return _Pass(cut, given, self._device, self._prefix.stand_in)

    def _run(self, under_way: _Pass, evaluate: Evaluate, rows: Any) -> torch.Tensor | None:
        """Return the loss, None where the model went another way than in the evaluation that was watched."""
        modules = dict.fromkeys(planned.module for planned in under_way.recorded.cut.calls)
        with replaced_forward({m: partial(under_way.call, m, m.forward) for m in modules}):
            try:
                loss = evaluate(rows)
            except _DivergedError:
                return None
        return loss if under_way.complete() else None

    def _give_up(self, cut: _Cut, reason: str, evaluate: Evaluate, rows: Any) -> torch.Tensor:
        cut.reason = reason
        self.reuse.reason = self.reuse.reason or reason
        self._prefix.forget(cut)
        return evaluate(rows)


def _size(kept: _Kept) -> int:
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


def _same_bits(one: torch.Tensor | None, other: torch.Tensor) -> bool:
    """Whether two tensors agree in every bit, signs of zeros included."""
    if one is None or one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8)))
