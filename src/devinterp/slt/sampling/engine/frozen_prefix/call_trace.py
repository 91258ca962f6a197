"""One evaluation of the loss, watched operation by operation: which calls of modules come before any sampled weight.

A call that ends before the first operation on a sampled weight gives the same at every draw. Whether its output may be
given out again instead, and whether anybody reads it, is seen from the operations and from what is still in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from devinterp.slt.sampling.engine.frozen_prefix.side_effects import (
    SCALARS,
    Asked,
    Changes,
    Given,
    State,
    StoresSeen,
)
from devinterp.slt.sampling.engine.restore_model import Generators
from devinterp.slt.sampling.inputs.nested import tensors_within

__all__ = ["Call", "Trace", "replaced_forward", "tensors_of", "trace_calls"]

_OUTSIDE = -1
_ROUNDS = 8
_TO_PYTHON = (torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.__array__, torch.Tensor.data_ptr)


@dataclass
class Call:
    """One outermost call of a module without sampled weights.

    Attributes
    ----------
    module : torch.nn.Module
    nth : int
        How many calls of the module came before, in the same evaluation.
    cost : float
        Floating-point operations, roughly.
    fine : bool
        Whether its result can stand for it: it has no effect but its output, which consists of plain tensors.
    looked : bool
        Whether Python was shown numbers that depend on the rows.
    written : bool
        Whether somebody writes to its output afterwards.
    read_before : list of int
        For each reading of the output by an operation that no call encloses: how many calls had begun by then.
    alive : set of int
        The calls, itself among them, whose outputs are still in memory when the next thing happens.
    """

    module: nn.Module
    nth: int
    cost: float = 0.0
    fine: bool = True
    looked: bool = False
    written: bool = False
    read_before: list[int] = field(default_factory=list)
    alive: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Trace:
    """What an evaluation showed.

    Attributes
    ----------
    calls : list of Call
        Those that ended before a sampled weight was read, in order.
    cost : float
        Of the whole evaluation.
    reason : str or None
        Why no call may be left out; None where nothing speaks against it.
    loss : tensor or None
        What the evaluation gave.
    changes : Changes
        What it left in what modules hold and name.
    asks_mode : bool
        Whether it asked if gradients are wanted.
    """

    calls: list[Call]
    cost: float
    reason: str | None
    loss: torch.Tensor | None = None
    changes: Changes = field(default_factory=Changes)
    asks_mode: bool = False


def trace_calls(model: nn.Module, sampled: Sequence[torch.Tensor], rows: Any, evaluate: Callable[[Any], Any]) -> Trace:
    """Evaluate once and say what came before the first operation on a sampled weight.

    The evaluation may leave traces in generators and buffers, where the model is of that kind; the caller undoes them.

    Parameters
    ----------
    model : torch.nn.Module
    sampled : sequence of tensors
        The parameters that move.
    rows : tensors in plain containers
        What the loss is evaluated on; a few rows are as good as a batch.
    evaluate : callable
        From rows to the loss.
    """
    reason = _forbidden(model)
    if reason is not None:
        return Trace([], 0.0, reason)
    moved = {id(each) for each in sampled}
    closed = [module for module in model.modules() if _whole(module, moved)]
    asked = set[nn.Module]()
    for _ in range(_ROUNDS):
        trace = _watch(model, closed, sampled, rows, evaluate, asked)
        open_up = {call.module for call in trace.calls if not call.fine}
        unasked = {call.module for call in trace.calls if call.looked and call.fine} - asked
        if trace.reason is not None or not (open_up or unasked):
            return trace
        asked |= unasked
        closed = [module for module in closed if module not in open_up]  # what they call may still stand for itself
    return trace


def _watch(
    model: nn.Module,
    closed: Sequence[nn.Module],
    sampled: Sequence[torch.Tensor],
    rows: Any,
    evaluate: Callable[[Any], Any],
    asked: set[nn.Module],
) -> Trace:
    """Evaluate once; of the modules that are asked, the code that runs in them is looked at as well."""
    given = [each for _, each in tensors_within(rows) if isinstance(each, torch.Tensor)]
    device = given[0].device if given else torch.device("cpu")
    tracer = _Tracer(model, sampled, given, asked)
    state, generators, python = State(model), Generators(device), Asked()
    replaced = replaced_forward({module: tracer.wrap(module) for module in closed})
    with python.inside(), replaced, _Functions(tracer), tracer:
        loss = evaluate(rows)
    tracer.settle()
    if not tracer.tainted:
        tracer.refuse("no sampled weight was seen to be read")
    if generators != Generators(device):
        tracer.refuse("it draws random numbers")
    changes = state.changes(State(model), [call.module for call in tracer.calls])
    if changes.lasting:
        tracer.refuse("its modules keep something of every pass")
    return Trace(tracer.calls, tracer.cost, tracer.reason, loss.detach().clone(), changes, python.mode)


@contextmanager
def replaced_forward(forwards: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Have modules call other functions than their own ``forward``, and give them their own back."""
    before = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, own in before.items():
            if own is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = own


def tensors_of(value: Any) -> list[torch.Tensor] | None:
    """Return the tensors of plain containers, None where there is anything else but numbers and text in them."""
    if isinstance(value, torch.Tensor):
        plain = type(value) is torch.Tensor and value.layout == torch.strided and not value.requires_grad
        wrapped = torch._C._functorch.is_functorch_wrapped_tensor(value)
        return [value] if plain and not wrapped and not value.is_inference() else None
    if type(value) in (tuple, list, dict):
        found: list[torch.Tensor] = []
        for each in value.values() if isinstance(value, dict) else value:
            inner = tensors_of(each)
            if inner is None:
                return None
            found += inner
        return found
    return [] if isinstance(value, SCALARS) else None


def _forbidden(model: nn.Module) -> str | None:
    """What rules out that calls of a model's modules are left out, whatever an evaluation would show."""
    hooks = nn.modules.module
    if hooks._global_forward_hooks or hooks._global_forward_pre_hooks or hooks._global_backward_hooks:
        return "hooks are set for all modules"
    for module in model.modules():
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            return "it is spread over replicas"
        if module._compiled_call_impl is not None or hasattr(module, "_orig_mod"):
            return "it is compiled"
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
            return "modules have hooks"
    return None


def _whole(module: nn.Module, sampled: set[int]) -> bool:
    """Whether a module can be called, from Python, and has no sampled weight in it."""
    if isinstance(module, torch.jit.ScriptModule) or type(module).forward is nn.Module.forward:
        return False
    return not any(id(parameter) in sampled for parameter in module.parameters())


class _Functions(TorchFunctionMode):
    """Tells the tracer of what no operation shows: values that go to Python or numpy."""

    def __init__(self, tracer: _Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _TO_PYTHON:
            self._tracer.looked_at(args[:1])
        return func(*args, **(kwargs or {}))


class _Tracer(TorchDispatchMode):
    """Follows memory: who made it, who writes to it, what depends on the rows, and what is still held."""

    def __init__(
        self,
        model: nn.Module,
        sampled: Sequence[torch.Tensor],
        rows: Sequence[torch.Tensor],
        asked: Collection[nn.Module],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._thread = threading.get_ident()
        self._asked, self._modules = asked, {id(module) for module in model.modules()}
        self.calls: list[Call] = []
        self.cost = 0.0
        self.reason: str | None = None
        self._current = _OUTSIDE
        self.tainted = False
        self._counts: dict[nn.Module, int] = {}
        self._refs: dict[int, StorageWeakRef] = {}  # held, so that no number is given to other memory
        self._born: dict[int, int] = {}
        self._outputs: dict[int, list[int]] = {}
        self._last: int | None = None  # the call that ended, until the next thing happens
        self._sampled = {self._key(each) for each in sampled}
        self._lasting = {self._key(each) for each in (*model.parameters(), *model.buffers())}
        self._derived = {self._key(each) for each in rows}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or the first operation imports torch's compiler, which takes seconds

    def refuse(self, reason: str) -> None:
        """Rule everything out."""
        self.reason = self.reason or reason

    def wrap(self, module: nn.Module) -> Callable[..., Any]:
        """Return a forward of the module that is a call of the trace, unless another one encloses it."""
        original = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self._thread:  # whose operations are not seen
                self.refuse("it is spread over threads")
                return original(*args, **kwargs)
            if self.tainted or self._current != _OUTSIDE:
                return original(*args, **kwargs)
            index, stores, given = self._begin(module), StoresSeen(), Given((args, kwargs), self._modules)
            try:
                with stores.inside() if module in self._asked else nullcontext():
                    output = original(*args, **kwargs)
            finally:
                self._current = _OUTSIDE
            self._end(index, output, leaves_something=stores.settle() or not given.same())
            return output

        return forward

    def settle(self) -> None:
        """Note what outlived the last call."""
        last, self._last = self._last, None
        if last is None:
            return
        alive = {key for key, born in self._born.items() if born == last and self._lives(key)}
        if any(key not in self._outputs for key in alive):
            self.calls[last].fine = False  # somebody keeps what the call made beside its output
        for key, owners in self._outputs.items():
            if self._lives(key):
                self.calls[last].alive.update(owner for owner in owners if owner <= last)

    def looked_at(self, values: Sequence[Any]) -> None:
        """Note that Python sees numbers, on which it may depend what happens next."""
        keys = {self._key(value) for value in values if isinstance(value, torch.Tensor)}
        if keys & self._sampled:
            self._taint()
        if self.tainted or not keys & self._derived:
            return
        if self._current == _OUTSIDE:
            self.refuse("what it does depends on the numbers")
        else:
            self.calls[self._current].looked = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._current == _OUTSIDE:
            self.settle()
        read = [self._key(each) for each in _flat((args, kwargs))]
        if not self.tainted and self._sampled.intersection(read):
            self._taint()
        if self._current == _OUTSIDE and not self.tainted:
            for owner in {owner for key in read for owner in self._outputs.get(key, ())}:
                self.calls[owner].read_before.append(len(self.calls))
        if torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
            self.looked_at(list(_flat((args, kwargs))))
        if torch.Tag.nondeterministic_seeded in func.tags and "scaled_dot_product" not in str(func):
            self.refuse("it draws random numbers")
        for key in self._written(func, args, kwargs):
            self._note_write(key)
        out = func(*args, **kwargs)
        derived = bool(self._derived.intersection(read))
        for each in _flat(out):
            key = self._key(each)
            if key not in read and key not in self._born:
                self._born[key] = self._current
            if derived:
                self._derived.add(key)
        self._charge(func, args, kwargs, out)
        return out

    def _begin(self, module: nn.Module) -> int:
        self.settle()
        nth = self._counts.get(module, 0)
        self._counts[module] = nth + 1
        self.calls.append(Call(module, nth))
        self._current = len(self.calls) - 1
        return self._current

    def _end(self, index: int, output: Any, *, leaves_something: bool) -> None:
        if self.tainted:  # it reads a sampled weight that is not in it
            self.calls.pop()
            return
        tensors = tensors_of(output)
        if tensors is None or leaves_something:
            self.calls[index].fine = False
        for each in _flat(output):
            self._outputs.setdefault(self._key(each), []).append(index)
        self._last = index

    def _taint(self) -> None:
        if self._current == _OUTSIDE:
            self.settle()
        self.tainted = True

    def _note_write(self, key: int) -> None:
        if key in self._lasting:
            self.refuse("it changes its weights or buffers")
            return
        for owner in self._outputs.get(key, ()):
            self.calls[owner].written = True
        if self._current != _OUTSIDE and self._born.get(key) != self._current:
            self.calls[self._current].fine = False  # an effect beside its output

    def _written(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[int]:
        for position, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                value = args[position] if position < len(args) else kwargs.get(argument.name)
                yield from (self._key(each) for each in _flat(value))

    def _charge(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        cost = 8.0 * sum(each.numel() for each in _flat(out))  # an element that is moved, against a multiplication
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            with suppress(
                Exception
            ):  # torch's formulas refuse some shapes that it computes: grouped queries in bfloat16
                cost += float(count(*args, **kwargs, out_val=out))
        self.cost += cost
        if self._current != _OUTSIDE and self._current < len(self.calls):
            self.calls[self._current].cost += cost

    def _lives(self, key: int) -> bool:
        return not self._refs[key].expired()  # type: ignore[no-untyped-call]

    def _key(self, tensor: torch.Tensor) -> int:
        """Identity of the memory that a tensor looks at."""
        storage = tensor.untyped_storage()
        key: int = storage._cdata
        if key not in self._refs:
            self._refs[key] = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        return key


def _flat(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _flat(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _flat(each)
