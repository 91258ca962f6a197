"""A report as plain text, for a terminal, for a notebook, and as SARIF."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from devinterp.schema.findings.codes import RuleCode
from devinterp.schema.findings.finding import Finding, Record

if TYPE_CHECKING:
    from rich.console import RenderableType


__all__ = ["report_html", "report_rich", "report_text", "sarif"]

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}
_SARIF_LEVELS = {"error": "error", "warning": "warning", "note": "note"}


def verdict(report: Record) -> str:
    """One line: valid or not, and against what."""
    counts = [(s, sum(f.count for f in report.findings if f.severity == s)) for s in ("error", "warning", "note")]
    found = ", ".join(f"{n} {s}{'s' if n != 1 else ''}" for s, n in counts if n) or "no findings"
    state = "valid" if report.ok else "not valid"
    against = f"{report.schema or 'unknown kind'}, profile {report.profile}, level {report.level}"
    return f"{report.target}: {state} ({against}): {found}"


def scope(report: Record) -> str:
    """One line: what was looked at."""
    parts = [f"{number} {name}" for name, number in report.checked.items() if number]
    return "checked: " + (", ".join(parts) or "nothing")


def report_text(report: Record) -> str:
    """The whole report, without colours."""
    lines = [verdict(report), *(str(f) for f in report.findings), scope(report)]
    lines += [f"not checked: {n.path}: {n.what} ({n.why})" for n in report.not_checked]
    return "\n".join(lines)


def report_rich(report: Record) -> Iterator[RenderableType]:
    """The whole report for a terminal."""
    from rich.text import Text

    yield Text(verdict(report), style="bold green" if report.ok else "bold red")
    for finding in report.findings:
        text = Text()
        text.append(f"{finding.severity} ", style=_COLOURS[finding.severity])
        text.append(f"{finding.code} ", style="bold")
        text.append(finding.where, style="magenta")
        text.append(f": {finding.message}")
        for label, value in finding.details:
            text.append(f"\n    {label + ':':<10}", style="dim")
            text.append(value)
        yield text
    yield Text(scope(report), style="dim")
    for entry in report.not_checked:
        yield Text(f"not checked: {entry.path}: {entry.what} ({entry.why})", style="dim")


def report_html(report: Record) -> str:
    """The whole report for a notebook; everything that comes from the store is escaped."""
    rows = "".join(
        "<tr>"
        + "".join(
            f"<td style='text-align:left;vertical-align:top'>{'<br>'.join(map(escape, lines))}</td>"
            for lines in ([f.severity], [str(f.code)], [f.where], [f.message, *map(": ".join, f.details)])
        )
        + "</tr>"
        for f in report.findings
    )
    head = "".join(f"<th style='text-align:left'>{h}</th>" for h in ("severity", "code", "path", "finding"))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>" if rows else ""
    left = "".join(f"<li>{escape(f'{n.path}: {n.what} ({n.why})')}</li>" for n in report.not_checked)
    skipped = f"<details><summary>not checked</summary><ul>{left}</ul></details>" if left else ""
    return f"<div><strong>{escape(verdict(report))}</strong>{table}<p>{escape(scope(report))}</p>{skipped}</div>"


def sarif(reports: Iterable[Record]) -> dict[str, Any]:
    """A SARIF 2.1.0 log with one run for all reports.

    A finding's place is a logical location (a path inside a store); the store itself is the artifact.
    """

    reports = list(reports)
    codes = sorted({str(f.code) for r in reports for f in r.findings})
    return {
        "version": "2.1.0",
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "devinterp",
                        "version": version("devinterp"),
                        "rules": [_sarif_rule(code) for code in codes],
                    }
                },
                "invocations": [{"executionSuccessful": all(r.readable for r in reports)}],
                "results": [_sarif_result(r, f, codes) for r in reports for f in r.findings],
            }
        ],
    }


def _sarif_rule(code: str) -> dict[str, Any]:
    known = RuleCode.lookup(code)
    if known is None:
        return {"id": code}
    return {
        "id": code,
        "name": known.slug,
        "shortDescription": {"text": known.title},
        "fullDescription": {"text": known.meaning},
        "help": {"text": known.remedy},
        "defaultConfiguration": {"level": _SARIF_LEVELS[known.severity]},
    }


def _sarif_result(report: Record, finding: Finding, codes: list[str]) -> dict[str, Any]:
    text = " ".join([finding.message, *(f"{label.capitalize()}: {value}" for label, value in finding.details)])
    return {
        "ruleId": str(finding.code),
        "ruleIndex": codes.index(str(finding.code)),
        "level": _SARIF_LEVELS[finding.severity],
        "message": {"text": text},
        "occurrenceCount": finding.count,
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": _uri(report.target)}},
                "logicalLocations": [{"fullyQualifiedName": path, "kind": "element"}],
            }
            for path in finding.paths[:100]
        ],
    }


def _uri(target: str) -> str:
    """Return a target as a URI reference: a path is quoted, a URL is one already."""
    from urllib.parse import quote

    return quote(target, safe="/:@+,;=&!$'()*~" + ("?#%" if "://" in target else ""))
