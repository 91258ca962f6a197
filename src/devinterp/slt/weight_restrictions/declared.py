"""The exceptions: what the model's own structure does not tell, per class of attention module.

Only modules of the transformers library are looked up here, by the name of their class; the same names in a user's
own model prove nothing, and are measured (:mod:`.probe`) instead. Each entry is checked against that measurement by
``tests/benchmarks/masks``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch.nn import Module

    from devinterp.slt.weight_restrictions.model_parts import AttentionUnit

# concat       [all queries | all keys | all values]
# grouped      per key-value head: [its queries | its key | its value]; with one query each, per head [q | k | v]
# mp4-qvk      CodeGen: four shards, each [its queries | its values | its keys]
Layout = Literal["concat", "grouped", "mp4-qvk"]

_FUSED: dict[str, Layout] = {
    "GPT2Attention": "concat",
    "MptAttention": "concat",
    "Phi3Attention": "concat",
    "Phi4MultimodalAttention": "concat",
    "BloomAttention": "grouped",
    "GPTNeoXAttention": "grouped",
    "GPTNeoXJapaneseAttention": "grouped",
    "PersimmonAttention": "grouped",
    "MiniMaxLightningAttention": "grouped",
    "CodeGenAttention": "mp4-qvk",
}

# Attention whose heads are not slices of its weights, and why.
_NO_HEADS: dict[str, str] = {
    "DiffLlamaAttention": "differential attention subtracts one half of the heads from the other",
}


def fused_layout(modules: tuple[Module, ...]) -> Layout | None:
    """Return how a fused query-key-value projection is laid out, or None where nothing is declared."""
    from torch.nn import MultiheadAttention

    for module in modules:
        if isinstance(module, MultiheadAttention):
            return "concat"
        if not _is_transformers(module):
            continue
        for cls in type(module).__mro__:
            if cls.__name__ in _FUSED:
                return _FUSED[cls.__name__]
            if cls.__name__ == "FalconAttention":
                one_group = module.multi_query and not module.new_decoder_architecture
                return "concat" if one_group else "grouped"
            if cls.__name__ == "GPTBigCodeAttention":
                return "concat" if module.multi_query else "grouped"
    return None


def no_heads(modules: tuple[Module, ...]) -> str | None:
    """Return why the heads of this attention cannot be restricted, or None."""
    for module in modules:
        for cls in type(module).__mro__:
            if _is_transformers(module) and cls.__name__ in _NO_HEADS:
                return _NO_HEADS[cls.__name__]
    return None


def key_bias_is_inert(model: Module, unit: AttentionUnit) -> bool:
    """Whether the key projection's bias cannot change any output, so that no head has a use for it.

    It adds the same to a query's score with every key, which the softmax takes away again, unless the keys are rotated
    by position or normalised afterwards, or compete with a sink. Known of the transformers library's attention only.
    """
    if not all(map(_is_transformers, unit.modules)):
        return False
    config = getattr(model, "config", None)
    rotary = any(
        getattr(config, name, None) for name in ("rope_parameters", "rope_theta", "rope_scaling", "rotary_dim")
    )
    rotary = rotary or any("rotary" in name.lower() for module in unit.modules for name in vars(module))
    rotary = rotary or any("Rotary" in type(module).__name__ for module in model.modules())
    inside = [name.lower() for module in unit.modules for name, _ in module.named_modules() if name]
    normalised = any(name.rpartition(".")[2].startswith(("k_", "key_", "qk_")) and "norm" in name for name in inside)
    return not (rotary or normalised or unit.of("extra"))


def _is_transformers(module: Module) -> bool:
    return type(module).__module__.partition(".")[0] == "transformers"
