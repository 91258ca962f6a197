"""Stores whose numbers look like a run's: traces that rise and level off, rows of one kind that move together."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from devinterp.store import Container, Run, SamplesRequest, open_run

TOKENS = 24
TASK = "code"


def request(
    *,
    chains: int = 3,
    draws: int = 60,
    observables: Iterable[str] = (TASK, "prose"),
    rows: int = 6,
    **parameters: Any,
) -> SamplesRequest:
    settings = {
        "lr": 1e-3,
        "n_beta": 30.0,
        "num_chains": chains,
        "num_draws": draws,
        "num_burnin_steps": 10,
        "num_steps_bw_draws": 2,
        "batch_size": rows,
        "gradient_accumulation_steps": 1,
        "num_init_loss_batches": 8,
        "init_seed": 100,
        "localization": 100.0,
        "noise_level": 1.0,
        "llc_weight_decay": 0.0,
        "bounding_box_size": None,
        "sampling_method": "sgmcmc_sgld",
        "save_metrics": True,
        "save_step_losses": False,
        **parameters,
    }
    described = [{"obs_id": name, "name": name, "batches_per_draw": 1} for name in observables]
    return SamplesRequest(
        settings,
        described,
        {"token_pos": TOKENS},
        {"weights": "0123456789abcdef", "versions": {"devinterp": "3.0.0"}},
        {"sampling_task": TASK},
    )


def _trace(rng: np.random.Generator, size: int, burnin: int, scale: float) -> np.ndarray:
    noise, out = rng.normal(0, 1, size), np.empty(size)
    for t in range(size):
        out[t] = noise[t] if t == 0 else 0.8 * out[t - 1] + 0.6 * noise[t]
    rise = 1 - np.exp(-np.arange(size) / max(burnin, 1))
    return scale * (rise + 0.15 * out)


class Engine:
    """Fills one samples group; `scale` is the rise of the loss in nat, so that the LLC is about ``n_beta * scale``."""

    def __init__(self, run: Run, group: str, *, scale: float, seed: int) -> None:
        self.run, self.group = run, group
        self.parameters = run.requests[group].parameters
        p = self.parameters
        self.steps = p["num_burnin_steps"] + p["num_draws"] * p["num_steps_bw_draws"]
        # Rows, tokens and losses at the start are the model's, the same whatever is restricted.
        fixed = np.random.default_rng(7)
        names = [o["obs_id"] for o in run.requests[group].observables]
        self.ids = {n: fixed.integers(32, 126, (p["batch_size"], TOKENS + 1)) for n in names}
        self.start = {n: fixed.gamma(4, 0.5, (p["batch_size"], TOKENS)) for n in names}
        self.rng = np.random.default_rng(seed)
        self.traces = [_trace(self.rng, self.steps, p["num_burnin_steps"], scale) for _ in range(p["num_chains"])]
        self.kinds = {n: [_trace(self.rng, self.steps, 5, scale) for _ in range(p["num_chains"])] for n in names}

    def write_fixed(self) -> None:
        put, p = self.run.write_array, self.parameters
        put(self.group, "init_loss", np.full((p["num_chains"], TOKENS), 2.0))
        put(self.group, "n_beta", p["n_beta"])
        for name, ids in self.ids.items():
            put(self.group, f"input_ids_{name}", ids)
            put(self.group, f"row_{name}", np.arange(len(ids)))
            put(self.group, f"init_loss_{name}", self.start[name])

    def run_chain(self, chain: int, *, stop_at: int | None = None, status: str = "complete") -> None:
        writer, _ = self.run.writer(self.group, chain)
        p, trace = self.parameters, self.traces[chain]
        rng = np.random.default_rng([chain, 3])
        goal = p["num_draws"] if stop_at is None else stop_at
        step = writer.progress.steps
        for draw in range(writer.progress.draws, goal):
            upto = p["num_burnin_steps"] + draw * p["num_steps_bw_draws"] + 1
            writer.steps(step, self._step_rows(chain, step, upto))
            step = upto
            rows: dict[str, Any] = {
                "sampling_loss": 2 + trace[step - 1] + rng.normal(0, 0.3, (p["batch_size"], TOKENS)),
            }
            for name, start in self.start.items():
                shared = trace[step - 1] + 0.5 * self.kinds[name][chain][step - 1]
                rows[f"loss_{name}"] = start * (1 + 0.2 * shared) + 0.02 * rng.normal(0, 1, start.shape)
            writer.draw(draw, {n: np.asarray(v, dtype=np.float32) for n, v in rows.items()})
            if writer.checkpoint_due(draw + 1):
                writer.checkpoint(draw + 1, step, b"state")
        if stop_at is None:
            writer.steps(step, self._step_rows(chain, step, self.steps))
            step = self.steps
        reason = None if status == "complete" else "the loss is not finite"
        self.run.record(self.group, chain, writer.finish(status, reason, step))

    def _step_rows(self, chain: int, first: int, stop: int) -> dict[str, np.ndarray]:
        trace = self.traces[chain][first:stop]
        rng = np.random.default_rng([chain, first])
        rows: dict[str, np.ndarray] = {"step_loss": 2 + trace + rng.normal(0, 0.08, trace.shape)}
        if self.parameters["save_metrics"]:
            ones = 1 + 0.1 * rng.normal(0, 1, trace.shape)
            distance = 2.0 * (1 - np.exp(-np.arange(first, stop) / 30))
            norms = {"scaled_grad": 0.02, "unscaled_grad": 0.02, "weight_decay": 0.0, "noise": 0.5}
            rows |= {f"metrics_{name}": size * np.abs(ones) for name, size in norms.items()}
            rows["metrics_unscaled_grad"] = rows["metrics_scaled_grad"].copy()
            rows["metrics_localization"], rows["metrics_distance"] = 0.05 * distance, distance
            rows["metrics_dot_grad_prior"] = -0.3 * rows["metrics_scaled_grad"] * rows["metrics_localization"]
            rows["metrics_dot_grad_noise"] = rng.normal(0, 2e-4, trace.shape)
            rows["metrics_dot_prior_noise"] = rng.normal(0, 5e-4, trace.shape) * distance
        return {n: np.asarray(v, dtype=np.float32) for n, v in rows.items()}


def make_samples(
    path: Path | str, *, scale: float = 0.02, failing: dict[int, int] | None = None, **request_: Any
) -> Path:
    """A completed samples store; ``failing`` maps a chain to the draws it wrote before it failed."""
    with open_run(path, {"/": request(**request_)}) as run:
        _fill(run, "/", scale, 1, failing or {})
        run.complete()
    return Path(path)


def make_study(path: Path | str, restrictions: Iterable[str] = ("full", "l0h0", "l0h1"), **request_: Any) -> Path:
    """A completed study; the LLC grows with the restriction's place in the list."""
    names = list(restrictions)
    asked = request(**request_)
    root = {"config": {"sampling_task": TASK, "restrictions": names}}
    with open_run(path, {f"/{name}": asked for name in names}, root=root) as run:
        for index, name in enumerate(names):
            _fill(run, f"/{name}", 0.02 * (1 + np.sin(1.7 * index)) + 0.003, index, {})
        run.complete()
    return Path(path)


def make_series(
    path: Path | str,
    steps: Iterable[int] = (900, 1000),
    restrictions: Iterable[str] = ("full", "l0h0"),
    **request_: Any,
) -> Path:
    """A completed series."""
    names, listed, asked = list(restrictions), list(steps), request(**request_)
    config = {"sampling_task": TASK, "restrictions": names}
    above = {f"/{step}": Container("devinterp/study@1", {"config": config}) for step in listed}
    root = {"config": {**config, "checkpoints": listed}}
    above["/"] = Container("devinterp/series@1", root, {"checkpoint": listed})
    with open_run(path, {f"/{s}/{n}": asked for s in listed for n in names}, containers=above) as run:
        for index, group in enumerate(run.requests):
            _fill(run, group, 0.02, index, {})
        run.complete()
    return Path(path)


def _fill(run: Run, group: str, scale: float, seed: int, failing: dict[int, int]) -> None:
    engine = Engine(run, group, scale=scale, seed=seed)
    engine.write_fixed()
    for chain in range(engine.parameters["num_chains"]):
        if chain in failing:
            engine.run_chain(chain, stop_at=failing[chain], status="failed")
        else:
            engine.run_chain(chain)
