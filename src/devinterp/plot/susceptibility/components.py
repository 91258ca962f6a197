"""Principal components of susceptibilities: loadings of restrictions, scores of tokens, and both over training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from devinterp.errors import SettingError
from devinterp.plot.drawing.contexts import ContextLine, bars_with_contexts
from devinterp.plot.drawing.facets import Facets
from devinterp.plot.drawing.labels import place_labels
from devinterp.plot.drawing.style import NEUTRAL, PALETTE, colours, legend, new_axes, note, title, training_axis
from devinterp.plot.inputs import as_susceptibilities, context_of
from devinterp.plot.susceptibility.classes import (
    Classes,
    Standardize,
    class_order,
    context_places,
    entries,
    scatter_tokens,
    token_classes,
    told_of_classes,
)
from devinterp.plot.tokens.decode import drawable, legend_name, token_strings
from devinterp.slt.runs.run import Tree
from devinterp.slt.susceptibilities.matrix import pca

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.lines import Line2D

__all__ = ["component_tokens", "components_over_checkpoints", "susceptibility_pca"]


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
    if show == "tokens":
        _one_checkpoint(sus)
    found = pca(tree, standardize=_standardized(sus, standardize))
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
    drawn = scatter_tokens(ax, scores[:, a], scores[:, b], labels)
    title(ax, f"scores of the {entries(tree)}")
    if said := told_of_classes(labels):
        note(ax, said)
    return drawn


def component_tokens(
    obj: Tree,
    component: int = 1,
    *,
    tokenizer: Any = None,
    standardize: Standardize | None = None,
    top: int = 12,
    most_bars: int = 24,
    window: int = 8,
    **options: Any,
) -> Facets:
    """Draw one component: the loadings of restrictions as bars, and beside them the tokens with the largest scores.

    Parameters
    ----------
    obj : DataTree or Dataset
        As in `devinterp.plot.susceptibility.susceptibility_classes`; one checkpoint.
    component : int
        Which one, counted from 1.
    tokenizer
        See `devinterp.plot.tokens.decode.token_strings`.
    standardize : bool or "columns", optional
        As in `susceptibility_pca`.
    top : int
        Tokens of either sign, each with what stands before it. Repetitions of the same words are left out.
    most_bars : int
        Restrictions, those with the largest loadings; bars are in order of their loadings.
    window : int
        Tokens of context before each.
    **options
        Passed to ``compute_susceptibilities``.

    Returns
    -------
    Facets
        Two panels: the bars, and the tokens.
    """
    tree = as_susceptibilities(obj, **options)
    sus = _one_checkpoint(tree["susceptibilities"].to_dataset())
    found = pca(tree, standardize=_standardized(sus, standardize))
    if not 1 <= component <= found.sizes["component"]:
        raise SettingError("There is no such component.", expected=f"1 to {found.sizes['component']}", found=component)
    loadings = found["loadings"].values[component - 1]
    scores = found["scores"].values[:, component - 1]
    shown = np.argsort(-np.abs(loadings), kind="stable")[:most_bars]
    shown = shown[np.argsort(-loadings[shown], kind="stable")]
    lines = _lines(tree, tokenizer, scores, top, window)
    facets = bars_with_contexts([str(sus["wr"].values[i]) for i in shown], loadings[shown], lines)
    bars, texts = facets
    share = 100 * float(found["explained_variance_ratio"].values[component - 1])
    bars.set_xlabel("loading")
    title(bars, f"component {component}: {share:.0f} % of the variance")
    if len(shown) < len(loadings):
        note(bars, f"{len(shown)} of {len(loadings)}")
    title(texts, "tokens with the largest scores, in context")
    return facets


def components_over_checkpoints(
    obj: Tree,
    component: int = 1,
    *,
    classes: Classes | None = None,
    tokenizer: Any = None,
    standardize: Standardize | None = None,
    ax: Axes | None = None,
    **options: Any,
) -> list[Line2D]:
    """Draw what classes of tokens score on one joint component over training.

    Parameters
    ----------
    obj : DataTree
        A result of ``compute_susceptibilities`` with checkpoints, or a series, which is analysed first.
    component : int
        Which of the components that all checkpoints share (`devinterp.slt.susceptibilities.matrix.pca`), from 1.
    classes, tokenizer
        As in `devinterp.plot.susceptibility.susceptibility_classes`; of many classes those are drawn that move most.
    standardize : bool or "columns", optional
        As in `susceptibility_pca`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    **options
        Passed to ``compute_susceptibilities``.

    Returns
    -------
    list of Line2D
        One for each class: its mean score, in a band of two standard errors over its tokens.
    """
    tree = as_susceptibilities(obj, **options)
    sus = tree["susceptibilities"].to_dataset()
    if "checkpoint" not in sus.dims:
        raise SettingError(
            "There is one checkpoint, and this picture is of training.",
            expected="the susceptibilities of a series",
            remedy="Draw a single checkpoint with plot.pca().",
        )
    found = pca(tree, standardize=_standardized(sus, standardize))
    if not 1 <= component <= found.sizes["component"]:
        raise SettingError("There is no such component.", expected=f"1 to {found.sizes['component']}", found=component)
    in_order = found["scores"].transpose("checkpoint", "sus_flat", "component").sortby("checkpoint")
    scores = in_order.values[:, :, component - 1]
    labels = token_classes(tree, classes, tokenizer)
    members = {name: labels == name for name in class_order(labels)}
    means = {name: scores[:, inside].mean(axis=1) for name, inside in members.items()}
    chosen = sorted(means, key=lambda name: -float(np.ptp(means[name])))[: len(PALETTE)]
    steps = in_order["checkpoint"].values
    ax = new_axes(ax, (5.2, 3.2))
    ax.axhline(0, color=NEUTRAL, linewidth=0.6, zorder=0)
    lines = []
    shade = min(0.15, 0.6 / len(chosen))  # many bands lie over each other
    for name, colour in zip([n for n in members if n in chosen], colours(len(chosen)), strict=True):
        count = int(members[name].sum())
        error = scores[:, members[name]].std(axis=1, ddof=1) / np.sqrt(count) if count > 1 else 0 * means[name]
        ax.fill_between(steps, means[name] - 2 * error, means[name] + 2 * error, color=colour, alpha=shade, linewidth=0)
        label = f"{legend_name(name)} ({count})"
        lines += ax.plot(steps, means[name], color=colour, marker="o", markersize=3, label=label)
    training_axis(ax, steps)
    ax.set_ylabel(f"score on component {component}")
    share = 100 * float(found["explained_variance_ratio"].values[component - 1])
    title(ax, f"joint component {component}: {share:.0f} % of the variance")
    legend(ax)
    if len(chosen) < len(members):
        note(ax, f"{len(chosen)} of {len(members)} classes, those that move most")
    return lines


def _standardized(sus: xr.Dataset, standardize: Standardize | None) -> Standardize:
    """With three restrictions or fewer too little is left once each token's mean is removed."""
    return (True if sus.sizes["wr"] > 3 else "columns") if standardize is None else standardize


def _one_checkpoint(sus: xr.Dataset) -> xr.Dataset:
    if "checkpoint" in sus.dims:
        raise SettingError(
            "The result has several checkpoints, and a picture of tokens is of one.",
            found=f"{sus.sizes['checkpoint']} checkpoints",
            remedy="Choose one: result.isel(checkpoint=0).",
        )
    return sus


def _lines(tree: xr.DataTree, tokenizer: Any, scores: Any, top: int, window: int) -> list[ContextLine]:
    """The tokens at either end, the largest score first, each with its context; same words are told once."""
    context = context_of(tree)
    ids, places = np.asarray(context["input_ids"].values), context_places(tree)
    starts = places - np.asarray(context["position"].values)[places]
    order = np.argsort(-scores, kind="stable")
    ends = []
    for end in (order, order[::-1]):
        lines: dict[tuple[str, ...], ContextLine] = {}
        for entry in end:
            if len(lines) == top or len(lines) == len(scores) // 2:
                break
            first = max(int(starts[entry]), int(places[entry]) - window, 0)
            words = token_strings(ids[first : int(places[entry]) + 1], tokenizer)
            lines.setdefault(tuple(words[-3:]), ContextLine(f"{scores[entry]:+.2f}", words[:-1], words[-1]))
        ends.append(list(lines.values()))
    return [*ends[0], *reversed(ends[1])]
