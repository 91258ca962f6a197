"""Tiny, randomly initialised models of every causal language model architecture of the installed transformers.

Configurations are shrunk by the names of their fields, and what a family is known for stays: fewer key-value heads than
heads where its default has them, a head width of its own where that is not ``hidden_size / num_attention_heads``, and
one layer of every kind that the default mixes. Nothing is downloaded. Runs under the reference package's Python too.
"""

from __future__ import annotations

import inspect
import os
import re
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

HEADS, HEAD_DIM, OWN_HEAD_DIM, VOCAB, POSITIONS = 4, 8, 12, 64, 64
HIDDEN = HEADS * HEAD_DIM
MAX_PARAMETERS = 10_000_000

# (pattern of a field's name, value); the first match decides, and only larger integers shrink.
_SIZES: list[tuple[str, int]] = [
    (r"_token_(id|index)$", 3),
    (r"vocab", VOCAB),
    (r"(^|_)(num_)?(n_)?positions?$|max_\w*position|max_seq_len|n_ctx|model_max_length|max_sequence_length", POSITIONS),
    (r"experts?_per_tok|topk$|top_k$|moe_k$|^topk_group$|^n_group$|num_expert_group", 2),
    (r"(num|n)_(\w+_)?experts$|expert_num$", 4),
    (r"head_dim$|d_head$|kv_channels|rotary_dim|^dim_head$|_d_kv$|^d_kv$|attention_head_size", HEAD_DIM),
    (r"lora_rank|_rank$", 16),
    (r"heads?(_per_layer)?$", HEADS),
    (r"^(hidden_size|d_model|n_embd|embed_dim|dim|word_embed_proj_dim|(\w+_)?embedding_(size|dim)|emb_dim)$", HIDDEN),
    (r"layers$|^n_layer$|^num_blocks$", 2),
    (r"intermediate|ffn|inner|^dff$|^dim_ff$|feed_forward_size|hidden_size|_dim$|_size$|width", 2 * HIDDEN),
]
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "swa_num_key_value_heads", "kv_n_heads")
_HIDDEN = ("hidden_size", "d_model", "n_embd")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1}

# What field names do not tell.
_EXTRA: dict[str, dict[str, Any]] = {
    "bamba": {**_MAMBA, "attn_layer_indices": [1]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8}, "ffn_config": {"hidden_size": 32}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 2 * HIDDEN},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {**_MAMBA, "layer_types": ["linear_attention", "full_attention"]},
    "hunyuan_v1_dense": {"head_dim": HEAD_DIM},
    "hunyuan_v1_moe": {"head_dim": HEAD_DIM},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2, "full_attn_idxs": [1]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"head_dim": HEAD_DIM, "qk_head_dim": 16},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1},
    "ministral": {"head_dim": HEAD_DIM},
    "nemotron": {"num_key_value_heads": 2},
    "nemotron_h": {"n_groups": 1, "n_group": 1, "topk_group": 1, "mamba_num_heads": 4, "mamba_head_dim": 16},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "lru_width": HIDDEN},
    "reformer": {
        "is_decoder": True,
        "attn_layers": ["local", "lsh"],
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [16, 16],
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
    },
    "rwkv": {"attention_hidden_size": HIDDEN},
    "xlstm": {"embedding_dim": HIDDEN, "num_heads": 4},
    "xlm": {"emb_dim": HIDDEN},
    "zamba2": {
        "mamba_headdim": 16,
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "hybrid_layer_ids": [1, 3],
        "num_mem_blocks": 1,
    },
    "zamba": {
        "num_hidden_layers": 6,
        "layers_block_type": ["linear_attention", "hybrid"] * 3,
        "attention_hidden_size": 2 * HIDDEN,
        "attention_head_dim": 16,
        "num_key_value_heads": HEADS,
    },
}
_INDEXER = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 64,
    "indexer_compress_ratio": 4,
}
_SLIDING = {
    "swa_num_attention_heads": HEADS,
    "swa_num_key_value_heads": HEADS,
    "swa_q_lora_rank": 16,
    "swa_kv_lora_rank": 16,
    "swa_head_dim": 16,
    "swa_qk_nope_head_dim": 8,
    "swa_v_head_dim": 8,
}
_EXTRA |= {
    "qwen4_exp_text": _INDEXER,
    "qwen4_exp": {"text_config": _INDEXER},
    "dots3_note_text": _SLIDING,
    "dots3_note": {
        "text_config": _SLIDING,
        "audio_config": {"adapter_input_size": HIDDEN, "adapter_out_dim": HIDDEN},
        "vision_config": {"adapter_in_dim": HIDDEN, "adapter_out_dim": HIDDEN},
    },
}


class CannotBuild(Exception):
    """An architecture that no tiny configuration builds here; the message says why."""


def causal_lm_types() -> list[str]:
    """Model types of the installed transformers that AutoModelForCausalLM knows."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def preload() -> None:
    """Import what every architecture needs, once, for the processes forked from this one."""
    import importlib

    for module in (
        "modeling_utils",
        "generation",
        "masking_utils",
        "modeling_layers",
        "models.auto",
        "models.llama.modeling_llama",
    ):
        importlib.import_module(f"transformers.{module}")


def tiny_config(model_type: str, **override: Any) -> Any:
    """A configuration of this type, small enough to build in milliseconds."""
    from transformers import CONFIG_MAPPING

    if model_type.startswith("gemma4") and model_type.endswith(
        "assistant"
    ):  # drafts: every layer reads another model's keys
        text = tiny_config(
            model_type.replace("assistant", "text"), hidden_size_per_layer_input=0, vocab_size_per_layer_input=0
        )
        return CONFIG_MAPPING[model_type](text_config=text, backbone_hidden_size=HIDDEN, **override)
    return _shrunk(CONFIG_MAPPING[model_type], {**_EXTRA.get(model_type, {}), **override})


def tiny_model(model_type: str, seed: int = 0, **override: Any) -> Any:
    """A randomly initialised float32 model of this type in evaluation mode; raises CannotBuild."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    try:
        config = tiny_config(model_type, **override)

        def build() -> Any:
            if model_type.startswith("musicgen"):  # the language model is the decoder of the configuration
                import transformers

                return getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type])(config.decoder)
            return AutoModelForCausalLM.from_config(config)

        with torch.device("meta"):
            size = sum(param.numel() for param in build().parameters())
        if size > MAX_PARAMETERS:
            raise CannotBuild(f"{size:,} parameters are left when every known field is shrunk")
        torch.manual_seed(seed)
        model = build().float().eval()
    except CannotBuild:
        raise
    except Exception as error:
        message = " ".join(str(error).split())
        raise CannotBuild(f"{type(error).__name__}: {message[:200]}") from error
    with torch.no_grad():  # norms and gates start at 0 or 1, biases at 0: nothing may cancel by accident
        for param in model.parameters():
            param.add_(0.05 * torch.randn(param.shape))
    if hasattr(model, "set_default_language"):
        model.set_default_language("en_XX")
    return model


def _first(values: dict[str, Any], names: tuple[str, ...]) -> int | None:
    return next((values[name] for name in names if isinstance(values.get(name), int)), None)


def _kept_layers(values: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
    """The per-layer lists of a configuration, and one layer of each kind (four at most, two at least)."""
    count = _first(values, _LAYERS)
    lists = {
        k: v for k, v in values.items() if isinstance(v, (list, tuple)) and count and count > 3 and len(v) == count
    }
    kinds: dict[str, int] = {}
    for index, kind in enumerate(zip(*lists.values(), strict=True)):
        kinds.setdefault(repr(kind), index)
    kept = sorted(kinds.values())[:4]
    kept += [index for index in range(4) if index not in kept][: max(0, 2 - len(kept))]
    return lists, sorted(kept)


def _shrunk(cls: Any, extra: dict[str, Any]) -> Any:
    needed = {"text_config": extra["text_config"]} if not _builds(cls) and "text_config" in extra else {}
    default = cls(**needed)
    values = {k: v for k, v in default.to_dict().items() if not isinstance(v, dict)}
    heads, hidden = _first(values, _HEADS), _first(values, _HIDDEN)
    lists, kept = _kept_layers(values)
    layers = _first(values, _LAYERS)
    new: dict[str, Any] = {}
    for name, value in values.items():
        if name in lists:
            new[name] = [_shrunk_size(name, value[index]) for index in kept]
        elif isinstance(value, bool) or not isinstance(value, int):
            new[name] = [1] if name.endswith("token_id") and isinstance(value, list) else value
        elif name in _KV_HEADS and heads:
            new[name] = HEADS if value == heads else 1 if value == 1 else 2
        elif name == "head_dim" and heads and hidden:
            own = value * heads != hidden and "qk_rope_head_dim" not in values
            new[name] = OWN_HEAD_DIM if own else HEAD_DIM
        elif name in _LAYERS or (value == layers and name.endswith("layers")):
            new[name] = len(kept)
        else:
            new[name] = _shrunk_size(name, value)
    for name in getattr(cls, "sub_configs", {}) or {}:
        sub = getattr(default, name, None)
        if hasattr(sub, "to_dict"):
            inner = extra.get(name)
            new[name] = _shrunk(type(sub), inner if isinstance(inner, dict) else {})
    for name in ("chunk_size_feed_forward", "transformers_version"):
        new.pop(name, None)
    rest = {name: value for name, value in extra.items() if name not in new or not hasattr(new[name], "to_dict")}
    return cls(**{**new, **rest})


def _builds(cls: Any) -> bool:
    try:
        cls()
    except Exception:
        return False
    return True


def _shrunk_size(name: str, value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        for pattern, size in _SIZES:
            if re.search(pattern, name):
                return min(value, size)
    return value


def accepts_input_ids(model: Any) -> bool:
    """Whether the model's forward pass takes input_ids."""
    return "input_ids" in inspect.signature(model.forward).parameters
