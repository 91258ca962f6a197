"""What sampling costs beside the passes that it cannot do without, and beside devinterp 2.0.1.

    python tests/benchmarks/sampling/bench.py [--peer-python PYTHON] [--threads 2] [--draws 60 20] [--repeat 3]

Contestants take turns, each in a process of its own; the best of the repeats counts. Parallel time includes the start
of its workers. Targets: sequential within 1.05 x floor plus the update, 1.25 x faster than the peer; parallel 2 x
faster than the peer on the small model; metrics within 8 %.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CONTESTANTS = ("peer", "ours", "metrics", "parallel", "floor", "update")


def measure(python: Path, who: str, size: str, draws: int, threads: int) -> dict[str, float]:
    """Run one contestant once."""
    command = [str(python), str(HERE / "side.py"), who, size, str(draws), str(threads)]
    # the reference has our import name, so nothing may lead it to us
    kept = {key: value for key, value in os.environ.items() if who != "peer" or key != "PYTHONPATH"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=kept)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, help="a Python that has devinterp 2.0.1; parity.py builds one")
    parser.add_argument("--threads", type=int, default=2, help="of all but the parallel workers, which have one each")
    parser.add_argument("--draws", type=int, nargs=2, default=(60, 20), metavar=("SMALL", "LARGE"))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--size", choices=("small", "large"), action="append")
    args = parser.parse_args()
    for size in args.size or ("small", "large"):
        draws = args.draws[0 if size == "small" else 1]
        best: dict[str, dict[str, float]] = {}
        for _ in range(args.repeat):
            for who in CONTESTANTS:
                if who == "peer" and args.peer_python is None:
                    continue
                python = args.peer_python if who == "peer" else Path(sys.executable)
                found = measure(python, who, size, draws, args.threads)
                if who not in best or found["seconds"] < best[who]["seconds"]:
                    best[who] = found
        seconds = {who: found["seconds"] for who, found in best.items()}
        parameters = next(iter(best.values()))["parameters"]
        print(f"\n{size}: {parameters / 1e3:.0f} k parameters, 2 chains x {draws} draws, {args.threads} threads")
        for who, found in best.items():
            print(f"  {who:9s} {found['seconds']:8.3f} s   peak {found['peak_mb']:6.0f} MB")
        beyond = (seconds["ours"] - seconds["update"]) / seconds["floor"]
        print(f"  ours without the update / floor   {beyond:.3f}")
        print(f"  metrics / ours                    {seconds['metrics'] / seconds['ours']:.3f}")
        if "peer" in seconds:
            print(f"  peer / ours                       {seconds['peer'] / seconds['ours']:.3f}")
            print(f"  peer / parallel                   {seconds['peer'] / seconds['parallel']:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
