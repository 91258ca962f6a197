"""What pictures of susceptibilities share: classes of tokens, comparable values, the axis of the restrictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import MissingVariableError, SettingError
from devinterp.plot.drawing.labels import LARGEST, SMALLEST
from devinterp.plot.drawing.style import colours, legend, thin_labels
from devinterp.plot.inputs import context_of, observable_names
from devinterp.plot.tokens.decode import KINDS, drawable, legend_name, need_texts, token_kind, token_strings
from devinterp.slt.runs.results import result_of_tokens, with_unit
from devinterp.slt.susceptibilities.matrix import matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection

__all__ = [
    "Classes",
    "Standardize",
    "called",
    "class_means",
    "class_order",
    "context_places",
    "entries",
    "predicted_tokens",
    "restriction_axis",
    "scatter_tokens",
    "token_classes",
    "told_of_classes",
    "values_of",
]

MOST_IN_LEGEND = 12

Standardize = bool | Literal["columns"]
Classes = Literal["observable", "kind", "label"] | Sequence[str] | Callable[[str], str]


def class_means(
    tree: xr.DataTree, classes: Classes | None, tokenizer: Any, standardize: Standardize
) -> tuple[list[str], list[int], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the classes, their sizes, and the mean of each restriction over each with its standard error.

    Means and errors are (wr, class); an error takes the tokens of a class as independent, and is NaN for a single one.
    """
    values = values_of(tree, standardize)
    labels = token_classes(tree, classes, tokenizer)
    names = class_order(labels)
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
        if classes == "label" and "label" in sus.coords:
            return sus["label"].values.astype(np.str_)
        if classes != "kind":
            raise SettingError(
                "There are no such classes.",
                expected="'observable', 'kind', 'label' where sample() got row_labels=, labels or a function",
                found=repr(classes),
            )
        need_texts(tokenizer, "Kinds of tokens")
        classes = token_kind
    if callable(classes):
        tokens = predicted_tokens(tree, tokenizer)
        of = {token: str(classes(token)) for token in set(tokens)}
        return np.asarray([of[token] for token in tokens])
    labels = np.asarray([str(c) for c in classes])
    if labels.shape != (size,):
        raise SettingError(
            f"There must be one class for each {entries(tree)[:-1]}.", expected=f"{size} labels", found=labels.shape
        )
    return labels


def predicted_tokens(tree: xr.DataTree, tokenizer: Any) -> npt.NDArray[np.object_]:
    """Text of the predicted token of every entry of ``sus_flat``."""
    ids = context_of(tree)["input_ids"].values[context_places(tree)]
    return np.asarray(token_strings(ids, tokenizer), dtype=object)


def context_places(tree: xr.DataTree) -> npt.NDArray[np.int64]:
    """Where the predicted token of every entry of ``sus_flat`` stands along ``ctx_flat``."""
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
    return np.asarray(found, dtype=np.int64)


def values_of(tree: xr.DataTree, standardize: Standardize) -> npt.NDArray[np.float64]:
    """Return the susceptibilities as they are drawn, (sus_flat, wr), of one checkpoint."""
    if "checkpoint" in tree["susceptibilities"]["sus"].dims:
        raise SettingError("This picture shows one checkpoint.", remedy="Select one: tree.sel(checkpoint=...).")
    return np.asarray(matrix(tree, standardize=standardize).values, dtype=np.float64)


def called(what: str, tree: xr.DataTree, standardize: Standardize) -> str:
    """Return what stands beside a scale of what `values_of` returns, with its unit."""
    return with_unit(what, "standard deviations" if standardize else tree["susceptibilities/sus"].attrs["units"])


def entries(tree: xr.DataTree) -> str:
    """Return what the entries of ``sus_flat`` are: tokens, or rows that are none."""
    return "tokens" if result_of_tokens(tree.attrs) else "rows"


def class_order(labels: npt.NDArray[np.str_]) -> list[str]:
    """Return the classes in the order that they are shown in."""
    present = set(labels.tolist())
    if present <= set(KINDS):
        return [k for k in KINDS if k in present]
    return list(dict.fromkeys(labels.tolist()))


def scatter_tokens(ax: Axes, x: Any, y: Any, labels: npt.NDArray[np.str_]) -> list[PathCollection]:
    """Draw a point for each token, coloured by class, and name the classes where there are few."""
    order = class_order(labels)
    drawn = []
    for name, colour in zip(order, colours(len(order)), strict=True):
        members = labels == name
        drawn.append(
            ax.scatter(
                x[members],
                y[members],
                zorder=2 + 1 / (1 + int(members.sum())),  # a small class is not buried under a large one
                s=float(np.clip(4000 / len(labels), 3, 18)),
                color=colour,
                alpha=0.6,
                linewidths=0,
                label=legend_name(name),
                rasterized=len(labels) > 2000,
            )
        )
    if 1 < len(order) <= MOST_IN_LEGEND:
        for handle in legend(ax).legend_handles:
            handle.set(sizes=[28], alpha=1)  # dots large enough to see their colour
    return drawn


def told_of_classes(labels: npt.NDArray[np.str_]) -> str:
    """Return what stands above a picture whose classes are too many for a legend."""
    count = len(set(labels.tolist()))
    return f"{count} classes, coloured in their order" if count > MOST_IN_LEGEND else ""


def restriction_axis(ax: Axes, names: list[str]) -> None:
    """Write restrictions along the vertical axis of an image, as many as there is room for."""
    height = ax.get_window_extent().height / ax.figure.dpi * 72
    at, shown = thin_labels(drawable(names, longest=24, names=True), max(int(height / (1.1 * SMALLEST)), 3))
    size = float(np.clip(height / max(len(shown), 1) * 0.8, SMALLEST, LARGEST))
    ax.set_yticks(at, shown, fontsize=size, parse_math=False)
    ax.tick_params(length=0, pad=1.5)
    ax.spines[["left", "bottom"]].set_visible(False)
