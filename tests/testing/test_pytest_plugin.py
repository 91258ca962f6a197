"""The fixture that consumers get, and what it costs a session that does not use it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devinterp.testing import make_store, mutations_of


def test_a_valid_store_passes_and_its_report_comes_back(assert_valid_store: Callable[..., Any], tmp_path: Path) -> None:
    report = assert_valid_store(make_store(tmp_path / "a.zarr", "llc"))
    assert report.ok
    assert report.kind == "llc"


def test_a_failed_chain_is_no_fault_of_the_store(assert_valid_store: Callable[..., Any], tmp_path: Path) -> None:
    assert_valid_store(make_store(tmp_path / "a.zarr", "samples", failed={1: 1}))


@pytest.mark.parametrize("code", ["DI101", "DI406"])
def test_an_error_or_a_warning_fails_the_test_and_is_shown(
    code: str, assert_valid_store: Callable[..., Any], tmp_path: Path
) -> None:
    target = mutations_of(code)[0].write(tmp_path / "a.zarr")
    with pytest.raises(pytest.fail.Exception, match=code):
        assert_valid_store(target)


def test_a_code_can_be_allowed(assert_valid_store: Callable[..., Any], tmp_path: Path) -> None:
    target = mutations_of("DI406")[0].write(tmp_path / "a.zarr")
    assert [f.code for f in assert_valid_store(target, allow=("DI406",)).findings] == ["DI406"]


def test_the_plugin_imports_nothing_heavy() -> None:
    """Neither the plugin nor the package it lies in costs a session more than `import devinterp` does."""
    code = (
        "import sys, devinterp; before = set(sys.modules)\n"
        "import devinterp.testing.pytest_plugin\n"
        "new = {m.split('.')[0] for m in set(sys.modules) - before}\n"
        "heavy = {'torch', 'pandera', 'hypothesis', 'zarr', 'dask', 'scipy', 'matplotlib'}\n"
        "assert not new & (heavy | {'xarray', 'numpy'}), new\n"
        "assert not heavy & {'torch', 'pandera'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
