"""Clean hands: a model and the global generators that a run borrows come back as they were, whatever happens."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

__all__ = ["Generators", "isolated_generators", "restoring", "seed_generators"]


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed numpy, torch (CPU, and the device where it is another) and `random`.

    `torch.manual_seed` would also seed devices that the run does not use.
    """
    np.random.seed(seed)  # noqa: NPY002 (the global generator is what a model's forward may use)
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)  # a model may be spread over several
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


class Generators:
    """States of the global generators: torch CPU, the device's, numpy and `random`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.torch_cpu = torch.get_rng_state()
        self.torch_device = _device_states(device)
        self.numpy = np.random.get_state(legacy=True)  # noqa: NPY002
        self.python = random.getstate()

    def restore(self) -> None:
        """Put the generators back into these states."""
        torch.set_rng_state(self.torch_cpu)
        if self.device.type == "cuda":
            torch.cuda.set_rng_state_all(self.torch_device)
        elif self.device.type == "mps":
            torch.mps.set_rng_state(self.torch_device[0])
        np.random.set_state(self.numpy)  # noqa: NPY002
        random.setstate(self.python)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Generators):
            return NotImplemented
        mine, theirs = self.as_dict(), other.as_dict()
        return mine.keys() == theirs.keys() and all(_same(mine[key], theirs[key]) for key in mine)

    __hash__ = None  # type: ignore[assignment]

    def as_dict(self) -> dict[str, Any]:
        """Return the states as tensors and plain values, which `torch.load` reads with ``weights_only=True``."""
        name, keys, position, has_gauss, cached = self.numpy
        version, words, gauss = self.python
        return {
            "torch_cpu": self.torch_cpu,
            "torch_device": list(self.torch_device),
            "numpy": [str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), int(position), int(has_gauss)],
            "numpy_cached": float(cached),
            "python": [int(version), torch.tensor(words, dtype=torch.int64)],
            "python_gauss": gauss,
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any], device: torch.device) -> Generators:
        """Rebuild from `as_dict`."""
        self = cls.__new__(cls)
        self.device = device
        self.torch_cpu = state["torch_cpu"]
        self.torch_device = list(state["torch_device"])
        name, keys, position, has_gauss = state["numpy"]
        self.numpy = (name, keys.numpy().astype(np.uint32), position, has_gauss, state["numpy_cached"])
        version, words = state["python"]
        self.python = (version, tuple(words.tolist()), state["python_gauss"])
        return self


def _device_states(device: torch.device) -> list[torch.Tensor]:
    if device.type == "cuda":
        return list(torch.cuda.get_rng_state_all())
    if device.type == "mps":
        return [torch.mps.get_rng_state()]
    return []


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


@contextmanager
def isolated_generators(device: torch.device) -> Iterator[None]:
    """Give the generators back on exit as they were on entry."""
    before = Generators(device)
    try:
        yield
    finally:
        before.restore()


@contextmanager
def restoring(
    model: nn.Module, device: torch.device, *, mode: str, sampled: frozenset[str] | None = None
) -> Iterator[None]:
    """Lend the model to a run: on `device`, in `mode`, with gradients for the sampled parameters alone.

    Weights, gradients, ``requires_grad``, buffers, modes, device and the global generators come back on every exit.
    Parameters keep their original storage: whoever assigns ``parameter.data`` inside works on a copy of its own.

    Parameters
    ----------
    model : torch.nn.Module
    device : torch.device
    mode : {"train", "eval"}
    sampled : frozenset of str, optional
        Names of the parameters that may get gradients; None leaves ``requires_grad`` alone.
    """
    parameters = dict(model.named_parameters())
    data = {name: parameter.data for name, parameter in parameters.items()}
    gradients = {name: parameter.grad for name, parameter in parameters.items()}
    wants_gradient = {name: parameter.requires_grad for name, parameter in parameters.items()}
    buffers = _buffers(model)
    contents = [buffer.detach().clone() for _, _, buffer in buffers]
    modes = [(module, module.training) for module in model.modules()]
    with isolated_generators(device):
        try:
            for name, parameter in parameters.items():
                parameter.grad = None
                parameter.data = parameter.data.to(device)
                if sampled is not None and name not in sampled:
                    parameter.requires_grad_(False)
            moved = {id(buffer): buffer.to(device) for _, _, buffer in buffers}  # one that two modules share stays one
            for module, key, buffer in buffers:
                module._buffers[key] = moved[id(buffer)]
            model.train(mode == "train")
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = data[name]
                parameter.grad = gradients[name]
                parameter.requires_grad_(wants_gradient[name])
            with torch.no_grad():
                for (module, key, buffer), content in zip(buffers, contents, strict=True):
                    if not torch.equal(buffer, content):  # an expanded buffer cannot be written to, nor has been
                        buffer.copy_(content)
                    module._buffers[key] = buffer
            for module, training in modes:
                module.training = training


def _buffers(model: nn.Module) -> list[tuple[nn.Module, str, torch.Tensor]]:
    """Every buffer with its owner; one that two modules share is listed twice."""
    return [
        (module, key, buffer)
        for module in model.modules()
        for key, buffer in module._buffers.items()
        if buffer is not None
    ]
