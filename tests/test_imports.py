"""Who may import whom (docs/architecture.md), and what importing the package brings with it."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "devinterp"

# A part may import itself, the parts listed, and nothing else of ours: nor inside a function, nor for types alone.
LOW = {"cores", "errors", "names", "plain_json", "steps", "wording", "_renamed"}
MAY_IMPORT = {
    "cores": set(),
    "wording": set(),
    "errors": {"wording"},
    "_renamed": {"errors"},
    "_html": set(),
    "names": {"errors"},
    "plain_json": {"errors"},
    "steps": set(),
    "schema": LOW,
    "store": {*LOW, "schema"},
    "utils": LOW,
    "slt": {*LOW, "schema", "store", "utils"},
    "testing": {*LOW, "schema", "store"},
    "plot": {*LOW, "schema", "store", "slt", "_html"},
    "accessor": {*LOW, "schema", "store", "slt", "plot"},
    "report": {*LOW, "schema", "store", "slt", "plot", "_html"},
    "demo": {*LOW, "schema", "store", "slt", "plot", "utils"},
    "cli": {*LOW, "schema", "store", "slt", "plot", "report", "demo"},
    "__main__": {"cli"},
}
# Inside a part the same by room: a room imports itself, the rooms of its part that are listed, and none of the modules
# that stand above the rooms.
STORE = {
    f"store/{name}" for name in ("filesystem", "location", "lock", "lock_holder", "zarr_metadata", "chain_checkpoints")
}
UNCERTAINTY = {"slt/uncertainty/batch_means", "slt/uncertainty/arviz", "slt/uncertainty/intervals"}
ENGINE_SIDE = {"slt/sampling/settings", "slt/sampling/inputs", "slt/sampling/engine", "slt/sampling/running"}
ROOMS: dict[str, set[str]] = {
    "schema/definition": set(),
    "schema/findings": {"schema/definition"},
    "schema/reading": {"schema/definition", "schema/findings"},
    "schema/rules": {"schema/definition", "schema/findings", "schema/reading"},
    "schema/checks": {"schema/definition", "schema/findings", "schema/reading", "schema/rules"},
    "schema/validation": {"schema/definition", "schema/findings", "schema/reading", "schema/rules", "schema/checks"},
    "store/filesystem": set(),
    "store/location": {"store/filesystem"},
    "store/lock_holder": {"store/filesystem", "store/location"},
    "store/lock": {"store/location", "store/lock_holder"},
    "store/zarr_metadata": {"store/location"},
    "store/chain_checkpoints": {"store/location"},
    "store/reading": STORE,
    "store/writing": {*STORE, "store/reading"},
    "store/repair": {*STORE, "store/reading", "store/writing"},
    "store/backend": {"store/reading"},
    "slt/batches_seen": set(),
    "slt/estimands": set(),
    "slt/runs": {"slt/estimands"},
    "slt/uncertainty/batch_means": {"slt/runs"},
    "slt/uncertainty/arviz": {"slt/runs"},
    "slt/uncertainty/intervals": {"slt/runs", "slt/uncertainty/batch_means"},
    "slt/diagnostics": {"slt/runs", *UNCERTAINTY},
    "slt/bif": {"slt/runs", "slt/sampling", *UNCERTAINTY},
    "slt/susceptibilities": {"slt/runs", "slt/sampling", *UNCERTAINTY},
    "slt/llc": {"slt/runs", "slt/sampling", "slt/batches_seen", "slt/diagnostics", *UNCERTAINTY},
    "slt/information": {"slt/runs", "slt/llc"},
    "slt/sweep": {"slt/runs", "slt/sampling", *ENGINE_SIDE, "slt/diagnostics", "slt/llc"},
    "slt/sampling": {"slt/batches_seen", "slt/diagnostics", "slt/weight_restrictions", *ENGINE_SIDE},
    "slt/weight_restrictions": {"slt/sampling/inputs"},
    "slt/sampling/settings": set(),
    "slt/sampling/inputs": {"slt/sampling/settings"},
    "slt/sampling/engine": {"slt/sampling/settings", "slt/sampling/inputs"},
    "slt/sampling/running": {
        "slt/batches_seen",
        "slt/sampling/settings",
        "slt/sampling/inputs",
        "slt/sampling/engine",
    },
}
HEAVY = {"torch", "pandera", "matplotlib", "arviz_stats", "dask", "distributed", "hypothesis", "pytest", "transformers"}
MAY_BE_HEAVY = {
    "torch": ("slt/sampling/", "slt/sweep/sample_sweep.py", "demo/"),
    "matplotlib": ("demo/",),
    "hypothesis": ("testing/",),
    "pytest": ("testing/",),
    "pandera": ("schema/checks/pandera_parts.py",),
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


@cache
def all_imports(module: str) -> frozenset[str]:
    """The modules of ours that a module imports, wherever in it: inside functions and for types alone too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((SOURCE / module).read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {n if (n := f"{node.module}.{a.name}") in dotted() else str(node.module) for a in node.names}
    return frozenset(n for n in found if n.split(".")[0] == "devinterp")


@cache
def dotted() -> dict[str, str]:
    """Every module's dotted name, and its file."""
    return {f"devinterp.{m.removesuffix('.py').replace('/', '.')}".removesuffix(".__init__"): m for m in modules()}


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_what_lies_upstream(module):
    own = module.split("/")[0].removesuffix(".py")
    if own == "__init__":
        return  # the root registers the accessor; its other names are resolved on use
    inside = {n.split(".")[1] for n in all_imports(module) if "." in n} - {own}
    assert inside <= MAY_IMPORT[own], f"{module} imports {sorted(inside - MAY_IMPORT[own])}"


def room(module: str) -> str | None:
    """The listed room that a module stands in."""
    return max((r for r in ROOMS if module.startswith(f"{r}/") or module == f"{r}.py"), key=len, default=None)


@pytest.mark.parametrize("module", [m for m in modules() if room(m)])
def test_a_room_imports_only_the_rooms_that_lie_upstream(module):
    own, files = room(module), dotted()
    targets = {files[n] for n in all_imports(module) if n in files}
    wrong = {t for t in targets if t.split("/")[0] == module.split("/")[0] and room(t) not in {own, *ROOMS[own]}}
    assert not wrong, f"{module} imports {sorted(wrong)}; {own} may import {sorted(ROOMS[own])}"


def test_no_imports_run_in_a_circle():
    graph = {name: all_imports(module) & set(dotted()) - {name} for name, module in dotted().items()}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("module", modules())
def test_heavy_packages_are_imported_where_they_are_used(module):
    heavy = {n.split(".")[0] for n in module_level_imports(SOURCE / module)} & HEAVY
    bad = {h for h in heavy if not module.startswith(tuple(MAY_BE_HEAVY.get(h, ())) or ("\0",))}
    assert not bad, f"{module} imports {sorted(bad)} at its top"


@pytest.mark.parametrize("module", [m for m in modules() if m.endswith("__init__.py")])
def test_an_init_only_hands_on_what_modules_define(module):
    """Who looks for a behaviour looks through the names of modules."""
    body = [*ast.parse((SOURCE / module).read_text()).body]
    body += [inner for node in body if isinstance(node, ast.If) for inner in node.body]
    own = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert own <= {"__getattr__", "__dir__", *(["main"] if module == "cli/__init__.py" else [])}


@pytest.mark.parametrize("part", ["schema", "store"])
def test_every_room_has_a_rule(part):
    alone = [m for m in modules() if m.startswith(f"{part}/") and room(m) is None]
    assert alone == [f"{part}/__init__.py"]


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


def test_every_room_can_be_taken_in_at_a_glance():
    rooms = {}
    for module in modules():
        path = (SOURCE / module).relative_to(SOURCE)
        for child in (path, *path.parents[:-1]):
            rooms.setdefault(child.parent.as_posix(), set()).add(child.name)
    crowded = {room: len(inside - {"__init__.py"}) for room, inside in rooms.items() if room != "."}
    assert {room: count for room, count in crowded.items() if count > 12} == {}
    long = {m: n for m in modules() if (n := (SOURCE / m).read_text(encoding="utf-8").count("\n")) > 440}  # about 400
    assert long == {}


def test_a_checker_of_types_knows_the_names_that_there_are():
    """A module's ``__getattr__`` that it sees answers for every name: `devinterp.smaple` would be right."""
    seen = [str(path) for path in SOURCE.rglob("*.py") if "\ndef __getattr__(" in path.read_text(encoding="utf-8")]
    assert seen == []
