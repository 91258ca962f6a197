"""Sweeps made by hand: SGLD itself, on a quadratic loss, so that what each cell must show is known."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import xarray as xr
from made_runs import make_run

from devinterp.slt.runs.grid import cell_name

START = 30.0  # nat; a loss that more than doubles counts as diverged


def quadratic_trace(
    lr: float,
    n_beta: float,
    localization: float,
    *,
    curvature: float = 1.0,
    directions: int = 50,
    chains: int = 4,
    draws: int = 200,
    burnin: int = 50,
    seed: int = 0,
) -> np.ndarray[Any, Any]:
    """Loss (nat) above its start at every draw, (chain, draw).

    Of w <- w - lr/2 (n_beta h + localization) w + sqrt(lr) noise.
    """
    rng = np.random.default_rng(seed)
    factor = 1 - lr / 2 * (n_beta * curvature + localization)
    w = np.zeros((chains, directions))
    out = np.empty((chains, draws))
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(burnin + draws):
            w = factor * w + np.sqrt(lr) * rng.normal(size=w.shape)
            if step >= burnin:
                out[:, step - burnin] = 0.5 * curvature * (w**2).sum(axis=1)
    return out


def make_cell(trace: np.ndarray[Any, Any], *, seconds: float | None = None, **settings: Any) -> xr.Dataset:
    """A run whose fixed rows follow ``trace``; a chain ends as failed where it exceeds what float32 holds."""
    chains, draws = trace.shape
    rng = np.random.default_rng(7)
    tree = make_run(chains=chains, draws=draws, tokens=3, rows={"task": 4}, **settings)
    data = tree.to_dataset()
    data["n_beta"] = ((), float(settings["n_beta"]))
    base = rng.normal(START, 0.3, (4, 3)).astype(np.float32)
    data["init_loss_task"] = (("batch_task", "token_pos"), base)
    with np.errstate(over="ignore"):
        level = (base + trace[:, :, None, None]).astype(np.float32)
    finite = np.isfinite(level).all(axis=(2, 3)) & (trace < 1e6)
    states = []
    for chain in range(chains):
        written = draws if finite[chain].all() else int(np.argmin(finite[chain]))
        level[chain, written:] = np.nan
        data["sampling_loss"].values[chain, written:] = np.nan
        data["draws_written"].values[chain] = written
        whole = written == draws
        state = {"status": "complete" if whole else "failed", "reason": None if whole else "the loss is not finite"}
        states.append({**state, "step": 5 + written})
    data["loss_task"] = (("chain", "draw", "batch_task", "token_pos"), level)
    data.attrs["metadata"]["run"] = {"chains": states, "seconds": [seconds] * chains}
    return data


def make_sweep(
    lr: tuple[float, ...],
    n_beta: tuple[float, ...],
    localization: tuple[float, ...],
    *,
    pilots: tuple[tuple[float, float, float], ...] = (),
    pilot_draws: int = 50,
    without: tuple[tuple[float, float, float], ...] = (),
    **options: Any,
) -> xr.DataTree:
    """A sweep over a quadratic; ``pilots`` are short, ``without`` are not there."""
    cells = {}
    for seed, values in enumerate(product(lr, n_beta, localization)):
        if values in without:
            continue
        own = dict(zip(("lr", "n_beta", "localization"), values, strict=True))
        draws = pilot_draws if values in pilots else options.get("draws", 200)
        trace = quadratic_trace(**own, seed=seed, **{**options, "draws": draws})
        cells[cell_name(own)] = make_cell(trace, seconds=1.5, **own)
    tree = xr.DataTree.from_dict({f"/{name}": cell for name, cell in cells.items()})
    settings = {
        s: ("cell", [c.attrs["metadata"]["config"]["sampler"][s] for c in cells.values()])
        for s in ("lr", "n_beta", "localization")
    }
    tree.dataset = xr.Dataset(coords={"cell": np.arange(len(cells)), **settings})
    tree.attrs = {
        "devinterp_schema": "devinterp/sweep@1",
        "completed": 1,
        "metadata": {"config": {"cells": list(cells), "sampling_task": "task"}},
    }
    return tree
