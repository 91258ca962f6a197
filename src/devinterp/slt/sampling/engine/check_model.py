"""A look at the model before anything is sampled: does it fit the data, and does it draw random numbers itself?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from devinterp.errors import ModelError, SettingError
from devinterp.slt.sampling.engine.losses import NonFiniteError, PerTokenLoss, forward_logits
from devinterp.slt.sampling.engine.restore import Generators, restoring, seed_generators
from devinterp.slt.sampling.inputs.batches import SamplingData
from devinterp.slt.sampling.inputs.masks import Masks
from devinterp.slt.sampling.inputs.observables import Observable
from devinterp.slt.sampling.inputs.rows import check_vocabulary
from devinterp.slt.sampling.settings import SamplerSettings

__all__ = ["Probe", "choose_device", "probe_model"]


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
        Per-token loss of the first batch, the generators seeded as those of the first chain.
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


def probe_model(
    model: nn.Module,
    loss: PerTokenLoss,
    settings: SamplerSettings,
    data: SamplingData,
    observables: tuple[Observable, ...],
    masks: Masks,
    device: torch.device,
) -> Probe:
    """Evaluate the first batch once, and check ids, shape, dtype, gradient and finiteness of the loss.

    Raises
    ------
    DataError
        Ids lie outside the vocabulary.
    ModelError
        The loss has the wrong shape or dtype, is not finite, or does not depend on the parameters to sample.
    """
    with restoring(model, device, mode=settings.mode, sampled=frozenset(masks)):
        seed_generators(settings.init_seed, device)
        batch = data.feed(0).batch(0)
        vocabulary = _declared_vocabulary(model)
        if loss.loss_fn is None and vocabulary is None:
            # Id 0 is in every vocabulary. An id outside would be a device-side assertion on CUDA, which no process
            # survives, so the ids are checked before the model sees them.
            with torch.no_grad():
                vocabulary = _logits(model, torch.zeros_like(batch).to(device)).shape[-1]
        check_vocabulary(data.ids, vocabulary, "The sampling dataset")
        for observable in observables:
            check_vocabulary(observable.ids.numpy(), vocabulary, f"The observable {observable.name!r}")
        contents = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        before = Generators(device)
        try:
            batch = batch.to(device)
            per_token = loss(model, batch) if loss.loss_fn else loss.of_logits(_logits(model, batch), batch)
        except NonFiniteError as error:
            raise _not_finite(str(error)) from None
        _check_loss(per_token, batch, loss.finite())
        random = before != Generators(device)
        changed = any(not torch.equal(buffer, contents.get(name, buffer)) for name, buffer in model.named_buffers())
        losses = per_token.detach().to("cpu", torch.float32, copy=True).numpy()
        idle = _idle(model, per_token, masks)
        mixes = any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in model.modules())
    return Probe(vocabulary, random, changed or mixes, losses, idle)


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


def _logits(model: nn.Module, input_ids: torch.Tensor) -> torch.Tensor:
    logits = forward_logits(model, input_ids)
    expected = f"(batch, token, vocabulary), here ({input_ids.shape[0]}, {input_ids.shape[1]}, ...)"
    if not isinstance(logits, torch.Tensor):
        raise ModelError(
            "The model returns neither logits nor an object with .logits.",
            expected=f"a tensor of shape {expected}",
            found=type(logits).__name__,
            remedy="Pass loss_fn=, which is called as loss_fn(model, input_ids).",
        )
    if logits.ndim != 3 or logits.shape[:2] != input_ids.shape:
        raise ModelError("The model's logits have the wrong shape.", expected=expected, found=tuple(logits.shape))
    return logits


def _check_loss(per_token: Any, batch: torch.Tensor, fine: torch.Tensor | None) -> None:
    expected = (batch.shape[0], batch.shape[1] - 1)
    if not isinstance(per_token, torch.Tensor):
        raise ModelError("loss_fn returns no tensor.", expected=f"shape {expected}", found=type(per_token).__name__)
    if tuple(per_token.shape) != expected:
        raise ModelError(
            "The loss has the wrong shape: it must be one number per predicted token.",
            expected=f"(batch, token - 1) = {expected}",
            found=tuple(per_token.shape),
        )
    if not per_token.is_floating_point():
        raise ModelError("The loss is not a floating-point tensor.", expected="float32", found=per_token.dtype)
    if not per_token.requires_grad:
        raise ModelError(
            "The loss does not depend on the parameters to sample: it carries no gradient.",
            remedy="See that loss_fn neither detaches nor runs under torch.no_grad, and that the parameters are used.",
        )
    if not bool(torch.isfinite(per_token).all()) or (fine is not None and not bool(fine)):
        raise _not_finite("the loss is not finite")


def _not_finite(reason: str) -> ModelError:
    return ModelError(f"The model cannot be sampled from its present weights: {reason} on the first batch.")
