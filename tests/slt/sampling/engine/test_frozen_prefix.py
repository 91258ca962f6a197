"""What is left out changes no bit, and where that cannot be known nothing is left out."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from engine import CPU, run, same_bytes, settings
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from memory_sink import MemorySink
from odd_models import PARTS, WAYS, WIDTH, build
from prefix_runs import LOOK, OBSERVABLES, ROWS, SHORT, chains, compared, last, same_runs
from torch import nn
from torch.utils.checkpoint import checkpoint

from devinterp.slt.sampling.engine.frozen_prefix import FrozenPrefix, call_trace, evaluator, plain_passes

pytestmark = pytest.mark.usefixtures("short_looks")


@st.composite
def restricted_models(draw: st.DrawFn) -> tuple[nn.Module, dict[str, None], str]:
    odd = st.sampled_from(["Plain"] * 6 + [name for name in PARTS if name != "Counts"])
    parts = tuple(draw(st.lists(odd, min_size=2, max_size=4)))
    model = build(parts, draw(st.sampled_from(WAYS)), tied=draw(st.booleans()))
    names = [name for name, _ in model.named_parameters()]
    late = names[len(names) // 2 :]
    chosen = draw(
        st.lists(st.sampled_from(late if draw(st.booleans()) else names), min_size=1, max_size=3, unique=True)
    )
    return model, dict.fromkeys(chosen), draw(st.sampled_from(["train", "eval"]))


@hypothesis_settings(max_examples=60)
@given(restricted_models(), st.integers(1, 2), st.sampled_from([0, 700, 2**20]))
def test_no_bit_changes(case: tuple[nn.Module, dict[str, None], str], accumulated: int, budget: int) -> None:
    model, masks, mode = case
    changes = {"mode": mode, "gradient_accumulation_steps": accumulated}
    try:
        results = compared(model, masks, changes=changes, budget=budget)
    except RuntimeError:  # the loss does not depend on what is sampled, or autograd refuses the writing
        for enabled in (True, False):
            with pytest.raises(RuntimeError, match=r"grad|in-place"):
                chains(model, masks, FrozenPrefix(enabled=enabled), changes=changes)
        return
    for result in results:
        assert result.reuse.passes == 3 * 3 + 3 * accumulated
        assert result.reuse.reused == 0 or 0 < result.reuse.share < 1


@pytest.mark.parametrize("way", ["plain", "late", "position", "in place"])
def test_what_comes_before_is_computed_once(way: str) -> None:
    model = build(("Plain", "Branches", "Pair", "Plain"), way)
    calls = []
    model.parts[0].register_parameter("unused", None)
    forward = model.parts[0].forward
    model.parts[0].forward = lambda x: calls.append(torch.is_grad_enabled()) or forward(x)
    prefix = FrozenPrefix(minibatches=True)
    results = [result for result, _ in chains(model, last(model), prefix)]
    assert [result.reuse.reused for result in results] == [6, 12]  # 9 of observables, 3 of steps in each
    assert results[0].reuse.share > 0.5
    assert model.parts[0].__dict__["forward"] is not None
    # looks at a few rows, two of them with Python's code looked at too and one to check with, three batches each
    assert (calls.count(False), calls.count(True)) == (3 + 3, 3 + 3)


class Placed(nn.Module):
    """Takes rows of any length, of one alone, or keeps a table for the last length that it was given."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.table = kind, torch.zeros(ROWS.shape[1], 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        LENGTHS.append(x.shape[1])
        assert self.kind != "one length" or x.shape[1] == ROWS.shape[1]
        if self.kind == "table" and len(self.table) != x.shape[1]:
            self.table = torch.zeros(x.shape[1], 1)
        return x + self.table[: x.shape[1]]


LENGTHS: list[int] = []


@pytest.mark.parametrize("kind", ["any length", "one length", "table"])
def test_a_look_takes_a_few_tokens_where_those_show_the_same(kind: str) -> None:
    model = build(("Plain",) * 4)
    model.parts[0] = nn.Sequential(model.parts[0], Placed(kind))
    LENGTHS.clear()
    results = compared(model, last(model))
    assert [result.reuse.reused for result in results] == [6, 12]
    # Two looks, with gradients and without, one of each watched; where a few tokens go wrong, whole rows are looked at.
    assert LENGTHS.count(LOOK) == (4 if kind == "any length" else 2)


def test_a_loss_of_the_callers_is_given_whole_rows() -> None:
    model = build(("Plain",) * 4)
    lengths: list[int] = []
    forward = model.parts[0].forward
    model.parts[0].forward = lambda x: lengths.append(x.shape[1]) or forward(x)
    chains(model, last(model), FrozenPrefix(minibatches=True))
    assert set(lengths) == {ROWS.shape[1]}


def test_outputs_that_nobody_reads_are_not_kept() -> None:
    model = build(("Plain",) * 4)
    prefix = FrozenPrefix()
    chains(model, last(model), prefix)
    rows = SHORT["batch_size"] * ROWS.shape[1]
    sizes = [kept.size for kept in prefix._kept.values()]
    # of part 3, whose last weight moves, what goes into it and its input; nothing of the parts before
    assert sizes == [4 * rows * (WIDTH + 2 * WIDTH)] * 3 or sizes == [4 * rows * WIDTH] * 3


@pytest.mark.parametrize(
    ("parts", "way", "reason"),
    [
        (("Counts",), "plain", "its modules keep something of every pass"),
        (("Remembers",), "gate", "its modules keep something of every pass"),
        (("Buffered",), "plain", "it changes its weights or buffers"),
        (("Drops",), "plain", "it draws random numbers"),
        (("Plain",), "branch", "what it does depends on the numbers"),
    ],
)
def test_what_cannot_be_known_is_not_left_out(parts: tuple[str, ...], way: str, reason: str) -> None:
    model = build((*parts, "Plain", "Plain", "Plain"), way)
    (result, _), *_ = chains(model, last(model), FrozenPrefix(minibatches=True))
    assert (result.reuse.reused, result.reuse.reason) == (0, reason)


def test_all_weights_leave_nothing_out() -> None:
    model = build(("Plain",) * 3)
    (result, _), *_ = chains(model, None, FrozenPrefix())
    assert (result.reuse.reused, result.reuse.reason) == (0, "every weight is sampled")


def test_frozen_parameters_make_a_prefix_of_their_own() -> None:
    model = build(("Plain",) * 4)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("parts.3", "unembed")))
    assert compared(model, None)[1].reuse.reused == 12
    noisy = compared(model, None, changes={"init_noise": 1e-2})  # which moves all of them
    assert noisy[1].reuse.reused == 0


def test_masks_of_one_set_of_parameters_share_what_is_kept() -> None:
    model, prefix = build(("Plain",) * 4), FrozenPrefix(minibatches=True)
    for half in (slice(0, 3), slice(3, 6)):
        mask = torch.zeros(WIDTH, 2 * WIDTH, dtype=torch.bool)
        mask[half] = True
        results = [result for result, _ in chains(model, {"parts.3.down.weight": mask}, prefix)]
    assert [result.reuse.reused for result in results] == [12, 12]


def test_sets_of_parameters_that_begin_at_the_same_call_share_what_is_kept() -> None:
    """Nothing is left to compute of the second one's prefix, and all of it is remembered."""
    model, prefix = build(("Plain",) * 4), FrozenPrefix(minibatches=True)
    up, down = {"parts.3.up.weight": None}, {"parts.3.down.weight": None}
    plain = [sink for _, sink in chains(copy.deepcopy(model), {**up, **down}, FrozenPrefix(enabled=False))]
    chains(model, up, prefix)
    results = chains(model, {**up, **down}, prefix)
    assert [result.reuse.reused for result, _ in results] == [6, 12]
    for (_, mine), theirs in zip(results, plain, strict=True):
        for one, other in zip(mine.draws, theirs.draws, strict=True):
            same_bytes(one, other)


def test_a_deeper_prefix_goes_on_from_the_one_before() -> None:
    model, prefix = build(("Plain",) * 4), FrozenPrefix(minibatches=True)
    chains(model, {"parts.2.up.weight": None}, prefix)
    forward, calls = model.parts[0].forward, []
    model.parts[0].forward = lambda x: calls.append(1) or forward(x)
    results = [result for result, _ in chains(model, last(model), prefix)]
    assert [result.reuse.reused for result in results] == [6, 12]
    # two looks at a few rows for each kind of batch, and the first of each is computed in full, to compare with
    assert len(calls) == 2 * (2 + 1)


def test_a_prefix_that_another_one_holds_whole_is_given_out_of_it() -> None:
    """As where an attention head and the feed-forward part of its layer leave out the same layers below."""
    model, prefix = build(("Plain",) * 4), FrozenPrefix(minibatches=True)
    chains(model, last(model), prefix)
    shallower = {"parts.2.up.weight": None}
    again = chains(model, shallower, prefix)
    plain = chains(model, shallower, FrozenPrefix(enabled=False, minibatches=True))
    assert [result.reuse.reused for result, _ in again] == [6, 12]
    for (_, one), (_, other) in zip(again, plain, strict=True):
        same_runs(one, other)


def test_hooks_are_called_at_every_pass() -> None:
    model, seen = build(("Plain",) * 4), []
    handle = model.parts[0].register_forward_hook(lambda module, args, output: seen.append(1))
    results = [result for result, _ in chains(model, last(model), FrozenPrefix(minibatches=True))]
    handle.remove()
    assert len(seen) == sum(result.reuse.passes for result in results)
    assert {result.reuse.reason for result in results} == {"modules have hooks"}


def compiled_loss() -> Any:
    @torch.compile(backend="eager")
    def loss(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(model(ids)[:, :-1].mT, ids[:, 1:], reduction="none")

    return loss


# The compiler of torch 2.4 leaves a half-made reference behind, where it gives up on what watches a loss.
@pytest.mark.filterwarnings(
    r"ignore:Exception ignored in. <function StorageWeakRef\.__del__:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("how", ["module", "in place", "part", "loss"])
def test_compiled_models_go_plain(how: str) -> None:
    torch._dynamo.reset()
    model: Any = build(("Plain",) * 4)
    names = last(model)
    loss = None
    if how == "module":
        model = torch.compile(model, backend="eager")
        names = {f"_orig_mod.{name}": None for name in names}
    elif how == "in place":
        model.compile(backend="eager")
    elif how == "part":
        model.parts[1].compile(backend="eager")
    else:
        loss = compiled_loss()
    (result, _), *_ = chains(model, names, FrozenPrefix(minibatches=True), loss_fn=loss)
    assert (result.status, result.reuse.reused, result.reuse.reason) == ("complete", 0, "it is compiled")


@pytest.mark.parametrize("at", [0, 2])
def test_a_chain_that_goes_on_has_the_bytes_of_one_that_did_not_stop(at: int) -> None:
    model = build(("Plain",) * 4)
    chosen = settings(**SHORT)
    whole = run(model, chosen, masks=last(model), rows=ROWS, observables=OBSERVABLES, sink=MemorySink(every=1))[1]
    draws, step, state = whole.checkpoints[at]
    rest = MemorySink()
    rest.draws, rest.num_steps = list(whole.draws[:draws]), step
    result, rest = run(
        model, chosen, masks=last(model), rows=ROWS, observables=OBSERVABLES, sink=rest, start_state=state
    )
    assert result.reuse.reused == 3 * max(0, 2 - draws)
    for one, other in zip(whole.draws, rest.draws, strict=True):
        same_bytes(one, other)


def test_the_memory_stays_within_the_budget() -> None:
    model = build(("Plain",) * 4)
    free = FrozenPrefix(minibatches=True)
    chains(model, last(model), free)
    (size,) = {kept.size for kept in free._kept.values()}
    tight = FrozenPrefix(minibatches=True, budget=4 * size)
    chains(model, last(model), tight)
    assert sum(kept.size for kept in tight._kept.values()) == 4 * size
    assert sum(not isinstance(batch, bytes) for batch in tight._kept) == 3  # the rows of every draw come first


def test_the_compiler_is_not_imported() -> None:
    code = """
import sys, torch
from devinterp.slt.sampling.engine.frozen_prefix.call_trace import trace_calls
model = torch.nn.Sequential(torch.nn.Embedding(5, 3), torch.nn.Linear(3, 3), torch.nn.Linear(3, 5))
model.requires_grad_(False)
trace = trace_calls(model, [model[2].weight], torch.tensor([[1, 2]]), model)
assert len(trace.calls) == 2, trace
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_travels_empty_and_can_be_switched_off() -> None:
    prefix = FrozenPrefix(minibatches=True, budget=5)
    chains(build(("Plain",) * 4), last(build(("Plain",) * 4)), prefix)
    other = pickle.loads(pickle.dumps(prefix))
    assert (other.enabled, other.minibatches, other.budget, other._cuts, other._kept) == (True, True, 5, {}, {})
    with plain_passes():
        off = FrozenPrefix()
    assert not off.enabled
    assert not pickle.loads(pickle.dumps(off)).enabled
    assert FrozenPrefix().enabled


def test_activations_of_another_dtype_come_back_as_they_were() -> None:
    def loss(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            logits = model(ids)
        return nn.functional.cross_entropy(logits[:, :-1].float().mT, ids[:, 1:], reduction="none")

    results = compared(build(("Plain",) * 4), last(build(("Plain",) * 4)), loss_fn=loss)
    assert results[1].reuse.reused == 12


def test_a_loss_that_reads_the_weights_first_leaves_nothing_out() -> None:
    model = build(("Plain",) * 4)

    def loss(model: Any, ids: torch.Tensor) -> torch.Tensor:
        penalty = model.parts[3].down.weight.square().sum()
        return nn.functional.cross_entropy(model(ids)[:, :-1].mT, ids[:, 1:], reduction="none") + penalty

    results = compared(model, last(model), loss_fn=loss)
    assert results[0].reuse.reason == "too little comes before the first sampled weight"


def test_the_device_is_where_activations_are_given_out() -> None:
    prefix = FrozenPrefix()
    chains(build(("Plain",) * 4), last(build(("Plain",) * 4)), prefix)
    assert {kept.place for kept in prefix._kept.values()} == {CPU}


def likelihood(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits[:, :-1].mT, ids[:, 1:], reduction="none")


class Noisy(nn.Module):
    """Draws from a generator of its own."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.torch = torch.Generator().manual_seed(0) if source == "torch" else None
        self.numpy = np.random.default_rng(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.torch is not None:
            return x + 0.01 * torch.randn(x.shape, generator=self.torch)
        return x + 0.01 * float(self.numpy.normal())


class Checkpointed(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.part, x, use_reentrant=False)


LOSSES = {
    "functional": lambda m, ids: likelihood(torch.func.functional_call(m, dict(m.named_parameters()), (ids,)), ids),
    "vmap": lambda m, ids: likelihood(torch.func.vmap(lambda row: m(row[None])[0])(ids), ids),
    "twice": lambda m, ids: likelihood(m(ids) + m(ids.flip(0)).flip(0), ids),
}


@pytest.mark.parametrize(("loss", "reused"), [("functional", 12), ("vmap", 0), ("twice", 12)])
def test_losses_that_call_the_model_in_their_own_way(loss: str, reused: int) -> None:
    results = compared(build(("Plain",) * 4), last(build(("Plain",) * 4)), loss_fn=LOSSES[loss])
    assert results[1].reuse.reused == reused


@pytest.mark.parametrize("part", ["encoder", "checkpointed", "normed", "shared"])
def test_parts_of_torch_are_left_out_like_any_other(part: str) -> None:
    model = build(("Plain",) * 4)
    if part == "encoder":
        model.parts[1] = nn.TransformerEncoderLayer(WIDTH, 2, 8, 0.0, batch_first=True)
    elif part == "checkpointed":
        model.parts[1] = Checkpointed(model.parts[1])
    elif part == "normed":
        model.parts[1].up = nn.utils.parametrizations.weight_norm(model.parts[1].up)
    else:
        model.parts[1] = model.parts[0]
    assert compared(model, last(model))[1].reuse.reused == 12


@pytest.mark.parametrize(
    ("source", "reason"), [("torch", "it draws random numbers"), ("numpy", "two passes over the same rows differ")]
)
def test_generators_of_the_models_own_are_seen(source: str, reason: str) -> None:
    model = build(("Plain",) * 4)
    model.parts[1] = Noisy(source)
    (result, _), *_ = chains(model, last(model), FrozenPrefix(minibatches=True))
    assert (result.reuse.reused, result.reuse.reason) == (0, reason)


def test_operations_that_torch_cannot_count_are_left_out_all_the_same(monkeypatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> int:
        raise AssertionError("query/key/value shapes are incompatible")  # of grouped queries in bfloat16, on CUDA

    for operation in (torch.ops.aten.addmm, torch.ops.aten.mm, torch.ops.aten.bmm):
        monkeypatch.setitem(call_trace.flop_registry, operation, refuse)
    results = compared(build(("Plain",) * 4), last(build(("Plain",) * 4)))
    assert results[0].reuse.reused > 0


@pytest.mark.parametrize("error", [AssertionError, KeyError, NotImplementedError])
def test_whatever_watching_stumbles_on_costs_the_prefix_and_not_the_run(monkeypatch, error) -> None:
    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr(evaluator, "trace_calls", fail)
    results = compared(build(("Plain",) * 4), last(build(("Plain",) * 4)))
    assert results[0].reuse.reason == f"it cannot be watched ({error.__name__})"


def test_rows_that_are_all_alike_prove_nothing() -> None:
    model = build(("Plain",) * 4)
    rows = np.ones((12, 6), dtype=np.int64)
    observables = {"a": (rows, 2)}
    changed = settings(**{**SHORT, "batch_size": 1})
    result, _ = run(model, changed, masks=last(model), rows=rows, observables=observables, prefix=FrozenPrefix())
    assert (result.reuse.reused, result.reuse.reason) == (0, "there are no other rows to check it with")
