"""One finding, and the record of a validation that holds all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from devinterp.schema.definition.frozen import FrozenMapping
from devinterp.schema.findings.codes import RuleCode

if TYPE_CHECKING:
    from devinterp.schema.definition.spec import Level, Severity

__all__ = ["Finding", "NotChecked", "Record"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or many equal ones.

    Attributes
    ----------
    code : str
        A `RuleCode`, or a code that an extension's document declares.
    severity : {"error", "warning", "note"}
    level : {"structure", "completeness", "values"}
        The level at which it was found.
    path : str
        Group, variable or chunk inside the store, as in ``/full/loss_code/c/0/1``.
    message : str
        What is wrong, in one sentence.
    expected, found, remedy : str or None
        What would have been right, what was there instead, and how to mend it.
    count : int
        How many equal findings this one stands for.
    paths : tuple of str
        Their paths, `path` first, at most 1000.
    """

    code: str
    severity: Severity
    level: Level
    path: str
    message: str
    expected: str | None = None
    found: str | None = None
    remedy: str | None = None
    count: int = 1
    paths: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.paths:
            object.__setattr__(self, "paths", (self.path,))

    @property
    def where(self) -> str:
        """The first paths, and how many more there are."""
        shown = ", ".join(self.paths[:3])
        left = self.count - min(3, len(self.paths))
        return f"{shown} and {left} more" if left > 0 else shown

    @property
    def details(self) -> tuple[tuple[str, str], ...]:
        """What was expected and found, and the remedy, as far as they are known, each with its name."""
        named = (("expected", self.expected), ("found", self.found), ("remedy", self.remedy))
        return tuple((label, text) for label, text in named if text is not None)

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON types."""
        return {
            "code": str(self.code),
            "severity": self.severity,
            "level": self.level,
            "path": self.path,
            "message": self.message,
            "expected": self.expected,
            "found": self.found,
            "remedy": self.remedy,
            "count": self.count,
            "paths": list(self.paths),
        }

    def __str__(self) -> str:
        """The finding on up to four lines."""
        lines = [f"{self.severity} {self.code} {self.where}: {self.message}"]
        lines += [f"    {label + ':':<9} {text}" for label, text in self.details]
        return "\n".join(lines)


@dataclass(frozen=True)
class NotChecked:
    """Something that the validation left out, and why."""

    path: str
    what: str
    why: str


@dataclass(frozen=True)
class Record:
    """What one validation found and looked at; `Report` adds how it is asked and shown.

    Attributes
    ----------
    target : str
        What was validated.
    profile, level : str
        As asked for.
    schema, kind : str or None
        Id of the schema it was validated against (``devinterp/samples@1``), and its kind (``samples``); None where
        neither attribute nor structure says.
    findings : tuple of Finding
        Errors first, then by path.
    checked : mapping of str to int
        How many ``groups``, ``arrays``, ``chunks`` and ``bytes`` were looked at.
    not_checked : tuple of NotChecked
        What was left out, and why.
    """

    target: str
    profile: str = "strict"
    level: Level = "values"
    schema: str | None = None
    kind: str | None = None
    findings: tuple[Finding, ...] = ()
    checked: Mapping[str, int] = field(default_factory=lambda: FrozenMapping({}))
    not_checked: tuple[NotChecked, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there is no finding of severity error."""
        return not any(f.severity == "error" for f in self.findings)

    @property
    def readable(self) -> bool:
        """Whether there was a store at all (the command line exits with 2 where there was none)."""
        fatal = (RuleCode.UNREADABLE, RuleCode.NO_STORE, RuleCode.ZARR_V2)
        return not any(f.code in fatal and f.path == "/" for f in self.findings)
