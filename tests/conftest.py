"""Shared by every test: the helpers folder on the path, hypothesis profiles, and the lane without the extras."""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

sys.path.insert(0, str(Path(__file__).parent / "helpers"))

# How the caller likes progress, colours, widths and plots says nothing of ours; a test that is about it sets it.
for name in ("TQDM_DISABLE", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "COLUMNS", "LINES", "MPLBACKEND", "PYTHONWARNINGS"):
    os.environ.pop(name, None)
# Workers of pytest share the cores, and torch's threads would hold one while they wait for each other: nine times as
# long on a busy machine. It must be there before torch is. One thread also makes tests that compare bits independent of
# which others ran before: a test of several threads asks for them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

HERE = Path(__file__).parent
EXTRAS = ("torch", "tqdm", "cloudpickle", "matplotlib", "dask", "fsspec", "transformers", "datasets")
# What is about sampling, plots or documentation as a whole; single tests are marked with what they need.
NEEDS_EXTRAS = (
    "test_packaging.py", "test_travel.py", "demo", "docs", "faults", "plot", "report", "slt/weight_restrictions",
    "slt/sampling", "slt/sweep/test_sample_sweep.py",
    "ground_truth/test_known_answers.py", "ground_truth/test_sweep.py", "properties/test_sampling_leaves_no_trace.py",
    "properties/test_models_come_back.py", "properties/test_ways_of_sampling.py",
)  # fmt: skip

# The files that take longest: one that is begun last would keep one process busy while the other has nothing left.
LONGEST = (
    "docs/test_snippets.py", "faults/test_faults.py", "slt/sweep/test_sample_sweep.py", "slt/sampling/test_series.py",
    "demo/test_run.py", "slt/sampling/running/test_coordinator.py", "report/test_report.py",
    "slt/sampling/test_masked.py", "cli/test_cli.py", "slt/runs/test_save.py", "testing/test_strategies.py",
    "store/test_location.py",
)  # fmt: skip

REFERENCE = Path(__file__).parent / "data" / "devinterp-2.0.1"

# Who only asks whether a test turns red need not wait for the smallest example.
PHASES = [p for p in Phase if "HYPOTHESIS_NO_SHRINK" not in os.environ or p not in (Phase.shrink, Phase.explain)]
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
    phases=PHASES,
)
settings.load_profile("ci")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread of torch, whatever ran before: for tests that compare bits, and products too small for several."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Temporary stores lie in pytest's folder and go with the session; those of processes that tests start, too."""
    folder = tmp_path_factory.mktemp("t")  # short: paths of sockets may have 107 characters
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", None)
        yield
    for left in folder.iterdir():
        if not left.name.startswith("pymp-"):  # multiprocessing takes its own away at exit, and must find it
            shutil.rmtree(left) if left.is_dir() else left.unlink()


@pytest.fixture(scope="session", autouse=True)
def short_waits() -> Iterator[None]:
    """No test cuts the power, or lets two writers be seconds apart: without these waits runs take a sixth less.

    Processes that tests start do wait; what is synced, and when, tests see by a function of their own in this place.
    """
    from devinterp.store import lock

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(lock, "_SETTLE_SECONDS", 0.05)
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--core", action="store_true", help="the lane without extras: analysis and validation alone")


def pytest_configure(config: pytest.Config) -> None:
    """A lane that has torch after all would prove nothing, nor would an order of files that are not there."""
    gone = [name for name in LONGEST if not (HERE / name).exists()]
    if gone:
        raise pytest.UsageError(f"tests/conftest.py begins with what is not there: {', '.join(gone)}")
    there = [name for name in EXTRAS if importlib.util.find_spec(name)]
    if config.getoption("--core") and there:
        raise pytest.UsageError(f"--core is for an environment without {', '.join(there)}")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """In the core lane, leave out what is about the extras."""
    left_out = config.getoption("--core") and collection_path in [HERE / name for name in NEEDS_EXTRAS]
    return True if left_out else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Modules and tests stay: half a million things that no collection of garbage need go through again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the longest files; in the core lane, leave out single tests marked with the extras they need."""
    place = {HERE / name: index for index, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))
    if config.getoption("--core"):
        left_out = [item for item in items if item.get_closest_marker("needs")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of the stores that devinterp 2.0.1 wrote."""
    return REFERENCE


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Register schema documents as an installed package would."""
    from devinterp.schema.definition import load as loader

    def install(*documents: Path) -> None:
        package = tmp_path / "lab_schemas"
        package.mkdir()
        (package / "__init__.py").write_text("")
        for document in documents:
            shutil.copy(document, package / document.name)
        monkeypatch.syspath_prepend(str(tmp_path))
        sys.modules.pop("lab_schemas", None)  # that of an earlier test lies in another folder
        points = [EntryPoint(d.stem, f"lab_schemas:{d.stem}", loader.ENTRY_POINT_GROUP) for d in documents]
        monkeypatch.setattr(loader, "entry_points", lambda group: points)
        loader._installed.cache_clear()

    yield install
    loader._installed.cache_clear()
