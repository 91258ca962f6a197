"""A small samples request, and an engine that fills a store with known numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from devinterp.store import ChainWriter, Run, SamplesRequest

OBSERVABLES = {"code": 2, "math": 1}


def request(**changes: Any) -> SamplesRequest:
    parameters = {
        "lr": 1e-3,
        "n_beta": 30.0,
        "num_chains": 2,
        "num_draws": 7,
        "num_burnin_steps": 3,
        "num_steps_bw_draws": 2,
        "batch_size": 2,
        "gradient_accumulation_steps": 1,
        "num_init_loss_batches": 4,
        "init_seed": 100,
        "localization": 1.0,
        "noise_level": 1.0,
        "llc_weight_decay": 0.0,
        "bounding_box_size": None,
        "sampling_method": "sgmcmc_sgld",
        "save_metrics": False,
        "save_step_losses": False,
        **changes,
    }
    observables = [{"obs_id": n, "name": n, "batches_per_draw": b} for n, b in OBSERVABLES.items()]
    return SamplesRequest(parameters, observables, {"token_pos": 5}, {"weights": "abc"})


class Numbers:
    """What the pretended engine draws: the same for the same seed, whatever was interrupted in between."""

    def __init__(self, run: Run, group: str = "/", seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.arrays = {
            name: rng.random(layout.shape, dtype=np.float32)
            for name, layout in run.layout(group).arrays.items()
            if layout.spec.prefix is not None
        }
        self.by_draw = [n for n in self.arrays if run.layout(group).arrays[n].spec.prefix == "draw"]
        self.by_step = [n for n in self.arrays if n not in self.by_draw]

    def steps(self, chain: int, first: int, stop: int) -> dict[str, Any]:
        return {n: self.arrays[n][chain, first:stop] for n in self.by_step}

    def draw(self, chain: int, draw: int) -> dict[str, Any]:
        return {n: self.arrays[n][chain, draw] for n in self.by_draw}


def write_fixed(run: Run, group: str = "/") -> None:
    for name, layout in run.layout(group).arrays.items():
        if layout.spec.prefix is None and name != "draws_written":
            value = np.arange(np.prod(layout.shape, dtype=int)).reshape(layout.shape)
            run.write_array(group, name, 30.0 if name == "n_beta" else value)


def run_chain(
    run: Run,
    writer: ChainWriter,
    numbers: Numbers,
    *,
    group: str = "/",
    stop_at: int | None = None,
    status: str = "complete",
) -> None:
    """Push draws from where the writer stands to the end, or to ``stop_at`` draws and finish with ``status``."""
    parameters = run.requests[group].parameters
    burnin, between, draws = (parameters[k] for k in ("num_burnin_steps", "num_steps_bw_draws", "num_draws"))
    end = draws if stop_at is None else stop_at
    step, chain = writer.progress.steps, writer.chain
    for draw in range(writer.progress.draws, end):
        upto = burnin + draw * between + 1
        writer.steps(step, numbers.steps(chain, step, upto))
        writer.draw(draw, numbers.draw(chain, draw))
        step = upto
        if writer.checkpoint_due(draw + 1):
            writer.checkpoint(draw + 1, step, b"state of draw %d" % (draw + 1))
    if status == "failed":  # the step of the draw that was dropped has been handed over already
        upto = burnin + end * between + 1
        writer.steps(step, numbers.steps(chain, step, upto))
        step = upto
    if stop_at is None and step < burnin + draws * between:
        writer.steps(step, numbers.steps(chain, step, burnin + draws * between))
        step = burnin + draws * between
    run.record(group, chain, writer.finish(status, None if status == "complete" else "why", step))
