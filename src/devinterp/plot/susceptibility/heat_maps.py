"""Susceptibilities: by restriction and class of token, and along a text.

Raw values of two restrictions are not comparable (each scales with the spread of its own posterior), so that pictures
show `devinterp.slt.susceptibilities.matrix.matrix`, standardised, unless told otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from devinterp.errors import MissingVariableError, SettingError
from devinterp.plot.drawing.labels import label_above, label_tokens
from devinterp.plot.drawing.numbers import rounded
from devinterp.plot.drawing.style import add_colorbar, heat_map, new_axes, symmetric_limit
from devinterp.plot.inputs import as_susceptibilities, observable_names
from devinterp.plot.susceptibility.classes import (
    Classes,
    Standardize,
    called,
    class_means,
    entries,
    predicted_tokens,
    restriction_axis,
    values_of,
)
from devinterp.plot.tokens.decode import drawable, drawable_name
from devinterp.slt.runs.run import Tree
from devinterp.wording import one_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

__all__ = ["susceptibility_classes", "susceptibility_text"]

MOST_WRITTEN_CELLS = 60
FEWEST_TOKENS = 10  # of a class that the scale is made for


def susceptibility_classes(
    obj: Tree,
    classes: Classes | None = None,
    *,
    tokenizer: Any = None,
    standardize: Standardize = "columns",
    ax: Axes | None = None,
    vmax: float | None = None,
    colorbar: bool = True,
    **options: Any,
) -> AxesImage:
    """Draw the mean susceptibility of every restriction to every class of tokens.

    Parameters
    ----------
    obj : DataTree or Dataset
        A result of ``compute_susceptibilities``, or a study, which is analysed first with ``options``.
    classes : {"observable", "kind", "label"}, sequence of str, or callable, optional
        The observables; kinds of tokens by their spelling (the default where there is a tokenizer); what the rows were
        called when they were sampled, ``row_labels=`` of ``sample()``; a label for every entry of ``sus_flat``; or a
        function from a token's text to its label.
    tokenizer : optional
        See `devinterp.plot.tokens.decode.token_strings`.
    standardize : bool or "columns"
        ``"columns"``: each restriction to mean 0 and standard deviation 1 over its tokens. True: then also each token's
        mean over restrictions removed, which leaves what restrictions differ in. False: as they are, in nat².
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure that is as high as there are restrictions.
    vmax : float, optional
        End of the symmetric scale; by default the largest mean of a class with ten tokens or more.
    colorbar : bool
        Whether to draw the scale.
    **options
        Passed to ``compute_susceptibilities``.

    Returns
    -------
    AxesImage
        Rows are restrictions, columns classes. Small pictures have mean and standard error written into each cell
        (the standard error over the class's tokens).
    """
    tree = as_susceptibilities(obj, **options)
    names, sizes, means, errors = class_means(tree, classes, tokenizer, standardize)
    restrictions = [str(v) for v in tree["susceptibilities"].to_dataset()["wr"].values]
    # A class of few tokens is mostly noise, which would set the scale for all.
    large = [k for k, size in enumerate(sizes) if size >= FEWEST_TOKENS] or list(range(len(sizes)))
    limit, _ = symmetric_limit(means[:, large], limit=vmax, quantile=1.0)
    beyond = bool(np.abs(means[np.isfinite(means)]).max(initial=0.0) > limit * (1 + 1e-6))
    ax = new_axes(ax, (2.2 + 0.62 * max(len(names), 3), 1.7 + 0.21 * max(len(restrictions), 4)))
    image = heat_map(ax, means, limit)
    restriction_axis(ax, restrictions)
    counted = [f"{text} ({size})" for text, size in zip(drawable(names, longest=20, names=True), sizes, strict=True)]
    ax.set_xticks(
        range(len(names)), counted, rotation=35, ha="right", rotation_mode="anchor", fontsize=8, parse_math=False
    )
    kind = entries(tree)
    ax.set_xlabel(f"class of the {'predicted token' if kind == 'tokens' else 'row'} ({kind})")
    label_above(ax, len(restrictions))
    if means.size <= MOST_WRITTEN_CELLS:
        for (row, column), mean in np.ndenumerate(means):
            shown, spread = rounded(float(mean), float(errors[row, column])) if np.isfinite(mean) else ("–", None)
            text = shown if spread is None else f"{shown}\n±{spread}"
            strong = abs(mean) > 0.6 * limit
            ax.text(column, row, text, ha="center", va="center", fontsize=6.5, color="white" if strong else "black")
    if colorbar:
        add_colorbar(ax, image, called("mean susceptibility", tree, standardize), beyond=beyond)
    return image


def susceptibility_text(
    obj: Tree,
    observable: str | None = None,
    batch: int = 0,
    *,
    tokenizer: Any = None,
    standardize: Standardize = "columns",
    ax: Axes | None = None,
    vmax: float | None = None,
    colorbar: bool = True,
    **options: Any,
) -> AxesImage:
    """Draw the susceptibility of every restriction to every token of one text, the tokens on the axis.

    Parameters
    ----------
    obj : DataTree or Dataset
        As in `susceptibility_classes`.
    observable : str, optional
        Which observable; the first by default.
    batch : int
        Which of its rows.
    tokenizer, standardize, ax, vmax, colorbar, **options
        As in `susceptibility_classes`.

    Returns
    -------
    AxesImage
        Rows are restrictions, columns predicted tokens.
    """
    tree = as_susceptibilities(obj, **options)
    sus = tree["susceptibilities"].to_dataset()
    names = observable_names(sus)
    observable = names[0] if observable is None else observable
    if observable not in names:
        raise MissingVariableError(f"There is no observable {observable!r}.", expected=one_of(names))
    chosen = (sus["dataset_id"].values == names.index(observable)) & (sus["batch"].values == batch)
    if not chosen.any():
        rows = np.unique(sus["batch"].values[sus["dataset_id"].values == names.index(observable)])
        raise SettingError(f"{observable!r} has no row {batch}.", expected=one_of(rows), found=batch)
    places = np.flatnonzero(chosen)
    places = places[np.argsort(sus["target_position"].values[places], kind="stable")]
    values = values_of(tree, standardize)[places].T
    tokens = drawable(predicted_tokens(tree, tokenizer)[places])
    restrictions = [str(v) for v in sus["wr"].values]
    limit, beyond = symmetric_limit(values, limit=vmax)
    width = float(np.clip(0.13 * len(tokens), 3.5, 13))
    ax = new_axes(ax, (width + 2.0, 1.7 + 0.19 * max(len(restrictions), 4)))
    image = heat_map(ax, values, limit)
    restriction_axis(ax, restrictions)
    label_tokens(ax.xaxis, tokens, width, turned=True)
    of = drawable_name(observable, longest=24)
    ax.set_xlabel(f"predicted token of {of}, row {batch}", parse_math=False)
    label_above(ax, len(restrictions))
    if colorbar:
        add_colorbar(ax, image, called("susceptibility", tree, standardize), beyond=beyond)
    return image
