"""Small pieces of the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from devinterp._html import Content, Markup, join, tag

__all__ = ["badge", "facts", "listing", "note", "number", "section"]

LONG = 12  # rows that are no longer taken in at a glance: such a table can be searched and sorted


def section(name: str, heading: str, *children: Content) -> Markup:
    """Return a part of the page that can be linked to."""
    return tag("section", tag("h2", heading), *children, id=name)


def note(text: str) -> Markup:
    """Return a remark."""
    return tag("p", text, class_="note")


def badge(text: str, state: str = "dim") -> Markup:
    """Return a short statement; ``state`` is good, bad or dim, and a sign says so too."""
    sign = {"good": "✓ ", "bad": "✗ "}.get(state, "")
    return tag("span", sign + text, class_=f"badge {state}")


def facts(pairs: Iterable[tuple[str, Content]]) -> Markup:
    """Return a table of names and values."""
    rows = [tag("tr", tag("th", name, scope="row"), tag("td", value, class_="wide")) for name, value in pairs]
    return tag("div", tag("table", tag("tbody", rows)), class_="scroll")


def listing(
    heads: Sequence[str],
    rows: Iterable[Sequence[Content]],
    *,
    numbers: Sequence[str] = (),
    wide: Sequence[str] = (),
    stack: bool = False,
) -> Markup:
    """Return a table; ``numbers`` and ``wide`` name the columns of numbers and of long texts.

    With ``wide`` or ``stack``, rows become blocks of labelled lines where the page is narrow.
    """
    kinds = ["number" if h in numbers else "wide" if h in wide else None for h in heads]
    head = tag("tr", [tag("th", h, class_=k, scope="col") for h, k in zip(heads, kinds, strict=True)])
    body = [
        tag("tr", [tag("td", c, class_=k, data_label=h) for c, k, h in zip(row, kinds, heads, strict=True)])
        for row in rows
    ]
    classes = ["stack"] if wide or stack else []
    classes += ["long"] if len(body) >= LONG else []
    table = tag("table", tag("thead", head), tag("tbody", body), class_=" ".join(classes) or None)
    return tag("div", table, class_="scroll")


def number(value: Any, form: str = ".4g") -> str:
    """Return a number as text, a dash where there is none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return format(value, form) if isinstance(value, int | float) else str(value)


def nested(value: Any) -> Content:
    """Return nested metadata as nested tables."""
    if isinstance(value, Mapping):
        if not value:
            return "–"
        rows = [tag("tr", tag("th", str(k), scope="row"), tag("td", nested(v))) for k, v in value.items()]
        return tag("table", tag("tbody", rows))
    if isinstance(value, list | tuple):
        if len(value) > 40 and not any(isinstance(v, Mapping) for v in value):
            return ", ".join(map(str, value[:40])) + f", and {len(value) - 40} more"
        if any(isinstance(v, Mapping | list) for v in value):
            return join(*(tag("div", nested(v)) for v in value))
        return ", ".join(map(str, value)) or "–"
    return "–" if value is None else str(value)
