"""schemas/ travels in the wheel, and works from a checkout."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    # Our own environment has the backend's requirements; an isolated build would download them again.
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_carries_every_schema_and_the_type_marker(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for source in (ROOT / "schemas").rglob("*"):
        assert source.is_dir() or f"devinterp/_schemas/{source.relative_to(ROOT / 'schemas')}" in names
    assert "devinterp/py.typed" in names
    assert not [n for n in names if n.startswith("tests/")]


def test_what_the_index_is_shown_has_no_relative_link(wheel):
    hook = runpy.run_path(str(ROOT / "hatch_build.py"))["for_the_index"]
    text = "![a picture](docs/a.png) and [`schemas/`](schemas/), [far](https://a.org/b), [below](#below)"
    assert hook(text, "", "v1") == "*a picture* and `schemas/`, [far](https://a.org/b), [below](#below)"
    shown = hook(text, "https://host/us/it", "v1")
    assert "![a picture](https://host/us/it/raw/v1/docs/a.png)" in shown
    assert "[`schemas/`](https://host/us/it/blob/v1/schemas/)" in shown
    archive = zipfile.ZipFile(wheel)
    (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    body = archive.read(metadata).decode().partition("\n\n")[2]
    assert body.startswith("# devinterp")
    assert not re.findall(r"\]\((?!https?:|#)", body)


def test_the_conda_recipe_asks_for_what_the_package_asks_for():
    """Names of conda-forge, floors of pyproject.toml; its run_constraints are the floors of the extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    recipe = yaml.safe_load(
        (ROOT / "docs" / "contributing" / "conda-forge" / "recipe.yaml").read_text(encoding="utf-8")
    )
    extras = project["optional-dependencies"]
    optional = [r for extra in ("sampling", "plot", "map", "dask", "remote", "testing") for r in extras[extra]]
    assert set(extras) == {"sampling", "plot", "map", "dask", "remote", "testing", "demo", "docs", "dev"}
    about, context, asked = recipe["about"], recipe["context"], recipe["requirements"]
    assert (context["name"], context["version"]) == (project["name"], project["version"])
    assert f">={context['python_min']}" == project["requires-python"]
    assert (about["summary"], about["license"], [about["license_file"]]) == (
        project["description"],
        project["license"],
        project["license-files"],
    )
    assert recipe["build"]["python"]["entry_points"] == [f"{n} = {f}" for n, f in project["scripts"].items()]
    assert asked["run"][1:] == _of_conda(project["dependencies"])
    assert asked["run_constraints"] == _of_conda([r for r in optional if not r.startswith("devinterp")])
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    assert asked["host"][2:] == _of_conda(build)


def _of_conda(requirements):
    """Requirements as conda-forge names them: without extras, which its packages do not have."""
    names = {"torch": "pytorch", "matplotlib": "matplotlib-base", "dask": "dask-core"}
    every = map(Requirement, requirements)
    return [f"{names.get(r.name.lower(), r.name.lower())} {r.specifier}" for r in every]


@pytest.mark.parametrize("installed", [True, False], ids=["wheel", "checkout"])
def test_schemas_load_from_the_wheel_and_from_the_checkout(wheel, tmp_path, installed):
    if installed:
        zipfile.ZipFile(wheel).extractall(tmp_path)
    folder = tmp_path if installed else ROOT / "src"
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); import devinterp; "
        f"assert devinterp.__file__.startswith({str(folder)!r}), devinterp.__file__; "
        "from devinterp.schema import available, load; assert load('samples').id == 'devinterp/samples@1'; "
        "print(len(available()))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert int(out.stdout) == len(list((ROOT / "schemas").glob("*.yaml")))
