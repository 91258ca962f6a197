"""How often 90 % intervals of the LLC hold what they are for, where chains share minibatches as the sampler's do.

Of the fixed rows (``over="observable"``), and of each draw's minibatch against itself at the start (``over="paired"``).

python tests/benchmarks/verdicts/coverage.py [RUNS] [DESIGN ...]
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "helpers"))
from simulated import Quadratic, Regression, simulate

from devinterp.slt.diagnostics import diagnose
from devinterp.slt.llc import compute_llc

COMMON: dict[str, Any] = {"localization": 20.0, "burnin": 60, "draws": 200, "metrics": False}

Over = Literal["observable", "paired"]
OVERS: tuple[Over, ...] = ("observable", "paired")
T_90 = 1.66  # of some hundred degrees of freedom

# Model, settings. The observable is the whole dataset, so that its rows are not uncertain.
DESIGNS: dict[str, tuple[Any, dict[str, Any]]] = {
    "whole dataset at every step": (Quadratic(np.linspace(0.2, 3, 30)), {"n_beta": 30.0, "lr": 3e-3}),
    "minibatch noise 0.05 of the injected": (Regression(4, 1024, 128, 1024), {"n_beta": 100.0, "lr": 0.3 / 120}),
    "minibatch noise 0.4": (Regression(4, 1024, 16, 1024), {"n_beta": 100.0, "lr": 0.3 / 120}),
    "minibatch noise 1.6": (Regression(4, 1024, 4, 1024), {"n_beta": 100.0, "lr": 0.3 / 120}),
    "minibatch noise 6": (Regression(4, 1024, 4, 1024), {"n_beta": 400.0, "lr": 0.3 / 420}),
}


def measure(model: Any, settings: dict[str, Any], runs: int, seed: int, over: Over) -> tuple[float, float, float]:
    """Share of intervals that hold the mean over the runs; reported standard error over the true one; half-width."""
    found = simulate(model, runs=runs, seed=seed, paired=over == "paired", **{**COMMON, **settings})
    results = [compute_llc(run, over=over, ci=0.9) for run in found]
    llc = np.array([float(r["llc_mean"]) for r in results])
    ends = np.array([r["llc_ci"].values for r in results])
    # Of the other runs, so that no interval is held against its own estimate.
    others = (llc.sum() - llc) / (runs - 1)
    covered = float(((ends[:, 0] <= others) & (others <= ends[:, 1])).mean())
    if over == "paired":  # what t of the interval's own degrees of freedom multiplies is not told; near 1.66 here
        reported = np.diff(ends).mean() / 2 / T_90
    else:
        reported = np.mean([settings["n_beta"] * diagnose(run).rise_se for run in found[: min(runs, 60)]])  # type: ignore[union-attr, operator]
    return covered, float(reported / llc.std(ddof=1)), float(np.diff(ends).mean() / 2)


def subset_rows(runs: int) -> tuple[float, float]:
    """Intervals from 64 of 256 rows, other rows in every run, for the LLC over all of them."""
    whole = Regression(4, 256, 64, 256, seed=5)
    settings = {**COMMON, "n_beta": 100.0, "lr": 0.3 / 120}
    rng, held, half = np.random.default_rng(7), 0, 0.0
    reference = simulate(whole, runs=40, seed=9, **settings)
    truth = float(np.mean([float(compute_llc(r, over="observable")["llc_mean"]) for r in reference]))
    for run in simulate(whole, runs=runs, seed=11, **settings):
        part = run.isel(batch_train=rng.choice(256, 64, replace=False))
        low, high = compute_llc(part, over="observable", ci=0.9)["llc_ci"].values
        held += low <= truth <= high
        half += (high - low) / 2
    return held / runs, half / runs


SUBSET = "64 of 256 rows observed"


def main(runs: int, names: list[str]) -> None:
    """Print the table."""
    print(f"| design ({runs} runs each) | over | covered | ± | reported / true standard error | half-width |")
    print("|---|---|---|---|---|---|")
    for number, (name, (model, settings)) in enumerate(DESIGNS.items()):
        if names and name not in names:
            continue
        model = replace(model) if isinstance(model, Quadratic) else model
        for over in OVERS if isinstance(model, Regression) else OVERS[:1]:
            covered, ratio, half = measure(model, settings, runs, 100 * number, over)
            error = np.sqrt(covered * (1 - covered) / runs)
            print(
                f"| {name} | {over} | {100 * covered:.1f} % | {100 * error:.1f} | {ratio:.2f} | {half:.3f} |",
                flush=True,
            )
    if names and SUBSET not in names:
        return
    covered, half = subset_rows(runs)
    error = np.sqrt(covered * (1 - covered) / runs)
    print(f"| {SUBSET} | observable | {100 * covered:.1f} % | {100 * error:.1f} | | {half:.3f} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400, sys.argv[2:])
