"""Texts whose tokens are coloured by their influence on one: of a whole matrix, or its strongest partners alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import SettingError
from devinterp.plot.influence.rows import numbers_along, observable_of, position_of
from devinterp.plot.inputs import as_bif
from devinterp.plot.tokens.coloured import TextRow
from devinterp.plot.tokens.decode import token_strings
from devinterp.slt.runs.kind import kind_of
from devinterp.slt.runs.run import Tree
from devinterp.wording import shown

__all__ = ["influence_rows"]


def influence_rows(
    obj: Tree,
    tokenizer: Any,
    observable: str | None,
    rows: list[int] | None,
    most: int,
    query: tuple[int, int],
    options: Mapping[str, Any],
) -> tuple[list[TextRow], str]:
    """Return the texts, and the unit of their numbers; the arguments are those of `devinterp.plot.tokens.tokens`.

    Raises
    ------
    SettingError
        There is no such row or query, or the influences are between sequences.
    DataError
        It is not known which positions they are of.
    """
    if kind_of(obj) in ("samples", "study"):
        partners = {} if observable is None else {"batch_index_range_2": observable}
        options = {"batch_index_range_1": [query[0]], **partners, **options}
    result = as_bif(obj, **options)
    strongest = kind_of(result) == "bif_topk"
    if strongest and (rows is not None or (observable is not None and result is obj)):
        raise SettingError(
            "Of the strongest influences the texts are those of the partners.",
            expected="no rows, and no observable where they are computed already",
            found=f"observable={observable!r}, rows={shown(rows)}",
            remedy="Give most=N for the number of partners, or analyse one observable: batch_index_range_2=NAME.",
        )
    if "target_position" not in result["influences"].dims:
        raise SettingError("These are influences between sequences.", expected='correlation_method="token"')
    places = {d: position_of(result, d, n) for d, n in zip(("batch_1", "target_position"), query, strict=True)}
    if strongest:
        return _partners(result, result.isel(places), tokenizer, query, most), "correlation"
    line = result["influences"].isel(places).transpose("batch_2", "target_position_T")
    unit = str(result["influences"].attrs.get("units", "1"))
    named = "correlation" if unit == "1" else f"covariance, {unit.replace('^2', '²')}"
    return _whole(result, np.asarray(line.values, dtype=float), tokenizer, observable, rows, most, query), named


def _whole(
    result: xr.Dataset,
    line: npt.NDArray[np.float64],
    tokenizer: Any,
    observable: str | None,
    rows: list[int] | None,
    most: int,
    query: tuple[int, int],
) -> list[TextRow]:
    """Texts of sequences with all their influences on the query, ``line`` (batch_2, target_position_T)."""
    sequences, positions = numbers_along(result, "batch_2"), numbers_along(result, "target_position_T")
    found = [observable_of(result, int(i)) or ("sequence", int(i)) for i in sequences]
    allowed = [k for k, (name, _) in enumerate(found) if observable is None or name == observable]
    if rows is None:
        own = (sequences[:, None] == query[0]) & (positions == query[1])  # a correlation of 1, which says nothing
        strengths = np.abs(np.where(own | np.isnan(line), 0, line)).max(axis=1, initial=0)
        chosen = sorted(allowed, key=lambda k: -strengths[k])[:most]
    else:
        known = {int(sequences[k]) if observable is None else found[k][1]: k for k in allowed}
        wrong = [r for r in rows if r not in known]
        if wrong:
            raise SettingError("There is no such row.", expected=f"rows among {shown(sorted(known)[:30])}", found=wrong)
        chosen = [known[r] for r in rows]
    if not chosen:
        raise SettingError("There is no such row.", found=rows if rows is not None else observable)
    ids = np.asarray(result["input_ids"].transpose("batch", "position").values)
    values, counts = np.full((len(chosen), ids.shape[1]), np.nan), np.ones((len(chosen), ids.shape[1]), dtype=bool)
    values[:, positions] = line[chosen]
    masked = "mask" in result
    if masked:
        mask = result["mask"].transpose("batch", "target_position").values[sequences[chosen]]
        counts[:, numbers_along(result, "target_position")] = mask == 1
    return [
        TextRow(
            f"{found[k][0]}, row {found[k][1]}",
            tuple(token_strings(ids[sequences[k]], tokenizer)),
            values[n],
            query[1] if sequences[k] == query[0] else None,
            counts[n] if masked else None,
        )
        for n, k in enumerate(chosen)
    ]


def _partners(result: xr.Dataset, one: xr.Dataset, tokenizer: Any, query: tuple[int, int], most: int) -> list[TextRow]:
    """The query's own text, then those of its strongest partners; ``one`` is the result at the query."""
    values = np.asarray(one["influences"].values, dtype=np.float64).ravel()
    batches, positions = (np.asarray(one[f"partner_{n}"].values).ravel() for n in ("batch", "position"))
    ids = np.asarray(result["input_ids"].transpose("batch", "position").values)

    def row(batch: int, position: int, value: float, marked: int | None) -> TextRow:
        numbers = np.full(ids.shape[1], np.nan)
        numbers[position] = value
        name, index = observable_of(result, batch) or ("sequence", batch)
        return TextRow(f"{name}, row {index}", tuple(token_strings(ids[batch], tokenizer)), numbers, marked)

    order = np.argsort(-np.abs(np.nan_to_num(values)), kind="stable")
    strongest = [k for k in order if np.isfinite(values[k])][:most]
    partners = [row(int(batches[k]), int(positions[k]), float(values[k]), None) for k in strongest]
    return [row(query[0], query[1], np.nan, query[1]), *partners]
