"""What runs before a commit, in pipelines and at a release are targets of the Makefile, and all say one version."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import devinterp

ROOT = Path(__file__).parents[1]
CALLERS = (
    ".ci/run", ".github/workflows/ci.yml", ".pre-commit-config.yaml", ".readthedocs.yaml", "README.md",
    "CONTRIBUTING.md", "docs/contributing/releasing.md",
)  # fmt: skip


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


def called(text: str) -> set[str]:
    """Targets in commands, several of them behind options; of a matrix, its values."""
    names = set(re.findall(r"\bmake ([a-z][a-z-]*)\b", text))
    names |= {n for found in re.findall(r"\bmake (?:-\S+ )+([a-z -]+)$", text, re.M) for n in found.split()}
    return names | {n.strip() for found in re.findall(r"^ +lane: \[(.*)\]", text, re.M) for n in found.split(",")}


@pytest.mark.parametrize("name", CALLERS)
def test_what_is_called_is_a_target(name):
    wanted = called((ROOT / name).read_text(encoding="utf-8"))
    assert wanted, f"{name} calls nothing"
    assert wanted <= targets()


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda p: p.name)
def test_pipelines_and_forms_are_yaml(path):
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_pipelines_have_no_way_of_their_own_to_test():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert commands
    assert all(c.startswith("make ") for c in commands), commands


def test_everybody_says_the_same_version():
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert version == devinterp.__version__ == citation["version"]


def test_the_hook_for_others_calls_what_there_is():
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert hook["entry"] == "devinterp validate --staged"
    assert hook["pass_filenames"] is False


# Tests of several modules at once, by what they do rather than by where the code stands.
ACROSS = {
    "plot/test_edges.py",
    "schema/checks/test_unseen_files.py",
    "schema/findings/test_remedies.py",
    "schema/definition/test_exported_schema.py",
    "schema/test_extension.py",
    "schema/test_hostile.py",
    "schema/test_neighbours.py",
    "slt/bif/test_series.py",
    "slt/runs/test_combined_runs.py",
    "slt/runs/test_selections.py",
    "slt/sampling/engine/test_models.py",
    "slt/sampling/running/test_callers.py",
    "slt/sampling/running/test_start_server.py",
    "slt/sampling/test_arguments.py",
    "slt/sampling/test_bad_input.py",
    "slt/sampling/test_masked.py",
    "slt/sampling/test_masked_trees.py",
    "slt/sampling/test_on_a_gpu.py",
    "slt/sampling/test_values.py",
    "slt/test_cluster.py",
    "store/repair/test_rewritten.py",
    "store/test_links.py",
    "store/test_other_makes.py",
    "store/test_other_readers.py",
    "store/test_public_reports.py",
    "store/test_saved.py",
    "store/test_writer_stateful.py",
    "store/writing/test_resume_rewritten.py",
    "testing/test_breaks.py",
    "testing/test_hooks.py",
    "testing/test_random_mutations.py",
    "testing/test_survivors.py",
}
PARTS = ("schema", "store", "slt", "testing", "plot", "report", "cli", "demo")


def test_tests_stand_where_the_code_does():
    tests, source = ROOT / "tests", ROOT / "src" / "devinterp"
    astray = {
        path.relative_to(tests).as_posix()
        for part in PARTS
        for path in (tests / part).rglob("test_*.py")
        for name in [path.stem.removeprefix("test_")]
        for folder in [source / path.relative_to(tests).parent]
        if not ((folder / f"{name}.py").is_file() or (folder / name).is_dir() or folder.name == name)
    }
    assert astray == ACROSS


def imports_of(tree: ast.AST) -> set[str]:
    """Return the packages that a piece of code imports, wherever in it."""
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {module.partition(".")[0] for module in modules}


def test_a_test_that_imports_an_extra_says_so(request):
    """The lane of the core leaves out by that mark; what fixtures and helpers need, it tells by itself."""
    lanes = request.config.pluginmanager.get_plugin(str(ROOT / "tests" / "conftest.py"))
    left_out = [ROOT / "tests" / name for name in lanes.NEEDS_EXTRAS]
    silent = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        if any(path.is_relative_to(each) for each in left_out):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                needs, marks = imports_of(node), ""
            elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                needs, marks = imports_of(node), " ".join(map(ast.unparse, node.decorator_list))
            else:
                continue
            silent |= {f"{path.name}: {name}" for name in needs & {*lanes.EXTRAS} if f"{name!r}" not in marks}
    assert not silent


def test_settings_of_a_package_are_changed_after_its_import():
    """dask takes away again what was set: with a first key of distributed's, all that its import adds later."""
    early = []
    for path in (ROOT / "tests").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        keys = [key for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys]
        sets = any(isinstance(key, ast.Constant) and str(key.value).startswith("distributed.") for key in keys)
        if sets and "distributed" not in imports_of(tree):
            early.append(path.name)
    assert not early
