"""Clean hands: a model and the global generators that a run borrows come back as they were, whatever happens."""

from __future__ import annotations

import random
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import nn

__all__ = [
    "LENDING",
    "Generators",
    "isolated_generators",
    "parameter_hooks",
    "put_buffers",
    "restoring",
    "same_values",
    "seed_generators",
]


LENDING = threading.RLock()
"""Held while a model is lent to a run, or its weights are read: the global generators, torch's settings and the model
are one for all threads of a process, so that calls in several threads take turns."""


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
    """Give the generators back on exit as they were on entry; another thread that wants the same waits."""
    with LENDING:
        before = Generators(device)
        try:
            yield
        finally:
            before.restore()


@contextmanager
def restoring(
    model: nn.Module,
    device: torch.device,
    *,
    mode: str,
    sampled: frozenset[str] | None = None,
    numbers: bool = False,
) -> Iterator[None]:
    """Lend the model to a run: on `device`, in `mode`, with gradients for the sampled parameters alone.

    Weights, gradients, ``requires_grad``, buffers, modes, device and the global generators come back on every exit, as
    do tensors that modules hold as plain attributes (the weight that ``weight_norm`` or pruning computes); what a
    forward pass registers goes again. Hooks of parameters are set aside: some change gradients, some step an optimizer.
    Parameters keep their original storage: whoever assigns ``parameter.data`` inside works on a copy of its own.
    Another thread that borrows a model of this process waits.

    Parameters
    ----------
    model : torch.nn.Module
    device : torch.device
    mode : {"train", "eval"}
    sampled : frozenset of str, optional
        Names of the parameters that may get gradients, in whatever gradient mode the caller is; None leaves
        ``requires_grad`` alone, and nothing is differentiated.
    numbers : bool
        Whether modules forget all that happens inside, numbers in their attributes too: of passes that are nobody's.
        Else counters and logs are their owner's.
    """
    with isolated_generators(device), torch.inference_mode(False), torch.set_grad_enabled(sampled is not None):
        parameters = dict(model.named_parameters())
        loans = [_ParameterLoan(parameter) for parameter in parameters.values()]
        modules = [_ModuleLoan(module) for module in model.modules()]
        written_to = {id(module.weight) for module in model.modules() if _scales_its_weight(module)}
        try:
            for name, parameter in parameters.items():
                parameter.grad = None
                parameter.data = parameter.data.to(device, copy=id(parameter) in written_to)
                if sampled is not None and name not in sampled:
                    parameter.requires_grad_(False)
            moved: dict[int, torch.Tensor] = {}  # a buffer that two modules share stays one
            for loan in modules:
                loan.move(device, moved)
            model.train(mode == "train")
            torch.clear_autocast_cache()
            yield
        finally:
            torch.clear_autocast_cache()
            for parameter_loan in loans:
                parameter_loan.end()
            for loan in modules:
                loan.end(numbers=numbers)


def _scales_its_weight(module: nn.Module) -> bool:
    """Whether a forward pass writes to the module's own weight."""
    return isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None


class _ParameterLoan:
    """A parameter as its owner has it."""

    def __init__(self, parameter: nn.Parameter) -> None:
        self._parameter, self._data, self._grad = parameter, parameter.data, parameter.grad
        self._requires_grad = parameter.requires_grad
        self._hooks = [(table, dict(table)) for table in parameter_hooks(parameter)]
        for table, _ in self._hooks:  # emptied in place: autograd and the handles of the hooks hold the table itself
            table.clear()

    def end(self) -> None:
        parameter = self._parameter
        parameter.data = self._data
        parameter.grad = self._grad
        parameter.requires_grad_(self._requires_grad)
        for table in parameter_hooks(parameter):
            table.clear()
        for table, hooks in self._hooks:
            table.update(hooks)


class _ModuleLoan:
    """A module as its owner has it: its mode, what is registered in it, its buffers, and its plain tensors."""

    _REGISTERED = ("_parameters", "_buffers", "_modules")

    def __init__(self, module: nn.Module) -> None:
        self._module, self._training = module, module.training
        self._registered = {name: dict(getattr(module, name).items()) for name in self._REGISTERED}
        self._passing = set(module._non_persistent_buffers_set)
        own = self._own = {name: value for name, value in vars(module).items() if name not in _INTERNAL}
        self._plain = {name: value for name, value in own.items() if _holds_tensors(value)}
        self._containers = [(value, copy(value)) for value in own.values() if type(value) in _CONTAINERS]
        tensors = [b for b in self._registered["_buffers"].values() if b is not None]
        tensors += [value for value in self._plain.values() if isinstance(value, torch.Tensor)]
        self._contents = [(tensor, tensor.detach().clone()) for tensor in tensors]

    def move(self, device: torch.device, moved: dict[int, torch.Tensor]) -> None:
        for key, buffer in self._registered["_buffers"].items():
            if buffer is not None:
                self._module._buffers[key] = moved.setdefault(id(buffer), buffer.to(device))

    def end(self, *, numbers: bool) -> None:
        module, inside = self._module, vars(self._module)

        def comes_back(value: Any) -> bool:
            return numbers or _holds_tensors(value)

        for name, entries in self._registered.items():
            _put_back(getattr(module, name), entries)
        module._non_persistent_buffers_set.clear()
        module._non_persistent_buffers_set.update(self._passing)
        for container, content in self._containers:
            if comes_back(container) or _holds_tensors(content):  # a cache
                container.clear()
                container.extend(content) if isinstance(container, list | deque) else container.update(content)
        known = _INTERNAL | self._own.keys()
        for name in [name for name, value in inside.items() if name not in known and comes_back(value)]:
            del inside[name]
        for name, value in self._own.items():  # None, say, which became a cache, a parameter or a module
            if name in self._plain or name not in inside or comes_back(inside[name]):
                inside[name] = value
        with torch.no_grad():
            for tensor, content in self._contents:
                if not same_values(tensor, content):  # an expanded buffer cannot be written to, nor has been
                    _write(tensor, content)
        module.training = self._training


_INTERNAL = frozenset(vars(nn.Module()))
_CONTAINERS = (dict, list, set, deque, OrderedDict, defaultdict)


def _put_back(present: Any, entries: dict[str, Any]) -> None:
    """Register again what was registered in a module, where that has changed."""
    changed = [key for key in entries if key not in present or present[key] is not entries[key]]
    if isinstance(present, dict):
        if changed or list(present) != list(entries):
            present.clear()
            present.update(entries)
        return
    for key in changed:  # the view of a scripted module: fixed names in a fixed order, whose values may be set
        present[key] = entries[key]


def _holds_tensors(value: Any) -> bool:
    """Whether a plain attribute of a module is a tensor, or a small container of some (a cache)."""
    if isinstance(value, torch.Tensor):
        return True
    if isinstance(value, dict):
        return any(isinstance(each, torch.Tensor) for each in value.values())
    return isinstance(value, list | tuple | set | deque) and any(isinstance(each, torch.Tensor) for each in value)


def put_buffers(model: nn.Module, contents: Mapping[str, torch.Tensor]) -> None:
    """Have a model's buffers hold other numbers; one of another shape than these, a table that grew, becomes new.

    A buffer that is not there, since the forward pass registers it, is left to that.
    """
    present = dict(model.named_buffers())
    for name, content in contents.items():
        buffer = present.get(name)
        if buffer is None or same_values(buffer, content := content.to(buffer.device)):
            continue
        if (buffer.shape, buffer.dtype) == (content.shape, content.dtype):
            with torch.no_grad():
                buffer.copy_(content)
        else:
            owner, _, own_name = name.rpartition(".")
            model.get_submodule(owner)._buffers[own_name] = content.clone()


def _write(tensor: torch.Tensor, content: torch.Tensor) -> None:
    """Give a tensor its numbers back, and its shape where a forward pass has set ``data`` or resized it."""
    if tensor.shape == content.shape and tensor.dtype == content.dtype:
        tensor.copy_(content)
    else:
        tensor.data = content


def same_values(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors hold the same numbers; NaN is NaN, and what cannot be compared is the same."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.is_meta:
        return True
    return torch.equal(one, other) or bool(((one == other) | ((one != one) & (other != other))).all())


def parameter_hooks(parameter: nn.Parameter) -> list[dict[int, Any]]:
    """Return the tables of hooks on a parameter's gradient: those that may change it, and those that come after."""
    tables = (parameter._backward_hooks, parameter._post_accumulate_grad_hooks)
    return [table for table in tables if table]
