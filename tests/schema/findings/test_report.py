from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

import devinterp
from devinterp.errors import ValidationError
from devinterp.schema import Finding, NotChecked, Report, RuleCode
from devinterp.schema.findings import report as module
from devinterp.schema.findings.codes import code_texts
from devinterp.schema.findings.report import Collector, clip


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
    assert {c.value: c.slug for c in RuleCode} == {code: text.name for code, text in code_texts().items()}
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


def test_a_report_as_json_types_has_every_fact() -> None:
    finding = Finding("DI101", "error", "structure", "/a", "It is missing.", "a", None, "Write it.", 2, ("/a", "/b"))
    fatal = Finding("DI002", "error", "structure", "/", "There is none.")
    report = Report(
        "x",
        "open",
        "structure",
        "devinterp/llc@1",
        "llc",
        (finding, fatal),
        {"arrays": 3},
        (NotChecked("/", "b", "c"),),
    )
    assert report.to_dict() == {
        "target": "x",
        "schema": "devinterp/llc@1",
        "kind": "llc",
        "profile": "open",
        "level": "structure",
        "ok": False,
        "readable": False,
        "counts": {"error": 3, "warning": 0, "note": 0},
        "findings": [
            {
                "code": "DI101",
                "severity": "error",
                "level": "structure",
                "path": "/a",
                "message": "It is missing.",
                "expected": "a",
                "found": None,
                "remedy": "Write it.",
                "count": 2,
                "paths": ["/a", "/b"],
            },
            fatal.to_dict(),
        ],
        "checked": {"arrays": 3},
        "not_checked": [{"path": "/", "what": "b", "why": "c"}],
    }


@pytest.mark.parametrize(
    ("code", "path", "readable"),
    [("DI001", "/", False), ("DI002", "/", False), ("DI003", "/", False), ("DI001", "/a", True), ("DI101", "/", True)],
)
def test_a_store_is_not_readable_where_its_root_is_not(code: str, path: str, readable: bool) -> None:
    assert Report("x", findings=(Finding(code, "error", "structure", path, "x"),)).readable == readable


def test_paths_are_filtered_by_what_lies_below() -> None:
    paths = ("/a", "/a/b", "/ab", "/b/a")
    findings = tuple(Finding("A1", "error", "values", p, "x") for p in paths)
    report = Report("x", findings=(*findings, Finding("A1", "error", "values", "/c", "x", paths=("/c", "/a/z"))))
    for path in ("/a", "a", "a/", "/a/"):
        assert [f.path for f in report.filter(path=path)] == ["/a", "/a/b", "/c"]
    assert len(report.filter(path="/")) == len(report) == 5
    assert len(report.filter(path="/", code="A2")) == 0
    assert report.filter(code=["A1"], level=["values"], severity="error", path="/b").codes == {"A1"}
    assert report.filter(level="structure").findings == ()


def test_findings_of_each_severity() -> None:
    findings = [Finding("A1", s, "values", "/", "x") for s in ("error", "warning", "note")]
    report = Report("x", findings=tuple(findings))
    assert [report.errors, report.warnings, report.notes] == [(f,) for f in findings]


@pytest.mark.parametrize("count", [1, 10, 11, 13])
def test_an_exception_names_ten_errors_and_counts_the_rest(count: int) -> None:
    findings = [Finding("A1", "error", "values", f"/{n}", f"m{n}", expected="e", count=2) for n in range(count)]
    note = Finding("A2", "note", "values", "/", "nothing wrong")
    report = Report("x", "open", findings=(*findings, note))
    with pytest.raises(ValidationError) as error:
        report.raise_for_errors()
    text = str(error.value)
    assert error.value.report is report
    assert (
        f"x breaks every known schema (profile open) in {2 * count} place(s):\n  error A1 /0 and 1 more: m0\n" in text
    )
    assert text.count("\n      expected: e") == min(count, 10)
    assert (f"and {count - 10} more" in text) == (count > 10)
    assert "nothing wrong" not in text
    assert Report("x", findings=(note,)).raise_for_errors().notes == (note,)
    with pytest.raises(ValidationError, match="x breaks lab/a@1 "):
        Report("x", schema="lab/a@1", findings=(findings[0],)).raise_for_errors()


def test_an_exception_says_first_that_the_store_is_of_another_profile(reference: Path) -> None:
    with pytest.raises(ValidationError) as error:
        devinterp.open_store(reference / "full.zarr")
    first = str(error.value).splitlines()[1:5]
    assert first[0] == "  note DI008 /: The store is as the profile 'devinterp-2.0' has it."
    assert first[3].endswith("Validate or open it with profile='devinterp-2.0'.")
    assert devinterp.open_store(reference / "full.zarr", profile="devinterp-2.0")["loss_train"].ndim == 4


def test_what_a_finding_leaves_out_comes_from_its_code() -> None:
    findings = Collector()
    findings.add(RuleCode.FAILED_CHAIN, "/", "One failed.")
    findings.add(RuleCode.FAILED_CHAIN, "/", "It failed.", severity="error", level="values", remedy="None.")
    findings.add("LAB1", "/", "Odd.", expected=[1, 2], found=0)
    by_message = {f.message: f for f in findings.findings()}
    own, given, foreign = by_message["One failed."], by_message["It failed."], by_message["Odd."]
    code = RuleCode.FAILED_CHAIN
    assert (
        (own.severity, own.level, own.remedy)
        == (code.severity, code.level, code.remedy)
        != ("error", "values", "None.")
    )
    assert (given.severity, given.level, given.remedy) == ("error", "values", "None.")
    assert (foreign.severity, foreign.level, foreign.remedy) == ("error", "structure", None)
    assert (foreign.expected, foreign.found) == ("1, 2", "0")


def test_findings_are_sorted_by_severity_path_and_code() -> None:
    findings = Collector()
    for code, path, severity in (
        ("B", "/a", "note"), ("B", "/b", "error"), ("C", "/a", "error"), ("B", "/a", "error"), ("A", "/a", "warning"),
    ):  # fmt: skip
        findings.add(code, path, f"x of {path}", severity=severity)
        assert findings.has(severity)
    assert not Collector().has()
    assert [(f.severity, f.path, f.code) for f in findings.findings()] == [
        ("error", "/a", "B"),
        ("error", "/a", "C"),
        ("error", "/b", "B"),
        ("warning", "/a", "A"),
        ("note", "/a", "B"),
    ]
    assert findings.has()


def test_equal_findings_at_one_place_keep_it_once_and_times_are_counted() -> None:
    findings = Collector()
    for path in ("/a", "/a", "/b", "/a"):
        findings.add("A1", path, "x", times=3)
    (finding,) = findings.findings()
    assert (finding.paths, finding.count, findings.total) == (("/a", "/b", "/a"), 12, 12)


def test_what_was_left_out_is_folded_by_its_reason() -> None:
    findings = Collector()
    for path in ("/a", "/b", "/c"):
        findings.skip(path, "values", "too large")
    findings.skip("/d", "values", "damaged")
    assert findings.not_checked() == (
        NotChecked("/a and 2 more", "values", "too large"),
        NotChecked("/d", "values", "damaged"),
    )


def test_findings_beyond_the_most_that_are_kept_are_counted_by_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FINDINGS", 3)
    findings = Collector()
    for number in range(10):
        findings.add("A1", f"/{number}", f"x{number}", expected=number)
        findings.skip(f"/{number}", f"{number}", "why")
    findings.add("A1", "/again", "x1", expected=1)
    found = findings.findings()
    assert sorted(f.count for f in found) == [1, 1, 2, 7]
    assert findings.total == 11
    (rest,) = (f for f in found if f.count == 7)
    assert (rest.path, rest.expected, rest.found) == ("/3", None, None)
    assert "not shown one by one" in rest.message
    assert [n.path for n in findings.not_checked()] == ["/0", "/1", "/2", "/3 and 6 more"]


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcdefg", 6, "abc..."),
        ("abcdef", 6, "abcdef"),
        ("a\x1bb", 10, "a\\x1bb"),
        ("\x1b" * 100, 10, "\\x1b\\x1..."),
        ("ä\n", 10, "ä\\n"),
    ],
)
def test_text_of_a_store_is_shortened_and_its_control_characters_shown(text: str, limit: int, shown: str) -> None:
    assert clip(text, limit) == shown
    assert len(clip("x" * 1000)) == 300
