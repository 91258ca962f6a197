"""Runs made by hand from random losses: as small as an analysis needs, with any part left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr


def losses(
    rng: np.random.Generator, chains: int, draws: int, rows: int, tokens: int, *, memory: float = 0.7
) -> np.ndarray[Any, Any]:
    """Autocorrelated losses around 3 nat, (chain, draw, row, token) float32."""
    noise = rng.normal(size=(chains, draws, rows, tokens))
    shared = rng.normal(size=(chains, draws, 1, 1))
    out = np.empty_like(noise)
    out[:, 0] = noise[:, 0]
    for t in range(1, draws):
        out[:, t] = memory * out[:, t - 1] + np.sqrt(1 - memory**2) * noise[:, t]
    return (3 + rng.normal(size=(rows, tokens)) + 0.2 * out + 0.1 * shared).astype(np.float32)


def make_run(
    seed: int = 0,
    *,
    chains: int = 3,
    draws: int = 40,
    tokens: int = 6,
    rows: dict[str, int] | None = None,
    batch: int = 4,
    vocabulary: int = 50,
    **sampler: Any,
) -> xr.DataTree:
    """A samples tree that is complete by the contract, its losses autocorrelated noise."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(99)
    rows = {"train": 5, "code": 3, "math": 2} if rows is None else rows
    variables: dict[str, Any] = {
        "init_loss": (("chain", "token_pos"), np.tile(fixed.normal(3, 0.1, tokens), (chains, 1)).astype(np.float32)),
        "sampling_loss": (("chain", "draw", "batch", "token_pos"), losses(rng, chains, draws, batch, tokens)),
        "n_beta": ((), 30.0),
        "draws_written": ("chain", np.full(chains, draws, dtype=np.int64)),
    }
    for name, count in rows.items():
        batch_dim = f"batch_{name}"
        variables[f"loss_{name}"] = (
            ("chain", "draw", batch_dim, "token_pos"),
            losses(rng, chains, draws, count, tokens),
        )
        ids = fixed.integers(1, vocabulary, (count, tokens + 1))
        ids[:, 0] = 0
        variables[f"input_ids_{name}"] = ((batch_dim, "token"), ids)
        start = fixed.normal(2.9, 0.1, (count, tokens)).astype(np.float32)
        variables[f"init_loss_{name}"] = ((batch_dim, "token_pos"), start)
    settings = {
        "lr": 1e-3,
        "n_beta": 30.0,
        "num_chains": chains,
        "num_draws": draws,
        "num_burnin_steps": 5,
        "num_steps_bw_draws": 1,
        "batch_size": batch,
        "gradient_accumulation_steps": 1,
        "num_init_loss_batches": 8,
        "localization": 10.0,
        **sampler,
    }
    metadata = {
        "config": {
            "sampler": settings,
            "observables": [{"obs_id": name, "name": name, "batches_per_draw": 1} for name in rows],
        },
        "run": {"chains": [{"status": "complete", "reason": None, "step": 5 + draws} for _ in range(chains)]},
    }
    attrs = {"devinterp_schema": "devinterp/samples@1", "completed": 1, "metadata": metadata}
    return xr.DataTree(xr.Dataset(variables, attrs=attrs))


def fail_chain(tree: xr.DataTree, chain: int, draws: int) -> xr.DataTree:
    """The run had one of its chains diverged after so many draws: the rest is fill, and the store says so."""
    dataset = tree.to_dataset().copy(deep=True)
    for name, variable in dataset.variables.items():
        if "draw" in variable.dims:
            dataset[name].values[chain, draws:] = np.nan
    dataset["draws_written"].values[chain] = draws
    dataset.attrs["metadata"]["run"]["chains"][chain] = {"status": "failed", "reason": "loss is NaN", "step": draws + 5}
    return xr.DataTree(dataset)


def make_study(names: tuple[str, ...] = ("full", "l0h0", "l1h2"), **options: Any) -> xr.DataTree:
    """A study of runs that share rows and start, on the sampling task `train`."""
    tree = xr.DataTree.from_dict({f"/{name}": make_run(k, **options).to_dataset() for k, name in enumerate(names)})
    tree.attrs = {
        "devinterp_schema": "devinterp/study@1",
        "completed": 1,
        "metadata": {"config": {"sampling_task": "train", "restrictions": list(names)}},
    }
    return tree


def to_store(tree: xr.DataTree, path: Any, *, draws: int = 16) -> xr.DataTree:
    """Write the tree in chunks of one chain and a few draws, and open it lazily."""
    for node in tree.subtree:
        dataset = node.to_dataset(inherit=False)
        encoding = {
            name: {
                "chunks": tuple(1 if d == "chain" else min(draws, n) if d == "draw" else n for d, n in v.sizes.items())
            }
            for name, v in dataset.variables.items()
            if "draw" in v.dims
        }
        group = None if node.path == "/" else node.path
        dataset.to_zarr(path, group=group, mode="a", encoding=encoding, consolidated=False, zarr_format=3)
    return xr.open_datatree(path, engine="zarr", consolidated=False)


def make_series(
    steps: tuple[int, ...] = (100, 1000, 3000), names: tuple[str, ...] = ("full", "l0h0"), **options: Any
) -> xr.DataTree:
    """A series of such studies; losses rise with every checkpoint, ``options`` may be a function of the step."""
    groups: dict[str, xr.Dataset] = {"/": xr.Dataset(coords={"checkpoint": np.array(steps, dtype=np.int64)})}
    config = {"sampling_task": "train", "restrictions": list(names)}
    for i, step in enumerate(steps):
        own = {k: v(step) if callable(v) else v for k, v in options.items()}
        study = make_study(names, **own)
        for name in names:
            run = study[name].to_dataset()
            raised = {v: run[v] + np.float32(0.05 * i) for v in run if str(v).startswith(("loss_", "sampling_loss"))}
            groups[f"/{step}/{name}"] = run.assign(raised)
    tree = xr.DataTree.from_dict(groups)
    for step in steps:
        tree[str(step)].attrs = {
            "devinterp_schema": "devinterp/study@1",
            "completed": 1,
            "metadata": {"config": config},
        }
    tree.attrs = {
        "devinterp_schema": "devinterp/series@1",
        "completed": 1,
        "metadata": {"config": {**config, "checkpoints": list(steps)}},
    }
    return tree
