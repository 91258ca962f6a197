"""Every number of the demo in one place: the full demonstration, and the quick one that tests run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """How the demo trains and samples.

    Parameters
    ----------
    seed : int
        Of the weights and of the batches.
    train_steps : int
        Length of training.
    checkpoints : tuple of int
        Training steps whose learning coefficient is estimated; the last is the trained model.
    lr, n_beta, localization : float
        SGLD's step size, inverse temperature and pull towards the start. ``n_beta / localization`` is so large that
        the loss holds the weights as much as localization does, and ``lr * localization`` so small that the step adds
        little of its own.
    batch_size, num_chains, num_burnin_steps, num_steps_bw_draws : int
        As in ``devinterp.sample``. ``batch_size`` is also how many windows each observable has.
    n_beta_shares : tuple of float
        Of ``n_beta``, at which one head is sampled again: a learning coefficient would be the same at each.
    num_draws, checkpoint_draws : int
        Draws of each chain for every weight restriction of the trained model, and at earlier checkpoints.
    dataset_rows : int
        Windows that are sampled on.
    noise_draws : int
        Draws of the noise that each head is held against.
    permutations : int
        Size of the null distribution of the influence result.
    """

    seed: int = 2
    train_steps: int = 3000
    checkpoints: tuple[int, ...] = (200, 500, 800, 1100, 1500, 3000)
    lr: float = 1.3e-4
    n_beta: float = 3000.0
    localization: float = 300.0
    batch_size: int = 16
    num_chains: int = 4
    num_burnin_steps: int = 80
    num_steps_bw_draws: int = 12
    num_draws: int = 24
    checkpoint_draws: int = 12
    dataset_rows: int = 2048
    noise_draws: int = 50
    n_beta_shares: tuple[float, ...] = (0.1, 0.3)
    permutations: int = 1000

    @classmethod
    def quick(cls) -> Settings:
        """Return settings that end within seconds, for tests: the same path, without anything to see."""
        return cls(
            train_steps=40,
            checkpoints=(10, 40),
            batch_size=8,
            num_chains=2,
            num_burnin_steps=2,
            num_steps_bw_draws=1,
            num_draws=8,
            checkpoint_draws=4,
            dataset_rows=64,
            noise_draws=4,
            permutations=50,
        )

    @property
    def spread(self) -> float:
        """Standard deviation of a weight that only localization holds, at this step size (unit of the weights).

        The stationary law of w <- w - lr/2 * localization * w + sqrt(lr) * normal(0, 1).
        """
        return float((self.localization * (1 - self.lr * self.localization / 4)) ** -0.5)

    def sampler(self, draws: int) -> dict[str, Any]:
        """Return the keyword arguments of ``devinterp.sample`` that all runs share."""
        return {
            "lr": self.lr,
            "n_beta": self.n_beta,
            "localization": self.localization,
            "batch_size": self.batch_size,
            "num_chains": self.num_chains,
            "num_burnin_steps": self.num_burnin_steps,
            "num_steps_bw_draws": self.num_steps_bw_draws,
            "num_draws": draws,
            "num_init_loss_batches": self.dataset_rows // self.batch_size,
            "batches_per_draw": 1,
            "init_seed": self.seed,
            "save_metrics": True,
        }
