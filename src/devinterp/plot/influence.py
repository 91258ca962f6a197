"""Influence: the matrix between sequences, and from token to token within a pair of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import MissingVariableError, SettingError
from devinterp.plot.drawing.contexts import ContextLine, bars_with_contexts
from devinterp.plot.drawing.facets import Facets
from devinterp.plot.drawing.labels import label_tokens
from devinterp.plot.drawing.style import (
    NEUTRAL,
    add_colorbar,
    heat_map,
    new_axes,
    note,
    symmetric_limit,
    thin_labels,
    title,
)
from devinterp.plot.inputs import as_bif
from devinterp.plot.tokens.decode import drawable, token_strings
from devinterp.slt.runs.run import Tree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

__all__ = ["describe_sequence", "influence_matrix", "observable_of", "ranked_influences", "token_influence"]


def influence_matrix(
    obj: Tree, *, ax: Axes | None = None, vmax: float | None = None, colorbar: bool = True, **options: Any
) -> AxesImage:
    """Draw the influence between sequences, the observables marked.

    Parameters
    ----------
    obj : DataTree or Dataset
        A result of ``compute_bif``; one between tokens is averaged over both positions. A run is analysed first, with
        ``correlation_method="sequence"`` and ``options``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    vmax : float, optional
        End of the symmetric scale; by default what covers 99.5 % of the magnitudes off the diagonal.
    colorbar : bool
        Whether to draw the scale.
    **options
        Passed to ``compute_bif``.

    Returns
    -------
    AxesImage
        Rows are ``batch_1``, columns ``batch_2``.
    """
    if "influences" not in obj.data_vars:
        options.setdefault("correlation_method", "sequence")
    result = as_bif(obj, **options)
    matrix = result["influences"]
    if not {"batch_1", "batch_2"} <= set(matrix.dims):
        raise MissingVariableError(
            "There is no influence between sequences to draw.",
            expected="the dimensions (batch_1, batch_2)",
            found=tuple(map(str, matrix.dims)),
            remedy="Select positions, not sequences.",
        )
    averaged = [d for d in matrix.dims if d not in ("batch_1", "batch_2")]
    values = np.asarray(matrix.mean(averaged).transpose("batch_1", "batch_2").values, dtype=float)
    first, second = (_labels(result, dim, size) for dim, size in zip(("batch_1", "batch_2"), values.shape, strict=True))
    other = first[:, None] != second[None, :]  # a sequence's influence on itself would set the scale
    limit, beyond = symmetric_limit(values[other] if other.any() else values, limit=vmax)
    ax = new_axes(ax, (4.9, 4.2))
    image = heat_map(ax, values, limit)
    _mark_observables(ax, result, first, second)
    ax.set_xlabel("sequence (batch_2)")
    ax.set_ylabel("sequence (batch_1)")
    if colorbar:
        add_colorbar(ax, image, _scale_label(result), beyond=beyond)
    return image


def token_influence(
    obj: Tree,
    batch_1: int,
    batch_2: int,
    *,
    tokenizer: Any = None,
    ax: Axes | None = None,
    vmax: float | None = None,
    colorbar: bool = True,
    **options: Any,
) -> AxesImage:
    """Draw the influence from token to token of a pair of sequences, with the tokens on the axes.

    Parameters
    ----------
    obj : DataTree or Dataset
        A result of ``compute_bif`` between tokens, or a run, of which then only this pair is analysed.
    batch_1, batch_2 : int
        The sequences, as indices into the concatenated observables (the result's coordinates).
    tokenizer : optional
        See `devinterp.plot.tokens.decode.token_strings`; without it token ids stand on the axes.
    ax, vmax, colorbar, **options
        As in `influence_matrix`.

    Returns
    -------
    AxesImage
        Rows are tokens of ``batch_1``, columns of ``batch_2``.
    """
    if "influences" not in obj.data_vars:
        options |= {"batch_index_range_1": [batch_1], "batch_index_range_2": [batch_2]}
    result = as_bif(obj, **options)
    if "target_position" not in result["influences"].dims:
        raise MissingVariableError(
            "There is no influence between tokens to draw.",
            expected="the dimensions target_position and target_position_T",
            found=tuple(map(str, result["influences"].dims)),
            remedy='Compute it between tokens: correlation_method="token", average_tokenwise_bif=False.',
        )
    picked = {dim: _position(result, dim, index) for dim, index in (("batch_1", batch_1), ("batch_2", batch_2))}
    pair = result["influences"].isel(picked).transpose("target_position", "target_position_T")
    values = np.asarray(pair.values, dtype=float)
    rows, columns = (
        drawable(_target_tokens(result, index, dim, tokenizer))
        for index, dim in ((batch_1, "target_position"), (batch_2, "target_position_T"))
    )
    same = np.eye(*values.shape, dtype=np.bool_) if batch_1 == batch_2 else np.zeros(values.shape, dtype=np.bool_)
    limit, beyond = symmetric_limit(values[~same] if (~same).any() else values, limit=vmax)
    side = float(np.clip(0.115 * max(values.shape), 3.4, 12.0))
    ax = new_axes(ax, (side + 1.6, side + 0.9))
    image = heat_map(ax, values, limit)
    ax.set_facecolor(NEUTRAL)  # seen where a token does not count
    label_tokens(ax.yaxis, rows, side, turned=False)
    label_tokens(ax.xaxis, columns, side, turned=True)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.set_ylabel(f"predicted token of {describe_sequence(result, batch_1)}", parse_math=False)
    ax.set_xlabel(f"predicted token of {describe_sequence(result, batch_2)}", parse_math=False)
    if colorbar:
        add_colorbar(ax, image, _scale_label(result), beyond=beyond)
    return image


def ranked_influences(
    obj: Tree,
    batch_1: int,
    target_position: int,
    *,
    top: int = 10,
    tokenizer: Any = None,
    window: int = 8,
    **options: Any,
) -> Facets:
    """Draw the strongest partners of one token by rank, each with what stands before it.

    Parameters
    ----------
    obj : DataTree or Dataset
        A result of ``compute_bif`` between tokens, with ``top_k`` or whole, or a run, of which then only the partners
        of this sequence are looked for.
    batch_1, target_position : int
        The query: its sequence, as an index into the concatenated observables, and the position of its token, from 1.
    top : int
        Partners of either sign.
    tokenizer : optional
        See `devinterp.plot.tokens.decode.token_strings`.
    window : int
        Tokens of context before each.
    **options
        Passed to ``compute_bif``.

    Returns
    -------
    Facets
        Two panels: a bar for each partner, and beside it its token in context. A result with ``top_k`` leaves out the
        query's own sequence and beginnings that others share with it; of a whole result the query's own sequence is
        left out here. Its ``noise_floor_strongest``, where it is known, is shaded.
    """
    if "influences" not in obj.data_vars:
        options = {"batch_index_range_1": [batch_1], "top_k": top, **options}
    result = as_bif(obj, **options)
    if "target_position" not in result["influences"].dims or "input_ids" not in result:
        raise MissingVariableError(
            "There are no partners of a token to rank.",
            expected="influences between tokens, and input_ids",
            found=tuple(map(str, result["influences"].dims)),
            remedy='Compute them between tokens: correlation_method="token", average_tokenwise_bif=False.',
        )
    positions = _labels(result, "target_position", result.sizes["target_position"])
    if "target_position" not in result.coords:
        positions = positions + 1
    if target_position not in positions:
        raise SettingError("There is no such token.", expected=f"one of {positions[:20]}", found=target_position)
    query = result.isel(batch_1=_position(result, "batch_1", batch_1))
    query = query.isel(target_position=int(np.flatnonzero(positions == target_position)[0]))
    ranked = [each for each in _ranked(query, batch_1, top) if np.isfinite(each[0])]
    ids = np.asarray(result["input_ids"].transpose("batch", "position").values)

    def words(sequence: int, position: int) -> list[str]:
        return token_strings(ids[sequence, max(0, position - window) : position + 1], tokenizer)

    lines = []
    for value, sequence, position in ranked:
        text = words(sequence, position)
        lines.append(ContextLine(f"{value:+.2f}", text[:-1], text[-1]))
    names = [describe_sequence(result, sequence) for _, sequence, _ in ranked]
    facets = bars_with_contexts(names, [value for value, _, _ in ranked], lines)
    bars, texts = facets
    floor = result.attrs.get("noise_floor_strongest")
    if floor is not None:
        bars.axvspan(-float(floor), float(floor), color=NEUTRAL, alpha=0.2, linewidth=0, zorder=0)
        note(bars, "shaded: noise")
    bars.set_xlabel(_scale_label(result))
    asked = words(batch_1, target_position)
    whole = "".join(drawable(asked, longest=200))
    title(bars, f"{describe_sequence(result, batch_1)}, token {target_position}")
    title(texts, f"partners of …{whole[-32:]}")
    return facets


def _ranked(query: xr.Dataset, batch_1: int, top: int) -> list[tuple[float, int, int]]:
    """Value, sequence and position of the partners of one token: the positive ones falling, then the negative ones."""
    values = np.asarray(query["influences"].values, dtype=float)
    if "rank" in query["influences"].dims:
        order = ("sign", "rank")
        values = query["influences"].transpose(*order).values[:, :top].astype(float)
        sequences = query["partner_batch"].transpose(*order).values[:, :top]
        positions = query["partner_position"].transpose(*order).values[:, :top]
    else:
        matrix = query["influences"].transpose("batch_2", "target_position_T")
        labels = _labels(query, "batch_2", matrix.shape[0])
        at = _labels(query, "target_position_T", matrix.shape[1]) + ("target_position_T" not in query.coords)
        flat = np.where(labels[:, None] == batch_1, np.nan, np.asarray(matrix.values, dtype=float)).ravel()
        order_ = np.argsort(-np.nan_to_num(flat, nan=-np.inf), kind="stable")[: int(np.isfinite(flat).sum())]
        picked = [order_[flat[order_] > 0][:top], order_[::-1][flat[order_[::-1]] < 0][:top]]
        size = max((len(each) for each in picked), default=0)
        values = np.full((2, size), np.nan)
        sequences, positions = np.zeros((2, size), dtype=int), np.zeros((2, size), dtype=int)
        for sign, places in enumerate(picked):
            values[sign, : len(places)] = flat[places]
            sequences[sign, : len(places)] = labels[places // matrix.shape[1]]
            positions[sign, : len(places)] = at[places % matrix.shape[1]]
    first = [(float(v), int(s), int(p)) for v, s, p in zip(values[0], sequences[0], positions[0], strict=True)]
    second = [(float(v), int(s), int(p)) for v, s, p in zip(values[1], sequences[1], positions[1], strict=True)]
    return [*first, *second[::-1]]


def _labels(result: xr.Dataset, dim: str, size: int) -> npt.NDArray[np.int64]:
    if dim in result.coords:
        return np.asarray(result[dim].values, dtype=np.int64)
    return np.arange(size)


def _position(result: xr.Dataset, dim: str, index: int) -> int:
    labels = _labels(result, dim, result.sizes[dim])
    found = np.flatnonzero(labels == index)
    if found.size == 0:
        raise SettingError(
            f"The result has no sequence {index} along {dim}.",
            expected=f"one of {labels[:20].tolist()}{' ...' if labels.size > 20 else ''}",
            found=index,
        )
    return int(found[0])


def observable_of(result: xr.Dataset, index: int) -> tuple[str, int] | None:
    """Return the observable that a concatenated sequence belongs to and its row there, where the result tells."""
    names, sizes = result.attrs.get("observables"), result.attrs.get("observable_sizes")
    if names is None or sizes is None:
        return None
    start = 0
    for name, size in zip(names, sizes, strict=True):
        if index < start + int(size):
            return str(name), index - start
        start += int(size)
    return None


def describe_sequence(result: xr.Dataset, index: int) -> str:
    """Name a concatenated sequence by its observable and row, where the result tells."""
    found = observable_of(result, index)
    return f"sequence {index}" if found is None else f"{found[0]}, row {found[1]}"


def _target_tokens(result: xr.Dataset, index: int, dim: str, tokenizer: Any) -> list[str]:
    positions = (
        np.asarray(result[dim].values, dtype=np.int64) if dim in result.coords else np.arange(1, result.sizes[dim] + 1)
    )
    if "input_ids" not in result:
        return [str(p) for p in positions]
    ids = np.asarray(result["input_ids"].transpose("batch", "position").values[index])
    return token_strings(ids[positions], tokenizer)


def _mark_observables(
    ax: Axes, result: xr.Dataset, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]
) -> None:
    for labels, draw_line, set_ticks, rotation in (
        (first, ax.axhline, ax.set_yticks, 90),
        (second, ax.axvline, ax.set_xticks, 0),
    ):
        found = [observable_of(result, int(i)) for i in labels]
        names = [f[0] if f is not None else None for f in found]
        if names and all(n is not None for n in names):
            starts = [i for i, n in enumerate(names) if i == 0 or n != names[i - 1]]
            for start in starts[1:]:
                draw_line(start - 0.5, color="black", linewidth=0.8)
            ends = [*starts[1:], len(names)]
            middles = [(a + b - 1) / 2 for a, b in zip(starts, ends, strict=True)]
            shown = drawable([str(names[s]) for s in starts], longest=18, names=True)
            crowded = len(starts) > 12
            set_ticks(
                middles,
                shown,
                rotation=(0 if rotation else 90) if crowded else rotation,
                va="center" if rotation or not crowded else "top",
                ha="center" if not rotation or not crowded else "right",
                fontsize=6.5 if crowded else 8,
                parse_math=False,
            )
            # Centred labels would stand in the picture: they hang from the axis instead.
            for text in ax.get_yticklabels() if rotation else ax.get_xticklabels():
                text.set(**({"ha": "right"} if rotation else {"va": "top"}))
        else:
            at, texts = thin_labels([str(i) for i in labels], 12)
            set_ticks(at, texts)
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)


def _scale_label(result: xr.Dataset) -> str:
    covariance = bool(result.attrs.get("compute_covariance", 0))
    return "influence (covariance, nat²)" if covariance else "influence (correlation, dimensionless)"
