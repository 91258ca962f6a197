"""Draws among steps, held against a chain that walks them one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import devinterp.schema
from devinterp.steps import StepLayout

LAYOUTS = st.builds(StepLayout, st.integers(0, 9), st.integers(1, 5), st.integers(0, 9))
SAMPLER = {"num_burnin_steps": 3, "num_steps_bw_draws": 2, "num_draws": 5}


@given(LAYOUTS)
def test_every_count_is_that_of_a_chain_walked_step_by_step(layout):
    taken_at = [step for step in range(layout.num_steps) if layout.draw_at(step) is not None]
    assert layout.draw_steps().tolist() == taken_at
    assert [layout.draw_at(step) for step in taken_at] == list(range(layout.draws))
    for steps in range(layout.num_steps + 1):
        taken = sum(step < steps for step in taken_at)
        assert layout.draws_taken(steps) == taken
        assert layout.fewest_steps(taken) <= steps <= layout.steps_of(taken)
        assert layout.whole_draws(steps) == sum(layout.steps_of(n + 1) <= steps for n in range(layout.draws))


@given(LAYOUTS, st.integers(0, 9))
def test_draws_come_back_from_their_steps(layout, draws):
    draws = min(draws, layout.draws)
    for steps in (layout.fewest_steps(draws), layout.steps_of(draws)):
        assert layout.draws_taken(steps) == draws
    assert layout.whole_draws(layout.steps_of(draws)) == draws
    assert layout.draw_steps(draws).tolist() == layout.draw_steps().tolist()[:draws]


@given(LAYOUTS, st.integers(-3, 90))
def test_counts_grow_with_the_steps_and_stay_within_the_chain(layout, steps):
    for count in (layout.draws_taken, layout.whole_draws):
        assert 0 <= count(steps) <= count(steps + 1) <= layout.draws
    assert layout.whole_draws(steps) <= layout.draws_taken(steps)


@given(LAYOUTS)
def test_the_schema_gives_the_dimension_step_the_same_size(layout):
    names = {"num_burnin_steps": layout.burnin, "num_steps_bw_draws": layout.between, "num_draws": layout.draws}
    size = devinterp.schema.load("samples").node("/").dimensions["step"].size
    assert size.evaluate(names) == layout.num_steps


def test_settings_are_read_where_all_are_there():
    assert StepLayout.of(SAMPLER) == StepLayout(3, 2, 5)
    assert StepLayout.of({**SAMPLER, "num_draws": np.int64(5)}) == StepLayout(3, 2, 5)


@pytest.mark.parametrize("name", SAMPLER)
@pytest.mark.parametrize("value", [None, "2", 2.0, True, -1, [2]])
def test_settings_that_are_missing_or_out_of_range_make_no_layout(name, value):
    assert StepLayout.of({**SAMPLER, name: value}) is None
    assert StepLayout.of({k: v for k, v in SAMPLER.items() if k != name}) is None


def test_no_steps_between_draws_make_no_layout():
    assert StepLayout.of({**SAMPLER, "num_steps_bw_draws": 0}) is None
