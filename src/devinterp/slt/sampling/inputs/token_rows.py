"""Token rows: reading them from what the caller has, and checking them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from devinterp.errors import DataError
from devinterp.schema.rules.row_hash import hash_rows
from devinterp.slt.sampling.inputs.loss_masks import (
    MARKS,
    Flags,
    all_flags,
    check_rows_count,
    mask_of_rows,
    of_token_rows,
    pad,
    select_mask,
    within_sentence,
)
from devinterp.slt.sampling.inputs.rows_in_memory import HeldTokens, IdArray
from devinterp.wording import shown

__all__ = ["TokenRows", "UnequalLengths", "check_vocabulary", "table_of"]

_BLOCK_ROWS = 4096
_LENGTH_ROWS = 1_000_000


class UnequalLengths(DataError):
    """Rows, of one dataset or of two, turned out to be of unequal lengths, which `TokenRows.measure` has not seen."""


class TokenRows:
    """Rows of token ids behind one interface: integer indices in, an (n, token) int64 array out.

    Parameters
    ----------
    data : datasets.Dataset, sequence of {"input_ids": ...}, or 2-D integer array or tensor
        The caller's dataset. It is read by index only and never changed.
    name : str
        What messages call it.
    loss_mask : optional
        What the caller says beside the dataset of which positions count; see `select_mask`.
    table : optional
        What `table_of` returned of it, where that is known.

    Attributes
    ----------
    length : int
        Tokens per row, the most that a row has where they are of unequal lengths.
    unequal : bool
        Whether they are, so that `hold` pads them on the right. Of a dataset that reads its rows one by one this is
        not known before `measure`.

    Raises
    ------
    DataError
        It is empty, its ids are not integers, or its rows are not 1-D sequences of at least 2.
    """

    def __init__(self, data: Any, name: str, loss_mask: Any = None, table: Any = None) -> None:
        self.name = name
        self._beside = _beside(data)
        self._data = data = table_of(data, name) if table is None else table
        self._kind = _kind_of(data, name)
        self.unequal = False
        if self._kind == "huggingface":
            # A transform of the caller's (tokenising on the fly, say) stays; a mere output format is dropped.
            if data.format["type"] != "custom":
                columns = ["input_ids", *(mark for mark in MARKS if mark in data.column_names)]
                self._data = data.with_format("numpy", columns=columns)
        elif self._kind == "array":
            self._data = data.detach().cpu().numpy() if isinstance(data, torch.Tensor) else np.asarray(data)
            if self._data.ndim != 2:
                raise DataError(
                    f"{name} is not a table of token ids.",
                    expected="two dimensions, (rows, tokens)",
                    found=f"shape {shown(self._data.shape)}",
                )
        if len(self) == 0:
            raise DataError(f"{name} is empty.", expected="at least one row", found="0 rows")
        lengths = self._lengths()
        self._measured = bool(lengths) or self._kind == "array"
        self.length = 0  # or more, once a row is read
        self._pad_to(lengths)
        if not self.unequal:
            self.length = int(self.take(np.zeros(1, dtype=np.int64)).shape[1])
        self._loss_mask = None if loss_mask is None else select_mask(loss_mask, len(self), name)
        if self.length < 2:
            self.measure()
        if self.length < 2:
            raise DataError(
                f"The sequences of {within_sentence(name)} are too short: a loss needs a next token.",
                expected="at least 2 tokens",
                found=f"{self.length}",
            )

    def __len__(self) -> int:
        return len(self._data)

    def _lengths(self) -> set[int]:
        """Return the lengths of all rows, also of those that the run does not visit, where that reads no ids."""
        lengths: set[int] = set()
        if self._kind == "huggingface" and self._data.format["type"] != "custom":
            column = self._data.with_format("arrow", columns=["input_ids"])
            for start in range(0, len(self), _LENGTH_ROWS):
                part = column[start : start + _LENGTH_ROWS]["input_ids"]
                offsets = (chunk.value_lengths() for chunk in part.chunks if hasattr(chunk, "value_lengths"))
                for values in offsets:
                    lengths.update(length for length in values.unique().to_pylist() if length is not None)
        elif isinstance(self._data, list | tuple):
            lengths.update(
                len(row) for row in (_row_of(row, self.name) for row in self._data) if hasattr(row, "__len__")
            )
        return lengths

    def measure(self) -> None:
        """Look at the length of every row, where that means reading them all and was not done yet."""
        if self._measured:
            return
        self._measured = True
        lengths: set[int] = set()
        for start in range(0, len(self), _BLOCK_ROWS):
            block = range(start, min(start + _BLOCK_ROWS, len(self)))
            lengths.update(len(row) for row in self._ids_and_marks(np.asarray(block))[0] if hasattr(row, "__len__"))
        self._pad_to(lengths)

    def _pad_to(self, lengths: set[int]) -> None:
        self.unequal = len(lengths) > 1
        if self.unequal:
            self.length = max(lengths)

    def _unequal(self, lengths: set[int]) -> UnequalLengths:
        return UnequalLengths(
            f"The sequences of {within_sentence(self.name)} have unequal lengths.",
            expected="one length for all rows",
            found=", ".join(map(str, sorted(lengths)[:6])),
        )

    def take(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Read rows.

        Parameters
        ----------
        indices : (n,) int64

        Returns
        -------
        (n, token) int64

        Raises
        ------
        UnequalLengths
            They are, where that could not be known before.
        DataError
            They are not integers.
        """
        return self._read(indices)[0]

    def _read(
        self, indices: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], dict[str, Any]]:
        """Return ids, the length of each row, and what else the dataset says of these rows."""
        block, marks = self._ids_and_marks(indices)
        ids, lengths = self._as_ids(block, indices)
        return ids, lengths, marks

    def _ids_and_marks(self, indices: npt.NDArray[np.int64]) -> tuple[Any, dict[str, Any]]:
        """Return rows as the dataset has them."""
        marks: dict[str, Any] = {name: [column[int(i)] for i in indices] for name, column in self._beside.items()}
        if self._kind == "array":
            block = self._data[indices]
        elif self._kind == "huggingface":
            columns = self._columns(indices.tolist())
            block = columns["input_ids"]
            marks |= {name: columns[name] for name in MARKS if name in columns}
        else:
            rows = [self._data[int(i)] for i in indices]
            block = [_row_of(row, self.name) for row in rows]
            if all(isinstance(row, Mapping) for row in rows):
                marks |= {name: [row[name] for row in rows] for name in MARKS if all(name in row for row in rows)}
        return block, marks

    def _columns(self, places: list[int]) -> Any:
        """Return what a HuggingFace dataset has of rows, by column."""
        try:
            return self._data[places]
        except ValueError:  # before datasets 4, rows of one length among which one is null
            if self._data.format["type"] == "custom":
                raise
            return self._data.with_format(None, columns=self._data.format["columns"])[places]

    def hold(self, indices: npt.NDArray[np.int64]) -> HeldTokens:
        """Read rows block by block into the smallest dtype that takes them; negative ids are refused."""
        blocks: list[IdArray] = []
        attended: list[Flags | None] = []
        counts: list[Flags | None] = []
        largest = 0
        for start in range(0, len(indices), _BLOCK_ROWS):
            some = indices[start : start + _BLOCK_ROWS]
            block, lengths, marks = self._read(some)
            given = None if self._loss_mask is None else mask_of_rows(self._loss_mask, some)
            there, counted = of_token_rows(block, marks, lengths, given, self.name)
            check_rows_count(counted, some, self.name)
            attended.append(there)
            counts.append(counted)
            low, high = int(block.min()), int(block.max())
            if low < 0:
                row = int(indices[start + int(np.argmin(block.min(axis=1)))])
                raise DataError(
                    f"{self.name} has a negative token id.", expected="ids of at least 0", found=f"{low} in row {row}"
                )
            largest = max(largest, high)
            blocks.append(block.astype(_smallest(high)))
        dtype = _smallest(largest)
        ids = np.concatenate([block.astype(dtype, copy=False) for block in blocks])
        sizes = [len(block) for block in blocks]
        return HeldTokens(ids, all_flags(attended, sizes, self.length), all_flags(counts, sizes, self.positions))

    def hash(self, indices: npt.NDArray[np.int64]) -> str:
        """Return the sha256 of rows."""
        return hash_rows(self.take(indices))

    @property
    def positions(self) -> int:
        """Losses per row: one for every token but the first."""
        return self.length - 1

    def _refuse_nulls(self, block: Any, indices: npt.NDArray[np.int64]) -> None:
        """Raise `DataError` for the first row, or token, that is missing."""
        for index, row in zip(indices.tolist(), block, strict=True):
            tokens = row if isinstance(row, list | tuple) else ()
            lacking = next((position for position, token in enumerate(tokens) if token is None), None)
            if row is None or lacking is not None:
                raise DataError(
                    f"{self.name} has {'a null row' if row is None else 'a null token'}.",
                    expected="token ids",
                    found=f"null in row {index}" + ("" if lacking is None else f", at position {lacking}"),
                    remedy="Drop the row.",
                )

    def _as_ids(
        self, block: Any, indices: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return ids, and the length that each row has without what it is padded with."""
        lengths: npt.NDArray[np.int64] | None = None
        if isinstance(block, torch.Tensor):
            block = block.detach().cpu().numpy()
        if not (isinstance(block, np.ndarray) and block.dtype != object):
            self._refuse_nulls(block, indices)
            rows = [row.detach().cpu().numpy() if isinstance(row, torch.Tensor) else np.asarray(row) for row in block]
            rows = [row if row.size else row.astype(np.int64) for row in rows]  # numpy takes an empty list for floats
            flat = [row for row in rows if row.ndim != 1]
            if flat:
                raise DataError(
                    f"A row of {within_sentence(self.name)} is not a sequence of token ids.",
                    expected="one dimension",
                    found=f"shape {shown(flat[0].shape)}",
                )
            if self.unequal:
                lengths = np.array([len(row) for row in rows], dtype=np.int64)
                block = pad(rows, max(self.length, int(lengths.max())), 0)
            else:
                if len({len(row) for row in rows}) > 1:
                    raise self._unequal({len(row) for row in rows})
                block = np.stack(rows)
        if block.dtype.kind == "f" and np.isnan(block).any():  # how a table of numbers holds what is missing
            self._refuse_nulls([[None if np.isnan(t) else t for t in row] for row in block], indices)
        if block.dtype.kind not in "iu":
            raise DataError(
                f"The token ids of {within_sentence(self.name)} are not integers.",
                expected="an integer dtype",
                found=block.dtype,
            )
        if block.ndim != 2:
            raise DataError(
                f"The rows of {within_sentence(self.name)} are not sequences of token ids.",
                expected="one dimension per row",
                found=f"rows of shape {shown(block.shape[1:])}",
            )
        width = self.length or block.shape[1]
        if lengths is None:
            lengths = np.full(len(block), block.shape[1], dtype=np.int64)
            if self.unequal and block.shape[1] < width:  # of one length by chance, or the shorter of two datasets
                block = pad(list(block), width, 0)
        if block.shape[1] != width:
            raise self._unequal({width, block.shape[1]})
        return block.astype(np.int64, copy=False), lengths


def _beside(data: Any) -> dict[str, Any]:
    """Return the columns of a table of another library that stand beside its token ids, each read by row."""
    names = data.keys() if isinstance(data, Mapping) else getattr(data, "columns", getattr(data, "column_names", ()))
    if not isinstance(data, Mapping) and not hasattr(data, "iloc") and not hasattr(data, "to_pylist"):
        return {}
    found = [mark for mark in MARKS if "input_ids" in names and mark in names]
    return {m: data[m].to_pylist() if hasattr(data[m], "to_pylist") else _by_place(data[m]) for m in found}


def _by_place(column: Any) -> Any:
    return list(column) if hasattr(column, "iloc") else column


def table_of(data: Any, name: str) -> Any:
    """Return the rows inside what other libraries call a table, as something that is read by row.

    Raises
    ------
    DataError
        It holds several tables, or cannot be read by row; the message has the line to write.
    """
    kind, remedy = type(data).__name__, None
    if isinstance(data, Mapping) and "input_ids" in data:  # a dict of columns, a BatchEncoding
        return data["input_ids"]
    if isinstance(data, Mapping) and data and all(hasattr(each, "column_names") for each in data.values()):
        remedy = f"Pass one of its splits: dataset[{next(iter(data))!r}]."
    elif hasattr(data, "batch_sampler") and hasattr(data, "dataset"):
        remedy = "Pass what it loads from, loader.dataset: sampling makes its own batches."
    elif hasattr(data, "__iter__") and not hasattr(data, "__len__"):
        taken = "rows.take(10_000)" if hasattr(data, "take") else "itertools.islice(rows, 10_000)"
        remedy = f"Take as many rows as shall be sampled on: list({taken})."
    elif isinstance(data, torch.Tensor) and not data.is_nested and data.layout != torch.strided:
        kind, remedy = f"a tensor of layout {data.layout}", "Pass dataset.to_dense()."
    elif np.ma.is_masked(data):
        kind, remedy = "a masked array", "Pass its ids, dataset.filled(0), and which losses count: loss_mask=."
    if remedy is not None:
        raise DataError(f"{name} cannot be read by row.", expected="one table of rows", found=kind, remedy=remedy)
    if isinstance(data, torch.Tensor) and data.is_nested:
        return list(data.unbind())
    if hasattr(data, "iloc"):  # of pandas, whose [] goes by label
        columns = getattr(data, "columns", None)
        if columns is None:
            return list(data)
        return list(data["input_ids"]) if "input_ids" in columns else data.to_numpy()
    if hasattr(data, "to_pylist"):  # of pyarrow
        columns = getattr(data, "column_names", None)
        return (data["input_ids"] if columns and "input_ids" in columns else data).to_pylist()
    tensors = getattr(data, "tensors", None)
    if isinstance(tensors, tuple) and len(tensors) == 1:  # a TensorDataset
        return tensors[0]
    if not isinstance(data, torch.Tensor) and all(hasattr(data, each) for each in ("shape", "dtype", "__getitem__")):
        return np.asarray(data[...])  # zarr, h5py, xarray
    return data


def _kind_of(data: Any, name: str) -> str:
    if isinstance(data, torch.Tensor | np.ndarray):
        return "array"
    datasets = sys.modules.get("datasets")  # never imported for the caller's sake
    if datasets is not None and isinstance(data, datasets.Dataset):
        if "input_ids" not in data.column_names and data.format["type"] != "custom":
            raise DataError(
                f"{name} has no column 'input_ids'.", expected="'input_ids'", found=", ".join(data.column_names)
            )
        return "huggingface"
    if isinstance(data, str | bytes | Mapping) or not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise DataError(
            f"{name} cannot be read by row.",
            expected="a HuggingFace Dataset, an indexable of {'input_ids': ...}, or a 2-D integer array or tensor",
            found=type(data).__name__,
        )
    return "indexable"


def _row_of(row: Any, name: str) -> Any:
    if isinstance(row, str | bytes):
        raise DataError(
            f"The rows of {within_sentence(name)} are texts.",
            expected="token ids",
            found=repr(row[:40]),
            remedy="Tokenize them first, for instance with devinterp.utils.tokenize_and_concatenate.",
        )
    if isinstance(row, Mapping):
        if "input_ids" not in row:
            raise DataError(
                f"A row of {within_sentence(name)} has no 'input_ids'.",
                expected="'input_ids'",
                found=", ".join(map(str, row)),
            )
        return row["input_ids"]
    return row


def _smallest(largest: int) -> type[np.integer[Any]]:
    if largest <= np.iinfo(np.uint16).max:
        return np.uint16
    return np.int32 if largest <= np.iinfo(np.int32).max else np.int64


def check_vocabulary(ids: IdArray, vocabulary: int | None, name: str) -> None:
    """Raise `DataError` where an id does not fit a vocabulary of the given size."""
    if vocabulary is not None and ids.size and int(ids.max()) >= vocabulary:
        raise DataError(
            f"{name} has token ids outside the model's vocabulary.",
            expected=f"ids below {vocabulary}",
            found=int(ids.max()),
            remedy="Tokenise with the model's own tokenizer.",
        )
