from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

from devinterp.schema import Finding, Report, RuleCode
from devinterp.schema.code_texts import TEXTS
from devinterp.schema.report import Collector


def _report() -> Report:
    findings = Collector()
    for number in range(1500):
        findings.add(RuleCode.MISSING_CHUNK, f"/loss_code/c/0/{number}", "A chunk is missing.", found="reads as nan")
    findings.add(RuleCode.UNDECLARED_VARIABLE, "/<script>", "The variable is not declared.", severity="warning")
    findings.add("LAB101", "/x", "A rule of an extension.", severity="note", level="values")
    return Report("a store", findings=findings.findings(), schema="devinterp/samples@1", kind="samples")


def test_equal_findings_fold_into_one_that_keeps_count_and_paths() -> None:
    report = _report()
    assert len(report) == 3
    (folded,) = report.filter(code="missing-chunk")
    assert folded.count == 1500
    assert len(folded.paths) == 1000
    assert folded.paths[0] == folded.path == "/loss_code/c/0/0"
    assert "and 1497 more" in str(folded)


def test_filters_and_verdict() -> None:
    report = _report()
    assert not report.ok
    assert report.without("DI501").ok
    assert report.filter(severity=["warning", "note"]).codes == {"DI102", "LAB101"}
    assert report.filter(path="/loss_code").codes == {"DI501"}
    assert report.filter(level="values").codes == {"LAB101"}
    assert [f.severity for f in report] == ["error", "warning", "note"]
    assert Report("x").ok
    assert bool(Report("x"))


def test_json_says_everything() -> None:
    document = json.loads(_report().to_json())
    assert document["counts"] == {"error": 1500, "warning": 1, "note": 1}
    assert document["findings"][0]["code"] == "DI501"
    assert document["ok"] is False


def test_sarif_has_rules_results_and_logical_locations() -> None:
    document = json.loads(_report().to_sarif())
    (run,) = document["runs"]
    assert document["version"] == "2.1.0"
    assert {r["id"] for r in run["tool"]["driver"]["rules"]} == {"DI501", "DI102", "LAB101"}
    first = run["results"][0]
    assert run["tool"]["driver"]["rules"][first["ruleIndex"]]["id"] == first["ruleId"] == "DI501"
    assert first["occurrenceCount"] == 1500
    assert first["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == "/loss_code/c/0/0"


@pytest.mark.parametrize(
    ("target", "uri"),
    [
        ("runs/a b#1%.zarr", "runs/a%20b%231%25.zarr"),
        ("s3://lab/run%201.zarr?v=2", "s3://lab/run%201.zarr?v=2"),
        ("C:/läufe.zarr", "C:/l%C3%A4ufe.zarr"),
    ],
)
def test_sarif_names_the_store_by_a_uri(target: str, uri: str) -> None:
    finding = Finding("DI101", "error", "structure", "/a", "It is missing.")
    (result,) = json.loads(Report(target, findings=(finding,)).to_sarif())["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == uri


def test_html_escapes_what_comes_from_the_store() -> None:
    html = _report()._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_rich_and_plain_text_say_the_same() -> None:
    report = _report()
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(report)
    text = console.export_text()
    for finding in report:
        assert str(finding.code) in text
        assert str(finding.code) in str(report)
    assert "not valid" in text


def test_text_from_a_store_cannot_move_the_cursor_or_flood_the_screen() -> None:
    findings = Collector()
    findings.add(RuleCode.ATTRIBUTE, "/", "An attribute is wrong.", found="\x1b[2J" + "x" * 100_000)
    (finding,) = findings.findings()
    assert "\x1b" not in str(finding.found)
    assert len(str(finding.found)) <= 300


def test_a_finding_is_frozen_and_speaks() -> None:
    finding = Finding("DI101", "error", "structure", "/a", "It is missing.", expected="a", remedy="Write it.")
    assert finding.paths == ("/a",)
    assert "expected: a" in str(finding)


def test_every_code_has_its_words_and_no_number_is_used_twice() -> None:
    assert {c.value for c in RuleCode} == set(TEXTS)
    assert len({c.value for c in RuleCode}) == len(RuleCode.__members__)
    for code in RuleCode:
        assert re.fullmatch(r"DI\d{3}", code.value)
        assert code.title
        assert code.meaning.endswith(".")
        assert code.remedy.endswith(".")
        assert RuleCode.lookup(code.slug) is RuleCode.lookup(code.value) is code
        assert f"{code}" == code.value


def test_codes_are_append_only() -> None:
    """What each number means may never change: stores of others are filtered by it."""
    assert {c.value: c.name for c in RuleCode if c.value < "DI110"} == {
        "DI001": "UNREADABLE",
        "DI002": "NO_STORE",
        "DI003": "ZARR_V2",
        "DI004": "UNKNOWN_KIND",
        "DI005": "UNKNOWN_SCHEMA",
        "DI006": "INCOMPLETE",
        "DI007": "FAILED_CHAIN",
        "DI008": "OTHER_PROFILE",
        "DI009": "OTHER_SCHEMA",
        "DI010": "STALE_CONSOLIDATED",
        "DI101": "MISSING_VARIABLE",
        "DI102": "UNDECLARED_VARIABLE",
        "DI103": "DIMS",
        "DI104": "DTYPE",
        "DI105": "ROLE",
        "DI106": "MISSING_GROUP",
        "DI107": "UNDECLARED_GROUP",
        "DI108": "SIZE",
        "DI109": "SIZE_CONFLICT",
    }
