"""Importing what not every installation has."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from devinterp.errors import MissingDependencyError

__all__ = ["optional"]


def optional(module: str, *, extra: str, purpose: str) -> Any:
    """Import a module of an optional dependency.

    Raises
    ------
    MissingDependencyError
        It is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{purpose} needs {module.split('.')[0]}, which is not installed.",
            remedy=f"Install it: pip install 'devinterp[{extra}]'.",
        ) from error
