"""Analysis against the peer and against the floor of this machine, side by side in one run.

    python tests/benchmarks/analysis/run.py [--peer-python PATH] [--case NAME ...] [--scale X] [--folder DIR]

The peer, devinterp 2.0.1, lives in a virtual environment of its own (its import name is ours): name its interpreter by
``--peer-python`` or the environment variable ``DEVINTERP_PEER_PYTHON``. Every measurement is a process of its own; the
three sides take turns. ``--scale`` shrinks the data (0.1 for a smoke run); ratios are stated for scale 1 only.

Products of a matrix with itself are made of the blocks of one triangle. BLAS's own routine for them (SYRK) was tried on
29 November 2026, one thread, CPU ms for 2048 x 4000 float32: whole product 245, numpy, which takes that routine by
itself, 148, scipy.linalg.blas.ssyrk 134, and 164 once the other triangle is filled; for 2048 x 400: 26, 44, 16 and 60.
So nothing is gained by asking for it; blocks on the diagonal, which numpy multiplies by it, take 10 ms of CPU, others
16 (1024 x 1024, 800 observations), and blocks of 384 to 1536 take the same time together, to the same bits.

On one thread, CPU s (30 November 2026): token BIF 0.111, bare product 0.117, peer 2.46, which is 22 times as much;
sequence BIF 0.33, 0.24 and 3.37, a third of ours being numpy's sums over rows of 16 tokens. With more threads the
products take less of the clock; the rest (standardising, bounding, mirroring, pages of the result) does not.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from data import TASK, run_dataset, write_run

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """What is measured, and what it must reach: ratios of times, and MB."""

    sides: tuple[str, ...]
    repetitions: int
    warm: bool = True
    faster_than_peer: float | None = None
    share_of_floor: float | None = None
    memory_of_peer: float | None = None
    extra_mb: float | None = None


CASES = {
    "token": Case(("ours", "peer", "floor"), 5, faster_than_peer=12, share_of_floor=0.7),
    "sequence": Case(("ours", "peer", "floor"), 3, faster_than_peer=5, memory_of_peer=0.25),
    "susceptibilities": Case(("ours", "peer", "floor"), 3, faster_than_peer=2, share_of_floor=1 / 1.4, extra_mb=300),
    "topk": Case(("ours", "floor"), 1, warm=False, extra_mb=1024),
    "stream": Case(("ours", "floor"), 1, warm=False, extra_mb=2048),
    "import": Case(("ours", "floor"), 5, share_of_floor=1 / 1.15),
}


def make_data(case: str, folder: Path, scale: float, stream_gb: float) -> None:
    """Write what the case reads."""

    def count(n: int) -> int:
        return max(2, round(n * scale))

    size = {"chains": 4, "draws": 200, "seed": 1}
    if case == "token":
        write_run(folder / "token.zarr", run_dataset({TASK: count(48)}, tokens=64, **size))
    elif case == "sequence":
        write_run(folder / "sequence.zarr", run_dataset({TASK: count(4500)}, tokens=16, **size))
    elif case == "susceptibilities":
        rows = {TASK: count(96), "code": count(96), "math": count(96)}
        for k, name in enumerate(("full", "a", "b", "c", "d")):
            write_run(folder / f"wr_{name}.zarr", run_dataset(rows, tokens=256, **{**size, "seed": k}))
    elif case == "topk":
        write_run(folder / "topk.zarr", run_dataset({TASK: count(2000)}, tokens=64, **size))
    elif case == "stream":
        sequences = max(2, round((stream_gb * 1e9 / 4) ** 0.5 / 64))
        write_run(folder / "stream.zarr", run_dataset({TASK: sequences}, tokens=64, **{**size, "draws": 50}))


def measure(case: str, side: str, folder: Path, python: str, repetitions: int, warm: bool) -> dict[str, float]:
    """Run one side in a fresh process."""
    command = [python, str(HERE / "side.py"), case, side, str(folder), "--repetitions", str(repetitions)]
    environment = {k: v for k, v in os.environ.items() if side != "peer" or k != "PYTHONPATH"}  # it would find ours
    command += ["--warm"] if warm else []
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{case}, {side}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def judge(case: Case, found: dict[str, dict[str, float]]) -> list[tuple[str, float, float, bool]]:
    """Return (what, reached, required, good) for every requirement that could be measured."""
    ours, peer, floor = (found.get(side) for side in ("ours", "peer", "floor"))
    assert ours is not None
    out = []
    if peer and case.faster_than_peer:
        ratio = peer["seconds"] / ours["seconds"]
        out.append(("times as fast as the peer", ratio, case.faster_than_peer, ratio >= case.faster_than_peer))
    if floor and case.share_of_floor:
        ratio = floor["seconds"] / ours["seconds"]
        out.append(("of the floor's speed", ratio, case.share_of_floor, ratio >= case.share_of_floor))
    if peer and case.memory_of_peer:
        ratio = ours["extra_mb"] / peer["extra_mb"]
        out.append(("of the peer's extra memory", ratio, case.memory_of_peer, ratio <= case.memory_of_peer))
    if case.extra_mb:
        out.append(("MB of extra memory", ours["extra_mb"], case.extra_mb, ours["extra_mb"] <= case.extra_mb))
    return out


def main() -> None:
    """Print a table; exit 1 where a requirement at scale 1 is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=os.environ.get("DEVINTERP_PEER_PYTHON"))
    parser.add_argument("--case", action="append", choices=sorted(CASES))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3, help="how often the sides take turns")
    parser.add_argument("--stream-gb", type=float, default=1.0, help="size of the streamed BIF")
    parser.add_argument("--folder", type=Path, help="keep the data here; by default a temporary folder")
    args = parser.parse_args()
    if args.peer_python is None:
        print("no --peer-python: without the peer's side")
    folder = args.folder or Path(tempfile.mkdtemp(prefix="devinterp-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    missed = False
    try:
        for name in args.case or CASES:
            case = CASES[name]
            make_data(name, folder, args.scale, args.stream_gb * args.scale)
            sides = [s for s in case.sides if s != "peer" or args.peer_python]
            runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
            for _ in range(args.rounds if case.warm else 1):
                for side in sides:
                    python = args.peer_python if side == "peer" else sys.executable
                    runs[side].append(measure(name, side, folder, python, case.repetitions, case.warm))
            found = {s: {k: median(r[k] for r in rs) for k in rs[0]} for s, rs in runs.items()}
            for side, numbers in found.items():
                times = f"{numbers['seconds']:9.3f} s   {numbers['cpu']:9.3f} s of CPU"
                print(f"{name:17s} {side:6s} {times}   +{numbers['extra_mb']:7.0f} MB", flush=True)
            for what, reached, required, good in judge(case, found):
                missed |= not good and args.scale >= 1
                print(f"{name:17s} {'ok    ' if good else 'MISSED'} {reached:9.2f} {what} (required {required:.2f})")
            for leftover in folder.glob("streamed-*"):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    finally:
        if args.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    raise SystemExit(int(missed))


if __name__ == "__main__":
    main()
