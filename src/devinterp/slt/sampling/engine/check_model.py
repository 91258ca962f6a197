"""A look at the model before anything is sampled: does it fit the data, and does it draw random numbers itself?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from devinterp.errors import DataError, ModelError, SettingError
from devinterp.slt.sampling.engine.frozen_prefix import Evaluator, other_row
from devinterp.slt.sampling.engine.losses import NonFiniteError, PerTokenLoss, forward_logits, takes_attention_mask
from devinterp.slt.sampling.engine.restore_model import Generators, restoring, same_values, seed_generators
from devinterp.slt.sampling.inputs.batches import SamplingData
from devinterp.slt.sampling.inputs.nested import Batch
from devinterp.slt.sampling.inputs.observables import Observable
from devinterp.slt.sampling.inputs.parameter_masks import Masks
from devinterp.slt.sampling.inputs.rows_in_memory import HeldTokens, IdArray
from devinterp.slt.sampling.inputs.token_rows import check_vocabulary
from devinterp.slt.sampling.settings import SamplerSettings

__all__ = ["Probe", "check_parameters", "choose_device", "probe_model"]

_FEW = 8
"""Tokens that show whether a model looks ahead."""


@dataclass(frozen=True)
class Probe:
    """What one forward pass showed.

    Attributes
    ----------
    vocabulary : int or None
        Size of the model's vocabulary; None where a loss of the caller's hides it.
    random : bool
        Whether the forward pass draws from a global generator (dropout).
    stateful : bool
        Whether it changes buffers or mixes rows of a batch (BatchNorm).
    losses : (batch, token_pos) float32
        Losses of the first batch, the generators seeded as those of the first chain.
    idle : tuple of str
        Parameters to sample that the loss of this batch gives no gradient.
    """

    vocabulary: int | None
    random: bool
    stateful: bool
    losses: npt.NDArray[np.float32]
    idle: tuple[str, ...]


def choose_device(device: str | torch.device | None) -> torch.device:
    """Return the device to sample on; None picks CUDA, MPS or the CPU, the first that is there.

    Raises
    ------
    SettingError
        There is no such device here.
    """
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise SettingError(
            f"The device {device!r} is not there.",
            expected="'cpu', or an accelerator that torch finds on this machine",
            found=str(error).splitlines()[0],
        ) from error
    return chosen


def check_parameters(model: object) -> None:
    """Raise `ModelError` where `model` is not a module whose parameters can be sampled."""
    if not isinstance(model, nn.Module):
        inner = getattr(model, "_model", None)  # NNsight and its relatives wrap a model without being one
        raise ModelError(
            "model is not a torch module.",
            expected="torch.nn.Module",
            found=type(model).__name__,
            remedy="Pass the module inside it: model._model." if isinstance(inner, nn.Module) else None,
        )
    parameters = dict(model.named_parameters())
    if not parameters:
        raise ModelError("model has no parameters, so there is nothing to sample.")
    for name, parameter in parameters.items():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ModelError(
                f"The parameter {name!r} has no values yet: it belongs to a lazy module.",
                remedy="Call the model once, then sample.",
            )
        if parameter.is_meta:
            raise ModelError(
                f"The parameter {name!r} is on the meta device, which holds no values.",
                expected="weights in memory",
                found="a model that was not loaded, or whose weights are offloaded",
                remedy="Load the whole model, without device_map or offloading.",
            )
        if parameter.is_inference():
            raise ModelError(
                f"The parameter {name!r} was made under torch.inference_mode, so nothing can be differentiated by it.",
                remedy="Make or load the model outside, or copy it there: copy.deepcopy(model).",
            )


def probe_model(
    model: nn.Module,
    loss: PerTokenLoss,
    settings: SamplerSettings,
    data: SamplingData,
    observables: tuple[Observable, ...],
    masks: Masks,
    device: torch.device,
    evaluator: Evaluator | None = None,
) -> Probe:
    """Evaluate the first batch once, and check ids, shape, dtype, gradient and finiteness of the loss.

    The model's own loss is evaluated without gradients, as an initial loss is, and one row with them.

    Parameters
    ----------
    evaluator : Evaluator, optional
        Keeps what the first step can leave out of its own evaluation of this batch.

    Raises
    ------
    DataError
        Ids lie outside the vocabulary.
    ModelError
        The loss has the wrong shape or dtype, is not finite, or does not depend on the parameters to sample; or it is
        that of a next token which the model has seen.
    """
    with restoring(model, device, mode=settings.mode, sampled=frozenset(masks)):
        feed = data.feed(0)
        batch = feed.batch(0)
        vocabulary = _check_tokens(model, loss, data, observables, batch, device) if batch.tokens else None
        batch, marks = batch.to(device), _Marks(model, device)
        if batch.tokens and loss.loss_fn is None:
            _check_causal(model, batch.ids, device)
        row = other_row(batch) if loss.loss_fn is None else None

        def evaluate(rows: Batch) -> torch.Tensor:
            nonlocal vocabulary
            logits = _logits(model, rows)
            if vocabulary is None:
                vocabulary = logits.shape[-1]
                _check_ids(vocabulary, data, observables)
            _check_width(logits.shape[-1], data, observables)
            return loss.of_logits(logits, rows)

        seed_generators(settings.init_seed, device)
        with marks.left_here():
            try:
                if loss.loss_fn:
                    per_token = loss(model, batch)
                else:
                    with torch.no_grad():
                        try:
                            if evaluator is None:
                                per_token = evaluate(batch)
                            else:
                                per_token = evaluator(evaluate, batch, feed.batch_key(0), row=row)
                        except IndexError:  # perhaps an id outside the vocabulary
                            _check_ids(_width(model, batch, device), data, observables)
                            raise
            except NonFiniteError as error:
                raise _not_finite(str(error)) from None
            _check_loss(per_token, batch, loss.finite())
            if loss.loss_fn:
                _check_gradient(per_token)
            losses = batch.where_counted(per_token.detach(), 0.0).to("cpu", torch.float32, copy=True).numpy()
            all_reached = False
            if row is not None:
                with restoring(model, device, mode=settings.mode, sampled=frozenset(masks)), marks.left_here():
                    all_reached, by_row = _see_row(model, loss, row, masks)
                if evaluator is not None and by_row is not None:
                    with torch.no_grad():
                        evaluator.compare_modes(evaluate, by_row)
            if not all_reached and loss.loss_fn is None:
                per_token = loss(model, batch)
                _check_gradient(per_token)
            idle = () if all_reached else _idle(model, per_token, masks)
        mixes = any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in model.modules())
    return Probe(vocabulary, marks.random, marks.changed or mixes, losses, idle)


class _Marks:
    """Whether evaluations of a model draw random numbers, or change its buffers."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.random = self.changed = False
        self._model, self._device = model, device
        self._contents = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}

    @contextmanager
    def left_here(self) -> Iterator[None]:
        """Look at what is left behind by what is done inside."""
        before = Generators(self._device)
        yield
        self.random |= before != Generators(self._device)
        buffers = self._model.named_buffers()
        self.changed |= any(not same_values(buffer, self._contents.get(name, buffer)) for name, buffer in buffers)


def _check_tokens(
    model: nn.Module,
    loss: PerTokenLoss,
    data: SamplingData,
    observables: tuple[Observable, ...],
    batch: Batch,
    device: torch.device,
) -> int | None:
    """Check ids and length before the model is called; return the size of its vocabulary, where that is known."""
    _check_positions(model, batch.ids.shape[1])
    held = (data.held, *(observable.held for observable in observables))
    if loss.loss_fn is None and any(h.has_gaps for h in held if isinstance(h, HeldTokens)):
        _check_mask_is_taken(model)
    vocabulary = _declared_vocabulary(model)
    if loss.loss_fn is None and vocabulary is None and device.type != "cpu":
        # An id outside the vocabulary is a device-side assertion on CUDA, which no process survives.
        vocabulary = _width(model, batch, device)
    _check_ids(vocabulary, data, observables)
    return vocabulary


def _see_row(model: nn.Module, loss: PerTokenLoss, row: Batch, masks: Masks) -> tuple[bool, torch.Tensor | None]:
    """Return whether one row gives all parameters to sample a gradient, and its losses.

    Where they do not, all of the batch must be asked: experts of a mixture, for one, are reached by some tokens alone.
    """
    with suppress(Exception):  # a model that wants several
        per_token = loss(model, row)
        return not _idle(model, per_token, masks), per_token.detach()
    return False, None


def _idle(model: nn.Module, per_token: torch.Tensor, masks: Masks) -> tuple[str, ...]:
    """Return the parameters to sample that get no gradient from this loss."""
    wanted = {name: p for name, p in model.named_parameters() if name in masks and p.requires_grad}
    reached, nodes = set(), [per_token.grad_fn]
    seen = set(nodes)
    while nodes:
        node: Any = nodes.pop()
        reached.add(id(getattr(node, "variable", None)))
        for each, _ in node.next_functions:
            if each is not None and each not in seen:
                seen.add(each)
                nodes.append(each)
    if all(id(parameter) in reached for parameter in wanted.values()):
        return ()
    # A function of Python's own may reach them all the same when it is differentiated: reentrant checkpointing does.
    per_token.float().mean().backward()  # type: ignore[no-untyped-call]
    return tuple(name for name, parameter in wanted.items() if parameter.grad is None)


@torch.no_grad()
def _width(model: nn.Module, batch: Batch, device: torch.device) -> int:
    """Return how many logits a model gives; id 0, which it is called with, is in every vocabulary."""
    return _logits(model, Batch(torch.zeros_like(batch.ids, device=device), tokens=True)).shape[-1]


def _check_ids(vocabulary: int | None, data: SamplingData, observables: tuple[Observable, ...]) -> None:
    for name, ids in _held_ids(data, observables):
        check_vocabulary(ids, vocabulary, name)


def _held_ids(data: SamplingData, observables: tuple[Observable, ...]) -> Iterator[tuple[str, IdArray]]:
    """Yield what a dataset of tokens is called, and its ids that a run visits."""
    named = (("The sampling dataset", data.held), *((f"The observable {o.name!r}", o.held) for o in observables))
    for name, held in named:
        if isinstance(held, HeldTokens):
            yield name, held.ids


def _check_positions(model: nn.Module, length: int) -> None:
    """Raise `DataError` where rows are longer than a table of positions that the model learned."""
    tables = [
        module.num_embeddings
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and any(word in name.rsplit(".", 1)[-1] for word in ("wpe", "position"))
    ]
    config = getattr(model, "config", None)
    names = ("max_position_embeddings", "n_positions", "max_seq_len")
    most = next((n for name in names if isinstance(n := getattr(config, name, None), int)), None) if tables else None
    most = getattr(getattr(model, "cfg", None), "n_ctx", most)
    if isinstance(most, int) and 0 < most < length:
        raise DataError(
            "The sequences are longer than the model has positions for.",
            expected=f"at most {most} tokens",
            found=f"{length} tokens",
            remedy="Cut them: devinterp.utils.tokenize_and_concatenate takes max_length.",
        )


def _check_mask_is_taken(model: nn.Module) -> None:
    """Raise `ModelError` where a model would take what a row is padded with on the left for tokens."""
    if not takes_attention_mask(model):
        raise ModelError(
            f"{type(model).__name__} takes no attention mask, and rows lack tokens before others: it would read what "
            "they are padded with.",
            expected="an argument attention_mask of its forward",
            remedy="Pad on the right, or pass loss_fn=, which gets a dict with 'input_ids' and 'attention_mask'.",
        )


def _check_causal(model: nn.Module, ids: torch.Tensor, device: torch.device) -> None:
    """Raise `ModelError` where logits at a token change with a token after it.

    Asked of a few tokens of one row, beside the same with another last token, without what is random in training.
    """
    row = ids[0, :_FEW]
    other = torch.cat([row[:-1], torch.where(row[-1:] == 0, ids.max(), 0)])
    logits = None
    with suppress(Exception), restoring(model, device, mode="eval"):  # rows that may not be shortened
        logits = _logits(model, Batch(torch.stack([row, other]), tokens=True))[:, :-1]
    if logits is None or not bool(torch.isfinite(logits).all()):
        return
    # A token that nothing before it reads leaves no trace there, but for roundings: of another place in the batch, or
    # where it is for another expert, of as many tokens less.
    dtypes = {logits.dtype, *(weight.dtype for weight in model.parameters() if weight.is_floating_point())}
    rounding = max(1e-5, *(2 * torch.finfo(dtype).eps for dtype in dtypes)) * logits.abs().max()
    if bool((logits[0] - logits[1]).abs().max() > rounding):
        raise ModelError(
            f"{type(model).__name__} reads whole rows: every prediction of a next token would have seen it.",
            expected="a model whose logits at a token depend on that token and those before",
            found="logits that change with the token after",
            remedy="Configure it as a decoder (is_decoder=True in some configurations of transformers), or pass "
            "loss_fn=, which is called as loss_fn(model, input_ids), hides tokens and predicts them.",
        )


def _check_width(width: int, data: SamplingData, observables: tuple[Observable, ...]) -> None:
    """Raise `ModelError` where the model's output is too narrow to be the logits of these tokens."""
    largest = max(int(ids.max()) for _, ids in _held_ids(data, observables))
    if largest >= width:
        raise ModelError(
            "The model's output is narrower than its vocabulary, so it is not the logits of a next token.",
            expected=f"more than {largest} numbers per token, the largest id in the data",
            found=f"{width}",
            remedy="Pass a model with a language-model head, or loss_fn=.",
        )


def _declared_vocabulary(model: nn.Module) -> int | None:
    """Size of the token embedding, where the model says which one it is."""
    table: Any = None
    if hasattr(model, "get_input_embeddings"):
        try:
            table = model.get_input_embeddings()  # type: ignore[operator]
        except NotImplementedError:
            table = None
    size = getattr(table, "num_embeddings", None) or getattr(getattr(model, "cfg", None), "d_vocab", None)
    return int(size) if isinstance(size, int) and size > 0 else None


def _logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise ModelError(
            f"{type(model).__name__} is an encoder-decoder: a row of ids does not say what each side is given.",
            remedy="Pass loss_fn=, which is called as loss_fn(model, input_ids) and gives each side its ids.",
        )
    input_ids = batch.ids
    logits = forward_logits(model, input_ids, batch.beside)
    expected = f"(batch, token, vocabulary), here ({input_ids.shape[0]}, {input_ids.shape[1]}, ...)"
    if not isinstance(logits, torch.Tensor):
        raise ModelError(
            "The model returns neither logits nor an object with .logits.",
            expected=f"a tensor of shape {expected}",
            found=type(logits).__name__,
            remedy="Pass a model with a language-model head, or loss_fn=, called as loss_fn(model, input_ids).",
        )
    if logits.ndim != 3 or logits.shape[:2] != input_ids.shape:
        raise ModelError("The model's logits have the wrong shape.", expected=expected, found=tuple(logits.shape))
    return logits


def _check_loss(per_token: torch.Tensor, batch: Batch, fine: torch.Tensor | None) -> None:
    if not per_token.is_floating_point():
        raise ModelError("The loss is not a floating-point tensor.", expected="float32", found=per_token.dtype)
    if not bool(torch.isfinite(batch.where_counted(per_token, 0.0)).all()) or (fine is not None and not bool(fine)):
        raise _not_finite("the loss is not finite")


def _check_gradient(per_token: torch.Tensor) -> None:
    if not per_token.requires_grad:
        raise ModelError(
            "The loss does not depend on the parameters to sample: it carries no gradient.",
            remedy="See that loss_fn neither detaches nor runs under torch.no_grad, and that the parameters are used.",
        )


def _not_finite(reason: str) -> ModelError:
    return ModelError(f"The model cannot be sampled from its present weights: {reason} on the first batch.")
