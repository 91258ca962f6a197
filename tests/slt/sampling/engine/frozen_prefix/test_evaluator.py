"""Whole runs with a frozen prefix: the bytes of plain passes, and hardly a pass that need not be."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from odd_models import VOCAB, Plain, build
from quick_runs import quick

from devinterp.slt.sampling.engine.frozen_prefix import memory, plain_passes


@pytest.mark.parametrize(("sampled", "must"), [("", 2 + 2 + 1 + 2), ("parts.3.down.weight", 2 + 2)])
def test_one_draw_makes_hardly_any_pass_that_it_need_not(sampled, must):
    """Two batches for the initial loss, two of the observable at the start; a step and two of the draw, unless cut."""
    model, tokens = build(("Plain",) * 4), []
    masks = {name: None for name, _ in model.named_parameters() if sampled in name and name != "position.weight"}
    forward = model.parts[0].forward
    model.parts[0].forward = lambda x: tokens.append(x.shape[0] * x.shape[1]) or forward(x)
    rows = np.random.default_rng(0).integers(0, VOCAB, (64, 64))
    settings = {"num_chains": 1, "num_draws": 1, "batch_size": 8, "num_init_loss_batches": 2}
    quick(model, rows, {"a": (rows, 2)}, param_masks=masks, **settings)
    assert must <= sum(tokens) / (8 * 64) <= 1.15 * must


def test_few_short_rows_cost_one_of_them_twice_and_a_look_ahead():
    """Beside the first batch and the fixed rows: what is watched without gradients, then evaluated with them."""
    model, tokens = build(("Plain",) * 4), []
    forward = model.parts[0].forward
    model.parts[0].forward = lambda x: tokens.append(x.shape[0] * x.shape[1]) or forward(x)
    rows = np.random.default_rng(0).integers(0, VOCAB, (16, 33))
    settings = {"num_chains": 1, "num_draws": 1, "batch_size": 4, "num_init_loss_batches": 1}
    quick(model, rows, {"a": (rows, 1)}, param_masks={"parts.3.down.weight": None}, **settings)
    assert sum(tokens) == 2 * 4 * 33 + 2 * 33 + 2 * 8


@hypothesis_settings(max_examples=6, deadline=None)
@given(
    st.lists(
        st.sampled_from(["Plain", "Plain", "Modal", "ModalWhereLong", "Pair", "InPlace", "Branches"]),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([None, 1e-2]),
)
def test_a_run_has_the_same_bytes_with_and_without_a_frozen_prefix(parts, noise):
    rows = np.random.default_rng(0).integers(0, VOCAB, (16, 40))
    trees = {}
    for plain in (True, False):
        model = build((*parts, "Plain"))
        masks = {f"parts.{len(parts)}.down.weight": None}
        settings = {"num_chains": 1, "num_draws": 2, "batch_size": 4, "lr": 1e-2, "init_noise": noise}
        with plain_passes() if plain else nullcontext():
            trees[plain] = quick(model, rows, {"a": (rows, 2)}, param_masks=masks, **settings)
    for name, array in trees[True].data_vars.items():
        assert array.values.tobytes() == trees[False][name].values.tobytes(), name
    told = trees[False].attrs["metadata"]["run"]["frozen_prefix"]
    if set(parts) <= {
        "Plain",
        "Pair",
    }:  # two draws of two batches, and the first step: noise moves what is sampled alone
        assert (told["reused"], told["passes"]) == (5, 6)


@pytest.mark.parametrize("sampled", ["parts.1.up.weight", "parts.1.down.weight"])
def test_a_model_that_goes_by_the_mode_of_gradients_in_long_rows_alone_has_the_bytes_of_plain_passes(sampled):
    """A look at a few tokens sees nothing of it, and what is kept of a pass without gradients would serve a step."""
    rows = np.random.default_rng(0).integers(0, VOCAB, (16, 40))
    trees = {}
    for plain in (True, False):
        with plain_passes() if plain else nullcontext():
            model = build(("ModalWhereLong", "Plain"))
            trees[plain] = quick(model, rows, {"a": (rows, 2)}, param_masks={sampled: None}, batch_size=4)
    for name, array in trees[True].data_vars.items():
        assert array.values.tobytes() == trees[False][name].values.tobytes(), name
    assert trees[False].attrs["metadata"]["run"]["frozen_prefix"]["reused"] > 0


def test_a_first_step_that_goes_another_way_than_the_look_leaves_nothing_out(monkeypatch):
    """The kept outputs are wrong; the first step sees it, and all passes are plain."""
    rows = np.random.default_rng(0).integers(0, VOCAB, (16, 40))
    settings = {"num_chains": 1, "num_draws": 2, "batch_size": 4, "param_masks": {"parts.1.down.weight": None}}
    with plain_passes():
        expected = quick(build(("Plain",) * 2), rows, {"a": (rows, 2)}, **settings)
    add = memory.Kept.add
    monkeypatch.setattr(memory.Kept, "add", lambda self, output: add(self, output * 1.001))
    tree = quick(build(("Plain",) * 2), rows, {"a": (rows, 2)}, **settings)
    for name, array in expected.data_vars.items():
        assert array.values.tobytes() == tree[name].values.tobytes(), name
    told = tree.attrs["metadata"]["run"]["frozen_prefix"]
    assert (told["reused"], told["reason"]) == (0, "the check on the first batch failed")


class ModalWhereMany(Plain):
    """Gives other numbers without gradients, of batches alone, which no look at a row shows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * (1.001 if x.shape[0] > 2 and not torch.is_grad_enabled() else 1.0)


class ByFlags(Plain):
    """Goes by whether its weights get gradients."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * (1.001 if self.up.weight.requires_grad else 1.0)


@pytest.mark.parametrize("part", [ModalWhereMany, ByFlags])
def test_what_a_part_goes_by_is_the_same_where_it_was_kept(part):
    rows = np.random.default_rng(0).integers(0, VOCAB, (16, 40))
    trees = {}
    for plain in (True, False):
        model = build(("Plain",) * 3)
        model.parts[0] = part()
        torch.manual_seed(1)
        for parameter in model.parts[0].parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        with plain_passes() if plain else nullcontext():
            trees[plain] = quick(model, rows, {"a": (rows, 2)}, param_masks={"parts.2.down.weight": None}, batch_size=4)
    for name, array in trees[True].data_vars.items():
        assert array.values.tobytes() == trees[False][name].values.tobytes(), name
    assert trees[False].attrs["metadata"]["run"]["frozen_prefix"]["reused"] > 0
