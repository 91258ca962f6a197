"""A store comes back, and goes on, only for a call that computes what it was sampled from."""

from __future__ import annotations

import functools
import json
import sys
import warnings
from collections import deque
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from quick_runs import CODE, MATH, TRAIN, assert_same_store, quick
from tiny_lm import build_model, head_masks
from torch import nn

from devinterp.errors import (
    DevinterpWarning,
    StoreConflictError,
)
from devinterp.slt.sampling import sample

IDS = np.random.default_rng(0).integers(0, 8, (8, 5))


SETTINGS = {
    "lr": 1e-3, "n_beta": 10.0, "num_chains": 1, "num_draws": 2, "batch_size": 2, "num_init_loss_batches": 1,
    "batches_per_draw": 1, "progress": False, "device": "cpu",
}  # fmt: skip


class Model(nn.Module):
    def __init__(self, p=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.drop, self.out = nn.Embedding(8, 4), nn.Dropout(p), nn.Linear(4, 8)
        self.temperature, self.n_head = 1.0, 2

    def forward(self, ids):
        x = self.embed(ids)
        x = x.unflatten(-1, (self.n_head, -1)).softmax(-1).flatten(-2)
        return self.out(self.drop(x)) / self.temperature


def cross_entropy(model, ids):
    return nn.functional.cross_entropy(model(ids)[:, :-1].mT, ids[:, 1:], reduction="none")


def run(path, model=None, loss_fn=None, **changes):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The model draws random numbers", DevinterpWarning)
        return sample(model or Model(), IDS, {"a": IDS}, loss_fn=loss_fn, output_path=path, **{**SETTINGS, **changes})


def scaled(model, ids, factor=1.0, *, shift=0.0):
    return factor * cross_entropy(model, ids) + shift


def closure(factor):
    return lambda model, ids: factor * cross_entropy(model, ids)


def default(factor):
    def loss(model, ids, factor=factor):
        return factor * cross_entropy(model, ids)

    return loss


def attribute(factor):
    def loss(model, ids):
        return loss.factor * cross_entropy(model, ids)

    loss.factor = factor
    return loss


class Called:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, model, ids):
        return self.factor * cross_entropy(model, ids)

    def method(self, model, ids):
        return self(model, ids)


class Slots:
    __slots__ = ("factor",)

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, model, ids):
        return self.factor * cross_entropy(model, ids)


FACTOR = 1.0


def named_global(factor):
    globals()["FACTOR"] = factor
    return uses_global


def inner(model, ids):
    return FACTOR * cross_entropy(model, ids)


def uses_global(model, ids):
    return inner(model, ids)


class Weighted(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor))

    def forward(self, model, ids):
        return self.factor * cross_entropy(model, ids)


LOSSES = {
    "partial keyword": lambda f: functools.partial(scaled, factor=f),
    "partial keyword only": lambda f: functools.partial(scaled, shift=f),
    "partial of partial": lambda f: functools.partial(functools.partial(scaled, shift=0.5), factor=f),
    "closure": closure,
    "default": default,
    "attribute of a function": attribute,
    "callable object": Called,
    "bound method": lambda f: Called(f).method,
    "slots": Slots,
    "global of a function that it calls": named_global,
    "module": Weighted,
    "config in a closure": lambda f: closure(SimpleNamespace(a=f).a),
    "small list": lambda f: (lambda held: lambda m, x: held[0] * cross_entropy(m, x))([f]),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_another_loss_of_the_same_source_is_refused(kind, tmp_path):
    first = run(tmp_path / "a.zarr", loss_fn=LOSSES[kind](1.0))["sampling_loss"].values
    again = run(tmp_path / "a.zarr", loss_fn=LOSSES[kind](1.0))["sampling_loss"].values
    np.testing.assert_array_equal(first, again)
    with pytest.raises(StoreConflictError, match=r"computes\.first_loss\.mean") as caught:
        run(tmp_path / "a.zarr", loss_fn=LOSSES[kind](3.0))
    assert "computes.loss_fn" in str(caught.value)


@pytest.mark.parametrize(
    "convert", [lambda x: x, np.asarray, torch.Tensor.tolist, lambda x: nn.ParameterList([nn.Parameter(x)])]
)
def test_data_behind_a_loss_is_told_apart_where_the_first_rows_are_alike(convert, tmp_path):
    """The rows of the first batch do not reach the label that differs."""
    labels = torch.arange(64.0)
    changed = labels.clone()
    changed[50] = 7.0

    def loss_of(values):
        held = convert(values)
        return lambda model, ids: cross_entropy(model, ids) + 0 * len(held)

    run(tmp_path / "a.zarr", loss_fn=loss_of(labels))
    run(tmp_path / "a.zarr", loss_fn=loss_of(labels.clone()))
    with pytest.raises(StoreConflictError, match=r"computes\.loss_fn\.closure\.held"):
        run(tmp_path / "a.zarr", loss_fn=loss_of(changed))


class Named:
    table = None


def named_attribute(values):
    Named.table = values
    return lambda model, ids: cross_entropy(model, ids) + 0 * len(Named.table)


beside = ModuleType("beside")


def of_a_module(values):
    beside.table = values
    return lambda model, ids: cross_entropy(model, ids) + 0 * len(beside.table)


class Tabled(nn.Module):
    def __init__(self, values):
        super().__init__()
        self.table = values

    def forward(self, model, ids):
        return cross_entropy(model, ids) + 0 * len(self.table)


def of_a_closure(values):
    return lambda model, ids: cross_entropy(model, ids) + 0 * len(values)


TABLES = {
    "a short list": (of_a_closure, torch.Tensor.tolist),
    "a dict of numbers": (of_a_closure, lambda v: dict(enumerate(v.tolist()))),
    "a deque": (of_a_closure, lambda v: deque(v.tolist())),
    "an attribute of a class": (named_attribute, lambda v: v),
    "an attribute of a module": (of_a_module, lambda v: v),
    "a plain attribute of a loss module": (Tabled, lambda v: v),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_behind_a_loss_is_told_apart_where_the_first_rows_are_alike(kind, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "beside", beside)
    make, convert = TABLES[kind]
    values = torch.arange(8.0)
    run(tmp_path / "a.zarr", loss_fn=make(convert(values)))
    run(tmp_path / "a.zarr", loss_fn=make(convert(values.clone())))
    with pytest.raises(StoreConflictError, match=r"computes\.loss_fn\.") as caught:
        run(tmp_path / "a.zarr", loss_fn=make(convert(values.flip(0))))
    assert "first_loss" not in str(caught.value)


def with_table(model, kind, values):
    if kind == "a tensor":
        model.table = values
    elif kind == "a dict of tensors":
        model.tables = {"by token": values}
    else:
        model.out.register_forward_hook(lambda module, args, out: out + 0 * len(values))
    return model


@pytest.mark.parametrize("kind", ["a tensor", "a dict of tensors", "what a hook holds"])
def test_a_table_of_the_model_that_the_first_rows_do_not_show_is_named(kind, tmp_path):
    """It may be a cache, so that the store comes back, but not without a word."""
    values = torch.arange(8.0)
    run(tmp_path / "a.zarr", with_table(Model(), kind, values))
    run(tmp_path / "a.zarr", with_table(Model(), kind, values.clone()))
    with pytest.warns(DevinterpWarning, match=r"model\..* differ from what .* was sampled with"):
        run(tmp_path / "a.zarr", with_table(Model(), kind, values.flip(0)))


def test_a_cache_that_a_pass_fills_is_no_difference(tmp_path):
    class Cached(Model):
        def __init__(self):
            super().__init__()
            self.seen = {}

        def forward(self, ids):
            self.seen[len(self.seen)] = float(ids.sum())
            return super().forward(ids)

    model = Cached()
    run(tmp_path / "a.zarr", model)
    run(tmp_path / "a.zarr", model)


def hooked(model, kind):
    if kind == "forward hook":
        model.out.register_forward_hook(lambda module, args, out: out * 0)
    elif kind == "forward pre-hook":
        model.out.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    elif kind == "backward hook":
        model.out.register_full_backward_hook(lambda module, gin, gout: tuple(g * 2 for g in gin))
    elif kind == "temperature":
        model.temperature = 2.0
    elif kind == "n_head":
        model.n_head = 1
    elif kind == "dropout":
        model.drop.p = 0.5
    elif kind == "forward replaced":
        model.drop.forward = lambda x: x + 1
    return model


CHANGES = ["forward hook", "forward pre-hook", "backward hook", "temperature", "n_head", "dropout", "forward replaced"]


@pytest.mark.parametrize("change", CHANGES)
def test_another_model_on_the_same_weights_is_refused(change, tmp_path):
    run(tmp_path / "a.zarr")
    run(tmp_path / "a.zarr")
    with pytest.raises(StoreConflictError) as caught:
        run(tmp_path / "a.zarr", hooked(Model(), change))
    told = {"temperature": "model.temperature", "n_head": "model.n_head", "dropout": "model.p",
            "forward hook": "forward_hooks of out", "backward hook": "backward_hooks.out"}  # fmt: skip
    assert told.get(change, "first_loss") in str(caught.value)


def test_an_interrupted_run_does_not_go_on_with_another_loss(tmp_path):
    def stop(event):
        raise KeyboardInterrupt

    path = tmp_path / "a.zarr"
    with pytest.raises(KeyboardInterrupt):
        run(path, loss_fn=closure(1.0), progress=stop)
    with pytest.raises(StoreConflictError, match="An interrupted run"):
        run(path, loss_fn=closure(2.0))
    np.testing.assert_array_equal(
        run(path, loss_fn=closure(1.0))["step_loss"], run(None, loss_fn=closure(1.0))["step_loss"]
    )


def test_a_loss_that_counts_its_calls_is_the_same_loss(tmp_path):
    calls, log = [], SimpleNamespace(count=0)

    def loss(model, ids):
        calls.append(len(calls))
        log.count += 1
        return cross_entropy(model, ids)

    run(tmp_path / "a.zarr", loss_fn=loss)
    before = len(calls)
    run(tmp_path / "a.zarr", loss_fn=loss)
    assert len(calls) == before + 1, "one pass over one batch"


def test_a_loss_with_a_generator_of_its_own_comes_back(tmp_path):
    def loss_with(scale, generator):
        def loss(model, ids):
            return scale * cross_entropy(model, ids) + 0.01 * torch.rand(1, generator=generator)

        return loss

    generator = torch.Generator().manual_seed(0)
    run(tmp_path / "a.zarr", loss_fn=loss_with(1.0, generator))
    run(tmp_path / "a.zarr", loss_fn=loss_with(1.0, generator))
    with pytest.raises(StoreConflictError):
        run(tmp_path / "a.zarr", loss_fn=loss_with(3.0, generator))


def rewrite(path, change):
    document = json.loads((path / "zarr.json").read_text())
    change(document["attributes"]["metadata"]["provenance"])
    (path / "zarr.json").write_text(json.dumps(document))


def test_elsewhere_the_loss_is_compared_within_a_tolerance(tmp_path):
    path = tmp_path / "a.zarr"

    def elsewhere(factor):
        def change(provenance):
            first = provenance["computes"]["first_loss"]
            provenance["computes"]["where"]["hardware"] = "another machine"
            first["sha256"] = "0"
            first["some"] = [value * factor for value in first["some"]]

        return change

    run(path)
    rewrite(path, elsewhere(1 + 1e-5))
    run(path)
    rewrite(path, elsewhere(1.01))
    with pytest.raises(StoreConflictError, match="first_loss"):
        run(path)


def test_a_store_without_the_record_comes_back_with_a_word(tmp_path):
    path = tmp_path / "a.zarr"
    first = run(path)
    rewrite(path, lambda provenance: provenance.pop("computes"))
    with pytest.warns(DevinterpWarning, match="does not tell what its model and loss computed"):
        again = run(path)
    np.testing.assert_array_equal(first["sampling_loss"], again["sampling_loss"])
    with pytest.raises(StoreConflictError, match="lr"), pytest.warns(DevinterpWarning, match="does not tell"):
        run(path, lr=2e-3)


def test_the_same_computation_returns_the_store_without_sampling(tmp_path, monkeypatch):
    first = quick(output_path=tmp_path / "a.zarr")
    monkeypatch.setattr(
        "devinterp.slt.sampling.engine.update.UpdateRule.step", lambda self: pytest.fail("sampled again")
    )
    assert_same_store(first, quick(output_path=tmp_path / "a.zarr"))


REQUESTS = {
    "lr": {"lr": 2e-3},
    "n_beta": {"n_beta": 31.0},
    "localization": {"localization": 11.0},
    "init_seed": {"init_seed": 7},
    "mode": {"mode": "eval"},
    "save_metrics": {"save_metrics": True},
    "fewer draws": {"num_draws": 2},
    "weights": {"model": build_model(1)},
    "dataset": {"dataset": CODE},
    "one row of the dataset": {"dataset": np.vstack([TRAIN[:5], TRAIN[5:6] ^ 1, TRAIN[6:]])},
    "longer dataset": {"dataset": np.vstack([TRAIN, TRAIN])},
    "observable": {"observables": {"code": (MATH, 1)}},
    "observable's name": {"observables": {"cod": (CODE, 1)}},
    "observable's batches": {"observables": {"code": (CODE, 2)}},
    "masks": {"param_masks": head_masks(build_model(), 0, 0)},
    "loss": {"loss_fn": lambda model, ids: model(ids)[:, 1:, 0]},
    "tokenizer": {"tokenizer": "gpt2"},
}


@pytest.mark.parametrize("what", REQUESTS)
def test_another_request_is_refused_with_its_differences(what, tmp_path):
    path = tmp_path / "a.zarr"
    quick(output_path=path)
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    with pytest.raises(StoreConflictError) as caught:
        quick(output_path=path, **REQUESTS[what])
    if len(REQUESTS[what]) == 1 and what in ("lr", "n_beta", "localization", "init_seed", "mode", "save_metrics"):
        assert f"{what}: the store has" in str(caught.value)
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before
