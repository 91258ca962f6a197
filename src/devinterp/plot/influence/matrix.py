"""Influence: the matrix between sequences or rows, and from token to token within a pair of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import MissingVariableError, SettingError
from devinterp.plot.drawing.labels import label_tokens
from devinterp.plot.drawing.style import (
    NEUTRAL,
    add_colorbar,
    heat_map,
    new_axes,
    symmetric_limit,
    thin_labels,
)
from devinterp.plot.influence.rows import (
    describe,
    kind_of_rows,
    label_of,
    numbers_along,
    observable_of,
    position_of,
    scale_label,
)
from devinterp.plot.inputs import as_bif
from devinterp.plot.tokens.decode import drawable, token_strings
from devinterp.slt.runs.run import Tree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.image import AxesImage

__all__ = ["influence_matrix", "token_influence"]

MOST_LABELS = 44


def influence_matrix(
    obj: Tree,
    *,
    order: Literal["rows", "labels"] = "rows",
    ax: Axes | None = None,
    vmax: float | None = None,
    colorbar: bool = True,
    **options: Any,
) -> AxesImage:
    """Draw the influence between sequences or rows, the observables marked.

    Parameters
    ----------
    obj : DataTree or Dataset
        A result of ``compute_bif``; one between tokens is averaged over both positions. A run is analysed first, with
        ``correlation_method="sequence"`` and ``options``.
    order : {"rows", "labels"}
        As they stand, or those of one label (``row_labels=`` of ``sample()``) together, in every observable.
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
        Rows are ``batch_1``, columns ``batch_2``. Labels stand beside rows that have them.
    """
    if "influences" not in obj.data_vars:
        options.setdefault("correlation_method", "sequence")
    result = as_bif(obj, **options)
    if order == "labels":
        result = _by_label(result)
    elif order != "rows":
        raise SettingError("There is no such order.", expected="'rows' or 'labels'", found=repr(order))
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
    first, second = (numbers_along(result, dim) for dim in ("batch_1", "batch_2"))
    other = first[:, None] != second[None, :]  # a sequence's influence on itself would set the scale
    limit, beyond = symmetric_limit(values[other] if other.any() else values, limit=vmax)
    ax = new_axes(ax, (4.9, 4.2))
    image = heat_map(ax, values, limit)
    _mark_rows(ax, result, first, second)
    if colorbar:
        add_colorbar(ax, image, scale_label(result), beyond=beyond)
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
    picked = {dim: position_of(result, dim, index) for dim, index in (("batch_1", batch_1), ("batch_2", batch_2))}
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
    label_tokens(ax.yaxis, rows, side, turned=False)
    label_tokens(ax.xaxis, columns, side, turned=True)
    ax.spines[["left", "bottom"]].set_visible(False)
    what = "predicted token" if "input_ids" in result else "loss"
    of_1, of_2 = drawable([describe(result, batch) for batch in (batch_1, batch_2)], longest=30, names=True)
    ax.set_ylabel(f"{what} of {of_1}", parse_math=False)
    ax.set_xlabel(f"{what} of {of_2}", parse_math=False)
    if colorbar:
        add_colorbar(ax, image, scale_label(result), beyond=beyond)
    return image


def _by_label(result: xr.Dataset) -> xr.Dataset:
    """Put rows of one label together, observable by observable."""
    for dim in ("batch_1", "batch_2"):
        label = f"label_{dim[-1]}"
        if label not in result.coords:
            raise MissingVariableError(
                "The rows have no labels to be put in order by.",
                expected=f"the coordinate {label}",
                remedy="Sample with row_labels={observable: one label for each row}.",
            )
        labels = result[label].values.astype(np.str_)
        parts = [str((observable_of(result, int(i)) or ("", 0))[0]) for i in numbers_along(result, dim)]
        first = {part: k for k, part in reversed(list(enumerate(parts)))}
        order = [k for *_, k in sorted((first[part], str(labels[k]), k) for k, part in enumerate(parts))]
        result = result.isel({dim: order})
    return result


def _target_tokens(result: xr.Dataset, index: int, dim: str, tokenizer: Any) -> list[str]:
    positions = numbers_along(result, dim)
    if "input_ids" not in result:
        return [str(p) for p in positions]
    ids = np.asarray(result["input_ids"].transpose("batch", "position").values[index])
    return token_strings(ids[positions], tokenizer)


def _mark_rows(ax: Axes, result: xr.Dataset, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> None:
    """Write labels beside rows that have them, else the names of the observables, else the rows' numbers."""
    what = kind_of_rows(result)
    for rows, axis, draw_line, dim in ((first, ax.yaxis, ax.axhline, "1"), (second, ax.xaxis, ax.axvline, "2")):
        axis.set_label_text(f"{what} (batch_{dim})")
        found = [observable_of(result, int(i)) for i in rows]
        names = [str(f[0]) for f in found if f is not None]
        if not names or len(names) < len(found):
            at, texts = thin_labels([str(i) for i in rows], 12)
            axis.set_ticks(at, texts)
            continue
        labels = [label_of(result, int(i)) for i in rows]
        labelled = _stretches(list(zip(names, labels, strict=True)))
        parts = _stretches(names)
        for start in list(parts)[1:]:
            draw_line(start - 0.5, color="black", linewidth=0.8)
        if any(labels) and len(labelled) <= MOST_LABELS:
            shown = ", ".join(drawable(parts.values(), longest=18, names=True))
            axis.set_label_text(f"{what} (batch_{dim}): {shown}", parse_math=False)
            for start in (s for s in labelled if s not in parts and len(labelled) < len(rows)):
                draw_line(start - 0.5, color=NEUTRAL, linewidth=0.4)
            _write_stretches(axis, {s: label for s, (_, label) in labelled.items()}, len(rows), upright=True)
        else:
            _write_stretches(axis, parts, len(rows), upright=len(parts) > 12)
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)


def _stretches(names: Sequence[Any]) -> dict[int, Any]:
    """Return each name by where a stretch of it begins."""
    return {i: name for i, name in enumerate(names) if i == 0 or name != names[i - 1]}


def _write_stretches(axis: Axis, starts: Mapping[int, str], size: int, *, upright: bool) -> None:
    """Write names in the middle of their stretches, ``upright`` as many small ones read best along either axis."""
    ends = [*list(starts)[1:], size]
    shown = drawable(starts.values(), longest=18, names=True)
    short = max(map(len, shown), default=0) <= 2
    axis.set_ticks([(a + b - 1) / 2 for a, b in zip(starts, ends, strict=True)], shown, parse_math=False)
    down = axis is axis.axes.yaxis
    # Centred labels would stand in the picture: they hang from the axis instead.
    for text in axis.get_ticklabels():
        text.set(fontsize=6.5 if upright else 8, **({"ha": "right", "va": "center"} if down else {"va": "top"}))
        text.set_rotation(90 * (down != upright) if not (upright and short) else 0)
