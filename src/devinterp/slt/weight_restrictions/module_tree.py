"""Parts of any module tree: paths with stars, classes, and slices of single parameters."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from devinterp.errors import RestrictionError
from devinterp.wording import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor
    from torch.nn import Module

    from devinterp.slt.weight_restrictions.grammar import Cut, Restriction

SHOWN = 4


def canonical_names(model: Module) -> dict[int, str]:
    """Return the name in ``model.named_parameters()`` of each parameter, by its identity: one name for tied ones."""
    return {id(param): name for name, param in model.named_parameters()}


def select_path(model: Module, restriction: Restriction) -> dict[str, Tensor | None]:
    """Return the masks of what a path selects: whole modules and parameters, or a slice of parameters."""
    params = dict(model.named_parameters(remove_duplicate=False))
    canonical = canonical_names(model)
    whole, cut = f"{restriction.path}{restriction.brackets}", restriction.cut
    if whole in params or whole in _ancestors(params):  # a name that has brackets of its own
        cut, path = None, re.escape(whole)
    else:
        path = _pattern(restriction.path)
    matches = re.compile(path).fullmatch
    if cut is None:
        return {canonical[id(param)]: None for name, param in params.items() if any(map(matches, _prefixes(name)))} or (
            _refuse(model, restriction)
        )
    found = {name: param for name, param in params.items() if matches(name)}
    if not found:
        _refuse(model, restriction)
    return {canonical[id(param)]: _slice(name, param, cut, restriction) for name, param in found.items()}


def select_class(model: Module, restriction: Restriction) -> dict[str, Tensor | None]:
    """Return the masks of all parameters of the modules of a class, or of one that derives from it."""
    matches = re.compile(_pattern(restriction.path)).fullmatch
    canonical = canonical_names(model)
    of_class = [module for module in model.modules() if any(map(matches, _classes(module)))]
    found: dict[str, Tensor | None] = {
        canonical[id(param)]: None for module in of_class for param in module.parameters()
    }
    if not found:
        named = sorted({type(module).__name__ for module in model.modules() if any(True for _ in module.parameters())})
        close = _close(restriction.path, named)
        raise RestrictionError(
            f"Restriction {restriction.text!r} selects nothing: "
            + ("modules of that class have no parameters." if of_class else "the model has no module of that class."),
            expected=f"a class such as {', '.join(map(repr, named[:8]))}",
            found=repr(restriction.path),
            remedy=f"Did you mean {_one_of(f'class:{name}' for name in close)}?" if close else None,
        )
    return found


def nameable(model: Module) -> str:
    """Say what of a model can be named, with names of its own, where it lacks what was asked for."""
    names = [name for name, _ in model.named_parameters()]
    modules = list(dict.fromkeys(name.partition(".")[0] for name in names if "." in name))
    leaves = [module for module in model.modules() if any(True for _ in module.parameters(recurse=False))]
    classes = list(dict.fromkeys(type(module).__name__ for module in leaves if module is not model))
    largest = max(model.named_parameters(), key=lambda pair: pair[1].dim(), default=None)
    examples = [
        *(f"module:{name}" for name in modules[:SHOWN]),
        *(f"class:{name}" for name in classes[:2]),
        *([] if largest is None else [f"module:{largest[0]}[0]"] if largest[1].dim() else [largest[0]]),
    ]
    return (
        f"Name parts of the module tree, such as {', '.join(map(repr, examples))}."
        if examples
        else "The model has no parameters."
    )


def _slice(name: str, param: Tensor, cut: Cut, restriction: Restriction) -> Tensor | None:
    """Return the mask of one slice: boolean, and only as large as the axes that are cut."""
    import torch

    shape = tuple(param.shape)
    per_axis = [each for each in cut if each is not Ellipsis]
    if len(per_axis) > len(shape):
        raise RestrictionError(
            f"Restriction {restriction.text!r} cuts more axes than {name!r} has.",
            expected=f"at most {len(shape)}: its shape is {shown(shape)}",
            found=str(len(per_axis)),
        )
    start = cut.index(Ellipsis) if Ellipsis in cut else len(per_axis)
    per_axis[start:start] = [slice(None)] * (len(shape) - len(per_axis))
    cuts = []
    for axis, (each, size) in enumerate(zip(per_axis, shape, strict=True)):
        along = torch.zeros(size, dtype=torch.bool)
        if isinstance(each, slice):
            along[range(size)[each]] = True
        elif -size <= each < size:
            along[each] = True
        if not along.any():
            raise RestrictionError(
                f"Restriction {restriction.text!r} selects nothing of {name!r}: axis {axis} has no such place.",
                expected=f"a place below {size}: the shape is {shown(shape)}",
                found=restriction.brackets,
            )
        if not along.all():
            cuts.append(along.view([-1 if other == axis else 1 for other in range(len(shape))]))
    mask: Tensor | None = None
    for along in cuts:
        mask = along if mask is None else mask & along
    return None if mask is None else mask.expand(shape)


def _refuse(model: Module, restriction: Restriction) -> dict[str, Tensor | None]:
    """Raise the error of a path that selects nothing, with what is there instead."""
    params = dict(model.named_parameters(remove_duplicate=False))
    matches = re.compile(_pattern(restriction.path)).fullmatch
    modules = [name for name, _ in model.named_modules(remove_duplicate=False)]
    if any(map(matches, [*modules, *params])):
        why = "slices are of parameters, not of modules" if restriction.brackets else "what it names has no parameters"
        inside = [name for name in params if any(map(matches, _prefixes(name)))]
        close = [f"{name}{restriction.brackets}" for name in inside[:SHOWN]]
    elif any(matches(name) for name, _ in model.named_buffers()):
        why, close = "what it names is a buffer, which is not sampled", []
    else:
        why = "the model has no module or parameter of that name"
        close = _close(f"{restriction.path}{restriction.brackets}", [*_ancestors(params), *params])
    raise RestrictionError(
        f"Restriction {restriction.text!r} selects nothing: {why}.",
        expected="a path in the module tree; * stands for one name or a part of it, ** for any number of names, and "
        "[3], [:, 5] or [0:4] after a parameter's path for a slice of it",
        found=repr(restriction.path),
        remedy=f"Did you mean {_one_of(f'module:{name}' for name in close)}?" if close else nameable(model),
    )


def _pattern(path: str) -> str:
    """Return the regular expression of a path with stars."""
    parts = path.split(".")
    out = ""
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if part == "**":
            out += r"[^.]+(?:\.[^.]+)*" if last else r"(?:[^.]+\.)*"
        else:
            out += "[^.]*".join(map(re.escape, part.split("*"))) + ("" if last else r"\.")
    return out


def _prefixes(name: str) -> list[str]:
    """Return a parameter's path and those of the modules around it, the model's own, which is empty, among them."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(len(parts) + 1)]


def _ancestors(names: Iterable[str]) -> dict[str, None]:
    return {prefix: None for name in names for prefix in _prefixes(name)[:-1] if prefix}


def _classes(module: Module) -> list[str]:
    """Return the names of a module's class and of those it derives from, below torch's own base."""
    from torch.nn import Module

    return [base.__name__ for base in type(module).__mro__ if issubclass(base, Module) and base is not Module]


def _close(text: str, known: Iterable[str]) -> list[str]:
    names = list(dict.fromkeys(known))
    folded = [name for name in names if name.casefold() == text.casefold()]
    ends = [name for name in names if len(text) > 2 and name.endswith(f".{text}")]
    return (folded or ends or difflib.get_close_matches(text, names))[:SHOWN]


def _one_of(names: Iterable[str]) -> str:
    return " or ".join(map(repr, names))
