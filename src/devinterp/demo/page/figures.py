"""The demo's figures: one for each result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure  # here, so that a missing matplotlib is noticed before training

from devinterp.demo.analysis import CONFIDENCE
from devinterp.demo.results import Results
from devinterp.plot.drawing.style import NEUTRAL, PALETTE, heat_map, style, symmetric_limit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["make_figures"]

BLUE, ORANGE, GREEN = PALETTE[:3]


def make_figures(results: Results) -> dict[str, Figure]:
    """Draw all figures.

    Keys are ``training``, ``heads``, ``llc``, ``influence``, ``susceptibilities``.
    """
    with style():
        return {
            "training": _training(results),
            "heads": _heads(results),
            "llc": _llc(results),
            "influence": _influence(results),
            "susceptibilities": _susceptibilities(results),
        }


def _figure(width: float, height: float, columns: int, **options: Any) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False, **options)[0]
    return figure, list(axes)


def _training(results: Results) -> Figure:
    course = results.training
    figure, (loss, score) = _figure(9, 3.2, 2)
    loss.plot(course.steps, course.first_half, color=NEUTRAL, label="first showing")
    loss.plot(course.steps, course.second_half, color=BLUE, label="second showing")
    loss.set(ylabel="loss (nat per byte)", title="Shuffled bytes, shown twice")
    loss.legend(loc="lower left")
    score.plot(course.steps, course.prefix, color=ORANGE)
    score.set(ylabel="attention (1)", title="Best head's prefix-matching score", ylim=(0, None))
    for axes in (loss, score):
        axes.set_xlabel("training step")
        for step in results.settings.checkpoints:
            axes.axvline(step, color=NEUTRAL, linewidth=0.6, linestyle=":")
    score.text(0.99, 0.03, "dotted: checkpoints that are sampled", transform=score.transAxes, ha="right", fontsize=8)
    return figure


def _heads(results: Results) -> Figure:
    circuit, heads, measures = results.comparison.circuit, results.comparison.heads, results.comparison.measures
    figure, (left, *others) = _figure(10, 4.0, 3, sharey=True, gridspec_kw={"width_ratios": [1.7, 1, 1]})
    effects = np.array(list(measures["sampling"].values()))
    bounds = heads["copied_ci"].sel(wr=list(circuit.names)).values
    places = np.arange(len(circuit.names))
    for inside, colour, label in (
        (True, ORANGE, "sampled: circuit, by attention"),
        (False, BLUE, "sampled: other heads"),
    ):
        own = circuit.inside == inside
        left.bar(places[own], effects[own], color=colour, label=label, width=0.65)
    left.errorbar(places, effects, yerr=_bars(effects, bounds), fmt="none", ecolor="black", elinewidth=1, capsize=2)
    for name, marker, label in (("noise", "_", "noise of the same size"), ("control", "x", "n_beta = 0")):
        values = np.array(list(measures[name].values()))
        left.scatter(places, values, marker=marker, s=60, color="black", label=label, zorder=3)
    left.set_xticks(places, circuit.names)
    left.set(ylabel="loss rise on copied bytes (nat)", title=f"Sampling one head ({CONFIDENCE:.0%} intervals)")
    figure.legend(loc="outside lower left", ncols=4, fontsize=8)
    for axes, name, xlabel in (
        (others[0], "removal", "rise without the head (nat)"),
        (others[1], "attention", "attention score (1)"),
    ):
        values = np.array(list(measures[name].values()))
        axes.scatter(values, effects, c=[ORANGE if inside else BLUE for inside in circuit.inside], s=36)
        margin = 0.05 * np.ptp(values)
        axes.set(xlabel=xlabel, title=f"rank correlation {results.comparison.ranks[name]:.2f}")
        axes.set_xlim(values.min() - margin, values.max() + 5 * margin)
        _label(axes, values, effects, list(circuit.names), 0.055 * effects.max())
    return figure


def _label(axes: Axes, xs: np.ndarray, ys: np.ndarray, names: list[str], gap: float) -> None:
    """Write each name to the right of its point: in one column where points are near, led to by lines."""
    aside, lowest = 0.03 * float(np.ptp(xs)), -np.inf
    line = {"arrowstyle": "-", "color": NEUTRAL, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
    for i in np.argsort(ys):
        height = max(float(ys[i]), lowest + gap)
        near = [j for j in range(len(xs)) if abs(ys[j] - ys[i]) < 4 * gap and abs(xs[j] - xs[i]) < 12 * aside]
        column = max(float(xs[j]) for j in near)
        lowest = height
        text = (column + 2 * aside, height)
        axes.annotate(names[i], (xs[i], ys[i]), xytext=text, arrowprops=line, va="center", fontsize=8)


def _llc(results: Results) -> Figure:
    found = results.checkpoints
    figure, panels = _figure(9, 3.2, 2)
    steps = found["checkpoint"].values
    for axes, name, colour, title in zip(
        panels, ("task", "copied"), (BLUE, ORANGE), ("on training rows", "on copied bytes"), strict=True
    ):
        values, bounds = found[name].values, found[f"{name}_ci"].values
        axes.errorbar(steps, values, yerr=_bars(values, bounds), color=colour, marker="o", markersize=4, capsize=2)
        if results.transition is not None:
            axes.axvline(results.transition, color=NEUTRAL, linestyle="--", linewidth=1)
        axes.set(xlabel="training step", title=f"Whole model, {title}")
    if results.transition is not None:
        place: dict[str, Any] = {"transform": panels[0].get_xaxis_transform(), "fontsize": 8, "color": NEUTRAL}
        panels[0].text(results.transition, 0.06, " prefix matching half grown", **place)
    for axes, label in zip(panels, ("n_beta × loss rise (1)", "loss rise (nat)"), strict=True):
        axes.set(ylabel=label)
        axes.set_ylim(min(0.0, axes.get_ylim()[0]), None)
    return figure


def _influence(results: Results) -> Figure:
    found = results.influence
    figure, (matrix, histogram) = _figure(9, 3.9, 2, gridspec_kw={"width_ratios": [1.15, 1]})
    values = found.matrix.values.astype(np.float64).copy()
    np.fill_diagonal(values, np.nan)
    limit, _ = symmetric_limit(values)
    image = heat_map(matrix, values, limit, aspect="equal")
    names = list(dict.fromkeys(found.kinds.tolist()))
    starts = np.array([int(np.argmax(found.kinds == name)) for name in names] + [len(found.kinds)])
    for edge in starts[1:-1]:
        matrix.axhline(edge - 0.5, color="black", linewidth=0.6)
        matrix.axvline(edge - 0.5, color="black", linewidth=0.6)
    centres = (starts[:-1] + starts[1:] - 1) / 2
    matrix.set_xticks(centres, names, rotation=30, ha="right")
    matrix.set_yticks(centres, names)
    matrix.tick_params(length=0)
    matrix.set_title("Influence between windows")
    figure.colorbar(image, ax=matrix, label="correlation of losses (1)", shrink=0.85)
    same, other = found.same_kind
    bins = np.linspace(min(same.min(), other.min()), max(same.max(), other.max()), 36).tolist()
    histogram.hist(other, bins, density=True, color=NEUTRAL, alpha=0.55, label="different kinds")
    histogram.hist(same, bins, density=True, histtype="step", color=BLUE, linewidth=1.8, label="same kind")
    histogram.set(
        xlabel="correlation of losses (1)",
        ylabel="density of pairs",
        title=f"AUC {found.auc:.2f}; kinds shuffled, at most {np.quantile(found.null, 0.975):.2f} in 97.5 %",
    )
    histogram.legend()
    return figure


def _susceptibilities(results: Results) -> Figure:
    found = results.classes.sel(wr=list(results.comparison.circuit.names))
    figure, panels = _figure(11, 4.2, 2, sharey=True)
    titles = {
        "standardized": "Each head's susceptibilities, standardised",
        "centred": "The same, less the mean of all heads",
    }
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        values, errors = 100 * found[name].values, 100 * found[f"{name}_se"].values
        limit = float(np.abs(values).max())
        image = heat_map(axes, values, limit)
        for (row, column), value in np.ndenumerate(values):
            text = f"{value:+.1f}\n±{errors[row, column]:.1f}"
            colour = "white" if abs(value) > 0.6 * limit else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=6.5, color=colour)
        axes.set_xticks(range(values.shape[1]), found["token_class"].values, rotation=30, ha="right")
        axes.set_yticks(range(values.shape[0]), found["wr"].values)
        axes.tick_params(length=0)
        axes.set_title(title)
        figure.colorbar(image, ax=axes, shrink=0.85, label="0.01 standard deviations (1)")
    for tick, head in zip(panels[0].get_yticklabels(), results.comparison.circuit.names, strict=True):
        tick.set_fontweight("bold" if head in results.comparison.circuit.members else "normal")
    return figure


def _bars(values: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    distances: np.ndarray = np.abs(bounds.T - values)
    return distances
