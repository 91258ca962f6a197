"""Head masks of HuggingFace families: which weights, and a proof that they are that head's and no other's."""

from __future__ import annotations

import functools

import pytest
import torch
from head_proof import find_site, language_input, prove
from plain_transformers import HEAD_DIM, HEADS, HookedTransformer, TorchLM, seeded
from tiny_models import tiny_model

from devinterp.errors import RestrictionError
from devinterp.slt.weight_restrictions import create_param_masks

# name -> (model type, settings, layer, key-value groups)
FAMILIES = {
    "gpt2": ("gpt2", {}, 1, 4),
    "gpt_neo": ("gpt_neo", {}, 1, 4),
    "gptj": ("gptj", {}, 0, 4),
    "gpt_neox": ("gpt_neox", {}, 1, 4),
    "gpt_bigcode": ("gpt_bigcode", {}, 0, 1),
    "bloom": ("bloom", {}, 1, 4),
    "falcon": ("falcon", {}, 1, 1),
    "falcon, new decoder": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}, 1, 2),
    "codegen, 8 heads": ("codegen", {"n_head": 8, "n_embd": 64}, 0, 8),
    "mpt": ("mpt", {}, 1, 4),
    "opt": ("opt", {}, 1, 4),
    "bart": ("bart", {}, 1, 4),
    "bert": ("bert", {"is_decoder": True}, 1, 4),
    "llama": ("llama", {}, 1, 4),
    "llama, grouped": ("llama", {"num_key_value_heads": 2}, 1, 2),
    "mistral": ("mistral", {}, 0, 2),
    "gemma2, heads wider than their share": ("gemma2", {}, 1, 2),
    "qwen2, biases": ("qwen2", {"num_key_value_heads": 2}, 1, 2),
    "qwen3, norms per head": ("qwen3", {}, 1, 4),
    "phi3": ("phi3", {"num_key_value_heads": 2}, 1, 2),
    "gpt_oss, sinks": ("gpt_oss", {}, 1, 2),
    "mixtral": ("mixtral", {}, 1, 2),
    "deepseek_v3, latent attention": ("deepseek_v3", {}, 1, 4),
    "qwen3_next, gated": ("qwen3_next", {}, 1, 2),
    "xlm, parallel lists": ("xlm", {}, 1, 4),
}


@functools.cache
def model_of(family):
    model_type, settings, _, _ = FAMILIES[family]
    return tiny_model(model_type, **settings)


@pytest.mark.parametrize("family", FAMILIES)
def test_moving_a_head_s_weights_moves_that_head_and_no_other(family):
    model = model_of(family)
    _, _, layer, groups = FAMILIES[family]
    heads = 8 if "8 heads" in family else HEADS
    site = find_site(model, layer, heads, groups)
    wrong = prove(model, language_input(model), site, lambda head: create_param_masks(model, f"l{layer}h{head}"))
    assert wrong == []


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_divide_their_layer_s_weights(family):
    model = model_of(family)
    _, _, layer, groups = FAMILIES[family]
    heads = 8 if "8 heads" in family else HEADS
    per = heads // groups
    masks = [create_param_masks(model, f"l{layer}h{head}") for head in range(heads)]
    params = dict(model.named_parameters())
    order = {name: i for i, name in enumerate(params)}
    for selected in masks:
        assert [order[name] for name in selected] == sorted(order[name] for name in selected)
        for name, mask in selected.items():
            assert mask.dtype == torch.bool
            assert mask.shape == params[name].shape
    for group in range(groups):
        members = masks[group * per : (group + 1) * per]
        whole = create_param_masks(model, f"l{layer}g{group}")
        assert list(whole) == list(members[0])
        for name, mask in whole.items():
            assert torch.equal(mask, functools.reduce(torch.logical_or, [member[name] for member in members]))
    for name in masks[0]:
        covered = torch.stack([selected[name].int() for selected in masks]).sum(0)
        assert set(covered.unique().tolist()) <= ({1} if per == 1 else {1, per})


def test_a_proof_that_would_not_notice_proves_nothing():
    model = model_of("llama, grouped")
    site = find_site(model, 1, HEADS, 2)
    ids = language_input(model)

    def neighbour(head):
        return create_param_masks(model, f"l1h{(head + 1) % HEADS}")

    def half(head):
        masks = create_param_masks(model, f"l1h{head}")
        name = "model.layers.1.self_attn.q_proj.weight"
        return masks | {name: masks[name] & (torch.arange(32)[:, None] % 2 == 0)}

    assert len(prove(model, ids, site, neighbour)) >= HEADS
    assert len(prove(model, ids, site, half)) >= HEADS


def test_the_weights_of_a_head_in_numbers():
    model = model_of("mistral")
    masks = create_param_masks(model, "l0h3")
    rows = {name.rsplit(".", 2)[1]: mask for name, mask in masks.items()}
    assert rows["q_proj"][:, 0].nonzero().flatten().tolist() == list(range(24, 32))
    assert rows["k_proj"][:, 0].nonzero().flatten().tolist() == list(range(8, 16))
    assert rows["v_proj"][:, 5].nonzero().flatten().tolist() == list(range(8, 16))
    assert rows["o_proj"][0].nonzero().flatten().tolist() == list(range(24, 32))
    assert all(torch.equal(mask, mask[:1].expand_as(mask)) for name, mask in rows.items() if name == "o_proj")


def test_latent_attention_leaves_the_shared_compression_out():
    masks = create_param_masks(model_of("deepseek_v3, latent attention"), "l0h1")
    assert [name.rsplit(".", 2)[1] for name in masks] == ["q_b_proj", "kv_b_proj", "o_proj"]


def test_a_key_bias_is_left_out_exactly_where_no_output_depends_on_it():
    opt, qwen = model_of("opt"), model_of("qwen2, biases")
    assert not any("k_proj.bias" in name for name in create_param_masks(opt, "l0h0"))
    assert any("k_proj.bias" in name for name in create_param_masks(qwen, "l0h0"))
    ids = language_input(opt)
    for model, matters in ((opt, False), (qwen, True)):
        before = model(ids).logits.detach()
        (bias,) = [p for name, p in model.named_parameters() if "layers.0.self_attn.k_proj.bias" in name]
        with torch.no_grad():
            bias += torch.linspace(-1, 1, bias.numel())
            changed = (model(ids).logits - before).abs().max()
            bias -= torch.linspace(-1, 1, bias.numel())
        assert (changed > 1e-4) == matters


def test_norms_over_all_heads_couple_outputs_but_not_weights():
    model = tiny_model("olmo2")
    site = find_site(model, 0, HEADS, HEADS)
    ids = language_input(model)

    def masks_of(head):
        return create_param_masks(model, f"l0h{head}")

    assert prove(model, ids, site, masks_of, hold_norms=True) == []
    assert any("moving its inputs changes heads [0, 1, 2, 3]" in line for line in prove(model, ids, site, masks_of))


@pytest.mark.parametrize("kv_heads", [HEADS, 2])
def test_parameters_with_a_head_axis(kv_heads):
    """TransformerLens: W_Q is (heads, d_model, d_head), keys and values of grouped-query models are _W_K and _W_V."""
    model = seeded(lambda: HookedTransformer(kv_heads))
    ids = language_input(model)
    seen = []
    handle = model.blocks[1].attn.hook_z.register_forward_hook(lambda _m, _a, out: seen.append(out.detach()))
    params = dict(model.named_parameters())
    with torch.no_grad():
        model(ids)
        for head in range(HEADS):
            masks = create_param_masks(model, f"l1h{head}")
            assert all(mask.shape == params[name].shape for name, mask in masks.items())
            assert len(masks) == 7
            assert "blocks.1.attn.b_O" not in masks
            assert all(masks[name][head].all() for name in masks if "_K" not in name and "_V" not in name)
            before = {name: params[name].clone() for name in masks}
            for name, mask in masks.items():
                params[name].add_(mask * 0.3)
            model(ids)
            changed = ((seen[-1] - seen[0]).abs().amax(dim=(0, 2, 3)) > 1e-6).nonzero().flatten().tolist()
            per = HEADS // kv_heads
            assert changed == list(range(head // per * per, head // per * per + per))
            for name, value in before.items():
                params[name].copy_(value)
    handle.remove()
    group = create_param_masks(model, "l0g1")
    key = "blocks.0.attn.W_K" if kv_heads == HEADS else "blocks.0.attn._W_K"
    assert group[key].any(dim=(1, 2)).tolist() == [index == 1 for index in range(kv_heads)]


def test_torch_s_own_multi_head_attention():
    model = seeded(TorchLM)
    masks = create_param_masks(model, "l1h2")
    prefix = "encoder.layers.1.self_attn."
    expected = torch.zeros(3, HEADS, HEAD_DIM, dtype=torch.bool)
    expected[:, 2] = True
    assert torch.equal(masks[f"{prefix}in_proj_weight"][:, 0], expected.flatten())
    assert torch.equal(masks[f"{prefix}in_proj_bias"], expected.flatten())
    assert torch.equal(masks[f"{prefix}out_proj.weight"][0], expected[0].flatten())
    assert len(masks) == 3


def test_masks_take_the_memory_of_one_axis():
    mask = create_param_masks(model_of("llama"), "l0h0")["model.layers.0.self_attn.q_proj.weight"]
    assert mask.untyped_storage().nbytes() == 32


@pytest.mark.parametrize(
    ("model_type", "restriction", "words"),
    [
        ("diffllama", "l0h0", "differential attention"),
        ("longcat_flash", "l0h0", "2 in layer 0"),
        ("jamba", "l0h0", "a layer that has one: 1,"),
        ("deepseek_v4", "l0h0", "DeepseekV4DecoderLayer"),
        ("llama", "l0h4", "a head from 0 to 3"),
        ("mistral", "l0g2", "a key-value group from 0 to 1"),
    ],
)
def test_heads_that_are_not_there_or_no_slices_are_refused(model_type, restriction, words):
    with pytest.raises(RestrictionError, match=words):
        create_param_masks(tiny_model(model_type), restriction)


def test_a_wrong_number_of_heads_is_refused():
    with pytest.raises(RestrictionError, match="does not divide evenly among 5 heads"):
        create_param_masks(model_of("llama"), "l0h0", num_heads=5)


class Adapted(torch.nn.Module):
    """A projection with a low-rank adapter beside it, named as peft names it."""

    def __init__(self, base):
        super().__init__()
        out, inner = base.weight.shape
        self.base_layer = base
        self.lora_A = torch.nn.ModuleDict({"default": torch.nn.Linear(inner, 3, bias=False)})
        self.lora_B = torch.nn.ModuleDict({"default": torch.nn.Linear(3, out, bias=False)})

    def forward(self, x):
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


def selected(masks, prefix):
    return {name.removeprefix(prefix): mask for name, mask in masks.items() if ".lora_" in name}


def check_lora(masks, prefix, width=8):
    found = selected(masks, prefix)
    assert list(found) == ["q_proj.lora_B.default.weight", "k_proj.lora_B.default.weight",
                           "v_proj.lora_B.default.weight", "o_proj.lora_A.default.weight"]  # fmt: skip
    second, first = torch.arange(32) // width == 1, torch.arange(16) // width == 0
    assert torch.equal(found["q_proj.lora_B.default.weight"], second[:, None].expand(32, 3))
    assert torch.equal(found["k_proj.lora_B.default.weight"], first[:, None].expand(16, 3))
    assert torch.equal(found["o_proj.lora_A.default.weight"], second[None].expand(3, 32))


def test_a_head_has_its_slices_of_low_rank_adapters():
    model = tiny_model("llama", num_attention_heads=4, num_key_value_heads=2, hidden_size=32)
    attention = model.model.layers[0].self_attn
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        setattr(attention, name, Adapted(getattr(attention, name)))
    check_lora(create_param_masks(model, "l0h1"), "model.layers.0.self_attn.")
    with pytest.raises(RestrictionError, match=r"Did you mean 'module:model\.layers\.0\.self_attn\.q_proj\.lora_A'"):
        create_param_masks(model, "lora")
    assert list(create_param_masks(model, "module:model.layers.0.self_attn.q_proj.lora_A")) == [
        "model.layers.0.self_attn.q_proj.lora_A.default.weight"
    ]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_a_head_of_a_peft_model_has_its_slices():
    peft = pytest.importorskip("peft", reason="peft is not installed: tested on adapters named as its own only")
    model = tiny_model("llama", num_attention_heads=4, num_key_value_heads=2, hidden_size=32)
    model = peft.get_peft_model(model, peft.LoraConfig(r=3, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]))
    check_lora(create_param_masks(model, "l0h1"), "base_model.model.model.layers.0.self_attn.")


class Original(torch.nn.Module):
    """A component as TransformerLens 4 wraps it."""

    def __init__(self, component):
        super().__init__()
        self._original_component = component


def test_components_of_transformer_lens_4_are_the_projections():
    model = tiny_model("llama", num_attention_heads=4, num_key_value_heads=2, hidden_size=32)
    plain = create_param_masks(model, "l0h1")
    attention = model.model.layers[0].self_attn
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        setattr(attention, name[0], Original(getattr(attention, name)))
        delattr(attention, name)
    attention.qkv = Original(torch.nn.Linear(32, 64))  # kept, and used no more
    wrapped = create_param_masks(model, "l0h1")
    renamed = {name.replace("_proj.", "._original_component."): mask for name, mask in plain.items()}
    assert wrapped.keys() == renamed.keys()
    assert all(torch.equal(mask, renamed[name]) for name, mask in wrapped.items())
