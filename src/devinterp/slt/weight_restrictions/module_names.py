"""What names say about modules and parameters; the only place where names are matched."""

from __future__ import annotations

import re
from typing import Literal

Role = Literal["q", "k", "v", "qkv", "kv", "o", "extra"]

# Names of projections inside an attention module: lower case, without leading underscores.
_ROLES: dict[Role, str] = {
    "q": "q q_proj q_lin q_linear query query_proj query_projection wq w_q project_q to_q linear_q q_b_proj "
    "q_gate_proj b_q",
    "k": "k k_proj k_lin k_linear key key_proj key_projection wk w_k project_k to_k linear_k b_k",
    "v": "v v_proj v_lin v_linear value value_proj value_projection wv w_v project_v to_v linear_v b_v",
    "qkv": "c_attn qkv qkv_proj query_key_value wqkv w_qkv attn_qkv w_pack c_qkv to_qkv qkv_linear linear_qkv "
    "in_proj_weight in_proj_bias",
    # keys and values of multi-head latent attention, each head's rows together
    "kv": "kv_b_proj",
    "o": "o o_proj out_proj out_lin c_proj wo w_o to_out attention_out dense out proj output output_proj linear_o "
    "proj_out attn_out resid_proj",
    # no projections of the residual stream to q, k or v, yet with one slice per query head
    "extra": "gate_proj g_proj gate_bias sinks sink_proj r_proj",
}
_BY_NAME: dict[str, Role] = {name: role for role, listed in _ROLES.items() for name in listed.split()}
_WRAPPERS = frozenset({"linear", "base_layer", "_original_component", "weight", "bias"})

_NORM = re.compile(r"norm(\d|_|$)|layer_?norm|^ln(_?\w{1,3})?$", re.I)
_NORM_CLASS = re.compile(r"norm(?!.*(attention|self|output|intermediate|layer|block|mlp|model))", re.I)
_MLP = re.compile(
    r"^(mlps?|ffns?|ff|feed_?forward|block_sparse_moe|moe|mlp_block|router|experts|(shared_|moe_|routed_)(mlp|experts?))$",
    re.I,
)
_MLP_CLASS = re.compile(r"(mlp|feedforward|ffn|moe|moeblock|experts?)$", re.I)
_ATTENTION = re.compile(r"(^|_)(att|attn|attention)(_|$)|attention|self_att", re.I)
_CROSS = re.compile(r"cross|encoder_att|enc_att|encdec", re.I)
_OTHER_MODALITY = re.compile(r"vision|visual|image|audio|speech|video|(^|_)vq|codec|depth_decoder|(^|\.)mtp", re.I)


def role_of(path: str) -> Role | None:
    """Return the role of the projection that a parameter path names, if it names one."""
    leaf = projection_of(path).rpartition(".")[2]
    return _BY_NAME.get(leaf.lower().lstrip("_"))


def projection_of(path: str) -> str:
    """Return the path of the projection that a parameter belongs to: without ``weight``, ``bias`` and wrappers."""
    parts = path.split(".")
    while len(parts) > 1 and parts[-1] in _WRAPPERS:
        parts.pop()
    return ".".join(parts)


def is_norm(name: str, class_name: str) -> bool:
    """Whether a module of this name and class normalises activations."""
    return bool(_NORM_CLASS.search(class_name) or _NORM.search(name))


def is_mlp(name: str, class_name: str) -> bool:
    """Whether a module of this name and class is a feed-forward block, router or set of experts."""
    return bool(_MLP.match(name) or _MLP_CLASS.search(class_name))


def is_attention(name: str) -> bool:
    """Whether a module's name says that it is attention, linear attention included."""
    return bool(_ATTENTION.search(name))


def is_cross_attention(path: str) -> bool:
    """Whether a module's path says that its keys and values come from elsewhere than the layer's input."""
    return bool(_CROSS.search(path))


def is_other_modality(path: str) -> bool:
    """Whether a path lies in a vision, audio or speculative tower beside the language model."""
    return bool(_OTHER_MODALITY.search(path))
