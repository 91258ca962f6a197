"""The loss at the start, which susceptibilities subtract from that of the draws, and how uncertain it is."""

from __future__ import annotations

from typing import Literal

import numpy as np

from devinterp.errors import DataError, MissingVariableError
from devinterp.slt.runs.masked_means import Start, mean_of_rows, row_mask, start_rows
from devinterp.slt.runs.run import Samples

__all__ = ["Baseline", "init_loss_variance", "loss_at_start"]

Baseline = Literal["init", "observable"]


def loss_at_start(full: Samples, task: str, baseline: Baseline, used: tuple[int, ...]) -> float:
    """Return the loss at the start (nat) that the baseline names, of the chains used.

    Raises
    ------
    MissingVariableError
        The fixed rows' was not kept.
    DataError
        It is not finite.
    """
    if baseline == "init":
        value = Start.of(full, used).mean
    elif f"init_loss_{task}" in full.dataset:
        value = start_rows(full, task).mean
    else:
        raise MissingVariableError(
            f"The loss of the rows of {task!r} at the start was not kept.",
            expected=f"the variable init_loss_{task} in the run 'full'",
            remedy="Use baseline='init'; stores of devinterp 2.0 do not have it.",
        )
    if not np.isfinite(value):
        raise DataError(
            "The loss at the start of the run 'full' is not finite.",
            found=value,
            remedy="Check the store with devinterp.validate: a missing chunk reads as NaN.",
        )
    return value


def init_loss_variance(run: Samples, task: str) -> tuple[float, float]:
    """Variance (nat^2) of the mean of ``init_loss`` over the choice of its rows, and its degrees of freedom.

    From the spread of the sampling task's fixed rows (at the start where that was kept, else at the first draw), and
    the number of rows that ``init_loss`` was averaged over; none where these are all rows of the dataset.

    Parameters
    ----------
    run : Samples
        The run whose ``init_loss`` it is.
    task : str
        Id of the sampling task.

    Raises
    ------
    MissingVariableError
        The number of rows is not recorded.
    """
    batches, batch_size = run.setting("num_init_loss_batches"), run.setting("batch_size")
    if batches is None or batch_size is None:
        raise MissingVariableError(
            "The noise of init_loss cannot be known.",
            expected="metadata.config.sampler.num_init_loss_batches and .batch_size",
            remedy="Use baseline='observable', or add the settings to the tree's metadata.",
        )
    counts = row_mask(run, task)
    if f"init_loss_{task}" in run.dataset:
        rows = start_rows(run, task).plain[0, 0]
    else:
        first = np.asarray(run.loss(task)[0, 0].values, dtype=np.float64)
        rows = first.mean(axis=1) if counts is None else mean_of_rows(first, counts).plain[0, 0]
    if rows.size < 2:
        return 0.0, 1.0
    count = int(batches) * int(batch_size) * run.micro_batches_per_step
    per_pass = run.micro_batches_per_pass
    seen = count / (per_pass * int(batch_size)) if per_pass is not None else 0.0
    return float(rows.var(ddof=1)) / count * max(0.0, 1 - seen), float(rows.size - 1)
