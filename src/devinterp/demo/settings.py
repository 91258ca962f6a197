"""Every number of the demo in one place: the full demonstration, and the quick one that tests run."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from devinterp.steps import StepLayout

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
    n_beta, localization : float
        SGLD's inverse temperature and pull towards the start. ``n_beta / localization`` is so large that the loss holds
        the weights about as much as localization does.
    lr, head_lr, circuit_lr : float
        Step sizes of the whole model, of a head, and of a head of the circuit, around which the loss is steeper: each
        so small that the step adds less than a tenth.
    checkpoint_n_beta, checkpoint_lr : float
        Of the whole model along training: lower, so that shorter chains arrive.
    refined_n_beta, refined_lr : float
        At which every head is sampled once more, on all text and on one kind of it alone. The trained weights minimise
        the loss on all text; at a high inverse temperature the chain finds weights that are better for the one kind.
    n_beta_share : float
        Of ``n_beta``, at which one head is sampled again: a learning coefficient would be the same.
    burnin_times, draw_times : float
        Length of the burn-in and distance of draws, in relaxation times ``2 / (lr * localization)``.
    batch_size, num_chains : int
        As in ``devinterp.sample``. ``batch_size`` is also how many windows each observable has.
    num_draws, checkpoint_draws, refined_draws : int
        Draws of each chain: of the study, of each checkpoint, and on all text and one kind.
    dataset_rows : int
        Windows that are sampled on.
    noise_draws : int
        Draws of the noise that each head is held against.
    permutations : int
        Size of the null distribution of the influence result.
    """

    seed: int = 2
    train_steps: int = 3000
    checkpoints: tuple[int, ...] = (200, 800, 1100, 1500, 3000)
    n_beta: float = 2000.0
    localization: float = 300.0
    lr: float = 1.3e-4
    head_lr: float = 3e-4
    circuit_lr: float = 2e-4
    checkpoint_n_beta: float = 1000.0
    checkpoint_lr: float = 2.4e-4
    refined_n_beta: float = 200.0
    refined_lr: float = 8e-4
    n_beta_share: float = 0.3
    burnin_times: float = 2.0
    draw_times: float = 0.5
    batch_size: int = 16
    num_chains: int = 4
    num_draws: int = 36
    checkpoint_draws: int = 20
    refined_draws: int = 24
    dataset_rows: int = 2048
    noise_draws: int = 50
    permutations: int = 1000

    @classmethod
    def quick(cls) -> Settings:
        """Return settings that end within seconds, for tests: the same path, without anything to see."""
        return cls(
            train_steps=40,
            checkpoints=(10, 40),
            batch_size=8,
            num_chains=2,
            burnin_times=0.05,
            draw_times=0.0,
            num_draws=8,
            checkpoint_draws=4,
            refined_draws=4,
            dataset_rows=64,
            noise_draws=4,
            permutations=50,
        )

    def spread(self, lr: float) -> float:
        """Standard deviation of a weight that only localization holds, at this step size (unit of the weights).

        The stationary law of w <- w - lr/2 * localization * w + sqrt(lr) * normal(0, 1).
        """
        return float((self.localization * (1 - lr * self.localization / 4)) ** -0.5)

    def lr_of(self, head: str, circuit: Collection[str]) -> float:
        """Step size of a head, given the heads that attention names."""
        return self.circuit_lr if head in circuit else self.head_lr

    def pace(self, lr: float) -> dict[str, int]:
        """Return burn-in and distance of draws at a step size, under the argument names of ``devinterp.sample``."""
        relaxation = 2 / (lr * self.localization)
        return {
            "num_burnin_steps": max(2, round(self.burnin_times * relaxation)),
            "num_steps_bw_draws": max(1, round(self.draw_times * relaxation)),
        }

    def steps(self, draws: int, lr: float) -> int:
        """Return the steps of all chains of a run."""
        pace = self.pace(lr)
        layout = StepLayout(pace["num_burnin_steps"], pace["num_steps_bw_draws"], draws)
        return self.num_chains * layout.num_steps

    def sampler(self, draws: int, *, lr: float, n_beta: float) -> dict[str, Any]:
        """Return the keyword arguments of ``devinterp.sample``: of all runs the same, but for these."""
        return {
            "lr": lr,
            "n_beta": n_beta,
            **self.pace(lr),
            "localization": self.localization,
            "batch_size": self.batch_size,
            "num_chains": self.num_chains,
            "num_draws": draws,
            "num_init_loss_batches": self.dataset_rows // self.batch_size,
            "batches_per_draw": 1,
            "init_seed": self.seed,
            "save_metrics": True,
            # Chains of their own minibatches are independent, gradient noise included.
            "match_sampling_input_ids_across_chains": False,
        }
