"""What checkpoints cost: runs with and without them by turns, on the model of 2 M parameters, and their space on disk.

python tests/benchmarks/checkpoints/run.py [--pairs 8] [--method sgmcmc_sgld] [--size large] [--threads 1]

Both runs of a pair sample one chain of 50 draws and a few more, which is one checkpoint at the default interval, and
are timed without what happens once per run (the start, the initial losses, the validation at the end). The bar: 3 %.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sampling"))

import torch
from side import build, settings, tokens

from devinterp import sample
from devinterp.store import ChainWriter

DRAWS = 52
WARMUP = 2  # draws that are not timed


class Steps:
    """Time from one draw to another, and the most that the state folder held meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path, self.times, self.most = path, [], 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __call__(self, event: Any) -> None:
        self.times.append(time.perf_counter())

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            sizes = []
            for file in (self.path / ".devinterp").glob("*"):
                try:
                    sizes.append(file.stat().st_size)
                except FileNotFoundError:  # renamed between our two looks
                    continue
            self.most = max(self.most, sum(sizes))

    def __enter__(self) -> Steps:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()


def run(model: torch.nn.Module, size: str, method: str, *, checkpoints: bool, watch: bool = False) -> Steps:
    due = ChainWriter.checkpoint_due
    if not checkpoints:
        ChainWriter.checkpoint_due = lambda self, draws: False  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            steps = Steps(Path(folder) / "run.zarr")
            chosen = {**settings(DRAWS), "num_chains": 1, "sampling_method": method}
            rows = {"rows": (tokens(), 1)}
            with steps if watch else nullcontext():
                sample(model, tokens(), rows, output_path=steps.path, progress=steps, **chosen)
            return steps
    finally:
        ChainWriter.checkpoint_due = due  # type: ignore[method-assign]


def seconds(steps: Steps) -> float:
    return steps.times[DRAWS - 1] - steps.times[WARMUP - 1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--method", choices=("sgmcmc_sgld", "rmsprop_sgld"), default="sgmcmc_sgld")
    parser.add_argument("--size", choices=("small", "large"), default="large")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    model = build(arguments.size)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    ratios = []
    for pair in range(arguments.pairs):
        found = {}
        for checkpoints in (True, False) if pair % 2 else (False, True):
            found[checkpoints] = seconds(run(model, arguments.size, arguments.method, checkpoints=checkpoints))
        ratios.append(found[True] / found[False])
        print(
            f"pair {pair}: {found[True]:.2f} s with, {found[False]:.2f} s without, ratio {ratios[-1]:.4f}", flush=True
        )
    ratios.sort()
    middle = statistics.median(ratios)
    setting = f"{arguments.size}, {arguments.method}, {arguments.threads} threads"
    print(f"{setting}: checkpoints cost {100 * (middle - 1):+.2f} %")
    print(f"  (median of {len(ratios)} pairs, each {DRAWS - WARMUP} draws and one checkpoint; ", end="")
    print(f"from {100 * (ratios[0] - 1):+.2f} to {100 * (ratios[-1] - 1):+.2f} %)")
    most = run(model, arguments.size, arguments.method, checkpoints=True, watch=True).most
    print(f"  most in the state folder {most / 1e6:.1f} MB, weights {weights / 1e6:.1f} MB: {most / weights:.2f} times")
    return int(middle > 1.03)


if __name__ == "__main__":
    raise SystemExit(main())
