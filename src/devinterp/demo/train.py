"""Training the demo's model, and keeping the checkpoints that the learning coefficient is followed over."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from devinterp.demo.circuit import prefix_matching_score
from devinterp.demo.corpus import HALF, Corpus
from devinterp.demo.model import AttentionOnly, per_token_loss

__all__ = ["Checkpoint", "Training", "train"]

Report = Callable[[int, float], None]


@dataclass(frozen=True)
class Checkpoint:
    """The weights after some step of training."""

    step: int
    state: dict[str, Tensor]


@dataclass
class Training:
    """What training leaves behind.

    Parameters
    ----------
    checkpoints : list of Checkpoint
        Copies of the weights, in the order of the steps.
    steps : list of int
        When the model was looked at.
    first_half, second_half : list of float
        Mean loss (nat) on the two halves of shuffled bytes shown twice. Only copying makes the second lower.
    prefix : list of float
        The best head's `prefix_matching_score` (unit 1).
    """

    checkpoints: list[Checkpoint] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    first_half: list[float] = field(default_factory=list)
    second_half: list[float] = field(default_factory=list)
    prefix: list[float] = field(default_factory=list)


def train(
    model: AttentionOnly,
    corpus: Corpus,
    *,
    steps: int,
    checkpoints: Iterable[int],
    batch_size: int = 16,
    lr: float = 8e-3,
    seed: int = 0,
    look_every: int = 100,
    report: Report | None = None,
) -> Training:
    """Train on the mixture, with AdamW and a cosine schedule.

    Returns the checkpoints and the course of induction.
    """
    wanted, rng, course = set(checkpoints), np.random.default_rng(seed), Training()
    repeated = torch.from_numpy(corpus.repeated(64, np.random.default_rng(seed + 1)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps + 1):
        if step % look_every == 0 or step == steps:
            _look(model, repeated, step, course)
        if step in wanted:
            course.checkpoints.append(Checkpoint(step, {k: v.detach().clone() for k, v in model.state_dict().items()}))
        if step == steps:
            break
        loss = per_token_loss(model, torch.from_numpy(corpus.mixture(batch_size, rng))).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if report is not None:
            report(step + 1, loss.item())
    return course


@torch.no_grad()
def _look(model: AttentionOnly, repeated: Tensor, step: int, course: Training) -> None:
    loss = per_token_loss(model, repeated)
    course.steps.append(step)
    course.first_half.append(loss[:, :HALF].mean().item())
    course.second_half.append(loss[:, HALF + 1 :].mean().item())
    course.prefix.append(prefix_matching_score(model.attention(repeated).numpy(), HALF, HALF + 1).max().item())
