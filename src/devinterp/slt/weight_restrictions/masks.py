"""From a restriction and a model's structure to masks."""

from __future__ import annotations

import difflib
from functools import partial
from typing import TYPE_CHECKING

from devinterp.errors import RestrictionError
from devinterp.slt.weight_restrictions import attention, grammar, heads, measure_layout, module_tree, stack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from torch.nn import Module, Parameter

    from devinterp.slt.weight_restrictions.grammar import Restriction
    from devinterp.slt.weight_restrictions.parts import AttentionUnit, Heads, Layer


class Architecture:
    """A model's structure, found out as far as a restriction needs it.

    Parameters
    ----------
    model : Module
        The model.
    num_heads, num_kv_heads : int, optional
        Taken on the caller's word.
    qkv_layout : str, optional
        Layout of fused projections, on the caller's word.
    layers : str, optional
        Path of the list of layers.
    """

    def __init__(
        self,
        model: Module,
        *,
        num_heads: int | None = None,
        num_kv_heads: int | None = None,
        qkv_layout: str | None = None,
        layers: str | None = None,
    ) -> None:
        self.model = model
        self.params = dict(model.named_parameters())
        self.canonical = module_tree.canonical_names(model)
        self.num_heads, self.num_kv_heads, self.qkv_layout = num_heads, num_kv_heads, qkv_layout
        self.layers_path = layers

    def select(self, restriction: Restriction) -> dict[str, Tensor | None]:
        """Return the masks of one restriction; raises RestrictionError where the model has no such part."""
        match restriction.kind:
            case "full":
                return dict.fromkeys(self.params)
            case "embed":
                return dict.fromkeys(stack.find_embedding(self.model))
            case "unembed":
                return dict.fromkeys(stack.find_unembedding(self.model))
            case "module":
                return module_tree.select_path(self.model, restriction)
            case "class":
                return module_tree.select_class(self.model, restriction)
            case "name":
                return {self._named(restriction.text): None}
            case _:
                return self._in_layer(restriction)

    def _in_layer(self, restriction: Restriction) -> dict[str, Tensor | None]:
        layers = stack.find_layers(self.model, self.layers_path)
        assert restriction.layer is not None
        if restriction.layer >= len(layers):
            raise RestrictionError(
                f"Restriction {restriction.text!r} names a layer that the model does not have.",
                expected=f"a layer from 0 to {len(layers) - 1}",
                found=str(restriction.layer),
            )
        layer = layers[restriction.layer]
        match restriction.kind:
            case "layer":
                found = [self.canonical[id(p)] for block in layer.parts.values() for p in block.parameters()]
            case "attn":
                found = attention.attention_params(layer, self.canonical)
            case "mlp":
                found = attention.mlp_params(layer, self.canonical)
            case _:
                return self._head(restriction, layer, layers)
        if not found:
            with_part = [
                other.index
                for other in layers
                if (attention.attention_params if restriction.kind == "attn" else attention.mlp_params)(
                    other, self.canonical
                )
            ]
            raise RestrictionError(
                f"Restriction {restriction.text!r} selects nothing: that layer has no such part.",
                expected=f"one of the layers {with_part}" if with_part else "a model whose layers have that part",
                found=_classes(layer),
                remedy=module_tree.nameable(self.model),
            )
        return dict.fromkeys(found)

    def _head(self, restriction: Restriction, layer: Layer, layers: list[Layer]) -> dict[str, Tensor | None]:
        units = attention.find_units(layer.parts, self.canonical)
        if len(units) != 1:
            others = [o.index for o in layers if len(attention.find_units(o.parts, self.canonical)) == 1]
            raise RestrictionError(
                f"Restriction {restriction.text!r} needs a layer with one self-attention of known projections.",
                expected=f"one of the layers {others}"
                if others
                else "projections with names such as q_proj, c_attn, W_Q",
                found=f"{len(units)} in layer {layer.index}, {_classes(layer)}",
                remedy=module_tree.nameable(self.model),
            )
        found = self.heads(units[0])
        index = restriction.index
        assert index is not None
        count = found.num_heads if restriction.kind == "head" else found.num_kv_heads
        if index >= count:
            what = "head" if restriction.kind == "head" else "key-value group"
            raise RestrictionError(
                f"Restriction {restriction.text!r} names a {what} that layer {layer.index} does not have.",
                expected=f"a {what} from 0 to {count - 1}",
                found=str(index),
            )
        return (
            head_masks(self.params, found, head=index)
            if restriction.kind == "head"
            else head_masks(self.params, found, group=index)
        )

    def heads(self, unit: AttentionUnit) -> Heads:
        """Return where each head of an attention unit lies."""
        found = heads.find_heads(
            self.model,
            unit,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            layout=self.qkv_layout,
            measure=partial(measure_layout.measure_heads, self.model, unit, num_heads=self.num_heads),
        )
        return heads.with_adapters(self.params, unit, found)

    def _named(self, text: str) -> str:
        if text in self.params:
            return text
        modules = [f"module:{name}" for name, _ in self.model.named_modules() if name]
        known = [*modules, *self.params, "full", "embed", "unembed", "l0 attn", "l0 mlp", "l0h0"]
        # a part of a name ("lora", or one without a wrapper's prefix), else a slip
        close = [name for name in known if len(text) > 2 and text in name][:3] or difflib.get_close_matches(text, known)
        raise RestrictionError(
            f"Unknown restriction {text!r}.",
            expected=grammar.FORMS,
            found=repr(text),
            remedy=f"Did you mean {' or '.join(map(repr, close))}?" if close else module_tree.nameable(self.model),
        )


def head_masks(
    params: Mapping[str, Parameter], found: Heads, *, head: int | None = None, group: int | None = None
) -> dict[str, Tensor | None]:
    """Return boolean masks of one query head with its key-value head, or of one key-value head with its query heads."""
    per = found.num_heads // found.num_kv_heads
    masks: dict[str, Tensor | None] = {}
    for part in found.slices:
        if head is not None:
            chosen = (part.query == head) | (part.key_value == head // per)
        else:
            assert group is not None
            chosen = (part.query.div(per, rounding_mode="floor") == group) | (part.key_value == group)
        param = params[part.name]
        shape = [1] * param.dim()
        shape[part.axis] = -1
        masks[part.name] = chosen.view(shape).expand(param.shape)
    return masks


def _classes(layer: Layer) -> str:
    return ", ".join(type(block).__name__ for block in layer.parts.values())


def union(
    params: Mapping[str, Parameter], selections: Sequence[Mapping[str, Tensor | None]]
) -> dict[str, Tensor | None]:
    """Return the union of masks, in the order of the model's parameters."""
    merged: dict[str, Tensor | None] = {}
    for name in params:
        masks = [selection[name] for selection in selections if name in selection]
        if not masks:
            continue
        mask = masks[0]
        for other in masks[1:]:
            mask = None if mask is None or other is None else mask | other
        merged[name] = mask
    return merged
