"""Rows that are not tokens: any map-style dataset, collated as torch does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import TensorDataset, default_collate

from devinterp.errors import DataError
from devinterp.slt.sampling.inputs.loss_masks import check_rows_count, mask_of_rows, select_mask, within_sentence
from devinterp.slt.sampling.inputs.nested import each_tensor, hash_nested, join, tensors_within
from devinterp.slt.sampling.inputs.rows_in_memory import HeldValues

__all__ = ["ValueRows"]

_BLOCK_ROWS = 1024


class ValueRows:
    """Rows of anything that torch can collate.

    Parameters
    ----------
    data : map-style dataset, array or tensor, or mapping of str to array or tensor
        The rows of a mapping are dicts. It is read by index only and never changed.
    name : str
        What messages call it.
    loss_mask : optional
        What the caller says beside the dataset of which positions count; see `select_mask`.

    Attributes
    ----------
    positions : None
        Losses per row, which the loss alone knows.

    Raises
    ------
    DataError
        It is empty, its columns differ in length, its rows cannot be collated, or come out otherwise when they are
        read again.
    """

    positions: int | None = None

    def __init__(self, data: Any, name: str, loss_mask: Any = None) -> None:
        self.name = name
        self._data = data
        self._columns = self._as_columns(data)
        if len(self) == 0:
            raise DataError(f"{name} is empty.", expected="at least one row", found="0 rows")
        ends = np.unique([0, len(self) - 1])
        first = self.take(ends)
        if next(tensors_within(first), None) is None:
            raise self._refused("no tensor is in them", type(first).__name__)
        self._loss_mask = None if loss_mask is None else select_mask(loss_mask, len(self), name)
        if hash_nested(first) != hash_nested(self.take(ends)):
            raise DataError(
                f"The rows of {within_sentence(name)} change from one reading to the next.",
                expected="the same row each time",
                remedy="Leave random transforms out, or read the rows once: list(dataset).",
            )

    def _as_columns(self, data: Any) -> Any:
        """Return arrays or tensors of all rows where the dataset is made of them, else None."""
        if isinstance(data, TensorDataset):
            return list(data.tensors)
        if not isinstance(data, Mapping | torch.Tensor | np.ndarray):
            return None
        try:
            columns = _as_arrays(data)
        except (TypeError, ValueError) as error:
            raise self._refused(str(error), type(data).__name__) from error
        lengths = {path.lstrip("."): len(column) if column.ndim else 0 for path, column in _leaves(columns)}
        if len(set(lengths.values())) > 1:
            raise DataError(
                f"The columns of {within_sentence(self.name)} have unequal lengths.",
                expected="as many entries as rows in each",
                found=", ".join(f"{length} in {path!r}" for path, length in lengths.items()),
            )
        return columns

    def __len__(self) -> int:
        return len(self._data) if self._columns is None else len(next(_leaves(self._columns), ("", ()))[1])

    def take(self, indices: npt.NDArray[np.int64]) -> Any:
        """Read rows, as one batch on the CPU."""
        if self._columns is not None:
            found = self._of_columns(self._columns, indices)
        else:
            blocks = (indices[start : start + _BLOCK_ROWS] for start in range(0, len(indices), _BLOCK_ROWS))
            found = join([self._collated(block) for block in blocks])
        return each_tensor(found, lambda tensor: tensor.detach().cpu())

    def _of_columns(self, columns: Any, indices: npt.NDArray[np.int64]) -> Any:
        if isinstance(columns, torch.Tensor):
            return columns[torch.from_numpy(indices).to(columns.device)]
        if isinstance(columns, Mapping):
            return {key: self._of_columns(one, indices) for key, one in columns.items()}
        if isinstance(columns, list):
            return [self._of_columns(one, indices) for one in columns]
        some = np.ascontiguousarray(columns[indices])
        if some.dtype.kind in "US":
            return some.tolist()
        try:
            return torch.as_tensor(some)
        except TypeError as error:
            raise self._refused(str(error).splitlines()[0], f"an array of {some.dtype}") from error

    def _collated(self, indices: npt.NDArray[np.int64]) -> Any:
        rows = [self._data[int(index)] for index in indices]
        try:
            return default_collate(rows)
        except (TypeError, RuntimeError, ValueError, KeyError, AttributeError) as error:
            raise self._refused(str(error).splitlines()[0], type(rows[0]).__name__) from error

    def _refused(self, why: str, found: str) -> DataError:
        return DataError(
            f"The rows of {within_sentence(self.name)} cannot be put into a batch: {why}.".replace("..", "."),
            expected="numbers, arrays or tensors of one shape in every row, or tuples or dicts of them, as "
            "torch.utils.data.default_collate takes them",
            found=found,
            remedy="Give the dataset a transform that returns tensors of one shape.",
        )

    def hold(self, indices: npt.NDArray[np.int64]) -> HeldValues:
        """Read rows to be kept."""
        values = self.take(indices)
        mask: Any = self._loss_mask
        if mask is None and isinstance(values, dict) and "loss_mask" in values:
            mask = select_mask(values["loss_mask"], len(indices), self.name)
        elif mask is not None:
            mask = mask_of_rows(mask, indices)
        check_rows_count(mask, indices, self.name)
        return HeldValues(values, None if mask is None or mask.all() else mask)

    def hash(self, indices: npt.NDArray[np.int64]) -> str:
        """Return the sha256 of rows."""
        return hash_nested(self.take(indices))


def _as_arrays(value: Any) -> Any:
    """Return columns as arrays or tensors, a mapping of them as a dict."""
    if isinstance(value, Mapping):
        return {key: _as_arrays(one) for key, one in value.items()}
    return value if isinstance(value, torch.Tensor) else np.asarray(value)


def _leaves(columns: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(columns, Mapping | list):
        for key, one in columns.items() if isinstance(columns, Mapping) else enumerate(columns):
            yield from _leaves(one, f"{path}.{key}")
    else:
        yield path, columns
