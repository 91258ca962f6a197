"""Rows that a run visits, read once and held in memory: of token ids, or of anything else."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from devinterp.schema.rules.row_hash import hash_rows
from devinterp.slt.sampling.inputs.loss_masks import Flags
from devinterp.slt.sampling.inputs.nested import Batch, Where, hash_nested, num_rows, take_rows

__all__ = ["HeldRows", "HeldTokens", "HeldValues", "IdArray", "hash_marks", "lacks_tokens", "with_attention"]

IdArray = npt.NDArray[np.integer[Any]]


class HeldRows(Protocol):
    """What a run evaluates, row by row.

    Attributes
    ----------
    counts : (n, token_pos) bool array or None
        The positions whose losses count; None where all do.
    """

    @property
    def counts(self) -> Flags | None:
        """The positions whose losses count."""

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
    attended : (n, token) bool array or None
        The tokens that are there; None where all are.
    counts : (n, token_pos) bool array or None
        The positions whose losses count; None where all do.
    """

    ids: IdArray
    attended: Flags | None = None
    counts: Flags | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, where: Where) -> Batch:
        """Return some of the rows: (batch, token) int64, in a dict with ``attention_mask`` where a token is missing.

        Where one is missing before another, ``position_ids`` are there too: tokens are numbered as if nothing were.
        """
        ids = torch.from_numpy(self.ids[where].astype(np.int64, copy=False))
        counts = None if self.counts is None else torch.from_numpy(self.counts[where])
        if self.attended is None:
            return Batch(ids, counts, tokens=True)
        mask = torch.from_numpy(self.attended[where].astype(np.int64))
        rows = {"input_ids": ids, "attention_mask": mask}
        if self.has_gaps:
            rows["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
        return Batch(rows, counts, tokens=True)

    @cached_property
    def has_gaps(self) -> bool:
        """Whether a token that is there comes after one that is not."""
        return self.attended is not None and bool((self.attended[:, 1:] & ~self.attended[:, :-1]).any())

    def hash(self, positions: npt.NDArray[np.int64] | None = None) -> str:
        """Return the sha256 of the ids as little-endian int64, whatever they are held in."""
        return hash_rows(self.ids, positions)


@dataclass(frozen=True)
class HeldValues:
    """Rows that are not tokens.

    Attributes
    ----------
    values : tensor, or dict, list or tuple of them
        All rows as one batch.
    counts : (n, token_pos) bool array or None
        The positions whose losses count; None where all do.
    """

    values: Any
    counts: Flags | None = None

    def __len__(self) -> int:
        return num_rows(self.values)

    def batch(self, where: Where) -> Batch:
        """Return some of the rows, collated as torch does."""
        counts = None if self.counts is None else torch.from_numpy(self.counts[where])
        return Batch(take_rows(self.values, where), counts)

    def hash(self, positions: npt.NDArray[np.int64] | None = None) -> str:
        """Return the sha256 of their dtypes, shapes and bytes."""
        return hash_nested(self.values, positions)


def lacks_tokens(held: HeldRows) -> bool:
    """Whether rows are of tokens of which some are missing."""
    return isinstance(held, HeldTokens) and held.attended is not None


def with_attention(held: HeldRows) -> HeldRows:
    """Return rows of tokens that come with their attention mask even where no token is missing."""
    if not isinstance(held, HeldTokens) or held.attended is not None:
        return held
    return replace(held, attended=np.ones(held.ids.shape, dtype=bool))


def hash_marks(held: HeldRows, positions: npt.NDArray[np.int64] | None = None) -> dict[str, str]:
    """Return the sha256 of which tokens are there and which positions count, as an entry of its own, if any is not."""
    digest = hashlib.sha256()
    flags = [getattr(held, "attended", None), held.counts]
    for each in flags:
        some = each if each is None or positions is None else each[positions]
        digest.update(b"all;" if some is None else np.packbits(some).tobytes())
    return {} if all(each is None for each in flags) else {"mask": digest.hexdigest()}
