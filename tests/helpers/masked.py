"""Runs of which some positions are masked, and the same rows cut to the positions that are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from devinterp.testing import make_tree

__all__ = ["cut", "masked_run", "masked_study", "only", "without_masks"]

SIZES: dict[str, Any] = {
    "parameters": {"num_chains": 2, "num_draws": 12, "num_burnin_steps": 2, "num_steps_bw_draws": 1, "batch_size": 3,
                   "save_step_losses": True},
    "members": {"obs": {"code": {"batches_per_draw": 1}, "math": {"batches_per_draw": 2}}},
    "sizes": {"token_pos": 5},
    "attributes": {"metadata": {"config": {"sampler": {"lr": 1e-3, "n_beta": 10.0, "localization": 100.0,
                                                       "llc_weight_decay": 0.0, "num_init_loss_batches": 4,
                                                       "noise_level": 1.0, "sampling_method": "sgmcmc_sgld"}}}},
}  # fmt: skip
ALL = frozenset({"mask_{obs}", "mask_sampling", "mask_sampling_micro"})


def masked_run(seed: int = 0, **changes: Any) -> xr.DataTree:
    """A run with random masks in all that is sampled."""
    return make_tree("samples", optional=ALL, seed=seed, **{**SIZES, **changes})


def masked_study(seed: int = 0, **changes: Any) -> xr.DataTree:
    """A study with random masks."""
    members = {**SIZES["members"], "restriction": {"full": {}, "l0h0": {}, "l1": {}}}
    return make_tree("study", optional=ALL, seed=seed, **{**SIZES, "members": members, **changes})


def without_masks(tree: xr.DataTree) -> xr.DataTree:
    """The tree without its masks, with numbers in the place of NaN."""

    def drop(node: xr.Dataset) -> xr.Dataset:
        kept = node.drop_vars([n for n in node.variables if str(n).startswith("mask_")])
        losses = {n: v for n, v in kept.data_vars.items() if "token_pos" in v.dims and v.dtype.kind == "f"}
        return kept.assign({n: v.fillna(1.5 + 0.1 * v["draw"] if "draw" in v.dims else 1.5) for n, v in losses.items()})

    return tree.map_over_datasets(drop)


def only(tree: xr.DataTree, kept: slice) -> xr.DataTree:
    """Mask every position of every row but the kept ones, in a run or study that has no masks."""

    def mask(node: xr.Dataset) -> xr.Dataset:
        if "token_pos" not in node.dims:
            return node
        counts = np.zeros(node.sizes["token_pos"], dtype=np.int8)
        counts[kept] = 1
        at = xr.DataArray(counts, dims="token_pos")
        losses = {n: v.where(at == 1) for n, v in node.data_vars.items() if "token_pos" in v.dims}
        masks = {}
        for name, loss in losses.items():
            if str(name).startswith("sampling_loss") or str(name).startswith("loss_"):
                like = loss if str(name).startswith("sampling") else loss.isel(chain=0, draw=0, drop=True)
                mask_name = f"mask_{str(name).replace('sampling_loss', 'sampling').removeprefix('loss_')}"
                masks[mask_name] = (at * xr.ones_like(like, dtype=np.int8)).transpose(*like.dims)
        return node.assign({**losses, **masks})

    return tree.map_over_datasets(mask)


def cut(tree: xr.DataTree, kept: slice) -> xr.DataTree:
    """Cut every row of a run or study to the kept positions, labels included."""

    def part(node: xr.Dataset) -> xr.Dataset:
        if "token_pos" not in node.dims:
            return node
        labelled = node.assign_coords(
            token_pos=np.arange(node.sizes["token_pos"]), token=np.arange(node.sizes["token_pos"] + 1)
        )
        return labelled.isel(token_pos=kept)

    return tree.map_over_datasets(part)
