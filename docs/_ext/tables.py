"""Markdown tables whose cells come from code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["cell", "code", "table"]


def code(text: str) -> str:
    """Inline code, also where the text holds a backtick; an empty text is a pair of quotes."""
    text = text or '""'
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}"


def cell(value: Any) -> str:
    """One value as it stands in a sentence: lists joined, strings and numbers as code."""
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(cell(v) for v in value) + ")"
    return code(str(value))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A pipe table; a pipe inside a cell is escaped."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(" ".join(str(c).split()).replace("|", "\\|") for c in row) + " |" for row in rows]
    return "\n".join(lines)
