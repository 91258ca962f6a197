"""A loss is evaluated without what cannot change, once the first batch has shown that not a bit differs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
import torch
from torch import nn

from devinterp.slt.sampling.engine.frozen_prefix.call_trace import trace_calls
from devinterp.slt.sampling.engine.frozen_prefix.memory import Cut, FrozenPrefix, Kept, Look
from devinterp.slt.sampling.engine.frozen_prefix.one_pass import Pass
from devinterp.slt.sampling.engine.frozen_prefix.prefix_plan import Reuse, choose_calls
from devinterp.slt.sampling.engine.frozen_prefix.side_effects import Asked, State
from devinterp.slt.sampling.engine.restore_model import restoring
from devinterp.slt.sampling.inputs.nested import Batch, each_tensor, first_tokens, num_rows, take_rows, tensors_within

__all__ = ["Evaluator", "other_row"]

_ROWS, _TOKENS = 2, 16  # of the evaluation that is watched
_COUNTED = 8  # more evaluations of that, where passes may be counted

_TOO_LITTLE = "too little comes before the first sampled weight"

Evaluate = Callable[[Any], torch.Tensor]


def beginning(batch: Batch) -> Batch | None:
    """Return a few tokens of two rows, which show what a model does for a fraction of a pass; None of short rows."""
    return first_tokens(batch, _ROWS, _TOKENS)


def other_rows(rows: Any) -> Any:
    """Return rows as a model may be given them that hold other numbers than these, their mean too; None of one row.

    What is one array is read from its end, with its half twice. Of what has several parts, which may belong together,
    the rows are taken from the last on, and the first is left out.
    """
    one = isinstance(rows, torch.Tensor) or (isinstance(rows, Batch) and isinstance(rows.rows, torch.Tensor))
    if one and not (isinstance(rows, Batch) and rows.counts is not None):
        turned = each_tensor(rows, _turned)
        before, after = (next(t for _, t in tensors_within(r) if isinstance(t, torch.Tensor)) for r in (rows, turned))
        if not torch.equal(before, after):
            return turned
    rest = num_rows(rows) - 1
    return take_rows(rows, np.arange(rest, 0, -1)) if rest else None


def _turned(values: torch.Tensor) -> torch.Tensor:
    if values.ndim < 2:
        return values.flip(0)
    turned = values.flip((0, -1))
    half = turned.shape[-1] // 2
    turned[..., turned.shape[-1] - half :] = turned[..., :half]
    return turned


def other_row(batch: Batch) -> Batch | None:
    """Return one row as long as those of a batch, on which passes with and without gradients are compared.

    What differs between them may do so in long rows alone. It holds other numbers than the batch, so that what it
    leaves in a model shows in that; None where rows are short, or there are no other numbers.
    """
    turned = None if beginning(batch) is None else other_rows(batch)
    return None if turned is None else each_tensor(take_rows(turned, slice(1)), torch.clone)


class Evaluator:
    """Evaluates a loss while certain parameters of a model move, and leaves out what cannot change.

    Parameters
    ----------
    prefix : FrozenPrefix
    model : torch.nn.Module
    sampled : collection of str
        Names of the parameters that move.
    device : torch.device
    mode : {"train", "eval"}
    at_start : bool
        Whether no weight has moved yet.
    checked_later : bool
        Whether the first step, at the same weights, is left to check what is kept of its batch.

    Attributes
    ----------
    reuse : Reuse
        What it has done so far.
    at_start : bool
        Whether no weight has moved yet.
    """

    def __init__(
        self,
        prefix: FrozenPrefix,
        model: nn.Module,
        sampled: Collection[str],
        device: torch.device,
        mode: str,
        *,
        at_start: bool = False,
        checked_later: bool = False,
    ) -> None:
        self._prefix, self._model, self._device, self._mode = prefix, model, device, mode
        self._names = frozenset(sampled)
        self.at_start, self._checked_later = at_start, checked_later
        self._before: State | None = None
        self._stepped = self._names >= {name for name, _ in model.named_parameters()}  # or nothing is left out
        self.reuse = Reuse(reason=None if prefix.enabled else "it is switched off")

    def __call__(
        self, evaluate: Evaluate, rows: Any, batch: Hashable = None, *, row: Batch | None = None
    ) -> torch.Tensor:
        """Return ``evaluate(rows)``.

        Parameters
        ----------
        evaluate : callable
        rows : Batch, or tensors in plain containers
        batch : hashable, optional
            Equal where the rows are equal; bytes for a minibatch, anything else for rows that come at every draw.
            None for rows that do not come again.
        row : Batch, optional
            The rows' `other_row`, to be watched first, where the caller evaluates that with gradients afterwards, and
            hands what comes of it to `compare_modes`.
        """
        self.reuse.passes += 1
        cut = self._cut(evaluate, rows, batch, row)
        if cut is None:
            return evaluate(rows)
        kept = self._prefix.kept(batch)
        if kept is not None and kept.cut is cut and (cut.trusted or (self.at_start and kept.loss is not None)):
            return self._served(cut, kept, evaluate, rows)
        dear = not isinstance(batch, bytes)
        if cut.trusted and kept is None and not self._prefix.has_room(cut, self._device, dear=dear):
            return evaluate(rows)
        under_way, asked = self._pass(cut, kept if cut.trusted else None), Asked()
        with nullcontext() if torch.is_grad_enabled() else asked.inside():  # it may ask of whole batches alone
            loss = under_way.run(evaluate, rows)
        if asked.mode:
            self._prefix.modes_agree, self._prefix.asks_mode = False, True
        if loss is None:
            reason = "it is compiled" if under_way.compiling else "it goes different ways"
            return self._give_up(cut, reason, evaluate, rows)
        self._prefix.keep(batch, under_way.recorded, self._device, dear=dear)
        if self.at_start:
            under_way.recorded.loss = loss.detach().clone()
        if cut.trusted:
            return loss
        if self._checked_later and self.at_start and (self._prefix.modes_agree or row is not None):
            return loss
        return self._checked(cut, under_way.recorded, loss, evaluate, rows)

    def compare_modes(self, evaluate: Evaluate, losses: torch.Tensor) -> None:
        """Compare the row that was watched, without gradients, with a later pass over it that had them.

        Where they agree, passes of one kind may serve the other; and the row gives the same whatever was evaluated in
        between, as `_comes_again` would see.
        """
        cut = self._prefix.cut(self._names, False)
        look = cut.look
        if cut.plan is None or look is None or look.gradients or self._prefix.asks_mode or look.changes.drawn:
            return
        same = _same_bits(look.loss, losses)
        if not same:  # the one that was watched may have gone another way
            with restoring(self._model, self._device, mode=self._mode, numbers=True):
                same = all(_same_bits(evaluate(look.rows).detach(), losses) for _ in range(2))
        self._prefix.modes_agree = same
        cut.comes_again = same and not look.changes.counted

    def backward_begins(self) -> None:
        """Remember what modules hold before the first backward pass."""
        if self._prefix.enabled and self._prefix.failed is None and not self._stepped and self._before is None:
            with suppress(Exception):  # what cannot be looked at was not watched either
                self._before = State(self._model)

    def step_ends(self) -> None:
        """Take note that weights have moved; the first step may have done more, in its backward pass."""
        self.at_start, self._stepped, before = False, True, self._before
        self._before = None
        if before is not None:
            self._prefix.after_step(before, self._model)

    def _cut(self, evaluate: Evaluate, rows: Any, batch: Hashable, row: Batch | None) -> Cut | None:
        """Return the plan for this evaluation, None where it must be plain."""
        if batch is None or not self._prefix.enabled:
            return None
        cut = self._prefix.cut(self._names, torch.is_grad_enabled())
        if cut.plan is None and cut.reason is None and self._prefix.failed is None:
            self._watch(cut, evaluate, rows, row)
        reason = self._prefix.failed or cut.reason
        if reason is not None:
            self.reuse.reason = self.reuse.reason or reason
            return None
        return cut

    def _watch(self, cut: Cut, evaluate: Evaluate, rows: Any, row: Batch | None) -> None:
        parameters = dict(self._model.named_parameters())
        if self._names >= parameters.keys():
            cut.reason = "every weight is sampled"
            return
        turned = other_rows(rows)
        few = row
        if few is None and self._prefix.any_length:
            few = beginning(rows if turned is None else turned)
        if few is not None:
            # A few tokens show the same calls for a fraction of a pass; whatever goes wrong with them proves nothing.
            with suppress(Exception):
                self._look(cut, evaluate, few, parameters)
            if cut.plan is not None or cut.reason == _TOO_LITTLE:
                return
            cut.reason = None
        if turned is not None:
            with suppress(Exception):  # a loss that knows the ends of a row apart
                self._look(cut, evaluate, take_rows(turned, slice(_ROWS)), parameters)
                return
        if num_rows(rows) <= _ROWS:
            cut.reason = _NO_OTHERS
            return
        try:
            self._look(cut, evaluate, each_tensor(take_rows(rows, slice(_ROWS)), torch.clone), parameters)
        except Exception as error:  # of watching; what is the model's own, the plain pass will meet too
            cut.reason = f"it cannot be watched ({type(error).__name__})"

    def _look(self, cut: Cut, evaluate: Evaluate, few: Any, parameters: Mapping[str, nn.Parameter]) -> None:
        """Watch an evaluation of a few rows, and plan what to leave out."""
        gradients = torch.is_grad_enabled()
        lent = restoring(self._model, self._device, mode=self._mode, numbers=True)
        with lent, torch.set_grad_enabled(gradients):
            trace = trace_calls(self._model, [parameters[name] for name in self._names], few, evaluate)
        cut.reason = trace.reason
        if cut.reason is None:
            cut.plan, cut.look = choose_calls(trace), Look(few, gradients, trace.loss, trace.changes)
            cut.frozen = [call.module for call in trace.calls]
            cut.reason = None if cut.plan is not None else _TOO_LITTLE
            self._prefix.asks_mode |= trace.asks_mode

    def _comes_again(self, look: Look, evaluate: Evaluate) -> bool:
        """Whether the rows of the look give the same once more, whatever was evaluated in between.

        Generators of numpy, counters, what is left somewhere by the pass before: no operation shows them. What this
        pass leaves there is of other rows than those that the check is made on.
        """
        if look.changes.drawn:
            return False
        lent = restoring(self._model, self._device, mode=self._mode, numbers=True)
        with lent, torch.set_grad_enabled(look.gradients):
            again = evaluate(look.rows).detach().clone()
            # The one that was watched may have gone another way: torch has faster ones that it takes unwatched.
            same = _same_bits(look.loss, again) or _same_bits(evaluate(look.rows).detach(), again)
            more = _COUNTED if look.changes.counted else 0  # it may do something else at every third pass, say
            return same and all(_same_bits(evaluate(look.rows).detach(), again) for _ in range(more))

    def _served(self, cut: Cut, kept: Kept, evaluate: Evaluate, rows: Any) -> torch.Tensor:
        unproved = not (cut.trusted or cut.comes_again)
        if unproved and cut.look is not None and not self._comes_again(cut.look, evaluate):
            return self._fail(_DIFFERS, evaluate, rows)
        loss = self._pass(cut, kept).run(evaluate, rows)
        if loss is None:
            return self._give_up(cut, "it goes different ways", evaluate, rows)
        known = kept.loss if self.at_start else None  # at the same weights: a check for nothing
        if known is not None and not _same_bits(known, loss.detach()):
            return self._fail(_FAILED, evaluate, rows)
        if not cut.trusted and not kept.untouched():
            return self._give_up(cut, _FAILED, evaluate, rows)
        cut.trusted = True
        self.reuse.reused += 1
        self.reuse.share = 0.0 if cut.plan is None else cut.plan.share
        if not kept.untouched():
            cut.reason = "activations are written to in place"
            self._prefix.forget(cut)
        return loss

    def _checked(self, cut: Cut, kept: Kept, loss: torch.Tensor, evaluate: Evaluate, rows: Any) -> torch.Tensor:
        """Evaluate the first batch once more, without the prefix, and trust it from there on if nothing differs."""
        plain = loss.detach().clone()
        if cut.look is not None and not self._comes_again(cut.look, evaluate):
            return self._fail(_DIFFERS, evaluate, rows)
        again = self._pass(cut, kept).run(evaluate, rows)
        if again is None or not kept.untouched():
            return self._give_up(cut, _FAILED, evaluate, rows)
        if not _same_bits(plain, again.detach()):
            return self._fail(_FAILED, evaluate, rows)
        cut.trusted = True
        return loss if loss.requires_grad else plain  # a compiled loss gives out the same memory at every call

    def _pass(self, cut: Cut, given: Kept | None) -> Pass:
        return Pass(cut, given, self._device, self._prefix.stand_in)

    def _give_up(self, cut: Cut, reason: str, evaluate: Evaluate, rows: Any) -> torch.Tensor:
        loss = evaluate(rows)  # first: whatever this raises too is the model's own, and speaks against no prefix
        cut.reason = reason
        self.reuse.reason = self.reuse.reason or reason
        self._prefix.forget(cut)
        return loss

    def _fail(self, reason: str, evaluate: Evaluate, rows: Any) -> torch.Tensor:
        """Go plain for good: something of the model is not seen, which would not be seen of other weights either."""
        self._prefix.give_up(reason)
        self.reuse.reason = self.reuse.reason or reason
        return evaluate(rows)


_FAILED = "the check on the first batch failed"
_DIFFERS = "two passes over the same rows differ"
_NO_OTHERS = "there are no other rows to check it with"


def _same_bits(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    """Whether two tensors agree in every bit, signs of zeros included."""
    if one is None or other is None or one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8)))
