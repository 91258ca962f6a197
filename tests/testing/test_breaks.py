"""The table of properties is whole and up to date: the breaks themselves take minutes, see ``make breaks``."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "benchmarks" / "breaks"))

from breaks import PAGE, page, read_breaks  # noqa: E402


def test_every_break_still_applies() -> None:
    """A change of the source that a break refers to must not leave the break behind."""
    stale = [
        f"{fault.file}: {fault.old}"
        for fault in read_breaks()
        if (ROOT / fault.file).read_text(encoding="utf-8").count(fault.old) != 1 or fault.old == fault.new
    ]
    assert stale == []


def test_every_property_has_a_break_and_every_break_a_test() -> None:
    tests = {fault.test for fault in read_breaks()}
    properties = {
        f"{path.relative_to(ROOT).as_posix()}::{node.name}"
        for path in (ROOT / "tests" / "properties").glob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    assert properties - tests == set()
    for test in tests:
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8") if name else (ROOT / file).is_file(), test


def test_the_page_is_that_of_the_present_table_with_everything_red() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(dict.fromkeys(read_breaks(), "red")), "run make breaks"
