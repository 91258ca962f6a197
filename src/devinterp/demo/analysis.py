"""From the reopened stores to the demo's four results. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from devinterp.demo.corpus import HALF, KINDS
from devinterp.plain_json import listed
from devinterp.slt.bif import compute_bif
from devinterp.slt.llc import compute_llc
from devinterp.slt.susceptibilities import compute_susceptibilities
from devinterp.slt.susceptibilities.matrix import matrix
from devinterp.slt.susceptibilities.split_half import split_half

__all__ = [
    "CLASSES",
    "CONFIDENCE",
    "COPIED",
    "COPIED_KIND",
    "FULL",
    "REPEATED",
    "TASK",
    "Influence",
    "auc",
    "head_effects",
    "influence",
    "llc_over_checkpoints",
    "llc_over_n_beta",
    "rank_correlation",
    "refined_llc",
    "susceptibility_classes",
]

F64 = NDArray[np.float64]

CONFIDENCE = 0.9
TASK, REPEATED, FULL = "train", "repeated", "full"
COPIED_KIND = "snippets"  # text that is copied and, unlike `REPEATED`, trained on
# The second showing's first byte cannot be copied yet: which of the bytes so far comes back is not known.
COPIED = slice(HALF + 1, None)
CLASSES = (*KINDS, "first showing", "second showing")


def head_effects(study: xr.DataTree) -> xr.Dataset:
    """How much the loss on copied bytes, and on training rows, rises when one head is sampled.

    Returns ``copied`` (wr,), the mean loss rise (nat) on copied bytes over ``init_loss_{obs}`` of the same rows, and
    ``task`` (wr,), n_beta times that on training rows (unit 1), with intervals ``copied_ci`` and ``task_ci``
    (wr, bound). Of a series behind ``checkpoint``.
    """
    copied = compute_llc(study.isel(token_pos=COPIED), over="observable", observable=REPEATED, ci=CONFIDENCE)
    task = compute_llc(study, over="observable", observable=TASK, ci=CONFIDENCE)
    n_beta = _n_beta(study)
    return xr.Dataset(
        {
            "copied": copied["llc_mean"] / n_beta,
            "copied_ci": copied["llc_ci"] / n_beta,
            "task": task["llc_mean"],
            "task_ci": task["llc_ci"],
        }
    )


def _n_beta(tree: xr.DataTree) -> float:
    """The inverse temperature that all runs of a study or series share."""
    return next(float(node["n_beta"]) for node in tree.subtree if "n_beta" in node.data_vars)


def llc_over_n_beta(study: xr.DataTree, head: str, others: Iterable[xr.DataTree]) -> xr.Dataset:
    """Hold n_beta times the loss rise around a head against the same at other inverse temperatures.

    ``others`` are runs of the same head. Returns ``task`` and ``task_ci``, as `head_effects`, along ``n_beta``.
    """
    runs = sorted((study.children[head], *others), key=_n_beta)
    found = [compute_llc(run, over="observable", observable=TASK, ci=CONFIDENCE) for run in runs]
    along = xr.Variable("n_beta", [_n_beta(run) for run in runs])
    return xr.Dataset(
        {
            "task": xr.concat([each["llc_mean"] for each in found], along),
            "task_ci": xr.concat([each["llc_ci"] for each in found], along),
        }
    )


def refined_llc(all_text: xr.DataTree, copied_text: xr.DataTree) -> xr.Dataset:
    """Hold every head's LLC on all text beside its data-refined one, sampled on copied text alone at the same settings.

    Both are studies with one observable, the rows that are sampled on. Returns ``all`` and ``copied`` (wr,), unit 1,
    with intervals ``all_ci`` and ``copied_ci`` (wr, bound) that take the rows as they are, since heads share them.
    """
    found = xr.Dataset()
    for name, study in (("all", all_text), ("copied", copied_text)):
        own = compute_llc(study, over="observable", ci=CONFIDENCE)
        found[name], found[f"{name}_ci"] = own["llc_mean"], own["llc_ci_given_rows"]
    return found


def rank_correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Spearman's rank correlation (unit 1) of two arrays (item,), without ties."""
    return float(np.corrcoef(first.argsort().argsort(), second.argsort().argsort())[0, 1])


def llc_over_checkpoints(series: xr.DataTree) -> xr.Dataset:
    """How the loss rises around the whole model, along training.

    As `head_effects`, with the dimension ``checkpoint`` (training step) in place of ``wr``.
    """
    return head_effects(series).sel(wr=FULL, drop=True)


@dataclass(frozen=True)
class Influence:
    """Do windows of one kind influence each other more than windows of different kinds?

    Parameters
    ----------
    matrix : DataArray, (batch_1, batch_2)
        Sequence BIF: Pearson correlation of mean losses over all draws (unit 1).
    kinds : ndarray of str, (batch,)
        The observable of each row of ``matrix``.
    auc : float
        Chance that a same-kind pair has the larger correlation than an other-kind pair; 0.5 means no difference.
    null : ndarray, (permutation,)
        The same with the kinds shuffled among the windows.
    agreement : float
        Correlation, over pairs, between the matrices of the first and of the second half of the chains.
    """

    matrix: xr.DataArray
    kinds: NDArray[np.str_]
    auc: float
    null: F64
    agreement: float

    @property
    def same_kind(self) -> tuple[F64, F64]:
        """Correlations of same-kind and of other-kind pairs of text, each pair once."""
        values, same = _pairs(self._text, self.kinds[self._is_text])
        return values[same], values[~same]

    @property
    def block_means(self) -> F64:
        """Mean correlation between kinds, (kind, kind) in the order of first appearance, self pairs left out."""
        values = np.where(np.eye(len(self.kinds), dtype=bool), np.nan, self.matrix.values.astype(np.float64))
        names = list(dict.fromkeys(self.kinds.tolist()))
        rows = [self.kinds == name for name in names]
        return np.array([[np.nanmean(values[np.ix_(a, b)]) for b in rows] for a in rows])

    def between(self, first: str, second: str) -> float:
        """Mean correlation between windows of two kinds."""
        names = list(dict.fromkeys(self.kinds.tolist()))
        return float(self.block_means[names.index(first), names.index(second)])

    @property
    def _is_text(self) -> NDArray[np.bool_]:
        return np.isin(self.kinds, KINDS)

    @property
    def _text(self) -> F64:
        return self.matrix.values[np.ix_(self._is_text, self._is_text)].astype(np.float64)


def influence(run: xr.DataTree, permutations: int, seed: int = 0) -> Influence:
    """Compute the sequence BIF of a run, and hold it against chance.

    ``repeated`` windows are in the matrix, but not among the pairs that are counted: they are not a kind of text.
    """
    names = [*KINDS, REPEATED]
    kinds = np.concatenate([np.full(run[f"loss_{name}"].sizes[f"batch_{name}"], name) for name in names])

    def correlations(tree: xr.DataTree) -> xr.DataArray:
        return compute_bif(tree, correlation_method="sequence", loss_keys=names)["influences"]

    matrix, chains = correlations(run), run.sizes["chain"]
    text = np.isin(kinds, KINDS)
    first, second = (
        _pairs(correlations(run.isel(chain=part)).values[np.ix_(text, text)], kinds[text])[0]
        for part in (slice(None, chains // 2), slice(chains // 2, None))
    )
    values, same = _pairs(matrix.values[np.ix_(text, text)], kinds[text])
    rng = np.random.default_rng(seed)
    ranks = values.argsort().argsort().astype(np.float64)  # shuffling kinds keeps the ranks
    null = np.array([auc(ranks, _pairs(None, rng.permutation(kinds[text]))[1]) for _ in range(permutations)])
    return Influence(matrix, kinds, auc(values, same), null, float(np.corrcoef(first, second)[0, 1]))


def auc(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative.

    ``scores`` and ``positive`` are (item,); at least one item is positive, and one is not. Returns a value between 0
    and 1, ties counted half (Mann & Whitney 1947).
    """
    negatives, positives = np.sort(scores[~positive]), scores[positive]
    below = np.searchsorted(negatives, positives, side="left") + np.searchsorted(negatives, positives, side="right")
    return float(below.mean() / (2 * len(negatives)))


def susceptibility_classes(study: xr.DataTree) -> xr.Dataset:
    """Mean susceptibility of every head to every class of bytes.

    Returns (wr, token_class), unit 1: ``standardized``, each head's susceptibilities brought to mean 0 and standard
    deviation 1 over all bytes, then averaged over a class; ``centred``, the same less the mean over heads, which is
    what is the head's own. ``standardized_se`` and ``centred_se``: standard errors of these class means, from the
    spread over chains. ``reproducibility`` (wr,): how the centred values of single bytes from one half of the chains
    correlate with those from the other.
    """
    whole, count = _class_means(study), study[FULL].sizes["chain"]
    chains = xr.concat([_class_means(study.isel(chain=[c])) for c in range(count)], dim="chain")
    error = chains.std("chain", ddof=1) / np.sqrt(count)
    halves = split_half(study, TASK, baseline="observable")["reproducibility_standardized"]
    return whole.merge(error.rename({name: f"{name}_se" for name in whole.data_vars})).assign(reproducibility=halves)


def _class_means(study: xr.DataTree) -> xr.Dataset:
    tree = compute_susceptibilities(study, TASK, [*KINDS, REPEATED], baseline="observable")
    tokens = tree["susceptibilities"].to_dataset()
    position = tokens["target_position"].values
    name = np.array(listed(tokens.attrs, "dataset_id_to_name"))[tokens["dataset_id"].values]
    # The first byte of the second showing belongs to neither class, as in COPIED.
    showing = np.select([position <= HALF, position > HALF + 1], ["first showing", "second showing"], "")
    label = np.where(name == REPEATED, showing, name)
    values = xr.Dataset(
        {"standardized": matrix(tree, standardize="columns"), "centred": matrix(tree, standardize=True)}
    ).drop_vars(["dataset_id", "batch", "target_position"], errors="ignore")
    means = [values.isel(sus_flat=np.flatnonzero(label == each)).mean("sus_flat") for each in CLASSES]
    return xr.concat(means, xr.Variable("token_class", list(CLASSES))).transpose("wr", "token_class")


def _pairs(matrix: NDArray[np.floating] | None, kinds: NDArray[np.str_]) -> tuple[F64, NDArray[np.bool_]]:
    """Every pair once: its value, and whether both are of one kind."""
    first, second = np.triu_indices(len(kinds), 1)
    values = np.empty(0) if matrix is None else matrix[first, second].astype(np.float64)
    return values, kinds[first] == kinds[second]
