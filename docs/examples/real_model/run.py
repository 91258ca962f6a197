"""A language model that somebody else trained, start to finish: calibrate, study heads, influence, parity, robustness.

    make real [ARGS="--quick" | ARGS="--only study"]

Every stage leaves its stores and ``results/STAGE.json`` in the folder, and is left out where that file is there. A stage
that is stopped (Ctrl-C, SIGTERM, SIGKILL) goes on where it was when it is called again: that is what ``output_path`` does
for each of the calls below.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import date
from pathlib import Path

import torch
from common import Real
from comparisons import parity, robustness
from findings import calibration, influence, study
from page import write_page

STAGES = {f.__name__: f for f in (parity, robustness, calibration, study, influence)}
QUICK = ("parity", "robustness", "study")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("real-out"))
    parser.add_argument("--peer-python", type=Path, required=True, help="a Python that has devinterp 2.0.1")
    parser.add_argument("--quick", action="store_true", help="parity, robustness and one head, into OUT/quick")
    parser.add_argument("--only", nargs="*", choices=STAGES, default=[])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--device", default="cpu", help="cuda: sample there, and more: what a night on a CPU would not hold"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes of which each samples a chain")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    real = Real(args.out.absolute(), args.peer_python.absolute(), args.quick, args.device, args.workers)
    for name in args.only or (QUICK if args.quick else STAGES):
        file = real.out / "results" / f"{name}.json"
        if not file.exists():
            began = time.perf_counter(), time.process_time()
            result = STAGES[name](real)
            result |= {
                "stage": name, "date": date.today().isoformat(), "threads": args.threads, "device": real.hardware,
                "seconds": time.perf_counter() - began[0], "cpu_seconds": time.process_time() - began[1],
            }  # fmt: skip
            file.write_text(json.dumps(result, indent=1))
        print(f"== {name}", *json.loads(file.read_text())["sentences"], sep="\n")
    page = write_page(real.out)
    print(f"written: {page}")
    return int(not all(json.loads(f.read_text()).get("ok", True) for f in (real.out / "results").glob("*.json")))


if __name__ == "__main__":
    sys.exit(main())
