"""JSON documents in memory: looking into them by a dotted path, and making them of what callers give."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Literal, TypeVar

import numpy as np

from devinterp.errors import StoreError

__all__ = ["dig", "in_order", "listed", "plain_json"]

T = TypeVar("T")
NonFinite = Literal["refuse", "keep", "null", "text"]

# What lies deeper than this contains itself, or was made to exhaust whoever reads it.
_DEEPEST = 64
_LONGEST_INTEGER = 2**13  # bits; CPython refuses to print one that is much longer


def dig(document: Any, path: str, default: Any = None) -> Any:
    """Return the value at a dotted path of nested mappings, or ``default`` where any part of the way is missing."""
    for key in path.split("."):
        if not isinstance(document, Mapping) or key not in document:
            return default
        document = document[key]
    return document


def listed(attrs: Mapping[Any, Any], name: str) -> list[Any]:
    """Return an attribute that is a list, empty where there is none; netCDF makes its only entry of a list of one."""
    found = attrs.get(name, [])
    return list(found) if isinstance(found, Iterable) and not isinstance(found, str) else [found]


def in_order(found: Iterable[T], recorded: Any) -> list[T]:
    """Return what is found in the order of a recorded list, if it is one, and behind it what the list does not have."""
    there = dict.fromkeys(found)
    first = [r for r in recorded if isinstance(r, Hashable) and r in there] if isinstance(recorded, list) else []
    return list(dict.fromkeys([*first, *there]))


def plain_json(
    value: Any,
    where: str = "attributes",
    *,
    nonfinite: NonFinite = "refuse",
    other: Callable[[Any], Any] | None = None,
) -> Any:
    """Return ``value`` as dicts, lists, strings, numbers, booleans and None.

    Parameters
    ----------
    value : object
        Mappings, sequences, NumPy arrays and scalars are taken apart; a mapping's keys become strings.
    where : str
        What ``value`` is, for messages.
    nonfinite : {"refuse", "keep", "null", "text"}
        What becomes of NaN and infinities, which JSON cannot say; ``text`` writes them as Zarr does (``"NaN"``).
    other : callable, optional
        Called with what has no JSON form, lies too deep or is an integer of absurd length; its result stands instead.
        By default that is an error.

    Raises
    ------
    StoreError
        Something has no JSON form; the message names its place.
    """
    return _plain(value, where, nonfinite, other, 0)


def _plain(value: Any, where: str, nonfinite: NonFinite, other: Callable[[Any], Any] | None, depth: int) -> Any:
    if isinstance(value, np.generic) and value.dtype.kind in "biufU":
        value = value.item()
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return value if other is None or value.bit_length() <= _LONGEST_INTEGER else other(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else _nonfinite(value, where, nonfinite)
    if depth <= _DEEPEST:
        if isinstance(value, np.ndarray):
            return _plain(value.tolist(), where, nonfinite, other, depth)
        if isinstance(value, Mapping):
            return {str(k): _plain(v, f"{where}.{k}", nonfinite, other, depth + 1) for k, v in value.items()}
        if isinstance(value, list | tuple) or (other is not None and isinstance(value, set | frozenset)):
            return [_plain(v, f"{where}[{i}]", nonfinite, other, depth + 1) for i, v in enumerate(value)]
    if other is not None:
        return other(value)
    if depth > _DEEPEST:
        raise StoreError(f"The attribute {where[:200]} lies too deep.", expected=f"at most {_DEEPEST} levels")
    raise StoreError(f"The attribute {where} is a {type(value).__name__}, which JSON cannot say.")


def _nonfinite(value: float, where: str, how: NonFinite) -> Any:
    if how == "keep":
        return value
    if how == "null":
        return None
    if how == "text":
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    raise StoreError(f"The attribute {where} is {value}, which JSON cannot say.", remedy="Use null or a string.")
