"""How far results lie from a recomputation in float64: ours, and the peer's, on reference stores and on random ones.

    python tests/benchmarks/analysis/accuracy.py [--peer-python PATH] [--random N]

Correlations must lie within 2e-6 of float64, and within that and the peer's own error of the peer's; susceptibilities
within 1e-5 of the largest. Means over tokens or chains are taken in float32 in the recomputation too, as the peer takes
them. Random stores differ in sizes, in their laws (normal, heavy tails, a spike, a large mean, slow drifts) and in
their number of draws. Every side computes in a process of its own; exit 1 where a bound is missed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data import TASK, open_run, run_dataset, write_run

REFERENCE = Path(__file__).parents[2] / "data" / "devinterp-2.0.1"
CORRELATION_BOUND, SUSCEPTIBILITY_BOUND = 2e-6, 1e-5
METHODS = [(method, reduce) for method in ("token", "sequence") for reduce in ("stack", "mean")]
Array = np.ndarray[Any, Any]

LAWS: dict[str, Callable[[np.random.Generator, Array], Array]] = {
    "normal": lambda rng, x: x,
    "heavy tails": lambda rng, x: 3 + 0.2 * rng.standard_t(2, x.shape),
    "one spike": lambda rng, x: np.where(np.arange(x.shape[1])[None, :, None, None] == 3, 50 * x, x),
    "large mean": lambda rng, x: 1000 + 0.1 * rng.normal(size=x.shape),
    "slow drift": lambda rng, x: x + np.cumsum(0.05 * rng.normal(size=x.shape), axis=1),
    "tiny spread": lambda rng, x: 3 + 1e-4 * rng.normal(size=x.shape),
}


def make_stores(folder: Path, count: int) -> None:
    """Copy the reference stores and write random studies of two restrictions and ``full``."""
    for name in ("full", "l0h0", "l1h2"):
        shutil.copytree(REFERENCE / f"{name}.zarr", folder / "reference" / f"{name}.zarr")
    rng = np.random.default_rng(0)
    for k in range(count):
        law = list(LAWS)[k % len(LAWS)]
        rows = {name: int(rng.integers(1, 9)) for name in (TASK, "code", "math")}
        chains, draws, tokens = int(rng.integers(1, 5)), int(rng.choice([3, 20, 200, 2000])), int(rng.integers(1, 17))
        for name in ("full", "a", "b"):
            seed = int(rng.integers(2**31))
            dataset = run_dataset(rows, chains=chains, draws=draws, tokens=tokens, seed=seed)
            for variable in (f"loss_{row}" for row in rows):
                values = LAWS[law](np.random.default_rng(seed), dataset[variable].values)
                dataset[variable].values[...] = values.astype(np.float32)
            write_run(folder / f"{k:02d} {law}, {chains} x {draws}" / f"{name}.zarr", dataset)


def compute(folder: Path, out: Path) -> None:
    """Compute everything with the devinterp that this interpreter has."""
    from devinterp.slt.bif import compute_bif
    from devinterp.slt.susceptibilities import compute_susceptibilities

    found = {}
    for study in sorted(folder.iterdir()):
        runs = {path.stem: open_run(path).load() for path in sorted(study.glob("*.zarr"))}
        for method, reduce in METHODS:
            result = compute_bif(
                runs["full"], correlation_method=method, reduce_chain_dimension_method=reduce, device="cpu"
            )
            found[f"{study.name}/{method} {reduce}"] = result["influences"].values
        result = compute_susceptibilities(runs, TASK)
        found[f"{study.name}/susceptibilities"] = result["susceptibilities"]["sus"].values
    np.savez(out, **found)


def exact_bif(run: Any, method: str, reduce: str) -> Array:
    """The correlations in float64; of a loss that never changes NaN."""
    names = sorted(str(n) for n in run.data_vars if str(n).startswith("loss_"))
    values = np.concatenate([run[n].values for n in names], axis=2)
    if method == "sequence":
        values = values.mean(axis=3, dtype=np.float32)[..., None]
    if reduce == "mean":
        values = values.mean(axis=0, dtype=np.float32)[None]
    rows, tokens = values.shape[2:]
    wide = values.reshape(-1, rows * tokens).astype(np.float64)
    wide -= wide.mean(axis=0)
    with np.errstate(invalid="ignore"):
        wide /= np.sqrt((wide**2).sum(axis=0))
    product = (wide.T @ wide).reshape(rows, tokens, rows, tokens).transpose(0, 2, 1, 3)
    return product[:, :, 0, 0] if method == "sequence" else product


def exact_susceptibilities(runs: dict[str, Any], task: str) -> Array:
    """The definition, in float64, (sus_flat, wr)."""
    probes = sorted(str(n)[5:] for n in runs["full"].data_vars if str(n).startswith("loss_"))
    probes.remove(task)
    init = float(runs["full"]["init_loss"].values.astype(np.float64).mean())
    loss = {n: {o: r[f"loss_{o}"].values.astype(np.float64) for o in (task, *probes)} for n, r in runs.items()}
    columns = []
    for name in (n for n in runs if n != "full"):
        u = loss[name][task].mean(axis=(2, 3))
        phi, parts = u - init, []
        for probe in probes:
            gap = loss["full"][task].mean() - loss["full"][probe].mean(axis=(0, 1))
            weighed = (phi[:, :, None, None] * loss[name][probe]).mean(axis=(0, 1))
            parts.append(((phi * u).mean() - weighed - phi.mean() * gap).ravel())
        columns.append(np.concatenate(parts))
    return np.stack(columns, axis=1)


def judged(folder: Path, ours: Any, peer: Any) -> Iterator[tuple[str, float, float | None, float | None, bool]]:
    """Yield (what, our error, the peer's, the difference, good); susceptibilities over the largest."""
    for study in sorted(folder.iterdir()):
        runs = {path.stem: open_run(path).load() for path in sorted(study.glob("*.zarr"))}
        exact = {f"{method} {reduce}": exact_bif(runs["full"], method, reduce) for method, reduce in METHODS}
        exact["susceptibilities"] = exact_susceptibilities(runs, TASK)
        for what, truth in exact.items():
            key = f"{study.name}/{what}"
            known = np.isfinite(truth)
            is_sus = what == "susceptibilities"
            scale = float(np.abs(truth[known]).max()) if is_sus else 1.0
            bound = SUSCEPTIBILITY_BOUND if is_sus else CORRELATION_BOUND
            error = float(np.abs(ours[key] - truth)[known].max()) / scale
            theirs = difference = None
            good = error <= bound
            if peer is not None:
                theirs = float(np.abs(peer[key] - truth)[known].max()) / scale
                difference = float(np.abs(ours[key] - peer[key])[known].max()) / scale
                good &= difference <= bound + theirs
            yield key, error, theirs, difference, good


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=os.environ.get("DEVINTERP_PEER_PYTHON"))
    parser.add_argument("--random", type=int, default=24, help="how many random studies")
    parser.add_argument("--compute", nargs=2, type=Path, help=argparse.SUPPRESS)  # one side, in its own process
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.compute:
        compute(*args.compute)
        return
    if args.peer_python is None:
        print("no --peer-python: without the peer's side")
    with tempfile.TemporaryDirectory(prefix="devinterp-accuracy-") as temporary:
        folder = Path(temporary) / "stores"
        make_stores(folder, args.random)
        found: dict[str, Any] = {"peer": None}
        for side, python in (("ours", sys.executable), ("peer", args.peer_python)):
            if python is None:
                continue
            out = Path(temporary) / f"{side}.npz"
            environment = {k: v for k, v in os.environ.items() if side != "peer" or k != "PYTHONPATH"}
            command = [python, __file__, "--compute", str(folder), str(out)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{side}: {done.stderr[-2000:]}")
            found[side] = np.load(out)
        print(f"{'':50s} {'our error':>10s} {'the peer':>10s} {'difference':>10s}")
        missed = 0
        for key, error, theirs, difference, good in judged(folder, found["ours"], found["peer"]):
            missed += not good
            numbers = "".join(f" {'-' if x is None else format(x, '.1e'):>10s}" for x in (error, theirs, difference))
            print(f"{key:50s}{numbers}  {'ok' if good else 'MISSED'}")
    print(f"{missed} missed")
    raise SystemExit(int(missed > 0))


if __name__ == "__main__":
    main()
