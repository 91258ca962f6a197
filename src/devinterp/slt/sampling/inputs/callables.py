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
import types
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import nn

__all__ = ["LOOSE", "describe_backward_hooks", "describe_callable", "describe_model", "hash_tensors", "raw_bytes"]

_LITERALS = (bool, int, float, complex, str, bytes, type(None))
_LONGEST = 40
_DEPTH = 4
_SMALL = 32
LOOSE = "~"
"""Marks the text of a small list, dict or set of plain values: as often a switch or a log as a setting, so that its
change alone does not tell that something else is computed."""


def hash_tensors(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Return the sha256 of named tensors: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(raw_bytes(tensor))
    return digest.hexdigest()


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
        Functions of its own package that it names are looked into as well; those of others are told by their name.
    model : torch.nn.Module, optional
        The model that is sampled, which has an identity of its own and is not hashed again.
    """
    if function is None:
        return {}
    walk = _Walk(model, _package(function))
    walk.callable("", function)
    return walk.found


def describe_model(model: nn.Module) -> dict[str, str]:
    """Return the plain attributes of a model's modules and of its config, and its hooks, by name.

    An attribute that several modules have under one name is one entry, hashed where they differ.
    """
    values: dict[str, list[str]] = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if not name.startswith("_") and name != "training" and isinstance(value, _LITERALS):
                values.setdefault(name, []).append(_literal(value))
        hooks = {kind: getattr(module, kind, {}) for kind in ("_forward_pre_hooks", "_forward_hooks")}
        for kind, table in hooks.items():
            for hook in table.values():
                values.setdefault(f"{kind.strip('_')} of {path or 'the model'}", []).append(_name(hook))
    config: Any = getattr(model, "config", None)
    if hasattr(config, "to_diff_dict"):  # of transformers: what differs from the defaults
        for name, value in config.to_diff_dict().items():
            values[f"config.{name}"] = [_literal(value)]
    return {name: each[0] if len(set(each)) == 1 else _digest(each) for name, each in sorted(values.items())}


def describe_backward_hooks(model: nn.Module) -> dict[str, str]:
    """Return the names of the hooks that see or change gradients inside a model, by module."""
    found = {}
    for path, module in model.named_modules():
        hooks = [*module._backward_hooks.values(), *module._backward_pre_hooks.values()]
        if hooks:
            found[path or "the model"] = ", ".join(map(_name, hooks))
    return found


def _package(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__module__", None) or type(function).__module__).split(".")[0]


class _Walk:
    def __init__(self, model: nn.Module | None, package: str) -> None:
        self.model, self.package = model, package
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
        if owner is self.model or isinstance(owner, types.ModuleType):
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
            source = repr([c.co_code for c in _codes(code)]) + repr([c.co_consts for c in _codes(code)][:1])
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
        wanted = {i.argval for each in _codes(code) for i in dis.get_instructions(each) if i.opname == "LOAD_GLOBAL"}
        self._add(f"{prefix}global", {n: function.__globals__[n] for n in wanted if n in function.__globals__})

    def _add(self, prefix: str, values: Mapping[Any, Any]) -> None:
        for name, value in sorted(values.items(), key=lambda item: str(item[0])):
            if isinstance(value, types.ModuleType) or value is self.model:
                continue
            inside = isinstance(value, types.FunctionType | types.MethodType | functools.partial)
            if inside and _package(value) == self.package:
                self.callable(f"{prefix}.{name}.", value)
            else:
                loose = isinstance(value, list | dict | set) and len(value) < _SMALL and all(map(_is_plain, value))
                loose = loose and (not isinstance(value, dict) or all(map(_is_plain, value.values())))
                self.found[f"{prefix}.{name}"] = f"{LOOSE if loose else ''}{self.text(value)}"

    def text(self, value: Any, depth: int = 0) -> str:
        """Return a text that changes with the value, as far as its content can be told."""
        if isinstance(value, _LITERALS):
            return _literal(value)
        if isinstance(value, Enum | PurePath | range | slice | torch.dtype | torch.device | np.generic):
            return repr(value)
        kind = type(value).__name__
        if isinstance(value, torch.Tensor):
            return kind if value.is_meta else f"{kind} {hash_tensors([('', value)])[:16]}"
        if isinstance(value, np.ndarray):
            parts = value.tolist() if value.dtype.hasobject else [value.tobytes()]
            return f"{kind} {_digest([str(value.dtype), str(value.shape), *(self.text(p, depth + 1) for p in parts)])}"
        if isinstance(value, nn.Module):
            if value is self.model:
                return "the model"
            tensors = [*value.named_parameters(), *value.named_buffers()]
            return f"{kind} {_digest([hash_tensors(tensors), str(sorted(describe_model(value).items()))])}"
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
            if isinstance(value, list | tuple):
                return f"{kind} {_digest([self.text(part, depth + 1) for part in value])}"
            if isinstance(value, set | frozenset):
                return f"{kind} {_digest(sorted(self.text(part, depth + 1) for part in value))}"
            fields = _fields(value)
            return f"{kind} {_digest([self.text(p, depth + 1) for i in sorted(fields.items()) for p in i])}"
        finally:
            self.seen.discard(id(value))


def _is_plain(value: Any) -> bool:
    return isinstance(value, _LITERALS)


def _fields(value: Any) -> dict[str, Any]:
    """Return the attributes of an instance, those in slots too."""
    slots = [n for cls in type(value).__mro__ for n in getattr(cls, "__slots__", ()) if isinstance(n, str)]
    return {**{n: getattr(value, n) for n in slots if hasattr(value, n)}, **getattr(value, "__dict__", {})}


def _codes(code: types.CodeType) -> list[types.CodeType]:
    """Return a function's code, and that of the functions written inside it."""
    return [code, *(each for part in code.co_consts if isinstance(part, types.CodeType) for each in _codes(part))]


def _literal(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{type(value).__name__} {_digest([text])}"


def _name(value: Any) -> str:
    named = value if hasattr(value, "__qualname__") else getattr(value, "func", type(value))
    return f"{getattr(named, '__module__', '')}.{getattr(named, '__qualname__', type(named).__name__)}"


def _digest(texts: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        raw = text if isinstance(text, bytes) else str(text).encode()
        digest.update(f"{len(raw)}:".encode() + raw)
    return digest.hexdigest()[:16]
