"""A check of built pages: internal links and anchors, and requests to other hosts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["problems_in"]

# Attributes through which a browser fetches something without being asked to; <a href> waits for a click.
_FETCHED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src"), ("video", "src")}
_CSS_URL = re.compile(r"url\(\s*['\"]?(https?:)?//|@import\s+['\"]https?:")
# Written by Sphinx and not pages of ours.
_SKIPPED = {"genindex.html", "search.html", "py-modindex.html"}


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        self.anchors.update(v for k, v in given.items() if k == "id" or (tag == "a" and k == "name"))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        for name, value in given.items():
            if (tag, name) in _FETCHED and given.get("rel") not in ("canonical", "index", "search", "next", "prev"):
                self.fetched.append(value)


def problems_in(root: Path) -> Iterator[str]:
    """Yield one sentence per broken internal link, missing file and request to another host.

    Parameters
    ----------
    root : Path
        The folder of a finished HTML build.
    """
    parsed: dict[Path, _Page] = {}
    for path in sorted(root.rglob("*.html")):
        if "_static" not in path.relative_to(root).parts:
            parsed[path] = page = _Page()
            page.feed(path.read_text(encoding="utf-8"))
    for path, page in parsed.items():
        name = path.relative_to(root).as_posix()
        if name not in _SKIPPED:
            yield from (f"{name}: {problem}" for problem in _links(path, page, parsed))
        for url in page.fetched:
            parts = urlsplit(url)
            if parts.netloc:
                yield f"{name}: asks another host for {url}"
            elif parts.scheme != "data" and not (path.parent / unquote(parts.path)).exists():
                yield f"{name}: there is no {url}"
    for style in root.rglob("*.css"):
        if _CSS_URL.search(style.read_text(encoding="utf-8", errors="replace")):
            yield f"{style.relative_to(root).as_posix()}: asks another host for something"


def _links(path: Path, page: _Page, parsed: dict[Path, _Page]) -> Iterator[str]:
    for link in dict.fromkeys(page.links):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if not target.exists():
            yield f"the link {link} leads nowhere"
        elif parts.fragment and target in parsed and unquote(parts.fragment) not in parsed[target].anchors:
            yield f"the link {link} names an anchor that is not there"
