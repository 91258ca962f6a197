"""How long validation takes, against opening and merely reading.

    python tests/benchmarks/validation/bench_validation.py FOLDER [ROUNDS]

Makes a samples store of 1.05 GB and a study of 410 groups in FOLDER where they are missing. What is compared is timed
in turns, so that whatever else the machine does meets both; a ratio is the median of the rounds' own ratios. Reading
is timed twice: chunk after chunk, and array after array as `zarr.Array[...]` does, with its own threads. Exits with 1
where a bar is missed: `structure` within twice `xr.open_datatree`, `values` at 70 % of the speed of reading chunk after
chunk within 256 MiB, `structure` of the study within 3 s.

On two cores of a quiet machine, three rounds, seconds of wall clock (CPU) (Python 3.11, zarr 3.1.6, xarray 2026.9):

    1.05 GB samples store    structure 0.005 (0.005), xr.open_datatree 0.007 (0.007)
                             values 1.12 (1.86), every chunk read with Zarr 1.46 (1.46): 136 % of its speed (82 %)
                             peak memory of values 19 MiB above the imports
    study of 410 groups      structure 0.62 (0.62), xr.open_datatree 2.04 (2.03)
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

from devinterp.schema import Limits, validate
from devinterp.testing import StoreRecipe, make_store

Seconds = tuple[float, float]


def main(folder: Path, rounds: int = 5) -> int:
    """Print the figures; return the exit status."""
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
    assert validate(big).ok
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(f"peak memory of values: {peak / 2**20:.0f} MiB above the imports, of {Limits().memory / 2**20:.0f}")
    missed = int(peak > Limits().memory)
    structure, opening = in_turns(
        rounds * 4, lambda: validate(big, level="structure"), lambda: xr.open_datatree(big, engine="zarr")
    )
    missed += show("big store, structure", structure, "xr.open_datatree", opening, 0.5)
    values, chunks, arrays = in_turns(rounds, lambda: validate(big), lambda: read_chunks(big), lambda: read_arrays(big))
    missed += show("big store, values", values, "reading chunk after chunk", chunks, 0.7)
    show("big store, values", values, "reading array after array", arrays, 0.0)
    structure, opening = in_turns(
        max(1, rounds // 2), lambda: validate(study, level="structure"), lambda: xr.open_datatree(study, engine="zarr")
    )
    show("410 groups, structure", structure, "xr.open_datatree", opening, 0.0)
    missed += median(structure)[0] > 3
    print(f"{missed} bar(s) missed")
    return 1 if missed else 0


def in_turns(rounds: int, *calls: Callable[[], object]) -> list[list[Seconds]]:
    """Time each call in every round; return its wall and CPU seconds, round by round."""
    out: list[list[Seconds]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, seconds in zip(calls, out, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
    return out


def median(seconds: list[Seconds]) -> tuple[float, float]:
    """Median wall and CPU seconds."""
    wall, cpu = np.median(np.array(seconds), axis=0)
    return float(wall), float(cpu)


def show(name: str, ours: list[Seconds], other: str, theirs: list[Seconds], bar: float) -> int:
    """Print two timings and their ratio; return 1 where it is below the bar."""
    ratios = np.array([(t[0] / o[0], t[1] / o[1]) for o, t in zip(ours, theirs, strict=True)])
    wall, cpu = np.median(ratios, axis=0)
    (a, b), (c, d) = median(ours), median(theirs)
    asked = f", asked {bar:.0%}" if bar else ""
    print(
        f"{name}: {a:.3f} s ({b:.3f}); {other}: {c:.3f} s ({d:.3f}); speed {wall:.0%} ({cpu:.0%}), "
        f"from {ratios[:, 0].min():.0%} to {ratios[:, 0].max():.0%}{asked}",
        flush=True,
    )
    return int(wall < bar)


def read_chunks(path: Path) -> int:
    """Read every chunk of every array, one by one."""
    total = 0
    for _, array in zarr.open_group(path, mode="r").arrays():
        for index in np.ndindex(*array.cdata_shape):
            total += np.asarray(array.get_block_selection(index) if array.shape else array[...]).nbytes
    return total


def read_arrays(path: Path) -> int:
    """Read every array whole."""
    return sum(np.asarray(array[...]).nbytes for _, array in zarr.open_group(path, mode="r").arrays())


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(str(__doc__))
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
