"""How often the 90 % intervals cover the truth, where the truth is known.

    python tests/benchmarks/analysis/coverage.py [--repetitions N] [--case NAME ...]

Every case simulates SGLD, by the sampler's own update, on a quadratic potential, whose stationary law at that step
size is known in closed form, many times over, and counts. Printed: the case, repetitions, coverage with its own
standard error, and the mean half-width of the intervals.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import stdtrit

from devinterp.slt.bif import compute_bif
from devinterp.slt.llc import compute_llc
from devinterp.slt.susceptibilities import compute_susceptibilities

LEVEL = 0.9
N_BETA, CHAINS, DRAWS = 30.0, 4, 200
HESSIAN = np.array([1.0, 0.5, 2.0, 0.1])
Array = np.ndarray[Any, Any]
Outcome = tuple[Array, Array]  # covered, half-width
# Step size, localization, burn-in: autocorrelation times of the weights of up to about 8 and 34 draws.
PACE = {"fast": (2e-2, 20.0, 100), "slow": (5e-3, 20.0, 300)}


def sgld(rng: np.random.Generator, pace: str, *, free: Array | None = None, draws: int = DRAWS) -> Array:
    """Weights at every draw, (chain, draw, parameter), started at the minimum; only ``free`` parameters move."""
    lr, localization, burnin = PACE[pace]
    w = np.zeros((CHAINS, HESSIAN.size))
    out = np.empty((CHAINS, burnin + draws, HESSIAN.size))
    mask = np.ones(HESSIAN.size) if free is None else free
    for t in range(burnin + draws):
        drift = N_BETA * HESSIAN * w + localization * w
        w = w - lr / 2 * mask * drift + np.sqrt(lr) * mask * rng.normal(size=w.shape)
        out[:, t] = w
    return out[:, burnin:]


def stationary(pace: str, free: Array | None = None) -> Array:
    """Covariance of the weights: 1 / (a (1 - lr a / 4)) on the diagonal, a = n_beta h + localization."""
    lr, localization, _ = PACE[pace]
    a = N_BETA * HESSIAN + localization
    return np.diag((1.0 if free is None else free) / (a * (1 - lr * a / 4)))


def dataset(losses: dict[str, Array], init: Array, sampler: dict[str, Any], starts: dict[str, Array]) -> xr.Dataset:
    """A samples dataset of losses (chain, draw, row, token)."""
    variables: dict[str, Any] = {"init_loss": (("chain", "token_pos"), init.astype(np.float32))}
    for name, values in losses.items():
        batch = "batch" if name == "sampling_loss" else f"batch_{name[5:]}"
        variables[name] = (("chain", "draw", batch, "token_pos"), values.astype(np.float32))
        if name != "sampling_loss":
            rows, tokens = values.shape[2:]
            ids = np.arange(rows * (tokens + 1)).reshape(rows, tokens + 1)
            variables[f"input_ids_{name[5:]}"] = ((batch, "token"), ids)
    for name, values in starts.items():
        variables[f"init_loss_{name}"] = ((f"batch_{name}", "token_pos"), values.astype(np.float32))
    metadata = {"config": {"sampler": {"n_beta": N_BETA, **sampler}}}
    return xr.Dataset(variables, attrs={"metadata": metadata})


def llc_case(rng: np.random.Generator, *, over: str, pace: str) -> Outcome:
    """The LLC of a quadratic. Rows differ in their loss and in how much of the rise they take.

    ``over="draws"``: a dataset of 16 minibatches, cycled through, the first eight in init_loss.
    ``over="fresh"``: as draws, with a dataset so large that no row comes twice.
    """
    rise = 0.5 * (sgld(rng, pace) ** 2 * HESSIAN).sum(axis=2)  # (chain, draw)
    truth = N_BETA * 0.5 * float((HESSIAN * np.diag(stationary(pace))).sum())
    batch, init_batches, passes = 16, 8, 16
    rows = passes * batch if over != "fresh" else (DRAWS + init_batches) * batch
    base, share = 2.0 + 0.5 * rng.normal(size=rows), 1.0 + 0.5 * rng.normal(size=rows)
    sampler = {"num_init_loss_batches": init_batches, "batch_size": batch}
    if over == "observable":
        base, share = base[:48], share[:48]
        fixed = base + rise[:, :, None] * share
        data = dataset({"loss_task": fixed[..., None]}, np.zeros((CHAINS, 1)), sampler, {"task": base[:, None]})
        result = compute_llc(data, over="observable", observable="task", ci=LEVEL)
    else:
        base, share = base.reshape(-1, batch), share.reshape(-1, batch)
        if over == "draws":
            burnin = PACE[pace][2]
            at = (burnin + np.arange(DRAWS)) % passes
            truth *= float(share.mean())  # the dataset is the population
            sampler |= {"num_draws": DRAWS, "num_burnin_steps": burnin, "num_steps_bw_draws": 1}
        else:
            at = init_batches + np.arange(DRAWS)
        init = np.full((CHAINS, 1), base[np.arange(init_batches)].mean())
        losses = base[at][None] + rise[:, :, None] * share[at][None]
        data = dataset({"sampling_loss": losses[..., None]}, init, sampler, {})
        if over == "draws":
            data.attrs["metadata"]["provenance"] = {"dataset": {"length": rows}}
        result = compute_llc(data, ci=LEVEL)
    low, high = result["llc_ci"].values
    return np.array(low <= truth <= high), np.array((high - low) / 2)


def linear_losses(w: Array, r: Array, a: Array) -> Array:
    """l = 1/2 (r + a.w)^2: (chain, draw, row, token) from r (row, token) and a (row, token, parameter)."""
    return 0.5 * (r + np.einsum("cdk,ntk->cdnt", w, a)) ** 2


def linear_covariance(r1: Array, a1: Array, r2: Array, a2: Array, sigma: Array) -> Array:
    """Cov(l_i, l_j) = r_i r_j c + c^2 / 2, c = a_i S a_j, for every pair of (row, token)."""
    c = np.einsum("ipk,kl,jql->ijpq", a1, sigma, a2)
    return r1[:, None, :, None] * r2[None, :, None, :] * c + c**2 / 2


def bif_case(rng: np.random.Generator, *, pace: str, covariance: bool, what: str) -> Outcome:
    """Linear-Gaussian losses, whose covariances are known exactly."""
    fixed = np.random.default_rng(1)
    r, a = fixed.normal(size=(5, 3)), fixed.normal(size=(5, 3, HESSIAN.size))
    losses = linear_losses(sgld(rng, pace), r, a)
    truth = linear_covariance(r, a, r, a, stationary(pace))
    if what == "sequence":
        truth = truth.mean(axis=(2, 3))
    if not covariance:
        sd = np.sqrt(np.einsum("iipp->ip", truth) if truth.ndim == 4 else np.diag(truth))
        truth = truth / (sd[:, None, :, None] * sd[None, :, None, :] if truth.ndim == 4 else sd[:, None] * sd)
    if what == "average":
        truth = truth.mean(axis=(2, 3))
    result = compute_bif(
        dataset({"loss_probe": losses}, np.zeros((CHAINS, 3)), {}, {}),
        correlation_method="sequence" if what == "sequence" else "token",
        average_tokenwise_bif=what == "average",
        compute_covariance=covariance,
        se=True,
    )
    half = stdtrit(result.attrs["se_dof"], (1 + LEVEL) / 2) * result["influences_se"].values
    inside = np.abs(result["influences"].values - truth) <= half
    if not covariance and what != "average":  # the correlation of a loss with itself is 1, without error
        own = np.eye(5, dtype=bool)
        own = own[:, :, None, None] & np.eye(3, dtype=bool) if what == "token" else own
        inside, half = inside[~own], half[~own]
    return inside, half


def susceptibility_case(rng: np.random.Generator, *, pace: str, baseline: str) -> Outcome:
    """Linear-Gaussian losses; the restriction moves two of the four parameters."""
    fixed = np.random.default_rng(2)
    free = np.array([1.0, 0.0, 1.0, 0.0])
    task_r, task_a = 1 + 0.5 * fixed.normal(size=(24, 2)), fixed.normal(size=(24, 2, 4))
    probe_r, probe_a = fixed.normal(size=(4, 2)), fixed.normal(size=(4, 2, 4))
    start = 0.5 * task_r**2
    init_rows = 256
    runs = {}
    drawn = rng.integers(0, 24, size=init_rows)
    sampler = {"num_init_loss_batches": 1, "batch_size": init_rows}
    for name, mask in (("full", None), ("part", free)):
        w = sgld(rng, pace, free=mask)
        losses = {"loss_task": linear_losses(w, task_r, task_a), "loss_probe": linear_losses(w, probe_r, probe_a)}
        runs[name] = dataset(losses, np.tile(start[drawn].mean(axis=0), (CHAINS, 1)), sampler, {"task": start})
    result = compute_susceptibilities(runs, "task", baseline=baseline, se=True)["susceptibilities"]

    part, full = stationary(pace, free), stationary(pace)
    mean = lambda r, a, s: 0.5 * (r**2 + np.einsum("ntk,kl,ntl->nt", a, s, a))  # noqa: E731
    task_part, task_full = mean(task_r, task_a, part).mean(), mean(task_r, task_a, full).mean()
    gap = task_part - mean(probe_r, probe_a, part) - task_full + mean(probe_r, probe_a, full)
    own = linear_covariance(task_r, task_a, task_r, task_a, part).mean()
    cross = linear_covariance(task_r, task_a, probe_r, probe_a, part).mean(axis=(0, 2))
    truth = own - cross + (task_part - start.mean()) * gap
    half = stdtrit(result.attrs["se_dof"], (1 + LEVEL) / 2) * result["sus_se"].values[:, 0]
    return np.abs(result["sus"].values[:, 0] - truth.ravel()) <= half, half


CASES: dict[str, Callable[[np.random.Generator], Outcome]] = {
    **{
        f"llc over={over}, {pace}": partial(llc_case, over=over, pace=pace)
        for over in ("draws", "fresh", "observable")
        for pace in PACE
    },
    **{
        f"bif {what}{' covariance' if cov else ''}, {pace}": partial(bif_case, pace=pace, covariance=cov, what=what)
        for what in ("token", "sequence", "average")
        for cov in (False, True)
        for pace in PACE
    },
    **{
        f"susceptibilities baseline={baseline}, {pace}": partial(susceptibility_case, pace=pace, baseline=baseline)
        for baseline in ("init", "observable")
        for pace in PACE
    },
}


def coverage(case: str, repetitions: int, seed: int = 0) -> tuple[float, float, float]:
    """Return the fraction covered, its standard error, and the mean half-width."""
    rng = np.random.default_rng([seed, sorted(CASES).index(case)])
    outcomes = [CASES[case](rng) for _ in range(repetitions)]
    inside = np.array([covered.mean() for covered, _ in outcomes])
    half = float(np.mean([width.mean() for _, width in outcomes]))
    return float(inside.mean()), float(inside.std(ddof=1) / np.sqrt(repetitions)), half


def main() -> None:
    """Print the table; exit 1 where a coverage leaves 85 to 95 %."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--case", action="append", choices=sorted(CASES))
    args = parser.parse_args()
    print(f"{'case':44s} {'repetitions':>11s} {'coverage':>16s} {'half-width':>11s} {'seconds':>8s}")
    outside = False
    for case in args.case or CASES:
        began = time.perf_counter()
        covered, error, half = coverage(case, args.repetitions)
        outside |= not 0.85 <= covered <= 0.95
        took = time.perf_counter() - began
        print(f"{case:44s} {args.repetitions:11d} {covered:8.3f} ± {error:.3f} {half:11.4g} {took:8.1f}", flush=True)
    raise SystemExit(int(outside))


if __name__ == "__main__":
    main()
