"""Error bars: what the draws, the minibatches and the loss at the start leave uncertain.

Draws of SGLD are autocorrelated, so the variance of a mean is estimated from sums over batches of consecutive draws
(`devinterp.slt.uncertainty.batch_means`). Intervals use Student's t with the degrees of freedom that the number of
batches leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from devinterp._renamed import successor
from devinterp.errors import MissingVariableError
from devinterp.plain_json import dig
from devinterp.slt.runs.run import Samples
from devinterp.slt.uncertainty.batch_means import Passes, batch_groups, mean_variance, shares_minibatches

__all__ = ["llc_interval", "t_interval"]

F64 = npt.NDArray[np.float64]


def t_interval(centre: float, variance: float, dof: float, level: float) -> tuple[float, float]:
    """Two-sided interval at ``level`` from Student's t with ``dof`` degrees of freedom.

    Parameters
    ----------
    centre, variance : float
        The estimate and its variance, the square of its unit.
    dof : float
        Degrees of freedom, taken as at least 1.
    level : float
        Such as 0.9.

    Returns
    -------
    low, high : float
    """
    from scipy import special  # type: ignore[import-untyped]  # ships no types

    half = float(special.stdtrit(max(dof, 1.0), (1 + level) / 2)) * float(np.sqrt(variance))
    return centre - half, centre + half


def llc_interval(
    run: Samples,
    rows: F64,
    *,
    n_beta: float,
    level: float,
    over: str,
    init_rows: F64,
    rows_of: int | None = None,
    given_rows: bool = False,
) -> tuple[float, float]:
    """Interval for what a run of this step size, n_beta, localization and length has as its mean: n_beta E[L - L_0].

    It is not an interval for the learning coefficient, from which that mean differs by the step's bias, by what the
    chains have not reached, and by terms of a finite n_beta.

    Three things are uncertain: where the chains went (batch means; where chains share minibatches also of their mean,
    `devinterp.slt.uncertainty.batch_means.mean_variance`); which rows the minibatches of the draws held, or the
    observable; and which rows ``init_loss`` was averaged over. Where all chains see the same minibatches, the
    noise of the rows is the same in all, cancels in the differences between chains, and is added from the spread of
    rows within a minibatch. Draws that fall on the very minibatches of ``init_loss`` share its noise, which the
    weights of `minibatch_weight` account for.

    Parameters
    ----------
    run : Samples
        For the settings that tell which minibatches were used.
    rows : array, shape (chain, draw or step, row)
        Mean loss (nat) of each row; chains used only.
    n_beta : float
        Inverse temperature.
    level : float
        Such as 0.9.
    over : {"draws", "steps", "observable", "paired"}
        What the rows are; of ``"paired"``, the rise of each above the loss at the start.
    init_rows : array
        Loss at the start, per row of the observable (``over="observable"``) or per chain.
    rows_of : int, optional
        With ``over="observable"``: rows of the dataset that the observable's were chosen from. The share of it that
        they are is no longer uncertain.
    given_rows : bool
        With ``over="observable"``: take the rows as they are, for a comparison with runs that observe the same ones.

    Returns
    -------
    low, high : float

    Raises
    ------
    MissingVariableError
        ``num_init_loss_batches`` is not recorded, so that the noise of ``init_loss`` cannot be known.
    """
    trace = rows.mean(axis=2)
    centre = n_beta * (float(trace.mean()) - float(init_rows.mean()))
    if over == "paired":  # rows come anew at every draw, so that their noise is in how the draws vary
        passes = Passes.of(run, trace.shape[1])
        variance, dof = mean_variance(trace, shared=shares_minibatches(run), passes=passes, of_minibatches=True)
        return t_interval(centre, n_beta**2 * variance, dof, level)
    if over == "observable":
        shared = shares_minibatches(run)
        parts = [mean_variance(trace, shared=shared, passes=Passes.of(run, trace.shape[1]))]
        rise = rows.mean(axis=(0, 1)) - init_rows
        if rise.size > 1 and not given_rows:
            unseen = 1 - rise.size / max(rows_of, rise.size) if rows_of is not None else 1.0
            spread = max(0.0, float(rise.var(ddof=1)) - _noise_of_rows(rows, shared=shared))
            parts.append((unseen * spread / rise.size, rise.size - 1))
        return t_interval(centre, n_beta**2 * sum(v for v, _ in parts), _combined_dof(parts), level)

    num_chains, num = trace.shape
    if "num_init_loss_batches" not in (dig(run.metadata, "config.sampler") or {}):
        raise MissingVariableError(
            "The noise of init_loss cannot be known.",
            expected="metadata.config.sampler.num_init_loss_batches",
            remedy="Use over='observable', or add the setting to the tree's metadata.",
        )
    shared = num_chains == 1 or run.setting("match_sampling_input_ids_across_chains") is not False
    noise, noise_dof = _row_noise(run, rows)
    weight = minibatch_weight(run, num, over)
    per_draw = noise / run.micro_batches_per_step
    if num_chains > 1 and shared:
        # What the chains have in common beside the noise of the rows: the shared noise of their gradients.
        common, dof = mean_variance(trace.mean(axis=0)[None])
        common = max(0.0, common - per_draw / num)
        signal = max(mean_variance(trace, centre_over_chains=True), (common, dof))
    else:
        variance, dof = mean_variance(trace)
        signal = (max(0.0, variance - per_draw / trace.size), dof)
    batch = (noise * weight / (1 if shared else num_chains), noise_dof)
    parts = [signal, batch]
    return t_interval(centre, n_beta**2 * sum(v for v, _ in parts), _combined_dof(parts), level)


def _noise_of_rows(rows: F64, *, shared: bool) -> float:
    """Variance that the finite number of draws gives the rows' means beside what all rows have in common.

    It spreads the means of rows, and the mean of all rows has it too: of the two it is to be counted in one. By batch
    means, on average over rows; ``rows`` is (chain, draw, row).
    """
    chains, draws, count = rows.shape
    if chains * draws < 2:
        return 0.0
    own = (rows - rows.mean(axis=2, keepdims=True)).reshape(chains * draws, count)
    own -= own.mean(axis=0)
    batches = batch_groups(own.astype(np.float32), chains, shared=shared)
    sums = np.array([sum(own[cut].sum(axis=0) for cut in cuts) for cuts in batches.together])
    # Deviations from the rows' common mean: of the variance of a row, one part in ``count`` is missing.
    return float((sums**2).sum(axis=0).mean() * batches.scale / (chains * draws) ** 2 * count / (count - 1))


def _combined_dof(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of variances (Welch-Satterthwaite)."""
    total = sum(v for v, _ in parts)
    below = sum(v**2 / dof for v, dof in parts)
    return total**2 / below if below > 0 else max(dof for _, dof in parts)


def _row_noise(run: Samples, rows: F64) -> tuple[float, float]:
    """Variance of the mean loss of one micro-batch over the choice of its rows, and its degrees of freedom."""
    num_rows, accumulation = rows.shape[2], run.micro_batches_per_step
    if num_rows > 1:
        per_row = float(rows.var(axis=2, ddof=1).mean())
        # Rows of a draw are means over its step's micro-batches; rows of a step are those of all micro-batches.
        return per_row / num_rows * accumulation, float(rows.shape[1] * (num_rows - 1))
    trace = rows[:, :, 0].mean(axis=0)
    steps = np.diff(trace)
    if steps.size == 0:
        return 0.0, 1.0
    # Without rows: what changes from one draw to the next, an upper bound of the noise (von Neumann).
    return float((steps**2).mean()) / 2 * accumulation, float(steps.size)


def minibatch_weight(run: Samples, num: int, over: str) -> float:
    """Sum of the squared weights with which micro-batches enter the mean loss minus the loss at the start.

    The sampler's loader gives the micro-batches of ``init_loss`` first, and, seeded alike, the same ones to the
    chain, over and over when they run out. Where it cannot be known which draws these are (a selection, no record of
    the dataset's length), all are taken as different.
    """
    accumulation = run.micro_batches_per_step
    num_init = int(run.setting("num_init_loss_batches")) * accumulation
    apart = 1 / (num * accumulation) + 1 / num_init
    layout, per_pass = run.step_layout, run.micro_batches_per_pass
    if layout is None or per_pass is None:
        return apart
    total = layout.num_steps
    if over == "draws" and num == layout.draws:
        steps = layout.draw_steps()
    elif over == "steps" and num in (total, total - layout.burnin):
        steps = np.arange(total - num, total)
    else:
        return apart
    weights = np.zeros(per_pass)
    for k in range(accumulation):
        np.add.at(weights, (steps * accumulation + k) % per_pass, 1 / (num * accumulation))
    np.add.at(weights, np.arange(num_init) % per_pass, -1 / num_init)
    return float((weights**2).sum())


if not TYPE_CHECKING:  # a checker shall know the names that there are

    def __getattr__(name: str) -> Any:
        return successor(__name__, name)
