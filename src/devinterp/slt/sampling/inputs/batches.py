"""The sampling dataset as chains see it: which rows they visit, in what order, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from devinterp.errors import DataError
from devinterp.slt.sampling.inputs.nested import Batch
from devinterp.slt.sampling.inputs.rows import Rows, fingerprint
from devinterp.slt.sampling.inputs.rows_in_memory import HeldRows, hash_marks
from devinterp.slt.sampling.settings import SamplerSettings

__all__ = ["Feed", "SamplingData", "loader_order"]


def loader_order(num_rows: int, *, shuffle: bool, seed: int) -> npt.NDArray[np.int64]:
    """Order of the rows in the first pass of a `torch.utils.data.DataLoader` with a generator of its own.

    Parameters
    ----------
    num_rows : int
        Rows of the dataset.
    shuffle : bool
        False gives the rows as they stand.
    seed : int
        Seed of the loader's CPU generator.

    Returns
    -------
    (num_rows,) int64
    """
    if not shuffle:
        return np.arange(num_rows, dtype=np.int64)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    # A DataLoader draws the base seed of its workers first, even without workers.
    torch.empty((), dtype=torch.int64).random_(generator=generator)
    order: npt.NDArray[np.int64] = torch.randperm(num_rows, generator=generator).numpy()
    return order


def name_rows(dataset: str, rows: npt.NDArray[np.int64], losses: npt.NDArray[np.float32]) -> str:
    """Name a dataset and its first rows whose losses, (row, ...), are not finite, if any."""
    bad = sorted(rows[~np.isfinite(losses).all(axis=1)].tolist())
    if not bad:
        return dataset
    return f"{dataset}, row{'s' if len(bad) > 1 else ''} {', '.join(map(str, bad[:5]))}{' ...' if len(bad) > 5 else ''}"


@dataclass(frozen=True)
class Feed:
    """Batches of one chain by number; the first pass over the data repeats in the same order.

    Attributes
    ----------
    held : HeldRows
    rows : (n,) int64
        The held rows' indices into the dataset.
    positions : (m,) int64
        Which held row stands where in the pass, a multiple of `batch_size` long.
    batch_size : int
    per_pass : int
        Batches of a whole pass; `positions` may stop earlier where a run does not get that far.
    """

    held: HeldRows
    rows: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    batch_size: int
    per_pass: int

    def batch(self, number: int) -> Batch:
        """Return micro-batch `number` of the chain, on the CPU."""
        start = (number % self.per_pass) * self.batch_size
        return self.held.batch(self.positions[start : start + self.batch_size])

    def counted(self, number: int) -> int | None:
        """Return how many positions of micro-batch `number` count; None where all of every batch do."""
        if self.held.counts is None:
            return None
        start = (number % self.per_pass) * self.batch_size
        return int(self.held.counts[self.positions[start : start + self.batch_size]].sum())

    def batch_key(self, number: int) -> bytes:
        """Return what is equal for batches of the same rows, in all chains of the same `SamplingData`."""
        start = (number % self.per_pass) * self.batch_size
        return self.positions[start : start + self.batch_size].tobytes()

    def not_finite(self, number: int, losses: npt.NDArray[np.float32]) -> str:
        """Name the rows of micro-batch `number` and those after it whose losses, (row, ...), are not finite.

        Empty where all of several rows are: then it is the weights' fault.
        """
        if len(losses) > 1 and not np.isfinite(losses).all(axis=1).any():
            return ""
        starts = (number + np.arange(len(losses) // self.batch_size)) % self.per_pass * self.batch_size
        places = (starts[:, None] + np.arange(self.batch_size)).ravel()
        return name_rows("the sampling dataset", self.rows[self.positions[places]], losses)


class SamplingData:
    """The sampling dataset as a run sees it: the rows that it visits, checked and held in memory.

    Parameters
    ----------
    rows : Rows
        The caller's dataset.
    settings : sequence of SamplerSettings
        They decide which rows are visited. Several (a study with overrides) agree in everything that decides the
        order, and differ in how far they go.

    Attributes
    ----------
    identity : dict
        `fingerprint` of the dataset.
    num_rows : int
        Rows of the dataset.
    positions : int or None
        Losses per row; None where the loss alone knows.
    held : HeldRows
        The rows that are visited.

    Raises
    ------
    DataError
        There are fewer rows than a batch has.
    """

    def __init__(self, rows: Rows, settings: Sequence[SamplerSettings]) -> None:
        first = settings[0]
        if len(rows) < first.batch_size:
            raise DataError(
                f"{rows.name} is too small for one batch.",
                expected=f"at least batch_size = {first.batch_size} rows",
                found=f"{len(rows)} rows",
            )
        self.num_rows, self.positions = len(rows), rows.positions
        self.identity = fingerprint(rows)
        self._batch_size = first.batch_size
        self._per_pass = len(rows) // first.batch_size
        held = max(map(self._held, settings))
        self.shared = first.match_sampling_input_ids_across_chains or not first.shuffle
        chains = 1 if self.shared else max(each.num_chains for each in settings)
        orders = [
            loader_order(len(rows), shuffle=first.shuffle, seed=first.loader_seed(chain))[:held]
            for chain in range(chains)
        ]
        if self.shared:
            self._rows, self._orders = orders[0], [np.arange(held, dtype=np.int64)]
        else:
            self._rows, inverse = np.unique(np.concatenate(orders), return_inverse=True)
            self._orders = list(inverse.astype(np.int64).reshape(chains, held))
        self.held = rows.hold(self._rows)

    def _held(self, settings: SamplerSettings) -> int:
        needed = max(settings.num_batches, settings.num_init_batches)
        return min(self._per_pass, needed) * self._batch_size

    def feed(self, chain: int) -> Feed:
        """Return the batches of `chain`."""
        order = self._orders[0 if self.shared else chain]
        return Feed(self.held, self._rows, order, self._batch_size, self._per_pass)

    def visited(self, settings: SamplerSettings) -> dict[str, Any]:
        """Return the number and the sha256 of the rows that a run with `settings` visits, in its chains' order."""
        held = self._held(settings)
        chains = self._orders[: 1 if self.shared else settings.num_chains]
        positions = np.concatenate([order[:held] for order in chains])
        return {"rows": self.held.hash(positions), "count": len(positions), **hash_marks(self.held, positions)}
