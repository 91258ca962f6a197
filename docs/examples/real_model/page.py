"""What came of the stages, on one page, and as Markdown for the documentation."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from pathlib import Path
from typing import Any

from devinterp._html import Markup, join, tag

TITLES = {
    "calibration": "Calibration", "study": "Which heads copy", "influence": "Which sequences go together",
    "parity": "The same draws as devinterp 2.0.1", "robustness": "Killed, resumed, half precision, in parallel",
}  # fmt: skip

STYLE = """body { margin: 0 auto; max-width: 68rem; padding: 1.5rem; font: 1rem/1.5 system-ui, sans-serif; color: #1b1b1f }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: .8rem 0 }
th, td { padding: .2rem .5rem; text-align: right; border-bottom: 1px solid #d9d9df; white-space: nowrap }
th:first-child, td:first-child { text-align: left } caption { text-align: left; font-weight: 600 }
.scroll { overflow-x: auto } .note { color: #5c5c66; font-size: .85rem } img { max-width: 100% }"""


def write_page(out: Path) -> Path:
    """Write ``index.html`` and ``tables.md`` from the results of the stages that are there."""
    found = [json.loads(path.read_text()) for path in sorted((out / "results").glob("*.json"))]
    order = list(TITLES)
    found.sort(key=lambda each: order.index(each["stage"]))
    sections = [section(each, out) for each in found]
    head = Markup(f'<!doctype html><meta charset="utf-8"><title>A real language model</title><style>{STYLE}</style>')
    intro = (
        "SmolLM2-135M-Instruct: 30 layers, 9 query heads in 3 groups, width 576, vocabulary 49,152. Rows are cut from "
        "texts that Python ships, and from repeats of shuffled tokens."
    )
    page = out / "index.html"
    page.write_text(join(head, tag("h1", "A real language model"), tag("p", intro), *sections), encoding="utf-8")
    (out / "tables.md").write_text("\n".join(markdown(each) for each in found), encoding="utf-8")
    return page


def section(result: dict[str, Any], out: Path) -> Markup:
    parts = [tag("h2", TITLES[result["stage"]])]
    parts += [tag("p", sentence) for sentence in result["sentences"]]
    for table in result.get("tables", ()):
        rows = [tag("tr", *(tag("td", shown(cell)) for cell in row)) for row in table["rows"]]
        head = tag("tr", *(tag("th", name) for name in table["head"]))
        parts.append(tag("div", tag("table", tag("caption", table["title"]), head, *rows), class_="scroll"))
    for name in result.get("figures", ()):
        data = b64encode((out / name).read_bytes()).decode()
        parts.append(tag("img", src=f"data:image/png;base64,{data}", alt=TITLES[result["stage"]]))
    parts.append(tag("p", said_last(result), class_="note"))
    return join(*parts)


def markdown(result: dict[str, Any]) -> str:
    lines = [f"## {TITLES[result['stage']]}", "", *(f"* {sentence}" for sentence in result["sentences"]), ""]
    for table in result.get("tables", ()):
        lines += [f"| {' | '.join(table['head'])} |", f"|{'---|' * len(table['head'])}"]
        lines += [f"| {' | '.join(map(shown, row))} |" for row in table["rows"]]
        lines.append("")
    return "\n".join([*lines, f"{said_last(result)}", ""])


def said_last(result: dict[str, Any]) -> str:
    return (
        f"{result['date']}, {result['device']}, {result['threads']} threads: {result['seconds']:.0f} s, "
        f"of this process {result['cpu_seconds']:.0f} s of CPU."
    )


def shown(cell: Any) -> str:
    if isinstance(cell, list):
        return " to ".join(map(shown, cell))
    if isinstance(cell, float):
        return "–" if math.isnan(cell) else f"{cell:.4g}"
    return str(cell)
