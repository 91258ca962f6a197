"""Losses: one face for HuggingFace, TransformerLens and plain modules, and for the caller's own loss."""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from devinterp.errors import ModelError, SamplingError
from devinterp.slt.sampling.inputs.nested import Batch
from devinterp.slt.sampling.inputs.provenance import unwrapped

__all__ = [
    "LossFn",
    "NonFiniteError",
    "PerTokenLoss",
    "StepMean",
    "all_finite",
    "forward_logits",
    "is_transformer_lens",
    "next_token_loss",
    "takes_attention_mask",
]

_PIECE = 2**19
"""Logits that are worked on together where no gradient is wanted: 2 MiB, and as much of results.
Of 128 x 49,152 logits, where a core has 2 MiB of second-level cache: 6.9 ms, 7.3 at half the size, 9.5 row by row."""

LossFn = Callable[[nn.Module, Any], torch.Tensor]
"""``(model, input_ids (batch, token)) -> (batch, token - 1)``, a loss per predicted token; of rows that are not tokens,
``(model, batch) -> (batch,) or (batch, token_pos)``."""


class NonFiniteError(SamplingError):
    """A loss, logit or weight of a chain is NaN or infinite; ends the chain, never the call."""


def is_transformer_lens(model: nn.Module) -> bool:
    """Whether the model is a TransformerLens one: its forward returns a loss unless asked for logits."""
    return hasattr(getattr(model, "cfg", None), "n_heads")


def forward_logits(
    model: nn.Module, input_ids: torch.Tensor, beside: Mapping[str, torch.Tensor] | None = None
) -> torch.Tensor:
    """Return the logits of a language model, (batch, token, vocabulary).

    Parameters
    ----------
    model : torch.nn.Module
    input_ids : (batch, token) int64
    beside : mapping, optional
        ``attention_mask`` and ``position_ids``, of which the model is given what its forward names.

    HuggingFace models are called without a cache, and their ``.logits`` taken: the first of their outputs may be
    another loss. Any other model may return the logits or an object with ``.logits``.
    """
    forward = _keywords(type(unwrapped(model)).forward)
    given = {name: tensor for name, tensor in (beside or {}).items() if name in forward.named}
    given |= {name: make(input_ids) for name, make in _WHOLE.items() if name in forward.required - given.keys()}
    if is_transformer_lens(model):
        output = model(input_ids, return_type="logits", **given)
    else:
        with _outputs_by_name(model):
            output = model(input_ids, **_options(model), **given)
    return getattr(output, "logits", output)  # type: ignore[no-any-return]


def takes_attention_mask(model: nn.Module) -> bool:
    """Whether the model's forward names an attention mask."""
    return "attention_mask" in _keywords(type(unwrapped(model)).forward).named


def _options(model: nn.Module) -> dict[str, bool]:
    """Return what a HuggingFace model must be told: no cache, and outputs by name, since their order varies."""
    inner = unwrapped(model)
    # A model of its classes cannot exist without this; a tokenizer can, and to ask for the class would import it all.
    transformers = sys.modules.get("transformers.modeling_utils")
    if transformers is None or not isinstance(inner, transformers.PreTrainedModel):
        return {}
    named, _, any_keyword = _keywords(type(inner).forward)
    if any_keyword:  # a class of transformers passes on what its forward does not name itself
        return _QUIET if "use_cache" in named else {}
    return {name: value for name, value in _QUIET.items() if name in named}


@contextmanager
def _outputs_by_name(model: nn.Module) -> Iterator[None]:
    """Have a HuggingFace model that is configured to return tuples name its outputs, as its inner parts must too."""
    config = getattr(model, "config", None)
    if getattr(config, "return_dict", None) is not False:
        yield
        return
    config.return_dict = True  # type: ignore[union-attr]
    try:
        yield
    finally:
        config.return_dict = False  # type: ignore[union-attr]


_QUIET = {"use_cache": False, "return_dict": True}

_WHOLE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "attention_mask": torch.ones_like,
    "position_ids": lambda ids: torch.arange(ids.shape[1], device=ids.device).expand_as(ids),
    "token_type_ids": torch.zeros_like,
}
"""What a forward that cannot do without is given where no token is missing."""


class _Keywords(NamedTuple):
    """The arguments that a forward names, those without a default, and whether it takes others."""

    named: frozenset[str]
    required: frozenset[str]
    any_other: bool


@functools.cache
def _keywords(forward: Callable[..., Any]) -> _Keywords:
    parameters = inspect.signature(forward).parameters
    return _Keywords(
        frozenset(parameters),
        frozenset(name for name, each in parameters.items() if each.default is inspect.Parameter.empty),
        any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()),
    )


def next_token_loss(logits: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each next token, in nat.

    Parameters
    ----------
    logits : (batch, token, vocabulary)
        Half precision is raised to float32 first.
    input_ids : (batch, token) int64

    Returns
    -------
    (batch, token - 1)
        Minus the log-probability of token t + 1 given the tokens up to t.
    """
    # The last position predicts nothing. Its target is a dummy whose loss is cut off after the gather: to slice the
    # log-probabilities instead would cost two more passes over (batch, token, vocabulary) going back.
    return _cross_entropy(logits, _next_ids(input_ids))[:, :-1]


def _next_ids(input_ids: torch.Tensor) -> torch.Tensor:
    return torch.cat([input_ids[:, 1:], input_ids[:, :1]], dim=1)


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return minus the log-probability of targets (...) under logits (..., vocabulary)."""
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return -torch.log_softmax(logits, dim=-1).gather(-1, targets[..., None])[..., 0]


class PerTokenLoss:
    """The loss that a run evaluates, with the check that ends a chain on non-finite logits.

    Parameters
    ----------
    loss_fn : LossFn or None
        The caller's loss; None is `next_token_loss` of the model's logits.
    """

    def __init__(self, loss_fn: LossFn | None = None) -> None:
        if loss_fn is not None and not callable(loss_fn):
            raise ModelError(
                "loss_fn cannot be called.", expected="(model, input_ids) -> loss", found=type(loss_fn).__name__
            )
        self.loss_fn = loss_fn
        self._positions: int | None = None  # of rows that are not tokens, whose loss alone knows
        self._flags: list[torch.Tensor] = []

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the losses of every row, (batch, token_pos).

        Raises
        ------
        ModelError
            A loss of the caller's has the wrong shape.
        NonFiniteError
            On the CPU, at once, where a logit is not finite. On other devices `finite` tells, since to look here
            would wait for the device.
        """
        if self.loss_fn is not None:
            return self._shaped(self.loss_fn(model, batch.rows), batch)
        return self.of_logits(forward_logits(model, batch.ids, batch.beside), batch)

    def _shaped(self, loss: Any, batch: Batch) -> torch.Tensor:
        """Return the caller's loss as (batch, token_pos), or say what is wrong with it."""
        rows, known = batch.size, batch.ids.shape[1] - 1 if batch.tokens else self._positions
        wanted = f"({rows}, {known or 'token_pos'})"
        expected = f"(batch, token - 1) = {wanted}" if batch.tokens else f"({rows},) or {wanted}"
        if not isinstance(loss, torch.Tensor):
            raise ModelError("loss_fn returns no tensor.", expected=f"shape {expected}", found=type(loss).__name__)
        shaped = loss[:, None] if loss.ndim == 1 and not batch.tokens else loss
        counts = batch.counts
        if counts is not None and shaped.ndim == 2 and counts.shape != shaped.shape and not batch.tokens:
            raise ModelError(
                "loss_mask has another number of positions than the loss.",
                expected=f"{shaped.shape[1]} flags per row, one for each loss",
                found=f"{counts.shape[1]}",
            )
        good = shaped.ndim == 2 and len(shaped) == rows and shaped.shape[1] > 0
        if not good or (known is not None and shaped.shape[1] != known):
            if good and not batch.tokens:
                problem = "The loss has another number of positions than before: all batches must have the same."
            else:
                each = "predicted token" if batch.tokens else "row, or one per position of each row"
                problem = f"The loss has the wrong shape: it must be one number per {each}."
            as_other = "Rows of integers are taken for token ids; as {'x': rows}, a dict, they are rows of anything."
            raise ModelError(
                problem, expected=expected, found=tuple(loss.shape), remedy=as_other if batch.tokens else None
            )
        if not batch.tokens:
            self._positions = shaped.shape[1]
        return shaped

    def of_logits(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the default loss of logits, (batch, token - 1), with the same check."""
        input_ids = batch.ids
        if batch.counts is not None:
            # What stands where nothing counts is nobody's business.
            self._check(torch.where(batch.counts[..., None], logits.detach()[:, :-1], logits.new_zeros(())))
            return next_token_loss(logits, input_ids)
        plain = logits.device.type == "cpu" and not logits.requires_grad and logits.dtype == torch.float32
        if plain and logits.numel() and logits.is_contiguous():
            # Piece by piece, so that what the check has read is still in the cache, and no second array of the
            # vocabulary's size is written to memory. Positions do not depend on each other: the bits are the same.
            size = max(1, _PIECE // logits.shape[-1])
            losses = []
            flat, targets = logits.flatten(0, 1), _next_ids(input_ids).flatten()
            for some, wanted in zip(torch.split(flat, size), torch.split(targets, size), strict=True):
                self._check(some)
                losses.append(_cross_entropy(some, wanted))
            return torch.cat(losses).view(input_ids.shape)[:, :-1]
        self._check(logits)
        return next_token_loss(logits, input_ids)

    def _check(self, logits: torch.Tensor) -> None:
        """See that logits are finite."""
        if logits.device.type != "cpu":
            self._flags.append(torch.isfinite(logits.detach()).all())
        elif not all_finite(logits.detach()):
            raise NonFiniteError("the logits are not finite")

    def finite(self) -> torch.Tensor | None:
        """Whether all logits since the last call were finite, as a 0-d bool on the device; None on the CPU."""
        flags, self._flags = self._flags, []
        return torch.stack(flags).all() if flags else None


def all_finite(values: torch.Tensor) -> bool:
    """Whether no element is NaN or infinite; waits for the device.

    The sum of a tensor with a non-finite element is not finite, and takes one reading pass; only a sum that is not
    finite, which may still be an overflow, needs the exact answer.
    """
    total = values
    if values.ndim:
        total = values.sum(dtype=torch.float32) if values.dtype in (torch.float16, torch.bfloat16) else values.sum()
    # A number of Python's: torch.isfinite is four operations, which between two passes of a model run cold.
    return math.isfinite(total.item()) or bool(torch.isfinite(values).all())


class StepMean:
    """The mean loss of a step, of all its micro-batches together, and of each position over the micro-batches.

    The mean is the sum over the positions that count divided by how many they are in the whole step, so that a row
    has the weight of its positions in whichever micro-batch it comes.

    Parameters
    ----------
    parts : int
        Micro-batches.
    counted : sequence of int or None
        How many positions of each count; None where all do.

    Attributes
    ----------
    count : int or None
        How many count in the step; None where all do.
    """

    def __init__(self, parts: int, counted: Sequence[int | None]) -> None:
        known = [n for n in counted if n is not None]
        self.parts, self.count = parts, sum(known) if known else None
        self._total: torch.Tensor | None = None
        self._times: torch.Tensor | None = None

    def add(self, per_token: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Take the losses (batch, token_pos) of a micro-batch in.

        Returns
        -------
        part, share : 0-d and (batch, token_pos) tensors
            Its part of the step's mean, with gradient; and of each position's, 0 where that does not count.
        """
        detached, per_token = per_token.detach(), per_token.float()
        if batch.counts is None:
            mean = per_token.mean()
            share = detached.float() if self.parts == 1 else detached.float() / self.parts
            self._total = share + 0.0 if self._total is None else self._total + share  # + 0.0: no negative zero
            return (mean if self.parts == 1 else mean / self.parts), share
        assert self.count is not None
        kept, times = batch.where_counted(detached.float(), 0.0), batch.counts.to(torch.int64)
        self._total = kept if self._total is None else self._total + kept
        self._times = times if self._times is None else self._times + times
        return batch.where_counted(per_token, 0.0).sum() / self.count, kept

    def mean(self) -> torch.Tensor:
        """Return the step's mean loss."""
        assert self._total is not None
        return self._total.mean() if self.count is None else self._total.sum() / self.count

    def losses(self) -> torch.Tensor:
        """Return the mean of each position over the micro-batches in which it counts; NaN where it counts in none."""
        assert self._total is not None
        return self._total if self._times is None else self._total / self._times

    def per_position(self) -> torch.Tensor:
        """Return the mean of each position over the rows in which it counts, (token_pos,); NaN where there are none."""
        assert self._total is not None
        return self._total.mean(dim=0) if self._times is None else self._total.sum(dim=0) / self._times.sum(dim=0)

    def mask(self) -> torch.Tensor:
        """Return 1 where a position counts in any micro-batch, int8."""
        assert self._times is not None
        return (self._times > 0).to(torch.int8)
