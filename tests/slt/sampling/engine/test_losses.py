"""Per-token losses of every kind of model, and the check of the logits."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from tiny_lm import build_model, build_tokens
from torch import nn

from devinterp.errors import ModelError
from devinterp.slt.sampling.engine import losses
from devinterp.slt.sampling.engine.losses import NonFiniteError, PerTokenLoss, forward_logits, next_token_loss
from devinterp.slt.sampling.inputs.nested import Batch

IDS = torch.from_numpy(build_tokens("train")[:5])


class TransformerLensLike(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = build_model()
        self.cfg = SimpleNamespace(n_heads=4, d_vocab=64)

    def forward(self, input_ids, return_type="loss"):
        return self.inner(input_ids) if return_type == "logits" else torch.zeros(())


class WithLogits(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = build_model()

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.inner(input_ids))


def test_whoever_has_a_tokenizer_of_transformers_does_not_import_its_models(monkeypatch):
    asked = []

    class Lazy(ModuleType):
        def __getattr__(self, name):
            asked.append(name)
            raise AttributeError(name)

    monkeypatch.setitem(sys.modules, "transformers", Lazy("transformers"))
    monkeypatch.delitem(sys.modules, "transformers.modeling_utils", raising=False)
    forward_logits(build_model(), IDS)
    assert asked == []


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=1, n_head=4, bos_token_id=0, eos_token_id=0)
    ).eval()


@pytest.mark.parametrize("build", [build_model, TransformerLensLike, WithLogits])
def test_every_kind_of_model_gives_its_logits(build):
    assert torch.equal(forward_logits(build(), IDS), build_model()(IDS))


def test_a_huggingface_model_is_called_without_a_cache():
    model, seen = gpt2(), []
    model.register_forward_hook(lambda module, args, kwargs, output: seen.append((kwargs, output)), with_kwargs=True)
    logits = forward_logits(model, IDS)
    assert torch.equal(logits, model(IDS).logits)
    assert seen[0][0]["use_cache"] is False
    assert seen[0][1].past_key_values is None


def test_the_loss_and_its_gradient_are_those_of_a_plain_expression_bit_for_bit():
    torch.manual_seed(1)
    logits = torch.randn(5, 17, 64, requires_grad=True)
    ours = next_token_loss(logits, IDS)
    (mine,) = torch.autograd.grad(ours.mean(), logits)
    log_probs = torch.log_softmax(logits, dim=-1)
    plain = -log_probs[..., :-1, :].gather(dim=-1, index=IDS[..., 1:, None])[..., 0]
    (theirs,) = torch.autograd.grad(plain.mean(), logits)
    assert ours.shape == (5, 16)
    assert torch.equal(ours, plain)
    assert torch.equal(mine, theirs)
    torch.testing.assert_close(
        ours, nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), IDS[:, 1:], reduction="none")
    )


@pytest.mark.parametrize("piece", [1, 17 * 64 * 2, 2**18])
@pytest.mark.parametrize("contiguous", [True, False])
def test_a_loss_in_pieces_has_the_bits_of_one_in_one_piece(monkeypatch, piece, contiguous):
    monkeypatch.setattr(losses, "_PIECE", piece)
    torch.manual_seed(1)
    logits = torch.randn(5, 17, 64) * 10
    logits = logits if contiguous else logits.transpose(1, 2).contiguous().transpose(1, 2)
    ours = PerTokenLoss().of_logits(logits, Batch(IDS, tokens=True))
    assert torch.equal(ours.view(torch.int32), next_token_loss(logits, IDS).view(torch.int32))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_have_a_float32_loss(dtype):
    torch.manual_seed(1)
    logits = torch.randn(5, 17, 64).to(dtype)
    loss = next_token_loss(logits, IDS)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, next_token_loss(logits.float(), IDS))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [(0, 0, 0), (4, 16, 63)])  # the last position has no loss of its own
def test_a_logit_that_is_not_finite_is_noticed(value, place):
    logits = torch.zeros(5, 17, 64)
    logits[place] = value
    with pytest.raises(NonFiniteError):
        PerTokenLoss().of_logits(logits, Batch(IDS, tokens=True))


def test_finite_logits_whose_sum_overflows_are_fine():
    logits = torch.full((5, 17, 64), 3e38)
    assert torch.isfinite(PerTokenLoss().of_logits(logits, Batch(IDS, tokens=True))).all()


def test_a_loss_of_the_callers_is_used_as_it_is():
    loss = PerTokenLoss(lambda model, ids: model(ids)[:, 1:, 0] * float("nan"))
    assert loss(build_model(), Batch(IDS, tokens=True)).isnan().all()
    assert loss.finite() is None
    with pytest.raises(ModelError, match="called"):
        PerTokenLoss(3)  # type: ignore[arg-type]
