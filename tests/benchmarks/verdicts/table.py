"""False alarms and misses: what `diagnose` says of runs whose health is known, 400 of each design.

python tests/benchmarks/verdicts/table.py [RUNS] [DESIGN ...]
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

sys.path.insert(0, str(Path(__file__).parents[2] / "helpers"))
from simulated import Quadratic, Regression, simulate

from devinterp.slt.diagnostics import Diagnosis, diagnose

H = np.linspace(0.2, 3.0, 30)
ONE = np.ones(30)
BASE: dict[str, Any] = {"lr": 2e-3, "n_beta": 30.0, "localization": 20.0, "burnin": 300, "between": 3}

Runs = list[xr.Dataset]


@dataclass(frozen=True)
class Design:
    """Runs of one kind, and what is right to say of them."""

    healthy: bool
    make: Callable[[int, int], Runs]
    expected: tuple[str, ...] = ()


def quadratic(h: Any = H, *, level: float = 2.0, slope: float = 0.0, **settings: Any) -> Callable[[int, int], Runs]:
    """Runs on a quadratic, by number and seed."""
    return lambda runs, seed: simulate(Quadratic(h, level, slope), runs=runs, seed=seed, **{**BASE, **settings})


def regression(batch: int, *, n_beta: float, step: float, **settings: Any) -> Callable[[int, int], Runs]:
    """Runs on a regression in minibatches; ``step`` is lr times (n_beta + localization)."""
    own = {"n_beta": n_beta, "localization": 20.0, "burnin": 200, "lr": step / (n_beta + 20.0), **settings}
    return lambda runs, seed: simulate(Regression(4, 1024, batch, 64), runs=runs, seed=seed, **own)


def changed(make: Callable[[int, int], Runs], change: Callable[[Any, Any], Any]) -> Callable[[int, int], Runs]:
    """The same runs with the losses of their rows, (chain, draw, row, token), changed."""

    def made(runs: int, seed: int) -> Runs:
        rng, found = np.random.default_rng(seed + 1), []
        for run in make(runs, seed):
            values = change(run["loss_train"].values.astype(np.float64), rng).astype(np.float32)
            found.append(run.assign(loss_train=(run["loss_train"].dims, values)))
        return found

    return made


def _stuck(losses: Any, rng: Any) -> Any:
    return np.broadcast_to(losses[:, :1], losses.shape)


def _spiking(losses: Any, rng: Any) -> Any:
    losses[:, 10::50] *= 1.3
    return losses


def _levels(losses: Any, rng: Any) -> Any:
    return losses + 0.5 * losses.mean(axis=(2, 3)).std() * 3 * rng.normal(size=(losses.shape[0], 1, 1, 1))


def _escape(losses: Any, rng: Any) -> Any:
    losses[0, 100:] += 3 * losses.mean(axis=(2, 3)).std()
    return losses


SLOW = np.concatenate([ONE[:20], np.full(60, 0.0)])
FLAT = np.concatenate([np.full(5, 3.0), np.zeros(200)])

DESIGNS: dict[str, Design] = {
    "healthy, loss at the start 2": Design(True, quadratic()),
    "healthy, 0.001": Design(True, quadratic(level=1e-3)),
    "healthy, 0": Design(True, quadratic(level=0.0)),
    "healthy, -1": Design(True, quadratic(level=-1.0)),
    "healthy, no metrics": Design(True, quadratic(metrics=False)),
    "healthy, 2 weights": Design(True, quadratic(H[:2] * 5, burnin=300)),
    "healthy, few steep among flat": Design(True, quadratic(FLAT, lr=1e-3, between=6)),
    "healthy, minibatches": Design(True, regression(256, n_beta=100.0, step=0.15, between=5)),
    "healthy, minibatches, no metrics": Design(
        True, regression(256, n_beta=100.0, step=0.15, between=5, metrics=False)
    ),
    "healthy, RMSprop": Design(True, quadratic(lr=5e-4, rmsprop=(0.1, 0.99))),
    "step 2, RMSprop": Design(False, quadratic(lr=4e-3, rmsprop=(0.1, 0.99), between=1), ("step_bias", "diverged")),
    "step 0.36 by localization": Design(False, quadratic(lr=4e-4, localization=1000.0, metrics=False), ("step_bias",)),
    **{
        f"step {x}, lr a of the steepest": Design(
            False, quadratic(lr=x / 110.0, burnin=200, between=1), ("step_bias", "diverged")
        )
        for x in (1.0, 2.0, 3.0, 3.6, 3.9)
    },
    "step 3.6, no metrics, 1 curvature": Design(
        False, quadratic(ONE, lr=3.6 / 50.0, between=1, metrics=False), ("diverged", "step_bias")
    ),
    "step 2, few steep among flat": Design(False, quadratic(FLAT, lr=2 / 110.0, between=1), ("step_bias", "diverged")),
    "stuck": Design(False, changed(quadratic(), _stuck), ("not_converged",)),
    "lr 100 times too small, no burn-in": Design(False, quadratic(lr=2e-5, burnin=0), ("not_converged",)),
    "slow, 60 directions of 2000 steps": Design(
        False,
        quadratic(np.where(SLOW > 0, SLOW, 0.0267), lr=1e-2, localization=0.2, burnin=200, between=1),
        ("not_converged",),
    ),
    "slow, 10000 steps": Design(
        False,
        quadratic(np.where(SLOW > 0, SLOW, 0.00533), lr=1e-2, localization=0.04, burnin=200, between=1),
        ("not_converged",),
    ),
    "no burn-in, relaxes in 40 draws": Design(False, quadratic(ONE, lr=1e-3, burnin=0, between=1), ("not_converged",)),
    "drifting in the burn-in": Design(
        False, quadratic(ONE, lr=1e-4, burnin=300, between=1, draws=200), ("not_converged",)
    ),
    "spikes in 4 of 200 draws": Design(False, changed(quadratic(), _spiking), ("spikes",)),
    "one chain": Design(False, quadratic(chains=1), ("one_chain",)),
    "chains at levels of their own": Design(False, changed(quadratic(), _levels), ("chains_disagree",)),
    "one chain leaves": Design(False, changed(quadratic(), _escape), ("chains_disagree", "not_converged")),
    "minibatch noise 1.6 of the injected": Design(
        False, regression(4, n_beta=100.0, step=0.3), ("gradient_noise", "step_bias")
    ),
    "minibatch noise 1.6, no metrics": Design(
        False, regression(4, n_beta=100.0, step=0.3, metrics=False), ("diverged",)
    ),
    "minibatch noise 6 of the injected": Design(
        False, regression(4, n_beta=400.0, step=0.3), ("gradient_noise", "step_bias", "diverged")
    ),
    "minibatch noise 6, no metrics": Design(False, regression(4, n_beta=400.0, step=0.3, metrics=False), ("diverged",)),
    "below its start": Design(False, quadratic(slope=0.3), ("below_start",)),
    "step 1, lr a of the steepest, no metrics": Design(
        False, quadratic(lr=1 / 110.0, burnin=200, between=1, metrics=False), ("step_bias",)
    ),
    "clamped": Design(False, quadratic(box=0.05), ("clamped",)),
    "walks off, no localization": Design(
        False,
        quadratic(np.full(30, 1e-4), localization=0.0, burnin=0),
        ("not_converged", "diverged", "chains_disagree"),
    ),
}


def judge(design: Design, runs: int, seed: int) -> tuple[float, Counter[str], list[Diagnosis]]:
    """Share called good, how often each verdict came first, and the diagnoses."""
    found = [diagnose(run) for run in design.make(runs, seed)]
    first: Counter[str] = Counter(each.verdict.code for each in found)  # type: ignore[union-attr]
    return first["good"] / runs, first, found  # type: ignore[return-value]


def main(runs: int, names: list[str]) -> None:
    """Print the table."""
    print(f"| design ({runs} runs each) | good | ± | verdicts |\n|---|---|---|---|")
    for number, (name, design) in enumerate(DESIGNS.items()):
        if names and name not in names:
            continue
        good, first, _ = judge(design, runs, 1000 * number)
        error = np.sqrt(max(good * (1 - good), 1 / runs) / runs)
        listed = ", ".join(f"{code} {count}" for code, count in first.most_common())
        mark = "" if (good >= 0.97 if design.healthy else good <= 0.05) else " **"
        print(f"| {name}{mark} | {100 * good:.1f} % | {100 * error:.1f} | {listed} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400, sys.argv[2:])
