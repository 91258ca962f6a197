"""Same seeds, same machine, same threads: the largest difference between devinterp 2.0.1's numbers and ours.

    python tests/benchmarks/parity/parity.py [--peer-python PYTHON] [--threads 1] [--device cuda] [--quick] [CASE ...]

Builds a virtual environment with the reference implementation (its import name is ours, so it needs one of its own),
runs every case of `cases.py` there and here, and prints one row per case and group of variables. Exits 1 on any
difference. Models whose draws differ by intention (bfloat16: docs/howto/migrate.md) have rows of their own below, and
do not count.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from cases import APART, CASES, OBSERVABLES, QUICK, tokens  # noqa: E402

PEER = ("torch==2.13.0", "devinterp==2.0.1")
COLUMNS = ("init_loss", "sampling_loss", "loss_*", "input ids", "steps", "metrics_*")


def build_peer(folder: Path) -> Path:
    """Return the Python of a virtual environment that holds the reference implementation."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PEER], check=True)
    return python


def run_peer(python: Path, names: list[str], threads: int, device: str) -> dict[str, np.ndarray]:
    """Return the reference's arrays as ``case/variable``."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "peer.npz"
        # it has our import name, so nothing may lead it to us
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        command = [str(python), str(HERE / "peer_side.py"), str(out), str(threads), device, *names]
        subprocess.run(command, check=True, cwd=HERE, env=kept)
        with np.load(out) as arrays:
            return dict(arrays)


def run_ours(names: list[str], threads: int, device: str) -> dict[str, np.ndarray]:
    """Return our arrays as ``case/variable``."""
    from devinterp.slt.sampling import sample

    torch.set_num_threads(threads)
    observables = {name: (tokens(name.split()[0]), batches) for name, batches in OBSERVABLES.items()}
    arrays = {}
    for name in names:
        case = {**CASES, **APART}[name]
        model = case["model"]()
        masks = case["masks"](model) if case["masks"] else None
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of dropout, which is the point of two cases
            tree = sample(
                model, tokens("train"), observables, param_masks=masks, loss_fn=case["loss_fn"], progress=False,
                output_path=Path(folder) / "samples.zarr", save_step_losses=True,
                **case["settings"] | {"device": device},
            )  # fmt: skip
            arrays.update({f"{name}/{variable}": tree[variable].values for variable in tree.data_vars})
    return arrays


def column_of(variable: str) -> str:
    if variable.startswith("input_ids") or variable == "sampling_input_ids_micro":
        return "input ids"
    if variable == "sampling_loss_micro":
        return "steps"
    for column in COLUMNS:
        if variable == column or (column.endswith("*") and variable.startswith(column[:-1])):
            return column
    raise KeyError(variable)


def compare(peer: dict[str, np.ndarray], ours: dict[str, np.ndarray], names: list[str]) -> dict[str, dict[str, float]]:
    """Largest absolute difference per case and column; a difference in the sign of zero, or a NaN, counts as one."""
    table: dict[str, dict[str, float]] = {name: {} for name in names}
    for key, theirs in peer.items():
        name, variable = key.rsplit("/", 1)
        mine = ours[key]
        if mine.shape != theirs.shape:
            difference = float("inf")
        elif mine.astype(theirs.dtype).tobytes() == theirs.tobytes():
            difference = 0.0
        else:
            difference = float(np.max(np.abs(mine.astype(np.float64) - theirs.astype(np.float64))))
            difference = difference if difference > 0 else 5e-324
        row = table[name]
        row[column_of(variable)] = max(row.get(column_of(variable), 0.0), difference)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", help="names of cases; all by default")
    parser.add_argument("--peer-python", type=Path, help="a Python that has devinterp 2.0.1")
    parser.add_argument("--venv", type=Path, default=Path(".venv-peer"), help="where to build one otherwise")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="both sample there; the grid that must be 0 is that of the CPU")
    parser.add_argument("--quick", action="store_true", help="a few cases that cover the most")
    args = parser.parse_args()
    names = args.case or [*(QUICK if args.quick else CASES), *APART]
    python = args.peer_python or build_peer(args.venv.absolute())
    table = compare(
        run_peer(python, names, args.threads, args.device), run_ours(names, args.threads, args.device), names
    )

    width = max(map(len, names))
    print(
        f"torch {torch.__version__}, {args.device}, {args.threads} thread(s): "
        "largest absolute difference from devinterp 2.0.1\n"
    )
    print("case".ljust(width), *(column.rjust(13) for column in COLUMNS))

    def show(chosen: list[str]) -> None:
        for name in chosen:
            row = table[name]
            print(name.ljust(width), *(f"{row[c]:13.3g}" if c in row else "-".rjust(13) for c in COLUMNS))

    counted = [name for name in names if name not in APART]
    show(counted)
    worst = max((value for name in counted for value in table[name].values()), default=0.0)
    print(f"\n{len(counted)} cases, largest difference {worst:g}\n")
    show([name for name in names if name in APART])
    return int(worst > 0)


if __name__ == "__main__":
    sys.exit(main())
