"""Who may import whom (docs/architecture.md), and what importing the package brings with it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "devinterp"

# A part may import itself, the parts listed, and nothing else of ours at module level.
MAY_IMPORT = {
    "errors": set(),
    "names": {"errors"},
    "schema": {"errors", "names"},
    "store": {"errors", "names", "schema"},
    "utils": {"errors", "names"},
    "slt": {"errors", "names", "schema", "store", "utils"},
    "testing": {"errors", "names", "schema", "store"},
    "accessor": {"errors", "names", "schema", "store", "slt"},
    "plot": {"errors", "names", "schema", "store", "slt"},
    "report": {"errors", "names", "schema", "store", "slt", "plot"},
    "demo": {"errors", "names", "schema", "store", "slt", "plot", "utils"},
    "cli": {"errors", "names", "schema", "store", "slt", "plot", "report", "demo"},
    "__main__": {"cli"},
}
HEAVY = {"torch", "pandera", "matplotlib", "arviz_stats", "dask", "distributed", "hypothesis", "pytest", "transformers"}
MAY_BE_HEAVY = {
    "torch": ("slt/sampling/", "demo/"),
    "matplotlib": ("demo/",),
    "hypothesis": ("testing/",),
    "pytest": ("testing/",),
    "dask": (),
}


def modules():
    return sorted(p.relative_to(SOURCE).as_posix() for p in SOURCE.rglob("*.py"))


def module_level_imports(path: Path) -> set[str]:
    """Dotted names imported when the module is, `if TYPE_CHECKING` and functions left out."""
    found: set[str] = set()
    stack: list[ast.stmt] = list(ast.parse(path.read_text()).body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {f"{node.module}.{a.name}" for a in node.names} | {node.module or ""}
        elif isinstance(node, ast.If):
            if "TYPE_CHECKING" not in ast.unparse(node.test):
                stack += node.body + node.orelse
        elif isinstance(node, ast.Try | ast.With):
            stack += node.body
    return found


def part(name: str) -> str:
    pieces = name.split(".")
    return pieces[1] if len(pieces) > 1 else ""


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_what_lies_upstream(module):
    own = module.split("/")[0].removesuffix(".py")
    if own == "__init__":
        return  # the root registers the accessor; its other names are resolved on use
    inside = {part(n) for n in module_level_imports(SOURCE / module) if n.split(".")[0] == "devinterp"}
    inside = {p for p in inside if (SOURCE / p).is_dir() or (SOURCE / f"{p}.py").is_file()} - {own}
    assert inside <= MAY_IMPORT[own], f"{module} imports {sorted(inside - MAY_IMPORT[own])}"


@pytest.mark.parametrize("module", modules())
def test_heavy_packages_are_imported_where_they_are_used(module):
    heavy = {n.split(".")[0] for n in module_level_imports(SOURCE / module)} & HEAVY
    bad = {h for h in heavy if not module.startswith(tuple(MAY_BE_HEAVY.get(h, ())) or ("\0",))}
    assert not bad, f"{module} imports {sorted(bad)} at its top"


def test_every_part_has_a_rule():
    parts = {m.split("/")[0].removesuffix(".py") for m in modules()} - {"__init__"}
    assert parts <= set(MAY_IMPORT)


@pytest.mark.parametrize(
    "statement", ["import devinterp", "from devinterp.slt.llc import compute_llc", "import devinterp.schema"]
)
def test_importing_stays_light(statement):
    code = f"{statement}; import sys; print(sorted({HEAVY!r} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]", out.stdout
