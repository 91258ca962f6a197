"""What a relation is given of its group: sizes, values, neighbours, and which rows were written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from contexts import context_of

from devinterp.schema import Limits
from devinterp.schema.reading.nodes import NotReadableError
from devinterp.testing import make_tree

SIZES = {"num_chains": 4, "num_draws": 5, "num_burnin_steps": 3, "num_steps_bw_draws": 2}


def run(written: Any = None, **parameters: Any) -> Any:
    tree = make_tree("samples", parameters={**SIZES, **parameters})
    if written is not None:
        tree["draws_written"].values[:] = written
    return tree


def test_rows_of_draws_are_those_written() -> None:
    context = context_of(run([5, 0, 1, 3]))
    assert context.rows_of_chains("draw") == ([5, 0, 1, 3], [5, 0, 1, 3])
    assert context.written_rows("draw") == [5, 0, 1, 3]


def test_steps_after_the_last_draw_may_or_may_not_be_written() -> None:
    """Draw n is taken at step burnin + n * between, before that step's update; the last steps follow the last draw."""
    context = context_of(run([5, 0, 1, 3]))
    surely, at_most = context.rows_of_chains("step")
    assert surely == [3 + 5 * 2, 0, 3 + 0 * 2 + 1, 3 + 2 * 2 + 1]
    assert at_most == [3 + 5 * 2, 3, 3 + 1 * 2, 3 + 3 * 2]
    assert context.written_rows("step") == surely


@pytest.mark.parametrize("written", [[-1, 0, 0, 0], [6, 0, 0, 0]])
def test_numbers_that_make_no_sense_say_nothing(written: list[int]) -> None:
    assert context_of(run(written)).rows_of_chains("draw") == (None, None)


def test_without_what_it_needs_nothing_is_said() -> None:
    tree = run([5, 0, 1, 3])
    bare = tree.to_dataset().drop_vars("draws_written")
    assert context_of(bare).rows_of_chains("draw") == (None, None)
    assert context_of(tree).rows_of_chains("token_pos") == (None, None)
    assert context_of(tree, values=False).rows_of_chains("draw") == (None, None)
    for name in ("num_burnin_steps", "num_steps_bw_draws"):
        lacking = run([5, 0, 1, 3])
        lacking.attrs["metadata"]["config"]["sampler"].pop(name)
        assert context_of(lacking).rows_of_chains("draw")[0] == [5, 0, 1, 3]
        assert context_of(lacking).rows_of_chains("step") == (None, None)
    steps = [n for n, v in tree.data_vars.items() if "step" in v.dims]
    assert context_of(tree.to_dataset().drop_vars(steps)).rows_of_chains("step") == (None, None)


def test_which_steps_a_selection_left_of_chains_that_stopped_is_not_known() -> None:
    context = context_of(run([5, 4, 1, 3]).isel(step=slice(6, None)))
    assert context.rows_of_chains("step") == ([7, 0, 0, 0], [7, 7, 7, 7])
    assert context.rows_of_chains("draw") == ([5, 4, 1, 3], [5, 4, 1, 3])


def test_sizes_and_names_are_those_of_declared_variables() -> None:
    dataset = run().to_dataset()
    dataset["odd"] = ("oddly", np.zeros(7))
    context = context_of(dataset)
    assert (context.size("chain"), context.size("step"), context.size("oddly"), context.size("x")) == (
        4,
        13,
        None,
        None,
    )
    assert context.has("n_beta", "loss_code")
    assert not context.has("n_beta", "odd")
    assert not context.has("metrics_noise")
    assert context.setting("metadata.config.sampler.num_draws") == 5
    assert context.setting("metadata.config.nothing") is None
    assert context.group is context.bound.group


def test_values_are_read_in_parts_and_only_where_they_are_of_their_type() -> None:
    dataset = run().to_dataset()
    context = context_of(dataset)
    part = context.read("step_loss", chain=slice(1, 2), step=slice(0, 3))
    np.testing.assert_array_equal(part, dataset["step_loss"].values[1:2, :3])
    assert context.budget == Limits().memory // 4
    with pytest.raises(NotReadableError, match="nothing cannot be read"):
        context.read("nothing")
    without = context_of(dataset, values=False)
    assert without.budget == 0
    with pytest.raises(NotReadableError, match="n_beta cannot be read"):
        without.read("n_beta")
    for wrong in (dataset["step_loss"].astype("float64"), dataset["step_loss"].rename(step="draws")):
        spoilt = dataset.drop_vars("step_loss").assign(step_loss=wrong)
        with pytest.raises(NotReadableError, match="/step_loss has the wrong dimensions"):
            context_of(spoilt).read("step_loss")
    undeclared = context_of(dataset.assign(odd=("x", [1, 2])))
    assert undeclared.read("odd").tolist() == [1, 2]


def test_groups_below_are_contexts_of_their_own() -> None:
    study = context_of(make_tree("study"), "study")
    names = dict(study.children())
    assert set(names) == set(study.group.groups)
    assert names["full"].read("n_beta").shape == ()
    child = study.child("full")
    assert child is not None
    assert child.bound.path == "/full"
    assert study.child("nothing") is None
    with_more = make_tree("susceptibilities")
    with_more["odd"] = make_tree("llc")
    assert "odd" not in dict(context_of(with_more, "susceptibilities").children())
