"""Models whose posterior is known, in many independent copies, so that one run brings its own error bar.

A `Replicas` module holds R copies of the same weights. The loss of row ``[0, ...]`` at position i is R times the loss
of copy i, so that the mean over positions is the sum over copies, and every copy follows the posterior of its own
loss at n_beta. Rows ``[k, ...]`` read out other functions of the copies. Copies are independent (no minibatch noise),
so their spread gives an honest interval, whatever the autocorrelation of the chain.

Imports torch, and of devinterp nothing, so that the reference implementation runs the same models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Function = Callable[..., torch.Tensor]
"""Parameters, each (copies, ...), to values (copies,)."""


class Replicas(nn.Module):
    """``copies`` independent copies of a set of weights, and the functions of them that tokens name.

    Parameters
    ----------
    start : mapping of str to array
        The weights that every copy starts from.
    functions : sequence of callable
        The first is the loss that is sampled on.
    """

    def __init__(self, start: Mapping[str, Any], functions: Sequence[Function], copies: int) -> None:
        super().__init__()
        self.copies, self.functions = copies, tuple(functions)
        for name, value in start.items():
            one = torch.as_tensor(np.asarray(value, dtype=np.float32))
            setattr(self, name, nn.Parameter(one.expand(copies, *one.shape).clone()))

    def values(self, index: int) -> torch.Tensor:
        """Function ``index`` of every copy, (copies,)."""
        return self.functions[index](*self.parameters())


def replica_loss(model: Replicas, input_ids: torch.Tensor) -> torch.Tensor:
    """Row ``[k, ...]``: function k - 1 of every copy; row ``[0, ...]``: the sampled loss, times the copies' number."""
    rows = []
    for k in input_ids[:, 0].tolist():
        rows.append(model.values(0) * model.copies if k == 0 else model.values(k - 1))
    return torch.stack(rows)


def rows_of(model: Replicas, index: int) -> NDArray[np.int64]:
    """One row of tokens that names a function: 0 the sampled loss, k function k - 1."""
    return np.full((1, model.copies + 1), index, dtype=np.int64)


def run_arguments(model: Replicas, names: Sequence[str]) -> dict[str, Any]:
    """What ``sample()`` takes of the model: data, observables by name of the function, the loss, one row per batch."""
    return {
        "model": model,
        "dataset": rows_of(model, 0),
        "observables": {name: rows_of(model, k + 1) for k, name in enumerate(names)},
        "loss_fn": replica_loss,
        "batch_size": 1,
        "batches_per_draw": 1,
        "num_init_loss_batches": 1,
    }


def readout(tree: Any, name: str) -> NDArray[np.float64]:
    """Values of a function, (chain, draw, copy)."""
    values: NDArray[np.float64] = tree[f"loss_{name}"].values.astype(np.float64)[:, :, 0, :]
    return values


def interval(per_replica: NDArray[np.float64], level: float = 0.99) -> tuple[float, float, float]:
    """Mean of independent replicates with its interval (Student's t): (estimate, low, high)."""
    from scipy import stats

    values = np.asarray(per_replica, dtype=np.float64).ravel()
    half = stats.t.ppf(0.5 + level / 2, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size)
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def effective_size(series: NDArray[np.float64]) -> float:
    """Number of independent draws that the mean of (chain, draw, copy) is worth: variance over squared error."""
    per_replica = series.mean(axis=1)
    error = per_replica.var(ddof=1) / per_replica.size
    return float(series.var() / error) if error > 0 else float("inf")
