"""Tokens by their susceptibilities, in two dimensions."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from devinterp.errors import MissingDependencyError, SettingError
from devinterp.plot.drawing.style import new_axes, note, title
from devinterp.plot.inputs import as_susceptibilities
from devinterp.plot.susceptibility.classes import (
    Classes,
    Standardize,
    entries,
    scatter_tokens,
    token_classes,
    told_of_classes,
    values_of,
)
from devinterp.slt.runs.run import Tree
from devinterp.slt.susceptibilities.matrix import refuse_missing
from devinterp.wording import one_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection

__all__ = ["susceptibility_map"]

Method = Literal["umap", "tsne", "pca"]
PACKAGES: dict[str, tuple[str, str]] = {"umap": ("umap", "umap-learn"), "tsne": ("sklearn", "scikit-learn")}
_FIRST: tuple[Method, ...] = ("umap", "tsne", "pca")
NAMES = {"umap": "UMAP", "tsne": "t-SNE", "pca": "PCA"}


def susceptibility_map(
    obj: Tree,
    method: Method | None = None,
    *,
    classes: Classes | None = None,
    tokenizer: Any = None,
    standardize: Standardize = "columns",
    most_tokens: int = 5000,
    seed: int = 0,
    ax: Axes | None = None,
    method_options: dict[str, Any] | None = None,
    **options: Any,
) -> list[PathCollection]:
    """Draw tokens in two dimensions, near each other where their susceptibilities are alike.

    Parameters
    ----------
    obj : DataTree or Dataset
        As in `devinterp.plot.susceptibility.susceptibility_classes`; one checkpoint.
    method : {"umap", "tsne", "pca"}, optional
        UMAP needs umap-learn, t-SNE scikit-learn (``pip install 'devinterp[map]'`` brings both). By default the first
        of the three that is installed; the title says which it is. The axes of UMAP and t-SNE have no meaning, nor have
        distances between groups far apart.
    classes, tokenizer, standardize
        As in `devinterp.plot.susceptibility.susceptibility_classes`.
    most_tokens : int
        Of more tokens as many are drawn, chosen by ``seed``.
    seed : int
        Of the choice, and of the method.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    method_options : dict, optional
        Passed to ``umap.UMAP`` or ``sklearn.manifold.TSNE``.
    **options
        Passed to ``compute_susceptibilities``.

    Returns
    -------
    list of PathCollection
        One for each class.

    Raises
    ------
    MissingDependencyError
        The package of the method that was asked for is not installed.
    DataError
        Some of the susceptibilities are not finite.
    """
    if method is not None and method not in NAMES:
        raise SettingError("There is no such method.", expected=one_of(sorted(NAMES)), found=repr(method))
    tree = as_susceptibilities(obj, **options)
    refuse_missing(tree["susceptibilities"].to_dataset()["sus"])
    values = values_of(tree, standardize)
    labels = token_classes(tree, classes, tokenizer)
    if values.shape[0] < 4 or values.shape[1] < 2:
        raise SettingError(
            "There is too little to lay out in two dimensions.",
            expected="four tokens and two restrictions besides 'full', or more",
            found=f"{values.shape[0]} {entries(tree)}, {values.shape[1]} restrictions",
        )
    chosen = np.arange(values.shape[0])
    if chosen.size > most_tokens:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen.size, most_tokens, replace=False))
    used, where = _lay_out(values[chosen], method, seed, method_options or {})
    ax = new_axes(ax, (5.2, 4.2))
    drawn = scatter_tokens(ax, where[:, 0], where[:, 1], labels[chosen])
    title(ax, f"{entries(tree)} by their susceptibilities ({NAMES[used]})")
    some = f"{chosen.size} of {values.shape[0]}" if chosen.size < values.shape[0] else ""
    if said := "; ".join(filter(None, [some, told_of_classes(labels[chosen])])):
        note(ax, said)
    if used == "pca":
        ax.set_xlabel("component 1")
        ax.set_ylabel("component 2")
    else:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[["left", "bottom"]].set_visible(False)
    return drawn


def _lay_out(
    values: npt.NDArray[np.float64], method: Method | None, seed: int, options: dict[str, Any]
) -> tuple[Method, npt.NDArray[np.float64]]:
    """Return the method and the places, (token, 2)."""
    installed: list[Method] = [each for each in _FIRST if each == "pca" or find_spec(PACKAGES[each][0])]
    used: Method = installed[0] if method is None else method
    if used != "pca" and find_spec(PACKAGES[used][0]) is None:
        raise MissingDependencyError(
            f"{NAMES[used]} needs {PACKAGES[used][1]}, which is not installed.",
            remedy="pip install 'devinterp[map]', or method='pca'.",
        )
    if used == "umap":
        from umap import UMAP

        neighbours = {"n_neighbors": min(15, len(values) - 1), "n_jobs": 1}  # a seed leaves no room for threads
        return used, np.asarray(UMAP(random_state=seed, **{**neighbours, **options}).fit_transform(values))
    if used == "tsne":
        from sklearn.manifold import TSNE

        near = {"perplexity": min(30.0, (len(values) - 1) / 3)}
        return used, np.asarray(TSNE(random_state=seed, **{**near, **options}).fit_transform(values))
    centred = values - values.mean(axis=0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    return used, left[:, :2] * size[:2]
