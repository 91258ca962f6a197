"""One look at the model, before anything is sampled, and without a trace."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from engine import CPU, OBSERVABLES, assert_same_snapshot, observed, sampling_data, settings, snapshot
from tiny_lm import build_model, build_tokens
from torch import nn

from devinterp.errors import DataError, ModelError, SettingError
from devinterp.slt.sampling.engine.check_model import choose_device, probe_model
from devinterp.slt.sampling.engine.frozen_prefix import evaluator
from devinterp.slt.sampling.engine.losses import PerTokenLoss
from devinterp.slt.sampling.engine.restore_model import Generators
from devinterp.slt.sampling.inputs.parameter_masks import check_masks


def probe(model, loss_fn=None, rows=None, observables=OBSERVABLES, masks=None, **changes):
    chosen = settings(**changes)
    data = sampling_data(chosen, rows)
    built = observed(chosen, observables, rows)
    return probe_model(model, PerTokenLoss(loss_fn), chosen, data, built, check_masks(model, masks), CPU)


class Head(nn.Module):
    """The tiny model with something done to its logits."""

    def __init__(self, then, **modules):
        super().__init__()
        self.inner = build_model()
        for name, module in modules.items():
            setattr(self, name, module)
        self.then = then

    def forward(self, input_ids):
        return self.then(self, self.inner(input_ids))


def test_it_leaves_no_trace():
    model = Head(lambda self, x: self.norm(self.drop(x)), norm=nn.BatchNorm1d(17), drop=nn.Dropout(0.5))
    before, generators = snapshot(model), Generators(CPU)
    found = probe(model)
    assert (found.vocabulary, found.random, found.stateful) == (64, True, True)
    assert_same_snapshot(before, snapshot(model))
    assert generators == Generators(CPU)


def test_dropout_and_batch_norm_are_quiet_in_eval_mode():
    model = Head(lambda self, x: self.norm(self.drop(x)), norm=nn.BatchNorm1d(17), drop=nn.Dropout(0.5))
    found = probe(model, mode="eval")
    assert (found.random, found.stateful) == (False, False)


@pytest.mark.parametrize("largest", [64, 70_000])
def test_ids_outside_the_vocabulary_never_reach_the_model(largest):
    rows = build_tokens("train")
    rows[7, 3] = largest
    with pytest.raises(DataError, match="vocabulary"):
        probe(build_model(), rows=rows, batch_size=8, num_draws=8)
    with pytest.raises(DataError, match="'bad'"):
        probe(build_model(), observables={"bad": (rows, 8)}, batch_size=8)


def test_the_declared_vocabulary_is_used_where_a_loss_hides_the_logits():
    def loss_fn(model, ids):
        return model(ids)[:, 1:, 0]

    assert probe(build_model(), loss_fn).vocabulary is None
    model = build_model()
    model.cfg = SimpleNamespace(d_vocab=64)
    assert probe(model, loss_fn).vocabulary == 64
    model = build_model()
    model.get_input_embeddings = lambda: model.embed
    assert probe(model).vocabulary == 64


BAD_MODELS = {
    "no logits": (lambda self, x: {"scores": x}, "neither logits"),
    "last position only": (lambda self, x: x[:, -1], "wrong shape"),
    "too short": (lambda self, x: x[:, :-1], "wrong shape"),
    "nan": (lambda self, x: x * float("nan"), "not finite"),
    "detached": (lambda self, x: x.detach(), "no gradient"),
}


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_a_model_that_gives_no_logits_is_one_clear_error(kind):
    then, words = BAD_MODELS[kind]
    with pytest.raises(ModelError, match=words):
        probe(Head(then))


BAD_LOSSES = {
    "scalar": (lambda model, ids: model(ids).mean(), "wrong shape"),
    "mean per row": (lambda model, ids: model(ids).mean((1, 2)), "wrong shape"),
    "one too many": (lambda model, ids: model(ids)[..., 0], "wrong shape"),
    "a float": (lambda model, ids: 1.0, "no tensor"),
    "integers": (lambda model, ids: ids[:, 1:], "floating"),
    "detached": (lambda model, ids: model(ids)[:, 1:, 0].detach(), "no gradient"),
    "infinite": (lambda model, ids: model(ids)[:, 1:, 0] / 0, "not finite"),
}


@pytest.mark.parametrize("kind", BAD_LOSSES)
def test_a_loss_that_does_not_fit_is_one_clear_error(kind):
    loss_fn, words = BAD_LOSSES[kind]
    with pytest.raises(ModelError, match=words):
        probe(build_model(), loss_fn)


def test_a_loss_that_ignores_the_sampled_parameters_is_refused():
    with pytest.raises(ModelError, match="no gradient"):
        probe(build_model(), lambda m, ids: m.embed(ids)[:, 1:, 0], masks={"unembed.weight": None})


@pytest.mark.parametrize("device", ["cud", "cuda:99", 3.5, "meta:x"])
def test_an_unknown_device_is_one_clear_error(device):
    with pytest.raises(SettingError, match="device"):
        choose_device(device)


def test_a_device_is_found_where_none_is_named():
    assert choose_device(None).type in ("cpu", "cuda", "mps")
    assert choose_device("cpu") == CPU
    assert choose_device(torch.device("cpu")) == CPU


class Routed(nn.Module):
    """The tiny model, with a bias that the last token of a row alone reaches."""

    def __init__(self):
        super().__init__()
        self.inner = build_model()
        self.late, self.unused = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def forward(self, input_ids):
        logits = self.inner(input_ids)
        return logits + self.late if input_ids.shape[1] > 4 else logits


def test_what_a_few_tokens_do_not_reach_is_asked_of_the_whole_batch(monkeypatch):
    monkeypatch.setattr(evaluator, "_TOKENS", 4)
    assert probe(Routed()).idle == ("unused",)
    assert probe(Routed(), masks={"late": None}).idle == ()
    assert probe(build_model()).idle == ()


def test_rows_that_may_not_be_shortened_are_taken_whole(monkeypatch):
    monkeypatch.setattr(evaluator, "_TOKENS", 4)
    lengths = []

    def strict(self, logits):
        lengths.append(logits.shape[1])
        if logits.shape[1] < build_tokens("train").shape[1]:
            raise AssertionError("rows of one length alone")
        return logits

    seen = probe(Head(strict))
    assert seen.idle == ()
    assert lengths[-2:] == [build_tokens("train").shape[1]] * 2  # a row, and the batch
