"""Every exception and warning that devinterp raises on purpose, and the import that raises one of them.

One tree, rooted in `DevinterpError`. Classes also derive from the builtin that a caller would reach for
(``except KeyError`` on a missing variable, ``except FileNotFoundError`` on a missing store).
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from types import FrameType
from typing import Any

from devinterp.wording import said

__all__ = [
    "AllChainsFailedError",
    "ChainFailedWarning",
    "DataError",
    "DevinterpError",
    "DevinterpWarning",
    "IncompleteStoreError",
    "MissingDependencyError",
    "MissingVariableError",
    "ModelError",
    "ProvenanceError",
    "RenamedError",
    "RestrictionError",
    "SamplingError",
    "SchemaError",
    "SettingError",
    "StepBiasWarning",
    "StoreConflictError",
    "StoreError",
    "StoreExistsError",
    "StoreGoneError",
    "StoreLockedError",
    "StoreNotFoundError",
    "ValidationError",
    "imported",
]


class DevinterpError(Exception):
    """Base of every error of this package.

    Parameters
    ----------
    problem : str
        One sentence that says what is wrong.
    expected, found, remedy : str, optional
        What would have been right, what was there instead, and what to do about it.
    """

    def __init__(
        self,
        problem: str,
        *,
        expected: object | None = None,
        found: object | None = None,
        remedy: str | None = None,
    ) -> None:
        self.problem = problem
        self.expected = expected
        self.found = found
        self.remedy = remedy
        parts = [problem]
        parts += [f"Expected: {said(expected)}."] if expected is not None else []
        parts += [f"Found: {said(found)}."] if found is not None else []
        parts += [remedy] if remedy is not None else []
        super().__init__(" ".join(parts))

    def __str__(self) -> str:  # KeyError would print the repr of its argument
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:  # keyword-only arguments do not survive the default pickling
        state = {n: _portable(v) if n in ("expected", "found") else v for n, v in vars(self).items()}
        return (_rebuild, (type(self), self.args, state))


def _portable(value: object) -> object:
    """Return a value that another process can read: what was found may be anything, a lambda or an open file."""
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _rebuild(cls: type[DevinterpError], args: tuple[Any, ...], state: dict[str, Any]) -> DevinterpError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class SchemaError(DevinterpError, ValueError):
    """A schema document breaks the grammar, cannot be found, or loosens what it extends."""


class PredicateError(DevinterpError, ValueError):
    """The function behind a rule raises, or does not say of each value whether it breaks the rule."""


class ValidationError(DevinterpError, ValueError):
    """A store, tree or dataset breaks its schema; ``report`` carries every finding."""

    report: Any = None


class SettingError(DevinterpError, ValueError):
    """An argument has a value that the call cannot work with."""


class DataError(DevinterpError, ValueError):
    """A dataset, observable or its token ids cannot be sampled on."""


class ModelError(DevinterpError, TypeError):
    """The model or ``loss_fn`` does not give per-token losses of the right shape."""


class RestrictionError(DevinterpError, ValueError):
    """A weight restriction or parameter mask does not fit the model."""


class MissingVariableError(DevinterpError, KeyError):
    """An analysis needs a variable, observable or group that the tree does not have."""


class MissingDependencyError(DevinterpError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class RenamedError(DevinterpError, ImportError):
    """A name of an earlier devinterp is gone; the message says where its work is done now."""


class StoreError(DevinterpError, OSError):
    """A store could not be read or written."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """There is no store at the path."""


class StoreGoneError(StoreNotFoundError):
    """A store was moved or deleted after a tree was opened on it."""


class StoreExistsError(StoreError, FileExistsError):
    """Something that is not ours, or not this request's, already lies at the path."""


class StoreConflictError(StoreExistsError, RuntimeError):
    """A store of ours lies at the path, but another request made it; the message names each difference."""


class StoreLockedError(StoreError, BlockingIOError):
    """Another live process writes to the store."""


class IncompleteStoreError(StoreError):
    """The store's run has not completed."""


class ProvenanceError(DevinterpError, ValueError):
    """Trees that an analysis would combine were not sampled from the same weights, rows, loss or posterior."""


class SamplingError(DevinterpError, RuntimeError):
    """Sampling stopped before its end."""


class AllChainsFailedError(SamplingError):
    """No chain survived, so there is nothing to analyse."""


class DevinterpWarning(UserWarning):
    """Base of every warning of this package."""


class ChainFailedWarning(DevinterpWarning):
    """One or more chains stopped early; the others are intact."""


class StepBiasWarning(DevinterpWarning):
    """The step size inflates what is sampled by more than a tenth, which is known before sampling."""


def imported(module: str, *, extra: str, purpose: str) -> Any:
    """Import a module that not every installation has.

    Parameters
    ----------
    module : str
        Its dotted name.
    extra : str
        The extra of ours that brings it.
    purpose : str
        What needs it, as the beginning of the message.

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
            remedy=f"Install it with the extra that brings it: pip install 'devinterp[{extra}]'.",
        ) from error


def warn_caller(text: str, category: type[Warning] = DevinterpWarning) -> None:
    """Warn at the line outside of this package that led here, through however many of its functions."""

    def module_of(frame: FrameType) -> str:
        return str(frame.f_globals.get("__name__") or "<string>")

    frame = sys._getframe(1)
    while frame.f_back is not None and module_of(frame).partition(".")[0] in ("devinterp", "importlib"):
        frame = frame.f_back
    once = frame.f_globals.setdefault("__warningregistry__", {})
    warnings.warn_explicit(text, category, frame.f_code.co_filename, frame.f_lineno, module_of(frame), once)
