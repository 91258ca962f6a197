"""The susceptibilities of one restriction from the sums over its draws and those of ``full``, and their variance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from devinterp.slt.susceptibilities.moments import Moments

__all__ = ["restriction_column", "susceptibility_variance"]

F64 = npt.NDArray[np.float64]


def restriction_column(
    moments: Moments,
    reference: Moments,
    probes: tuple[str, ...],
    masks: Mapping[str, npt.NDArray[np.bool_] | None],
    init: float,
    *,
    terms: bool,
    init_noise: tuple[float, float] | None,
) -> dict[str, npt.NDArray[np.float64]]:
    """One restriction's values, flattened over (observable, batch, target_position); of what counts alone."""
    trace = moments.trace
    mean_task, mean_task_full = float(trace.mean()), float(reference.trace.mean())
    phi = mean_task - init
    variance = float(((trace - moments.centre) ** 2).mean() - (trace - moments.centre).mean() ** 2)
    out: dict[str, list[npt.NDArray[np.float64]]] = {}
    for obs_id in probes:
        cov = variance - moments.covariance(obs_id)
        gap = mean_task - moments.mean(obs_id)
        gap_full = mean_task_full - reference.mean(obs_id)
        shift = phi * (gap - gap_full)
        sus = cov + shift
        out.setdefault("sus", []).append(sus)
        if terms:
            out.setdefault("sus_cov", []).append(cov)
            out.setdefault("sus_shift", []).append(shift)
        if init_noise is not None:
            total, dof = susceptibility_variance(
                moments,
                reference,
                obs_id,
                init=init,
                init_noise=init_noise,
                sus=sus,
                gap=gap,
                gap_full=gap_full,
            )
            out.setdefault("sus_se", []).append(np.sqrt(total))
            out.setdefault("dof", []).append(dof)
    at: list[Any] = [slice(None) if masks[obs_id] is None else masks[obs_id].ravel() for obs_id in probes]  # type: ignore[union-attr]
    return {n: np.concatenate([p.ravel()[kept] for p, kept in zip(parts, at, strict=True)]) for n, parts in out.items()}


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
