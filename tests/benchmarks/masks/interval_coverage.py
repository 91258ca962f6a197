"""How often intervals of an LLC hold the truth, with rows of unequal lengths and of one length, in simulated runs.

    python tests/benchmarks/masks/interval_coverage.py [runs]

Rows come from a population of 4096 whose long rows rise more; a chain moves all losses by the square of a coordinate
that is autoregressive, so that the mean rise of the population, and that of the rows of a run, are known.
"""

from __future__ import annotations

import sys

import numpy as np
import xarray as xr

from devinterp.slt.llc import compute_llc

POPULATION, WIDTH, CHAINS, DRAWS, ROWS, N_BETA = 4096, 20, 4, 60, 48, 10.0
SAMPLER = {"n_beta": N_BETA, "num_draws": DRAWS, "num_chains": CHAINS, "batch_size": ROWS}
METADATA = {
    "config": {"sampler": SAMPLER, "observables": [{"obs_id": "a", "name": "a", "batches_per_draw": 1}]},
    "provenance": {"observables": {"a": {"length": POPULATION}}},
}


def coverage(runs: int, *, unequal: bool) -> tuple[float, float]:
    """Shares of 90 % intervals that hold the LLC of the population, and that of the rows."""
    setup = np.random.default_rng(1)
    steps = np.clip(setup.geometric(0.18, POPULATION) + 1, 2, WIDTH)
    lengths = steps if unequal else np.full(POPULATION, 9)
    effect = 0.02 * (1 + steps / 4) * setup.gamma(4, 0.25, POPULATION)
    base = setup.normal(3, 0.5, (POPULATION, WIDTH))
    truth = N_BETA * (lengths * effect).sum() / lengths.sum()
    held = np.zeros((runs, 2))
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        rows = rng.choice(POPULATION, ROWS, replace=False)
        moved = np.empty((CHAINS, DRAWS))
        moved[:, 0] = rng.normal(size=CHAINS)
        for t in range(1, DRAWS):
            moved[:, t] = 0.7 * moved[:, t - 1] + np.sqrt(1 - 0.49) * rng.normal(size=CHAINS)
        rise = effect[rows] * (moved**2)[:, :, None] + 0.015 * rng.normal(size=(CHAINS, DRAWS, ROWS))
        counts = np.arange(WIDTH) < lengths[rows][:, None]
        losses = np.where(counts, base[rows] + rise[..., None], np.nan).astype("f4")
        at = ("batch_a", "token_pos")
        run = xr.Dataset(
            {
                "loss_a": (("chain", "draw", *at), losses),
                "init_loss_a": (at, np.where(counts, base[rows], np.nan).astype("f4")),
                "mask_a": (at, counts.astype("i1")),
                "n_beta": N_BETA,
            },
            attrs={"metadata": METADATA},
        )
        result = compute_llc(xr.DataTree(run), over="observable", observable="a", ci=0.9)
        given = N_BETA * (lengths * effect)[rows].sum() / lengths[rows].sum()
        for k, (name, known) in enumerate((("llc_ci", truth), ("llc_ci_given_rows", given))):
            low, high = result[name].values
            held[seed, k] = low < known < high
    return float(held[:, 0].mean()), float(held[:, 1].mean())


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 900
    error = np.sqrt(0.09 / count)
    for unequal in (True, False):
        whole, given = coverage(count, unequal=unequal)
        kind = "unequal lengths" if unequal else "one length"
        print(f"{kind}: {whole:.1%} of the intervals hold, given the rows {given:.1%} (± {error:.1%})")
