"""The update against a plain oracle, bit for bit, and against closed forms."""

from __future__ import annotations

import dataclasses
import itertools
import weakref
from functools import cache

import numpy as np
import pytest
import torch
from engine import settings
from hypothesis import given
from hypothesis import strategies as st
from oracle import OracleUpdate
from torch import nn

from devinterp.slt.sampling.engine.metrics import pool_metrics
from devinterp.slt.sampling.engine.parameters import Block, SampledParameter
from devinterp.slt.sampling.engine.update import UpdateRule
from devinterp.slt.sampling.settings import METRICS

# Small ones are updated together, in two blocks; the long one alone, and with two threads its sums have two parts.
SHAPES = [(7, 5), (), (3,), (16, 9), (2, 3, 4), (1, 1), (31000,), (33, 65), (250, 160), (17,)]


def parameters(dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]
    made.append(nn.Parameter(torch.randn(6, 8, generator=generator).to(dtype).t()))  # dense, not contiguous
    return made


def masks_for(made, kind):
    generator = torch.Generator().manual_seed(9)
    if kind == "none":
        return [None] * len(made)
    masks = [torch.rand(p.shape, generator=generator) for p in made]
    if kind == "boolean":
        masks = [mask > 0.5 for mask in masks]
    return [None if index == 1 else mask for index, mask in enumerate(masks)]


GRID = list(
    itertools.product(
        ["sgmcmc_sgld", "rmsprop_sgld"],
        ["none", "boolean", "fractional"],
        [(0.0, 0.0), (10.0, 0.0), (0.0, 3.0), (10.0, 3.0)],
        [None, 0.01],
    )
)


@cache
def gradients(step, dtype):
    generator = torch.Generator().manual_seed(100 + step)
    drawn = [torch.randn(p.shape, generator=generator).to(dtype) for p in parameters(dtype)]
    if step == 1:
        drawn[3] = None  # skipped, and draws no noise
    return drawn


def seeded(move, seed):
    """What a step returns from this seed, and the state that it leaves."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed notes the stack for every device that is not there
    return move(), torch.get_rng_state()


def check_against_the_oracle(chosen, mask, dtype=torch.float32):
    """With its metrics and without them, three steps each."""
    sides = [parameters(dtype) for _ in range(3)]
    masks = masks_for(sides[0], mask)
    oracle = OracleUpdate(list(zip(sides[0], masks, strict=True)), chosen)
    rules = [
        UpdateRule(
            [SampledParameter.take(str(i), p, m) for i, (p, m) in enumerate(zip(side, masks, strict=True))],
            dataclasses.replace(chosen, save_metrics=metrics),
        )
        for side, metrics in zip(sides[1:], (True, False), strict=True)
    ]
    for step in range(3):
        for side in sides:
            for p, gradient in zip(side, gradients(step, dtype), strict=True):
                p.grad = None if gradient is None else gradient.clone()
        expected, after = seeded(oracle.step, step)
        for rule, side in zip(rules, sides[1:], strict=True):
            _, left = seeded(rule.step, step)
            assert torch.equal(after, left)
            for index, (mine, other) in enumerate(zip(side, sides[0], strict=True)):
                assert torch.equal(mine.data, other.data), index
                assert mine.grad is None
        pooled = pool_metrics(rules[0].sums.numpy()[None])[0]
        assert dict(zip(METRICS, pooled.tolist(), strict=True)) == expected
        assert rules[1].sums is None


@pytest.mark.parametrize(("method", "mask", "prior", "box"), GRID)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_setting_equals_the_oracle_bit_for_bit(method, mask, prior, box, dtype):
    chosen = settings(
        sampling_method=method, localization=prior[0], llc_weight_decay=prior[1], bounding_box_size=box,
        noise_level=0.7,
    )  # fmt: skip
    check_against_the_oracle(chosen, mask, dtype)


@pytest.mark.parametrize("prior", [(0.5, 0.0), (0.0, 0.5), (0.25, 0.75)])
def test_a_weak_prior_equals_the_oracle_too(prior):
    check_against_the_oracle(settings(localization=prior[0], llc_weight_decay=prior[1], lr=0.1), "fractional")


@pytest.mark.parametrize("metrics", [False, True])
@pytest.mark.parametrize("mask", ["none", "fractional"])
@pytest.mark.parametrize("method", ["sgmcmc_sgld", "rmsprop_sgld"])
def test_a_step_takes_no_memory_that_grows_with_the_parameters(method, mask, metrics):
    """All that it needs is scratch of the steps before: what torch gives out in a later step are a few numbers."""
    made = parameters()[:-1]  # the last is not contiguous, and such a one gets fresh tensors
    chosen = settings(
        sampling_method=method, localization=10.0, llc_weight_decay=3.0, bounding_box_size=0.1, save_metrics=metrics
    )
    sampled = [
        SampledParameter.take(str(i), p, m) for i, (p, m) in enumerate(zip(made, masks_for(made, mask), strict=True))
    ]
    rule = UpdateRule(sampled, chosen)
    gradients = [torch.ones_like(p) for p in made]

    def step():
        for p, gradient in zip(made, gradients, strict=True):
            p.grad = gradient
        rule.step()

    step()
    step()
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as profile:
        step()
    taken = sum(max(0, event.self_cpu_memory_usage) for event in profile.key_averages())
    assert taken < 4096 < sum(p.numel() for p in made)


def test_gradients_are_freed_before_noise_is_drawn(monkeypatch):
    made = [nn.Parameter(torch.zeros(3)) for _ in range(4)]  # updated together: their gradients are copied
    rule = UpdateRule([SampledParameter.take(str(i), p, None) for i, p in enumerate(made)], settings())
    for p in made:
        p.grad = torch.ones_like(p)
    gradients = [weakref.ref(p.grad) for p in made]
    alive, draw_noise = [], Block.draw_noise

    def draw(block, level):
        alive.extend(gradient() is not None for gradient in gradients)
        return draw_noise(block, level)

    monkeypatch.setattr(Block, "draw_noise", draw)
    rule.step()
    assert alive == [False] * 4


@pytest.mark.parametrize("method", ["sgmcmc_sgld", "rmsprop_sgld"])
def test_two_threads_equal_the_oracle_at_two_threads(method):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for mask in ("none", "boolean"):
            chosen = settings(sampling_method=method, localization=10.0, llc_weight_decay=3.0)
            check_against_the_oracle(chosen, mask)
    finally:
        torch.set_num_threads(before)


def test_the_start_is_never_written_to():
    made = parameters()
    starts = [p.data for p in made]
    copies = [start.clone() for start in starts]
    rule = UpdateRule([SampledParameter.take(str(i), p, None) for i, p in enumerate(made)], settings())
    for p in made:
        p.grad = torch.ones_like(p)
    rule.step()
    for p, start, copy in zip(made, starts, copies, strict=True):
        assert torch.equal(start, copy)
        assert not torch.equal(p.data, start)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_a_float32_master_that_small_steps_do_not_vanish_from(dtype):
    """Localisation alone is a Gaussian of variance 1 / gamma; in bfloat16 itself the drift would round away."""
    gamma, lr = 300.0, 1e-3
    p = nn.Parameter(torch.ones(4000, dtype=dtype))
    sampled = SampledParameter.take("w", p, None)
    chosen = settings(lr=lr, n_beta=0.0, localization=gamma, save_metrics=False)
    rule = UpdateRule([sampled], chosen)
    torch.manual_seed(0)
    for _ in range(120):
        p.grad = torch.zeros_like(p)
        rule.step()
    assert sampled.weight.dtype == torch.float32
    assert p.dtype == dtype
    assert torch.equal(p.data, sampled.weight.to(dtype))
    discretised = 1 / (gamma * (1 - lr * gamma / 4))  # variance of the chain with this step
    spread = (sampled.weight - 1.0).std().item()
    assert abs(spread / discretised**0.5 - 1) < 5 / (2 * 4000) ** 0.5


def test_sgld_has_the_step_size_bias_of_its_own_discretisation():
    """Full gradient on L = h w^2 / 2: stationary variance 1 / [a (1 - lr a / 4)], a = n_beta h + gamma."""
    h, n_beta, gamma, lr, size = 2.0, 20.0, 10.0, 0.03, 20_000
    p = nn.Parameter(torch.zeros(size))
    rule = UpdateRule(
        [SampledParameter.take("w", p, None)],
        settings(lr=lr, n_beta=n_beta, localization=gamma, save_metrics=False),
    )
    torch.manual_seed(0)
    for _ in range(60):  # the chain forgets its start by (1 - lr a / 2)^2 per step: 0.06
        p.grad = h * p.detach()
        rule.step()
    a = n_beta * h + gamma
    expected = 1 / (a * (1 - lr * a / 4))
    assert abs(p.detach().var().item() / expected - 1) < 5 * (2 / size) ** 0.5


def test_weights_or_diagnostics_that_are_not_finite_are_noticed_and_an_overflow_of_the_sum_is_not():
    p = nn.Parameter(torch.full((4,), 3e38))
    sampled = SampledParameter.take("w", p, None)
    rule = UpdateRule([sampled], settings())
    assert rule.finite()
    rule.sums[0, 0] = float("inf")
    assert not rule.finite()
    rule.sums.zero_()
    sampled.weight[2] = float("nan")
    assert not rule.finite()


def test_a_diagnostic_that_is_not_finite_is_noticed_beside_weights_that_are():
    rule = UpdateRule([SampledParameter.take("w", nn.Parameter(torch.zeros(4)), None)], settings())
    assert rule.finite() is True
    rule.sums[0, 0] = float("inf")
    assert not rule.finite()


def test_a_model_in_half_precision_gets_the_weights_that_are_restored():
    first, second = (nn.Parameter(torch.full((3,), value, dtype=torch.bfloat16)) for value in (1.0, 2.0))
    rules = [UpdateRule([SampledParameter.take("w", p, None)], settings()) for p in (first, second)]
    rules[1].load(rules[0].state())
    assert torch.equal(second.data, first.data)


def test_state_restores_weights_and_preconditioner():
    chosen = settings(sampling_method="rmsprop_sgld")
    first, second = parameters(), parameters()
    rules = [
        UpdateRule([SampledParameter.take(str(i), p, None) for i, p in enumerate(side)], chosen)
        for side in (first, second)
    ]

    def step(rule, side, seed):
        generator = torch.Generator().manual_seed(seed)
        for p in side:
            p.grad = torch.randn(p.shape, generator=generator)
        torch.manual_seed(seed)
        rule.step()

    step(rules[0], first, 1)
    rules[1].load(rules[0].state())
    for rule, side in zip(rules, (first, second), strict=True):
        step(rule, side, 2)
    for mine, other in zip(first, second, strict=True):
        assert torch.equal(mine.data, other.data)


@given(st.integers(0, 2**31 - 1), st.integers(1, 40), st.integers(1, 5))
def test_pooling_adds_one_by_one_in_float32(seed, count, steps):
    sums = np.random.default_rng(seed).random((steps, len(METRICS), count)).astype(np.float32)
    pooled = pool_metrics(sums)
    for step in range(steps):
        for row in range(len(METRICS)):
            total = torch.zeros(())
            for value in torch.from_numpy(sums[step, row]):
                total = total + (value.sqrt().square() if row < 6 else value)
            assert pooled[step, row] == (total.sqrt() if row < 6 else total).item()
