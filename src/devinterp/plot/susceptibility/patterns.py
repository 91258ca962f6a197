"""Susceptibilities by pattern of the predicted token: a box for each pattern, a panel for each restriction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import SettingError
from devinterp.plot.drawing.facets import Facets, draw_facets, make_facets
from devinterp.plot.drawing.style import NEUTRAL, absent, colours, new_axes, title
from devinterp.plot.inputs import as_susceptibilities, context_of
from devinterp.plot.susceptibility.classes import Standardize, called, context_places, values_of
from devinterp.plot.tokens.decode import drawable, need_texts, token_strings
from devinterp.plot.tokens.patterns import token_patterns
from devinterp.slt.runs.run import Tree
from devinterp.wording import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["patterns_of", "susceptibility_patterns"]

REST = "none of these"
MOST_PANELS = 12


def susceptibility_patterns(
    obj: Tree,
    wr: str | Sequence[str] | None = None,
    *,
    tokenizer: Any = None,
    standardize: Standardize = "columns",
    ax: Axes | None = None,
    col_wrap: int | None = None,
    **options: Any,
) -> Facets | dict[str, Any]:
    """Draw the susceptibilities of each restriction as a box for each pattern that the predicted token is part of.

    Parameters
    ----------
    obj : DataTree or Dataset
        As in `devinterp.plot.susceptibility.susceptibility_classes`; one checkpoint.
    wr : str or sequence of str, optional
        One restriction, or several. By default those whose patterns lie furthest apart, at most twelve.
    tokenizer
        See `devinterp.plot.tokens.decode.token_strings`. The patterns are those of
        `devinterp.plot.tokens.patterns.token_patterns`.
    standardize, **options
        As in `devinterp.plot.susceptibility.susceptibility_classes`.
    ax : matplotlib.axes.Axes, optional
        Where to draw one restriction.
    col_wrap : int, optional
        Panels in a row.

    Returns
    -------
    Facets, or the artists of one box plot for a single restriction
        Boxes are the middle half, whiskers reach from the 5th to the 95th percentile, the line is the median; the
        share of all tokens stands after a pattern's name. Patterns overlap.
    """
    tree = as_susceptibilities(obj, **options)
    values = values_of(tree, standardize)
    patterns = {name: found for name, found in patterns_of(tree, tokenizer).items() if found.any()}
    names = [str(v) for v in tree["susceptibilities"].to_dataset()["wr"].values]
    asked = [wr] if isinstance(wr, str) else wr
    if asked is None:
        medians = np.stack([np.median(values[found], axis=0) for found in patterns.values()])
        apart = np.nan_to_num(np.ptp(medians, axis=0), nan=-np.inf)  # what has no values stands last
        asked = [names[i] for i in np.argsort(-apart, kind="stable")[:MOST_PANELS]]
    unknown = [name for name in asked if name not in names]
    if unknown or not asked:
        raise SettingError(
            "There is no such restriction.", expected=f"some of {shown(names[:20])}", found=unknown or asked
        )

    def draw(axes: Axes, index: int) -> dict[str, Any]:
        return _boxes(axes, values[:, names.index(asked[index])], patterns, called("susceptibility", tree, standardize))

    if len(asked) == 1:
        axes = new_axes(ax, (4.6, 0.9 + 0.28 * len(patterns)))
        drawn = draw(axes, 0)
        title(axes, drawable(asked, longest=30, names=True)[0])
        return drawn
    if ax is not None:
        raise SettingError("ax takes one restriction.", expected="wr= a single name", found=f"{len(asked)} of them")
    facets = make_facets(list(asked), size=(2.7, 0.7 + 0.22 * len(patterns)), col_wrap=col_wrap or min(4, len(asked)))
    facets = draw_facets(facets, draw)
    if len(asked) < len(names) and wr is None:
        said = f"{len(asked)} of {len(names)} restrictions, those whose patterns lie furthest apart"
        facets.fig.suptitle(said, x=0.995, ha="right", fontsize=7.5, color=NEUTRAL)
    return facets


def patterns_of(tree: xr.DataTree, tokenizer: Any) -> dict[str, npt.NDArray[np.bool_]]:
    """Return which entries of ``sus_flat`` are part of each pattern, what is part of none at the end."""
    need_texts(tokenizer, "Patterns")
    context = context_of(tree)
    row = (context["dataset_id"].values, context["batch"].values)
    order = np.lexsort((context["position"].values, row[1], row[0]))
    ids = np.asarray(context["input_ids"].values)[order]
    new_row = np.flatnonzero(np.any([np.diff(each[order]) != 0 for each in row], axis=0)) + 1
    texts = np.array([*token_strings(ids, tokenizer), None])[:-1]  # an array of objects: a text may end in a null
    parts = [token_patterns(part.tolist()) for part in np.split(texts, new_row)]
    places = context_places(tree)
    found = {}
    for name in parts[0]:
        along = np.empty(order.size, dtype=np.bool_)
        along[order] = np.concatenate([part[name] for part in parts])
        found[name] = along[places]
    return {**found, REST: ~np.any(list(found.values()), axis=0)}


def _boxes(
    ax: Axes, values: npt.NDArray[np.float64], patterns: Mapping[str, npt.NDArray[np.bool_]], label: str
) -> dict[str, Any]:
    labels = [f"{name} ({100 * found.mean():.2g} %)" for name, found in patterns.items()]
    drawn = ax.boxplot(
        [values[found] for found in patterns.values()],
        orientation="horizontal", whis=(5, 95), showfliers=False, widths=0.65, patch_artist=True,
        medianprops={"color": "black", "linewidth": 1.2}, whiskerprops={"color": NEUTRAL}, capprops={"color": NEUTRAL},
    )  # fmt: skip
    shades = [*colours(len(patterns) - 1), NEUTRAL] if REST in patterns else colours(len(patterns))
    for box, colour in zip(drawn["boxes"], shades, strict=True):
        box.set(facecolor=colour, alpha=0.75, linewidth=0)
    ax.axvline(0, color=NEUTRAL, linewidth=0.6, zorder=0)
    ax.set_yticks(range(1, len(labels) + 1), labels, fontsize=7.5, parse_math=False)
    ax.set_ylim(len(labels) + 0.6, 0.4)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(label)
    if not np.isfinite(values).any():
        absent(ax)
    return drawn
