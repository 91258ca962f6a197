"""The model and the generators come back as they were."""

from __future__ import annotations

import io
import random
import warnings
from collections import OrderedDict, defaultdict, deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from engine import CPU, assert_same_snapshot, run, same_bytes, settings, snapshot
from memory_sink import MemorySink
from tiny_lm import build_model, head_masks
from torch import nn
from torch.nn.utils import prune

from devinterp.slt.sampling.engine.restore_model import Generators, isolated_generators, restoring, seed_generators


class Everything(nn.Module):
    """Buffers that change, one that is expanded, one shared by two modules, tied weights, mixed modes, a gradient."""

    def __init__(self):
        super().__init__()
        self.inner = build_model()
        self.norm = nn.BatchNorm1d(17)
        self.register_buffer("position_ids", torch.arange(17).expand(1, -1))
        self.register_buffer("wide", torch.zeros(1).expand(5))
        self.twin = nn.Module()
        self.twin.register_buffer("shared", self.norm.running_mean)
        self.tied = nn.Linear(32, 64, bias=False)
        self.tied.weight = self.inner.unembed.weight
        self.inner.blocks[1].eval()
        self.inner.embed.weight.grad = torch.ones(64, 32)
        self.inner.blocks[0].up.bias.requires_grad_(False)

    def forward(self, input_ids):
        return self.norm(self.inner(input_ids))


def states():
    return Generators(CPU).as_dict()


def draws():
    return (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random())  # noqa: NPY002


@pytest.mark.parametrize("masked", [False, True])
def test_a_chain_gives_everything_back(masked):
    model = Everything()
    before = snapshot(model)
    generators = Generators(CPU)
    masks = {f"inner.{name}": mask for name, mask in head_masks(model.inner, 0, 0).items()} if masked else None
    result, sink = run(model, settings(), masks=masks)
    assert result.status == "complete"
    assert generators == Generators(CPU)
    assert_same_snapshot(before, snapshot(model))
    assert model.twin.shared is model.norm.running_mean
    assert model.tied.weight is model.inner.unembed.weight
    assert sink.draws


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_every_exit_gives_everything_back(error):
    model = Everything()
    before, generators = snapshot(model), Generators(CPU)

    def interrupt(step):
        if step == 2:
            raise error

    with pytest.raises(error):
        run(model, settings(init_noise=0.1), on_step=interrupt)
    assert generators == Generators(CPU)
    assert_same_snapshot(before, snapshot(model))


def test_an_exception_before_the_first_step_gives_everything_back():
    model = Everything()
    before = snapshot(model)
    with pytest.raises(Exception):  # noqa: B017, PT011 (whatever torch raises on a damaged checkpoint)
        run(model, settings(), start_state=b"damaged")
    assert_same_snapshot(before, snapshot(model))


def test_only_the_sampled_parameters_want_gradients_inside():
    model = build_model()
    with restoring(model, CPU, mode="eval", sampled=frozenset({"embed.weight"})):
        assert [name for name, p in model.named_parameters() if p.requires_grad] == ["embed.weight"]
        assert not model.training
    assert all(p.requires_grad for p in model.parameters())
    assert model.training


def test_loans_nest():
    model = Everything()
    before = snapshot(model)
    with restoring(model, CPU, mode="train"):
        outer = snapshot(model)
        with restoring(model, CPU, mode="eval", sampled=frozenset()):
            for p in model.parameters():
                p.data = torch.zeros_like(p)
        assert_same_snapshot(outer, snapshot(model))
    assert_same_snapshot(before, snapshot(model))


def test_seeding_is_that_of_the_reference():
    seed_generators(7, CPU)
    ours = draws()
    np.random.seed(7)  # noqa: NPY002
    torch.manual_seed(7)
    random.seed(7)
    assert ours == draws()


def test_isolation_holds_through_an_exception():
    seed_generators(3, CPU)
    expected = draws()
    seed_generators(3, CPU)
    with pytest.raises(ZeroDivisionError), isolated_generators(CPU):
        draws()[0][0] / 0
    assert draws() == expected


def test_states_survive_a_checkpoint_without_code():
    seed_generators(5, CPU)
    torch.randn(3)  # leaves a cached second normal in the CPU generator
    np.random.randn(1)  # noqa: NPY002 (and in numpy's)
    random.gauss(0, 1)
    stream = io.BytesIO()
    torch.save(states(), stream)
    expected = (draws(), np.random.randn(1).tolist(), random.gauss(0, 1))  # noqa: NPY002
    stream.seek(0)
    Generators.from_dict(torch.load(stream, weights_only=True), CPU).restore()
    assert (draws(), np.random.randn(1).tolist(), random.gauss(0, 1)) == expected  # noqa: NPY002


def test_states_compare_by_what_they_would_draw():
    seed_generators(5, CPU)
    first = Generators(CPU)
    assert first == Generators(CPU)
    random.random()
    assert first != Generators(CPU)
    assert first != 3


class Lazy(nn.Module):
    """Registers a buffer, a parameter and a module in its first forward, keeps a cache, writes to a plain tensor."""

    def __init__(self):
        super().__init__()
        self.inner = build_model()
        self.plain = torch.zeros(3)
        self.cache = {}

    def forward(self, input_ids):
        if not hasattr(self, "scale"):
            self.register_buffer("scale", torch.ones(1), persistent=False)
            self.register_parameter("late", nn.Parameter(torch.zeros(1)))
            self.late_module = nn.Linear(1, 1)
            self.seen = [self.inner.embed.weight * 2]
        self.cache["last"] = self.inner.embed.weight + 1
        self.plain += 1
        return self.inner(input_ids) * self.scale


def test_what_a_forward_pass_registers_goes_again():
    model = Lazy()
    names = [*model.state_dict()], [n for n, _ in model.named_modules()], set(vars(model))
    run(model, settings(num_draws=2))
    assert ([*model.state_dict()], [n for n, _ in model.named_modules()], set(vars(model))) == names
    assert not model._non_persistent_buffers_set
    assert model.cache == {}
    assert model.plain.tolist() == [0, 0, 0]


class WhenNeeded(nn.Module):
    """Has None, or a number, where its first forward puts a cache, a parameter and a module."""

    def __init__(self):
        super().__init__()
        self.inner = build_model()
        self.table, self.pair, self.late, self.later, self.old = None, (), None, None, 3.0

    def forward(self, input_ids):
        if self.table is None:
            self.table, self.pair = torch.zeros(1), (torch.ones(1), torch.ones(1))
            self.late, self.later = nn.Parameter(torch.zeros(1)), nn.Linear(1, 1)
            del self.old
        return self.inner(input_ids) * self.pair[0] + self.table


def test_what_was_empty_until_a_forward_pass_is_empty_again():
    model = WhenNeeded()
    for _ in range(2):
        assert run(model, settings(num_draws=2))[0].status == "complete"
        assert (model.table, model.pair, model.late, model.later, model.old) == (None, (), None, None, 3.0)
        assert not model._parameters


class Keeps(nn.Module):
    """Puts a tensor into a container at every pass, and counts in another."""

    def __init__(self, empty):
        super().__init__()
        self.inner, self.kept, self.calls = build_model(), empty, []

    def forward(self, input_ids):
        logits = self.inner(input_ids)
        if isinstance(self.kept, dict):
            self.kept[len(self.kept)] = logits
        else:
            (self.kept.add if isinstance(self.kept, set) else self.kept.append)(logits)
        self.calls.append(1)
        return logits


@pytest.mark.parametrize("make", [dict, list, set, deque, OrderedDict, lambda: defaultdict(list)])
def test_containers_give_up_the_tensors_of_a_run_and_keep_what_is_counted(make):
    model = Keeps(make())
    kept = model.kept
    run(model, settings(num_draws=1))
    assert model.kept is kept
    assert len(kept) == 0
    assert model.calls


def old_weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


@pytest.mark.parametrize("wrap", [old_weight_norm, lambda layer: prune.random_unstructured(layer, "weight", 0.5)])
def test_weights_that_a_hook_computes_come_back(wrap):
    model = build_model()
    wrap(model.blocks[0].up)
    before, kept = model.blocks[0].up.weight, model.blocks[0].up.weight.detach().clone()
    run(model, settings(num_draws=2))
    assert model.blocks[0].up.weight is before
    assert torch.equal(before, kept)


def test_hooks_of_parameters_are_set_aside_and_come_back():
    model, plain = build_model(), build_model()
    fired = []
    embed = model.embed.weight
    handles = [
        embed.register_hook(lambda gradient: fired.append(1) or gradient * 0),
        embed.register_post_accumulate_grad_hook(lambda p: fired.append(2) or setattr(p, "grad", None)),
    ]
    _, sink = run(model, settings(num_draws=2))
    _, other = run(plain, settings(num_draws=2))
    assert fired == []
    for one, expected in zip(sink.draws, other.draws, strict=True):
        same_bytes(one, expected)
    model(torch.zeros(1, 3, dtype=torch.long)).sum().backward()
    assert fired == [1, 2]
    for handle in handles:
        handle.remove()
    model(torch.zeros(1, 3, dtype=torch.long)).sum().backward()
    assert fired == [1, 2]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_gradient_mode_plays_no_part(mode):
    model = build_model()
    with mode():
        result, sink = run(model, settings(num_draws=2))
    _, other = run(build_model(), settings(num_draws=2))
    assert result.status == "complete"
    same_bytes(sink.draws[1], other.draws[1])


@pytest.mark.parametrize("models", [1, 4])
def test_calls_in_four_threads_give_what_each_gives_alone(models):
    shared = [build_model(seed) for seed in range(models)]
    before = [snapshot(model) for model in shared]
    alone = [run(build_model(c % models), settings(num_draws=3), c)[1] for c in range(4)]
    generators = Generators(CPU)
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda c: run(shared[c % models], settings(num_draws=3), c)[1], range(4)))
    for one, other in zip(alone, together, strict=True):
        for drawn, expected in zip(one.draws, other.draws, strict=True):
            same_bytes(drawn, expected)
    assert generators == Generators(CPU)
    for kept, model in zip(before, shared, strict=True):
        assert_same_snapshot(kept, snapshot(model))


class Counts(nn.Module):
    """Counts its passes in one buffer in place, and in another by setting it anew."""

    def __init__(self):
        super().__init__()
        self.up, self.norm = nn.Linear(32, 32), nn.BatchNorm1d(32)
        self.register_buffer("written", torch.zeros(1))
        self.register_buffer("replaced", torch.zeros(1))

    def forward(self, x):
        self.written += 1
        self.replaced = self.replaced + 1
        return self.norm(self.up(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_models_with_traced_parts_are_sampled():
    model = build_model()
    model.norm = torch.jit.trace(model.norm, torch.zeros(1, 17, 32))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert run(model, settings(num_draws=2))[0].status == "complete"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("training", [True, False])
def test_scripted_parts_come_back(training):
    scripted = torch.jit.script(Counts()).train(training)
    model = nn.Sequential(
        nn.Embedding(64, 32), nn.Flatten(0, 1), scripted, nn.Unflatten(0, (-1, 17)), nn.Linear(32, 64)
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result, sink = run(model, settings(num_draws=2))
    assert result.status == "complete"
    assert sink.draws
    assert scripted.training == scripted.norm.training == training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


class Extends(nn.Module):
    """Makes its tables of positions longer where rows are: one anew, one in place."""

    def __init__(self):
        super().__init__()
        self.inner = build_model()
        self.register_buffer("table", torch.zeros(0, 1), persistent=False)
        self.register_buffer("other", torch.zeros(0, 1), persistent=False)

    def forward(self, input_ids):
        length = input_ids.shape[1]
        if len(self.table) < length:
            self.register_buffer("table", torch.linspace(0, 0.1, length)[:, None], persistent=False)
            self.other.data = torch.linspace(0, 0.1, length)[:, None]
        return self.inner(input_ids) * (1 + self.table[:length] + self.other[:length])


def test_buffers_that_grow_are_short_again_and_a_chain_goes_on_with_them():
    model, chosen = Extends(), settings(num_draws=3, save_paired_losses=True)
    whole = run(model, chosen, sink=MemorySink(every=1))[1]
    assert (len(model.table), len(model.other)) == (0, 0)
    draws, step, state = whole.checkpoints[0]
    rest = MemorySink()
    rest.draws, rest.num_steps = list(whole.draws[:draws]), step
    run(model, chosen, sink=rest, start_state=state)
    for one, other in zip(whole.draws, rest.draws, strict=True):
        same_bytes(one, other)


def test_an_embedding_that_scales_its_own_weight_comes_back():
    model = build_model()
    model.embed = nn.Embedding(*model.embed.weight.shape, max_norm=0.5)
    before = model.embed.weight.detach().clone()
    run(model, settings(num_draws=2), masks={"unembed.weight": None})
    assert torch.equal(model.embed.weight, before)
