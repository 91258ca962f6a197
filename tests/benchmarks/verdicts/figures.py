"""What was wrong with verdicts, intervals and advice, each figure then (2026-11-28) and now, by name.

Shares of many runs have tables of their own: table.py, coverage.py, recommended.py, deep_linear.py; the demo has
../demo/seeds.py.

python tests/benchmarks/verdicts/figures.py [CASE ...]
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "helpers"))
from simulated import Quadratic, Regression, simulate

from devinterp import sample, sweep
from devinterp.errors import AllChainsFailedError
from devinterp.slt.bif import compute_bif
from devinterp.slt.diagnostics import Diagnosis, diagnose
from devinterp.slt.llc import compute_llc
from devinterp.utils import replicate_seeds

CASES: dict[str, Callable[[], None]] = {}


def case(function: Callable[[], None]) -> Callable[[], None]:
    """Enter it by its name."""
    CASES[function.__name__] = function
    return function


def line(what: str, then: str, now: str) -> None:
    """One row."""
    print(f"| {what} | {then} | {now} |", flush=True)


class Bowl(nn.Module):
    """``level + |w|**2 / 2``, the same in every row."""

    def __init__(self, size: int, level: float = 0.0) -> None:
        super().__init__()
        self.w, self.level = nn.Parameter(torch.zeros(size)), level


def bowl_loss(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """(batch, 1)"""
    return (model.level + 0.5 * (model.w**2).sum()).expand(len(ids), 1)


IDS = np.zeros((16, 2), dtype=np.int64)
SHORT: dict[str, Any] = {
    "loss_fn": bowl_loss,
    "batch_size": 16,
    "num_init_loss_batches": 1,
    "progress": False,
    "device": "cpu",
}


def bowl(model: Any, **settings: Any) -> xr.DataTree:
    """Sample one."""
    own = {
        "n_beta": 30.0,
        "localization": 3.0,
        "lr": 3e-3,
        "num_burnin_steps": 300,
        "num_steps_bw_draws": 4,
        **settings,
    }
    return sample(model, IDS, {"train": (IDS, 1)}, **{**SHORT, **own})


def said(tree: Any) -> Diagnosis:
    """The diagnosis of one run."""
    found = diagnose(tree)
    assert isinstance(found, Diagnosis)
    return found


@case
def constant() -> None:
    """Point 1."""
    then = {0.0: "good", 1e-3: "diverged", 0.1: "diverged", 0.2: "diverged", 0.3: "good"}
    for level, code in then.items():
        line(f"20 weights, loss at the start {level:g}", code, said(bowl(Bowl(20, level))).verdict.code)
    grid = {"lr": [1e-4, 1e-3, 3e-3], "n_beta": [30.0], "localization": [3.0]}
    trials = sweep(Bowl(20, 0.2), IDS, {"train": (IDS, 1)}, grid=grid, num_burnin_steps=100, num_draws=200, **SHORT)
    found = trials.devinterp.recommend()
    now = f"{found.llc:.2f} at lr {found.settings['lr']:g}, {'good' if found.good else found.verdict}"
    line("recommended of a sweep at 0.2: LLC, right is 9.09", "3.79", now)


@case
def step() -> None:
    """Point 2: on quadratics, and at the settings that the pages had."""
    h = np.linspace(0.2, 3, 30)
    lr = 3.6 / (30 * h.max() + 20)
    runs = simulate(Quadratic(h), runs=100, seed=0, n_beta=30.0, localization=20.0, lr=lr, burnin=300)
    codes = Counter(said(run).verdict.code for run in runs)
    ratio = np.mean([said(run).llc for run in runs]) / Quadratic(h).llc(30.0, 20.0)
    line(
        "lr a of the steepest 3.6: LLC over that of small steps; called", "3.4; good 100", f"{ratio:.2f}; {dict(codes)}"
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run = bowl(Bowl(50), lr=1e-3, localization=1000.0, num_steps_bw_draws=1, num_draws=400, save_metrics=True)
    exact = 1 / (1 - 1e-3 * 1030 / 4)
    line(
        f"lr * localization 1: called; inflation, {exact:.3f} is right; warnings before sampling", "good; not said; 0",
        f"{said(run).verdict.code}; {compute_llc(run).attrs['step_inflation']:.3f}; {len(told)}",
    )  # fmt: skip


@case
def remedy() -> None:
    """Point 3: a step that localization makes too long, and what is advised."""
    for localization in (1.0, 30.0, 300.0, 3000.0):
        own = {"lr": 0.14, "localization": localization, "save_metrics": True, "num_burnin_steps": 0}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = said(bowl(Bowl(20), **own))
            now = f"{found.verdict.code}: {found.verdict.remedy}"
        except AllChainsFailedError as error:
            now = f"failed: {error.remedy}"
        line(f"unstable step, localization {localization:g}", "raise localization", now)


@case
def minibatches() -> None:
    """Points 4 and 5: noise of minibatches that all chains share."""
    truth = float(np.mean([compute_llc(r, over="observable")["llc_mean"] for r in _noisy(1024, 100.0)]))
    for batch, n_beta, then in ((4, 100.0, "4.7, mostly good"), (4, 400.0, "17.7, mostly good")):
        runs = _noisy(batch, n_beta)
        llc = np.array([float(compute_llc(r, over="observable")["llc_mean"]) for r in runs])
        codes = Counter(said(r).verdict.code for r in runs)
        line(
            f"LLC, {truth:.2f} without noise: batch {batch}, n_beta {n_beta:g}; called",
            then,
            f"{llc.mean():.2f}; {dict(codes)}",
        )
    runs = _noisy(4, 100.0)
    llc = np.array([float(compute_llc(r, over="observable")["llc_mean"]) for r in runs])
    own = float(np.mean([100.0 * (said(r).rise_se or np.nan) for r in runs]))
    line("true standard error over the reported one, noise ratio 1.56", "1.8", f"{llc.std(ddof=1) / own:.2f}")
    found = [compute_bif(r, correlation_method="sequence", se=True, batch_index_range_1=list(range(8))) for r in runs]
    values, errors = (np.array([f[name].values for f in found]) for name in ("influences", "influences_se"))
    off = np.abs(values.mean(axis=0)) < 0.95
    line("the same of influences", "1.7", f"{(values.std(axis=0, ddof=1)[off] / errors.mean(axis=0)[off]).mean():.2f}")


def _noisy(batch: int, n_beta: float) -> list[xr.Dataset]:
    own = {"n_beta": n_beta, "localization": 20.0, "lr": 0.3 / (n_beta + 20)}
    runs = simulate(Regression(4, 1024, batch, 64), runs=60, seed=7, burnin=60, **own)
    ids = np.arange(128).reshape(64, 2)
    return [run.assign(input_ids_train=(("batch_train", "token"), ids)) for run in runs]


@dataclass(frozen=True)
class Shaken(Quadratic):
    """With noise that all chains share, a hundredth of a nat's slope, as minibatches of many rows have."""

    def gradient(self, w: Any, rng: Any, step: int) -> Any:
        """(run, chain, weight)"""
        return self.h * w + 0.01 * rng.normal(size=(w.shape[0], 1, w.shape[2]))


@case
def blind() -> None:
    """Point 5, healthy runs without metrics: how many are good, and were the chains known to be independent."""
    for draws in (40, 100, 200):
        own = {"n_beta": 30.0, "localization": 20.0, "lr": 3e-3, "burnin": 100, "between": 4, "draws": draws}
        runs = simulate(Shaken(np.linspace(0.2, 3, 30)), runs=100, seed=1, metrics=False, **own)
        good = []
        for shared in (True, False):
            for run in runs:
                known = run.attrs["metadata"]
                sampler = {**known["config"]["sampler"], "batch_size": 64}
                sampler["match_sampling_input_ids_across_chains"] = shared
                provenance = {**known["provenance"], "dataset": {"length": 10**6}}
                config = {**known["config"], "sampler": sampler}
                run.attrs = {"metadata": {**known, "config": config, "provenance": provenance}}
            good.append(sum(said(run).good for run in runs))
        line(f"{draws} draws: good of 100, chains that share minibatches and not", "", f"{good[0]}, {good[1]}")


@case
def alone() -> None:
    """Point 4: slow directions, and one chain."""
    h = np.concatenate([np.ones(20), np.full(60, 0.00533)])
    own = {"n_beta": 30.0, "localization": 0.04, "lr": 1e-2}
    for chains, then in ((4, "good 85 to 98 %"), (1, "good, intervals hold it in 2 to 20 %")):
        runs = simulate(Quadratic(h), runs=100, seed=1, chains=chains, burnin=200, **own)
        share = np.mean([said(r).llc for r in runs]) / Quadratic(h).llc(**own)
        codes = Counter(said(r).verdict.code for r in runs)
        line(
            f"directions of 10000 steps, {chains} chains: of the LLC; called",
            then,
            f"{100 * share:.0f} %; {dict(codes)}",
        )


@case
def rows() -> None:
    """Point 6: the observable is the whole dataset, whose rows are not uncertain; and a tenth of it."""
    model = Regression(4, 1024, 1024, 1024)
    own = {"n_beta": 100.0, "localization": 20.0, "lr": 0.3 / 120}
    runs = simulate(model, runs=60, seed=3, burnin=60, **own)
    results = [compute_llc(r, over="observable", ci=0.9) for r in runs]
    llc = np.array([float(r["llc_mean"]) for r in results])
    half = np.mean([np.diff(r["llc_ci"].values)[0] / 2 for r in results])
    line(
        "whole dataset: half-width; standard deviation of the LLC over runs",
        "0.92; 0.07",
        f"{half:.2f}; {llc.std(ddof=1):.2f}",
    )
    few = [compute_llc(r.isel(batch_train=slice(0, 100)), over="observable", ci=0.9) for r in runs[:20]]
    whole, given = (np.mean([np.diff(r[n].values)[0] / 2 for r in few]) for n in ("llc_ci", "llc_ci_given_rows"))
    line("100 of its rows: half-width; given these rows", "one; none", f"{whole:.2f}; {given:.2f}")


@case
def noise_floor() -> None:
    """Point 6: how often the strongest of unrelated partners lies above ``noise_floor_strongest``; 5 % is said."""
    shapes: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "Gaussian": ("", lambda x: x),
        "squares": ("13 to 54 %", lambda x: x**2),
        "fourth powers": ("", lambda x: x**4),
        "log-normal, sigma 1": ("", np.exp),
        "log-normal, sigma 2": ("", lambda x: np.exp(2 * x)),
    }
    for name, (then, shape) in shapes.items():
        for draws, corpus in ((200, 128), (50, 128), (200, 1024)):
            shares = []
            for memory in (0.0, 0.8, 0.95):
                above = [_above(shape, memory, draws, corpus, seed) for seed in range(24 if corpus < 1000 else 4)]
                shares.append(f"{100 * np.mean(above):.1f} ± {100 * np.std(above) / np.sqrt(len(above)):.1f} %")
            line(
                f"{name}: above the floor, {draws} draws, {corpus} partners, memory 0, 0.8, 0.95",
                then,
                ", ".join(shares),
            )


def _above(shape: Callable[[Any], Any], memory: float, draws: int, corpus: int, seed: int) -> float:
    rng, tokens, queries, chains = np.random.default_rng(seed), 8, 16, 4
    count = queries + corpus // tokens
    x, now = np.empty((chains, draws, count * tokens)), rng.normal(size=(chains, count * tokens))
    for t in range(draws):
        now = memory * now + np.sqrt(1 - memory**2) * rng.normal(size=now.shape)
        x[:, t] = now
    losses = shape(x).reshape(chains, draws, count, tokens).astype(np.float32)
    ids = np.arange(count * (tokens + 1)).reshape(count, tokens + 1)
    parts, data = {"a": slice(0, queries), "b": slice(queries, count)}, {}
    for name, part in parts.items():
        data[f"loss_{name}"] = (("chain", "draw", f"batch_{name}", "token_pos"), losses[:, :, part])
        data[f"input_ids_{name}"] = ((f"batch_{name}", "token"), ids[part])
    run = xr.Dataset(data, attrs={"metadata": {"config": {"sampler": {"n_beta": 30.0}}}})
    best = compute_bif(run, top_k=1, batch_index_range_1="a", batch_index_range_2="b")
    strongest = np.abs(best["influences"].values[..., 0]).max(axis=-1)
    return float((strongest > best.attrs["noise_floor_strongest"]).mean())


@case
def start() -> None:
    """Point 7: init_noise, a box, masks that scale, seeds that overlap."""
    mask = {"w": torch.tensor([True, False])}
    own = {"lr": 2e-3, "localization": 30.0, "num_draws": 1000, "num_steps_bw_draws": 1, "init_seed": 1}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run = bowl(Bowl(2), init_noise=1.0, param_masks=mask, **own)
        first = float(compute_llc(run)["llc_mean"])
    right = float(compute_llc(run, over="observable")["llc_mean"])
    warned = next((str(w.message).split(". ")[0] for w in told if "init_loss" in str(w.message)), "nothing")
    line("init_noise 1, one of two weights: LLC over draws, 0.25 is right", "-26", f"{first:.3g}; warned: {warned}")
    line("the estimate that is named", "", f"{right:.3f}")
    run, w = bowl(Bowl(20), bounding_box_size=0.1, num_draws=1000), np.linspace(-0.1, 0.1, 10_001)
    within = np.exp(-33 * w**2 / 2)
    right = 20 * 15 * (w**2 * within).sum() / within.sum()
    found = said(run)
    line(
        f"a box of 0.1: LLC, {right:.2f} is right within it; called", "half as much again; good",
        f"{found.llc:.2f}; {found.verdict.code}: {found.verdict.remedy}",
    )  # fmt: skip
    for value in (0.5, -1.0):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            bowl(Bowl(2), param_masks={"w": torch.tensor([value, 1.0])}, num_draws=4)
        line(f"a mask of {value:g}: warnings", "0", f"{len(told)}: {str(told[0].message).split(': ', 1)[1]}")
    seeds = replicate_seeds(2, num_chains=4)
    line(
        "chains that two replicates share",
        "3 of 4 (seeds 100, 101)",
        f"{max(0, 4 - abs(seeds[1] - seeds[0]))} (seeds {seeds})",
    )


@case
def rmsprop() -> None:
    """Point 8: what is said of RMSprop's step, and what its preconditioner adds by following the weights."""
    shapes = {
        "0.2 to 3": (np.linspace(0.2, 3, 30), 20.0),
        "4 and 1/4": (np.tile([4.0, 0.25], 15), 10.0),
        "five of 3, 100 flat": (np.concatenate([np.full(5, 3.0), np.zeros(100)]), 20.0),
    }
    heads = ("curvatures, eps", "lr", "LLC over the posterior's", "said: step", "preconditioner, up to", "together")
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for (name, (h, hold)), eps in zip(shapes.items(), (0.1, 1e-3, 0.1), strict=True):
        for lr in (1e-4, 5e-4, 2e-3):
            own = {"n_beta": 30.0, "localization": hold, "lr": lr}
            (run,) = simulate(
                Quadratic(h), runs=1, seed=0, chains=20, draws=600, burnin=800, between=5, rmsprop=(eps, 0.99), **own
            )  # fmt: skip
            found = said(run)
            assert found.step_bias is not None
            bias, follows = found.step_bias.inflation, found.step_bias.preconditioner or np.nan
            ratio = (found.llc or np.nan) / Quadratic(h).llc(30.0, hold)
            print(
                f"| {name}, {eps:g} | {lr:g} | {ratio:.2f} | {bias:.2f} | {follows:.2f} | {bias * follows:.2f} |",
                flush=True,
            )


def main(names: list[str]) -> None:
    """Print the cases."""
    torch.set_num_threads(1)
    for name in names or CASES:
        print(f"\n{name}: {(CASES[name].__doc__ or '').strip()}")
        if name != "rmsprop":
            print("| what | then | now |\n|---|---|---|")
        CASES[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
