"""schemas/ travels in the wheel, and works from a checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

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
