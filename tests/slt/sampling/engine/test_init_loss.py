"""Losses before sampling: the oracle's, computed no more often than needed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engine import (
    CPU,
    OBSERVABLES,
    SameMemory,
    assert_same_snapshot,
    observed,
    run,
    same_bytes,
    sampling_data,
    settings,
    snapshot,
)
from oracle import loss_of_logits, oracle_init_loss
from tiny_lm import build_model, build_tokens
from torch import nn

from devinterp.slt.sampling.engine.check_model import probe_model
from devinterp.slt.sampling.engine.init_loss import initial_losses, observable_initial_losses
from devinterp.slt.sampling.engine.losses import PerTokenLoss, next_token_loss
from devinterp.slt.sampling.engine.restore_model import Generators
from devinterp.slt.sampling.inputs.parameter_masks import check_masks


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.dropout, self.calls = build_model(), nn.Dropout(0.2), 0

    def forward(self, input_ids):
        self.calls += 1
        return self.dropout(self.inner(input_ids))


class Counting(Dropping):
    def __init__(self):
        super().__init__()
        self.dropout = nn.Identity()


CASES = {
    "shared": (Counting, {}, 1),
    "accumulation": (Counting, {"gradient_accumulation_steps": 3}, 1),
    "unmatched": (Counting, {"match_sampling_input_ids_across_chains": False}, 3),
    "init noise": (Counting, {"init_noise": 0.1}, 3),
    "dropout": (Dropping, {}, 3),
    "dropout in eval mode": (Dropping, {"mode": "eval"}, 1),
    "a second pass": (Counting, {"num_init_loss_batches": 20}, 1),
    "no shuffle, unmatched": (Counting, {"shuffle": False, "match_sampling_input_ids_across_chains": False}, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_each_chain_has_the_oracles_loss_and_equal_ones_are_computed_once(case):
    build, changes, passes = CASES[case]
    chosen = settings(num_chains=3, **changes)
    model = build()
    before, generators = snapshot(model), Generators(CPU)
    ours = initial_losses(model, PerTokenLoss(), chosen, sampling_data(chosen), CPU)
    assert generators == Generators(CPU)
    assert model.calls == passes * chosen.num_init_batches
    expected = np.stack([oracle_init_loss(build(), build_tokens("train"), chosen, chain) for chain in range(3)])
    same_bytes({"init_loss": ours}, {"init_loss": expected})
    assert_same_snapshot(before, snapshot(model))


@pytest.mark.parametrize("case", CASES)
def test_the_first_batch_is_not_evaluated_again_where_its_loss_is_known(case):
    build, changes, passes = CASES[case]
    chosen = settings(num_chains=3, **changes)
    data = sampling_data(chosen)
    plain = initial_losses(build(), PerTokenLoss(), chosen, data, CPU)
    seen = probe_model(build(), PerTokenLoss(), chosen, data, (), check_masks(build(), None), CPU)
    model = build()
    known = initial_losses(model, PerTokenLoss(), chosen, data, CPU, None if seen.random else seen.losses)
    same_bytes({"init_loss": plain}, {"init_loss": known})
    spared = not (seen.random or chosen.init_noise)
    assert model.calls == passes * chosen.num_init_batches - spared


@pytest.mark.parametrize("build", [Counting, Dropping])
def test_observables_losses_are_those_of_the_callers_weights_and_change_no_draw(build):
    chosen = settings()
    observables = observed(chosen)
    model = build()
    before, generators = snapshot(model), Generators(CPU)
    losses = observable_initial_losses(model, PerTokenLoss(), chosen, observables, CPU)
    assert_same_snapshot(before, snapshot(model))
    assert generators == Generators(CPU)
    _, after = run(model, chosen)
    _, fresh = run(build(), chosen)
    same_bytes(after.arrays, fresh.arrays)
    if build is Counting:
        with torch.no_grad():
            for observable in observables:
                plain = [loss_of_logits(model.inner, ids) for ids in observable.batch().ids.split(4)]
                assert torch.equal(torch.from_numpy(losses[observable.obs_id]), torch.cat(plain))


def test_a_loss_may_come_in_the_same_memory_at_every_call():
    def loss(model, input_ids):
        return next_token_loss(model(input_ids), input_ids)

    chosen = settings(batch_size=4)
    rows = {f"{name} {k}": (ids[k : k + 8], 1) for name, (ids, _) in OBSERVABLES.items() for k in (0, 4)}
    observables = observed(chosen, rows)
    expected = observable_initial_losses(build_model(), PerTokenLoss(loss), chosen, observables, CPU)
    same = PerTokenLoss(lambda model, ids: SameMemory.apply(loss(model, ids)))
    same_bytes(observable_initial_losses(build_model(), same, chosen, observables, CPU), expected)
