"""SGLD as `devinterp.sample` does it, for many runs of a cheap model at once, and trees as it would have written them.

Losses are quadratic in the weights, so that every stationary mean is known. All chains of a run see the same
minibatches, in an order that repeats after a pass, as the sampler's loader has it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

ROWS = 4  # of the observable, where the loss is the same function of the weights in all rows


@dataclass(frozen=True)
class Quadratic:
    """``level + sum h w**2 / 2``, the whole dataset at every step."""

    h: np.ndarray[Any, Any]
    level: float = 2.0
    slope: np.ndarray[Any, Any] | float = 0.0

    @property
    def size(self) -> int:
        return self.h.size

    def gradient(self, w: Any, rng: Any, step: int) -> Any:
        return self.h * w + self.slope

    def losses(self, w: Any) -> Any:
        """(..., row)"""
        rise = (0.5 * self.h * w * w + self.slope * w).sum(axis=-1)
        return self.start() + rise[..., None]

    def start(self) -> Any:
        return self.level + np.array([-0.3, -0.1, 0.1, 0.3])

    def llc(self, n_beta: float, localization: float, lr: float = 0.0) -> float:
        a = n_beta * self.h + localization
        return float(0.5 * (n_beta * self.h / (a * (1 - lr * a / 4))).sum())


@dataclass
class Regression:
    """Least squares over ``count`` rows in minibatches of ``batch``, ``observed`` of them as the observable."""

    size: int
    count: int
    batch: int
    observed: int
    level: float = 2.0
    spread: float = 1.0
    seed: int = 3
    table: Any = field(init=False)
    order: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        a, r = rng.normal(size=(self.count, self.size)), self.spread * rng.normal(size=self.count)
        self.table = a, r - a @ np.linalg.lstsq(a, r, rcond=None)[0]

    def gradient(self, w: Any, rng: Any, step: int) -> Any:
        if self.order is None or self.order.shape[0] != w.shape[0]:
            self.order = np.argsort(rng.random((w.shape[0], self.count)), axis=1)
        x, _, e = self._minibatch(w, step)
        return np.einsum("rcb,rbd->rcd", e, x) / self.batch

    def _minibatch(self, w: Any, step: int) -> Any:
        """Inputs (run, row, weight) of a step's rows, and their residuals (run, chain, row) at the start and at w."""
        a, r = self.table
        first = step % (self.count // self.batch) * self.batch
        at = self.order[:, first : first + self.batch]
        return a[at], r[at][:, None], r[at][:, None] + np.einsum("rbd,rcd->rcb", a[at], w)

    def pairs(self, w: Any, step: int) -> Any:
        """Losses of a step's rows at the start and at w, (run, chain, row)."""
        _, before, now = self._minibatch(w, step)
        return np.broadcast_arrays(self.level + 0.5 * before**2, self.level + 0.5 * now**2)

    def losses(self, w: Any) -> Any:
        a, r = (part[: self.observed] for part in self.table)
        return self.start() + 0.5 * ((r + w @ a.T) ** 2 - r**2)

    def start(self) -> Any:
        return self.level + 0.5 * self.table[1][: self.observed] ** 2


def simulate(
    model: Any,
    *,
    runs: int,
    seed: int,
    lr: float,
    n_beta: float,
    localization: float,
    chains: int = 4,
    draws: int = 200,
    burnin: int = 0,
    between: int = 1,
    box: float | None = None,
    metrics: bool = True,
    rmsprop: tuple[float, float] | None = None,
    paired: bool = False,
) -> list[xr.Dataset]:
    """Sample ``runs`` runs, as Datasets that `diagnose` and `compute_llc` take; ``rmsprop`` is its eps and alpha.

    ``paired`` keeps the losses of every draw's minibatch, before its update, beside those at the start.
    """
    rng = np.random.default_rng(seed)
    w = np.zeros((runs, chains, model.size))
    steps = burnin + draws * between
    names = ("scaled_grad", "localization", "dot_grad_prior", "noise", "distance", "unscaled_grad")
    average = np.zeros_like(w)
    kept = {name: np.empty((runs, chains, steps), dtype=np.float32) for name in names}
    losses = np.empty((runs, chains, draws, model.start().size), dtype=np.float32)
    minibatches = np.empty((2, runs, chains, draws, model.batch if paired else 0), dtype=np.float32)
    step_loss = np.empty((runs, chains, steps), dtype=np.float32)
    if hasattr(model, "order"):
        model.order = None
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(steps):
            gradient, pull = lr / 2 * n_beta * model.gradient(w, rng, step), lr / 2 * localization * w
            noise, unscaled = np.sqrt(lr) * rng.normal(size=w.shape), gradient
            if rmsprop is not None:
                eps, alpha = rmsprop
                average = alpha * average + (1 - alpha) * (gradient / (lr / 2 * n_beta)) ** 2
                gain = 1 / (np.sqrt(average) + eps)
                gradient, pull, noise = gain * gradient, gain * pull, np.sqrt(gain) * noise
            if metrics:
                for name, value in zip(names, (gradient, pull, None, noise, w, unscaled), strict=True):
                    kept[name][..., step] = (
                        (gradient * pull).sum(axis=-1) if value is None else np.sqrt((value**2).sum(axis=-1))
                    )
            step_loss[..., step] = model.losses(w).mean(axis=-1)
            draw, since = divmod(step - burnin, between)
            if paired and draw >= 0 and since == 0:
                minibatches[:, :, :, draw] = model.pairs(w, step)
            w = w - gradient - pull + noise
            if box is not None:
                w = w.clip(-box, box)
            if draw >= 0 and since == 0:
                losses[:, :, draw] = model.losses(w)
    settings = {
        "lr": lr, "n_beta": n_beta, "localization": localization, "num_chains": chains, "num_draws": draws,
        "num_burnin_steps": burnin, "num_steps_bw_draws": between, "bounding_box_size": box,
        "match_sampling_input_ids_across_chains": True, "noise_level": 1.0,
        "sampling_method": "sgmcmc_sgld" if rmsprop is None else "rmsprop_sgld",
        "batch_size": getattr(model, "batch", ROWS),
    }  # fmt: skip
    if rmsprop is not None:
        settings |= {"rmsprop_eps": rmsprop[0], "rmsprop_alpha": rmsprop[1]}
    count = getattr(model, "count", ROWS)
    metadata = {
        "config": {"sampler": settings, "sampling_task": "train"},
        "provenance": {
            "sampled": {"weights": model.size},
            "dataset": {"length": count},
            "observables": {"train": {"length": count}},
        },
    }
    step_dims = ("chain", "step")
    found = []
    for run in range(runs):
        data = {
            "loss_train": (("chain", "draw", "batch_train", "token_pos"), losses[run][..., None]),
            "init_loss_train": (("batch_train", "token_pos"), model.start()[:, None].astype(np.float32)),
            "step_loss": (step_dims, step_loss[run]),
            "n_beta": ((), n_beta),
        }
        if paired:
            for name, each in zip(("init_loss_sampling", "sampling_loss"), minibatches, strict=True):
                data[name] = ("chain", "draw", "batch", "token_pos"), each[run][..., None]
        if metrics:
            data |= {f"metrics_{name}": (step_dims, value[run]) for name, value in kept.items()}
            data["metrics_weight_decay"] = (step_dims, np.zeros((chains, steps), dtype=np.float32))
        found.append(xr.Dataset(data, attrs={"metadata": metadata}))
    return found
