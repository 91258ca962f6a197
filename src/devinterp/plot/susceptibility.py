"""Susceptibilities: by restriction and class of token, along a text, and as principal components.

Raw values of two restrictions are not comparable (each scales with the spread of its own posterior), so that pictures
show `devinterp.slt.susceptibilities.views.matrix`, standardised, unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import MissingVariableError, SettingError
from devinterp.plot.drawing.labels import label_tokens, place_labels
from devinterp.plot.drawing.numbers import rounded
from devinterp.plot.drawing.style import (
    DIVERGING,
    NEUTRAL,
    PALETTE,
    add_colorbar,
    colours,
    legend,
    new_axes,
    note,
    symmetric_limit,
    thin_labels,
    title,
)
from devinterp.plot.inputs import as_susceptibilities, context_of, observable_names
from devinterp.plot.tokens.decode import KINDS, drawable, token_kind, token_strings
from devinterp.slt.runs.run import Tree
from devinterp.slt.susceptibilities.views import matrix, pca

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.image import AxesImage

__all__ = ["class_means", "susceptibility_classes", "susceptibility_pca", "susceptibility_text", "token_classes"]

Standardize = bool | Literal["columns"]
Classes = Literal["observable", "kind"] | Sequence[str] | Callable[[str], str]
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
    classes : {"observable", "kind"}, sequence of str, or callable, optional
        The observables; kinds of tokens by their spelling (the default where there is a tokenizer); a label for every
        entry of ``sus_flat``; or a function from a token's text to its label.
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
    image = ax.imshow(means, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    _restriction_axis(ax, restrictions)
    counted = [f"{text} ({size})" for text, size in zip(drawable(names, longest=20, names=True), sizes, strict=True)]
    ax.set_xticks(
        range(len(names)), counted, rotation=35, ha="right", rotation_mode="anchor", fontsize=8, parse_math=False
    )
    ax.set_xlabel("class of the predicted token (tokens)")
    if means.size <= MOST_WRITTEN_CELLS:
        for (row, column), mean in np.ndenumerate(means):
            shown, spread = rounded(float(mean), float(errors[row, column]))
            text = shown if spread is None else f"{shown}\n±{spread}"
            strong = abs(mean) > 0.6 * limit
            ax.text(column, row, text, ha="center", va="center", fontsize=6.5, color="white" if strong else "black")
    if colorbar:
        add_colorbar(ax, image, f"mean susceptibility ({_unit(standardize)})", beyond=beyond)
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
        raise MissingVariableError(f"There is no observable {observable!r}.", expected=f"one of {names}")
    chosen = (sus["dataset_id"].values == names.index(observable)) & (sus["batch"].values == batch)
    if not chosen.any():
        rows = np.unique(sus["batch"].values[sus["dataset_id"].values == names.index(observable)])
        raise SettingError(f"{observable!r} has no row {batch}.", expected=f"one of {rows.tolist()[:20]}", found=batch)
    places = np.flatnonzero(chosen)
    places = places[np.argsort(sus["target_position"].values[places], kind="stable")]
    values = _values(tree, standardize)[places].T
    tokens = drawable(_tokens(tree, tokenizer)[places])
    restrictions = [str(v) for v in sus["wr"].values]
    limit, beyond = symmetric_limit(values, limit=vmax)
    width = float(np.clip(0.13 * len(tokens), 3.5, 13))
    ax = new_axes(ax, (width + 2.0, 1.7 + 0.19 * max(len(restrictions), 4)))
    image = ax.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    _restriction_axis(ax, restrictions)
    label_tokens(ax.xaxis, tokens, width, turned=True)
    ax.set_xlabel(f"predicted token of {observable}, row {batch}", parse_math=False)
    if colorbar:
        add_colorbar(ax, image, f"susceptibility ({_unit(standardize)})", beyond=beyond)
    return image


def susceptibility_pca(
    obj: Tree,
    show: Literal["restrictions", "tokens"] = "restrictions",
    *,
    components: tuple[int, int] = (1, 2),
    classes: Classes | None = None,
    tokenizer: Any = None,
    standardize: Standardize | None = None,
    ax: Axes | None = None,
    most_labels: int = 40,
    **options: Any,
) -> PathCollection | list[PathCollection]:
    """Draw two principal components of the susceptibility matrix (tokens by restrictions).

    Parameters
    ----------
    obj : DataTree or Dataset
        As in `susceptibility_classes`.
    show : {"restrictions", "tokens"}
        The restrictions' loadings, named, or the tokens' scores, coloured by class.
    components : (int, int)
        Which components, counted from 1.
    classes, tokenizer
        As in `susceptibility_classes`.
    standardize : bool or "columns", optional
        As there; by default True, with three restrictions or fewer ``"columns"`` (too little would be left).
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    most_labels : int
        At most so many restrictions are named, the outermost first, and none over another.
    **options
        Passed to ``compute_susceptibilities``.

    Returns
    -------
    PathCollection, or a list of them for ``show="tokens"``
        One for each class.
    """
    tree = as_susceptibilities(obj, **options)
    sus = tree["susceptibilities"].to_dataset()
    if show not in ("restrictions", "tokens"):
        raise SettingError("There is no such picture.", expected="'restrictions' or 'tokens'", found=repr(show))
    if standardize is None:
        standardize = True if sus.sizes["wr"] > 3 else "columns"
    if show == "tokens" and "checkpoint" in sus.dims:
        raise SettingError(
            "The result has several checkpoints, and a picture of tokens is of one.",
            found=f"{sus.sizes['checkpoint']} checkpoints",
            remedy="Choose one: result.isel(checkpoint=0).",
        )
    found = pca(tree, standardize=standardize)
    if max(components) > found.sizes["component"] or min(components) < 1:
        count = found.sizes["component"]
        raise SettingError(
            f"There {'is one component' if count == 1 else f'are {count} components'} of these susceptibilities.",
            expected=f"two components from 1 to {count}" if count > 1 else "two restrictions or more besides 'full'",
            found=components,
            remedy=None if count > 1 else "See one restriction's tokens with plot.susceptibility_text().",
        )
    a, b = components[0] - 1, components[1] - 1
    share = found["explained_variance_ratio"].values
    loadings, scores = found["loadings"].values, found["scores"].values
    ax = new_axes(ax, (5.0, 4.2))
    ax.axhline(0, color=NEUTRAL, linewidth=0.6, zorder=0)
    ax.axvline(0, color=NEUTRAL, linewidth=0.6, zorder=0)
    ax.set_xlabel(f"component {components[0]} ({100 * share[a]:.0f} % of the variance)")
    ax.set_ylabel(f"component {components[1]} ({100 * share[b]:.0f} %)")
    if show == "restrictions":
        names = [str(v) for v in sus["wr"].values]
        x, y = loadings[a], loadings[b]
        points = ax.scatter(x, y, s=22, color=PALETTE[0])
        ax.margins(0.15)
        shown = place_labels(ax, x, y, drawable(names, longest=18, names=True), most=most_labels)
        title(ax, "loadings of the restrictions")
        if shown < len(names):
            note(ax, f"{shown} of {len(names)} named")
        return points
    labels = token_classes(tree, classes, tokenizer)
    order = _class_order(labels)
    drawn = []
    sizes = {name: int((labels == name).sum()) for name in order}
    for name, colour in zip(order, colours(len(order)), strict=True):
        members = labels == name
        drawn.append(
            ax.scatter(
                scores[members, a],
                scores[members, b],
                zorder=2 + 1 / (1 + sizes[name]),  # a small class is not buried under a large one
                s=float(np.clip(4000 / len(scores), 3, 18)),
                color=colour,
                alpha=0.6,
                linewidths=0,
                label=drawable([name], longest=20, names=True)[0],
                rasterized=len(scores) > 2000,
            )
        )
    title(ax, "scores of the tokens")
    if 1 < len(order) <= 12:
        for handle in legend(ax).legend_handles:
            handle.set(sizes=[28], alpha=1)  # dots large enough to see their colour
    return drawn


def class_means(
    tree: xr.DataTree, classes: Classes | None, tokenizer: Any, standardize: Standardize
) -> tuple[list[str], list[int], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the classes, their sizes, and the mean of each restriction over each with its standard error.

    Means and errors are (wr, class); an error takes the tokens of a class as independent, and is NaN for a single one.
    """
    values = _values(tree, standardize)
    labels = token_classes(tree, classes, tokenizer)
    names = _class_order(labels)
    members = [np.flatnonzero(labels == name) for name in names]
    means = np.stack([values[m].mean(axis=0) for m in members], axis=1)
    errors = np.stack(
        [
            values[m].std(axis=0, ddof=1) / np.sqrt(m.size) if m.size > 1 else np.full(values.shape[1], np.nan)
            for m in members
        ],
        axis=1,
    )
    return names, [m.size for m in members], means, errors


def token_classes(tree: xr.DataTree, classes: Classes | None, tokenizer: Any) -> npt.NDArray[np.str_]:
    """Return the class of every entry of ``sus_flat``, shape (sus_flat,); see `susceptibility_classes`."""
    sus = tree["susceptibilities"].to_dataset()
    size = sus.sizes["sus_flat"]
    if classes is None:
        classes = "observable" if tokenizer is None or "context" not in tree.children else "kind"
    if isinstance(classes, str):
        if classes == "observable":
            return np.asarray([observable_names(sus)[i] for i in sus["dataset_id"].values])
        if classes != "kind":
            raise SettingError(
                "There are no such classes.", expected="'observable', 'kind', labels or a function", found=repr(classes)
            )
        classes = token_kind
    if callable(classes):
        of = {token: str(classes(token)) for token in set(_tokens(tree, tokenizer))}
        return np.asarray([of[token] for token in _tokens(tree, tokenizer)])
    labels = np.asarray([str(c) for c in classes])
    if labels.shape != (size,):
        raise SettingError("There must be one class for each token.", expected=f"{size} labels", found=labels.shape)
    return labels


def _tokens(tree: xr.DataTree, tokenizer: Any) -> npt.NDArray[np.object_]:
    """Text of the predicted token of every entry of ``sus_flat``."""
    sus, context = tree["susceptibilities"].to_dataset(), context_of(tree)
    widest = int(max(context["position"].values.max(), sus["target_position"].values.max())) + 1
    tallest = int(max(context["batch"].values.max(), sus["batch"].values.max())) + 1

    def key(data: xr.Dataset, position: str) -> npt.NDArray[np.int64]:
        flat = data["dataset_id"].values.astype(np.int64) * tallest + data["batch"].values
        return np.asarray(flat * widest + data[position].values)

    place = dict(zip(key(context, "position").tolist(), range(context.sizes["ctx_flat"]), strict=True))
    found = [place.get(k, -1) for k in key(sus, "target_position").tolist()]
    if -1 in found:
        raise MissingVariableError("Tokens of some susceptibilities are missing from /context.")
    return np.asarray(token_strings(context["input_ids"].values[found], tokenizer), dtype=object)


def _values(tree: xr.DataTree, standardize: Standardize) -> npt.NDArray[np.float64]:
    if "checkpoint" in tree["susceptibilities"]["sus"].dims:
        raise SettingError("This picture shows one checkpoint.", remedy="Select one: tree.sel(checkpoint=...).")
    return np.asarray(matrix(tree, standardize=standardize).values, dtype=np.float64)


def _unit(standardize: Standardize) -> str:
    return "standard deviations" if standardize else "nat²"


def _class_order(labels: npt.NDArray[np.str_]) -> list[str]:
    present = set(labels.tolist())
    if present <= set(KINDS):
        return [k for k in KINDS if k in present]
    return list(dict.fromkeys(labels.tolist()))


def _restriction_axis(ax: Axes, names: list[str]) -> None:
    height = ax.get_window_extent().height / ax.figure.dpi * 72
    at, shown = thin_labels(drawable(names, longest=24, names=True), max(int(height / 6.5), 3))
    size = float(np.clip(height / max(len(shown), 1) * 0.8, 5, 8))
    ax.set_yticks(at, shown, fontsize=size, parse_math=False)
    ax.tick_params(length=0, pad=1.5)
    ax.spines[["left", "bottom"]].set_visible(False)
