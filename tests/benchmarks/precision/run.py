"""How long until an LLC is known to 5 %: seconds until its true standard error over many seeds is that small.

    python tests/benchmarks/precision/run.py [--seeds 20] [--only transformer]

Each seed has its own order of rows, its own noise and its own fixed rows; the standard deviation of the seeds'
estimates after so many draws is the true standard error of one run's. One chain. Estimators of the same draws:

* draws: the minibatch losses against ``init_loss``, as the literature and devinterp 2.0.1 have it, of 1 batch or of 32;
* observable: fixed rows, evaluated at every draw (1 or 3 batches), or at every fourth;
* paired: the minibatch losses against those of the same minibatches at the start: a pass over the visited rows.

Seconds are of the CPU, one thread: what a step, an evaluation of fixed rows and a pass at the start take, each
measured, times how many there are. Models: a deep linear network on noisy outputs, whose coefficient is known, and a
small transformer trained until its loss is flat.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "helpers"))
from targets import deep_linear_lambda
from tiny_lm import VOCAB, build_model, build_tokens

from devinterp import sample
from devinterp.slt.sampling.engine.losses import next_token_loss
from devinterp.slt.sampling.inputs.batches import loader_order

Floats = npt.NDArray[np.float64]
Loss = Callable[[nn.Module, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Problem:
    """A model at a minimum, rows, and settings that suit it."""

    model: nn.Module
    rows: npt.NDArray[np.int64]
    loss: Loss
    own: Loss | None  # as loss_fn
    settings: dict[str, Any]
    draws: int
    known: float | None = None


def transformer() -> Problem:
    """Two layers, trained on three kinds of text until the loss is flat."""
    rows = np.concatenate([build_tokens(name, 1024) for name in ("train", "code", "math")])
    model = build_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=1500)
    rng = np.random.default_rng(0)
    for _ in range(1500):
        ids = torch.from_numpy(rows[rng.choice(len(rows), 64)])
        optimizer.zero_grad()
        next_token_loss(model(ids), ids).mean().backward()
        optimizer.step()
        schedule.step()
    assert model.embed.num_embeddings == VOCAB
    settings = {"lr": 1e-4, "n_beta": 300.0, "localization": 3000.0, "batch_size": 32, "num_burnin_steps": 50}
    return Problem(model, rows, lambda m, ids: next_token_loss(m(ids), ids), None, settings, 300)


def deep_linear() -> Problem:
    """Three matrices, of rank 3 together; outputs have noise, so that minibatches differ at the truth too."""
    rng, widths, rank, count = np.random.default_rng(1), (6, 8, 6, 5), 3, 20_000
    matrices = [rng.normal(size=(a, b)) / math.sqrt(a) for a, b in pairwise(widths)]
    left, values, right = np.linalg.svd(matrices[0])
    values[rank:] = 0
    matrices[0] = left @ np.pad(np.diag(values), ((0, 0), (0, widths[1] - widths[0]))) @ right
    model = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(widths)))
    for layer, matrix in zip(model, matrices, strict=True):
        layer.weight.data = torch.from_numpy(matrix.T.astype(np.float32))  # type: ignore[union-attr, operator]
    x = torch.from_numpy(rng.normal(size=(count, widths[0])).astype(np.float32))
    with torch.no_grad():
        y = model(x) + torch.from_numpy(rng.normal(size=(count, widths[-1])).astype(np.float32))

    def loss(network: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        rows = ids[:, 0]
        return 0.5 * ((network(x[rows]) - y[rows]) ** 2).sum(dim=1, keepdim=True)

    index = np.stack([np.arange(count), np.zeros(count, np.int64)], axis=1)
    settings = {"lr": 1e-4, "n_beta": 2000.0, "localization": 20.0, "batch_size": 256, "num_burnin_steps": 500}
    return Problem(model, index, loss, loss, settings, 3000, deep_linear_lambda(widths, rank))


def draw(problem: Problem, seed: int, draws: int, fixed: int) -> Any:
    observables = {"fixed": (problem.rows, fixed)} if fixed else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sample(
            problem.model, problem.rows, observables, num_chains=1, num_draws=draws, init_seed=seed, obs_seed=seed,
            num_init_loss_batches=1, loss_fn=problem.own, progress=False, device="cpu", **problem.settings,
        )  # fmt: skip


def curves(problem: Problem, seed: int) -> dict[str, Floats]:
    """Each estimator's LLC after 1, 2, ... draws of a run."""
    tree = draw(problem, seed, problem.draws, 3)
    size, burnin = problem.settings["batch_size"], problem.settings["num_burnin_steps"]
    minibatch = tree["sampling_loss"].values[0].mean((1, 2), dtype=np.float64)
    fixed = (tree["loss_fixed"] - tree["init_loss_fixed"]).values[0].mean(2, dtype=np.float64)
    order = loader_order(len(problem.rows), shuffle=True, seed=seed)
    per_pass = len(order) // size

    def at_start(number: int) -> float:
        place = number % per_pass * size
        with torch.no_grad():
            return float(
                problem.loss(problem.model, torch.from_numpy(problem.rows[order[place : place + size]])).mean()
            )

    starts = np.array([at_start(number) for number in range(min(per_pass, burnin + problem.draws))])
    own = starts[(burnin + np.arange(problem.draws)) % per_pass]
    traces = {
        "draws, init_loss of 1 batch": minibatch - starts[0],
        "draws, init_loss of 32 batches": minibatch - starts[:32].mean(),
        "observable, 1 batch": fixed[:, :size].mean(1),
        "observable, 3 batches": fixed.mean(1),
        "observable, 3 batches, every 4th": np.repeat(fixed[3::4].mean(1), 4),
        "paired": minibatch - own,
    }
    until = np.arange(1, problem.draws + 1)
    return {name: problem.settings["n_beta"] * np.cumsum(trace) / until for name, trace in traces.items()}


def seconds_of(action: Callable[[], object], times: int) -> float:
    """Least CPU seconds of one, of three rounds of several."""
    found = []
    for _ in range(3):
        began = time.process_time()
        for _ in range(times):
            action()
        found.append((time.process_time() - began) / times)
    return min(found)


def costs(problem: Problem) -> dict[str, tuple[float, float, bool]]:
    """Of each estimator: seconds at the start, per draw, and whether each visited row is evaluated at the start."""

    def per_draw(fixed: int) -> float:
        short, long = (seconds_of(lambda n=n: draw(problem, 0, n, fixed), 1) for n in (50, 250))
        return (long - short) / 200

    step, one, three = per_draw(0), per_draw(1), per_draw(3)
    ids = torch.from_numpy(problem.rows[: problem.settings["batch_size"]])
    with torch.no_grad():
        forward = seconds_of(lambda: problem.loss(problem.model, ids), 50)
    told = {"step": step, "pass at the start": forward, "draw with 1 fixed batch": one, "with 3": three}
    print("ms: " + ", ".join(f"{name} {1e3 * value:.2f}" for name, value in told.items()))
    return {
        "draws, init_loss of 1 batch": (forward, step, False),
        "draws, init_loss of 32 batches": (32 * forward, step, False),
        "observable, 1 batch": (2 * forward, one, False),
        "observable, 3 batches": (4 * forward, three, False),
        "observable, 3 batches, every 4th": (4 * forward, step + (three - step) / 4, False),
        "paired": (forward, step, True),
    }


def study(name: str, problem: Problem, seeds: int) -> None:
    began = time.process_time()
    runs = [curves(problem, 1000 + seed) for seed in range(seeds)]
    print(f"\n{name}: {sum(p.numel() for p in problem.model.parameters())} weights, {seeds} seeds, {problem.settings}")
    found = costs(problem)
    burnin = problem.settings["num_burnin_steps"]
    per_pass = len(problem.rows) // problem.settings["batch_size"]
    known = "" if problem.known is None else f", known without localization {problem.known:g}"
    print(
        f"| estimator | LLC after {problem.draws} draws{known} | true standard error | draws to 5 % | seconds to 5 % |"
    )
    print("|---|---|---|---|---|")
    level = np.mean([run["paired"][-1] for run in runs])
    for estimator, (start, each, visits) in found.items():
        values = np.array([run[estimator] for run in runs])
        error = values.std(axis=0, ddof=1)
        over = np.nonzero(error > 0.05 * level)[0]
        draws = int(over[-1]) + 2 if len(over) else 1
        last = f"| {values[:, -1].mean():.3f} | {error[-1]:.3f} ({error[-1] / level:.1%})"
        if draws > problem.draws:
            reached = math.ceil(problem.draws * (error[-1] / (0.05 * level)) ** 2)
            print(f"| {estimator} {last} | not in {problem.draws} (about {reached} were it to fall by 1 / sqrt) | – |")
            continue
        visited = min(per_pass, draws) * (found["draws, init_loss of 1 batch"][0]) if visits else 0.0
        print(f"| {estimator} {last} | {draws} | {start + visited + burnin * found['paired'][1] + draws * each:.2f} |")
    print(f"{time.process_time() - began:.0f} s of CPU")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    problems = {"transformer": transformer, "deep linear network": deep_linear}
    parser.add_argument("--only", choices=problems)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name, make in problems.items():
        if args.only in (None, name):
            study(name, make(), args.seeds)


if __name__ == "__main__":
    main()
