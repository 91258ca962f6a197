"""How long validation takes, against opening and merely reading.

    python tests/benchmarks/validation/bench_validation.py FOLDER

Measured on 2 shared cores under load, so in CPU seconds (Python 3.11, zarr 3.1.6, xarray 2026.9), median of three:

    1.05 GB samples store    structure 0.008, xr.open_datatree 0.012-0.015   (the limit is twice as long)
                             values 2.9, every chunk read with Zarr 2.5      (85 % of the speed of reading; 70 % asked)
                             peak memory of values 19 MiB above the imports  (256 MiB promised)
    study of 410 groups      structure 1.2, xr.open_datatree 5.2             (3 s allowed)
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from big_store import make_big_store

from devinterp.schema import validate
from devinterp.testing import StoreRecipe, make_store


def main(folder: Path) -> None:
    """Make the stores where they are missing, and print the figures."""
    big, study, small = folder / "big.zarr", folder / "study.zarr", folder / "small.zarr"
    if not big.exists():
        make_big_store(big)
    if not study.exists():
        names = ["full", *(f"restriction {n}" for n in range(409))]
        make_store(study, StoreRecipe("study", members={"restriction": {n: {} for n in names}}))
    if not small.exists():
        make_store(small)
    validate(small)  # imports are not what is measured
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    validate(big)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak memory of values: {(after - before) / 1024:.0f} MiB above the imports")
    for path in (big, study):
        show(f"{path.name}: structure", lambda p=path: validate(p, level="structure"))
        show(f"{path.name}: open_datatree", lambda p=path: xr.open_datatree(p, engine="zarr"))
    show("big.zarr: values", lambda: validate(big))
    show("big.zarr: every chunk read with Zarr", lambda: read_chunks(big))


def show(name: str, call: Callable[[], object]) -> None:
    """Print the median of three runs in wall and CPU seconds."""
    wall, cpu = [], []
    for _ in range(3):
        w, c = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - w)
        cpu.append(time.process_time() - c)
    print(f"{name}: {np.median(wall):.3f} s wall, {np.median(cpu):.3f} s CPU")


def read_chunks(path: Path) -> int:
    """Read every chunk of every array, one by one."""
    total = 0
    for _, array in zarr.open_group(path, mode="r").arrays():
        for index in np.ndindex(*array.cdata_shape):
            total += np.asarray(array.get_block_selection(index) if array.shape else array[...]).nbytes
    return total


if __name__ == "__main__":
    main(Path(sys.argv[1]))
