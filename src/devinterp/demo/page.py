"""The demo's page: one HTML file with every figure and table in it, and no request to anywhere."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from html import escape

from devinterp.demo.tables import Table

__all__ = ["make_page"]

SECTIONS = {
    "training": "The model learns to copy",
    "heads": "Which heads copy",
    "llc": "The learning coefficient along training",
    "influence": "Which data influence which",
    "susceptibilities": "What each head answers to",
    "stores": "How local, and where it is stored",
}

_STYLE = """
:root { color-scheme: light; --ink: #1b1b1f; --dim: #5c5c66; --line: #d9d9df; --page: #ffffff; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem; font: 1rem/1.5 system-ui, sans-serif; color: var(--ink);
       background: var(--page); }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; }
img { max-width: 100%; height: auto; } figure { margin: .8rem 0; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; white-space: nowrap; font-weight: 600; padding-bottom: .3rem; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } tr.strong { font-weight: 700; }
.note { color: var(--dim); font-size: .85rem; } pre { background: #f4f4f7; padding: .8rem; overflow-x: auto; }
"""


def make_page(
    intro: str,
    sentences: Mapping[str, str],
    figures: Mapping[str, bytes],
    tables: Mapping[str, Table],
    captions: Mapping[str, str],
    snippet: str,
) -> str:
    """Put everything on one page.

    Parameters
    ----------
    intro : str
        A paragraph at the top.
    sentences, tables : mapping
        By section.
    figures : mapping of str to bytes
        PNG files by section.
    captions : mapping of str to str
        What each figure shows, for those who cannot see it.
    snippet : str
        Code to go on with.

    Returns
    -------
    str
        An HTML document.
    """
    parts = []
    for name, title in SECTIONS.items():
        parts.append(f"<section id={name}><h2>{escape(title)}</h2>")
        if name in sentences:
            parts.append(f"<p>{escape(sentences[name])}</p>")
        if name in figures:
            data = b64encode(figures[name]).decode()
            parts.append(f'<figure><img alt="{escape(captions[name])}" src="data:image/png;base64,{data}"></figure>')
        if name in tables:
            parts.append(tables[name].to_html())
        parts.append("</section>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>devinterp demo</title><style>{_STYLE}</style></head><body><main><h1>devinterp demo</h1>"
        f"<p>{escape(intro)}</p>{''.join(parts)}<section><h2>Go on from here</h2><pre>{escape(snippet)}</pre>"
        "</section></main></body></html>\n"
    )
