"""Identities change with what they identify, and with nothing else."""

from __future__ import annotations

import functools
import threading

import pytest
import torch
from tiny_lm import build_model, build_tokens
from torch import nn

from devinterp.errors import SettingError, StoreConflictError
from devinterp.slt.sampling import sample
from devinterp.slt.sampling.inputs import callables
from devinterp.slt.sampling.inputs.provenance import (
    describe_loss,
    describe_tokenizer,
    describe_versions,
    hash_weights,
    hashing_weights,
)


def test_weights_are_identified_by_names_dtypes_and_values():
    first = hash_weights(build_model())
    assert hash_weights(build_model().eval()) == first
    changed = build_model()
    with torch.no_grad():
        changed.blocks[1].up.bias[3] = torch.nextafter(changed.blocks[1].up.bias[3], torch.tensor(9.0))
    buffered = build_model()
    buffered.register_buffer("scale", torch.ones(2))
    others = [changed, build_model(1), build_model().double(), build_model().bfloat16(), buffered]
    assert len({first, *map(hash_weights, others)}) == 6


def test_odd_layouts_and_empty_tensors_are_hashed_by_value():
    model, other = nn.Module(), nn.Module()
    values = torch.arange(6.0).reshape(2, 3)
    model.weight, other.weight = nn.Parameter(values), nn.Parameter(values.t().contiguous().t())
    for each in (model, other):
        each.register_buffer("none", torch.zeros(0))
        each.register_buffer("scalar", torch.tensor(3))
        each.register_buffer("wide", torch.zeros(1).expand(4))
    assert hash_weights(model) == hash_weights(other)


def test_weights_are_hashed_beside_a_pass_and_buffers_after_it(monkeypatch):
    model = nn.Sequential(build_model(), nn.BatchNorm1d(3))
    whole, threads, raw = hash_weights(model), [], callables.raw_bytes
    monkeypatch.setattr(
        callables, "raw_bytes", lambda tensor: threads.append(threading.current_thread()) or raw(tensor)
    )
    with hashing_weights(model) as digest:
        before = model[1].running_mean.clone()
        model[1](torch.ones(2, 3))
        model[1].running_mean.copy_(before)
        model[1].num_batches_tracked.zero_()
        model[1].running_var.fill_(1.0)
        found = digest()
    assert found == whole
    here = [thread is threading.current_thread() for thread in threads]
    assert here == sorted(here)
    assert here.count(False) == sum(1 for _ in model.parameters())
    assert not any(thread.is_alive() for thread, own in zip(threads, here, strict=True) if not own)


def test_the_loss_is_named_with_the_hash_of_its_source():
    def one(model, ids):
        return model(ids)[:, 1:, 0]

    def two(model, ids):
        return model(ids)[:, 1:, 1]

    described = [describe_loss(fn) for fn in (one, two, None)]
    assert described[0]["source"] != described[1]["source"]
    assert len(described[0]["source"]) == 64
    assert described[2] == {"name": "devinterp.next_token_loss", "source": None}


def named(model, ids):
    return model(ids)[:, 1:, 0]


class Callable:
    def __call__(self, model, ids):
        return model(ids)[:, 1:, 0]


@pytest.mark.parametrize(
    ("loss", "name"),
    [(named, "named"), (functools.partial(named), "named"), (Callable(), "Callable")],
)
def test_a_loss_is_named_by_what_is_called(loss, name):
    described = describe_loss(loss)
    assert described["name"].endswith(name)
    assert len(described["source"]) == 64


def test_a_loss_without_source_is_named_all_the_same():
    scope = {}
    exec("def hidden(model, ids): return ids", scope)
    assert describe_loss(scope["hidden"])["source"] is None


def test_a_tokenizer_is_identified_by_its_vocabulary():
    class Tokenizer:
        name_or_path = "made/up"

        def __init__(self, words):
            self.words = words

        def get_vocab(self):
            return {word: index for index, word in enumerate(self.words)}

    one, two = describe_tokenizer(Tokenizer("ab")), describe_tokenizer(Tokenizer("ba"))
    assert one["name"] == "made/up"
    assert one["size"] == 2
    assert one["vocabulary"] != two["vocabulary"]
    assert describe_tokenizer("gpt2") == "gpt2"
    assert describe_tokenizer(None) is None
    with pytest.raises(SettingError, match="tokenizer"):
        describe_tokenizer(3)


def test_versions_name_what_the_numbers_pass_through():
    assert {"python", "devinterp", "torch", "numpy", "xarray", "zarr"} <= describe_versions().keys()


def test_a_finished_store_is_returned_for_one_forward_pass_and_a_few_tokens(tmp_path):
    """What the pass computes is compared with what the store was sampled from; the tokens tell what has gradients."""
    calls, rows = [], build_tokens("train")
    settings = {"lr": 1e-3, "n_beta": 30.0, "localization": 10.0, "num_chains": 1, "num_draws": 2, "batch_size": 16}
    model = build_model()
    model.register_forward_hook(lambda module, args, output: calls.append(args[0].shape[0]))

    def go(path, model=model, **changes):
        calls.clear()
        common = {"output_path": path, "device": "cpu", "progress": False, "num_init_loss_batches": 2}
        return sample(model, rows, {"train": (rows, 1)}, **{**common, **settings, **changes})

    first = go(tmp_path / "a.zarr")
    assert calls
    second = go(tmp_path / "a.zarr")
    assert sorted(calls) == [1, 2, 16]  # rows
    assert second.identical(first)
    with pytest.raises(StoreConflictError, match="weights"):
        go(tmp_path / "a.zarr", build_model(seed=1))
    with pytest.raises(StoreConflictError, match="lr"):
        go(tmp_path / "a.zarr", lr=1e-2)
    assert calls  # another request is looked at as any other
