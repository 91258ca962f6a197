"""Names of observables and weight restrictions: what is legal, and how a name becomes part of a variable's."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from devinterp.errors import RestrictionError, SettingError

__all__ = [
    "SECONDARY",
    "SWEPT",
    "check_observable_names",
    "check_restriction_names",
    "sanitize_observable_name",
    "swept_value",
]

SWEPT = ("lr", "n_beta", "localization")
"""The settings that every sweep has, in the order of a result's last dimensions."""

SECONDARY = ("batch_size", "rmsprop_eps", "rmsprop_alpha")
"""What a sweep varies besides where its grid names it, in the order of a result's first dimensions."""

# mask_sampling_micro is the mask of sampling_loss_micro
RESERVED_OBSERVABLES = frozenset({"sampling", "sampling_micro"})


def swept_value(sampler: Mapping[str, Any], name: str) -> float | None:
    """Return what a run's settings are along an axis of a sweep, None where they do not tell.

    ``batch_size`` is of a whole step: the micro-batches of a cell are as large as those of every other one, so that all
    observe the same rows.
    """
    value = sampler.get(name)
    if name == "batch_size":
        parts = sampler.get("gradient_accumulation_steps", 1)
        return value * parts if isinstance(value, int) and isinstance(parts, int) else None
    return float(value) if isinstance(value, int | float) else None


def sanitize_observable_name(name: str) -> str:
    """Make an observable's name safe for a variable name.

    Every character that is neither alphanumeric (`str.isalnum`) nor ``_`` becomes ``_``; a leading digit gets
    ``_`` put before it; an empty name becomes ``_``.
    """
    safe = "".join(c if c.isalnum() or c == "_" else "_" for c in name)
    if not safe:
        return "_"
    return f"_{safe}" if safe[0].isdigit() else safe


def check_observable_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the sanitised names, or raise `SettingError` for a reserved name or a clash (also one up to case)."""
    taken: dict[str, str] = {}
    out = []
    for name in names:
        if not isinstance(name, str):
            raise SettingError(
                "An observable's name must be a string.", expected="str", found=f"{type(name).__name__} {name!r}"
            )
        safe = sanitize_observable_name(name)
        if safe.casefold() in RESERVED_OBSERVABLES:
            raise SettingError(
                f"The observable name {name!r} is reserved: its variables would be called like the sampling losses'.",
                remedy="Give the observable another name.",
            )
        if len(f"input_ids_{safe}".encode()) > 255:
            raise SettingError(f"The observable name {name!r} is too long for a folder's name.", remedy="Shorten it.")
        # File systems that fold case or normalise Unicode would put both arrays into one folder.
        key = unicodedata.normalize("NFKC", safe).casefold()
        if key in taken:
            raise SettingError(
                f"The observables {taken[key]!r} and {name!r} would both be stored as 'loss_{safe}' (up to case).",
                remedy="Rename one of them.",
            )
        taken[key] = name
        out.append(safe)
    return tuple(out)


def check_restriction_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names as they are, or raise `RestrictionError` for one that cannot be a Zarr group's name."""
    taken: dict[str, str] = {}
    out = []
    for name in names:
        problem = None
        if not isinstance(name, str) or not name:
            problem = "is not a non-empty string"
        elif name in {".", ".."}:
            problem = "is a path, not a name"
        elif "/" in name or "\\" in name:  # zarr reads a backslash as a slash
            problem = "contains a slash or backslash, which separate groups"
        elif name in {"zarr.json", ".devinterp"}:
            problem = "is the name of a file or folder of the store itself"
        elif name.startswith("__"):
            problem = "starts with '__', which Zarr reserves"
        elif any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
            problem = "contains a control character or half a character"
        elif len(name.encode()) > 255:
            problem = "is longer than a folder's name may be"
        if problem is not None:
            raise RestrictionError(
                f"The weight restriction name {name!r} {problem}.",
                expected="a non-empty name without slashes, control characters or a leading '__'",
                remedy="Choose another key in weight_restrictions.",
            )
        key = unicodedata.normalize("NFKC", name).casefold()
        if key in taken:
            raise RestrictionError(
                f"The weight restrictions {taken[key]!r} and {name!r} are the same up to case.",
                remedy="Rename one of them: file systems that fold case would put both into one group.",
            )
        taken[key] = name
        out.append(name)
    return tuple(out)
