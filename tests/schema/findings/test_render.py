"""A report as text, for a terminal, as HTML and as SARIF: what a reader must be able to take from each."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest
from rich.console import Console

import devinterp
from devinterp.schema import Finding, NotChecked, Report, RuleCode
from devinterp.schema.findings.render import report_html, report_text, sarif, scope, verdict

MISSING = Finding(
    RuleCode.MISSING_VARIABLE, "error", "structure", "/a", "It is missing.", expected="a (x)", found="nothing",
    remedy="Write it.", count=3, paths=("/a", "/b", "/c"),
)  # fmt: skip
NOTE = Finding("LAB1", "note", "values", "/d", "It is odd.")
REPORT = Report(
    "runs/a.zarr",
    profile="open",
    level="completeness",
    schema="devinterp/llc@1",
    kind="llc",
    findings=(MISSING, NOTE),
    checked={"groups": 1, "arrays": 0, "chunks": 12},
    not_checked=(NotChecked("/x", "values", "it is <not> declared"),),
)

TEXT = """\
runs/a.zarr: not valid (devinterp/llc@1, profile open, level completeness): 3 errors, 1 note
error DI101 /a, /b, /c: It is missing.
    expected: a (x)
    found:    nothing
    remedy:   Write it.
note LAB1 /d: It is odd.
checked: 1 groups, 12 chunks
not checked: /x: values (it is <not> declared)"""


def test_the_text_says_all_there_is() -> None:
    assert report_text(REPORT) == str(REPORT) == TEXT


def test_a_terminal_shows_the_same_in_colours() -> None:
    console = Console(width=200, record=True, file=io.StringIO(), force_terminal=True)
    console.print(REPORT)
    assert console.export_text(clear=False).rstrip("\n") == TEXT
    shown = console.export_html(inline_styles=True)
    for style, text in (("#800000", "error "), ("#008080", "note "), ("#800080", "/a, /b, /c")):
        assert re.search(rf'style="[^"]*{style}[^"]*">{re.escape(text)}', shown), text


@pytest.mark.parametrize(
    ("findings", "said"),
    [
        ((), "valid (unknown kind, profile strict, level values): no findings"),
        ((NOTE,), "valid (unknown kind, profile strict, level values): 1 note"),
        ((NOTE, NOTE), "valid (unknown kind, profile strict, level values): 2 notes"),
        (
            (Finding("A1", "warning", "values", "/", "x"), Finding("A2", "error", "values", "/", "x")),
            "not valid (unknown kind, profile strict, level values): 1 error, 1 warning",
        ),
    ],
)
def test_the_verdict_counts_what_was_found(findings: tuple[Finding, ...], said: str) -> None:
    assert verdict(Report("x", findings=findings)) == f"x: {said}"


def test_nothing_checked_is_said() -> None:
    assert scope(Report("x")) == scope(Report("x", checked={"groups": 0})) == "checked: nothing"


@pytest.mark.parametrize(
    ("paths", "count", "said"),
    [
        (("/a",), 1, "/a"),
        (("/a", "/b", "/c"), 3, "/a, /b, /c"),
        (("/a", "/b", "/c", "/d"), 4, "/a, /b, /c and 1 more"),
        (("/a",), 5, "/a and 4 more"),  # five times at the same place
        (("/a", "/b", "/c", "/d"), 100, "/a, /b, /c and 97 more"),
    ],
)
def test_the_first_places_are_named_and_the_others_counted(paths: tuple[str, ...], count: int, said: str) -> None:
    assert Finding("A1", "error", "values", paths[0], "x", count=count, paths=paths).where == said


def test_a_finding_shows_only_what_it_has() -> None:
    assert str(NOTE) == "note LAB1 /d: It is odd."
    assert str(Finding("A1", "error", "values", "/", "x", found="y")) == "error A1 /: x\n    found:    y"
    assert str(Finding("A1", "error", "values", "/", "x", expected="")).endswith("\n    expected: ")


def test_html_has_a_row_per_finding_and_a_line_per_fact() -> None:
    html = report_html(REPORT)
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    assert cells == [
        ["severity", "code", "path", "finding"],
        ["error", "DI101", "/a, /b, /c", "It is missing.<br>expected: a (x)<br>found: nothing<br>remedy: Write it."],
        ["note", "LAB1", "/d", "It is odd."],
    ]
    assert "<li>/x: values (it is &lt;not&gt; declared)</li>" in html
    assert "<p>checked: 1 groups, 12 chunks</p>" in html
    assert html.startswith("<div><strong>runs/a.zarr: not valid")
    assert html.endswith("</div>")
    bare = report_html(Report("x"))
    assert "<table" not in bare
    assert "<details" not in bare


def test_sarif_has_one_run_for_all_reports() -> None:
    unreadable = Report("b", findings=(Finding(RuleCode.NO_STORE, "error", "structure", "/", "There is none."),))
    log = sarif([REPORT, Report("c")])
    (run,) = log["runs"]
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-2.1.0.json")
    driver = run["tool"]["driver"]
    assert (driver["name"], driver["version"]) == ("devinterp", devinterp.__version__)
    assert run["invocations"] == [{"executionSuccessful": True}]
    assert sarif([REPORT, unreadable])["runs"][0]["invocations"] == [{"executionSuccessful": False}]
    rules = {rule["id"]: rule for rule in driver["rules"]}
    assert list(rules) == ["DI101", "LAB1"]
    assert rules["LAB1"] == {"id": "LAB1"}
    code = RuleCode.MISSING_VARIABLE
    assert rules["DI101"] == {
        "id": "DI101",
        "name": code.slug,
        "shortDescription": {"text": code.title},
        "fullDescription": {"text": code.meaning},
        "help": {"text": code.remedy},
        "defaultConfiguration": {"level": "error"},
    }
    assert json.loads(REPORT.to_sarif()) == json.loads(json.dumps(sarif([REPORT])))


def test_sarif_results_point_into_the_store() -> None:
    many = Finding("A1", "warning", "values", "/0", "Odd.", count=500, paths=tuple(f"/{n}" for n in range(200)))
    one, other = sarif([Report("a b.zarr", findings=(many,)), REPORT])["runs"][0]["results"][:2]
    assert (one["ruleId"], one["ruleIndex"], one["level"], one["occurrenceCount"]) == ("A1", 0, "warning", 500)
    assert one["message"] == {"text": "Odd."}
    assert len(one["locations"]) == 100
    assert one["locations"][7] == {
        "physicalLocation": {"artifactLocation": {"uri": "a%20b.zarr"}},
        "logicalLocations": [{"fullyQualifiedName": "/7", "kind": "element"}],
    }
    assert (other["ruleId"], other["ruleIndex"], other["level"]) == ("DI101", 1, "error")
    assert other["message"]["text"] == "It is missing. Expected: a (x) Found: nothing Remedy: Write it."


@pytest.mark.parametrize("render", [Report.to_json, Report.to_sarif])
def test_documents_are_indented_as_asked_and_keep_their_letters(render: Any) -> None:
    report = Report("läufe", findings=(Finding("A1", "error", "values", "/", "Es fehlt, schön."),))
    assert "schön" in render(report)
    assert "\n  " in render(report)
    assert "\n" not in render(report, indent=None)
    assert json.loads(render(report)) == json.loads(render(report, indent=None))
