"""SGLD with control variates at the start (SGLD-CV), against SGLD, at the same cost: an experiment.

    python tests/benchmarks/precision/control_variates.py

SGLD-CV replaces the gradient of a minibatch, g_B(w), by g_B(w) - g_B(w0) + g(w0), with g the gradient of all rows
(Baker et al. 2019): what the choice of rows adds cancels near w0, for two gradients a step instead of one. Its rivals
of the same cost: a minibatch twice as large, and twice as many steps. Truth: the chain with the gradient of all rows.

A linear network of two layers at its truth, outputs with noise; every chain vectorised over seeds. The LLC is paired,
on all rows, so that what is left is the noise of the chain and the bias of its gradients.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SEEDS, ROWS, WIDTHS, RANK = 20, 4096, (6, 5, 4), 2
N_BETA, LOCALIZATION, STEPS, BURNIN = 500.0, 10.0, 2000, 500


class Chains:
    """As many chains as there are seeds: first (seed, hidden, in), second (seed, out, hidden)."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        size, hidden, out = WIDTHS
        left, right = rng.normal(size=(hidden, RANK)), rng.normal(size=(RANK, size))
        self.start = (left @ right / np.sqrt(size), rng.normal(size=(out, hidden)) / np.sqrt(hidden))
        self.x = rng.normal(size=(ROWS, size))
        self.y = self.x @ (self.start[1] @ self.start[0]).T + rng.normal(size=(ROWS, out))
        self.moments = (self.x.T @ self.x / ROWS, self.y.T @ self.x / ROWS)
        self.level = self.losses(*(w[None] for w in self.start))[0]

    def losses(self, first: Floats, second: Floats) -> Floats:
        """Mean loss of all rows, (seed,), up to a constant."""
        product = second @ first
        square, cross = self.moments
        return 0.5 * np.einsum("soi,ij,soj->s", product, square, product) - np.einsum("soi,oi->s", product, cross)

    def gradient(self, weights: Sequence[Floats], rows: npt.NDArray[np.int64] | None) -> tuple[Floats, Floats]:
        """Gradient of the mean loss of each seed's rows (seed, batch), or of all rows."""
        first, second = weights
        product = second @ first
        if rows is None:
            outer = product @ self.moments[0] - self.moments[1]
        else:
            x, y = self.x[rows], self.y[rows]
            outer = (x @ product.transpose(0, 2, 1) - y).transpose(0, 2, 1) @ x / rows.shape[1]
        return second.transpose(0, 2, 1) @ outer, outer @ first.transpose(0, 2, 1)

    def sample(self, how: str, lr: float, batch: int, steps: int) -> tuple[Floats, float]:
        """LLC of each seed, and seconds of CPU."""
        rng, began = np.random.default_rng(1), time.process_time()
        start = tuple(np.repeat(w[None], SEEDS, axis=0) for w in self.start)
        weights, total = [w.copy() for w in start], np.zeros(SEEDS)
        whole = self.gradient(start, None)
        for step in range(BURNIN + steps):
            rows = None if how == "all rows" else rng.integers(0, ROWS, (SEEDS, batch))
            gradients = self.gradient(weights, rows)
            if how == "control variates":
                near = self.gradient(start, rows)
                gradients = tuple(g - n + w for g, n, w in zip(gradients, near, whole, strict=True))
            for w, w0, g in zip(weights, start, gradients, strict=True):
                w -= 0.5 * lr * (N_BETA * g + LOCALIZATION * (w - w0))
                w += np.sqrt(lr) * rng.normal(size=w.shape)
            if step >= BURNIN:
                total += self.losses(*weights) - self.level
        return N_BETA * total / steps, time.process_time() - began


def main() -> None:
    chains = Chains()
    print(f"{SEEDS} seeds, n_beta {N_BETA:g}, localization {LOCALIZATION:g}; minibatches of 16 rows of {ROWS}")
    print("| lr | gradients | steps | LLC | bias against all rows | true standard error | root mean square error |")
    print("|---|---|---|---|---|---|---|")
    for lr in (1e-4, 3e-4, 1e-3):
        truth = chains.sample("all rows", lr, 0, 4 * STEPS)[0].mean()
        for name, how, batch, steps in (
            ("minibatches of 16", "minibatch", 16, STEPS),
            ("of 16, control variates", "control variates", 16, STEPS),
            ("of 32", "minibatch", 32, STEPS),
            ("of 16, twice the steps at half the lr", "minibatch", 16, 2 * STEPS),
        ):
            found, _ = chains.sample(how, lr / 2 if "half" in name else lr, batch, steps)
            error = np.sqrt(np.mean((found - truth) ** 2))
            row = [f"{lr:g}", name, str(steps), f"{found.mean():.2f}", f"{found.mean() / truth - 1:+.1%}"]
            print("| " + " | ".join([*row, f"{found.std(ddof=1):.2f}", f"{error:.2f} ({error / truth:.1%})"]) + " |")


if __name__ == "__main__":
    main()
