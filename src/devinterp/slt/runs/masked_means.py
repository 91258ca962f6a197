"""Means of losses over the positions that count, where a run has masks.

A mean over rows that count different numbers of positions is that over the positions: a row weighs as many as it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from devinterp.errors import DataError, SettingError
from devinterp.slt.runs.read_blocks import block_slices, counted_means, read_blocks, row_means
from devinterp.slt.runs.run import Samples

__all__ = [
    "Rows",
    "Start",
    "averaged_steps",
    "mean_of_rows",
    "minibatch_rows",
    "observed_rows",
    "row_mask",
    "start_rows",
    "step_rows",
]

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """The loss of every row, averaged over the positions of it that count.

    Attributes
    ----------
    means : array of float64, shape (chain, draw or step, row)
        Nat; NaN or infinite where a loss that counts is.
    counts : array of float64, of the same shape, or None
        How many positions count, 0 where none does; None where all do.
    """

    means: F64
    counts: F64 | None = None

    @cached_property
    def sums(self) -> tuple[F64, F64]:
        """Sum of the losses that count, and their number, of every draw."""
        assert self.counts is not None
        return np.where(self.counts > 0, self.means * self.counts, 0.0).sum(axis=2), self.counts.sum(axis=2)

    @property
    def trace(self) -> F64:
        """Mean loss of every draw, (chain, draw); NaN where no position counts."""
        if self.counts is None:
            return np.asarray(self.means.mean(axis=2))
        total, count = self.sums
        return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))

    @property
    def finite(self) -> npt.NDArray[np.bool_]:
        """Where every loss of a draw that counts is finite, (chain, draw)."""
        return np.asarray(np.isfinite(self.trace if self.counts is None else self.sums[0]))

    def of(self, chains: tuple[int, ...] | list[int], length: int | None = None) -> Rows:
        """Return those of some chains and their first draws."""
        at = list(chains), slice(length)
        return Rows(self.means[at[0], at[1]], None if self.counts is None else self.counts[at[0], at[1]])

    @cached_property
    def mean(self) -> float:
        """Mean loss over everything at once."""
        if self.counts is None:
            return float(self.means.mean())
        total, count = self.sums
        return float(total.sum() / count.sum())

    @property
    def plain(self) -> F64:
        """Rows whose plain mean over each chain is the mean over its positions that count.

        ``M + n / mean(n) (m - M)`` of a row of mean m in which n positions count, M the chain's mean: the ratio of
        sums, linearised, so that also the variance of the plain mean is that of the ratio. M and mean(n) are of finite
        draws.
        """
        if self.counts is None:
            return self.means
        draws = np.maximum(self.finite.sum(axis=1), 1)
        total, count = (np.where(self.finite, part, 0.0).sum(axis=1) for part in self.sums)
        with np.errstate(invalid="ignore"):  # of a chain without a finite draw
            mean = (total / count)[:, None, None]
            share = self.counts / (count / draws / self.counts.shape[2])[:, None, None]
            return np.asarray(mean + np.where(self.counts > 0, share * (self.means - mean), 0.0))


def row_mask(run: Samples, obs_id: str) -> npt.NDArray[np.bool_] | None:
    """Which positions of the fixed rows of an observable count, (row, token_pos); None where all do."""
    name = f"mask_{obs_id}"
    if name not in run.dataset:
        return None
    counts = np.asarray(run.variable(name, (f"batch_{obs_id}", "token_pos")).values) == 1
    if not counts.any():
        raise _nothing_counts(run, name)
    return None if counts.all() else counts


def _nothing_counts(run: Samples, mask: str) -> DataError:
    return DataError(
        f"In what was selected{run.of_label}, no position counts.",
        expected=f"a 1 in {mask}{', where init_loss is known' if mask.startswith('mask_sampling') else ''}",
        remedy="Widen the selection.",
    )


def observed_rows(run: Samples, obs_id: str) -> Rows:
    """Average the losses of the fixed rows of an observable, at every draw, over the positions that count."""
    array, counts = run.loss(obs_id), row_mask(run, obs_id)
    if counts is None:
        return Rows(row_means(array))
    number = np.broadcast_to(counts.sum(axis=1).astype(np.float64), array.shape[:3])
    return Rows(row_means(array, counts), number)


def start_rows(run: Samples, obs_id: str) -> Rows:
    """The loss at the start of every fixed row of an observable, over the positions that count: one chain and draw."""
    values = run.variable(f"init_loss_{obs_id}", (f"batch_{obs_id}", "token_pos"))
    losses, counts = np.asarray(values.values, dtype=np.float64), row_mask(run, obs_id)
    return Rows(losses.mean(axis=1)[None, None]) if counts is None else mean_of_rows(losses, counts)


def mean_of_rows(values: F64, counts: npt.NDArray[np.bool_]) -> Rows:
    """Average values, (row, token), over the tokens that count: one chain and draw."""
    number = counts.sum(axis=1).astype(np.float64)
    means = np.where(counts, values, 0.0).sum(axis=1) / np.maximum(number, 1.0)
    return Rows(means[None, None], number[None, None])


_MINIBATCHES = {
    "init_loss_sampling": ("mask_sampling", ("chain", "draw", "batch", "token_pos")),
    "sampling_loss": ("mask_sampling", ("chain", "draw", "batch", "token_pos")),
    "sampling_loss_micro": ("mask_sampling_micro", ("chain", "step", "batch_sampling", "token_pos")),
}


def minibatch_rows(
    run: Samples, name: str = "sampling_loss", *, steps: slice = slice(None), known: bool = True
) -> Rows:
    """Average the losses of minibatch rows over the positions that count, and that have a loss at the start.

    Parameters
    ----------
    run : Samples
    name : {"sampling_loss", "sampling_loss_micro", "init_loss_sampling"}
    steps : slice
        Which draws or steps.
    known : bool
        Whether to leave out positions of which ``init_loss`` has none; a loss of each row at the start needs it not.
    """
    mask, dims = _MINIBATCHES[name]
    array = run.variable(name, dims)[:, steps] if steps != slice(None) else run.variable(name, dims)
    if mask not in run.dataset:
        return Rows(row_means(array))
    positions = Start.known_positions(run) if known else None
    rows = Rows(*counted_means(array, run.variable(mask, dims)[:, steps], positions))
    if not rows.sums[1].sum(axis=1).all():
        raise _nothing_counts(run, mask)
    return rows


def step_rows(run: Samples, *, steps: slice = slice(None)) -> Rows:
    """``step_loss`` as one row of every step; a step weighs as many positions as it counts, where that is recorded."""
    loss = np.asarray(run.variable("step_loss", ("chain", "step"))[:, steps].values, dtype=np.float64)[:, :, None]
    if not {"mask_sampling", "step_count"} <= set(run.dataset.data_vars):
        return Rows(loss)
    number = np.asarray(run.variable("step_count", ("chain", "step"))[:, steps].values, dtype=np.float64)[:, :, None]
    return Rows(loss, np.where(number > 0, number, 1.0))  # of a step that was not written the loss is NaN


def averaged_steps(run: Samples, burnin: bool) -> slice:
    """The steps that are averaged: all, or those behind the burn-in; raise `SettingError` where these are not known."""
    if burnin:
        return slice(None)
    layout, size = run.step_layout, run.dataset.sizes.get("step", 1)
    if layout is None or size != layout.num_steps:
        raise SettingError(
            "It is not known which of these steps are burn-in.",
            expected="every step of the run, and num_burnin_steps, num_draws and num_steps_bw_draws in "
            "metadata.config.sampler",
            found=f"{size} steps, where the settings tell of {layout and layout.num_steps}",
            remedy="Pass burnin=True to use all the steps that are there.",
        )
    return slice(layout.burnin, None)


@dataclass(frozen=True)
class Start:
    """The loss at the start of the sampling dataset, to be compared with minibatches.

    ``init_loss`` is a mean over rows at each position. Where positions are masked they are weighed as often as they
    count in the minibatches of the draws, so that both means are of the same positions.

    Attributes
    ----------
    per_chain : array of float64, shape (chain,)
        Nat, of the chains asked for.
    """

    per_chain: F64

    @property
    def mean(self) -> float:
        """Mean over chains."""
        return float(self.per_chain.mean())

    @staticmethod
    def known_positions(run: Samples) -> npt.NDArray[np.bool_] | None:
        """Where every chain has a loss at the start, (token_pos,); None where nothing is masked or there is none."""
        if "mask_sampling" not in run.dataset or "init_loss" not in run.dataset:
            return None
        init = np.asarray(run.variable("init_loss", ("chain", "token_pos")).values)
        return np.asarray(np.isfinite(init[np.isfinite(init).any(axis=1)]).all(axis=0))

    @classmethod
    def known_mean(cls, run: Samples, dtype: Any = np.float64) -> float:
        """Mean of ``init_loss`` over the chains that have one."""
        init = np.asarray(run.dataset["init_loss"].values, dtype=dtype)
        if cls.known_positions(run) is None:
            return float(np.nanmean(init))
        return cls.of(run, np.flatnonzero(np.isfinite(init).any(axis=-1)).tolist()).mean

    @classmethod
    def of(
        cls, run: Samples, chains: tuple[int, ...] | list[int], of: str = "sampling_loss", part: slice = slice(None)
    ) -> Start:
        """Average ``init_loss`` of some chains; NaN where it is not known.

        Positions weigh as often as they count in these draws, or steps, of the losses that it is to be compared with.
        """
        init = np.asarray(run.variable("init_loss", ("chain", "token_pos")).values, dtype=np.float64)[list(chains)]
        known = cls.known_positions(run)
        if known is None:
            return cls(init.mean(axis=1))
        name, dims = _MINIBATCHES[of]
        mask = run.variable(name, dims)[:, part]
        counts = np.zeros(known.size, dtype=np.int64)
        for block in read_blocks(("", mask, c, d) for c, d in block_slices(mask)):
            inside = [c - block.chains.start for c in chains if block.chains.start <= c < block.chains.stop]
            counts += (block.values[inside] == 1).sum(axis=(0, 1, 2))
        counts *= known
        at = counts > 0
        return cls((init[:, at] * counts[at]).sum(axis=1) / counts.sum() if at.any() else np.full(len(chains), np.nan))
