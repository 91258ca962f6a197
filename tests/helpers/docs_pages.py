"""The documentation's sources: where they lie, their pages, and the fenced blocks of a page."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DOCS", "ROOT", "Block", "blocks_of", "pages"]

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

for folder in ("tutorials", "_ext"):  # toy.py; the generators of pages
    sys.path.insert(0, str(DOCS / folder))

_FENCE = re.compile(r"^(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<body>.*?)^(?P=fence)\s*$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    path: Path
    line: int
    language: str
    body: str


def blocks_of(path: Path) -> list[Block]:
    """Every fenced block of a Markdown page."""
    text = path.read_text(encoding="utf-8")
    return [
        Block(path, text.count("\n", 0, m.start()) + 2, m["language"].strip(), m["body"]) for m in _FENCE.finditer(text)
    ]


def pages() -> list[Path]:
    """Every Markdown page that people write, not what a build generates."""
    import pages as generators

    generated = {DOCS / "codes", DOCS / "_build", *(DOCS / name for name in generators.SINGLE)}
    own = [p for p in DOCS.rglob("*.md") if not generated & {p, *p.parents}]
    own = [p for p in own if p.parent != DOCS / "formats" or p.name == "index.md"]
    return sorted([*own, *ROOT.glob("*.md")])
