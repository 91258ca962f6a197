"""Formulas as MathML, which browsers draw themselves: no script, no font and no picture to fetch."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

# TeX reads \frac12 as one half, the converter as a fraction with the numerator 12.
_BARE_DIGITS = re.compile(r"\\(?:frac|binom)\s*\d|[_^]\d\d|\\sqrt\s*\d")
# It also sets the index of an accented letter below it, as under a sum; behind an exponent, an empty one too, it keeps its place.
_ACCENTED = re.compile(
    r"(?P<letter>\\(?:bar|hat|tilde|vec|dot)\s*(?:\{[^{}]*\}|\\[A-Za-z]+|\w))"
    r"_(?P<index>\{[^{}]*\}|\w)(?:\^(?P<power>\{[^{}]*\}|\w))?"
)


def _beside(found: re.Match[str]) -> str:
    return f"{found['letter']}^{found['power'] or '{}'}_{found['index']}"


def to_mathml(tex: str, *, block: bool, location: Any = None) -> str:
    """Return the MathML of a formula; what cannot be converted is a warning, hence an error of the build."""
    if _BARE_DIGITS.search(tex):
        logger.warning("braces are missing around digits in %r", tex, location=location)
    try:
        return tex2mathml(_ACCENTED.sub(_beside, tex), as_block=block)
    except (MathError, SyntaxError) as error:
        logger.warning("no MathML for %r: %s", tex, error, location=location)
        return ""


def visit_inline(self: Any, node: nodes.math) -> None:
    self.body.append(to_mathml(node.astext(), block=False, location=node))
    raise nodes.SkipNode


def visit_block(self: Any, node: nodes.math_block) -> None:
    self.body.append(self.starttag(node, "div", CLASS="math"))
    self.body.append(to_mathml(node.astext(), block=True, location=node))
    self.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
