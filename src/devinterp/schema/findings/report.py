"""What a validation found, what it looked at, and what it did not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from devinterp.errors import ValidationError
from devinterp.schema.findings.codes import RuleCode
from devinterp.schema.findings.finding import Finding, NotChecked, Record
from devinterp.schema.findings.render import report_html, report_rich, report_text, sarif
from devinterp.wording import said

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from devinterp.schema.definition.spec import Level, Severity

__all__ = ["Collector", "Finding", "NotChecked", "Report", "clip"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
# Of a thousand equal findings, this many paths are kept; `Finding.count` is exact.
MAX_PATHS = 1000
# So many different findings are kept in full; the rest are counted by code.
MAX_FINDINGS = 5000
_CODES = {code.value: code for code in RuleCode}


@dataclass(frozen=True)
class Report(Record):
    """Every finding of one validation; see `Record` for its attributes."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings of severity error."""
        return self.filter(severity="error").findings

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings of severity warning."""
        return self.filter(severity="warning").findings

    @property
    def notes(self) -> tuple[Finding, ...]:
        """The findings of severity note."""
        return self.filter(severity="note").findings

    @property
    def codes(self) -> frozenset[str]:
        """The codes that were found."""
        return frozenset(str(f.code) for f in self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __bool__(self) -> bool:  # a report without findings is still a report
        return True

    def filter(
        self,
        *,
        code: str | Iterable[str] | None = None,
        severity: str | Iterable[str] | None = None,
        level: str | Iterable[str] | None = None,
        path: str | None = None,
    ) -> Report:
        """Return a report with those findings only that fit every argument given.

        Parameters
        ----------
        code, severity, level : str or iterable of str
            Codes may be given as ``DI101`` or as ``missing-variable``.
        path : str
            A group or variable: findings there and below.
        """
        codes = None if code is None else {_code(c) for c in _several(code)}
        severities = None if severity is None else set(_several(severity))
        levels = None if level is None else set(_several(level))
        below = None if path is None else "/" + path.strip("/")

        def fits(finding: Finding) -> bool:
            return (
                (codes is None or str(finding.code) in codes)
                and (severities is None or finding.severity in severities)
                and (levels is None or finding.level in levels)
                and (below is None or any(_is_below(p, below) for p in finding.paths))
            )

        return replace(self, findings=tuple(f for f in self.findings if fits(f)))

    def without(self, *codes: str) -> Report:
        """Return a report without the findings of these codes (``DI006`` or ``incomplete``)."""
        dropped = {_code(c) for c in codes}
        return replace(self, findings=tuple(f for f in self.findings if str(f.code) not in dropped))

    def raise_for_errors(self) -> Report:
        """Return the report, or raise where it has errors.

        Raises
        ------
        ValidationError
            ``error.report`` is this report.
        """
        if self.ok:
            return self
        errors = self.errors
        total = sum(f.count for f in errors)
        of_another = [f for f in self.notes if str(f.code) == RuleCode.OTHER_PROFILE]  # first: it explains the rest
        shown = "\n".join("  " + str(f).replace("\n", "\n  ") for f in (*of_another, *errors[:10]))
        more = f"\n  and {len(errors) - 10} more" if len(errors) > 10 else ""
        error = ValidationError(
            f"{self.target} breaks {self.schema or 'every known schema'} (profile {self.profile}) in "
            f"{total} place(s):\n{shown}{more}"
        )
        error.report = self
        raise error

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {
            "target": self.target,
            "schema": self.schema,
            "kind": self.kind,
            "profile": self.profile,
            "level": self.level,
            "ok": self.ok,
            "readable": self.readable,
            "counts": {s: sum(f.count for f in self.findings if f.severity == s) for s in SEVERITIES},
            "findings": [f.to_dict() for f in self.findings],
            "checked": dict(self.checked),
            "not_checked": [{"path": n.path, "what": n.what, "why": n.why} for n in self.not_checked],
        }

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return the report as a JSON document."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    def to_sarif(self, *, indent: int | None = 2) -> str:
        """Return the report as a SARIF 2.1.0 document, for code-scanning tools."""
        return json.dumps(sarif([self]), indent=indent, ensure_ascii=False, allow_nan=False)

    def __str__(self) -> str:
        return report_text(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from report_rich(self)

    def _repr_html_(self) -> str:
        return report_html(self)


class Collector:
    """Gathers findings while a validation goes on, folding equal ones as they come."""

    def __init__(self) -> None:
        self._found: dict[tuple[Any, ...], list[Any]] = {}
        self.total = 0
        self._not_checked: dict[tuple[str, str], list[Any]] = {}
        self.checked: dict[str, int] = {"groups": 0, "arrays": 0, "chunks": 0, "bytes": 0}

    def add(
        self,
        code: str,
        path: str,
        message: str,
        *,
        expected: object | None = None,
        found: object | None = None,
        remedy: str | None = None,
        severity: Severity | None = None,
        level: Level | None = None,
        times: int = 1,
    ) -> None:
        """Take one finding, or ``times`` equal ones; what is left out comes from its code (``findings/codes.yaml``)."""
        known = _CODES.get(str(code))
        if known is not None:
            severity, level = severity or known.severity, level or known.level
            remedy = remedy or known.remedy
        key: tuple[Any, ...] = (
            str(code),
            severity or "error",
            level or "structure",
            clip(message, 500),
            None if expected is None else clip(said(expected)),
            None if found is None else clip(said(found)),
            None if remedy is None else clip(remedy, 500),
        )
        self.total += times
        if len(self._found) >= MAX_FINDINGS and key not in self._found:
            key = (*key[:3], "Findings of this code go on; these are not shown one by one.", None, None, key[6])
        entry = self._found.setdefault(key, [0, []])
        entry[0] += times
        path = clip(path, 1000)
        if len(entry[1]) < MAX_PATHS and path not in entry[1][-1:]:
            entry[1].append(path)

    def skip(self, path: str, what: str, why: str) -> None:
        """Note that something was not checked."""
        key = (clip(what), clip(why))
        if len(self._not_checked) >= MAX_FINDINGS and key not in self._not_checked:
            key = ("more", "too many to be shown one by one")
        entry = self._not_checked.setdefault(key, [clip(path, 1000), 0])
        entry[1] += 1

    def has(self, severity: str = "error") -> bool:
        """Whether a finding of that severity was taken."""
        return any(key[1] == severity for key in self._found)

    def findings(self) -> tuple[Finding, ...]:
        """Every finding so far, errors first, then by path."""
        out = []
        for (code, severity, level, message, expected, found, remedy), (count, paths) in self._found.items():
            known = _CODES.get(code, code)
            out.append(Finding(known, severity, level, paths[0], message, expected, found, remedy, count, tuple(paths)))
        return tuple(sorted(out, key=lambda f: (SEVERITIES.index(f.severity), f.path, str(f.code))))

    def not_checked(self) -> tuple[NotChecked, ...]:
        """What was left out, equal reasons folded."""
        return tuple(
            NotChecked(path if count == 1 else f"{path} and {count - 1} more", what, why)
            for (what, why), (path, count) in self._not_checked.items()
        )


def clip(text: str, limit: int = 300) -> str:
    """Shorten text that comes from a store, and show its control characters as escapes."""
    text = text[: 2 * limit] if len(text) > 2 * limit else text
    text = text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _several(value: str | Iterable[str]) -> Iterable[str]:
    return (value,) if isinstance(value, str) else value


def _code(text: str) -> str:
    found = RuleCode.lookup(str(text))
    return str(found) if found is not None else str(text)


def _is_below(path: str, group: str) -> bool:
    return group == "/" or path == group or path.startswith(group + "/")
