"""A samples store of about a gigabyte, with losses that compress as losses do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from devinterp.schema import load
from devinterp.store.location import locate
from devinterp.store.zarr_metadata import documents, open_array, write_consolidated_root

CHAINS, BATCH, TOKENS = 4, 32, 256


def make_big_store(path: Path, draws: int = 800) -> int:
    """Write the store and return the bytes of its arrays; 800 draws make 1.05 GB."""
    schema = load("samples")
    settings: dict[str, Any] = {
        "lr": 1e-4, "n_beta": 30.0, "num_chains": CHAINS, "num_draws": draws, "batch_size": BATCH,
        "num_burnin_steps": 0, "num_steps_bw_draws": 1, "gradient_accumulation_steps": 1, "num_init_loss_batches": 4,
        "init_seed": 0, "localization": 1.0, "noise_level": 1.0, "llc_weight_decay": 0.0,
        "sampling_method": "sgmcmc_sgld", "save_metrics": False,
    }  # fmt: skip
    members = {"obs": {name: {"batches_per_draw": 3} for name in ("code", "math", "prose")}}
    layout = schema.resolve(settings, members=members, sizes={"token_pos": TOKENS})
    chains = [{"status": "complete", "reason": None, "step": draws}] * CHAINS
    observables = [{"obs_id": name, "name": name, **own} for name, own in members["obs"].items()]
    attributes = {
        "devinterp_schema": schema.id,
        "completed": 1,
        "metadata": {
            "config": {"sampler": settings, "observables": observables},
            "run": {"chains": chains},
            "provenance": {"vocabulary_size": 50_000},
        },
    }
    location = locate(path, mode="w")
    everything = documents({"/": layout}, {"/": attributes}, schema.storage)
    location.set_many(everything)
    rng = np.random.default_rng(0)
    for name, array in layout.arrays.items():
        handle = open_array(location, f"/{name}", array, schema.storage)
        if array.spec.prefix is None:
            handle[...] = _values(name, array.shape, array.dtype, rng, draws)
            continue
        for chain in range(array.shape[0]):
            for row in range(0, array.shape[1], array.chunks[1]):
                shape = (min(array.chunks[1], array.shape[1] - row), *array.shape[2:])
                handle[chain, row : row + shape[0]] = rng.standard_gamma(2.0, shape, dtype=np.float32)
    write_consolidated_root(location, attributes, everything)
    return sum(array.nbytes for array in layout.arrays.values())


def _values(name: str, shape: tuple[int, ...], dtype: str, rng: np.random.Generator, draws: int) -> Any:
    if name == "draws_written":
        return np.full(shape, draws)
    if name == "n_beta":
        return 30.0
    if name.startswith("row_"):
        return np.arange(shape[0])
    return rng.integers(0, 50_000, shape) if dtype == "int64" else rng.standard_gamma(2.0, shape).astype(dtype)
