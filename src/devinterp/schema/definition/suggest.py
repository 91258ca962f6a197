"""What a misspelt name may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["closest", "suggestion"]


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is nearest to ``name``, or None where none is near."""
    # Names come from stores: a very long one is not a misspelling, and comparing it costs the square of its length.
    if len(name) > 200:
        return None
    by_key = {k.casefold(): k for k in known}
    found = get_close_matches(name.casefold(), list(by_key), n=1, cutoff=0.75)
    return by_key[found[0]] if found else None


def suggestion(name: str, known: Iterable[str]) -> str | None:
    """Return a remedy that names the nearest known name, or None."""
    near = closest(name, known)
    return None if near is None else f"Did you mean {near!r}? Rename it."
