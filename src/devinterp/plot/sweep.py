"""A sweep as heat maps: the LLC of every cell, its verdict, and the one that is recommended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from devinterp.errors import SettingError
from devinterp.plot.drawing.facets import Facets, draw_facets, make_facets
from devinterp.plot.drawing.numbers import with_error
from devinterp.plot.drawing.style import NEUTRAL, SEQUENTIAL, add_colorbar, new_axes, note, title
from devinterp.slt.runs.run import Tree
from devinterp.slt.sweep import CONTROL, compute_sweep
from devinterp.slt.sweep.recommend import recommend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

__all__ = ["sweep_map"]

SHORT = {
    "good": "✓",
    "diverged": "✗ diverged",
    "below_start": "✗ below start",
    "not_converged": "✗ drifts",
    "chains_disagree": "✗ disagree",
    "little_signal": "✗ no signal",
}
CELL = (0.92, 0.62)  # inches


def sweep_map(
    obj: Tree, *, ax: Axes | None = None, localization: float | None = None, colorbar: bool = True, **options: Any
) -> AxesImage | Facets:
    """Draw the LLC over step size and inverse temperature, a panel for each localization, verdicts in the cells.

    The recommended cell is framed. Under each LLC stands its standard error; a cell that was extended has its numbers
    in bold letters. Controls (n_beta = 0 or lr = 0), whose coefficient is 0, are left out.

    Parameters
    ----------
    obj : DataTree or Dataset
        What `devinterp.sweep` returned, or what `devinterp.slt.sweep.compute_sweep` made of it.
    ax : matplotlib.axes.Axes, optional
        Where to draw one localization; a new figure by default.
    localization : float, optional
        Draw this panel only.
    colorbar : bool
        Whether to draw the scale.
    **options
        Passed to `devinterp.slt.sweep.compute_sweep`.

    Returns
    -------
    AxesImage, or Facets for several localizations

    Raises
    ------
    SettingError
        ``obj`` is not a sweep, or has no such localization.
    """
    summary = obj if "verdict" in obj.data_vars else compute_sweep(obj, **options)
    whole = summary.to_dataset() if isinstance(summary, xr.DataTree) else summary
    chosen = recommend(whole).settings if _any_sampled(whole) else {}
    shown = whole.isel({setting: whole[setting].values > 0 for setting in ("n_beta", "lr")})
    values = shown["localization"].values.tolist()
    if localization is not None:
        if localization not in values:
            raise SettingError("The sweep has no such localization.", expected=f"one of {values}", found=localization)
        values = [localization]
    # What diverged would set the scale, and leave the others one colour.
    settled = shown["llc_mean"].where(shown["verdict"] != "diverged")
    settled = settled if settled.notnull().any() else shown["llc_mean"]
    limits = (float(settled.min()), float(settled.max())) if settled.notnull().any() else (0.0, 1.0)
    width, height = (n * size for n, size in zip((shown.sizes["lr"], shown.sizes["n_beta"]), CELL, strict=True))
    if len(values) == 1:
        axes = new_axes(ax, (width + 1.6, height + 1.0))
        image = _panel(axes, shown.sel(localization=values[0]), chosen, limits)
        if colorbar:
            add_colorbar(axes, image, "LLC (dimensionless)", beyond=True)
        return image
    if ax is not None:
        raise SettingError("ax takes one panel.", expected="localization = one of the sweep's", found=values)
    facets = make_facets([f"localization = {v:g}" for v in values], size=(width + 0.5, height + 0.6), col_wrap=3)
    facets = draw_facets(
        facets, lambda axes, i: _panel(axes, shown.isel(localization=i), chosen, limits), own_labels=False
    )
    if colorbar:
        bar = facets.fig.colorbar(
            facets.artists[0], ax=facets.axs.ravel().tolist(), extend="both", aspect=22, pad=0.01, extendfrac=0.04
        )
        bar.set_label("LLC (dimensionless)", fontsize=8)
        bar.ax.tick_params(labelsize=7.5)
        bar.outline.set(edgecolor=NEUTRAL, linewidth=0.5)
    return facets


def _any_sampled(summary: xr.Dataset) -> bool:
    verdicts = summary["verdict"].values.astype(str)
    return bool(((verdicts != "") & (verdicts != CONTROL)).any())


def _panel(ax: Axes, panel: xr.Dataset, chosen: Mapping[str, float], limits: tuple[float, float]) -> AxesImage:
    """Draw one localization: step sizes to the right, inverse temperatures upwards."""
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
        dark = np.isfinite(value) and value < limits[0] + 0.55 * (limits[1] - limits[0])
        text = f"{with_error(value, error)}\n" if np.isfinite(value) else ""
        extended = int(flat["num_draws"].values[row, column]) == longest > shortest
        ax.text(
            column,
            row,
            text + SHORT.get(verdict, verdict),
            ha="center",
            va="center",
            fontsize=7,
            color="white" if dark else ("black" if np.isfinite(value) else NEUTRAL),
            fontweight="bold" if extended else "normal",
            parse_math=False,
        )
    localization = float(flat["localization"])
    framed = chosen.get("localization") == localization
    if framed:
        column = int(np.flatnonzero(flat["lr"].values == chosen["lr"])[0])
        row = int(np.flatnonzero(flat["n_beta"].values == chosen["n_beta"])[0])
        ax.add_patch(Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, fill=False, edgecolor="#D55E00", linewidth=2.2))
    ax.set_xticks(range(llc.shape[1]), [f"{v:g}" for v in flat["lr"].values])
    ax.set_yticks(range(llc.shape[0]), [f"{v:g}" for v in flat["n_beta"].values])
    ax.tick_params(length=0)
    ax.set_xlabel("lr (step size)")
    ax.set_ylabel("n_beta")
    title(ax, f"localization = {localization:g}")
    if framed:
        note(ax, "framed: recommended")
    return image
