"""The ground-truth cases: models, settings, and what each run must find. Used by the tests and by the table.

A case is one call of ``sample()``; its rows are numbers with a target. ``exact`` targets hold for this very run (its
step size, n_beta, localization and start) and must lie in the 99 % interval; ``asymptotic`` ones are learning
coefficients, met up to a bias bound fixed beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import targets
import torch
from numpy.typing import NDArray
from replicas import Replicas, readout, run_arguments

Measure = Callable[[Any], NDArray[np.float64]]
ASYMPTOTIC_BOUND = 0.10


@dataclass(frozen=True)
class Row:
    """One number: what it should be (quadrature waits until it is asked) and how replicates are read from the tree."""

    label: str
    known: float | Callable[[], float]
    measure: Measure
    kind: str = "exact"

    @cached_property
    def target(self) -> float:
        """What the number should be."""
        return self.known() if callable(self.known) else self.known


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes
    ----------
    group, name : str
    build : callable
        Makes the model.
    functions : sequence of str
        Names of the model's functions, read out as observables.
    settings : dict
        Arguments of ``sample()`` besides data and model.
    rows : sequence of Row
    """

    group: str
    name: str
    build: Callable[[], Replicas]
    functions: Sequence[str]
    settings: dict[str, Any]
    rows: Sequence[Row] = field(default_factory=tuple)

    def arguments(self) -> dict[str, Any]:
        """Every argument of ``sample()``."""
        model = self.build()
        masks = self.settings.get("param_masks")
        settings = {k: v for k, v in self.settings.items() if k != "param_masks"}
        if masks is not None:
            settings["param_masks"] = {n: None if m is None else m(model) for n, m in masks.items()}
        return {**run_arguments(model, self.functions), **settings}


def mean_of(name: str, scale: float = 1.0) -> Measure:
    """Mean over draws of a function, one value per chain and copy."""
    return lambda tree: scale * readout(tree, name).mean(axis=1)


def n_beta_loss(name: str = "loss") -> Measure:
    """n_beta times the mean loss above the start, per chain and copy: the copies' own LLCs."""

    def measure(tree: Any) -> NDArray[np.float64]:
        n_beta = float(tree.attrs["metadata"]["config"]["sampler"]["n_beta"])
        return n_beta * readout(tree, name).mean(axis=1)

    return measure


BASE: dict[str, Any] = {"num_chains": 2, "init_seed": 11, "localization": 0.0}


# ---- the update rule ------------------------------------------------------------------------------------------------


def quadratic(
    name: str,
    curvatures: Sequence[float],
    *,
    lr: float,
    n_beta: float,
    localization: float = 0.0,
    copies: int = 256,
    **settings: Any,
) -> Case:
    """½ Σ h w², started at its minimum: exact at any step size."""
    h = torch.tensor(curvatures, dtype=torch.float32)
    slowest = min(n_beta * c + localization for c in curvatures)
    relax = int(np.ceil(2 / (lr * slowest)))
    return Case(
        "update rule",
        name,
        lambda: Replicas({"w": np.zeros(len(curvatures))}, [lambda w: 0.5 * (h * w**2).sum(1)], copies),
        ["loss"],
        {**BASE, "lr": lr, "n_beta": n_beta, "localization": localization, "num_burnin_steps": 6 * relax,
         "num_draws": 100, "num_steps_bw_draws": max(1, relax // 2), **settings},
        [Row("LLC", targets.quadratic_llc(curvatures, n_beta, localization, lr), n_beta_loss())],
    )  # fmt: skip


def moments(
    name: str,
    *,
    curvature: float,
    minimum: float,
    start: float,
    lr: float,
    n_beta: float,
    localization: float = 0.0,
    weight_decay: float = 0.0,
    noise: float = 1.0,
    gain: float = 1.0,
    copies: int = 256,
    **settings: Any,
) -> Case:
    """Mean and variance of one weight in ½ h (w - m)², with priors around the start and around zero.

    ``gain`` is the constant preconditioner G of a frozen RMSprop: it stretches the step size and leaves the law.
    """
    a = n_beta * curvature + localization + weight_decay
    centre = (n_beta * curvature * minimum + localization * start) / a
    variance = float(targets.stationary_variance(a, lr * gain, noise))
    relax = int(np.ceil(2 / (lr * gain * a)))
    return Case(
        "update rule",
        name,
        lambda: Replicas(
            {"w": np.array([start])},
            [
                lambda w: 0.5 * curvature * (w[:, 0] - minimum) ** 2,
                lambda w: w[:, 0],
                lambda w: (w[:, 0] - centre) ** 2,
            ],
            copies,
        ),
        ["loss", "w", "square"],
        {**BASE, "lr": lr, "n_beta": n_beta, "localization": localization, "llc_weight_decay": weight_decay,
         "noise_level": noise, "num_burnin_steps": 10 * relax, "num_draws": 100,
         "num_steps_bw_draws": max(1, relax // 2), **settings},
        [Row("mean", centre, mean_of("w")), Row("variance", variance, mean_of("square"))],
    )  # fmt: skip


def slopes(name: str, gradients: Sequence[float], *, lr: float, n_beta: float, localization: float, eps: float) -> Case:
    """Linear losses g w under RMSprop: the gradient is constant, so G = 1 / (|g| + eps) is frozen, per parameter."""
    g = np.asarray(gradients)
    gain = 1 / (np.abs(g) + eps)
    variances = (
        targets.stationary_variance(localization, float(lr * gain[0])),
        targets.stationary_variance(localization, float(lr * gain[1])),
    )
    centres = -n_beta * g / localization
    slope = torch.tensor(g, dtype=torch.float32)
    relax = int(np.ceil(2 / (lr * gain.min() * localization)))
    rows = []
    for i in range(2):
        rows += [
            Row(f"mean of w{i}", float(centres[i]), mean_of(f"w{i}")),
            Row(f"variance of w{i}", float(variances[i]), mean_of(f"square{i}")),
        ]
    return Case(
        "update rule",
        name,
        lambda: Replicas(
            {"w": np.zeros(2)},
            [
                lambda w: (slope * w).sum(1),
                lambda w: w[:, 0],
                lambda w: w[:, 1],
                lambda w: (w[:, 0] - float(centres[0])) ** 2,
                lambda w: (w[:, 1] - float(centres[1])) ** 2,
            ],
            256,
        ),
        ["loss", "w0", "w1", "square0", "square1"],
        {**BASE, "lr": lr, "n_beta": n_beta, "localization": localization, "sampling_method": "rmsprop_sgld",
         "rmsprop_eps": eps, "rmsprop_alpha": 0.9, "num_burnin_steps": 10 * relax + 200, "num_draws": 100,
         "num_steps_bw_draws": max(1, relax // 2)},
        rows,
    )  # fmt: skip


def skewed(name: str, *, lr: float, n_beta: float, copies: int = 512, num_draws: int = 100) -> Case:
    """exp(w) - w - 1: a sign error of the gradient, or of the noise's scale, shows in mean and third moment."""

    def gradient(w: NDArray[np.float64]) -> NDArray[np.float64]:
        return n_beta * (np.exp(w) - 1)

    grid, law = targets.kernel_law(gradient, lr, -6.0 / n_beta**0.5 * 2 - 1, 5.0 / n_beta**0.5 + 1)
    centre = float((law * grid).sum())
    third = float((law * (grid - centre) ** 3).sum())
    loss = float((law * (np.exp(grid) - grid - 1)).sum())
    relax = int(np.ceil(2 / (lr * n_beta)))
    return Case(
        "update rule",
        name,
        lambda: Replicas(
            {"w": np.zeros(1)},
            [lambda w: (w.exp() - w - 1)[:, 0], lambda w: w[:, 0], lambda w: ((w - centre) ** 3)[:, 0]],
            copies,
        ),
        ["loss", "w", "cube"],
        {**BASE, "lr": lr, "n_beta": n_beta, "num_burnin_steps": 10 * relax, "num_draws": num_draws,
         "num_steps_bw_draws": max(1, relax // 2)},
        [
            Row("LLC", n_beta * loss, n_beta_loss()),
            Row("mean", centre, mean_of("w")),
            Row("third central moment", third, mean_of("cube")),
        ],
    )  # fmt: skip


# ---- degenerate losses ---------------------------------------------------------------------------------------------


def homogeneous(name: str, degree: int, dimension: int, *, lr: float, n_beta: float, num_draws: int = 100) -> Case:
    """|w|^p in d dimensions, no localization: nβE[L] = d / p, here at the chain's own step size."""
    scale = n_beta ** (-1 / degree)
    reach = 80 ** (1 / degree) * scale  # the density there is exp(-80)
    if dimension == 1:
        grid, law = targets.kernel_law(
            lambda w: n_beta * degree * np.sign(w) * np.abs(w) ** (degree - 1), lr, -reach, reach
        )
        target = n_beta * float((law * np.abs(grid) ** degree).sum())
    else:
        r = np.linspace(0, reach, 20001)[1:]
        u = n_beta * r**degree
        du = n_beta * degree * r ** (degree - 1)
        laplacian = n_beta * degree * (degree + dimension - 2) * r ** (degree - 2)
        target = n_beta * targets.corrected_mean(u, du**2, laplacian, r**degree, r ** (dimension - 1), lr)
    relax = int(np.ceil(2 / (lr * n_beta * scale ** (degree - 2))))
    return Case(
        "degenerate",
        name,
        lambda: Replicas({"w": np.zeros(dimension)}, [lambda w: (w**2).sum(1) ** (degree / 2)], 512),
        ["loss"],
        {**BASE, "lr": lr, "n_beta": n_beta, "num_burnin_steps": 10 * relax, "num_draws": num_draws,
         "num_steps_bw_draws": max(1, relax // 2)},
        [Row("LLC", target, n_beta_loss())],
    )  # fmt: skip


def crossing(powers: tuple[int, int], *, n_beta: float = 100.0, localization: float = 1.0, lr: float = 1e-4) -> Case:
    """(x^k y^l)², localised at the crossing; by quadrature at the run's own n_beta, localization and step size."""
    k, m = powers
    return Case(
        "normal crossing",
        f"x^{2 * k} y^{2 * m}",
        lambda: Replicas({"x": np.zeros(()), "y": np.zeros(())}, [lambda x, y: (x**k * y**m) ** 2], 512),
        ["loss"],
        {**BASE, "lr": lr, "n_beta": n_beta, "localization": localization, "init_noise": 0.3 * localization**-0.5,
         "num_chains": 1, "num_burnin_steps": int(7 / (lr * localization)), "num_draws": 20,
         "num_steps_bw_draws": int(0.25 / (lr * localization))},
        [Row("LLC", lambda: targets.crossing_llc(powers, n_beta, localization, lr), n_beta_loss())],
    )  # fmt: skip
