"""Which cell of a sweep to sample with: the criteria of the sampling guide, the evidence, and what was beaten.

The criteria are those of the `Guide for Sampling Hyperparameter Selection
<https://timaeus.co/research/2026-04-21-sampling-guide>`_ (Hitchcock, Hoogland, Wang & Gordon 2026): traces rise above
the start and level off, without spikes, by more than they vary from draw to draw, and chains agree. Two more: that the
loss shows at all, against the control with n_beta = 0; and that the step is short enough, by the metrics or the
settings, else by what a smaller step gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr

from devinterp.errors import SettingError
from devinterp.slt.runs.grid import axes_of, cell_name
from devinterp.slt.runs.results import refuse_empty
from devinterp.slt.runs.run import Tree
from devinterp.slt.sweep.criteria import (
    Cell,
    Criterion,
    cannot_improve,
    criteria,
    pilot_rank,
    rank,
    sampled_cells,
    unmet,
    verdict_title,
)

__all__ = ["Criterion", "Neighbour", "Recommendation", "promising", "recommend"]

_ADVICE = {
    "good": "a smaller lr, a higher n_beta or a lower localization, by the criterion that is not met",
    "little_signal": "a higher n_beta, or a larger batch_size",
    "chains_disagree": "a longer burn-in and more draws, or a larger lr",
    "not_converged": "a longer burn-in, more num_steps_bw_draws, or a larger lr",
    "one_chain": "more chains",
    "spikes": "a smaller lr",
    "step_bias": "a smaller lr",
    "gradient_noise": "a larger batch_size, or a smaller lr",
    "clamped": "a localization in place of bounding_box_size",
    "below_start": "a model trained further, or a lower n_beta",
    "incomplete": "the same call again, which samples what is missing",
    "diverged": "a smaller lr, then a lower n_beta",
}


@dataclass(frozen=True)
class Neighbour:
    """A cell one step away from the recommended one, and why it was not chosen.

    Attributes
    ----------
    settings : mapping of str to float
    differs : str
        The setting that differs.
    verdict : str
        As in `devinterp.slt.sweep.compute_sweep`.
    llc : float or None
    reason : str
    """

    settings: Mapping[str, float]
    differs: str
    verdict: str
    llc: float | None
    reason: str


@dataclass(frozen=True)
class Recommendation:
    """A setting, why, and what it was preferred to.

    Attributes
    ----------
    settings : mapping of str to float
        ``lr``, ``n_beta`` and ``localization``, and what the grid varies besides, as `devinterp.sample` takes them.
    cell : str
        Name of its group in the sweep's store.
    good : bool
        Whether its verdict is good and no criterion is unmet.
    verdict : str
        As in `devinterp.slt.sweep.compute_sweep`.
    llc : float or None
        The cell's LLC (1); None where it has none.
    llc_ci : (float, float) or None
        Its interval.
    num_draws : int
        Draws of every chain that this rests on.
    criteria : tuple of Criterion
        What a setting must fulfil, and whether this one does.
    neighbours : tuple of Neighbour
        The cells one step away, and why they were not chosen.
    notes : tuple of str
        What to know before it is used, and what to try where nothing is good.
    """

    settings: Mapping[str, float]
    cell: str
    good: bool
    verdict: str
    llc: float | None
    llc_ci: tuple[float, float] | None
    num_draws: int
    criteria: tuple[Criterion, ...]
    neighbours: tuple[Neighbour, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain, JSON-able types."""
        out = asdict(self)
        out["llc_ci"] = None if self.llc_ci is None else list(self.llc_ci)
        for name in ("criteria", "neighbours", "notes"):
            out[name] = list(out[name])
        return out

    def __str__(self) -> str:
        head = "recommended" if self.good else "no cell is good; the best of them is"
        lines = [f"{head}: {', '.join(f'{name} = {value:g}' for name, value in self.settings.items())}"]
        if self.llc is not None and self.llc_ci is not None:
            low, high = self.llc_ci
            lines.append(f"  LLC {self.llc:.4g}, interval {low:.4g} to {high:.4g}, from {self.num_draws} draws a chain")
        marks = {True: "✓", False: "✗", None: "?"}
        lines += [f"  {marks[c.met]} {c.name}: {c.evidence}" for c in self.criteria]
        lines += [f"  not {n.differs} = {n.settings[n.differs]:g}: {n.reason}" for n in self.neighbours]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(str(self))}</pre>"


def recommend(sweep: Tree, **options: Any) -> Recommendation:
    """Recommend one cell of a sweep.

    Cells are ranked by the severity of their verdict, then by how many criteria they do not meet, then by length (an
    extended cell before a pilot), then by information: the LLC over its standard error at equal numbers of draws, times
    the share of the control's rise that the loss takes away. Where the question gives a setting, select it first:
    ``tree.devinterp.sweep().sel(n_beta=30).devinterp.recommend()``.

    Parameters
    ----------
    sweep : DataTree or Dataset
        What `devinterp.sweep` returned, or what `devinterp.slt.sweep.compute_sweep` made of it.
    **options
        Passed to `devinterp.slt.sweep.compute_sweep`.

    Returns
    -------
    Recommendation

    Raises
    ------
    SettingError
        ``sweep`` is neither, or it has no cell besides controls.
    """
    summary = _summary(sweep, options)
    order = sorted(sampled_cells(summary), key=rank)
    if not order:
        raise SettingError("There is nothing to recommend.", expected="a sampled cell that is not a control")
    best = order[0]
    found = criteria(best)
    good = best.verdict == "good" and not unmet(best)
    ends = summary["llc_ci"].values[best.place]
    return Recommendation(
        settings=best.settings,
        cell=cell_name(best.settings),
        good=good,
        verdict=best.verdict,
        llc=best.number("llc_mean"),
        llc_ci=(float(ends[0]), float(ends[1])) if np.isfinite(ends).all() else None,
        num_draws=best.draws,
        criteria=found,
        neighbours=tuple(_neighbours(best)),
        notes=tuple(_notes(order, good)),
    )


def promising(summary: xr.Dataset) -> list[str]:
    """Return the names of the cells that further draws may help, best first.

    Parameters
    ----------
    summary : Dataset
        What `devinterp.slt.sweep.compute_sweep` returned.
    """
    cells = sorted(sampled_cells(summary), key=pilot_rank)
    return [cell_name(cell.settings) for cell in cells if not cannot_improve(cell)]


def _neighbours(best: Cell) -> list[Neighbour]:
    found = []
    for setting in axes_of(best.summary.coords):
        for step in (-1, 1):
            cell = best.beside(setting, step)
            if cell is not None:
                reason = _reason(best, cell)
                found.append(Neighbour(cell.settings, setting, cell.verdict, cell.number("llc_mean"), reason))
    return found


def _reason(best: Cell, other: Cell) -> str:
    if other.is_control:
        return "the control"
    if rank(other)[:2] > rank(best)[:2]:
        return "; ".join(f"✗ {c.name} ({c.evidence})" for c in unmet(other))
    if other.draws < best.draws and other.information > best.information:
        return f"{verdict_title(other.verdict)}, but only by {other.draws} draws a chain"
    if other.information <= 0:
        return f"{verdict_title(other.verdict)}, but its draws tell nothing of the loss"
    times = best.information / other.information
    return f"{verdict_title(other.verdict)}, but as many draws tell {times:.2g} times less of the loss"


def _notes(order: list[Cell], good: bool) -> list[str]:
    best, notes = order[0], []
    summary = best.summary
    for setting, value in best.settings.items():
        values = summary[setting].values
        values = values if setting == "localization" else values[values > 0]
        if values.size > 1 and value in (values[0], values[-1]):
            end = "smallest" if value == values[0] else "largest"
            notes.append(f"{setting} = {value:g} is the {end} of the grid; what lies beyond was not tried.")
    share = best.number("share_of_control")
    if share is not None and share > 0.5:
        notes.append(
            f"Localization decides most: the rise is {100 * share:.2g} % of the control's, so that the coefficient is "
            "near n_beta / (2 localization) times the trace of the Hessian."
        )
    if best.draws < int(summary["num_draws"].max()):
        notes.append(f"It rests on a pilot of {best.draws} draws a chain.")
    if summary.attrs.get("rows") == "minibatch":
        notes.append("Judged on minibatches, which are blind to chains that disagree: observe rows of the dataset.")
    if not good:
        verdicts = [cell.verdict for cell in order]
        often = max(sorted(set(verdicts)), key=verdicts.count)
        notes.append(f"Most often: {verdict_title(often)}. Try {_ADVICE.get(often, 'other values')}.")
    return notes


def _summary(sweep: Tree, options: Mapping[str, Any]) -> xr.Dataset:
    if not {"verdict", "llc_se"} <= set(sweep.data_vars):
        from devinterp.slt.sweep import compute_sweep

        return compute_sweep(sweep, **options)
    refuse_empty(sweep)
    dataset = sweep.to_dataset() if isinstance(sweep, xr.DataTree) else sweep
    # A setting that was selected, sel(n_beta=30), is a grid of one value.
    axes = axes_of(dataset.coords)
    single = [s for s in axes if s in dataset.coords and s not in dataset.dims]
    return dataset.expand_dims(single).transpose(*axes, ...)
