from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devinterp.testing import make_store

KINDS = (
    "samples", "study", "llc", "bif", "bif_topk", "susceptibilities", "sweep", "sweep_summary", "waic", "wbic",
    "reweighting",
)  # fmt: skip


@pytest.fixture(scope="session")
def valid_stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One valid store of every kind, without consolidated metadata."""
    folder = tmp_path_factory.mktemp("valid")
    parameters: dict[str, Any] = {"num_chains": 2, "num_draws": 3, "num_burnin_steps": 1, "num_steps_bw_draws": 2}
    out = {}
    for kind in KINDS:
        changes = {"parameters": parameters | {"save_metrics": True}} if kind == "samples" else {}
        out[kind] = Path(make_store(folder / f"{kind}.zarr", kind, consolidated=False, **changes))
    return out


@pytest.fixture
def store_of(valid_stores: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a valid store, to be spoilt."""

    def copy(kind: str = "samples") -> Path:
        return Path(shutil.copytree(valid_stores[kind], tmp_path / f"{kind}.zarr"))

    return copy
