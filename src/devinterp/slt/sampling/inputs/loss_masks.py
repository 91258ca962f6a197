"""Which positions of rows count: what an attention mask, labels and a loss mask say of the losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from devinterp.errors import DataError
from devinterp.wording import shown

__all__ = [
    "MARKS",
    "Flags",
    "all_flags",
    "check_rows_count",
    "mask_of_rows",
    "of_token_rows",
    "pad",
    "select_mask",
    "within_sentence",
]

MARKS = ("attention_mask", "labels", "loss_mask")
"""Columns beside ``input_ids`` that say which positions are there, and which count."""

IGNORED = -100
"""The label of a token whose prediction does not count, of HuggingFace and torch."""

Flags = npt.NDArray[np.bool_]


def within_sentence(name: str) -> str:
    """Return what a dataset is called, as it stands within a sentence."""
    return name[:1].lower() + name[1:]


def all_flags(parts: Sequence[Flags | None], sizes: Sequence[int], width: int) -> Flags | None:
    """Put the flags of consecutive rows together; None where all are set."""
    if all(part is None for part in parts):
        return None
    whole = (np.ones((n, width), dtype=bool) if f is None else f for f, n in zip(parts, sizes, strict=True))
    return np.concatenate(list(whole))


def pad(rows: Sequence[npt.NDArray[Any]], length: int, fill: int) -> npt.NDArray[Any]:
    """Return rows of unequal lengths as one table, filled up on the right."""
    table = np.full((len(rows), length), fill, dtype=np.result_type(*{row.dtype for row in rows}))
    for place, row in zip(table, rows, strict=True):
        place[: len(row)] = row
    return table


def of_token_rows(
    ids: npt.NDArray[np.int64],
    marks: Mapping[str, Sequence[Any]],
    lengths: npt.NDArray[np.int64],
    given: npt.NDArray[Any] | None,
    name: str,
) -> tuple[Flags | None, Flags | None]:
    """Say which tokens of rows are there, and which of their losses count.

    The loss at position p is that of the token at p + 1. It counts where both are there, and where neither the label
    nor the mask of the token at p + 1 says otherwise: ``labels`` are unshifted, as HuggingFace has them.

    Parameters
    ----------
    ids : (n, token) int64
        Padded on the right where rows are of unequal lengths.
    marks : mapping
        Of `MARKS`, what the dataset has for these rows, each a sequence of rows.
    lengths : (n,) int64
        Tokens of each row, without what it was padded with.
    given : (n, token) or (n, token - 1), optional
        A loss mask of the caller's, beside the dataset.
    name : str
        What messages call the dataset.

    Returns
    -------
    attended, counts : (n, token) and (n, token - 1) bool arrays or None
        None where all are.

    Raises
    ------
    DataError
        A mask holds other values than 0 and 1, or has another shape; a label is another token than its own.
    """
    width = ids.shape[1]
    if given is None and not marks and (lengths == width).all():
        return None, None
    attended = np.arange(width) < lengths[:, None]
    if "attention_mask" in marks:
        attended &= _flags(marks["attention_mask"], "attention_mask", lengths, width, name)
    counts = attended[:, :-1] & attended[:, 1:]
    if "labels" in marks and any(np.ndim(label) for label in marks["labels"]):  # else a class of each row
        labels = _table(marks["labels"], "labels", lengths, width, IGNORED, name)
        wanted = labels != IGNORED
        other = np.argwhere(wanted & attended & (labels != ids))
        if len(other):
            row, position = other[0]
            raise DataError(
                f"The labels of {within_sentence(name)} are other tokens than its input_ids.",
                expected=f"the token at the same position, or {IGNORED}",
                found=f"{labels[row, position]} for the token {ids[row, position]} at position {position}",
                remedy="Labels are not shifted here; leave the column out if they are another target.",
            )
        counts = counts & wanted[:, 1:]
    for mask in (marks.get("loss_mask"), given):
        if mask is not None:
            flags = _flags(mask, "loss_mask", lengths, width, name, also=width - 1)
            counts = counts & flags[:, -(width - 1) :]
    return (None if attended.all() else attended), (None if counts.all() else counts)


def select_mask(mask: Any, num_rows: int, name: str) -> Any:
    """Return a mask that a caller gave beside a dataset, (position,) for all rows or (rows, position).

    Raises
    ------
    DataError
        It is not a table of 0 and 1, or has another number of rows.
    """
    table = mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    if table.ndim not in (1, 2) or (table.ndim == 2 and len(table) != num_rows):
        raise DataError(
            f"loss_mask does not fit {within_sentence(name)}.",
            expected=f"one row of flags for all rows, or one for each of {num_rows} rows",
            found=f"shape {shown(table.shape)}",
        )
    return _checked(table, "loss_mask", name)


def mask_of_rows(mask: Any, indices: npt.NDArray[np.int64]) -> Any:
    """Return what a mask that `select_mask` returned says of some rows, (n, position)."""
    return mask[indices] if mask.ndim == 2 else np.broadcast_to(mask, (len(indices), len(mask)))


def check_rows_count(counts: Flags | None, indices: npt.NDArray[np.int64], name: str) -> None:
    """Raise `DataError` where no position of a row counts: there is no loss to sample on or to observe."""
    if counts is not None and not counts.any(axis=1).all():
        row = int(indices[np.flatnonzero(~counts.any(axis=1))[0]])
        raise DataError(
            f"A row of {within_sentence(name)} has no position that counts.",
            expected="at least one per row",
            found=f"none in row {row}",
            remedy="Leave such rows out: dataset.filter(...), or dataset.select(...).",
        )


def _flags(rows: Any, what: str, lengths: npt.NDArray[np.int64], width: int, name: str, also: int = -1) -> Flags:
    return _checked(_table(rows, what, lengths, width, 0, name, also=also), what, name)


def _checked(table: npt.NDArray[Any], what: str, name: str) -> Flags:
    if table.dtype.kind not in "biuf" or not np.isin(table, (0, 1)).all():
        strange = table[~np.isin(table, (0, 1))].ravel()[:1].tolist() if table.dtype.kind in "biuf" else [table.dtype]
        raise DataError(
            f"The {what} of {within_sentence(name)} is not made of 0 and 1.",
            expected="0 or 1 (or False and True) at every position",
            found=strange[0],
            remedy="A position counts or does not; for weights of losses, pass loss_fn=.",
        )
    return table.astype(bool)


def _table(
    rows: Any, what: str, lengths: npt.NDArray[np.int64], width: int, fill: int, name: str, also: int = -1
) -> npt.NDArray[Any]:
    """Return what stands beside the tokens of rows as a table of their width, or of ``also``."""
    arrays = [r.detach().cpu().numpy() if isinstance(r, torch.Tensor) else np.asarray(r) for r in rows]
    each = list(zip(arrays, lengths, strict=True))
    fits = all(a.ndim == 1 and len(a) in (n, width) for a, n in each)
    if not fits and not (also >= 0 and all(a.ndim == 1 and len(a) in (n - 1, also) for a, n in each)):
        shapes = dict.fromkeys(str(a.shape) for a in arrays)
        raise DataError(
            f"The {what} of {within_sentence(name)} does not fit its tokens.",
            expected=f"one entry per token{' or per predicted token' if also >= 0 else ''}: {int(lengths.max())}",
            found=", ".join(list(shapes)[:4]),
        )
    return pad(arrays, width if fits else also, fill)
