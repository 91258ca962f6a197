"""Error bars: what the draws, the minibatches and the loss at the start leave uncertain.

Draws of SGLD are autocorrelated, so the variance of a mean is estimated from sums over batches of consecutive draws
(`devinterp.slt.uncertainty.batch_means`). Intervals use Student's t with the degrees of freedom that the number of
batches leaves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from devinterp.errors import MissingVariableError
from devinterp.plain_json import dig
from devinterp.slt.runs.counted import mean_of_rows, row_mask, start_rows
from devinterp.slt.runs.run import Samples
from devinterp.slt.susceptibilities.moments import Moments
from devinterp.slt.uncertainty.batch_means import Passes, mean_variance, shares_minibatches

__all__ = [
    "init_loss_variance",
    "llc_interval",
    "susceptibility_variance",
    "t_interval",
]

F64 = npt.NDArray[np.float64]


def t_interval(centre: float, variance: float, dof: float, level: float) -> tuple[float, float]:
    """Two-sided interval at ``level`` from Student's t with ``dof`` degrees of freedom."""
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
    over : {"draws", "steps", "observable"}
        What the rows are.
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
    if over == "observable":
        parts = [mean_variance(trace, shared=shares_minibatches(run), passes=Passes.of(run, trace.shape[1]))]
        rise = rows.mean(axis=(0, 1)) - init_rows
        if rise.size > 1 and not given_rows:
            unseen = 1 - rise.size / max(rows_of, rise.size) if rows_of is not None else 1.0
            parts.append((unseen * float(rise.var(ddof=1)) / rise.size, rise.size - 1))
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
    per_draw = noise / _accumulation(run)
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


def _combined_dof(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of variances (Welch-Satterthwaite)."""
    total = sum(v for v, _ in parts)
    below = sum(v**2 / dof for v, dof in parts)
    return total**2 / below if below > 0 else max(dof for _, dof in parts)


def _accumulation(run: Samples) -> int:
    return int(run.setting("gradient_accumulation_steps") or 1)


def _row_noise(run: Samples, rows: F64) -> tuple[float, float]:
    """Variance of the mean loss of one micro-batch over the choice of its rows, and its degrees of freedom."""
    num_rows, accumulation = rows.shape[2], _accumulation(run)
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
    accumulation = _accumulation(run)
    num_init = int(run.setting("num_init_loss_batches")) * accumulation
    apart = 1 / (num * accumulation) + 1 / num_init
    layout, batch_size = run.step_layout, run.setting("batch_size")
    length = dig(run.metadata, "provenance.dataset.length")
    if layout is None or length is None or batch_size is None:
        return apart
    total = layout.num_steps
    if over == "draws" and num == layout.draws:
        steps = layout.draw_steps()
    elif over == "steps" and num in (total, total - layout.burnin):
        steps = np.arange(total - num, total)
    else:
        return apart
    per_pass = max(1, int(length) // int(batch_size))
    weights = np.zeros(per_pass)
    for k in range(accumulation):
        np.add.at(weights, (steps * accumulation + k) % per_pass, 1 / (num * accumulation))
    np.add.at(weights, np.arange(num_init) % per_pass, -1 / num_init)
    return float((weights**2).sum())


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
    count = int(batches) * int(batch_size) * _accumulation(run)
    length = dig(run.metadata, "provenance.dataset.length")
    seen = count / (int(length) // int(batch_size) * int(batch_size)) if length is not None else 0.0
    return float(rows.var(ddof=1)) / count * max(0.0, 1 - seen), float(rows.size - 1)


def susceptibility_variance(
    moments: Moments,
    reference: Moments,
    obs_id: str,
    *,
    init: float,
    init_noise: tuple[float, float],
    sus: F64,
    gap: F64,
    gap_full: F64,
) -> tuple[F64, F64]:
    """Variance of the susceptibilities of one restriction to an observable's tokens.

    The estimator is linearised in the draws of both runs, ``phi (u - l - gap_full)`` in the restricted one and
    ``-E_C[phi] (u - l - gap_full)`` in ``full``, and in the loss at the start, ``gap_full - gap``; the draws by batch
    means.

    Parameters
    ----------
    moments, reference : Moments
        Of the restriction and of ``full``.
    obs_id : str
        The probe.
    init : float
        Loss at the start (nat).
    init_noise : tuple of float
        Its variance and degrees of freedom.
    sus, gap, gap_full : array, shape (batch, token)
        The susceptibilities, and the mean of u - l under the restriction and under ``full``.

    Returns
    -------
    variance, dof : array of float64, shape (batch, token)
        And the degrees of freedom of the sum (Welch-Satterthwaite).
    """
    mean_phi = float(moments.trace.mean()) - init
    parts: list[tuple[F64, float]] = []
    gap_variance = np.zeros_like(sus)
    for run, own_gap in ((moments, gap), (reference, gap_full)):
        total, gap_total = np.zeros_like(sus), np.zeros_like(sus)
        for members in map(list, run.batches):
            u = np.concatenate([run.trace[c, cut] for c, cut in (run.groups[g] for g in members)])
            sums = run.sums[obs_id][members].sum(axis=0)
            if run is moments:
                phi = u - init
                products = run.products[obs_id][members].sum(axis=0) + (run.centre - init) * sums
                part = (phi * u).sum() - products - phi.sum() * gap_full - u.size * sus
            else:
                part = -mean_phi * (u.sum() - sums - u.size * gap_full)
            total += part**2
            gap_total += (u.sum() - sums - u.size * own_gap) ** 2
        count = len(run.batches)
        scale = count / (count - 1) / run.share_seen / run.count**2
        parts.append((total * scale, count - 1))
        gap_variance += gap_total * scale
    parts.append((init_noise[0] * (gap - gap_full) ** 2, init_noise[1]))
    plain = np.sum([variance for variance, _ in parts], axis=0)
    below = np.sum([variance**2 / dof for variance, dof in parts], axis=0)
    dof = np.divide(plain**2, below, out=np.full_like(plain, np.inf), where=below > 0)
    # Both phi and the gaps are estimates: the product of their errors was counted in two of the parts.
    return np.maximum(plain - init_noise[0] * gap_variance, plain / 2), dof
