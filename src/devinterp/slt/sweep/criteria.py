"""What a setting of a sweep must fulfil, and in which order cells that do not are preferred."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from devinterp.slt.diagnostics.diagnosis import TITLES
from devinterp.slt.diagnostics.step_bias import least_inflation
from devinterp.slt.diagnostics.verdicts import SPIKE_SHARE
from devinterp.slt.runs.grid import axes_of
from devinterp.slt.sweep.summary import CONTROL

__all__ = [
    "Cell",
    "Criterion",
    "cannot_improve",
    "criteria",
    "pilot_rank",
    "rank",
    "sampled_cells",
    "unmet",
    "verdict_title",
]

SIGNAL_ERRORS = 2.0
LEAST_SIGNAL = 1.0  # rise over the standard deviation of the change from draw to draw
LEAST_EFFECT = 0.05  # of the control's rise, that the loss must take away
CONTROL_ERRORS = 2.0
BEST_INFLATION = 1.05  # by the step, of a setting to go on with: half of what a verdict allows
STEP_BIAS = 0.1  # of the coefficient at the next smaller step size ...
STEP_ERRORS = 2.0  # ... beyond this many standard errors of the difference
COMPARABLE_DRAWS, COMPARABLE_RHAT = 10.0, 1.1  # what the smaller step must have, to be compared with
FAINTEST = 0.01

# How grave a verdict is. What more draws may mend comes before what they cannot.
GRAVITY = {
    "good": 0,
    "little_signal": 1,
    "chains_disagree": 2,
    "one_chain": 2,
    "not_converged": 2,
    "incomplete": 2,
    "spikes": 3,
    "step_bias": 3,
    "gradient_noise": 3,
    "clamped": 3,
    "below_start": 3,
    "diverged": 4,
}
CANNOT_IMPROVE = 3

Place = tuple[int, ...]


@dataclass(frozen=True)
class Criterion:
    """One of the things that a setting must fulfil.

    Attributes
    ----------
    name : str
        What must hold.
    met : bool or None
        None where the sweep cannot tell.
    evidence : str
        The numbers it rests on.
    """

    name: str
    met: bool | None
    evidence: str


@dataclass(frozen=True)
class Cell:
    """One cell of the summary of a sweep; numbers that are not known are None."""

    summary: xr.Dataset
    place: Place

    @property
    def settings(self) -> dict[str, float]:
        """What the sweep varies, as `devinterp.sample` takes it."""
        axes = axes_of(self.summary.coords)
        return {s: self.summary[s].values[i].item() for s, i in zip(axes, self.place, strict=True)}

    @property
    def verdict(self) -> str:
        """The gravest verdict; empty where the grid has no such cell."""
        return str(self.summary["verdict"].values[self.place])

    @property
    def is_control(self) -> bool:
        """Whether the loss plays no part, or nothing moves."""
        return self.verdict == CONTROL

    def number(self, name: str) -> float | None:
        """Return one of its numbers; None where it has none, or the summary of all lacks it."""
        if name not in self.summary:
            return None
        value = float(self.summary[name].values[self.place])
        return value if np.isfinite(value) else None

    @property
    def severity(self) -> int:
        """How grave the verdict is; 0 is good."""
        return GRAVITY.get(self.verdict, CANNOT_IMPROVE)

    @property
    def draws(self) -> int:
        """Draws of every chain."""
        return int(self.summary["num_draws"].values[self.place])

    @property
    def all_draws(self) -> int:
        """Draws of all chains that were used."""
        return self.draws * int(self.summary["num_chains"].values[self.place])

    @property
    def information(self) -> float:
        """LLC over its standard error, per square root of a draw, times what the loss takes away of the control's rise.

        Without the second factor a chain that the pull alone holds, which mixes best, would win. 0 where the LLC is not
        known.
        """
        llc, error, share = self.number("llc_mean"), self.number("llc_se"), self.number("share_of_control")
        if llc is None or not error or not self.all_draws:
            return 0.0
        effect = 1.0 if share is None else max(1 - share, FAINTEST)
        return effect * llc / (error * float(np.sqrt(self.all_draws)))

    def beside(self, setting: str, step: int) -> Cell | None:
        """Return the sampled cell ``step`` values away along one setting, or None."""
        axis = axes_of(self.summary.coords).index(setting)
        index = self.place[axis] + step
        if not 0 <= index < self.summary.sizes[setting]:
            return None
        cell = Cell(self.summary, (*self.place[:axis], index, *self.place[axis + 1 :]))
        return cell if cell.verdict else None


def verdict_title(code: str) -> str:
    """Return a verdict in words."""
    titles: Mapping[str, str] = {str(k): v for k, v in TITLES.items()}
    return titles.get(code, code)


def sampled_cells(summary: xr.Dataset) -> list[Cell]:
    """Every cell that was sampled, controls left out, in the order of the grid."""
    cells = [Cell(summary, place) for place in np.ndindex(*(summary.sizes[s] for s in axes_of(summary.coords)))]
    return [cell for cell in cells if cell.verdict and not cell.is_control]


def criteria(cell: Cell) -> tuple[Criterion, ...]:
    """Judge a cell by every criterion."""
    return (_levels_off(cell), _rises(cell), _no_spikes(cell), _above_variation(cell), _loss_shows(cell), _step(cell))


def unmet(cell: Cell) -> list[Criterion]:
    """The criteria that a cell certainly does not meet."""
    return [criterion for criterion in criteria(cell) if criterion.met is False]


def cannot_improve(cell: Cell) -> bool:
    """Whether no further draws can make the cell good."""
    return cell.severity >= CANNOT_IMPROVE


def rank(cell: Cell) -> tuple[int, int, int, float]:
    """Sort key, best first: verdict, criteria that are not met, length, information."""
    return cell.severity, len(unmet(cell)), -cell.draws, -cell.information


def pilot_rank(cell: Cell) -> tuple[int, int, float]:
    """Sort key of pilots, best first: what more draws cannot mend comes before the verdict, which they may."""
    lasting = (_no_spikes(cell), _above_variation(cell), _loss_shows(cell), _step(cell))
    return sum(c.met is False for c in lasting), cell.severity, -cell.information


def _levels_off(cell: Cell) -> Criterion:
    rhat, ess = cell.number("rhat"), cell.number("ess_bulk")
    numbers = [] if cell.verdict == "good" else [verdict_title(cell.verdict)]
    numbers += [] if rhat is None else [f"R-hat {rhat:.2f}"]
    numbers += [] if ess is None else [f"{ess:.0f} effective of {cell.all_draws} draws"]
    met = cell.verdict in ("good", "little_signal")
    return Criterion("the trace levels off, chains agree", met, ", ".join(numbers) or "no draws")


def _rises(cell: Cell) -> Criterion:
    name = "the loss rises above its start"
    rise, error = cell.number("rise"), cell.number("rise_se")
    if rise is None:
        return Criterion(name, None if cell.severity < CANNOT_IMPROVE else False, "no chain is left")
    return Criterion(name, rise > SIGNAL_ERRORS * (error or 0.0), f"by {rise:.3g} ± {error or 0.0:.1g}")


def _no_spikes(cell: Cell) -> Criterion:
    spikes = int(cell.number("spikes") or 0)
    return Criterion("no spikes", spikes <= SPIKE_SHARE * cell.all_draws, f"{spikes} in {cell.all_draws} draws")


def _above_variation(cell: Cell) -> Criterion:
    value = cell.number("signal_to_variation")
    name = "signal above local variation"
    if value is None:
        return Criterion(name, None, "not known")
    return Criterion(name, value > LEAST_SIGNAL, f"the rise is {value:.2g} times the change from draw to draw")


def _loss_shows(cell: Cell) -> Criterion:
    name = "the loss shows against the control"
    share, error = cell.number("share_of_control"), cell.number("share_se")
    if share is None or error is None:
        return Criterion(name, None, "no control to compare with")
    effect, spread = 1 - share, CONTROL_ERRORS * error
    met = True if effect > spread else False if effect + spread < LEAST_EFFECT else None
    evidence = f"it takes away {_percent(effect)} ± {_percent(error)} % of the rise that localization alone allows"
    return Criterion(name, met, evidence)


def _percent(share: float) -> str:
    """A share in per cent, with as many digits as anyone reads."""
    return f"{100 * share:.0f}" if abs(share) >= 0.1 else f"{100 * share:.1g}"


def _step(cell: Cell) -> Criterion:
    name = "a smaller step gives the same"
    measured, least = cell.number("step_inflation"), least_inflation(cell.settings) or 1.0
    if measured is not None:
        evidence = f"this one inflates the LLC by a factor of {measured:.3f}, up to {BEST_INFLATION} is asked for"
        return Criterion(name, measured <= BEST_INFLATION, evidence)
    if least > BEST_INFLATION:
        return Criterion(name, False, f"lr * localization alone inflates the LLC by a factor of {least:.3f} or more")
    smaller = cell.beside("lr", -1)
    if smaller is None or smaller.is_control:
        return Criterion(name, None, "no smaller lr in the grid")
    lr, ours, theirs = smaller.settings["lr"], cell.number("llc_mean"), smaller.number("llc_mean")
    ess, rhat = smaller.number("ess_bulk") or 0.0, smaller.number("rhat") or 1.0
    if ours is None or theirs is None or cannot_improve(smaller) or ess < COMPARABLE_DRAWS or rhat > COMPARABLE_RHAT:
        return Criterion(name, None, f"lr = {lr:g} gives nothing to compare with")
    error = float(np.hypot(cell.number("llc_se") or 0.0, smaller.number("llc_se") or 0.0))
    off = max(0.0, abs(ours - theirs) - STEP_ERRORS * error)
    evidence = f"LLC {ours:.4g} against {theirs:.4g} at lr = {lr:g}, difference ± {error:.2g}"
    return Criterion(name, off <= STEP_BIAS * abs(theirs), evidence)
