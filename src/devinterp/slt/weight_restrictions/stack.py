"""Find a model's token embedding, its unembedding and its stack of layers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from devinterp.errors import RestrictionError
from devinterp.slt.weight_restrictions import module_names
from devinterp.slt.weight_restrictions.attention import find_units
from devinterp.slt.weight_restrictions.model_parts import Layer
from devinterp.slt.weight_restrictions.module_tree import canonical_names, nameable
from devinterp.wording import one_of, shown

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import Tensor
    from torch.nn import Module

_POSITIONAL = ("pos", "wpe", "type", "segment", "per_layer", "hash", "rel", "speaker", "token_shift")
_UNEMBED = re.compile(
    r"(^|\.)(lm_heads?|unembed(ding)?|embed_out|output_projection|head|to_logits|logits|output|classifier)(\.\d+)?$"
)


def find_embedding(model: Module) -> list[str]:
    """Return the names of the token embedding's parameters, without positions and token types."""
    weight = getattr(_ask(model, "get_input_embeddings"), "weight", None)
    weights = _find_embedding_weights(model) if weight is None else [weight]
    canonical = canonical_names(model)
    found = [canonical[id(weight)] for weight in weights if id(weight) in canonical]
    if not found:
        raise RestrictionError(
            "The token embedding could not be told apart from the model's other parameters.",
            expected="get_input_embeddings(), or one torch.nn.Embedding that is not for positions",
            remedy=nameable(model),
        )
    return found


def find_unembedding(model: Module) -> list[str]:
    """Return the names of the parameters of the map to logits; with tied weights the embedding's is among them."""
    canonical = canonical_names(model)
    module = _ask(model, "get_output_embeddings")
    own = [] if module is None else list(module.parameters(recurse=False))
    params = own or [param for other in _find_unembeddings(model) for param in other.parameters(recurse=False)]
    found = [canonical[id(param)] for param in params if id(param) in canonical]
    if not found:
        raise RestrictionError(
            "The unembedding could not be told apart from the model's other parameters.",
            expected="get_output_embeddings(), or one linear map to the vocabulary outside the layers",
            remedy=nameable(model),
        )
    return found


def find_layers(model: Module, path: str | None = None) -> list[Layer]:
    """Return the layers of the language model's stack.

    ``path`` is that of the list of layers. Raises `RestrictionError` where there is no stack, or several and no path.
    """
    lists = {
        name: list(module.children())
        for name, module in model.named_modules(remove_duplicate=False)
        if _is_list(module) and any(True for _ in module.children())
    }
    if path is not None:
        if path not in lists:
            raise RestrictionError(
                f"The model has no list of modules at {path!r}.",
                expected=one_of(sorted(lists)),
                found=repr(path),
            )
        return _with_parallel_lists(model, path, lists)
    stacks = _outermost([name for name, blocks in lists.items() if _are_layers(model, blocks, attention=True)])
    if not stacks:
        stacks = _outermost([name for name, blocks in lists.items() if _are_layers(model, blocks, attention=False)])
    stacks = [name for name in stacks if not module_names.is_other_modality(name)] or stacks
    stacks = [name for name in stacks if not module_names.is_cross_attention(name)] or stacks
    if any("decoder" in name.split(".") for name in stacks):  # an encoder-decoder: its language model is the decoder
        stacks = [name for name in stacks if "encoder" not in name.split(".")]
    if len(stacks) != 1:
        raise RestrictionError(
            "The model's layers could not be found." if not stacks else "The model has more than one stack of layers.",
            expected="one ModuleList of transformer layers",
            found=shown(stacks) if stacks else f"{type(model).__name__} with module lists {shown(sorted(lists))}",
            remedy=("Say which with layers='path.of.the.list'. " if lists else "") + nameable(model),
        )
    return _with_parallel_lists(model, stacks[0], lists)


def _ask(model: Module, method: str) -> Module | None:
    try:
        found: Module | None = getattr(model, method)()
    except (AttributeError, NotImplementedError, TypeError):
        return None
    return found


def _find_embedding_weights(model: Module) -> list[Tensor]:
    """Return the weight of the one token embedding, or of all that a list holds (one per codebook)."""
    from torch.nn import Embedding

    for name, param in model.named_parameters():
        if name.rpartition(".")[2] == "W_E":  # TransformerLens
            return [param]
    found = {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, Embedding) and not any(word in name.lower() for word in _POSITIONAL)
    }
    return list(found.values()) if _are_one(found) else []


def _find_unembeddings(model: Module) -> list[Module]:
    from torch.nn import Linear

    weight: Tensor | None = getattr(_ask(model, "get_input_embeddings"), "weight", None)
    weights = _find_embedding_weights(model) if weight is None else [weight]
    ids, sizes = {id(weight) for weight in weights}, {weight.shape[0] for weight in weights}
    modules: dict[str, Module] = dict(model.named_modules())
    for module in modules.values():
        if any(own == "W_U" for own, _ in module.named_parameters(recurse=False)):  # TransformerLens
            return [module]
    inside = _in_layers(model)
    linear = {
        name: module
        for name, module in modules.items()
        if isinstance(module, Linear) and id(module.weight) not in inside
    }
    named = {name: module for name, module in linear.items() if _UNEMBED.search(name)}
    tied = {name: module for name, module in linear.items() if id(module.weight) in ids}
    sized = {name: module for name, module in linear.items() if module.out_features in sizes}
    for candidates in (named, tied, sized):
        if candidates and _are_one(candidates):
            return list(candidates.values())
    return []


def _in_layers(model: Module) -> set[int]:
    try:
        layers = find_layers(model)
    except RestrictionError:
        return set()
    return {id(param) for layer in layers for block in layer.parts.values() for param in block.parameters()}


def _are_one(found: Collection[str]) -> bool:
    """Whether these are one module, or the items of one list."""
    return len(found) == 1 or len({re.sub(r"\d+$", "", name) for name in found}) == 1


def _is_list(module: Module) -> bool:
    from torch.nn import ModuleDict, ModuleList, Sequential

    return isinstance(module, (ModuleList, ModuleDict, Sequential))


def _are_layers(model: Module, blocks: list[Module], *, attention: bool) -> bool:
    canonical = canonical_names(model)
    if attention:
        with_units = [block for block in blocks if find_units({"": block}, canonical)]
        # one list alone, between embeddings and norms, is not a layer but the stack itself
        return bool(with_units) and not (len(with_units) == 1 and _is_list(with_units[0]))
    return all(any(True for _ in block.children()) and any(True for _ in block.parameters()) for block in blocks)


def _outermost(paths: list[str]) -> list[str]:
    return [
        path
        for path in paths
        if not any(path != other and path.startswith(f"{other}." if other else "") for other in paths)
    ]


def _with_parallel_lists(model: Module, path: str, lists: dict[str, list[Module]]) -> list[Layer]:
    parts = {path: lists[path]}
    canonical = canonical_names(model)
    if all(unit.path == "" for block in lists[path] for unit in find_units({"": block}, canonical)) and _is_bare(
        lists[path][0]
    ):
        parent = path.rpartition(".")[0]
        parts |= {
            other: blocks
            for other, blocks in lists.items()
            if other.rpartition(".")[0] == parent and len(blocks) == len(lists[path])
        }
    if len(parts) == 1:
        return [Layer(i, f"{path}.{i}", {"": block}) for i, block in enumerate(lists[path])]
    ordered = [name for name in lists if name in parts]
    return [
        Layer(i, f"{path}.{i}", {name.rpartition(".")[2]: parts[name][i] for name in ordered})
        for i in range(len(lists[path]))
    ]


def _is_bare(block: Module) -> bool:
    """Whether a block is an attention module itself, with nothing else in it."""
    return all(module_names.role_of(name) is not None for name, _ in block.named_parameters())
