"""The losses of chosen sequences as one matrix, (observation, series), for correlations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import SettingError
from devinterp.slt.runs.chains import ChainSelection, chain_states, select_chains
from devinterp.slt.runs.masked_means import row_mask
from devinterp.slt.runs.read_blocks import block_slices, read_blocks
from devinterp.slt.runs.run import Samples
from devinterp.wording import one_of

__all__ = ["LossMatrix", "Sequences", "counted", "load_losses"]

Reduce = Literal["stack", "mean"]


@dataclass(frozen=True)
class Sequences:
    """The rows of several observables, concatenated.

    Attributes
    ----------
    observables : tuple of str
        Their ids, in order.
    sizes : tuple of int
        Rows of each.
    num_tokens : int
        Predicted positions per sequence.
    masks : tuple of (array of bool, shape (row, token), or None)
        Which positions of each observable count; None where all do.
    """

    observables: tuple[str, ...]
    sizes: tuple[int, ...]
    num_tokens: int
    masks: tuple[npt.NDArray[np.bool_] | None, ...]

    @classmethod
    def of(cls, run: Samples, observables: tuple[str, ...]) -> Sequences:
        """Read the sizes; those of chains, draws and tokens are the same in one dataset."""
        shapes = [run.loss(name).shape for name in observables]
        masks = tuple(row_mask(run, name) for name in observables)
        return cls(observables, tuple(shape[2] for shape in shapes), shapes[0][3], masks)

    def __len__(self) -> int:
        return sum(self.sizes)

    @property
    def starts(self) -> dict[str, int]:
        """Index of each observable's first row."""
        ends = np.cumsum([0, *self.sizes])
        return dict(zip(self.observables, ends.tolist(), strict=False))

    @cached_property
    def counts(self) -> npt.NDArray[np.bool_] | None:
        """Which positions count, (sequence, token); None where all do."""
        if all(mask is None for mask in self.masks):
            return None
        whole = (np.ones((size, self.num_tokens), dtype=bool) for size in self.sizes)
        return np.concatenate([w if mask is None else mask for mask, w in zip(self.masks, whole, strict=True)])

    def indices(self, chosen: Any, argument: str) -> npt.NDArray[np.int64]:
        """Turn ``"all"``, an observable's id, or integers into indices of sequences.

        Raises
        ------
        SettingError
            An index is out of range or given twice.
        """
        if isinstance(chosen, str):
            if chosen == "all":
                return np.arange(len(self))
            if chosen not in self.observables:
                raise SettingError(
                    f"{argument} names no observable that is part of this analysis.",
                    expected=f"'all', {one_of(self.observables)}, or indices of sequences",
                    found=repr(chosen),
                )
            start = self.starts[chosen]
            return np.arange(start, start + self.sizes[self.observables.index(chosen)])
        index = np.asarray(list(chosen))
        if index.size == 0 or index.ndim != 1 or not np.issubdtype(index.dtype, np.integer):
            raise SettingError(
                f"{argument} must be a sequence of integers with at least one element.",
                expected="'all', an observable's name, or indices of sequences",
                found=repr(chosen)[:80],
            )
        bad = index[(index < 0) | (index >= len(self))]
        if bad.size or np.unique(index).size != index.size:
            raise SettingError(
                f"{argument} is {'out of range' if bad.size else 'not free of repetitions'}.",
                expected=f"distinct indices from 0 to {len(self) - 1}",
                found=bad.tolist()[:5] or repr(chosen)[:80],
            )
        return index.astype(np.int64)


@dataclass(frozen=True)
class LossMatrix:
    """Losses of sequences over the observations of all chains used.

    Attributes
    ----------
    values : array of float32, shape (observation, sequence * width)
        ``width`` is the number of tokens, or 1 where the losses are averaged over them. 0 where nothing counts.
    sequences : array of int64
        Index of each sequence among the concatenated observables, ascending.
    width : int
        Series per sequence.
    num_chains : int
        Chains that the observations are stacked from (1 where they were averaged).
    selection : ChainSelection
        The chains used.
    """

    values: npt.NDArray[np.float32]
    sequences: npt.NDArray[np.int64]
    width: int
    num_chains: int
    selection: ChainSelection

    def columns(self, sequences: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the columns of these sequences, without a copy where they are contiguous."""
        if np.array_equal(sequences, self.sequences):
            return self.values
        at = np.searchsorted(self.sequences, sequences)
        if np.array_equal(at, np.arange(at[0], at[0] + at.size)):
            return self.values[:, at[0] * self.width : (at[-1] + 1) * self.width]
        count = self.values.shape[0]
        return self.values.reshape(count, -1, self.width)[:, at].reshape(count, -1)


def load_losses(
    run: Samples,
    sequences: Sequences,
    wanted: npt.NDArray[np.int64],
    *,
    by_token: bool,
    reduce: Reduce,
    allow_partial: bool,
) -> LossMatrix:
    """Read the losses of the wanted sequences, once, in blocks."""
    arrays = {name: run.loss(name) for name in sequences.observables}
    num_chains, num_draws = next(iter(arrays.values())).shape[:2]
    width = sequences.num_tokens if by_token else 1
    states = chain_states(run, num_chains)
    read = [c for c in range(num_chains) if allow_partial or states.failures[c] is None]
    values = np.empty((num_chains, num_draws, wanted.size * width), dtype=np.float32)
    finite = np.zeros((num_chains, num_draws), dtype=bool)
    finite[read] = True
    places = _places(sequences, wanted, width)
    for block in read_blocks(_requests(arrays, places, read)):
        rows, target = places[block.key]
        part = block.values if rows is None else block.values[:, :, rows]
        mask = sequences.masks[sequences.observables.index(block.key)]
        if mask is not None:
            part = counted(part, mask if rows is None else mask[rows], by_token)
        else:
            part = part if by_token else part.mean(axis=-1, dtype=part.dtype)
        flat = part.reshape(*part.shape[:2], -1)
        values[block.chains, block.draws, target] = flat
        with np.errstate(invalid="ignore", over="ignore"):
            finite[block.chains, block.draws] &= np.isfinite(flat.sum(axis=-1, dtype=np.float64))
    selection = select_chains(run, finite, allow_partial=allow_partial, states=states)
    kept: npt.NDArray[np.float32] = values
    if len(selection.used) < num_chains or selection.length < num_draws:
        kept = values[list(selection.used), : selection.length]
    if reduce == "mean":
        kept = kept.mean(axis=0, dtype=np.float32, keepdims=True)
    if kept.shape[0] * kept.shape[1] < 2:
        raise SettingError(
            "A correlation needs at least two observations.",
            expected="two draws",
            found=f"{kept.shape[0]} chain(s) with {kept.shape[1]} draw(s)",
            remedy="Use more draws, or reduce_chain_dimension_method='stack'.",
        )
    stacked = kept.reshape(kept.shape[0] * kept.shape[1], -1)
    return LossMatrix(stacked, wanted, width, kept.shape[0], selection)


def counted(part: npt.NDArray[Any], mask: npt.NDArray[np.bool_], by_token: bool) -> npt.NDArray[Any]:
    """Losses, (chain, draw, row, token), 0 where they do not count; or their mean over tokens, of those that do."""
    if by_token:
        return np.where(mask, part, part.dtype.type(0))
    number = np.maximum(mask.sum(axis=-1), 1).astype(part.dtype)
    return np.asarray(np.add.reduce(part, axis=-1, dtype=part.dtype, where=mask) / number)


def _places(
    sequences: Sequences, wanted: npt.NDArray[np.int64], width: int
) -> dict[str, tuple[npt.NDArray[np.int64] | None, slice]]:
    """Where each observable's wanted rows go: (its rows, or None for all; their columns)."""
    places: dict[str, tuple[npt.NDArray[np.int64] | None, slice]] = {}
    for (name, start), size in zip(sequences.starts.items(), sequences.sizes, strict=True):
        low, high = np.searchsorted(wanted, [start, start + size])
        rows = wanted[low:high] - start
        places[name] = (None if rows.size == size else rows, slice(int(low) * width, int(high) * width))
    return places


def _requests(arrays: dict[str, xr.DataArray], places: dict[str, Any], read: Sequence[int]) -> Any:
    for name, array in arrays.items():
        if places[name][1].stop > places[name][1].start:
            for chains, draws in block_slices(array):
                if any(chains.start <= c < chains.stop for c in read):
                    yield name, array, chains, draws
