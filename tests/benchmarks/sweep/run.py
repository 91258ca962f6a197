"""A sweep over 3 x 3 x 3 settings on the demo's model, against 27 full runs one after the other.

Says how long both took, which cell is recommended, and whether its LLC agrees with a run ten times as long. Draws the
heat map.

    python tests/benchmarks/sweep/run.py --out /tmp/sweep                  # everything, trains the model first
    python tests/benchmarks/sweep/run.py --out /tmp/sweep --draws 40 --full-runs 2   # a look

With ``--full-runs N`` only N of the 27 runs are timed, evenly chosen, and the sum is scaled up; the output says so.
Times are seconds on the clock and of one processor; on a machine with other work the latter is the fair one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from devinterp import sample, sweep
from devinterp.demo.analysis import TASK
from devinterp.demo.corpus import load_corpus
from devinterp.demo.model import AttentionOnly, build_model
from devinterp.demo.sampling import Data
from devinterp.demo.settings import Settings
from devinterp.demo.train import train
from devinterp.errors import AllChainsFailedError

GRID = {"lr": [3e-4, 1e-3, 3e-3], "n_beta": [10.0, 30.0, 100.0], "localization": [100.0, 300.0, 1000.0]}


class Stopwatch:
    """Seconds on the clock and of the processor since it was made."""

    def __init__(self) -> None:
        self._clock, self._processor = time.perf_counter(), time.process_time()

    def read(self, scale: float = 1.0) -> dict[str, float]:
        """Return both, scaled up."""
        clock, processor = time.perf_counter() - self._clock, time.process_time() - self._processor
        return {"clock": round(scale * clock, 2), "processor": round(scale * processor, 2)}


def trained(weights: Path, settings: Settings) -> AttentionOnly:
    """Return the demo's model, trained once and kept in ``weights``."""
    model = build_model(settings.seed)
    if not weights.is_file():
        checkpoints = train(
            model,
            load_corpus(),
            steps=settings.train_steps,
            checkpoints=(settings.train_steps,),
            seed=settings.seed,
        ).checkpoints
        weights.parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoints[-1].state, weights)
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model


def main() -> None:
    """Run it all and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, stores and the picture")
    parser.add_argument("--draws", type=int, default=200, help="draws of a full run")
    parser.add_argument("--burnin", type=int, default=50)
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--extend", type=int, default=3)
    parser.add_argument("--full-runs", type=int, default=27, help="how many of the 27 full runs to time")
    parser.add_argument("--times", type=int, default=10, help="how much longer the run is that the LLC is held against")
    args = parser.parse_args()
    torch.set_num_threads(1)
    demo = Settings()
    model, data = trained(args.out / "model.pt", demo), Data(load_corpus(), demo)
    shared: dict[str, Any] = {
        "batch_size": demo.batch_size,
        "num_draws": args.draws,
        "num_init_loss_batches": demo.dataset_rows // demo.batch_size,
        "batches_per_draw": 1,
        "init_seed": demo.seed,
        "num_burnin_steps": args.burnin,
        "num_chains": args.chains,
        "progress": False,
    }
    observables = {TASK: data.observables[TASK]}
    found: dict[str, Any] = {"settings": {k: v for k, v in shared.items() if k != "progress"}, "grid": GRID}

    watch = Stopwatch()
    store = args.out / f"sweep-{args.draws}.zarr"
    fresh = not store.exists()
    tree = sweep(model, data.dataset, observables, grid=GRID, extend=args.extend, output_path=store, **shared)
    found["sweep_seconds"] = watch.read() if fresh else "the store was there already"
    watch = Stopwatch()
    summary = tree.devinterp.sweep()
    recommendation = summary.devinterp.recommend()
    found["analysis_seconds"] = watch.read()
    found["recommended"] = recommendation.to_dict()
    verdicts, counts = np.unique(summary["verdict"].values.astype(str), return_counts=True)
    found["verdicts"] = dict(zip(verdicts.tolist(), counts.tolist(), strict=True))
    image = tree.devinterp.plot.sweep()
    image.fig.savefig(args.out / "sweep.png")

    every = list(itertools.product(*GRID.values()))
    chosen = [every[i] for i in np.unique(np.linspace(0, 26, min(args.full_runs, 27)).round().astype(int))]
    watch = Stopwatch()
    for values in chosen:
        try:
            sample(model, data.dataset, observables, **dict(zip(GRID, values, strict=True)), **shared)
        except AllChainsFailedError as error:  # a run that diverges ends with an error: that is its full cost
            found.setdefault("full_runs_failed", []).append(f"{values}: {type(error).__name__}")
    found["full_runs_timed"] = len(chosen)
    found["27_full_runs_seconds"] = watch.read(27 / len(chosen))
    if fresh:
        found["times_faster"] = {k: found["27_full_runs_seconds"][k] / v for k, v in found["sweep_seconds"].items()}

    long = {**shared, "num_draws": args.times * args.draws, "init_seed": shared["init_seed"] + 1000}
    watch = Stopwatch()
    reference = sample(model, data.dataset, observables, **recommendation.settings, **long)
    found["long_seconds"] = watch.read()
    llc = reference.devinterp.llc(over="observable", ci=0.9)
    low, high = recommendation.llc_ci or (np.nan, np.nan)
    value, deviation = float(llc["llc_mean"]), float(summary["llc_se"].sel(recommendation.settings))
    found["long"] = {
        "llc": value,
        "llc_ci": llc["llc_ci"].values.tolist(),
        "in_interval_of_recommended": bool(low <= value <= high),
        "monte_carlo_errors_apart": abs(value - (recommendation.llc or np.nan)) / deviation,
    }
    print(recommendation)
    print(json.dumps(found, indent=2, default=str))


if __name__ == "__main__":
    main()
