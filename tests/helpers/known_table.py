"""The full table of ground-truth runs, and the part of it that the tests run: fixed beforehand, seeds included."""

from __future__ import annotations

from known_cases import Case, crossing, homogeneous, moments, quadratic, skewed, slopes
from known_networks import gaussian_bif, linear_network

__all__ = ["full_table", "quick_table"]


def quick_table() -> list[Case]:
    """A few thousand steps altogether."""
    return [
        quadratic("quadratic, small steps", [1.0, 3.0], lr=0.01, n_beta=30.0, localization=5.0),
        quadratic("quadratic, εa = 2.4: 2.5 times the plain value", [1.0, 1.0], lr=0.08, n_beta=30.0),
        moments("mean and variance under three priors", curvature=1.0, minimum=0.3, start=-0.2, lr=0.02, n_beta=40.0,
                localization=20.0, weight_decay=10.0, noise=0.7),
        moments("frozen RMSprop, v = 0", curvature=1.0, minimum=0.3, start=-0.2, lr=0.002, n_beta=40.0,
                localization=20.0, gain=10.0, sampling_method="rmsprop_sgld", rmsprop_alpha=1.0, rmsprop_eps=0.1),
        slopes("frozen RMSprop, constant slopes", [0.5, -2.0], lr=0.05, n_beta=3.0, localization=10.0, eps=0.1),
        skewed("skewed, exp(w) - w - 1", lr=0.1, n_beta=4.0),
        gaussian_bif("linear-Gaussian residuals", num_draws=40),
    ]  # fmt: skip


def full_table() -> list[Case]:
    """Every case of ``docs/ground-truth.md``."""
    long = {"num_draws": 400}
    return [
        quadratic("quadratic, small steps", [1.0, 3.0], lr=0.01, n_beta=30.0, localization=5.0, **long),
        quadratic("quadratic, εa = 2.4: 2.5 times the plain value", [1.0, 1.0], lr=0.08, n_beta=30.0, **long),
        quadratic("quadratic, εa = 3.6: 10 times the plain value", [1.0], lr=0.12, n_beta=30.0, **long),
        quadratic("quadratic in 8 dimensions", [1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 5.0, 8.0], lr=0.005, n_beta=20.0,
                  localization=10.0, **long),
        moments("mean and variance under three priors", curvature=1.0, minimum=0.3, start=-0.2, lr=0.02, n_beta=40.0,
                localization=20.0, weight_decay=10.0, noise=0.7, **long),
        moments("weight decay alone", curvature=1.0, minimum=0.5, start=0.5, lr=0.05, n_beta=10.0, weight_decay=15.0,
                **long),
        moments("localization alone, no data", curvature=1.0, minimum=9.0, start=0.4, lr=0.02, n_beta=0.0,
                localization=50.0, **long),
        moments("frozen RMSprop, v = 0", curvature=1.0, minimum=0.3, start=-0.2, lr=0.002, n_beta=40.0,
                localization=20.0, gain=10.0, sampling_method="rmsprop_sgld", rmsprop_alpha=1.0, rmsprop_eps=0.1,
                **long),
        slopes("frozen RMSprop, constant slopes", [0.5, -2.0], lr=0.05, n_beta=3.0, localization=10.0, eps=0.1),
        skewed("skewed, exp(w) - w - 1", lr=0.1, n_beta=4.0, num_draws=400),
        skewed("skewed, larger steps", lr=0.2, n_beta=4.0, num_draws=400),
        homogeneous("w⁴", 4, 1, lr=0.02, n_beta=1.0),
        homogeneous("r⁴ in 2 dimensions", 4, 2, lr=0.02, n_beta=1.0),
        homogeneous("w⁶", 6, 1, lr=0.01, n_beta=1.0),
        crossing((0, 1), lr=4e-4),
        crossing((1, 1), lr=4e-4),
        crossing((1, 2), lr=4e-4),
        crossing((2, 2), lr=4e-4),
        crossing((2, 3), lr=4e-4),
        linear_network((5, 3, 5), 0, n_beta=100.0, localization=1.0, lr=2e-4, steps=12_000),
        linear_network((4, 3, 8), 0, n_beta=100.0, localization=1.0, lr=2e-4, steps=12_000),
        linear_network((8, 3, 4), 0, n_beta=100.0, localization=1.0, lr=2e-4, steps=12_000),
        linear_network((3, 8, 4), 0, n_beta=100.0, localization=1.0, lr=2e-4, steps=12_000),
        linear_network((5, 4, 5), 0, n_beta=300.0, localization=1.0, lr=1e-4, steps=16_000),
        linear_network((4, 4, 4, 4), 0, n_beta=1000.0, localization=1.0, lr=2e-5, steps=30_000),
        linear_network((5, 3, 5), 1, n_beta=300.0, localization=1.0, lr=1e-4, steps=16_000, spread=0.5),
        linear_network((5, 5, 5, 5), 2, n_beta=300.0, localization=1.0, lr=3e-5, steps=30_000, spread=0.3),
        gaussian_bif("linear-Gaussian residuals"),
    ]  # fmt: skip
