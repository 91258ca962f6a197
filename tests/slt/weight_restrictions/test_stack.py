"""Embeddings, unembedding and the stack of layers."""

from __future__ import annotations

import pytest
from plain_transformers import HookedTransformer, NanoGPT, PlainLM, TorchLM, seeded
from tiny_models import tiny_model
from torch import nn

from devinterp.errors import RestrictionError
from devinterp.slt.weight_restrictions import create_param_masks, stack


def names(model, restriction, **options):
    masks = create_param_masks(model, restriction, **options)
    assert all(mask is None for mask in masks.values())
    return list(masks)


@pytest.mark.parametrize(
    ("model_type", "embed", "unembed"),
    [
        ("gpt2", ["transformer.wte.weight"], ["transformer.wte.weight"]),
        ("llama", ["model.embed_tokens.weight"], ["lm_head.weight"]),
        ("phi", ["model.embed_tokens.weight"], ["lm_head.weight", "lm_head.bias"]),
        (
            "bert",
            ["bert.embeddings.word_embeddings.weight"],
            ["bert.embeddings.word_embeddings.weight", "cls.predictions.bias"],
        ),
        ("camembert", ["lm_head.decoder.weight"], ["lm_head.bias", "lm_head.decoder.weight"]),
        ("gpt_neox", ["gpt_neox.embed_in.weight"], ["lm_head.weight"]),
        ("gemma3", ["model.language_model.embed_tokens.weight"], ["model.language_model.embed_tokens.weight"]),
        (
            "musicgen",
            [f"model.decoder.embed_tokens.{i}.weight" for i in range(4)],
            [f"lm_heads.{i}.weight" for i in range(4)],
        ),
    ],
)
def test_token_embedding_and_map_to_logits(model_type, embed, unembed):
    model = tiny_model(model_type)
    assert names(model, "embed") == embed
    assert names(model, "unembed") == unembed


@pytest.mark.parametrize(
    ("build", "embed", "unembed"),
    [
        (PlainLM, ["tokens.weight"], ["head.weight", "head.bias"]),
        (lambda: PlainLM(tied=True), ["tokens.weight"], ["tokens.weight", "head.bias"]),
        (NanoGPT, ["transformer.wte.weight"], ["transformer.wte.weight"]),
        (TorchLM, ["embed.weight"], ["to_logits.weight", "to_logits.bias"]),
        (HookedTransformer, ["embed.W_E"], ["unembed.W_U", "unembed.b_U"]),
    ],
    ids=["plain", "plain tied", "nanoGPT", "torch", "hooked"],
)
def test_models_of_no_library(build, embed, unembed):
    model = seeded(build)
    assert names(model, "embed") == embed
    assert names(model, "unembed") == unembed


@pytest.mark.parametrize("build", [PlainLM, NanoGPT, TorchLM, HookedTransformer])
def test_a_layer_is_all_of_its_parameters(build):
    model = seeded(build)
    prefix = {PlainLM: "layers", NanoGPT: "transformer.h", TorchLM: "encoder.layers", HookedTransformer: "blocks"}[
        build
    ]
    for layer in range(2):
        expected = [name for name, _ in model.named_parameters() if name.startswith(f"{prefix}.{layer}.")]
        assert names(model, f"l{layer}") == expected
        assert expected


def test_the_language_model_s_layers_beside_a_vision_tower():
    model = tiny_model("gemma3")
    assert all(name.startswith("model.language_model.layers.0.") for name in names(model, "l0"))


def test_parallel_lists_make_one_layer():
    selected = names(tiny_model("xlm"), "l1")
    kinds = {name.split(".")[1] for name in selected}
    assert kinds == {"attentions", "ffns", "layer_norm1", "layer_norm2"}
    assert all(name.split(".")[2] == "1" for name in selected)


def test_several_stacks_need_a_word_from_the_caller():
    model = tiny_model("hrm_text")
    with pytest.raises(RestrictionError, match=r"more than one stack.*L_module\.layers.*H_module\.layers") as caught:
        create_param_masks(model, "l0")
    assert "layers='path.of.the.list'" in str(caught.value)
    chosen = names(model, "l1", layers="model.H_module.layers")
    assert all(name.startswith("model.H_module.layers.1.") for name in chosen)
    assert create_param_masks(model, "l1h3", layers="model.H_module.layers")


def test_a_path_that_is_no_list_is_refused():
    with pytest.raises(RestrictionError, match=r"no list of modules at 'model\.norm'.*model\.layers"):
        create_param_masks(tiny_model("llama"), "l0", layers="model.norm")


def test_blocks_inside_sequentials():
    plain = seeded(PlainLM)
    model = nn.Sequential(plain.tokens, nn.Sequential(*plain.layers), plain.norm, plain.head)
    assert [layer.path for layer in stack.find_layers(model)] == ["1.0", "1.1"]
    assert names(model, "embed") == ["0.weight"]
    assert names(model, "unembed") == ["3.weight", "3.bias"]


def test_layers_that_share_weights_select_them_by_their_one_name():
    model = tiny_model("zamba2")
    first, third = names(model, "l1 attn"), names(model, "l3 attn")
    assert first == third
    assert all(".1." in name for name in first)


def test_models_without_layers_or_embeddings_are_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    with pytest.raises(RestrictionError, match="layers could not be found"):
        create_param_masks(model, "l0")
    for part in ("embed", "unembed"):
        with pytest.raises(RestrictionError, match="could not be told apart"):
            create_param_masks(model, part)
    assert names(model, "0.weight") == ["0.weight"]


def test_two_embeddings_that_could_both_be_tokens_are_refused():
    model = nn.ModuleDict({"first": nn.Embedding(8, 4), "second": nn.Embedding(8, 4)})
    with pytest.raises(RestrictionError, match="token embedding could not be told apart"):
        create_param_masks(model, "embed")


def test_a_wrapped_model_is_found_inside_its_wrapper():
    wrapper = nn.Module()
    wrapper.module = tiny_model("llama")
    assert names(wrapper, "embed") == ["module.model.embed_tokens.weight"]
    assert names(wrapper, "unembed") == ["module.lm_head.weight"]
    assert next(iter(create_param_masks(wrapper, "l1h0"))) == "module.model.layers.1.self_attn.q_proj.weight"
