"""Which batches the draws of a run see: a pass over the data repeats in the same order, and draws fall on some."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from devinterp.steps import StepLayout

__all__ = ["BatchesSeen", "batches_seen"]

_FEWEST = 4  # draws of a run that is more than a try of whether all works


@dataclass(frozen=True)
class BatchesSeen:
    """The batches that draws fall on.

    Attributes
    ----------
    seen : int
        Different batches of a pass that any draw falls on.
    per_pass : int
        Batches of a whole pass.
    repeats : bool
        Whether the draws, more than a handful, have gone round these batches twice: more would see no others.
    every : int
        Steps between draws.
    """

    seen: int
    per_pass: int
    repeats: bool
    every: int

    @property
    def blind(self) -> bool:
        """Whether some batches would never be seen, however many draws there were."""
        return self.repeats and self.seen < self.per_pass

    def __str__(self) -> str:
        near = next(n for n in range(self.every + 1, self.every + self.per_pass + 2) if np.gcd(n, self.per_pass) == 1)
        return (
            f"Draws every {self.every} steps see {self.seen} of the {self.per_pass} batches of a pass over the data "
            f"({100 * self.seen / self.per_pass:.0f} %), the same ones again and again, since the pass repeats in the "
            f"same order. The minibatch losses at the draws, and over='draws', are of those rows alone; over='steps' "
            f"and over='observable' are not affected, nor is num_steps_bw_draws={near}."
        )


def batches_seen(sampler: Mapping[str, Any], num_rows: Any) -> BatchesSeen | None:
    """Return which batches the draws see; None where the settings, or the number of rows, are not known.

    Parameters
    ----------
    sampler : mapping
        The settings of the run, by their names in `devinterp.sample`.
    num_rows : int
        Rows of the sampling dataset.
    """
    layout, size, parts = StepLayout.of(sampler), sampler.get("batch_size"), sampler.get("gradient_accumulation_steps")
    if layout is None or not (isinstance(size, int) and isinstance(parts, int) and isinstance(num_rows, int)):
        return None
    if size < 1 or num_rows < size or layout.draws < 1 or parts < 1:
        return None
    per_pass = num_rows // size
    first = layout.draw_steps(min(layout.draws, per_pass)) * parts
    seen = len(np.unique((first[:, None] + np.arange(min(parts, per_pass))) % per_pass))
    orbit = per_pass // math.gcd(layout.between * parts, per_pass)  # draws, until they begin where the first one did
    return BatchesSeen(seen, per_pass, layout.draws >= max(_FEWEST, 2 * orbit), layout.between)
