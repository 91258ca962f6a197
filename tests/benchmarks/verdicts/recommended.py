"""What `recommend` chooses of grids whose LLC at vanishing steps is known: 24 sweeps.

A quadratic in 20 directions of curvatures between 0.04 and 4, least squares in minibatches, and grids whose every step
is too long, where the right answer is that nothing is good, and why. By default all cells are simulated in full length;
with ``--sampled`` every sweep is one of `devinterp.sweep`, pilots and extended cells, on the same losses as modules.

python tests/benchmarks/verdicts/recommended.py [--sampled] [GRID ...]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "helpers"))
from simulated import Quadratic, Regression, simulate

from devinterp import sweep
from devinterp.slt.runs.grid import cell_name
from devinterp.slt.sweep.recommend import recommend

RUNS = 6
NAMES = ("lr", "n_beta", "localization")
CURVED = Quadratic(np.geomspace(0.04, 4, 20))
ONE = ([0.0, 30.0], [30.0])
GRIDS: dict[str, tuple[Any, tuple[list[float], ...]]] = {
    "quadratic, factors of three": (CURVED, ([1e-4, 3e-4, 1e-3, 3e-3, 1e-2], *ONE)),
    "quadratic, two dimensions": (CURVED, ([3e-4, 1e-3, 3e-3], [0.0, 10.0, 100.0], [10.0, 100.0])),
    "least squares in minibatches of 256": (Regression(4, 1024, 256, 1024), ([3e-4, 1e-3, 3e-3, 1e-2], *ONE)),
    "quadratic, all too long": (CURVED, ([1e-2, 3e-2], *ONE)),
}


def sweeps(model: Any, axes: tuple[list[float], ...], seed: int) -> list[xr.DataTree]:
    """Assemble sweeps of the cells, all of them in full length."""
    found: list[dict[str, xr.Dataset]] = [{} for _ in range(RUNS)]
    cells = [dict(zip(NAMES, values, strict=True)) for values in product(*axes)]
    for number, own in enumerate(cells):
        runs = simulate(model, runs=RUNS, seed=seed + number, burnin=200, between=4, **own)
        for groups, run in zip(found, runs, strict=True):
            chains, draws = run.sizes["chain"], run.sizes["draw"]
            states = [{"status": "complete", "reason": None, "step": 200 + 4 * draws}] * chains
            run.attrs["metadata"] = {**run.attrs["metadata"], "run": {"chains": states}}
            groups[f"/{cell_name(own)}"] = run
    trees = []
    for groups in found:
        tree = xr.DataTree.from_dict(groups)
        coordinates = {name: ("cell", [cell[name] for cell in cells]) for name in NAMES}
        tree.dataset = xr.Dataset(coords={"cell": np.arange(len(cells)), **coordinates})
        config = {"cells": [cell_name(cell) for cell in cells], "sampling_task": "train"}
        tree.attrs = {"devinterp_schema": "devinterp/sweep@1", "completed": 1, "metadata": {"config": config}}
        trees.append(tree)
    return trees


class Rows(nn.Module):
    """``2 + (r + a . w)**2 / 2`` on each row of a table, which token ids name."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        if isinstance(model, Regression):
            a, r = model.table
        else:  # a row for each direction, so that their mean has the curvatures
            a, r = np.diag(np.sqrt(model.size * model.h)), np.zeros(model.size)
        self.w = nn.Parameter(torch.zeros(a.shape[1]))
        self.a, self.r = torch.tensor(a, dtype=torch.float32), torch.tensor(r, dtype=torch.float32)
        self.ids = np.repeat(np.arange(len(r))[:, None], 2, axis=1)
        self.batch = getattr(model, "batch", len(r))


def rows_loss(model: Rows, ids: torch.Tensor) -> torch.Tensor:
    """(batch, 1)"""
    rows = ids[:, 0]
    return (2 + 0.5 * (model.r[rows] + model.a[rows] @ model.w) ** 2)[:, None]


def sampled(model: Any, axes: tuple[list[float], ...], seed: int) -> Iterator[xr.DataTree]:
    """Sweeps by `devinterp.sweep`, one after another."""
    module = Rows(model)
    grid = {name: [v for v in axis if v > 0] for name, axis in zip(NAMES, axes, strict=True)}  # the control is added
    for run in range(RUNS):
        yield sweep(
            module, module.ids, {"train": (module.ids, max(1, len(module.ids) // module.batch))},
            grid=grid, loss_fn=rows_loss, batch_size=module.batch, num_burnin_steps=200, num_steps_bw_draws=4,
            init_seed=seed + 10 * run, progress=False, device="cpu",
        )  # fmt: skip


def truth(model: Any, n_beta: float, localization: float) -> float:
    """The LLC at vanishing steps."""
    if isinstance(model, Regression):
        a = model.table[0]
        model = Quadratic(np.linalg.eigvalsh(a.T @ a / len(a)))
    return float(model.llc(n_beta, localization))


def main(names: list[str]) -> None:
    """Print what was chosen, and how far off it is."""
    right = total = 0
    torch.set_num_threads(1)
    made = sampled if "--sampled" in names else sweeps
    chosen_grids = {n: g for n, g in GRIDS.items() if n in names} or GRIDS
    print("| grid | lr, n_beta, localization | good | LLC over the small-step one | right |\n|---|---|---|---|---|")
    for number, (name, (model, axes)) in enumerate(GRIDS.items()):
        for tree in made(model, axes, 10_000 + 1000 * number) if name in chosen_grids else ():
            found = recommend(tree)
            chosen = found.settings
            ratio = (found.llc or np.nan) / truth(model, chosen["n_beta"], chosen["localization"])
            if "all too long" in name:
                unmet = [c.name for c in found.criteria if c.met is False]
                ok = not found.good and "a smaller step gives the same" in unmet
            else:
                ok = found.good and abs(ratio - 1) < 0.1
            right, total = right + ok, total + 1
            setting = ", ".join(f"{value:g}" for value in chosen.values())
            said = "good" if found.good else f"none ({found.verdict})"
            print(f"| {name} | {setting} | {said} | {ratio:.3f} | {ok} |", flush=True)
    print(f"{right} of {total} right")


if __name__ == "__main__":
    main(sys.argv[1:])
