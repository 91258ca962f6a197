"""How the draws of a chain lie among its steps: the one place that counts the one in terms of the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["StepLayout"]


@dataclass(frozen=True)
class StepLayout:
    """Draws among steps: draw k is taken at step ``burnin + k * between``, both counted from 0.

    Parameters
    ----------
    burnin : int
        Steps before the first draw, at least 0: ``num_burnin_steps``.
    between : int
        Steps from one draw to the next, at least 1: ``num_steps_bw_draws``.
    draws : int
        Draws of the chain, at least 0: ``num_draws``.
    """

    burnin: int
    between: int
    draws: int

    @classmethod
    def of(cls, sampler: Mapping[str, Any]) -> StepLayout | None:
        """Read the settings of a run, named as in `devinterp.sample`; None where one is missing or out of range."""
        found = [sampler.get(name) for name in ("num_burnin_steps", "num_steps_bw_draws", "num_draws")]
        if any(isinstance(value, bool) or not isinstance(value, int | np.integer) for value in found):
            return None
        burnin, between, draws = (int(value) for value in found)  # type: ignore[arg-type]
        return cls(burnin, between, draws) if burnin >= 0 and between >= 1 and draws >= 0 else None

    @property
    def num_steps(self) -> int:
        """Steps of the whole chain, burn-in and those behind its last draw included."""
        return self.steps_of(self.draws)

    def steps_of(self, draws: int) -> int:
        """Steps that belong to the first ``draws`` draws, burn-in included; also the step at which the next is taken.

        These are the most steps that can be done with that many draws taken.
        """
        return self.burnin + draws * self.between

    def fewest_steps(self, draws: int) -> int:
        """Steps that are done as soon as ``draws`` draws are taken."""
        return self.steps_of(draws - 1) + 1 if draws else 0

    def draw_steps(self, draws: int | None = None) -> NDArray[np.int64]:
        """Step of each of the first ``draws`` draws; of all of them by default."""
        return self.burnin + self.between * np.arange(self.draws if draws is None else draws, dtype=np.int64)

    def draw_at(self, step: int) -> int | None:
        """Index of the draw that is taken at ``step``, or None."""
        draw, since = divmod(step - self.burnin, self.between)
        return draw if since == 0 and 0 <= draw < self.draws else None

    def draws_taken(self, steps: int) -> int:
        """Draws that are taken once ``steps`` steps are done."""
        return max(0, min(self.draws, -((self.burnin - steps) // self.between)))

    def whole_draws(self, steps: int) -> int:
        """Draws whose steps, up to where the next draw is taken, all lie among the first ``steps``."""
        return max(0, min(self.draws, (steps - self.burnin) // self.between))
