"""What sampling costs beside the passes that it cannot do without, and beside devinterp 2.0.1.

    python tests/benchmarks/sampling/bench.py [--peer-python PYTHON] [--threads 2] [--draws 500 65] [--rounds 3]

Every contestant has a process of its own, started and warmed up before any is timed; then they take turns, and the
ratios are medians over the rounds, each taken within one round: the speed of a shared machine drifts by a tenth within
minutes. By default a round of the peer takes some 20 seconds. A run's fixed costs (checks, hashes, creating, validating
and opening the store) are in its time, and those of one draw are printed too. The floor has the loss that sampling
evaluates, not the costlier one of the peer. Parallel time includes its workers: they are forked from a server that
imports torch once in a session, and what the first run waits for that is printed.

Figures are worth something on a quiet machine only: what others used of it meanwhile is printed. With one thread, CPU
seconds are compared too, which others disturb less.

Targets: sequential within 1.05 x floor plus the update, and 1.25 x faster than the peer; parallel 2 x faster than the
peer on the small model; metrics within 8 %.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
CONTESTANTS = ("peer", "ours", "metrics", "parallel", "floor", "update")


class Contestant:
    """A process that is told how many draws to make, and answers with the seconds that it took."""

    def __init__(self, python: Path, who: str, size: str, threads: int) -> None:
        self.who = who
        # the reference has our import name, so nothing may lead it to us
        kept = {key: value for key, value in os.environ.items() if who != "peer" or key != "PYTHONPATH"}
        self._process = subprocess.Popen(
            [str(python), str(HERE / "side.py"), who, size, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=kept,
        )
        self.first = self._answer()

    def run(self, draws: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{draws}\n")
        self._process.stdin.flush()
        busy, began = busy_seconds(), time.perf_counter()
        found = self._answer()
        if busy is not None:
            found["others"] = (busy_seconds() - busy - found["cpu"]) / (time.perf_counter() - began)
        return found

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise SystemExit(f"{self.who} ended with exit code {self._process.wait()}")


def busy_seconds() -> Any:
    """Seconds that the machine's processors have worked, or None where that is not told."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _, _, interrupts, soft = map(int, fields[:7])
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK")


def compete(size: str, draws: int, args: argparse.Namespace) -> None:
    """Print the table of one model."""
    contestants = []
    for who in CONTESTANTS:
        if who == "peer" and args.peer_python is None:
            continue
        python = args.peer_python if who == "peer" else Path(sys.executable)
        contestants.append(Contestant(python, who, size, args.threads))
    fixed = {c.who: min(c.run(1)["seconds"] for _ in range(3)) for c in contestants}
    print(f"\n{size}: {contestants[0].first['parameters'] / 1e3:.0f} k parameters, 2 chains x {draws} draws, "
          f"{args.threads} threads")  # fmt: skip
    found: dict[str, list[dict[str, Any]]] = {contestant.who: [] for contestant in contestants}
    for number in range(args.rounds):
        for contestant in contestants:
            found[contestant.who].append(contestant.run(draws))
        row = "  ".join(f"{who} {rounds[-1]['seconds']:.2f}" for who, rounds in found.items())
        others = max((rounds[-1].get("others", 0.0) for who, rounds in found.items() if who != "parallel"), default=0.0)
        print(f"  round {number + 1}: {row}; others used up to {others:.2f} processors", flush=True)
    for contestant in contestants:
        contestant.close()
    seconds = {who: median(each["seconds"] for each in rounds) for who, rounds in found.items()}
    cpu = {who: median(each["cpu"] for each in rounds) for who, rounds in found.items()}
    print("              seconds   of one draw    CPU seconds of the process")
    for who in found:
        print(f"  {who:9s} {seconds[who]:10.3f} {fixed[who]:13.3f} {cpu[who]:13.3f}")
    first = next(c.first["seconds"] for c in contestants if c.who == "parallel")
    print(f"  the first parallel run of a session, one draw: {first:.2f} s")
    rows = [{who: each[number] for who, each in found.items()} for number in range(args.rounds)]
    for unit in ("seconds", "cpu") if args.threads == 1 else ("seconds",):
        print("  in seconds" if unit == "seconds" else "  in CPU seconds")
        for what, target, reached in ratios(rows, unit):
            print(f"  {what:26s} {median(reached):.3f} ({min(reached):.3f} to {max(reached):.3f})   {target}")


def ratios(rows: list[dict[str, dict[str, Any]]], unit: str) -> Iterator[tuple[str, str, list[float]]]:
    """Yield what is compared, what it should be, and what each round says."""
    time = [{who: each[unit] for who, each in row.items()} for row in rows]
    update = [row["update"]["seconds"] for row in rows]  # of its CPU time most is not the update's
    beyond = [(t["ours"] - u) / t["floor"] for t, u in zip(time, update, strict=True)]
    yield "(ours - update) / floor", "at most 1.05", beyond
    yield "metrics / ours", "at most 1.08", [t["metrics"] / t["ours"] for t in time]
    if "peer" in time[0]:
        yield "peer / ours", "at least 1.25", [t["peer"] / t["ours"] for t in time]
        most = [t["peer"] / (t["floor"] + u) for t, u in zip(time, update, strict=True)]
        yield "peer / (floor + update)", "of the bare passes and the update", most
        if unit == "seconds":
            yield "peer / parallel", "at least 2 (small)", [t["peer"] / t["parallel"] for t in time]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, help="a Python that has devinterp 2.0.1; parity.py builds one")
    parser.add_argument("--threads", type=int, default=2, help="of all but the parallel workers, which have one each")
    parser.add_argument("--draws", type=int, nargs=2, default=(500, 65), metavar=("SMALL", "LARGE"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", choices=("small", "large"), action="append")
    args = parser.parse_args()
    for size in args.size or ("small", "large"):
        compete(size, args.draws[0 if size == "small" else 1], args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
