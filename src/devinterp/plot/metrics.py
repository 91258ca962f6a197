"""SGLD diagnostics: the size of each part of the update, the angles between them, the way from the start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from devinterp.errors import MissingVariableError, SettingError
from devinterp.plot.drawing.facets import Facets, draw_facets, make_facets
from devinterp.plot.drawing.style import NEUTRAL, PALETTE, colours, legend, new_axes, note, title
from devinterp.plot.inputs import one_run
from devinterp.slt.runs.run import Samples, Tree
from devinterp.wording import one_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

__all__ = ["sgld_metrics"]

Quantity = Literal["norms", "cosines", "distance"]
QUANTITIES: tuple[Quantity, ...] = ("norms", "cosines", "distance")
NORMS = {
    "noise": "noise",
    "scaled_grad": "gradient",
    "unscaled_grad": "gradient, unmasked",
    "localization": "localization",
    "weight_decay": "weight decay",
}
COSINES = {
    "dot_grad_prior": ("gradient · prior", "scaled_grad", "prior"),
    "dot_grad_noise": ("gradient · noise", "scaled_grad", "noise"),
    "dot_prior_noise": ("prior · noise", "prior", "noise"),
}
TITLES = {
    "norms": "parts of the update",
    "cosines": "angles between them",
    "distance": "distance from the start",
}


def sgld_metrics(
    samples: Tree,
    quantity: Quantity | None = None,
    *,
    ax: Axes | None = None,
    col_wrap: int | None = None,
) -> list[Line2D] | Facets:
    """Draw the diagnostics of every step, from a run with ``save_metrics=True``.

    Parameters
    ----------
    samples : DataTree or Dataset
        What ``sample()`` returned; of a study, ``full`` is drawn.
    quantity : {"norms", "cosines", "distance"}, optional
        One of the three; by default all, side by side. Lines are means over chains, bands reach from the smallest to
        the largest chain; the distance has a line for each chain.
    ax : matplotlib.axes.Axes, optional
        Where to draw one quantity; a new figure by default.
    col_wrap : int, optional
        Panels in a row.

    Returns
    -------
    list of Line2D, or Facets for all three

    Raises
    ------
    MissingVariableError
        The run kept no metrics.
    """
    run = one_run(samples)
    if "metrics_scaled_grad" not in run.dataset:
        raise MissingVariableError(
            "The run kept no SGLD diagnostics.",
            expected="the variables metrics_*",
            remedy="Sample with save_metrics=True.",
        )
    if quantity is None:
        if ax is not None:
            raise SettingError("ax takes one quantity.", expected=f"quantity = {one_of(QUANTITIES)}")
        grid = make_facets([TITLES[q] for q in QUANTITIES], col_wrap=col_wrap or 3, sharey=False, size=(3.5, 2.8))
        return draw_facets(grid, lambda axes, i: sgld_metrics(samples, QUANTITIES[i], ax=axes), own_labels=True)
    if quantity not in QUANTITIES:
        raise SettingError("There is no such diagnostic.", expected=one_of(QUANTITIES), found=repr(quantity))
    ax = new_axes(ax, (4.6, 3.0))
    lines = _DRAW[quantity](ax, run)
    burnin = run.setting("num_burnin_steps")
    if burnin:
        ax.axvspan(-0.5, burnin - 0.5, color=NEUTRAL, alpha=0.15, linewidth=0)
        note(ax, "shaded: burn-in")
    ax.set_xlabel("SGLD step")
    ax.set_ylabel(_LABELS[quantity])
    title(ax, TITLES[quantity])
    ax.margins(x=0.01)
    _legend(ax)
    return lines


_LABELS = {
    "norms": "L2 norm (weight units)",
    "cosines": "cosine (dimensionless)",
    "distance": "L2 distance (weight units)",
}


def _legend(ax: Axes) -> None:
    if len(ax.get_legend_handles_labels()[0]) <= 8:
        # Three panels stand side by side: below each is more room than beside it.
        legend(ax, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    else:
        note(ax, f"{len(ax.get_legend_handles_labels()[0])} chains")


def _values(run: Samples, name: str) -> npt.NDArray[np.float64]:
    return np.asarray(run.variable(f"metrics_{name}", ("chain", "step")).values, dtype=np.float64)


def _norms(ax: Axes, run: Samples) -> list[Line2D]:
    lines: list[Line2D] = []
    scaled = _values(run, "scaled_grad")
    smallest = np.inf
    for colour, (name, label) in zip(PALETTE, NORMS.items(), strict=False):
        values = _values(run, name)
        if name == "unscaled_grad" and np.allclose(values, scaled, rtol=1e-3, equal_nan=True):
            continue  # without a mask or a preconditioner it is the gradient again
        positive = values[values > 0]
        if positive.size == 0:
            continue
        smallest = min(smallest, float(np.quantile(positive, 0.02)))
        lines.append(_band(ax, np.where(values > 0, values, np.nan), label, colour))
    ax.set_yscale("log")
    if np.isfinite(smallest):
        ax.set_ylim(bottom=smallest / 2)
    return lines


def _cosines(ax: Axes, run: Samples) -> list[Line2D]:
    localization, decay = _values(run, "localization"), _values(run, "weight_decay")
    # The prior's norm is not stored; where both parts pull, their sum bounds it and the cosine from below.
    exact = not (np.nanmax(localization) > 0 and np.nanmax(decay) > 0)
    sizes = {
        "scaled_grad": _values(run, "scaled_grad"),
        "noise": _values(run, "noise"),
        "prior": localization + decay,
    }
    lines: list[Line2D] = []
    for colour, (name, (label, first, second)) in zip(PALETTE, COSINES.items(), strict=False):
        product = sizes[first] * sizes[second]
        cosine = np.divide(_values(run, name), product, out=np.full(product.shape, np.nan), where=product > 0)
        bounded = not exact and "prior" in (first, second)
        lines.append(_band(ax, cosine, label + (" (at least)" if bounded else ""), colour, smooth=True))
    ax.axhline(0, color=NEUTRAL, linewidth=0.8)
    ax.set_ylim(-1.05, 1.05)
    return lines


def _distance(ax: Axes, run: Samples) -> list[Line2D]:
    values = _values(run, "distance")
    lines: list[Line2D] = []
    for chain, colour in enumerate(colours(len(values))):
        lines += ax.plot(values[chain], color=colour, linewidth=1.0, label=f"chain {chain}")
    ax.set_ylim(bottom=0)
    return lines


def _band(ax: Axes, values: npt.NDArray[np.float64], label: str, colour: Any, *, smooth: bool = False) -> Line2D:
    known = np.isfinite(values).any(axis=0)
    steps = np.flatnonzero(known)
    kept = values[:, known]
    middle, low, high = np.nanmean(kept, axis=0), np.nanmin(kept, axis=0), np.nanmax(kept, axis=0)
    ax.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    width = max(1, middle.size // 40)
    if smooth and width > 1:
        middle = np.convolve(middle, np.ones(width) / width, mode="valid")
        steps = steps[(width - 1) // 2 : (width - 1) // 2 + middle.size]
    return ax.plot(steps, middle, color=colour, label=label)[0]


_DRAW = {"norms": _norms, "cosines": _cosines, "distance": _distance}
