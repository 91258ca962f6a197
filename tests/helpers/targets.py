"""What ground-truth runs must find: closed forms, transition kernels and quadrature. No torch, no sampler.

Conventions: potential U = nβ L + γ/2 |w - w0|², step size ε, update w' = w - ε/2 ∇U + sqrt(ε) N(0, 1). All LLCs are
n_beta * (E[L] - L(w0)).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


# ---- Gaussian targets: exact at any step size ----------------------------------------------------------------------


def stationary_variance(precision: Array | float, lr: float, noise: float = 1.0) -> Array:
    """Variance of w' = (1 - εa/2) w + sqrt(ε) noise N(0, 1): noise² / (a (1 - εa/4)); a is the precision."""
    a = np.asarray(precision, dtype=np.float64)
    if (lr * a >= 4).any():
        raise ValueError("the chain diverges at εa >= 4")
    return np.asarray(noise**2 / (a * (1 - lr * a / 4)))


def quadratic_llc(curvatures: Sequence[float], n_beta: float, localization: float, lr: float) -> float:
    """½ Σ nβh / [a (1 - εa/4)] with a = nβh + γ, started at the minimum."""
    h = np.asarray(curvatures, dtype=np.float64)
    return float(0.5 * (n_beta * h * stationary_variance(n_beta * h + localization, lr)).sum())


# ---- one dimension: the chain's own transition kernel --------------------------------------------------------------


def kernel_law(
    gradient: Callable[[Array], Array], lr: float, low: float, high: float, points: int = 600
) -> tuple[Array, Array]:
    """Stationary law of the finite-step chain in one dimension: (grid, probabilities).

    The kernel's density is smooth, so that its discretisation on an even grid converges faster than any power.
    """
    grid = np.linspace(low, high, points)
    # Far out, where no chain ever is, one step may lead beyond the grid; see the check below.
    mean = np.clip(grid - lr / 2 * gradient(grid), low, high)
    kernel = np.exp(-((grid[None, :] - mean[:, None]) ** 2) / (2 * lr))
    kernel /= kernel.sum(axis=1, keepdims=True)
    law = np.full(points, 1.0 / points)
    for _ in range(60):  # squaring: 2**60 steps of the chain
        squared = kernel @ kernel
        done = np.abs(squared - kernel).max() < 1e-13
        kernel = squared / squared.sum(axis=1, keepdims=True)
        if done:
            break
    law = law @ kernel
    law /= law.sum()
    if law[0] + law[-1] > 1e-9:
        raise ValueError("the law reaches the end of the grid: it is too narrow, or the chain explodes there")
    return grid, law


# ---- more dimensions: quadrature, corrected for the step size to first order --------------------------------------


def corrected_mean(
    potential: Array, gradient_squared: Array, laplacian: Array, values: Array, weights: Array, lr: float
) -> float:
    """Mean of ``values`` under the stationary law of the chain, up to O(ε²).

    The law is exp(-U) [1 + ε/2 (¼|∇U|² - ½ΔU)] to first order in ε (Leimkuhler & Matthews 2015, section 7.4, for the
    Euler-Maruyama scheme with step ε/2).
    """
    density = np.exp(-(potential - potential.min())) * weights
    correction = lr / 2 * (gradient_squared / 4 - laplacian / 2)
    total, mean = density.sum(), (density * values).sum()
    shifted = (density * correction * values).sum() / total - (density * correction).sum() * mean / total**2
    return float(mean / total + shifted)


def crossing_llc(powers: tuple[int, int], n_beta: float, localization: float, lr: float = 0.0) -> float:
    """nβE[L] of L = (x^k y^l)² with a Gaussian of precision γ around 0."""
    k, m = powers
    # The mass lies along the axes, ever closer to them: an even grid in asinh(w / s) resolves both scales.
    s = 1e-3
    t = np.linspace(0, math.asinh(9.0 / math.sqrt(localization) / s), 2400)
    w, dw = s * np.sinh(t), s * np.cosh(t)
    dw[0] /= 2
    x, y = w[:, None], w[None, :]
    loss = x ** (2 * k) * y ** (2 * m)

    def second(z: Array, p: int) -> Array:
        return 2 * p * (2 * p - 1) * z ** (2 * p - 2) if p else np.zeros_like(z)

    def first(z: Array, p: int) -> Array:
        return 2 * p * z ** (2 * p - 1) if p else np.zeros_like(z)

    gx = n_beta * first(x, k) * y ** (2 * m) + localization * x
    gy = n_beta * x ** (2 * k) * first(y, m) + localization * y
    laplacian = n_beta * (second(x, k) * y ** (2 * m) + x ** (2 * k) * second(y, m)) + 2 * localization
    potential = n_beta * loss + localization / 2 * (x**2 + y**2)
    weights = dw[:, None] * dw[None, :]
    return n_beta * corrected_mean(potential, gx**2 + gy**2, laplacian, loss, weights, lr)


def rank_regression_llc(
    inputs: int, hidden: int, outputs: int, n_beta: float, localization: float, lr: float = 0.0, seed: int = 0
) -> float:
    """nβE[½|BA|²] with Gaussians of precision γ on A (hidden, inputs) and B (outputs, hidden): true rank 0.

    With one factor integrated out, what is left is a function of the few eigenvalues of the other's Gram matrix, whose
    joint density is summed on a grid. The step size adds its first-order correction, averaged over draws from that
    grid: its integrand is a polynomial in both factors.
    """
    # The factor that is kept is (p, q); the other one has `other` rows or columns of its own.
    (p, q), other = min([((outputs, hidden), inputs), ((inputs, hidden), outputs)], key=lambda c: min(c[0]))
    k, big = min(p, q), max(p, q)
    if k > 3:
        raise ValueError("too many eigenvalues for a grid")
    t = np.linspace(math.log(1e-9), math.log(120.0 / localization), 700 if k < 3 else 200)
    s = np.exp(t)
    log_one = (big - k - 1) / 2 * np.log(s) - localization * s / 2 - other / 2 * np.log1p(n_beta * s / localization) + t
    energy = 0.5 * other * n_beta * s / (localization + n_beta * s)
    index = np.meshgrid(*[np.arange(len(s))] * k, indexing="ij", sparse=True)
    log_density: Any = 0.0
    mean: Any = 0.0
    for i in index:
        log_density = log_density + log_one[i]
        mean = mean + energy[i]
    repulsion: Any = 1.0
    for i, j in itertools.combinations(index, 2):
        repulsion = repulsion * np.abs(s[i] - s[j])
    density = np.exp(log_density - np.max(log_density)) * repulsion
    density = density / density.sum()
    exact = float((density * mean).sum())
    if lr == 0.0:
        return exact
    rng = np.random.default_rng(seed)
    drawn = rng.choice(density.size, 20_000, p=density.ravel())
    eigenvalues = np.stack([s[i] for i in np.unravel_index(drawn, density.shape)], axis=1)
    return exact + n_beta * _regression_correction(eigenvalues, (p, q, other), n_beta, localization, lr, rng)


def _regression_correction(
    eigenvalues: Array,
    shape: tuple[int, int, int],
    n_beta: float,
    localization: float,
    lr: float,
    rng: np.random.Generator,
) -> float:
    """Cov(ε/2 [¼|∇U|² - ½ΔU], L), L = ½|KG|²: K (rows, width) by its eigenvalues, G (width, other) Gaussian given K."""
    rows, width, other = shape
    spectrum = np.zeros((len(eigenvalues), width))
    spectrum[:, : eigenvalues.shape[1]] = eigenvalues
    g = rng.normal(size=(len(eigenvalues), width, other)) / np.sqrt(localization + n_beta * spectrum)[:, :, None]
    gram = g @ g.swapaxes(1, 2)
    loss = 0.5 * np.einsum("ni,nii->n", spectrum, gram)
    over_g = (((n_beta * spectrum + localization) ** 2)[:, :, None] * g**2).sum(axis=(1, 2))
    over_k = (
        n_beta**2 * np.einsum("nij,nj,nij->n", gram, spectrum, gram)
        + 4 * localization * n_beta * loss
        + localization**2 * spectrum.sum(axis=1)
    )
    laplacian = n_beta * (other * spectrum.sum(axis=1) + rows * np.einsum("nii->n", gram))
    correction = lr / 2 * ((over_g + over_k) / 4 - laplacian / 2)
    return float(np.mean(correction * loss) - np.mean(correction) * np.mean(loss))


# ---- learning coefficients: the limit of large n_beta --------------------------------------------------------------


def crossing_lambda(powers: Sequence[int]) -> float:
    """λ = min 1 / (2k) over the powers that are not 0."""
    return min(1 / (2 * k) for k in powers if k)


def rank_regression_lambda(m: int, h: int, n: int, r: int) -> float:
    """Aoyagi & Watanabe 2005: inputs m, hidden units h, outputs n, true rank r."""
    if m + h < n + r:
        return (h * m - h * r + n * r) / 2
    if n + h < m + r:
        return (h * n - h * r + m * r) / 2
    if m + n < h + r:
        return m * n / 2
    odd = (m + h + n + r) % 2
    return (2 * (h + r) * (m + n) + 2 * m * n - (h + r) ** 2 - m**2 - n**2 + odd) / 8


@lru_cache
def deep_linear_lambda(widths: tuple[int, ...], rank: int) -> float:
    """Aoyagi 2024: widths H_1 .. H_{L+1} of a deep linear network, true rank r."""
    m = [w - rank for w in widths]
    order = sorted(m)
    for count in range(2, len(m) + 1):
        chosen, rest = order[:count], order[count:]
        ell, total = count - 1, sum(chosen)
        if total >= ell * max(chosen) and all(total < ell * x for x in rest):
            a = total - (math.ceil(total / ell) - 1) * ell if ell else 0
            pairs = sum(x * y for x, y in itertools.combinations(chosen, 2))
            free = (rank * (widths[0] + widths[-1]) - rank**2) / 2
            return free + a * (ell - a) / (4 * ell) - ell * (ell - 1) / 4 * (total / ell) ** 2 + pairs / 2
    raise ValueError(f"no subset of {widths} with rank {rank} satisfies the conditions")
