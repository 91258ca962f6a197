"""What lets pages be read on a phone: names that break where a reader would, and wide tables that become cards."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

_LOG = logging.getLogger(__name__)
# A name in code, and that of a parameter before its description.
_NAME = re.compile(r'(?<=<span class="pre">)[^<]+(?=</span>)|(?<=<dt><strong>)[^<]+(?=</strong>)')
# Behind a sign that joins two parts of a name; not behind the first of a name, nor within a number.
_JOINT = re.compile(r"(?<=\w)(?:[_./=:,(]|\[|&quot;)+(?=[\w{])(?<!\d[.,](?=\d))")
_SCREEN, _LETTER, _PADDING = 368, 7.3, 16  # pixels: of a phone's article, of a letter, of a cell's two sides
_PROSE = 18  # letters: narrower, a column of sentences is a ladder


def with_breaks(page: str) -> str:
    """Return HTML in which a name of code may break behind ``_``, ``.``, ``/`` and their like, for which nothing is shown."""
    page = page.replace('<span class="pre">--', '<span class="pre whole">--')  # an option, not two dashes and a name
    return _NAME.sub(lambda name: _JOINT.sub(lambda joint: f"{joint[0]}<wbr>", name[0]), page)


def too_wide(rows: Iterable[Sequence[str]]) -> bool:
    """Whether the columns of a table do not fit beside one another on a phone, each no narrower than can be read."""
    widths: dict[int, int] = {}
    for row in rows:
        for column, text in enumerate(row):
            parts = (part for word in text.split() for part in re.split(r"(?<=[_./=:,(-])", word))
            widths[column] = max(widths.get(column, 0), *map(len, parts), min(len(text), _PROSE), 0)
    return sum(width * _LETTER + _PADDING for width in widths.values()) > _SCREEN


def label_cells(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Tell each cell of a table that is too wide the name of its column, which stands beside it in a card."""
    for table in doctree.findall(nodes.table):
        rows = [[cell.astext() for cell in row.children] for row in table.findall(nodes.row)]
        heads = [cell.astext() for head in table.findall(nodes.thead) for cell in head.findall(nodes.entry)]
        if not heads or not too_wide(rows):
            continue
        if any(any(head.findall(nodes.math)) for head in table.findall(nodes.thead)):
            _LOG.warning("a label of a card would show TeX: write the table's head in letters", location=table)
        table["classes"].append("cards")
        for row in (row for body in table.findall(nodes.tbody) for row in body.children):
            for cell, head in zip(row.children, heads, strict=False):
                if cell.astext() or any(cell.findall(nodes.image)):  # what has no label is not shown
                    cell["label"] = head


def visit_entry(self: Any, node: nodes.entry) -> None:
    type(self).visit_entry(self, node)
    if "label" in node:
        start = max(n for n, piece in enumerate(self.body) if piece.startswith(("<td", "<th")))
        self.body[start] = self.body[start].replace(">", f' data-label="{escape(node["label"])}">', 1)


def break_names(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    if "body" in context:
        context["body"] = with_breaks(context["body"])


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_node(nodes.entry, override=True, html=(visit_entry, None))
    app.connect("doctree-resolved", label_cells)
    app.connect("html-page-context", break_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
