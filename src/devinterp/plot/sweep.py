"""A sweep as heat maps: the LLC of every cell, its verdict, and the one that is recommended."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import xarray as xr

from devinterp.errors import SettingError
from devinterp.names import SECONDARY
from devinterp.plot.drawing.facets import Facets, draw_facets, make_facets
from devinterp.plot.drawing.numbers import with_error
from devinterp.plot.drawing.style import NEUTRAL, SEQUENTIAL, add_colorbar, new_axes, note, title
from devinterp.slt.diagnostics.diagnosis import Code
from devinterp.slt.runs.grid import axes_of
from devinterp.slt.runs.results import refuse_empty
from devinterp.slt.runs.run import Tree
from devinterp.slt.sweep import CONTROL, compute_sweep
from devinterp.slt.sweep.recommend import recommend
from devinterp.wording import one_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

__all__ = ["panels_of", "sweep_map"]

SHORT: dict[Code, str] = {
    "good": "✓",
    "diverged": "✗ diverged",
    "incomplete": "✗ draws lost",
    "below_start": "✗ below start",
    "step_bias": "✗ long step",
    "gradient_noise": "✗ batch noise",
    "clamped": "✗ clamped",
    "not_converged": "✗ not settled",
    "chains_disagree": "✗ disagree",
    "one_chain": "✗ one chain",
    "spikes": "✗ spikes",
    "little_signal": "✗ no signal",
}
CELL = (0.92, 0.62)  # inches
NARROWEST = 2.0  # inches of cells, so that a panel's title has room


def panels_of(summary: xr.Dataset) -> list[dict[str, float]]:
    """Return what is fixed in each panel of a sweep's picture: its localization, and what the grid varies besides."""
    fixed = [name for name in ("localization", *SECONDARY) if name in summary.dims]
    each = itertools.product(*(summary[name].values.tolist() for name in fixed))
    return [dict(zip(fixed, values, strict=True)) for values in each]


def sweep_map(
    obj: Tree,
    *,
    ax: Axes | None = None,
    localization: float | None = None,
    panel: Mapping[str, float] | None = None,
    colorbar: bool = True,
    **options: Any,
) -> AxesImage | Facets:
    """Draw the LLC over step size and inverse temperature, verdicts in the cells.

    There is a panel for each localization, and for each value of what the grid varies besides.

    The recommended cell is framed. Under each LLC stands its standard error; a cell that was extended has its numbers
    in bold letters. Controls (n_beta = 0 or lr = 0), whose coefficient is 0, are left out.

    Parameters
    ----------
    obj : DataTree or Dataset
        What `devinterp.sweep` returned, or what `devinterp.slt.sweep.compute_sweep` made of it.
    ax : matplotlib.axes.Axes, optional
        Where to draw one panel; a new figure by default.
    localization : float, optional
        Draw the panels of this one only.
    panel : mapping of str to float, optional
        Draw the panels with these values only: ``{"localization": 100, "batch_size": 32}``.
    colorbar : bool
        Whether to draw the scale.
    **options
        Passed to `devinterp.slt.sweep.compute_sweep`.

    Returns
    -------
    AxesImage, or Facets for several panels

    Raises
    ------
    SettingError
        ``obj`` is not a sweep, or has no such panel.
    """
    summary = obj if "verdict" in obj.data_vars else compute_sweep(obj, **options)
    refuse_empty(summary)
    whole = summary.to_dataset() if isinstance(summary, xr.DataTree) else summary
    whole = whole.expand_dims([name for name in axes_of(whole.coords) if name not in whole.dims])  # what was selected
    sampled = set(whole["verdict"].values.astype(str).ravel()) - {"", CONTROL}
    found = recommend(whole) if sampled else None
    chosen = found.settings if found is not None else {}
    framed = "framed: recommended" if found is not None and found.good else "framed: the best, none is good"
    shown = whole.isel({setting: whole[setting].values > 0 for setting in ("n_beta", "lr")})
    if 0 in shown.sizes.values():
        raise SettingError("There is nothing to draw.", expected="a cell that is not a control: n_beta and lr above 0")
    wanted = {**(panel or {}), **({} if localization is None else {"localization": localization})}
    every = panels_of(shown)
    panels = [each for each in every if wanted.items() <= each.items()]
    if not panels:
        raise SettingError("The sweep has no such panel.", expected=one_of(every), found=wanted)
    # What diverged would set the scale, and leave the others one colour.
    settled = shown["llc_mean"].where(shown["verdict"] != "diverged")
    settled = settled if settled.notnull().any() else shown["llc_mean"]
    limits = (float(settled.min()), float(settled.max())) if settled.notnull().any() else (0.0, 1.0)
    width, height = (n * size for n, size in zip((shown.sizes["lr"], shown.sizes["n_beta"]), CELL, strict=True))
    width = max(width, NARROWEST)
    if len(panels) == 1:
        axes = new_axes(ax, (width + 1.6, height + 1.0))
        image = _panel(axes, shown.sel(panels[0]), panels[0], chosen, limits)
        if panels[0].items() <= chosen.items():
            note(axes, framed)
        if colorbar:
            add_colorbar(axes, image, "LLC (dimensionless)", beyond=True)
        return image
    if ax is not None:
        raise SettingError("ax takes one panel.", expected="panel = one of the sweep's", found=panels)
    facets = make_facets([_title(each) for each in panels], size=(width + 0.5, height + 0.6), col_wrap=3)
    facets = draw_facets(
        facets,
        lambda axes, i: _panel(axes, shown.sel(panels[i]), panels[i], chosen, limits),
        own_labels=False,
    )
    if any(panel.items() <= chosen.items() for panel in panels):
        facets.fig.suptitle(framed, x=0.995, ha="right", fontsize=7.5, color=NEUTRAL)
    if colorbar:
        bar = facets.fig.colorbar(
            facets.artists[0], ax=facets.axs.ravel().tolist(), extend="both", aspect=22, pad=0.01, extendfrac=0.04
        )
        bar.set_label("LLC (dimensionless)", fontsize=8)
        bar.ax.tick_params(labelsize=7.5)
        bar.outline.set(edgecolor=NEUTRAL, linewidth=0.5)
    return facets


def _title(fixed: Mapping[str, float]) -> str:
    return ", ".join(f"{name} = {value:g}" for name, value in fixed.items())


def _panel(
    ax: Axes, panel: xr.Dataset, fixed: Mapping[str, float], chosen: Mapping[str, float], limits: tuple[float, float]
) -> AxesImage:
    """Draw one panel: step sizes to the right, inverse temperatures upwards."""
    import matplotlib as mpl
    from matplotlib.patches import Rectangle

    flat = panel.transpose("n_beta", "lr", ...)
    llc = flat["llc_mean"].values
    colours = mpl.colormaps[SEQUENTIAL].with_extremes(bad=(0.5, 0.5, 0.5, 0.15))
    image = ax.imshow(
        np.ma.masked_invalid(llc), cmap=colours, vmin=limits[0], vmax=limits[1], origin="lower", aspect="auto"
    )
    longest = int(flat["num_draws"].max())
    shortest = int(flat["num_draws"].min())
    for row, column in np.ndindex(*llc.shape):
        verdict = str(flat["verdict"].values[row, column])
        if not verdict:
            continue
        value, error = float(llc[row, column]), float(flat["llc_se"].values[row, column])
        # White letters where the ground is dark.
        dark = np.isfinite(value) and value < limits[0] + 0.45 * (limits[1] - limits[0])
        text = f"{with_error(value, error)}\n" if np.isfinite(value) else ""
        extended = int(flat["num_draws"].values[row, column]) == longest > shortest
        ax.text(
            column,
            row,
            text + SHORT.get(cast(Code, verdict), verdict),
            ha="center",
            va="center",
            fontsize=7,
            color="white" if dark else ("black" if np.isfinite(value) else NEUTRAL),
            fontweight="bold" if extended else "normal",
            parse_math=False,
        )
    framed = fixed.items() <= chosen.items()
    if framed:
        column = int(np.flatnonzero(flat["lr"].values == chosen["lr"])[0])
        row = int(np.flatnonzero(flat["n_beta"].values == chosen["n_beta"])[0])
        ax.add_patch(Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, fill=False, edgecolor="#D55E00", linewidth=2.2))
    ax.set_xticks(range(llc.shape[1]), [f"{v:g}" for v in flat["lr"].values])
    ax.set_yticks(range(llc.shape[0]), [f"{v:g}" for v in flat["n_beta"].values])
    ax.tick_params(length=0)
    ax.set_xlabel("lr (step size)")
    ax.set_ylabel("n_beta")
    title(ax, _title(fixed))
    return image
