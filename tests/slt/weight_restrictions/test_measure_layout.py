"""Heads measured by running the model: layouts that names and shapes do not tell, and no trace left behind."""

from __future__ import annotations

import pytest
import tiny_lm
import torch
from head_proof import find_site, language_input, prove
from plain_transformers import HEADS, VOCAB, NanoGPT, PlainLM, seeded
from tiny_models import tiny_model
from torch import nn

from devinterp.errors import RestrictionError
from devinterp.slt.weight_restrictions import attention, create_param_masks, declared, module_tree, stack
from devinterp.slt.weight_restrictions import measure_layout as probe
from devinterp.slt.weight_restrictions.heads import find_heads


def unit_of(model, layer=0):
    (unit,) = attention.find_units(stack.find_layers(model)[layer].parts, module_tree.canonical_names(model))
    return unit


def same_slices(first, second):
    """Whether two divisions select the same weights for every head and group."""
    assert (first.num_heads, first.num_kv_heads) == (second.num_heads, second.num_kv_heads)
    per = first.num_heads // first.num_kv_heads
    ours, theirs = ({part.name: part for part in heads.slices} for heads in (first, second))
    return set(ours) == set(theirs) and all(
        ours[name].axis == theirs[name].axis
        and all(
            torch.equal(
                (ours[name].query == head) | (ours[name].key_value == head // per),
                (theirs[name].query == head) | (theirs[name].key_value == head // per),
            )
            for head in range(first.num_heads)
        )
        for name in ours
    )


@pytest.mark.parametrize("says", [False, True], ids=["silent", "says how many heads"])
@pytest.mark.parametrize("kv_heads", [HEADS, 2, 1])
@pytest.mark.parametrize("layout", ["concat", "grouped", "separate"])
def test_every_layout_of_a_plain_module(layout, kv_heads, says):
    model = seeded(lambda: PlainLM(layout, kv_heads, says=says))
    site = find_site(model, 1, HEADS, kv_heads)
    wrong = prove(model, language_input(model), site, lambda head: create_param_masks(model, f"l1h{head}"))
    assert wrong == []
    assert len(create_param_masks(model, "l1h0")) == (7 if layout == "separate" else 3)


@pytest.mark.parametrize("layout", ["concat", "grouped"])
def test_the_caller_s_word_gives_what_is_measured(layout):
    model = seeded(lambda: PlainLM(layout, 2))
    measured = create_param_masks(model, "l0h3")
    told = create_param_masks(model, "l0h3", num_heads=HEADS, num_kv_heads=2, qkv_layout=layout)
    assert list(measured) == list(told)
    assert all(torch.equal(measured[name], told[name]) for name in told)


def test_the_model_of_the_reference_stores():
    model = tiny_lm.build_model()
    for layer in range(tiny_lm.LAYERS):
        for head in range(tiny_lm.HEADS):
            ours, theirs = create_param_masks(model, f"l{layer}h{head}"), tiny_lm.head_masks(model, layer, head)
            assert list(ours) == list(theirs)
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


FUSED = {
    "gpt2": {},
    "mpt": {},
    "phi3": {"num_key_value_heads": 2},
    "bloom": {},
    "gpt_neox": {},
    "gpt_neox_japanese": {},
    "persimmon": {},
    "codegen": {"n_head": 8, "n_embd": 64},
    "falcon": {},
    "falcon, new decoder": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon, multi-head": {"multi_query": False},
    "gpt_bigcode": {},
    "gpt_bigcode, multi-head": {"multi_query": False},
    "minimax": {},
}


@pytest.mark.parametrize("case", FUSED)
def test_declared_layouts_are_the_measured_ones(case):
    model = tiny_model(case.partition(",")[0], **FUSED[case])
    layer = 1  # MiniMax's second layer is the lightning one, which has the fused projection
    unit = unit_of(model, layer)
    assert declared.fused_layout(unit.modules) is not None
    heads = find_heads(model, unit)
    if case == "minimax":  # its norm over all heads comes between attention and output projection
        module = dict(model.named_modules())["model.layers.1.self_attn.norm"]
        module.forward = lambda x: x
    assert same_slices(heads, probe.measure_heads(model, unit, heads.num_heads))


def test_names_of_a_library_prove_nothing_elsewhere():
    model = seeded(NanoGPT)
    assert declared.fused_layout(unit_of(model).modules) is None
    site = find_site(model, 0, HEADS, HEADS)
    assert prove(model, language_input(model), site, lambda head: create_param_masks(model, f"l0h{head}")) == []


class WithBatchNorm(PlainLM):
    """Has a buffer that training mode would update, and one submodule in another mode than the rest."""

    def __init__(self) -> None:
        super().__init__("concat", 2)
        self.batch_norm = nn.BatchNorm1d(32)
        self.train()
        self.layers[0].mlp.eval()

    def forward(self, input_ids):
        x = self.tokens(input_ids)
        x = self.batch_norm(x.transpose(1, 2)).transpose(1, 2)
        for layer in self.layers:
            x = layer(torch.nn.functional.dropout(x, 0.5, self.training))
        return self.head(x)


def test_measuring_leaves_no_trace():
    torch.manual_seed(5)
    model = WithBatchNorm()
    for param in list(model.parameters())[::2]:
        param.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    grads = {name: param.grad for name, param in model.named_parameters()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    asked = [param.requires_grad for param in model.parameters()]
    generator = torch.get_rng_state()
    assert create_param_masks(model, "l1h3")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(param.grad is grads[name] for name, param in model.named_parameters())
    assert [module.training for module in model.modules()] == modes
    assert [param.requires_grad for param in model.parameters()] == asked
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_inference_or_no_grad_block_around_does_not_matter():
    model = seeded(lambda: PlainLM("grouped", 2))
    with torch.no_grad():
        found = create_param_masks(model, "l0h1")
    assert found["layers.0.attn.qkv.weight"].sum() == 3 * 8 * 32


def test_a_model_is_run_once_for_all_heads_of_a_layer():
    model, calls = seeded(lambda: PlainLM("concat")), []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    for head in range(HEADS):
        create_param_masks(model, f"l0h{head}")
    assert len(calls) == 1


def test_only_the_layers_up_to_the_one_asked_for_are_run():
    model, calls = seeded(lambda: PlainLM("concat")), []
    model.layers[1].register_forward_pre_hook(lambda *_: calls.append(1))
    create_param_masks(model, "l0h0")
    assert calls == []


class NeedsMore(PlainLM):
    def forward(self, input_ids, times):
        return super().forward(input_ids) * times


def test_a_model_that_cannot_be_run_asks_for_what_it_needs():
    model = seeded(lambda: NeedsMore("concat", 2))
    with pytest.raises(RestrictionError, match="times") as caught:
        create_param_masks(model, "l0h1")
    assert "num_heads=" in str(caught.value)
    assert "qkv_layout=" in str(caught.value)
    assert create_param_masks(model, "l0h1", num_heads=HEADS, num_kv_heads=2, qkv_layout="concat")


def test_weights_on_no_device_are_enough_when_the_caller_says():
    with torch.device("meta"):
        model = PlainLM("grouped", 2, says=True)
    masks = create_param_masks(model, "l0g1", qkv_layout="grouped")
    assert masks["layers.0.attn.qkv.weight"].device.type == "cpu"
    assert masks["layers.0.attn.qkv.weight"][:, 0].tolist() == [False] * 32 + [True] * 32
    with pytest.raises(RestrictionError, match="could not be found out"):
        create_param_masks(model, "l0g1")


class Mixing(nn.Module):
    """Attention whose heads are mixed before the output projection."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, 32)
        self.layers = nn.ModuleList([MixingBlock()])

    def forward(self, input_ids):
        return self.layers[0](self.tokens(input_ids))


class MixingBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))
        self.out_proj = nn.Linear(32, 32)

    def forward(self, x):
        mixed = nn.functional.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x))
        q, k, v = self.query(x), self.key(x), self.value(x)
        return self.out_proj(mixed + q[..., :16].mean(-1, keepdim=True) + k.mean() + v.mean())


def test_heads_that_are_mixed_are_refused():
    model = seeded(Mixing)
    with pytest.raises(RestrictionError, match="mixed before the output projection"):
        probe.measure_heads(model, unit_of(model), 4)


class Bypassing(PlainLM):
    """Uses the weight of its output projection without calling the module."""

    def forward(self, input_ids):
        x = self.tokens(input_ids)
        for layer in self.layers:
            x = x + nn.functional.linear(layer.attn.qkv(x)[..., :32], layer.attn.wo.weight)
        return self.head(x)


def test_an_output_projection_that_is_never_called_is_said_to_be():
    model = seeded(lambda: Bypassing("concat"))
    with pytest.raises(RestrictionError, match="output projection is not called"):
        create_param_masks(model, "l0h0")
