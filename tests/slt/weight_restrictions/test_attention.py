"""Attention and feed-forward parameters of a layer."""

from __future__ import annotations

import pytest
import tiny_lm
from plain_transformers import HookedTransformer, NanoGPT, PlainLM, TorchLM, seeded
from tiny_models import tiny_model

from devinterp.errors import RestrictionError
from devinterp.slt.weight_restrictions import create_param_masks


def parts(model, layer, prefix):
    """Names of the attention's and the feed-forward's parameters, without the layer's prefix."""
    found = []
    for component in ("attn", "mlp"):
        masks = create_param_masks(model, f"l{layer} {component}")
        assert all(mask is None for mask in masks.values())
        assert all(name.startswith(f"{prefix}.{layer}.") for name in masks)
        found.append({name.removeprefix(f"{prefix}.{layer}.") for name in masks})
    return found


def both(*modules):
    return {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}


def test_gpt2():
    attention, mlp = parts(tiny_model("gpt2"), 1, "transformer.h")
    assert attention == both("attn.c_attn", "attn.c_proj")
    assert mlp == both("mlp.c_fc", "mlp.c_proj")


def test_norms_inside_the_attention_are_left_out():
    attention, mlp = parts(tiny_model("qwen3"), 0, "model.layers")
    assert attention == {f"self_attn.{p}_proj.weight" for p in "qkvo"}
    assert mlp == {f"mlp.{p}_proj.weight" for p in ("gate", "up", "down")}


def test_experts_routers_and_shared_experts_are_feed_forward():
    _, mlp = parts(tiny_model("qwen2_moe"), 0, "model.layers")
    assert {
        "mlp.gate.weight",
        "mlp.experts.gate_up_proj",
        "mlp.experts.down_proj",
        "mlp.shared_expert_gate.weight",
    } <= mlp
    assert any(name.startswith("mlp.shared_expert.") for name in mlp)


def test_feed_forward_maps_that_lie_beside_the_attention():
    attention, mlp = parts(tiny_model("bart"), 0, "model.decoder.layers")
    assert attention == both(*(f"self_attn.{p}_proj" for p in ("q", "k", "v", "out")))
    assert mlp == both("fc1", "fc2")  # and no cross-attention, encoder_attn


def test_an_output_named_like_the_attention_s():
    attention, mlp = parts(tiny_model("bert"), 0, "bert.encoder.layer")
    inner = (f"attention.self.{p}" for p in ("query", "key", "value"))
    assert attention == both(*inner, "attention.output.dense")
    assert mlp == both("intermediate.dense", "output.dense")


def test_attention_inside_a_block_named_after_its_norm():
    attention, _ = parts(tiny_model("dbrx"), 0, "transformer.blocks")
    assert attention == {"norm_attn_norm.attn.Wqkv.weight", "norm_attn_norm.attn.out_proj.weight"}


@pytest.mark.parametrize(
    ("build", "prefix", "attention", "mlp"),
    [
        (
            lambda: PlainLM("concat", says=True),
            "layers",
            both("attn.qkv", "attn.wo"),
            both("mlp.0", "mlp.3"),
        ),
        (NanoGPT, "transformer.h", both("attn.c_attn", "attn.c_proj"), both("mlp.c_fc", "mlp.c_proj")),
        (
            TorchLM,
            "encoder.layers",
            {"self_attn.in_proj_weight", "self_attn.in_proj_bias"} | both("self_attn.out_proj"),
            both("linear1", "linear2"),
        ),
        (
            HookedTransformer,
            "blocks",
            {f"attn.{kind}_{p}" for kind in "Wb" for p in "QKVO"},
            {f"mlp.{kind}_{p}" for kind in "Wb" for p in ("in", "out")},
        ),
    ],
    ids=["plain", "nanoGPT", "torch", "hooked"],
)
def test_models_of_no_library(build, prefix, attention, mlp):
    assert parts(seeded(build), 1, prefix) == [attention, mlp]


def test_a_flat_block_has_both_without_modules_of_their_own():
    attention, mlp = parts(tiny_lm.build_model(), 0, "blocks")
    assert attention == both("qkv", "out")
    assert mlp == both("up", "down")


def test_linear_attention_is_attention_but_has_no_heads_to_restrict():
    model = tiny_model("qwen3_next")
    assert all(".linear_attn." in name for name in create_param_masks(model, "l0 attn"))
    with pytest.raises(RestrictionError, match="one self-attention of known projections"):
        create_param_masks(model, "l0h0")


def test_a_layer_without_the_part_says_which_layers_have_it():
    model = tiny_model("jamba")
    with pytest.raises(RestrictionError, match=r"'l0 attn' selects nothing.*a layer that has one: 1,"):
        create_param_masks(model, "l0 attn")
    mamba = tiny_model("mamba")
    with pytest.raises(RestrictionError, match=r"'l0 mlp' selects nothing.*MambaBlock"):
        create_param_masks(mamba, "l0 mlp")
    assert create_param_masks(mamba, "l0")
