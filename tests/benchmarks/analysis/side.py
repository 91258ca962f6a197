"""One measurement in a process of its own: ours, the peer's or the floor. Prints JSON; run by ``run.py``."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data import TASK, open_run


def peak_mb() -> float:
    """Largest resident memory since `reset_peak`, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def reset_peak() -> float:
    """Forget the peak, and return what is resident now, in MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mb()


def bif(side: str, folder: Path, method: str) -> Callable[[], Any]:
    """BIF of losses that are in memory already; the floor is one bare product of that size."""
    tree = open_run(folder / f"{method}.zarr").load()
    if side == "floor":
        loss = next(v for n, v in tree.data_vars.items() if str(n).startswith("loss_")).values
        series = loss.mean(axis=3) if method == "sequence" else loss
        first = np.ascontiguousarray(series.reshape(loss.shape[0] * loss.shape[1], -1))
        second = first.copy()  # another array: the product of an array with itself takes a shorter way
        return lambda: first.T @ second
    from devinterp.slt.bif import compute_bif

    return lambda: compute_bif(tree, correlation_method=method, device="cpu")


def susceptibilities(side: str, folder: Path) -> Callable[[], Any]:
    """Susceptibilities of stores on disk; the floor is reading the same arrays whole, one after the other."""
    paths = sorted(folder.glob("wr_*.zarr"))
    if side == "floor":

        def read() -> None:
            for path in paths:
                for name, variable in open_run(path).data_vars.items():
                    if str(name).startswith("loss_"):
                        _ = variable.values

        return read
    from devinterp.slt.susceptibilities import compute_susceptibilities

    return lambda: compute_susceptibilities({p.stem[3:]: open_run(p) for p in paths}, TASK)


def topk(side: str, folder: Path) -> Callable[[], Any]:
    """The ten strongest partners of every token, losses read from the store."""
    path = folder / "topk.zarr"
    if side == "floor":  # as many operations, in products of the size of a tile
        loss = open_run(path)["loss_train"]
        series, observations = loss.shape[2] * loss.shape[3], loss.shape[0] * loss.shape[1]
        first = np.random.default_rng(0).standard_normal((observations, 1024), dtype=np.float32)
        second = np.random.default_rng(1).standard_normal((observations, 4096), dtype=np.float32)
        count = max(1, round(series * series / (1024 * 4096) / 2))  # each pair once
        out = np.empty((1024, 4096), dtype=np.float32)
        return lambda: deque((np.matmul(first.T, second, out=out) for _ in range(count)), maxlen=0)
    from devinterp.slt.bif import compute_bif

    return lambda: compute_bif(open_run(path), top_k=10)


def stream(side: str, folder: Path) -> Callable[[], Any]:
    """A token BIF written to disk; the floor writes as many random bytes."""
    path = folder / "stream.zarr"
    target = folder / f"streamed-{side}.zarr"
    if side == "floor":
        loss = open_run(path)["loss_train"]
        size = 4 * (loss.shape[2] * loss.shape[3]) ** 2
        block = np.random.default_rng(0).bytes(32 * 2**20)

        def write() -> None:
            with open(target, "wb") as file:
                for _ in range(size // len(block)):
                    file.write(block)

        return write
    from devinterp.slt.bif import compute_bif

    return lambda: compute_bif(open_run(path), output_path=target)


def importing(side: str, folder: Path) -> Callable[[], float]:
    """Importing the package in a fresh interpreter; the floor is importing xarray. Seconds, the start left out."""
    module = {"ours": "devinterp", "floor": "xarray"}[side]
    code = f"import time; began = time.perf_counter(); import {module}; print(time.perf_counter() - began)"
    return lambda: float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)


CASES: dict[str, Callable[[str, Path], Callable[[], Any]]] = {
    "token": lambda side, folder: bif(side, folder, "token"),
    "sequence": lambda side, folder: bif(side, folder, "sequence"),
    "susceptibilities": susceptibilities,
    "topk": topk,
    "stream": stream,
    "import": importing,
}


def main() -> None:
    """Warm up, then measure; the median over the repetitions."""
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=CASES)
    parser.add_argument("side", choices=["ours", "peer", "floor"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--warm", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    work = CASES[args.case](args.side, args.folder)
    if args.warm:  # imports, thread pools, the file cache
        work()
    before = reset_peak()
    times, busy = [], []
    for _ in range(args.repetitions):
        began, begun = time.perf_counter(), time.process_time()
        result = work()
        times.append(result if isinstance(result, float) else time.perf_counter() - began)
        busy.append(time.process_time() - begun)
        del result
    found = {"seconds": float(np.median(times)), "cpu": float(np.median(busy)), "extra_mb": peak_mb() - before}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
