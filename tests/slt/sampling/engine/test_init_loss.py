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
from hypothesis import HealthCheck, given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from oracle import loss_of_logits, oracle_init_loss
from tiny_lm import build_model, build_tokens
from torch import nn

from devinterp.errors import AllChainsFailedError
from devinterp.slt.sampling import sample
from devinterp.slt.sampling.engine.check_model import probe_model
from devinterp.slt.sampling.engine.init_loss import initial_losses, observable_initial_losses
from devinterp.slt.sampling.engine.losses import PerTokenLoss, next_token_loss
from devinterp.slt.sampling.engine.restore_model import Generators, restoring, seed_generators
from devinterp.slt.sampling.inputs.parameter_masks import check_masks
from devinterp.steps import StepLayout


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


class Wandering(Dropping):
    """Keeps a running mean of its outputs, on which these depend."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Identity()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, input_ids):
        out = super().forward(input_ids)
        self.seen = 0.9 * self.seen + 0.1 * out.detach().mean()
        return out * (1 + self.seen)


TRAIN = build_tokens("train")
PAIRED = {
    "lr": 1e-3, "n_beta": 30.0, "localization": 10.0, "num_chains": 2, "num_draws": 4, "batch_size": 4,
    "num_init_loss_batches": 1, "device": "cpu", "progress": False, "save_step_losses": True,
}  # fmt: skip


@settings_of_hypothesis(max_examples=6, suppress_health_check=[HealthCheck.too_slow])
@given(
    make=st.sampled_from([build_model, Dropping, Wandering]),
    head=st.booleans(),
    few=st.booleans(),
    matched=st.booleans(),
    parts=st.integers(1, 2),
    burnin=st.integers(0, 1),
    between=st.integers(1, 2),
    noise=st.sampled_from([None, 0.01]),
)
@pytest.mark.filterwarnings("ignore::devinterp.errors.DevinterpWarning")
def test_minibatches_at_the_start_are_what_the_model_says_of_them_and_no_draw_changes(
    make, head, few, matched, parts, burnin, between, noise
):
    torch.manual_seed(0)
    model, rows = make(), TRAIN[:12] if few else TRAIN
    inner = getattr(model, "inner", model)
    masks = {name: None for name, p in model.named_parameters() if not head or p is inner.unembed.weight}
    options = {
        **PAIRED, "gradient_accumulation_steps": parts, "num_burnin_steps": burnin, "num_steps_bw_draws": between,
        "match_sampling_input_ids_across_chains": matched, "init_noise": noise, "param_masks": masks,
    }  # fmt: skip
    plain = sample(model, rows, {"rows": (rows, 1)}, **options)
    tree = sample(model, rows, {"rows": (rows, 1)}, save_paired_losses=True, **options)
    for name, values in plain.data_vars.items():
        assert values.values.tobytes() == tree[name].values.tobytes(), name
    found = tree["init_loss_sampling"].values
    assert found.shape == tree["sampling_loss"].shape
    assert found.dtype == np.float32
    ids = tree["sampling_input_ids_micro"].values[:, StepLayout(burnin, between, 4).draw_steps()]
    for chain, draw in np.ndindex(found.shape[:2]):
        wanted = []
        for some in np.split(ids[chain, draw], parts):
            with restoring(model, CPU, mode="train"):
                seed_generators(100, CPU)
                rows_there = torch.from_numpy(some)
                wanted.append(next_token_loss(model(rows_there), rows_there).numpy())
        np.testing.assert_allclose(found[chain, draw], np.mean(wanted, axis=0), rtol=1e-5, atol=1e-6)
    if make is build_model and not noise and not burnin and between == 1:  # before the first update nothing has moved
        np.testing.assert_array_equal(found[:, 0], tree["sampling_loss"].values[:, 0])


def test_a_chain_that_goes_on_has_the_minibatches_at_the_start_of_one_that_did_not_stop(tmp_path):
    options = {**PAIRED, "num_draws": 6, "save_paired_losses": True, "checkpoint_every": 1}
    whole = sample(build_model(), TRAIN, {}, **options)

    def stop(event):
        if (event.chain, event.step) == (1, 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(build_model(), TRAIN, {}, output_path=tmp_path / "a.zarr", **{**options, "progress": stop})
    resumed = sample(build_model(), TRAIN, {}, output_path=tmp_path / "a.zarr", **options)
    for name in ("init_loss_sampling", "sampling_loss"):
        assert resumed[name].values.tobytes() == whole[name].values.tobytes(), name


def test_minibatches_that_come_again_are_evaluated_at_the_start_once():
    passes = {}
    for paired in (False, True):
        model = Counting()
        sample(model, TRAIN[:8], {}, save_paired_losses=paired, **PAIRED)
        passes[paired] = model.calls
    assert passes[True] - passes[False] == 2  # two batches, in 2 chains of 4 draws


def test_a_minibatch_without_a_finite_loss_at_the_start_ends_its_chain():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = build_model(), 0

        def forward(self, input_ids):
            logits = self.inner(input_ids)
            at_start = torch.equal(self.inner.unembed.weight, START)
            # the last row of the dataset is in the third batch
            return logits.masked_fill((input_ids == LAST).all(dim=1)[:, None, None] & at_start, torch.nan)

    model = Broken()
    START, LAST = model.inner.unembed.weight.detach().clone(), torch.as_tensor(TRAIN[10])
    options = {**PAIRED, "shuffle": False, "num_chains": 1, "save_paired_losses": True}
    with pytest.raises(AllChainsFailedError, match="the loss at the start on the sampling dataset, row 10 is not"):
        sample(model, TRAIN, {}, **options)
