"""Rows that a run visits, read once and held in memory: of token ids, or of anything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from devinterp.schema.rules.row_hash import hash_rows
from devinterp.slt.sampling.inputs.nested import Batch, Where, hash_nested, num_rows, take_rows

__all__ = ["HeldRows", "HeldTokens", "HeldValues", "IdArray"]

IdArray = npt.NDArray[np.integer[Any]]


class HeldRows(Protocol):
    """What a run evaluates, row by row."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def batch(self, where: Where) -> Batch:
        """Return some of the rows, on the CPU, as a loss takes them."""

    def hash(self, positions: npt.NDArray[np.int64] | None = None) -> str:
        """Return the sha256 of the rows at `positions`, or of all."""


@dataclass(frozen=True)
class HeldTokens:
    """Rows of token ids.

    Attributes
    ----------
    ids : (n, token) integer array
        In the smallest of uint16, int32 and int64 that takes them.
    """

    ids: IdArray

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, where: Where) -> Batch:
        """Return some of the rows, (batch, token) int64."""
        return Batch(torch.from_numpy(self.ids[where].astype(np.int64, copy=False)), tokens=True)

    def hash(self, positions: npt.NDArray[np.int64] | None = None) -> str:
        """Return the sha256 of the ids as little-endian int64, whatever they are held in."""
        return hash_rows(self.ids, positions)


@dataclass(frozen=True)
class HeldValues:
    """Rows that are no tokens.

    Attributes
    ----------
    values : tensor, or dict, list or tuple of them
        All rows as one batch.
    """

    values: Any

    def __len__(self) -> int:
        return num_rows(self.values)

    def batch(self, where: Where) -> Batch:
        """Return some of the rows, collated as torch does."""
        return Batch(take_rows(self.values, where))

    def hash(self, positions: npt.NDArray[np.int64] | None = None) -> str:
        """Return the sha256 of their dtypes, shapes and bytes."""
        return hash_nested(self.values, positions)
