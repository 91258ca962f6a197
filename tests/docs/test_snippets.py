"""Every Python block of the README and of the how-to pages runs, top to bottom, in one namespace per page."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from docs_pages import DOCS, ROOT, blocks_of

# Pages show settings that need no warning.
pytestmark = pytest.mark.filterwarnings("error::devinterp.errors.StepBiasWarning")

HOWTO = sorted((DOCS / "howto").glob("*.md"))

# Pages whose examples start from a finished run or study.
NEEDS_TREE = {"which-llc", "ci", "look", "migrate", "troubleshooting"}
NEEDS_STUDY = {"which-llc"}
NEEDS_LONG_ROWS = {"look"}  # which shows what moves with a token far along

SETTINGS = {
    "lr": 3e-4,
    "n_beta": 30.0,
    "localization": 1000.0,
    "num_chains": 3,
    "num_draws": 60,
    "batches_per_draw": 1,
    "progress": False,
}


def run(path: Path, names: dict[str, Any]) -> dict[str, Any]:
    """Execute the Python blocks of a page; an error names the page and the line."""
    mpl.use("agg")
    for block in blocks_of(path):
        if block.language == "python":
            source = "\n" * (block.line - 1) + block.body
            exec(compile(source, str(path), "exec"), names)
    return names


def shorten(stage: dict[str, Any]) -> None:
    """Cut rows: pages show how things are asked for, and half of their time went into the model."""
    stage |= {name: stage[name][:, :9].contiguous() for name in ("dataset", "code", "prose")}


@pytest.mark.parametrize("path", HOWTO, ids=lambda p: p.stem)
def test_howto_pages_run(path: Path, stage: dict[str, Any], request: pytest.FixtureRequest) -> None:
    import devinterp

    stage["devinterp"] = devinterp
    if path.stem not in NEEDS_LONG_ROWS:
        shorten(stage)
    observables = {"train": stage["dataset"], "code": stage["code"]}
    if path.stem in NEEDS_TREE:
        stage["tree"] = devinterp.sample(stage["model"], stage["dataset"], observables, **SETTINGS)
    if path.stem in NEEDS_STUDY:
        restrictions = {"full": None, "l0h1": "l0h1"}
        stage["study"] = devinterp.sample_restrictions(
            stage["model"], stage["dataset"], observables, restrictions, sampling_task="train", **SETTINGS
        )
    names = run(path, stage)
    if path.stem == "ci":  # what the page defines for others to call
        folder = Path("stores")
        folder.mkdir()
        check: Callable[..., Any] = request.getfixturevalue("assert_valid_store")
        names["test_my_writer"](folder, check)


def test_readme_runs(stage: dict[str, Any]) -> None:
    from torch import nn

    # The README samples with every default, so what it samples is small: a table of pairs, and short rows.
    stage["model"] = nn.Sequential(nn.Embedding(24, 8), nn.Linear(8, 24))
    shorten(stage)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(ROOT / "README.md", stage)


def test_every_howto_page_is_listed() -> None:
    listed = (DOCS / "howto" / "index.md").read_text(encoding="utf-8").split("```{toctree}")[1].split("```")[0]
    assert {p.stem for p in HOWTO} - {"index"} == {line for line in listed.split() if not line.startswith(":")} - {"1"}
