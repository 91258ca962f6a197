"""A sweep over n_beta, localization and step size on a quadratic, every cell against its formula.

½ Σ nβh / [a (1 - εa/4)] with a = nβh + γ. Each cell is 512 independent copies of the weights, whose spread gives its
interval; all intervals together hold at 99 %.

    PYTHONPATH=tests/helpers python tests/benchmarks/sweep/quadratic.py
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from replicas import Replicas, interval, readout, run_arguments
from targets import quadratic_llc

from devinterp import sweep

CURVATURES = (0.2, 0.5, 1.0, 3.0)
GRID = {"lr": [0.005, 0.02], "n_beta": [3.0, 10.0, 20.0, 40.0], "localization": [2.0, 5.0, 10.0, 30.0]}


def main() -> None:
    """Print one line for each cell, and how many hold."""
    torch.set_num_threads(1)
    h = torch.tensor(CURVATURES)
    model = Replicas({"w": np.zeros(len(CURVATURES))}, [lambda w: 0.5 * (h * w**2).sum(1)], 512)
    tree = sweep(
        **run_arguments(model, ["loss"]),
        grid=GRID,
        sampling_task="loss",
        num_chains=1,
        num_draws=40,
        pilot_draws=20,
        extend=6,
        num_burnin_steps=600,
        num_steps_bw_draws=10,
        control=False,
        progress=False,
    )
    summary = tree.devinterp.sweep()
    cells = list(product(*GRID.values()))
    level, held = 1 - 0.01 / len(cells), 0
    print("lr      n_beta  localization  draws  LLC     interval            formula")
    for lr, n_beta, localization in cells:
        one = summary.sel(lr=lr, n_beta=n_beta, localization=localization)
        cell = tree[f"lr={lr:g},n_beta={n_beta:g},localization={localization:g}"]
        estimate, low, high = interval(n_beta * readout(cell, "loss").mean(axis=1), level)
        known = quadratic_llc(CURVATURES, n_beta, localization, lr)
        held += low <= known <= high
        mark = "" if low <= known <= high else "  outside"
        print(
            f"{lr:<7g} {n_beta:<7g} {localization:<13g} {int(one['num_draws']):<6d} {estimate:<7.4f} "
            f"[{low:.4f}, {high:.4f}]    {known:.4f}{mark}"
        )
    print(f"{held} of {len(cells)} cells hold their formula")


if __name__ == "__main__":
    main()
