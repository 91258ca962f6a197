"""Runs of odd models with a frozen prefix, and without one to compare with."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from engine import run, same_bytes, settings
from memory_sink import MemorySink
from odd_models import VOCAB
from torch import nn

from devinterp.slt.sampling.engine.chain import ChainResult
from devinterp.slt.sampling.engine.frozen_prefix import FrozenPrefix

ROWS = np.random.default_rng(3).integers(0, VOCAB, (12, 6))
OBSERVABLES = {"a": (ROWS, 2), "b": (ROWS[::-1].copy(), 1)}
LOOK = 2  # tokens, where rows may be shortened


SHORT: dict[str, Any] = {"num_chains": 2, "num_draws": 3, "batch_size": 3, "lr": 1e-2}


def chains(model: nn.Module, masks: Any, prefix: FrozenPrefix, **options: Any) -> list[tuple[ChainResult, MemorySink]]:
    """Run two chains, one after the other, with one memory."""
    changes = {**SHORT, **options.pop("changes", {})}
    return [
        run(
            model, settings(**changes), chain, masks=masks, rows=ROWS, observables=OBSERVABLES, prefix=prefix, **options
        )
        for chain in range(2)
    ]


def same_runs(one: MemorySink, other: MemorySink) -> None:
    """Assert that two chains gave the same bytes at every draw and step."""
    for mine, theirs in zip([*one.draws, *one.step_rows], [*other.draws, *other.step_rows], strict=True):
        same_bytes(mine, theirs)


def compared(model: nn.Module, masks: Any, **options: Any) -> list[ChainResult]:
    """Run with and without, see that the bytes are equal, and return what the runs with it say."""
    budget = options.pop("budget", 2**20)
    twin = copy.deepcopy(model)
    plain = chains(twin, masks, FrozenPrefix(enabled=False, minibatches=True), **options)
    prefix = FrozenPrefix(minibatches=True, any_length=True, budget=budget)
    reused = chains(model, masks, prefix, **options)
    for (one, a), (other, b) in zip(plain, reused, strict=True):
        assert (one.status, one.reason, one.step) == (other.status, other.reason, other.step)
        assert one.reuse.reused == 0
        same_runs(a, b)
    assert not any("forward" in module.__dict__ for module in model.modules())
    return [result for result, _ in reused]


def last(model: nn.Module) -> dict[str, None]:
    """The last weight of four parts, behind all the others."""
    return {"parts.3.down.weight": None}
