"""More ground-truth cases: regression and deep linear networks, BIF and susceptibilities of Gaussian weights."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import targets
import torch
from known_cases import BASE, Case, Row, n_beta_loss
from numpy.typing import NDArray
from replicas import Replicas


def linear_network(
    widths: tuple[int, ...],
    rank: int,
    *,
    n_beta: float,
    localization: float,
    lr: float,
    steps: int,
    copies: int = 256,
    spread: float = 1.0,
) -> Case:
    """½ |W_L ... W_1 - W*|² around the most singular point of rank r, against the learning coefficient.

    At rank 0 and with one hidden layer the mean at the run's own n_beta and localization is known by quadrature too.
    """
    start = []
    for inputs, outputs in itertools.pairwise(widths):
        w = np.zeros((outputs, inputs))
        w[range(rank), range(rank)] = 1.0
        start.append(w)
    truth = torch.tensor(
        np.linalg.multi_dot(start[::-1]) if len(start) > 2 else start[1] @ start[0], dtype=torch.float32
    )

    def loss(*weights: torch.Tensor) -> torch.Tensor:
        product = weights[0]
        for w in weights[1:]:
            product = torch.bmm(w, product)
        return 0.5 * ((product - truth) ** 2).sum(dim=(1, 2))

    shallow = len(widths) == 3
    value = targets.rank_regression_lambda(*widths, rank) if shallow else targets.deep_linear_lambda(widths, rank)
    rows = [Row("λ", value, n_beta_loss(), kind="asymptotic")]
    if shallow and rank == 0 and min(widths) <= 3:
        inputs, hidden, outputs = widths
        rows.append(
            Row(
                "LLC",
                lambda: targets.rank_regression_llc(inputs, hidden, outputs, n_beta, localization, lr),
                n_beta_loss(),
            )
        )
    return Case(
        "reduced-rank regression" if shallow else "deep linear network",
        f"{'-'.join(map(str, widths))}, rank {rank}",
        lambda: Replicas({f"w{i}": w for i, w in enumerate(start)}, [loss], copies),
        ["loss"],
        # Noise of the prior's width puts the flat directions where they belong; the steep ones relax fast. Around
        # weights that are not 0 so much noise would make the first steps explode: ``spread`` is a part of it.
        {**BASE, "num_chains": 1, "lr": lr, "n_beta": n_beta, "localization": localization,
         "init_noise": spread * localization**-0.5, "num_burnin_steps": steps, "num_draws": 40,
         "num_steps_bw_draws": max(1, steps // 40)},
        rows,
    )  # fmt: skip


def gaussian_bif(name: str, *, lr: float = 0.02, n_beta: float = 20.0, copies: int = 64, num_draws: int = 300) -> Case:
    """Residuals ½ (r + a·δ)² of Gaussian weights: Cov = r_i r_j c + ½ c², c = a_iᵀ Σ a_j, Σ at the run's step size."""
    h = np.array([1.0, 2.0])
    sigma = targets.stationary_variance(n_beta * h, lr)
    r = np.array([0.5, -0.3])
    a = np.array([[1.0, 0.5], [0.7, -1.0]])
    curvature = torch.tensor(h, dtype=torch.float32)

    def residual(i: int) -> Any:
        direction = torch.tensor(a[i], dtype=torch.float32)
        return lambda w: 0.5 * (float(r[i]) + (w * direction).sum(1)) ** 2

    def covariance(i: int, j: int) -> float:
        c = float((a[i] * sigma * a[j]).sum())
        return float(r[i] * r[j] * c + 0.5 * c**2)

    def measure(i: int, j: int) -> Any:
        def read(tree: Any) -> NDArray[np.float64]:
            from devinterp.slt.bif import compute_bif

            result = compute_bif(tree, compute_covariance=True, loss_keys=["r0", "r1"])["influences"].values
            return np.diagonal(result[i, j]).astype(np.float64)  # copy p with copy p; different copies are independent

        return read

    def across(tree: Any) -> NDArray[np.float64]:
        from devinterp.slt.bif import compute_bif

        result = compute_bif(tree, compute_covariance=True, loss_keys=["r0", "r1"])["influences"].values[0, 1]
        return (result.sum(axis=1) - np.diagonal(result)) / (len(result) - 1)

    relax = int(np.ceil(2 / (lr * n_beta)))
    pairs = ((0, 0), (0, 1), (1, 1))
    return Case(
        "BIF",
        name,
        lambda: Replicas(
            {"w": np.zeros(2)}, [lambda w: 0.5 * (curvature * w**2).sum(1), residual(0), residual(1)], copies
        ),
        ["loss", "r0", "r1"],
        {**BASE, "num_chains": 2, "lr": lr, "n_beta": n_beta, "num_burnin_steps": 10 * relax,
         "num_draws": num_draws, "num_steps_bw_draws": 6 * relax},
        [
            *(Row(f"Cov of residuals {i}, {j}", covariance(i, j), measure(i, j)) for i, j in pairs),
            Row("Cov of independent copies", 0.0, across),
        ],
    )  # fmt: skip


def gaussian_susceptibilities(
    name: str, *, lr: float = 0.02, n_beta: float = 20.0, num_chains: int = 16, num_draws: int = 250, copies: int = 4
) -> tuple[Case, Case, list[tuple[str, float, int]]]:
    """Two Gaussian weights x, y, of which the restriction moves x alone; every moment can be integrated.

    u = ½ (h_x x² + h_y y²) is the sampling task. The probe is ½ (r + a x + b y)². Returns the cases of ``full`` and of
    the restriction, and (probe, target, index) triples for `susceptibility_replicates`.
    """
    hx, hy, r, a, b = 1.0, 2.0, 0.6, 1.0, -0.8
    vx, vy = (float(targets.stationary_variance(n_beta * h, lr)) for h in (hx, hy))
    # Under C only x moves. phi is the mean over copies of u, u the sampled loss of one copy.
    cov_u = 0.5 * hx**2 * vx**2 / copies  # Var(½ h x²) = ½ h² v², and phi holds a copies-th of each copy's u
    cov_probe = 0.5 * hx * a**2 * vx**2 / copies
    mean_phi = 0.5 * hx * vx
    u_full, u_c = 0.5 * (hx * vx + hy * vy), 0.5 * hx * vx
    probe_full, probe_c = 0.5 * (r**2 + a**2 * vx + b**2 * vy), 0.5 * (r**2 + a**2 * vx)
    target = cov_u - cov_probe + mean_phi * ((probe_full - u_full) - (probe_c - u_c))
    relax = int(np.ceil(2 / (lr * n_beta)))
    settings = {**BASE, "num_chains": num_chains, "lr": lr, "n_beta": n_beta, "num_burnin_steps": 10 * relax,
                "num_draws": num_draws, "num_steps_bw_draws": 4 * relax}  # fmt: skip

    def build() -> Replicas:
        functions = [
            lambda x, y: 0.5 * (hx * x**2 + hy * y**2),
            lambda x, y: 0.5 * (r + a * x + b * y) ** 2,
        ]
        return Replicas({"x": np.zeros(()), "y": np.zeros(())}, functions, copies)

    full = Case("susceptibilities", f"{name} (full)", build, ["task", "probe"], settings)
    part = Case("susceptibilities", name, build, ["task", "probe"], {**settings, "param_masks": {"x": None}})
    return full, part, [("probe", target, 0)]


def susceptibility_replicates(full: Any, part: Any) -> NDArray[np.float64]:
    """Susceptibility of the probe, one value per pair of chains of the two runs."""
    from devinterp.slt.susceptibilities import compute_susceptibilities

    out = []
    for chain in range(full.sizes["chain"]):
        pair = {"full": full.isel(chain=[chain]), "x": part.isel(chain=[chain])}
        result = compute_susceptibilities(pair, "task", observable_names=["probe"])
        out.append(float(result["susceptibilities/sus"].values.astype(np.float64).mean()))
    return np.array(out)
