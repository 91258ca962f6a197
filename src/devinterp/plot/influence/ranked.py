"""The strongest partners of a query: of a token in its context, of a row, of an image."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from devinterp.errors import MissingVariableError, SettingError
from devinterp.plain_json import listed
from devinterp.plot.drawing.contexts import ContextLine, bars_with_contexts, last_of
from devinterp.plot.drawing.facets import Facets, make_facets
from devinterp.plot.drawing.images import as_pictures, show_picture
from devinterp.plot.drawing.style import NEUTRAL, title
from devinterp.plot.influence.rows import describe, label_of, numbers_along, place_of, position_of, scale_label
from devinterp.plot.inputs import as_bif
from devinterp.plot.tokens.decode import drawable, drawable_name, gap_between, token_strings
from devinterp.slt.runs.run import Tree
from devinterp.wording import one_of

__all__ = ["influence_images", "ranked_influences"]

MOST_IMAGES = 400


def ranked_influences(
    obj: Tree,
    batch_1: int,
    target_position: int | None = None,
    *,
    top: int = 10,
    tokenizer: Any = None,
    window: int = 8,
    **options: Any,
) -> Facets:
    """Draw the strongest partners of one token by rank, each with what stands before it, or those of one row.

    Parameters
    ----------
    obj : DataTree or Dataset
        A result of ``compute_bif``, with ``top_k`` or whole, or a run, of which then only the partners of this sequence
        are looked for.
    batch_1 : int
        The query's sequence or row, as an index into the concatenated observables.
    target_position : int, optional
        The position of its token, from 1. None ranks whole sequences, or rows that are not tokens, by their labels.
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
        whole = {} if target_position is not None else {"correlation_method": "sequence"}
        options = {"batch_index_range_1": [batch_1], "top_k": top, **whole, **options}
    result = as_bif(obj, **options)
    if target_position is None:
        query = result.isel(batch_1=position_of(result, "batch_1", batch_1))
        rows = _ranked_rows(query, batch_1, top)
        lines = [ContextLine(f"{value:+.2f}", (), label_of(result, row)) for value, row in rows]
        facets = bars_with_contexts([place_of(result, row) for _, row in rows], [value for value, _ in rows], lines)
        own = _called(result, batch_1)
        _finish_ranks(facets, result, own, f"partners of {own}")
        return facets
    if "target_position" not in result["influences"].dims or "input_ids" not in result:
        raise MissingVariableError(
            "There are no partners of a token to rank.",
            expected="influences between tokens, and input_ids",
            found=tuple(map(str, result["influences"].dims)),
            remedy='Compute them between tokens: correlation_method="token", average_tokenwise_bif=False.',
        )
    positions = numbers_along(result, "target_position")
    if target_position not in positions:
        raise SettingError("There is no such token.", expected=one_of(positions), found=target_position)
    query = result.isel(batch_1=position_of(result, "batch_1", batch_1))
    query = query.isel(target_position=int(np.flatnonzero(positions == target_position)[0]))
    ranked = [each for each in _ranked(query, batch_1, top) if np.isfinite(each[0])]
    ids = np.asarray(result["input_ids"].transpose("batch", "position").values)

    def words(sequence: int, position: int) -> list[str]:
        return token_strings(ids[sequence, max(0, position - window) : position + 1], tokenizer)

    lines = []
    for value, sequence, position in ranked:
        text = words(sequence, position)
        lines.append(ContextLine(f"{value:+.2f}", text[:-1], text[-1]))
    names = [describe(result, sequence) for _, sequence, _ in ranked]
    facets = bars_with_contexts(names, [value for value, _, _ in ranked], lines)
    context = words(batch_1, target_position)
    asked = gap_between(context).join(drawable(context, longest=200))
    of = f"{_called(result, batch_1)}, token {target_position}"
    _finish_ranks(facets, result, of, f"partners of {last_of(asked, 32)}")
    return facets


def influence_images(
    obj: Tree,
    queries: Any,
    images: Any,
    *,
    top: int = 5,
    vmin: float | None = None,
    vmax: float | None = None,
    **options: Any,
) -> Facets:
    """Draw rows that are images, and beside each those that influence it most, of either sign, as images too.

    Parameters
    ----------
    obj : DataTree or Dataset
        A result of ``compute_bif`` between sequences, or a run, which is analysed first, with
        ``correlation_method="sequence"`` and ``options``.
    queries : int or sequence of int
        Rows, as indices into the concatenated observables (``batch_1`` of the result).
    images : mapping of str to array or tensor, or array or tensor
        The images of every observable's whole dataset, from a run, which knows the rows that it observed; or one for
        every row of a result, along ``batch``. An image is (height, width), or that with 1, 3 or 4 channels, first or
        last.
    top : int
        Partners of either sign.
    vmin, vmax : float, optional
        Ends of the grey scale, the same for all; by default the least and the largest value.
    **options
        Passed to ``compute_bif``.

    Returns
    -------
    Facets
        A panel for each image: a line for each query, which stands at its left end, then the positive partners from
        the strongest on, then the negative ones. Above a partner stand its label, or its observable and row, and the
        influence.
    """
    if top < 1:
        raise SettingError("top must be positive.", expected="at least 1", found=top)
    asked = [int(q) for q in np.atleast_1d(queries)]
    if "influences" not in obj.data_vars:
        options = {"correlation_method": "sequence", "batch_index_range_1": asked, **options}
    result = as_bif(obj, **options)
    pictures = as_pictures(images, obj, *(listed(result.attrs, key) for key in ("observables", "observable_sizes")))
    lines: list[tuple[int, list[tuple[float, int]], list[tuple[float, int]]]] = []
    for row in asked:
        ranked = _ranked_rows(result.isel(batch_1=position_of(result, "batch_1", row)), row, top)
        lines.append((row, [each for each in ranked if each[0] > 0], [each for each in ranked if each[0] < 0][::-1]))
    # As many places for partners of either sign as the query with the most of them needs.
    most = (max(len(above) for _, above, _ in lines), max(len(below) for _, _, below in lines))
    across = 1 + sum(most)
    facets = make_facets(
        [""] * (len(lines) * across),
        size=(0.76, 0.98),
        col_wrap=across,
        sharex=False,
        sharey=False,
        most=MOST_IMAGES,
        remedy="Ask for fewer rows, or for fewer partners: top=.",
    )
    ends = (float(pictures.min()) if vmin is None else vmin, float(pictures.max()) if vmax is None else vmax)
    for (row, above, below), axes in zip(lines, facets.axs, strict=True):
        cells: list[tuple[float | None, int] | None] = [(None, row)]
        for part, places in zip((above, below), most, strict=True):
            cells += [*part, *[None] * (places - len(part))]
        for ax, cell in zip(axes, cells, strict=True):
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(cell is not None and cell[0] is None)  # a frame around what is asked about
            if cell is None:
                continue
            value, place = cell
            shown = drawable(
                [label_of(result, place) or place_of(result, place).replace(", row ", ", ")], longest=13, names=True
            )[0]
            said = shown if value is None else f"{shown}\n{value:+.2f}"
            facets.artists.append(show_picture(ax, pictures[place], ends))
            ax.set_title(said, fontsize=7.5, loc="center", parse_math=False)
    return facets


def _called(result: xr.Dataset, index: int) -> str:
    return drawable_name(describe(result, index), longest=30)


def _finish_ranks(facets: Facets, result: xr.Dataset, query: str, partners: str) -> None:
    bars, texts = facets
    title(bars, query)
    floor, below = result.attrs.get("noise_floor_strongest"), scale_label(result)
    if floor is not None:
        bars.axvspan(-float(floor), float(floor), color=NEUTRAL, alpha=0.2, linewidth=0, zorder=0)
        below += "\nshaded: noise"
    bars.set_xlabel(below)
    title(texts, partners)


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
        labels = numbers_along(query, "batch_2")
        at = numbers_along(query, "target_position_T")
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


def _ranked_rows(query: xr.Dataset, row: int, top: int) -> list[tuple[float, int]]:
    """Value and index of the partners of one sequence or row, the positive ones falling, then the negative ones."""
    if query["influences"].dims not in (("batch_2",), ("sign", "rank"), ("rank", "sign")):
        raise SettingError(
            "These are influences between single losses.",
            found=tuple(map(str, query["influences"].dims)),
            remedy='Compute them between sequences: correlation_method="sequence".',
        )
    if "rank" in query["influences"].dims:
        values, rows = query["influences"].values.ravel().astype(float), query["partner_batch"].values.ravel()
    else:
        values = np.asarray(query["influences"].values, dtype=float)
        rows = numbers_along(query, "batch_2")
    kept = np.flatnonzero(np.isfinite(values) & (rows != row))
    order = kept[np.argsort(-values[kept], kind="stable")]
    above, below = order[values[order] > 0][:top], order[values[order] < 0]
    return [(float(values[i]), int(rows[i])) for i in [*above, *below[max(0, below.size - top) :]]]
