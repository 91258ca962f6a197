"""Runs with exactly known arithmetic, for properties: losses are multiples of 1/1024, so that float32 keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from hypothesis import strategies as st

from devinterp.testing import StoreRecipe, make_tree
from devinterp.testing.strategies import recipes

LOSSES = ("init_loss", "sampling_loss", "step_loss", "loss_")


def dyadic(tree: xr.DataTree) -> xr.DataTree:
    """Round every loss, in place, to a multiple of 1/1024 below 64: sums with small integers are exact in float32."""
    for node in tree.subtree:
        for name, variable in node.variables.items():
            if str(name).startswith(LOSSES):
                variable.values[...] = np.round(np.clip(variable.values, 0.0, 63.0) * 1024) / 1024
    return tree


def runs(kind: str = "samples", **options: Any) -> st.SearchStrategy[xr.DataTree]:
    """Valid trees without failed chains, losses exact."""
    options = {"failures": False, **options}
    return recipes(kind, **options).map(make_tree).map(dyadic)


def a_run(kind: str = "samples", *, seed: int = 0, **changes: Any) -> xr.DataTree:
    """One fixed run."""
    return dyadic(make_tree(StoreRecipe(kind), seed=seed, **changes))


def observables(tree: xr.DataTree) -> list[str]:
    """Ids of the observables, sorted."""
    return sorted(str(n).removeprefix("loss_") for n in tree.data_vars if str(n).startswith("loss_"))


def assign(tree: xr.DataTree, changes: Mapping[str, Any]) -> xr.DataTree:
    """Return the tree with the values of some variables replaced."""
    dataset = tree.to_dataset().copy()
    for name, values in changes.items():
        dataset[name] = dataset[name].copy(data=np.asarray(values, dtype=dataset[name].dtype))
    return xr.DataTree(dataset)
