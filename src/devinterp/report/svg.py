"""A picture as inline SVG that takes the page's own colours, on light and on dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

from devinterp._html import Markup, tag
from devinterp.plot.drawing.style import canvas, style

__all__ = ["picture"]

# Stands for "the colour of the text" until the browser knows which that is.
_INK = "#010203"
_RC: dict[str, Any] = {
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.titlecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "devinterp",
}
_CSS_PIXELS_PER_INCH = 96


def picture(name: str, alt: str, size: tuple[float, float], draw: Callable[[Any], object]) -> Markup:
    """Draw on new axes and return the figure as an element.

    Parameters
    ----------
    name : str
        Distinguishes the ids of this picture from those of others on the page.
    alt : str
        What it shows, for those who cannot see it.
    size : (float, float)
        In inches, when there is room.
    draw : callable
        Called with the axes.
    """
    with style(**_RC):
        figure = canvas(size, inks=_RC)
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, dpi=150, metadata={"Date": None})
    width = round(size[0] * _CSS_PIXELS_PER_INCH)
    return tag("figure", Markup(_inline(buffer.getvalue(), name, alt, width)))


def _inline(svg: str, name: str, alt: str, width: int) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # The style that matplotlib writes would hold for the whole page; the page's own sheet has it for pictures.
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    svg = svg.replace("xlink:href=", "href=").replace(_INK, "currentColor")
    box = re.search(r'viewBox="[^"]*"', svg)
    opened = tag("svg", class_="picture", role="img", aria_label=alt, style=f"max-width:{width}px").removesuffix(
        "</svg>"
    )
    head = opened[:-1] + f" {box.group(0) if box else ''}>"
    return head + svg[svg.index(">") + 1 :].rstrip()
