"""Markdown tables whose cells come from code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["cell", "code", "table", "with_code"]

# Calls, subscripts, keywords with a text, options of the command line: what a reader copies. Not the plural of "value(s)".
_CODE = re.compile(
    r"""`[^`]*`|(?<![\w.])(?:\w+=(?:'[^']*'|"[^"]*"|True\b|False\b|)"""
    r"|(?:del )?[A-Za-z_]\w*(?:\.\w+|\[[^\]]*\]|(?!\(s\))\((?:[^()]|\([^()]*\))*\))+)|(?<![\w-])--[a-z][\w-]*"
)


def code(text: str) -> str:
    """Inline code, also where the text holds a backtick; an empty text is a pair of quotes."""
    text = text or '""'
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}"


def with_code(text: str) -> str:
    """Prose in which code is marked as such: unmarked, its quotes and dashes become a printer's, and it runs no more."""
    return _CODE.sub(lambda m: m[0] if m[0][0] == "`" or not re.search(r"[(\[=-]", m[0]) else code(m[0]), text)


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
