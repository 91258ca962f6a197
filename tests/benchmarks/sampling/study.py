"""How long a study of many weight restrictions takes to create, to complete and to open.

    python tests/benchmarks/sampling/study.py [--restrictions 410] [--folder FOLDER]

Nothing is sampled: created are all groups and arrays as `sample_restrictions` does it, and written is the root with the
metadata of all of them, as completing a run does it. Targets: both in 6 s, opening in 2 s, for 410 restrictions.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xarray as xr

from devinterp.schema import load
from devinterp.store import SamplesRequest, open_run
from devinterp.store.location import locate
from devinterp.store.reading.open import open_tree
from devinterp.store.zarr_metadata import documents, write_consolidated_root

SETTINGS: dict[str, Any] = {
    "num_chains": 4, "num_draws": 200, "batch_size": 32, "num_burnin_steps": 0, "num_steps_bw_draws": 1,
    "gradient_accumulation_steps": 1, "save_metrics": True, "save_step_losses": False, "n_beta": 30.0, "lr": 1e-4,
}  # fmt: skip
OBSERVABLES = [{"obs_id": name, "name": name, "batches_per_draw": 3} for name in ("train", "code", "maths")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restrictions", type=int, default=410)
    parser.add_argument("--folder", type=Path, help="where the store goes; by default a temporary place")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(args.restrictions, (args.folder or Path(temporary)) / "study.zarr")
    return 0


def measure(count: int, path: Path) -> None:
    """Print the seconds of every part."""
    names = ["full", *(f"l{n // 16}h{n % 16}" for n in range(count - 1))]
    requests = {
        f"/{name}": SamplesRequest(
            parameters=dict(SETTINGS), observables=[dict(o) for o in OBSERVABLES], sizes={"token_pos": 255},
            provenance={"masks": name},
        )
        for name in names
    }  # fmt: skip
    root = {"config": {"sampling_task": "train", "restrictions": names}}
    load("samples")  # the package's own start is not what is measured
    created = timed(f"create {count} groups", lambda: open_run(path, requests, root=root))
    run = created.result
    arrays = sum(len(layout.arrays) for layout in run.all_layouts().values())
    location = locate(path, mode="w")

    def consolidate() -> None:
        attributes = run.all_attributes(completed=True)
        everything = documents(run.all_layouts(), attributes, run.schema.storage)
        write_consolidated_root(location, attributes["/"], everything)

    consolidated = timed("consolidate", consolidate)
    run.close()
    print(f"{arrays} arrays; created and consolidated in {created.seconds + consolidated.seconds:.2f} s, target 6")
    timed("devinterp opens it", lambda: open_tree(locate(path)))
    timed("xarray alone opens it", lambda: xr.open_datatree(path, engine="zarr"))


class timed:
    """Call, print the seconds in wall and CPU time, and keep the result."""

    def __init__(self, name: str, call: Callable[[], Any]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        self.result = call()
        self.seconds = time.perf_counter() - wall
        print(f"{name}: {self.seconds:.2f} s ({time.process_time() - cpu:.2f} s CPU)")


if __name__ == "__main__":
    sys.exit(main())
