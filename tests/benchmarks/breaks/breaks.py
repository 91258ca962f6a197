"""The table of properties and of the faults that must be seen: breaks.yaml, and the page that is made from it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]
TABLE = Path(__file__).with_name("breaks.yaml")
PAGE = ROOT / "docs" / "contributing" / "properties.md"

sys.path.insert(0, str(ROOT / "docs" / "_ext"))

from tables import code, table  # noqa: E402

_HEAD = """# Properties, and what breaks them

What must hold whatever the data and the settings, the test that holds it to that, and the faults that `make breaks`
puts into a scratch copy, one at a time. Each must turn its test red; `make breaks` writes this page.
"""


@dataclass(frozen=True)
class Break:
    """One deliberate fault: ``old`` becomes ``new`` in ``file``, and ``test`` must fail."""

    section: str
    property: str
    test: str
    what: str
    file: str
    old: str
    new: str


def read_breaks() -> list[Break]:
    """Every break of the table, in its order."""
    return [
        Break(section["section"], entry["property"], entry["test"], **fault)
        for section in yaml.safe_load(TABLE.read_text(encoding="utf-8"))
        for entry in section["properties"]
        for fault in entry["breaks"]
    ]


def page(outcomes: Mapping[Break, str]) -> str:
    """The page of the documentation, from what came of each break."""
    parts = [_HEAD]
    for section in dict.fromkeys(fault.section for fault in outcomes):
        rows, before = [], ""
        for fault, outcome in outcomes.items():
            if fault.section == section:
                first = (fault.property, code(_short(fault.test))) if fault.test != before else ("", "")
                rows.append((*first, fault.what, outcome))
                before = fault.test
        parts.append(f"## {section}\n\n{table(('property', 'test', 'fault', 'test then'), rows)}\n")
    red = sum(outcome == "red" for outcome in outcomes.values())
    tests = len({fault.test for fault in outcomes})
    parts.append(f"{tests} properties, {len(outcomes)} faults, {red} of them turn the test red.\n")
    return "\n".join(parts)


def _short(test: str) -> str:
    return test.removeprefix("tests/").replace(".py::", ".py ")
