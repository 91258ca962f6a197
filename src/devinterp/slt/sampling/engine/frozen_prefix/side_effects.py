"""What calls of modules leave behind beside their output: a memory of the output would leave it undone.

Three looks, of which each sees what the others may miss. What modules, and the functions that their classes are written
with, hold and name (attributes, globals, closures, the contents of what stands there) is compared before and after an
evaluation. Numbers can go elsewhere only through Python: where a call looks at numbers, the code that ran in it is
asked whether it stores anything that outlives the call. Whatever else there may be shows in the loss, once something
else than the batch at hand has been evaluated in between; `evaluator` does so before it trusts.
"""

from __future__ import annotations

import array
import dis
import functools
import io
import os
import pickle
import random
import sys
import sysconfig
import types
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from devinterp.slt.sampling.inputs.callables import codes_of

__all__ = ["SCALARS", "Asked", "Changes", "Given", "State", "StoresSeen"]

SCALARS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)

_DEPTH = 4  # from a module's attribute, or a function's global, to what is compared
_ELEMENTS = 64  # of a container
_ARRAY = 2**24  # bytes of an array that are compared
_PLACES = 50_000
_FUNCTIONS = {"global", "closure", "default", "function", "__self__", "args", "keywords"}
"""On the way to a place: it is reached through what a function names or holds."""

_STANDS = "where it stands"

_Place = tuple[Any, ...]

_STORES = {"STORE_GLOBAL", "STORE_ATTR", "STORE_SUBSCR", "STORE_SLICE", "DELETE_GLOBAL", "DELETE_ATTR", "DELETE_SUBSCR"}
_SETTERS = {
    "setattr", "delattr", "setitem", "delitem", "__setattr__", "__setitem__", "__delattr__", "__delitem__", "write",
    "writelines",
}  # fmt: skip
_MUTATORS = {
    "add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "fill", "insert", "itemset", "pop",
    "popitem", "popleft", "put", "remove", "reverse", "rotate", "set", "setdefault", "setfield", "sort", "update",
}  # fmt: skip
_TRUSTED = tuple(os.path.join(os.path.dirname(p), "") for p in (torch.__file__, __file__))
_OF_MODES = (
    os.path.join(os.path.dirname(torch.__file__), "autograd", ""),
    os.path.join(os.path.dirname(torch.__file__), "utils", "_"),
    os.path.join(str(Path(__file__).parents[4]), ""),  # this package
)
_PYTHON = ("<frozen ", os.path.join(os.path.dirname(os.__file__), ""))
_PACKAGES = tuple(os.path.join(sysconfig.get_path(name), "") for name in ("purelib", "platlib"))


class State:
    """What a model's modules, and the functions of their classes, hold and name at one moment.

    Parameters
    ----------
    model : torch.nn.Module
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = list(model.modules())
        self._seen: dict[int, tuple[Any, dict[Any, Any]]] = {}  # the roots are held: no identity comes again
        known = {id(module) for module in self._modules}
        for root in (root for module in self._modules for root in _roots(module)):
            if id(root) not in self._seen:
                self._seen[id(root)] = root, _Places(root, known).places

    def changes(self, after: State, aside: Iterable[nn.Module]) -> Changes:
        """Look for what has come, gone or become another object or number since.

        Parameters
        ----------
        after : State
            Of the same model.
        aside : iterable of modules
            What the functions of these name is theirs to read, and may be a log or a count of somebody who watches.
        """
        if len(self._modules) != len(after._modules):
            return Changes(lasting=True)
        out = {id(inner) for module in aside for inner in module.modules()}
        wanted = {id(root) for module in self._modules if id(module) not in out for root in _roots(module)}
        lasting = counted = drawn = False
        for number, (_, places) in self._seen.items():
            changed = _changed(places, after._seen[number][1] if number in after._seen else {})
            numbers = {place for place in changed if place and place[-1] == _STANDS}
            drawn, changed = drawn or bool(numbers), changed - numbers
            if number in wanted:
                lasting |= bool(changed)
            else:
                named = {place for place in changed if not _FUNCTIONS.isdisjoint(place)}
                longer = {place[:-1] for place in named if place[-1] == "length"}
                lasting |= number in out and bool(changed - named)
                counted |= any(longer.isdisjoint(place[:end] for end in range(1, len(place))) for place in named)
        return Changes(lasting, counted, drawn)


@dataclass(frozen=True)
class Changes:
    """What an evaluation left in what modules hold and name.

    Attributes
    ----------
    lasting : bool
        Whether anything of it may be read later.
    counted : bool
        Whether a part that stands for itself has changed numbers that its functions name, otherwise than by adding to
        a list.
    drawn : bool
        Whether a generator that modules hold or name has moved on, or something else that gives one after the other.
    """

    lasting: bool = False
    counted: bool = False
    drawn: bool = False


def _roots(module: nn.Module) -> Iterator[Any]:
    """Yield what is looked into on behalf of a module: itself and its classes."""
    yield module
    yield from (cls for cls in type(module).__mro__ if not _is_torch(cls.__module__))


class Given:
    """What the arguments of a call hold: a cache, or a list, that it may put something into.

    Parameters
    ----------
    arguments : object
    modules : set of int
        Identities of the model's modules, which `State` looks into.
    """

    def __init__(self, arguments: Any, modules: set[int]) -> None:
        self._arguments, self._modules = arguments, modules
        self._places = _Places(arguments, modules, depth=-2).places

    def same(self) -> bool:
        """Whether they hold the same now."""
        return not _changed(self._places, _Places(self._arguments, self._modules, depth=-2).places)


class _Places:
    """What stands in the places that can be reached from an object."""

    def __init__(self, root: Any, modules: set[int], depth: int = 0) -> None:
        self.places: dict[_Place, Any] = {}
        self._seen: dict[int, Any] = {}  # held, so that no identity is given to another
        self._modules = modules
        if isinstance(root, nn.Module):  # tensors among its attributes are compared as objects: a kept one is another
            own = {name: value for name, value in vars(root).items() if name not in _OF_MODULES}
            tables = {(name, "length"): len(v) for name, v in vars(root).items() if isinstance(v, dict | set)}
            self._attributes((), own | dict(root._buffers.items()) | {"training": root.training}, -1)
            self.places |= tables
        else:
            self._look((), root, depth, ())

    def _place(self, place: _Place, value: Any, depth: int, names: tuple[str, ...] = ()) -> None:
        self.places[place] = value
        if depth < _DEPTH and len(self.places) < _PLACES:
            self._look(place, value, depth, names)

    def _attributes(self, place: _Place, values: Mapping[str, Any], depth: int) -> None:
        for name, value in list(values.items())[:_ELEMENTS]:
            self._place((*place, name), value, depth + 1)

    def _look(self, place: _Place, value: Any, depth: int, names: tuple[str, ...]) -> None:
        """Look into a value; of a namespace at what is named alone."""
        if isinstance(value, SCALARS):
            return
        if isinstance(value, torch.Tensor):
            if not value.is_inference():
                self.places[*place, "written"] = value._version
            return
        if isinstance(value, types.ModuleType):  # what of it is named may be more each time
            for name in names:
                if name in vars(value):
                    self._place((*place, name), vars(value)[name], depth + 1, names)
            return
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, nn.Module):
            if id(value) not in self._modules:
                self._attributes(place, vars(value), depth)
        elif isinstance(value, np.ndarray | array.array | bytearray | memoryview):
            numbers = np.asarray(value)
            if numbers.nbytes <= _ARRAY and not numbers.dtype.hasobject:
                self.places[*place, "bytes"] = zlib.crc32(numbers.tobytes())
        elif isinstance(value, random.Random | np.random.Generator | np.random.RandomState):
            self.places[*place, _STANDS] = pickle.dumps(value)
        elif isinstance(value, types.BuiltinMethodType):
            self._place((*place, "self"), value.__self__, depth)
        elif isinstance(value, types.MethodType | staticmethod | classmethod | functools.partial | property):
            inner = getattr(value, "__func__", None) or getattr(value, "func", None) or getattr(value, "fget", None)
            self._place((*place, "function"), inner, depth)
            for name in ("__self__", "args", "keywords"):
                self._place((*place, name), getattr(value, name, None), depth)
        elif isinstance(value, types.FunctionType):
            self._function(place, value, depth)
        elif isinstance(value, type):
            if not _is_torch(value.__module__) and value.__module__ != "builtins":
                self._attributes(place, {n: v for n, v in vars(value).items() if n not in _OF_CLASSES}, depth)
        elif isinstance(value, list | tuple | deque):
            self.places[*place, "length"] = len(value)
            for index, each in enumerate(value if isinstance(value, deque) else value[-_ELEMENTS:]):
                self._place((*place, index), each, depth + 1)
        elif isinstance(value, dict):
            self.places[*place, "length"] = len(value)
            for key, each in list(value.items())[-_ELEMENTS:]:
                self._place((*place, key if isinstance(key, SCALARS) else id(key)), each, depth + 1)
        elif isinstance(value, set | frozenset):
            self.places[*place, "elements"] = frozenset(e if isinstance(e, SCALARS) else id(e) for e in value)
        elif not _is_torch(type(value).__module__):
            slots = {
                n: v
                for cls in type(value).__mro__
                for n, v in vars(cls).items()
                if isinstance(v, types.MemberDescriptorType)
            }
            own = {n: getattr(value, n) for n in slots if hasattr(value, n)} | getattr(value, "__dict__", {})
            self._attributes(place, own, depth)
            if isinstance(value, Iterator) and not (own or isinstance(value, io.IOBase)):
                self.places[*place, _STANDS] = object()  # where that is does not show

    def _function(self, place: _Place, function: types.FunctionType, depth: int) -> None:
        """Look at what a function names of its globals, and at its closure and defaults."""
        if _is_torch(function.__module__):
            return
        names = tuple(sorted({name for code in codes_of(function.__code__) for name in code.co_names}))
        for name in names:
            if name in function.__globals__:
                self._place(("global", function.__module__, name), function.__globals__[name], depth + 1, names)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                self._place((*place, "closure", name), cell.cell_contents, depth + 1)
            except ValueError:  # empty
                self.places[*place, "closure", name] = None
        for number, each in enumerate(function.__defaults__ or ()):
            self._place((*place, "default", number), each, depth + 1)


class StoresSeen:
    """Whether code that runs inside stores anything that may outlive it.

    Code of torch's, and this package's own, is taken to store nothing of the caller's. Everything else is asked by its
    instructions, so that a number is seen to be stored whatever it is; and functions written in C, which change a
    list or a dict, by their names, where that lives on.
    """

    def __init__(self) -> None:
        self.any = False
        self._changed: dict[int, list[Any]] = {}

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Look at the code that this thread runs inside."""
        before = sys.getprofile()
        sys.setprofile(before.and_then(self._event) if isinstance(before, Asked) else self._event)
        try:
            yield
        finally:
            sys.setprofile(before)

    def settle(self) -> bool:
        """Return whether anything was stored; to be asked when the call is over and its own variables are gone."""
        held, self._changed = list(self._changed.values()), {}
        alone = [object()]
        free = sys.getrefcount(alone[0])
        return self.any or any(sys.getrefcount(each[0]) > free for each in held)

    def _event(self, frame: types.FrameType, event: str, arg: Any) -> None:
        if _file(frame).startswith(_TRUSTED):
            return
        if event == "call":
            self.any = self.any or _stores(frame.f_code)
        elif event == "c_call":
            if arg.__name__ in _SETTERS:
                self.any = True
            owner = getattr(arg, "__self__", None)
            if arg.__name__ in _MUTATORS and not isinstance(owner, torch.Tensor | types.ModuleType | None):
                self._changed.setdefault(id(owner), [owner])


class Asked:
    """Whether code that runs inside asks if gradients are wanted: numbers may depend on it, in some rows alone.

    Of torch, what puts the mode back as it was is not meant.
    """

    def __init__(self) -> None:
        self.mode = False

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Look at the code that this thread runs inside."""
        before = sys.getprofile()
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(before)

    def __call__(self, frame: types.FrameType, event: str, arg: Any) -> None:
        """Take an event as `sys.setprofile` tells of it."""
        if event == "c_call" and arg is torch.is_grad_enabled and not frame.f_code.co_filename.startswith(_OF_MODES):
            self.mode = True

    def and_then(self, other: Callable[[types.FrameType, str, Any], None]) -> Callable[..., None]:
        """Return what tells of an event to another one as well."""

        def both(frame: types.FrameType, event: str, arg: Any) -> None:
            self(frame, event, arg)
            other(frame, event, arg)

        return both


def _file(frame: types.FrameType) -> str:
    """Where code was written; of what was generated from text, as a dataclass has it, the file of its module."""
    name = frame.f_code.co_filename
    return str(frame.f_globals.get("__file__", name)) if name == "<string>" else name


def _of_python(file: str) -> bool:
    return file.startswith(_PYTHON) and not file.startswith(_PACKAGES)


@functools.lru_cache(maxsize=4096)
def _stores(code: types.CodeType) -> bool:
    """Whether a code object has an instruction that stores elsewhere than in its own variables.

    Of Python's own library, whose objects store things of their own, the functions that are named so are meant.
    """
    if _of_python(code.co_filename):
        return code.co_name in _SETTERS | _MUTATORS
    free = set(code.co_freevars)
    return bool(_SETTERS.intersection(code.co_names)) or any(
        step.opname in _STORES or (step.opname in ("STORE_DEREF", "DELETE_DEREF") and step.argval in free)
        for step in dis.get_instructions(code)
    )


_OF_MODULES = frozenset(vars(nn.Module()))
_OF_CLASSES = {"__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__parameters__", "_abc_impl"}


def _changed(one: Mapping[_Place, Any], other: Mapping[_Place, Any]) -> set[_Place]:
    both = one.keys() & other.keys()
    return (one.keys() ^ other.keys()) | {place for place in both if not _same(one[place], other[place])}


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    plain = (*SCALARS, frozenset)
    same = isinstance(one, plain) and type(one) is type(other)
    return same and (bool(one == other) or (one != one and other != other))


def _is_torch(module: str | None) -> bool:
    return (module or "").partition(".")[0] in ("torch", "numpy")
