"""What a loss holds beside its source: arguments, defaults, closure, attributes and globals, as short texts.

The source of a function says nothing of the values that it works with. Each value here becomes a text by which a change
can be named: a number stands for itself, an array or a module is hashed, and what cannot be told apart by its content
(an open file, a generator) is named by its type alone.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Iterable, Mapping, Sequence, Set
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import nn

__all__ = [
    "LOOSE",
    "codes_of",
    "describe_backward_hooks",
    "describe_callable",
    "describe_model",
    "hash_tensors",
    "raw_bytes",
]

_LITERALS = (bool, int, float, complex, str, bytes, type(None))
_LONGEST = 40
_DEPTH = 4
LOOSE = "~"
"""Marks the text of what may differ while the same is computed, and may compute another thing on other rows than the
first: one value in a list or dict, which is as often a switch as a setting, and tables and hooks of a model."""


def hash_tensors(tensors: Iterable[tuple[str, torch.Tensor]], digest: hashlib._Hash | None = None) -> hashlib._Hash:
    """Return the sha256 of named tensors, names, dtypes, shapes and bytes; or go on with one of others."""
    digest = hashlib.sha256() if digest is None else digest
    for name, tensor in tensors:
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(raw_bytes(tensor))
    return digest


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the values of a tensor as bytes, since numpy knows no bfloat16."""
    dense = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
    data: memoryview = dense.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return data


def describe_callable(function: Any, *, model: nn.Module | None = None) -> dict[str, str]:
    """Return what a callable holds, by name: ``{"partial.scale": "2.0", "closure.labels": "Tensor 1f0c..."}``.

    Parameters
    ----------
    function : callable or None
        Functions, classes and modules of its own project that it names are looked into as well; what is installed is
        told by its name.
    model : torch.nn.Module, optional
        The model that is sampled, which has an identity of its own and is not hashed again.
    """
    if function is None:
        return {}
    walk = _Walk(model, _Project.of(function))
    walk.callable("", function)
    return walk.found


def describe_model(model: nn.Module) -> dict[str, str]:
    """Return the plain attributes of a model's modules and of its config, its tables and its hooks, by name.

    An attribute that several modules have under one name is one entry, hashed where they differ.
    """
    values: dict[str, list[str]] = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name.startswith("_") or name == "training":
                continue
            if isinstance(value, _LITERALS):
                values.setdefault(name, []).append(_literal(value))
            elif _is_data(value):
                values.setdefault(name, []).append(f"{LOOSE}{_Walk(model, _Project()).text(value)}")
        hooks = {kind: getattr(module, kind, {}) for kind in ("_forward_pre_hooks", "_forward_hooks")}
        for kind, table in hooks.items():
            for hook in table.values():
                named = f"{kind.strip('_')} of {path or 'the model'}"
                values.setdefault(named, []).append(_name(hook))
                held = describe_callable(hook, model=model)
                values.setdefault(f"what is held by {named}", []).append(f"{LOOSE}{_digest(sorted(held.items()))}")
    config: Any = getattr(model, "config", None)
    if hasattr(config, "to_diff_dict"):  # of transformers: what differs from the defaults
        for name, value in config.to_diff_dict().items():
            values[f"config.{name}"] = [_literal(value)]
    return {name: each[0] if len(set(each)) == 1 else _several(each) for name, each in sorted(values.items())}


def describe_backward_hooks(model: nn.Module) -> dict[str, str]:
    """Return the names of the hooks that see or change gradients inside a model, by module."""
    found = {}
    for path, module in model.named_modules():
        hooks = [*module._backward_hooks.values(), *module._backward_pre_hooks.values()]
        if hooks:
            found[path or "the model"] = ", ".join(map(_name, hooks))
    return found


class _Project:
    """The modules that a function was written with: its package, and what lies beside it and is not installed."""

    def __init__(self, package: str = "", folder: Path | None = None) -> None:
        self.package, self.folder = package, folder

    @classmethod
    def of(cls, function: Any) -> _Project:
        package = _module_of(function).split(".")[0]
        file = getattr(sys.modules.get(package), "__file__", None)
        folder = Path(file).resolve().parent if file else Path.cwd()
        return cls(package, None if _installed(folder) else folder)

    def __contains__(self, module: str) -> bool:
        package = module.split(".")[0]
        if not package or package == self.package:
            return bool(package)
        if self.folder is None or package in sys.stdlib_module_names or package not in sys.modules:
            return False
        file = getattr(sys.modules[package], "__file__", None)
        if file is None:  # made in this process; a namespace lies in a folder
            return not hasattr(sys.modules[package], "__path__")
        return self.folder in Path(file).resolve().parents and not _installed(Path(file).resolve())


def _module_of(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__module__", None) or type(function).__module__)


@functools.cache
def _installed(place: Path) -> bool:
    """Whether a file or folder belongs to Python or to a package that was installed."""
    roots = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(root == place or root in place.parents for root in roots)


class _Walk:
    def __init__(self, model: nn.Module | None, project: _Project) -> None:
        self.model, self.project = model, project
        self.found: dict[str, str] = {}
        self.seen: set[int] = set()

    def callable(self, prefix: str, function: Any) -> None:
        """Add what a callable holds to what was found."""
        if id(function) in self.seen:
            return
        self.seen.add(id(function))
        if isinstance(function, functools.partial):
            self._add(f"{prefix}partial", dict(enumerate(function.args)) | dict(function.keywords))
            self.callable(prefix, function.func)
        elif isinstance(function, types.MethodType):
            self._attributes(prefix, function.__self__)
            self.callable(prefix, function.__func__)
        elif isinstance(function, types.FunctionType):
            self._function(prefix, function)
        elif not isinstance(function, type | types.BuiltinFunctionType):
            self._attributes(prefix, function)
            if not isinstance(function, nn.Module) and isinstance(type(function).__call__, types.FunctionType):
                self.callable(prefix, type(function).__call__)

    def _attributes(self, prefix: str, owner: Any) -> None:
        if owner is self.model or isinstance(owner, types.ModuleType | type):
            return
        if isinstance(owner, nn.Module):
            self.found[f"{prefix}self"] = self.text(owner)
        else:
            self._add(f"{prefix}self", _fields(owner))

    def _function(self, prefix: str, function: types.FunctionType) -> None:
        code = function.__code__
        try:
            source = inspect.getsource(function)
        except (OSError, TypeError):  # typed into a console, or made by exec
            source = repr([c.co_code for c in codes_of(code)]) + repr([c.co_consts for c in codes_of(code)][:1])
            source = source if " at 0x" not in source else code.co_code.hex()
        self.found[f"{prefix}source"] = _digest([source])
        names = code.co_varnames[: code.co_argcount]
        defaults = function.__defaults__ or ()
        self._add(f"{prefix}default", dict(zip(names[len(names) - len(defaults) :], defaults, strict=True)))
        self._add(f"{prefix}default", function.__kwdefaults__ or {})
        self._add(f"{prefix}attribute", {n: v for n, v in vars(function).items() if n != "__wrapped__"})
        closure = {}
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                closure[name] = cell.cell_contents
            except ValueError:  # not bound yet
                continue
        self._add(f"{prefix}closure", closure)
        self._add(f"{prefix}global", dict(self._globals(function)))

    def _globals(self, function: types.FunctionType) -> Iterable[tuple[str, Any]]:
        """Yield the globals that a function names; of the project's modules and classes, what it names of them."""
        for code in codes_of(function.__code__):
            owner, path = None, ""
            for step in dis.get_instructions(code):
                if step.opname in ("LOAD_ATTR", "LOAD_METHOD") and self._is_open(owner):
                    owner, path = getattr(owner, step.argval, None), f"{path}.{step.argval}"
                    continue
                if path:
                    yield path, owner
                owner, path = None, ""
                if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval in function.__globals__:
                    owner, path = function.__globals__[step.argval], str(step.argval)

    def _is_open(self, owner: Any) -> bool:
        if isinstance(owner, types.ModuleType):
            return owner.__name__ in self.project
        return isinstance(owner, type) and _module_of(owner) in self.project

    def _add(self, prefix: str, values: Mapping[Any, Any]) -> None:
        for name, value in sorted(values.items(), key=lambda item: str(item[0])):
            if isinstance(value, types.ModuleType) or value is self.model:
                continue
            inside = isinstance(value, types.FunctionType | types.MethodType | functools.partial)
            if inside and _module_of(value) in self.project:
                self.callable(f"{prefix}.{name}.", value)
            else:
                self.found[f"{prefix}.{name}"] = f"{LOOSE if _is_switch(value) else ''}{self.text(value)}"

    def text(self, value: Any, depth: int = 0) -> str:
        """Return a text that changes with the value, as far as its content can be told."""
        if isinstance(value, _LITERALS):
            return _literal(value)
        if isinstance(value, Enum | PurePath | range | slice | torch.dtype | torch.device | np.generic):
            return repr(value)
        kind = type(value).__name__
        if isinstance(value, torch.Tensor):
            return kind if value.is_meta else f"{kind} {hash_tensors([('', value)]).hexdigest()[:16]}"
        if isinstance(value, np.ndarray):
            parts = value.tolist() if value.dtype.hasobject else [value.tobytes()]
            return f"{kind} {_digest([str(value.dtype), str(value.shape), *(self.text(p, depth + 1) for p in parts)])}"
        if isinstance(value, nn.Module):
            if value is self.model:
                return "the model"
            tensors = [*value.named_parameters(), *value.named_buffers()]
            return f"{kind} {_digest([hash_tensors(tensors).hexdigest(), str(sorted(describe_model(value).items()))])}"
        if isinstance(value, type | types.BuiltinFunctionType | types.FunctionType | types.MethodType):
            return _name(value)
        if hasattr(value, "_fingerprint"):  # a dataset of HuggingFace
            return f"{kind} {value._fingerprint}"
        if callable(getattr(value, "to_numpy", None)):  # of pandas, polars, pyarrow, xarray
            return f"{kind} {self.text(np.asarray(value), depth + 1)}"
        if depth >= _DEPTH or id(value) in self.seen:
            return kind
        self.seen.add(id(value))
        try:
            if isinstance(value, Mapping):
                return f"{kind} {_digest([self.text(part, depth + 1) for item in value.items() for part in item])}"
            if isinstance(value, Sequence | deque):
                return f"{kind} {_digest([self.text(part, depth + 1) for part in value])}"
            if isinstance(value, Set):
                return f"{kind} {_digest(sorted(self.text(part, depth + 1) for part in value))}"
            fields = _fields(value)
            return f"{kind} {_digest([self.text(p, depth + 1) for i in sorted(fields.items()) for p in i])}"
        finally:
            self.seen.discard(id(value))


def _is_switch(value: Any) -> bool:
    """Whether it is a list, dict or set of one plain value, or of several that are neither numbers nor texts."""
    if not isinstance(value, list | dict | set):
        return False
    parts = list(value.values()) if isinstance(value, dict) else list(value)
    return all(isinstance(part, _LITERALS if len(parts) < 2 else (bool, type(None))) for part in parts)


def _is_data(value: Any, depth: int = 0) -> bool:
    """Whether it is an array, or a container of arrays and plain values."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return True
    if depth >= _DEPTH or not isinstance(value, dict | list | tuple | set | frozenset | deque):
        return False
    parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    return all(isinstance(part, _LITERALS) or _is_data(part, depth + 1) for part in parts)


def _fields(value: Any) -> dict[str, Any]:
    """Return the attributes of an instance, those in slots too."""
    slots = [n for cls in type(value).__mro__ for n in getattr(cls, "__slots__", ()) if isinstance(n, str)]
    return {**{n: getattr(value, n) for n in slots if hasattr(value, n)}, **getattr(value, "__dict__", {})}


def codes_of(code: types.CodeType) -> list[types.CodeType]:
    """Return a function's code, and that of the functions written inside it."""
    return [code, *(each for part in code.co_consts if isinstance(part, types.CodeType) for each in codes_of(part))]


def _literal(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{type(value).__name__} {_digest([text])}"


def _several(texts: Sequence[str]) -> str:
    """One text for those of several modules; loose where all are."""
    return f"{LOOSE if all(text.startswith(LOOSE) for text in texts) else ''}{_digest(texts)}"


def _name(value: Any) -> str:
    named = value if hasattr(value, "__qualname__") else getattr(value, "func", type(value))
    return f"{getattr(named, '__module__', '')}.{getattr(named, '__qualname__', type(named).__name__)}"


def _digest(texts: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        raw = text if isinstance(text, bytes) else str(text).encode()
        digest.update(f"{len(raw)}:".encode() + raw)
    return digest.hexdigest()[:16]
