"""A study of every attention head, devinterp 2.0.1 against ours: the seconds, and that the draws are the same bits.

    python tests/benchmarks/restricted/run.py --peer-python PYTHON [--threads 2] [--rounds 3] [--cpu] [--plain]
    python tests/benchmarks/restricted/run.py --peer-python PYTHON --alone [--before SRC] [--cpu] [--device cuda]

A transformer of 6 layers and 8 heads, width 128, vocabulary 2000; rows of 64 tokens, batches of 16, three observables
of three batches each, one chain of 4 draws per restriction. The peer is a loop of `sample()`, as its documentation has
it; ours is one `sample_restrictions()`, with --plain also one without the frozen prefix. They take turns, and ratios
are medians over the rounds, each taken within one. A restriction's seconds are from the end of the one before to its
own; what serves all of them, before the first chain, is an entry of its own (set-up), and so is what follows the last.
The whole has both in it: creating, validating and opening the store. With --alone each of three restrictions is a
`sample()` of its own, the least of three calls, also of another version of ours (--before, the folder to import it
from). CPU seconds, with --cpu and one thread, are disturbed less by what else runs. Exits 1 where a bit differs.

Targets: the whole 1.5 x the peer, the heads of the last layer 2 x.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np

HERE = Path(__file__).parent


def run(who: str, python: Path, out: Path, args: argparse.Namespace) -> dict[str, float]:
    kept = {key: value for key, value in os.environ.items() if who != "peer" or key != "PYTHONPATH"}
    if who == "before":
        kept["PYTHONPATH"] = str(args.before)
    command = [
        str(python),
        str(HERE / "side.py"),
        "alone" if args.alone else who,
        str(out),
        "cpu" if args.cpu else "wall",
        str(args.threads),
        args.device,
        str(args.draws),
        *args.layer,
    ]
    done = subprocess.run(command, check=True, env=kept, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def differing(peer: Path, ours: Path) -> list[str]:
    """Names of the peer's arrays that ours do not equal bit for bit."""
    with np.load(peer) as theirs, np.load(ours) as mine:
        return [
            name
            for name in theirs
            if name in mine and mine[name].astype(theirs[name].dtype).tobytes() != theirs[name].tobytes()
        ]


def parts(seconds: dict[str, float]) -> dict[str, float]:
    """Sums by layer, and of everything."""
    sums: dict[str, float] = {}
    for name, value in seconds.items():
        part = f"layer {name[1]}" if name[0] == "l" and name[1:2].isdigit() else name
        sums[part] = sums.get(part, 0.0) + value
    return sums if "head, last layer" in seconds else {**sums, "the whole": sum(seconds.values())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, required=True, help="a Python that has devinterp 2.0.1")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--cpu", action="store_true", help="CPU seconds of the process instead of the clock's")
    parser.add_argument("--plain", action="store_true", help="ours without the frozen prefix too")
    parser.add_argument("--layer", nargs="*", default=[], help="heads of these layers alone")
    parser.add_argument("--alone", action="store_true", help="full, a head and a group, each by a sample() of its own")
    parser.add_argument("--before", type=Path, help="with --alone: the src folder of another version of ours")
    args = parser.parse_args()
    sides = ("peer", *("before",) * bool(args.before), *("plain",) * args.plain, "ours")
    rounds: list[dict[str, dict[str, float]]] = []
    different: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            found = {}
            for who in sides:
                python = args.peer_python if who == "peer" else Path(sys.executable)
                found[who] = parts(run(who, python, Path(folder) / f"{who}.npz", args))
            rounds.append(found)
            for who in sides[1:]:
                different.update(differing(Path(folder) / "peer.npz", Path(folder) / f"{who}.npz"))
    print(f"{args.draws} draws, {args.threads} threads, {args.rounds} rounds; {'CPU ' * args.cpu}seconds, medians")
    print(" " * 12, *(who.rjust(8) for who in sides), "  peer / ours")
    for part in rounds[0]["ours"]:
        row = {who: [found[who].get(part, float("nan")) for found in rounds] for who in sides}
        ratios = [a / b for a, b in zip(row["peer"], row["ours"], strict=True)]
        shown = (f"{median(row[who]):8.2f}" for who in sides)
        print(f"{part:12s}", *shown, f"{median(ratios):10.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")
    print("every draw is the same, bit for bit" if not different else f"different: {', '.join(sorted(different))}")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
