"""The paired estimate: every minibatch row of a draw beside the same row at the start (`over="paired"`)."""

from __future__ import annotations

from devinterp.errors import MissingVariableError
from devinterp.slt.runs.chains import ChainSelection
from devinterp.slt.runs.masked_means import Rows, minibatch_rows
from devinterp.slt.runs.run import Samples

__all__ = ["paired_rows"]


def paired_rows(run: Samples, rows: Rows, selection: ChainSelection) -> tuple[Rows, float]:
    """Return each minibatch row at the common start plus its own rise, and that start: the mean of all, of chains used.

    The row's own loss at the start, which differs from row to row by far more than it rises, cancels.
    """
    if "init_loss_sampling" not in run.dataset:
        raise MissingVariableError(
            "The losses of the minibatches at the start were not kept.",
            expected="the variable init_loss_sampling",
            found=sorted(map(str, run.dataset.data_vars)),
            remedy="Sample again with save_paired_losses=True, or use over='observable', or over='draws'.",
        )
    starts = minibatch_rows(run, "init_loss_sampling", known=False)
    start = starts.of(selection.used, selection.length).mean
    return Rows(start + (rows.means - starts.means), rows.counts), start
