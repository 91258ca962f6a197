"""A dataset of the caller's as rows: of token ids, or of whatever else his loss takes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from devinterp.errors import DataError, SettingError
from devinterp.schema.definition.spec import NAT
from devinterp.slt.sampling.inputs.loss_masks import within_sentence
from devinterp.slt.sampling.inputs.rows_in_memory import HeldRows
from devinterp.slt.sampling.inputs.token_rows import TokenRows, UnequalLengths, table_of
from devinterp.slt.sampling.inputs.value_rows import ValueRows
from devinterp.wording import shown

__all__ = ["SAMPLING", "RowOptions", "Rows", "fingerprint", "open_rows", "read_alike"]

SAMPLING = "sampling"
"""Names the sampling dataset among those of a run; no observable may be called so."""

_FINGERPRINT_ROWS = 64

Read = TypeVar("Read")


@dataclass(frozen=True)
class RowOptions:
    """What a caller says of rows and their losses, beside the datasets themselves.

    Its fields are arguments of `devinterp.slt.sampling.sample`, and what each means is said there.
    """

    loss_mask: Any = None
    row_labels: Mapping[str, Sequence[Any]] | None = None
    loss_unit: str = NAT

    def check(self, observables: Mapping[str, Any]) -> None:
        """Raise `SettingError` where an option has a value that it cannot have."""
        if not isinstance(self.loss_unit, str) or not self.loss_unit.strip():
            raise SettingError("loss_unit is not a unit.", expected="text such as 'nat'", found=repr(self.loss_unit))
        if isinstance(self.loss_mask, Mapping) and not set(self.loss_mask) <= {SAMPLING, *observables}:
            raise SettingError(
                "loss_mask is given for what is not a dataset of this run.",
                expected=f"keys among {', '.join(map(repr, (SAMPLING, *observables)))}",
                found=", ".join(map(repr, self.loss_mask)),
            )
        if self.loss_mask is not None and not isinstance(self.loss_mask, Mapping) and np.ndim(self.loss_mask) != 1:
            raise SettingError(
                "loss_mask does not say of which dataset it is.",
                expected="one row of flags for all rows of all datasets, or a dict of them, or of tables, by dataset",
                found=f"shape {np.shape(self.loss_mask)}",
                remedy=f"Name it: loss_mask={{{SAMPLING!r}: mask}}, and each observable by its name.",
            )
        if self.row_labels is None:
            return
        if not isinstance(self.row_labels, Mapping) or not set(self.row_labels) <= set(observables):
            raise SettingError(
                "row_labels must name the rows of observables.",
                expected=f"a dict whose keys are among {', '.join(map(repr, observables))}",
                found=shown(list(self.row_labels)) if isinstance(self.row_labels, Mapping) else repr(self.row_labels),
            )

    def mask_of(self, dataset: str) -> Any:
        """Return the loss mask of a dataset by its name, or None."""
        return self.loss_mask.get(dataset) if isinstance(self.loss_mask, Mapping) else self.loss_mask

    def labels(self, observable: str, num_rows: int) -> list[str] | None:
        """Return what the rows of an observable's dataset are called, None where nobody says.

        Raises
        ------
        DataError
            There are more or fewer labels than rows.
        """
        given = (self.row_labels or {}).get(observable)
        if given is None:
            return None
        labels = [] if isinstance(given, str) else [str(label) for label in np.asarray(given).tolist()]
        if isinstance(given, str) or len(labels) != num_rows:
            raise DataError(
                f"row_labels has another number of labels than the observable {observable!r} has rows.",
                expected=f"one label for each of {num_rows} rows",
                found=f"the text {given!r}" if isinstance(given, str) else len(labels),
            )
        return labels


class Rows(Protocol):
    """Rows of a dataset, by index.

    Attributes
    ----------
    name : str
        What messages call it.
    """

    name: str

    @property
    def positions(self) -> int | None:
        """Losses per row; None where the loss alone knows."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def hold(self, indices: npt.NDArray[np.int64]) -> HeldRows:
        """Read rows to be kept."""

    def hash(self, indices: npt.NDArray[np.int64]) -> str:
        """Return the sha256 of rows."""


def open_rows(data: Any, name: str, *, own_loss: bool, loss_mask: Any = None) -> Rows:
    """Take a dataset of any kind.

    Parameters
    ----------
    data : dataset
    name : str
        What messages call it.
    own_loss : bool
        Whether the caller has a loss of his own, without which rows must be of token ids.
    loss_mask : optional
        What the caller says beside the dataset of which positions count.

    Raises
    ------
    DataError
        It is not a dataset, or its rows are not of tokens and there is no loss for them.
    """
    columns = isinstance(data, torch.utils.data.TensorDataset)
    several = columns and len(data.tensors) > 1
    table = data if several else table_of(data, name)  # once: it may read all of a table of another library
    tokens = not several and _holds_tokens(table)
    if own_loss and not tokens:
        return ValueRows(data if columns else table, name, loss_mask)
    try:
        return TokenRows(data, name, loss_mask, table)
    except (DataError, TypeError, ValueError) as error:
        if tokens or getattr(error, "remedy", None) is not None:
            raise
        told = error if isinstance(error, DataError) else None
        raise DataError(
            f"The rows of {within_sentence(name)} are not sequences of token ids." if told is None else told.problem,
            expected="token ids" if told is None else told.expected,
            found=type(data).__name__ if told is None else told.found,
            remedy="Rows that are not tokens need a loss: pass loss_fn=, called as loss_fn(model, batch).",
        ) from error


def read_alike(datasets: Sequence[Rows], read: Callable[[], Read]) -> Read:
    """Return what is read of datasets, rows of tokens padded to the longest of all where they are of unequal lengths.

    A dataset that reads its rows one by one does not tell their lengths. They are taken to be of one length, as they
    are as a rule, until two turn out not to be: then all of its rows are looked at, once, and the reading begins anew.
    """
    _pad_alike(datasets)
    try:
        return read()
    except UnequalLengths:
        for rows in datasets:
            if isinstance(rows, TokenRows):
                rows.measure()
        _pad_alike(datasets)
    try:
        return read()
    except UnequalLengths as error:  # of one length each, and not the same
        raise DataError(error.problem, expected=error.expected, found=error.found) from None


def _pad_alike(datasets: Sequence[Rows]) -> None:
    tokens = [rows for rows in datasets if isinstance(rows, TokenRows)]
    if any(rows.unequal for rows in tokens):
        longest = max(rows.length for rows in tokens)
        for rows in tokens:
            rows.unequal, rows.length = True, longest


def fingerprint(rows: Rows) -> dict[str, Any]:
    """Identify a dataset by its length and a hash of at most 64 rows spread evenly over it.

    Unlike the hash of the rows that a run visits, it is the same for every run on the dataset, and for an observable
    made from it.
    """
    spread = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _FINGERPRINT_ROWS)).astype(np.int64))
    return {"rows": rows.hash(spread), "length": len(rows)}


def _holds_tokens(table: Any) -> bool:
    """Whether rows are of token ids, as far as the first of them tells; True for what is not a dataset at all."""
    if isinstance(table, Mapping):
        return not _is_columns(table)
    if isinstance(table, torch.Tensor | np.ndarray):
        integers = table.dtype.kind in "iu" if isinstance(table, np.ndarray) else _is_integer(table)
        return table.ndim == 2 and integers
    if isinstance(table, str | bytes) or not (hasattr(table, "__getitem__") and hasattr(table, "__len__")):
        return True
    datasets = sys.modules.get("datasets")
    if datasets is not None and isinstance(table, datasets.Dataset) and "input_ids" in table.column_names:
        return True
    return len(table) == 0 or _is_token_row(table[0])


def _is_columns(table: Mapping[Any, Any]) -> bool:
    """Whether a mapping is of columns, which may be mappings of columns themselves."""
    return bool(table) and all(
        _is_columns(each) if isinstance(each, Mapping) else isinstance(each, np.ndarray | torch.Tensor | list)
        for each in table.values()
    )


def _is_token_row(row: Any) -> bool:
    if row is None:
        return True
    if isinstance(row, Mapping):
        return "input_ids" in row
    if isinstance(row, torch.Tensor):
        return row.ndim == 1 and _is_integer(row)
    if isinstance(row, np.ndarray):
        return row.ndim == 1 and row.dtype.kind in "iu"
    if not isinstance(row, list | tuple):
        return False
    numbers = [t.item() if isinstance(row, list) and isinstance(t, torch.Tensor) and t.ndim == 0 else t for t in row]
    return all(t is None or (isinstance(t, Integral) and not isinstance(t, bool)) for t in numbers)


def _is_integer(tensor: torch.Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
