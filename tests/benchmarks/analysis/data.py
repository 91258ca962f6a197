"""Random runs for the benchmarks, written with numpy and xarray alone so that any package can read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

TASK = "train"


def run_dataset(rows: dict[str, int], *, chains: int, draws: int, tokens: int, seed: int) -> xr.Dataset:
    """A samples dataset with losses around 3 nat whose draws share a common factor."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(0)
    shared = rng.normal(size=(chains, draws, 1, 1)).astype(np.float32)
    init = np.full((chains, tokens), 2.9, dtype=np.float32)
    variables: dict[str, Any] = {"init_loss": (("chain", "token_pos"), init)}
    for name, count in rows.items():
        loss = rng.standard_normal((chains, draws, count, tokens), dtype=np.float32)
        loss *= 0.2
        loss += 3 + 0.1 * shared
        variables[f"loss_{name}"] = (("chain", "draw", f"batch_{name}", "token_pos"), loss)
        ids = fixed.integers(0, 5000, (count, tokens + 1))
        variables[f"input_ids_{name}"] = ((f"batch_{name}", "token"), ids)
    sampler = {"n_beta": 30.0, "num_chains": chains, "num_draws": draws}
    observables = [{"obs_id": name, "name": name, "batches_per_draw": 1} for name in rows]
    metadata = {"config": {"sampler": sampler, "observables": observables}}
    return xr.Dataset(variables, attrs={"completed": 1, "metadata": metadata})


def write_run(path: Path, dataset: xr.Dataset, *, draws: int = 50) -> Path:
    """Write a run in chunks of one chain and at most 50 draws, as sampling does; keep what is there."""
    if not path.exists():
        encoding = {
            name: {"chunks": (1, min(draws, v.sizes["draw"]), *v.shape[2:])}
            for name, v in dataset.data_vars.items()
            if "draw" in v.dims
        }
        dataset.to_zarr(path, encoding=encoding, consolidated=False, zarr_format=3)
    return path


def open_run(path: Path) -> xr.DataTree:
    """Open a run lazily."""
    return xr.open_datatree(path, engine="zarr", consolidated=False)
