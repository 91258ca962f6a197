"""How a value stands in a message: numbers and names, not the Python that holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["one_of", "said", "shown"]

# Of what is longer or deeper, only the beginning is shown: a container of a gigabyte costs nothing.
_MOST, _DEEPEST, _LONGEST = 60, 5, 200
_LONGEST_INTEGER = 256  # bits; CPython refuses to print one of more than 4300 digits


def said(value: object) -> str:
    """Return a text as it is, and anything else as `shown` has it."""
    return value if isinstance(value, str) else shown(value)


def shown(value: object, longest: int | None = None) -> str:
    """Return a value as a reader would write it.

    Text stands in quotes; the entries of a list or set follow one another; those of a tuple, which are dimensions or
    sizes, stand in parentheses, names among them without quotes; a mapping is ``name: value`` for each of its names.

    Parameters
    ----------
    value : object
        Anything. NumPy's scalars and arrays are shown as what they hold, None as ``none``.
    longest : int, optional
        Of a longer text the middle is left out.

    Examples
    --------
    >>> shown(["full", "l0h0"]), shown(("chain", "draw")), shown({"lr": 0.001, "names": []})
    ("'full', 'l0h0'", '(chain, draw)', 'lr: 0.001, names: none')
    """
    text = _shown(value, 0)
    return text if longest is None or len(text) <= longest else f"{text[: longest - 7]}...{text[-4:]}"


def one_of(choices: Iterable[object]) -> str:
    """Return what may be chosen, in the order given: of numbers that follow one another, the first and the last.

    Examples
    --------
    >>> one_of(["sequence", "token"]), one_of(["full"]), one_of(range(100)), one_of([])
    ("one of 'sequence', 'token'", "'full', which is the only one", 'one of 0 to 99', 'there is none to choose')
    """
    known: list[Any] = [c.item() if type(c).__module__ == "numpy" and hasattr(c, "item") else c for c in choices]
    if len(known) < 2:
        return f"{shown(known[0])}, which is the only one" if known else "there is none to choose"
    if len(known) > 3 and all(type(c) is int for c in known) and known == list(range(known[0], known[-1] + 1)):
        return f"one of {known[0]} to {known[-1]}"
    return f"one of {shown(known)}"


def _shown(value: Any, depth: int) -> str:
    count = None
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):  # who raises an error need not import NumPy
        value, count = (value.reshape(-1)[:_MOST].tolist(), value.size) if value.ndim else (value.item(), None)
    if value is None:
        return "none"
    if isinstance(value, str):
        return repr(value) if len(value) <= _LONGEST else f"{value[:_LONGEST]!r}..."
    if isinstance(value, int) and value.bit_length() > _LONGEST_INTEGER:
        return f"an integer of {value.bit_length()} bits"
    if not isinstance(value, Mapping | list | tuple | set | frozenset):
        text = str(value)
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    if depth >= _DEEPEST:
        return "..."
    if isinstance(value, Mapping):
        text = _joined((f"{_name(key)}: {_shown(part, depth + 1)}" for key, part in value.items()), len(value))
    elif isinstance(value, tuple):
        names = all(isinstance(part, str) for part in value)
        return f"({_joined((_name(part) if names else _shown(part, depth + 1) for part in value), len(value))})"
    else:
        parts = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        text = _joined((_shown(part, depth + 1) for part in parts), count or len(parts))
    return f"({text})" if depth and value else text or "none"


def _name(value: object) -> str:
    return value if isinstance(value, str) and value.isidentifier() else _shown(value, _DEEPEST)


def _joined(parts: Iterable[str], count: int) -> str:
    first = [part for part, _ in zip(parts, range(_MOST), strict=False)]
    return ", ".join([*first, *([f"and {count - _MOST} more"] if count > _MOST else [])])
