"""One evaluation of the loss with a frozen prefix: gives out what is kept, and records the rest of the plan."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from devinterp.slt.sampling.engine.frozen_prefix.call_trace import replaced_forward, tensors_of
from devinterp.slt.sampling.engine.frozen_prefix.memory import Cut, Kept
from devinterp.slt.sampling.engine.frozen_prefix.prefix_plan import Planned
from devinterp.slt.sampling.inputs.nested import each_tensor

__all__ = ["Pass"]


class _DivergedError(Exception):
    """The model went another way than in the evaluation that was watched."""


class Pass:
    """One evaluation under way.

    Parameters
    ----------
    cut : Cut
    given : Kept or None
        What is given out, of this cut or of another that shares its first calls.
    device : torch.device
        Of the model.
    stand_in : callable
        Makes what nobody may read out of an output.

    Attributes
    ----------
    recorded : Kept
        What the calls of the plan gave, unless all of it was given.
    compiling : bool
        Whether torch's compiler came in the way.
    """

    def __init__(self, cut: Cut, given: Kept | None, device: torch.device, stand_in: Callable[[Any], Any]) -> None:
        self.recorded = Kept(cut)
        self.compiling = False
        self._plan, self._device, self._stand_in = cut.calls, device, stand_in
        self._given = [] if given is None else given.outputs
        self._records = given is None or given.cut is not cut
        if given is not None and given.cut is not cut:
            self._given = self._given[: cut.shared_with(given.cut)]
        self._next = 0
        self._inside = self._broken = False
        self._counts: dict[nn.Module, int] = {}

    def run(self, evaluate: Callable[[Any], torch.Tensor], rows: Any) -> torch.Tensor | None:
        """Return the loss, None where the model went another way than in the evaluation that was watched.

        An error may come of what was given out: of something left out that a later part misses.
        """
        modules = dict.fromkeys(planned.module for planned in self._plan)
        with replaced_forward({module: partial(self._call, module, module.forward) for module in modules}):
            try:
                loss = evaluate(rows)
            except Exception:
                if not self._given:
                    raise
                return None
        return loss if self._next == len(self._plan) and not self._broken and not self.compiling else None

    def _call(self, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
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
