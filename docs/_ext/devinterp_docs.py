"""What this documentation needs of Sphinx: pages from code, references by any public name, and a check of what was built."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import pages
from docutils import nodes
from links import problems_in
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def generate(app: Sphinx) -> None:
    pages.write_all(Path(app.srcdir))


def resolve_alias(app: Sphinx, env: Any, node: pending_xref, content: nodes.Element) -> nodes.Element | None:
    """Resolve a public name that is documented under another one (`devinterp.slt.sampling.sample`)."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith("devinterp"):
        return None
    wanted = _import(target)
    if wanted is None or isinstance(wanted, str | int | float | tuple | dict):  # equal constants are not the same name
        return None
    domain = env.get_domain("py")
    for name, entry in domain.objects.items():
        if name.rsplit(".", 1)[-1] == target.rsplit(".", 1)[-1] and _import(name) is wanted:
            return domain.resolve_xref(env, node["refdoc"], app.builder, entry.objtype, name, node, content)
    return None


def _import(dotted: str) -> Any:
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            found = inspect.getattr_static(found, part, None) if inspect.isclass(found) else getattr(found, part, None)
        return found
    return None


def check_output(app: Sphinx, exception: Exception | None) -> None:
    """Every internal link and anchor exists, and no page asks another host for anything."""
    if exception is not None or app.builder.format != "html":
        return
    pages.copy_grammar(Path(app.srcdir), Path(app.outdir))
    for problem in problems_in(Path(app.outdir)):
        logger.warning("%s", problem)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", generate, priority=100)
    app.connect("missing-reference", resolve_alias)
    app.connect("build-finished", check_output)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
