"""HTML in which text is always escaped: what is not markup by type cannot become markup."""

from __future__ import annotations

import html as _html
from collections.abc import Sequence

__all__ = ["Content", "Markup", "join", "tag"]


class Markup(str):
    """A string that is HTML already; made by `tag` and `join`, or from literals of ours."""

    __slots__ = ()

    def __html__(self) -> str:
        """Return the markup itself, as template engines expect it."""
        return str(self)


Content = str | Markup | None
_VOID = frozenset({"br", "hr", "img", "meta", "col"})


def tag(name: str, /, *children: Content | Sequence[Content], **attributes: str | int | float | bool | None) -> Markup:
    """Return an element.

    Parameters
    ----------
    name : str
        Its name.
    *children : str, Markup, or a sequence of them
        What is in it; plain strings are escaped.
    **attributes
        Its attributes, escaped; ``class_`` is ``class``, other underscores become hyphens, True stands alone, False
        and None are left out.
    """
    parts = [f"<{name}"]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        shown = key.rstrip("_").replace("_", "-")
        parts.append(f" {shown}" if value is True else f' {shown}="{escape(str(value))}"')
    parts.append(">")
    if name in _VOID:
        return Markup("".join(parts))
    return Markup("".join((*parts, *map(_inner, children), f"</{name}>")))


def join(*children: Content | Sequence[Content]) -> Markup:
    """Return the children one after the other; plain strings are escaped."""
    return Markup("".join(map(_inner, children)))


def _inner(child: Content | Sequence[Content]) -> str:
    if child is None:
        return ""
    if not isinstance(child, str):
        return "".join(_inner(item) for item in child)
    return str(child) if isinstance(child, Markup) else escape(child)


def escape(text: str) -> str:
    """Return text that neither opens an element nor ends an attribute; control characters become visible."""
    visible = "".join(c if c in "\n\t" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return _html.escape(visible, quote=True)
