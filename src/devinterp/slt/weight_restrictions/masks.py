"""Masks of the parameters that a restriction selects, from the structure of a model."""

from __future__ import annotations

import difflib
from functools import partial
from typing import TYPE_CHECKING, Literal

from devinterp.errors import RestrictionError
from devinterp.slt.weight_restrictions import attention, grammar, heads, measure_layout, module_tree, stack
from devinterp.wording import one_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from torch.nn import Module, Parameter

    from devinterp.slt.weight_restrictions.grammar import Restriction
    from devinterp.slt.weight_restrictions.model_parts import AttentionUnit, Heads, Layer

__all__ = ["create_param_masks"]


def create_param_masks(
    model: Module,
    restriction: str | Sequence[str],
    *,
    num_heads: int | None = None,
    num_kv_heads: int | None = None,
    qkv_layout: Literal["concat", "grouped"] | None = None,
    layers: str | None = None,
) -> dict[str, Tensor | None]:
    """Return the masks of the parameters that a restriction selects.

    ======================  ==========================================================================================
    restriction             selects
    ======================  ==========================================================================================
    ``"full"``              every parameter
    ``"l0"``                every parameter of layer 0, norms included
    ``"l0 attn"``           the weights and biases of its self-attention, without norms
    ``"l0 mlp"``            those of its feed-forward part, experts and routers included, without norms
    ``"l0h1"``              query head 1: its slices of the query and output projections, and its key-value head's of
                            the key and value projections (which other query heads share in grouped-query attention);
                            biases likewise, but not the output projection's, which belongs to no head, nor a key bias
                            that no output can depend on (attention without rotary positions)
    ``"l0g0"``              key-value group 0: one key-value head and every query head that reads it
    ``"embed"``             the token embedding
    ``"unembed"``           the map to logits, with its bias; the token embedding if the two are tied
    ``"module:conv1"``      every parameter of that module, whatever the model is, or that parameter. In the path ``*``
                            stands for one name or a part of it, ``**`` for any number of names:
                            ``"module:layers.*.mlp"``, ``"module:**.bias"``
    ``"module:fc1.w[3]"``   a slice of a parameter, read as numpy does: ``[3]`` a row (of a ``torch.nn.Linear`` or
                            convolution an output: a neuron, a channel), ``[:, 5]`` a column (an input), ``[0:4]``,
                            ``[..., -1]``. With stars it is taken of every parameter that they match:
                            ``"module:fc1.*[3]"`` is neuron 3 with its bias
    ``"class:LayerNorm"``   every parameter of the modules of a class, or of one that derives from it; stars may stand
                            in it: ``"class:*Norm*"``
    a parameter's name      that parameter
    a list of these         their union
    ======================  ==========================================================================================

    Layers, heads, groups and places count from 0. Case does not matter except in names of parameters, modules and
    classes; ``"L0 H1"`` is ``"l0h1"``. Each of these strings may be the name of its own group in a study.

    Parameters
    ----------
    model : torch.nn.Module
        The model; nothing of it changes.
    restriction : str or sequence of str
        What to select.
    num_heads, num_kv_heads : int, optional
        Numbers of query and of key-value heads, for models that do not say.
    qkv_layout : {"concat", "grouped"}, optional
        Order of a fused query-key-value projection, for models that cannot be run to find out: ``"concat"`` is
        [queries | keys | values]; ``"grouped"`` is [its queries | its key | its value] per key-value head.
    layers : str, optional
        Path of the ``ModuleList`` of layers, for models with several stacks.

    Returns
    -------
    dict of str to Tensor or None
        For each selected parameter, in the model's order, None if all of it is selected; else a boolean CPU tensor of
        the parameter's shape, a read-only view that takes the memory of one axis.

    Raises
    ------
    RestrictionError
        The restriction is none of the above, the model has no such part, or its structure cannot be found out.

    Notes
    -----
    A fused projection of a model that is not from the transformers library is measured: the model runs once on six
    tokens, in evaluation mode, up to that layer. Weights, gradients, modes and generators stay as they were.

    Examples
    --------
    >>> masks = create_param_masks(model, "l0h1")
    >>> tree = sample(model, dataset, observables, lr=1e-3, n_beta=30.0, param_masks=masks, num_draws=5)
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    >>> {name: int(mask.sum()) for name, mask in create_param_masks(net, "module:0.*[2]").items()}
    {'0.weight': 9, '0.bias': 1}
    """
    parsed = _parse(restriction)
    architecture = Architecture(
        model, num_heads=num_heads, num_kv_heads=num_kv_heads, qkv_layout=qkv_layout, layers=layers
    )
    return union(architecture.params, [architecture.select(one) for one in parsed])


def _parse(restriction: object) -> list[grammar.Restriction]:
    texts = [restriction] if isinstance(restriction, str) else restriction
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise RestrictionError(
            "A weight restriction must be a string or a list of strings.",
            expected=grammar.FORMS,
            found=f"{type(restriction).__name__}: {restriction!r}",
        )
    if not texts:
        raise RestrictionError("An empty list of weight restrictions selects nothing.", expected=grammar.FORMS)
    parsed = [grammar.parse(text) for text in texts]
    if len(parsed) > 1 and any(one.kind == "full" for one in parsed):
        raise RestrictionError(
            "'full' cannot be combined with other restrictions.", found=str(list(texts)), remedy="Use 'full' alone."
        )
    return parsed


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
                expected=f"a layer that has one: {one_of(with_part)}"
                if with_part
                else "a model whose layers have that part",
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
                expected=f"a layer that has one: {one_of(others)}"
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
