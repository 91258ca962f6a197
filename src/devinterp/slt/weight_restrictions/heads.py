"""Divide the projections of an attention unit among its heads."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from devinterp.errors import RestrictionError
from devinterp.slt.weight_restrictions import declared
from devinterp.slt.weight_restrictions.model_parts import Heads, HeadSlices
from devinterp.wording import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor
    from torch.nn import Module, Parameter

    from devinterp.slt.weight_restrictions.model_parts import AttentionUnit, Projection

_NUM_HEADS = (
    "num_heads",
    "num_attention_heads",
    "n_heads",
    "n_head",
    "num_q_heads",
    "nhead",
    "heads",
    "decoder_attention_heads",
)
_NUM_KV = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_kv_head", "n_key_value_heads", "kv_heads")
_HEAD_DIM = ("head_dim", "attention_head_size", "d_head", "head_size", "dim_head", "d_kv", "kv_channels")

# Axes of adapters' parameters along which a projection's outputs, or its inputs, lie.
_ADAPTER_OUTPUTS = {"lora_B": 0, "lora_magnitude_vector": 0}
_ADAPTER_INPUTS = {"lora_A": 1}


def find_heads(
    model: Module,
    unit: AttentionUnit,
    *,
    num_heads: int | None = None,
    num_kv_heads: int | None = None,
    layout: str | None = None,
    measure: Callable[[], Heads] | None = None,
) -> Heads:
    """Return the heads of one attention unit and the slices of its parameters that belong to each.

    The caller's word, ``num_heads``, ``num_kv_heads`` and ``layout`` ("concat" or "grouped", of a fused projection;
    see :mod:`.declared`), goes before everything else. ``measure`` finds the heads by running the model, and is
    called where names and shapes do not decide. Raises `RestrictionError` where the heads are not slices of the
    weights, or cannot be found out.
    """
    reason = declared.no_heads(unit.modules)
    if reason is not None:
        raise RestrictionError(
            f"The heads of {type(unit.modules[-1]).__name__} cannot be restricted: {reason}.",
            remedy="Restrict the whole attention (as in 'l0 attn') instead.",
        )
    n_query = num_heads or _count_heads(model, unit)
    fused = unit.of("qkv")
    layout = (layout or declared.fused_layout(unit.modules)) if fused else None
    if n_query is None or (fused and layout is None):
        if measure is None:
            raise unknown_heads(unit)
        return measure()
    for projection in unit.of("q"):
        _even(projection, output_axis(projection), n_query, of_query=True)
    n_kv = num_kv_heads or _count_kv_heads(model, unit, n_query)
    slices = _slices(unit, n_query, n_kv, layout)
    if declared.key_bias_is_inert(model, unit):
        inert = {p.name for p in unit.of("k", bias=True)}
        slices = [part for part in slices if part.name not in inert]
    return Heads(n_query, n_kv, tuple(slices))


def with_adapters(params: Mapping[str, Parameter], unit: AttentionUnit, found: Heads) -> Heads:
    """Add what low-rank adapters (peft's LoRA) put beside the projections: the factor that the heads divide.

    That is ``lora_B``, and DoRA's magnitudes, where heads divide a projection's outputs, and ``lora_A`` where they
    divide its inputs. The other factor belongs to no head.
    """
    roles = {projection.name: projection.role for projection in unit.projections}
    added = []
    for part in found.slices:
        stem, _, own = part.name.rpartition(".base_layer.")
        if not stem or own != "weight":
            continue
        factors = _ADAPTER_INPUTS if roles[part.name] == "o" else _ADAPTER_OUTPUTS
        for name, param in params.items():
            if not name.startswith(f"{stem}.lora_"):
                continue
            axis = factors.get(name[len(stem) + 1 :].partition(".")[0])
            if axis is not None and param.dim() > axis and param.shape[axis] == len(part.query):
                added.append(HeadSlices(name, axis, part.query, part.key_value))
    return replace(found, slices=(*found.slices, *added))


def unknown_heads(unit: AttentionUnit, why: str | None = None) -> RestrictionError:
    """Return the error for a unit whose number or order of heads nothing tells."""
    names = [p.name for p in unit.projections]
    return RestrictionError(
        f"How the heads divide {names} could not be found out{f': {why}' if why else ''}.",
        expected=f"an attribute such as {', '.join(_NUM_HEADS[:4])} on the attention module or the model's config",
        found="separate projections" if not unit.of("qkv") else "a fused query-key-value projection",
        remedy="Give num_heads=... (and num_kv_heads=... for grouped-query attention, qkv_layout=... for a fused "
        "projection) to create_param_masks, or masks of your own to sample().",
    )


def output_axis(projection: Projection) -> int:
    """Return the axis of a parameter that runs over what the projection puts out."""
    if projection.param.dim() == 1:
        return 0
    return 1 if _is_transposed(projection) else 0


def slices_of_fused(projection: Projection, n_query: int, n_kv: int, layout: str) -> HeadSlices:
    """Divide a fused query-key-value projection by a known layout (see :mod:`.declared`)."""
    import torch

    axis = output_axis(projection)
    size = projection.param.shape[axis]
    query, key_value = _nobody(size), _nobody(size)
    per = n_query // n_kv
    width = _exact(size, n_query + 2 * n_kv, projection)
    q_heads, kv_heads = torch.arange(n_query), torch.arange(n_kv)
    if layout == "concat":
        query[: n_query * width] = q_heads.repeat_interleave(width)
        key_value[n_query * width :] = kv_heads.repeat_interleave(width).repeat(2)
    elif layout == "grouped":
        query.view(n_kv, per + 2, width)[:, :per] = q_heads.view(n_kv, per, 1)
        key_value.view(n_kv, per + 2, width)[:, per:] = kv_heads.view(n_kv, 1, 1)
    elif layout == "mp4-qvk":
        local = _exact(n_query, 4, projection)
        query.view(4, 3, local, width)[:, 0] = q_heads.view(4, local, 1)
        key_value.view(4, 3, local, width)[:, 1:] = kv_heads.view(4, 1, local, 1)
    else:
        raise RestrictionError(
            f"Unknown layout {layout!r} of a fused projection.",
            expected="'concat', 'grouped' or 'mp4-qvk'",
            found=repr(layout),
        )
    return HeadSlices(projection.name, axis, query, key_value)


def _slices(unit: AttentionUnit, n_query: int, n_kv: int, layout: str | None) -> list[HeadSlices]:
    found = []
    for projection in unit.projections:
        match projection.role:
            case "qkv":
                assert layout is not None
                found.append(slices_of_fused(projection, n_query, n_kv, layout))
            case "q":
                found.append(_even(projection, output_axis(projection), n_query, of_query=True))
            case "k" | "v":
                found.append(_even(projection, _raw_axis(projection, n_kv), n_kv, of_query=False))
            case "kv":
                found.append(_even(projection, output_axis(projection), n_query, of_query=True))
            case "o" if not projection.is_bias:
                found.append(_even(projection, input_axis(projection, n_query), n_query, of_query=True))
            case "extra" if projection.param.shape[0] % n_query == 0:
                found.append(_even(projection, 0, n_query, of_query=True))
            case _:
                pass
    return found


def input_axis(projection: Projection, n_query: int) -> int:
    """Return the axis of an output projection's weight that runs over the heads."""
    if projection.param.dim() == 3:
        return _raw_axis(projection, n_query)
    return 0 if _is_transposed(projection) else 1


def _raw_axis(projection: Projection, count: int) -> int:
    """Return the head axis of a parameter, which has one of its own in (heads, d_model, d_head) layouts."""
    if projection.param.dim() < 3:
        return output_axis(projection)
    axes = [axis for axis, size in enumerate(projection.param.shape) if size == count]
    return axes[0] if axes else 0


def _even(projection: Projection, axis: int, count: int, *, of_query: bool) -> HeadSlices:
    import torch

    if projection.param.dim() >= 3:
        axis = _raw_axis(projection, count)
    size = projection.param.shape[axis]
    owner = torch.arange(count).repeat_interleave(_exact(size, count, projection))
    nobody = _nobody(size)
    return HeadSlices(projection.name, axis, owner if of_query else nobody, nobody if of_query else owner)


def _nobody(size: int) -> Tensor:
    import torch

    return torch.full((size,), -1, dtype=torch.int64)


def _exact(size: int, count: int, projection: Projection) -> int:
    if size % count:
        raise RestrictionError(
            f"{projection.name!r} does not divide evenly among {count} heads.",
            expected=f"a size that is a multiple of {count}",
            found=f"{size}, of shape {shown(tuple(projection.param.shape))}",
            remedy="Give num_heads=... and num_kv_heads=... if the model's own attributes mislead.",
        )
    return size // count


def _is_transposed(projection: Projection) -> bool:
    # Linear keeps (out, in); GPT-2's Conv1D keeps (in, out)
    return type(projection.module).__name__ == "Conv1D" and projection.param.dim() == 2


def _count_heads(model: Module, unit: AttentionUnit) -> int | None:
    queries, outputs = unit.of("q", "qkv"), unit.of("o")
    if queries and queries[0].param.dim() == 3:  # (heads, d_model, d_head) or (d_model, heads, d_head)
        sizes = set(queries[0].param.shape)
        known = [value for value in _values(model, unit, _NUM_HEADS) if value in sizes]
        return known[0] if known else None
    q_size = queries[0].param.shape[output_axis(queries[0])]
    o_size = outputs[0].param.shape[input_axis(outputs[0], 0)]
    head_dims = _attributes(unit, _HEAD_DIM)

    def fits(count: int) -> bool:
        if count < 1 or q_size % count or o_size % count:
            return False
        if unit.of("qkv", "kv") or not head_dims:
            return True
        return q_size // count in (head_dims[0], 2 * head_dims[0]) or o_size // count == head_dims[0]

    on_module = [n for n in _attributes(unit, _NUM_HEADS) if fits(n)]
    if on_module:
        return on_module[0]
    in_config = [n for n in _values(model, unit, _NUM_HEADS) if fits(n)]
    if in_config:
        return in_config[0]
    if head_dims and o_size % head_dims[0] == 0:
        return o_size // head_dims[0]
    return None


def _count_kv_heads(model: Module, unit: AttentionUnit, n_query: int) -> int:
    keys, values, fused = unit.of("k"), unit.of("v"), unit.of("qkv")
    if unit.of("kv"):
        return n_query
    if keys and keys[0].param.dim() == 3:
        known = [n for n in _values(model, unit, _NUM_KV) if n in keys[0].param.shape]
        return known[0] if known else n_query

    def fits(count: int) -> bool:
        if count < 1 or n_query % count:
            return False
        if fused:
            size = fused[0].param.shape[output_axis(fused[0])]
            outputs = unit.of("o")
            width = outputs[0].param.shape[input_axis(outputs[0], n_query)] // n_query
            return size == (n_query + 2 * count) * width
        return all(p.param.shape[output_axis(p)] % count == 0 for p in keys + values)

    head_dims = _attributes(unit, _HEAD_DIM)
    if keys and head_dims:
        size = keys[0].param.shape[output_axis(keys[0])]
        if size % head_dims[0] == 0 and fits(size // head_dims[0]):
            return size // head_dims[0]
    for count in [*_attributes(unit, _NUM_KV), *_values(model, unit, _NUM_KV)]:
        if fits(count):
            return count
    if keys:  # as wide as the queries' heads
        query = unit.of("q")[0]
        width = query.param.shape[output_axis(query)] // n_query
        size = keys[0].param.shape[output_axis(keys[0])]
        if size % width == 0 and fits(size // width):
            return size // width
    for count in range(n_query, 0, -1):
        if fused and fits(count):
            return count
    raise unknown_heads(unit, "the number of key-value heads")


def _attributes(unit: AttentionUnit, attributes: tuple[str, ...]) -> list[int]:
    return [value for module in unit.modules for name in attributes if (value := _integer(module, name)) is not None]


def _values(model: Module, unit: AttentionUnit, attributes: tuple[str, ...]) -> list[int]:
    found = _attributes(unit, attributes)
    for owner in (*unit.modules, model):
        for holder in ("config", "cfg"):
            config = getattr(owner, holder, None)
            nested = [config, *(getattr(config, name, None) for name in ("text_config", "decoder", "decoder_config"))]
            found += [value for c in nested for name in attributes if (value := _integer(c, name)) is not None]
    found += [value for name in attributes if (value := _integer(model, name)) is not None]
    return found


def _integer(owner: Any, name: str) -> int | None:
    try:
        value = getattr(owner, name, None)
    except Exception:  # a property of someone else's class may raise anything
        return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
