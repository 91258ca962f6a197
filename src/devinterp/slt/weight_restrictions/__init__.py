"""Weight restrictions: sample only some of a model's weights.

A restriction names a part of a transformer, ``"l0h1"`` is head 1 of layer 0, or of any module tree, ``"module:conv1"``.
:func:`create_param_masks`, where the grammar stands, turns it into the masks that ``sample()`` takes, for HuggingFace
models, TransformerLens models and any other ``torch.nn.Module``. There is no table of architectures: layers,
projections and heads are read from the model itself, from its configuration, module tree and shapes, and where these do
not decide (a fused projection of unknown order), from which weights the attention's output depends on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from devinterp._renamed import successor
from devinterp.errors import RestrictionError
from devinterp.slt.weight_restrictions import grammar
from devinterp.slt.weight_restrictions.preview import RestrictionPreview, SelectedParameter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from torch.nn import Module

    ParamMasks = dict[str, Tensor | None]

__all__ = ["RestrictionPreview", "SelectedParameter", "create_param_masks", "preview_restriction"]


def create_param_masks(
    model: Module,
    restriction: str | Sequence[str],
    *,
    num_heads: int | None = None,
    num_kv_heads: int | None = None,
    qkv_layout: Literal["concat", "grouped"] | None = None,
    layers: str | None = None,
) -> ParamMasks:
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
    from devinterp.slt.weight_restrictions.masks import Architecture, union

    parsed = _parse(restriction)
    architecture = Architecture(
        model, num_heads=num_heads, num_kv_heads=num_kv_heads, qkv_layout=qkv_layout, layers=layers
    )
    return union(architecture.params, [architecture.select(one) for one in parsed])


def preview_restriction(
    model: Module,
    restriction: str | Sequence[str] | Mapping[str, Tensor | None],
    *,
    num_heads: int | None = None,
    num_kv_heads: int | None = None,
    qkv_layout: Literal["concat", "grouped"] | None = None,
    layers: str | None = None,
) -> RestrictionPreview:
    """Return what a restriction selects: counts and percentages per parameter, as text and in notebooks.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    restriction : str, sequence of str, or mapping of str to Tensor or None
        A restriction, or masks such as :func:`create_param_masks` returns.
    num_heads, num_kv_heads, qkv_layout, layers
        As in :func:`create_param_masks`.

    Returns
    -------
    RestrictionPreview

    Raises
    ------
    RestrictionError
        As :func:`create_param_masks`; or the masks do not fit the model.
    """
    from collections.abc import Mapping as MappingType

    from devinterp.slt.weight_restrictions.preview import preview

    if isinstance(restriction, MappingType):
        from devinterp.slt.sampling.inputs.parameter_masks import check_masks

        return preview(model, check_masks(model, restriction, "restriction"), "masks")
    masks = create_param_masks(
        model,
        restriction,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        qkv_layout=qkv_layout,
        layers=layers,
    )
    title = restriction.strip() if isinstance(restriction, str) else " + ".join(one.strip() for one in restriction)
    return preview(model, masks, title)


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


if not TYPE_CHECKING:  # a checker shall know the names that there are

    def __getattr__(name: str) -> Any:
        return successor(__name__, name)
