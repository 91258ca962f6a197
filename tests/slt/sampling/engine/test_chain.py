"""One chain: its records against the oracle, its resume, its health, and its orderly ends."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from engine import OBSERVABLES, SameMemory, assert_same_snapshot, run, same_bytes, settings, snapshot
from memory_sink import MemorySink
from oracle import oracle_chain
from tiny_lm import build_model, build_tokens, head_masks
from torch import nn

from devinterp.slt.sampling.engine.losses import next_token_loss

TRAIN = build_tokens("train")


class Noisy(nn.Module):
    """Dropout, and numpy and `random` in its forward: every generator of the state is used."""

    def __init__(self):
        super().__init__()
        self.inner = build_model()
        self.dropout = nn.Dropout(0.2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, input_ids):
        if self.training:
            self.calls += 1
        logits = self.dropout(self.inner(input_ids))
        return logits * (1 + 0.01 * np.random.rand() + 0.01 * random.random() + 0.001 * self.calls)  # noqa: NPY002


CASES = {
    "sgld": ({}, None),
    "rmsprop": ({"sampling_method": "rmsprop_sgld", "llc_weight_decay": 2.0}, None),
    "burn-in, thinning, accumulation": (
        {"num_burnin_steps": 2, "num_steps_bw_draws": 3, "gradient_accumulation_steps": 2},
        None,
    ),
    "init noise, masks, box": ({"init_noise": 0.05, "bounding_box_size": 0.1}, "head"),
    "unmatched, another pass": (
        {"match_sampling_input_ids_across_chains": False, "batch_size": 20, "num_draws": 6, "batches_per_draw": 1},
        None,
    ),
    "eval": ({"mode": "eval"}, None),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("chain", [0, 1])
def test_records_equal_the_oracle_bit_for_bit(case, chain):
    changes, mask = CASES[case]
    chosen = settings(**changes)
    observables = {name: (rows, 1) for name, (rows, _) in OBSERVABLES.items()}
    masks = head_masks(build_model(), 0, 2) if mask else None
    result, sink = run(build_model(), chosen, chain, masks=masks, observables=observables)
    expected = oracle_chain(build_model(), TRAIN, observables, chosen, chain, masks=masks)
    assert (result.status, result.step, result.draws) == ("complete", chosen.num_steps, chosen.num_draws)
    assert sink.end == ("complete", None, chosen.num_steps)
    assert set(sink.arrays) == set(expected)
    same_bytes(sink.arrays, expected)


def test_micro_batches_are_kept_on_request():
    chosen = settings(save_step_losses=True, gradient_accumulation_steps=2, save_metrics=False)
    _, sink = run(build_model(), chosen)
    arrays = sink.arrays
    assert arrays["sampling_loss_micro"].shape == (4, 8, 16)
    ids = torch.from_numpy(arrays["sampling_input_ids_micro"])
    assert ids.dtype == torch.int64
    known = {tuple(row) for row in TRAIN.tolist()}
    assert all(tuple(row) in known for row in ids.reshape(-1, 17).tolist())
    np.testing.assert_allclose(arrays["sampling_loss_micro"].mean((1, 2)), arrays["step_loss"], rtol=1e-6)


def test_a_loss_may_come_in_the_same_memory_at_every_call():
    def loss(model, input_ids):
        return next_token_loss(model(input_ids), input_ids)

    chosen = settings(save_step_losses=True, gradient_accumulation_steps=2, batch_size=4)
    observables = {f"{name} {k}": (rows[k : k + 4], 1) for name, (rows, _) in OBSERVABLES.items() for k in (0, 4)}
    _, expected = run(build_model(), chosen, observables=observables, loss_fn=loss)
    _, sink = run(build_model(), chosen, observables=observables, loss_fn=lambda m, ids: SameMemory.apply(loss(m, ids)))
    same_bytes(sink.arrays, expected.arrays)


@pytest.mark.parametrize("method", ["sgmcmc_sgld", "rmsprop_sgld"])
@pytest.mark.parametrize("build", [build_model, Noisy])
def test_a_chain_resumes_from_any_checkpoint_to_the_same_bytes(method, build):
    chosen = settings(
        sampling_method=method, num_draws=6, num_burnin_steps=2, num_steps_bw_draws=2, init_noise=0.01,
        save_step_losses=True,
    )  # fmt: skip
    _, whole = run(build(), chosen, 1, sink=MemorySink(every=1))
    assert len(whole.checkpoints) == 6
    for cut in range(6):
        partial = MemorySink(every=1)
        partial.draws, partial.step_rows, partial.num_steps = list(whole.draws), list(whole.step_rows), whole.num_steps
        partial.checkpoints = whole.checkpoints[: cut + 1]
        sink, state = partial.resume()
        torch.manual_seed(12345)  # whatever the generators held before
        result, sink = run(build(), chosen, 1, sink=sink, start_state=state)
        assert result.status == "complete"
        same_bytes(sink.arrays, whole.arrays)


def test_a_checkpoint_is_read_without_running_code():
    _, sink = run(build_model(), settings(), sink=MemorySink(every=1))
    import io

    state = torch.load(io.BytesIO(sink.checkpoints[-1][2]), weights_only=True)
    assert state["step"] == 4
    assert set(state["weights"]) == {name for name, _ in build_model().named_parameters()}


def test_a_checkpoint_of_another_version_is_refused():
    _, sink = run(build_model(), settings(), sink=MemorySink(every=1))
    import io

    state = torch.load(io.BytesIO(sink.checkpoints[0][2]), weights_only=True)
    stream = io.BytesIO()
    torch.save({**state, "version": 99}, stream)
    with pytest.raises(ValueError, match="99"):
        run(build_model(), settings(), start_state=stream.getvalue())


@pytest.mark.parametrize(("burnin", "stop_after", "step"), [(3, 0, 1), (3, 2, 3), (0, 2, 3), (2, 4, 6)])
def test_a_request_to_stop_ends_the_chain_with_a_checkpoint_to_go_on_from(burnin, stop_after, step):
    chosen = settings(num_burnin_steps=burnin, num_steps_bw_draws=2, num_draws=3)
    asked = []

    def should_stop():
        asked.append(None)
        return len(asked) > stop_after

    _, whole = run(build_model(), chosen)
    result, sink = run(build_model(), chosen, should_stop=should_stop)
    assert (result.status, result.reason) == ("interrupted", "stopped on request")
    assert sink.end[0] == "interrupted"
    assert sink.num_steps == result.step == sink.checkpoints[-1][1]
    sink, state = sink.resume()
    result, sink = run(build_model(), chosen, sink=sink, start_state=state)
    assert result.status == "complete"
    same_bytes(sink.arrays, whole.arrays)


def test_a_request_to_stop_at_the_last_step_completes_the_chain():
    result, sink = run(build_model(), settings(num_draws=1), should_stop=lambda: True)
    assert result.status == "complete"
    assert sink.end == ("complete", None, 1)


def test_the_last_state_is_handed_over_on_request():
    chosen = settings(num_draws=3, num_steps_bw_draws=2)
    _, sink = run(build_model(), chosen, keep_state=True)
    (draws, step, _state) = sink.checkpoints[-1]
    assert (draws, step) == (3, 6)
    more = chosen.override(num_draws=5)
    _, whole = run(build_model(), more)
    other, state = sink.resume()
    _, grown = run(build_model(), more, sink=other, start_state=state)
    same_bytes(grown.arrays, whole.arrays)


class Breaking(nn.Module):
    """Gives what `spoil` makes of the logits from the n-th forward pass on."""

    def __init__(self, after, spoil):
        super().__init__()
        self.inner, self.after, self.spoil, self.calls = build_model(), after, spoil, 0

    def forward(self, input_ids):
        self.calls += 1
        logits = self.inner(input_ids)
        return self.spoil(logits) if self.calls > self.after else logits


# a step is 1 pass for the batch, 2 for observable train, 1 for observable code
@pytest.mark.parametrize(
    ("after", "step", "draws", "reason"),
    [(0, 0, 0, "logits"), (4, 1, 1, "logits"), (9, 2, 2, "'train'"), (11, 2, 2, "'code'")],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_chain_and_drops_the_draw_whole(after, step, draws, reason, value):
    result, sink = run(Breaking(after, lambda logits: logits * value), settings())
    assert (result.status, result.step, result.draws) == ("failed", step, draws)
    if after >= 9:
        reason = "logits"  # the logits are looked at first
    assert reason in result.reason
    assert sink.end[0] == "failed"
    assert len(sink.draws) == draws
    assert sink.num_steps == step
    if draws:
        _, whole = run(build_model(), settings())
        same_bytes(sink.arrays, {name: values[:draws] for name, values in whole.arrays.items()}, sink.arrays)


def test_a_loss_of_the_callers_that_is_not_finite_ends_the_chain():
    seen = []

    def loss_fn(model, ids):
        seen.append(None)
        per_token = model(ids)[:, 1:].mean(-1)
        return per_token / 0 if len(seen) == 6 else per_token

    result, sink = run(build_model(), settings(), loss_fn=loss_fn)
    assert (result.status, result.step, result.draws) == ("failed", 1, 1)
    assert "observable 'train'" in result.reason
    assert len(sink.draws) == 1


def test_weights_that_are_not_finite_end_the_chain_at_their_own_step():
    class RootOfZero(nn.Module):
        """Finite loss, infinite gradient."""

        def __init__(self):
            super().__init__()
            self.inner = build_model()
            self.extra = nn.Parameter(torch.zeros(()))

        def forward(self, input_ids):
            return self.inner(input_ids) + self.extra.abs().sqrt()

    model = RootOfZero()
    result, sink = run(model, settings())
    assert (result.status, result.step, result.draws) == ("failed", 0, 0)
    assert "weights" in result.reason
    assert sink.num_steps == 0
    assert model.extra.item() == 0.0


@pytest.mark.parametrize("after", [0, 3, 6])
def test_an_exception_keeps_its_type_names_the_chain_and_leaves_complete_draws(after):
    def explode(logits):
        raise RuntimeError("out of cheese")

    model = Breaking(after, explode)
    before = snapshot(model)
    sink = MemorySink()
    with pytest.raises(RuntimeError, match="out of cheese") as caught:
        run(model, settings(), 1, sink=sink)
    assert "chain 1 at step" in "".join(caught.value.__notes__)
    assert sink.end[0] == "interrupted"
    assert "out of cheese" in sink.end[1]
    assert len(sink.draws) == after // 4
    assert_same_snapshot(before, snapshot(model))


def test_an_exception_of_the_sink_is_not_hidden_by_its_end():
    class Full(MemorySink):
        def draw(self, draw, arrays):
            raise OSError("no space left on device")

        def finish(self, status, reason, step):
            raise OSError("still no space")

    with pytest.raises(OSError, match="no space left"):
        run(build_model(), settings(), sink=Full())


def test_steps_are_told_one_by_one():
    told = []
    run(build_model(), settings(num_burnin_steps=1), on_step=told.append)
    assert told == [1, 2, 3, 4, 5]


def test_long_stretches_without_a_draw_are_handed_over_in_pieces():
    _, sink = run(build_model(), settings(num_burnin_steps=120, num_draws=1, save_metrics=False, num_chains=1))
    assert [len(rows["step_loss"]) for rows in sink.step_rows] == [50, 50, 21]
