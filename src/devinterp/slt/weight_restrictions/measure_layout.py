"""Find the heads of an attention unit by running the model on a few tokens.

Names and shapes cannot tell ``[q | k | v]`` from ``[q k v | q k v | ...]``, nor how many heads a plain module has. The
computation can: scale every row of the input projections by a gate of ones, and the input of the output projection
depends on exactly the gates of its own head. Which gates have a gradient is structure, not size, so it is exact.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from devinterp.errors import RestrictionError
from devinterp.slt.weight_restrictions import heads as _heads
from devinterp.slt.weight_restrictions import stack
from devinterp.slt.weight_restrictions.model_parts import Heads, HeadSlices

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from torch.nn import Module

    from devinterp.slt.weight_restrictions.model_parts import AttentionUnit

_TOKENS = 6
_SAME_HEAD = 0.6  # two features of one head share its query and key rows (nearly all), of one group its key rows (half)

# A study asks for every head of every layer: one measurement per unit is enough.
_MEASURED: WeakKeyDictionary[Module, dict[tuple[object, ...], Heads]] = WeakKeyDictionary()


class _Captured(Exception):
    pass


def measure_heads(model: Module, unit: AttentionUnit, num_heads: int | None = None) -> Heads:
    """Return the heads of a unit, measured; leaves weights, gradients, modes and generators as they were.

    ``model(input_ids)`` is called in evaluation mode, up to the unit's output projection. Raises `RestrictionError`
    where the model cannot be run, or what was measured is not a division into heads.
    """
    import torch

    key = (num_heads, *((p.name, tuple(p.param.shape)) for p in unit.projections))
    cache = _MEASURED.setdefault(model, {})
    if key not in cache:
        if any(p.param.is_meta for p in unit.projections):
            raise _heads.unknown_heads(unit, "the weights are on the meta device, and nothing can be run")
        with torch.inference_mode(False), torch.enable_grad():
            cache[key] = _measure(model, unit, num_heads)
    return cache[key]


def _measure(model: Module, unit: AttentionUnit, num_heads: int | None) -> Heads:
    import torch

    inputs, outputs = unit.of("q", "k", "v", "qkv", "kv"), unit.of("o")
    gates: dict[str, Tensor] = {}
    features = _features(model, unit, gates)
    width = features.shape[-1]
    missing = [p.name for p in inputs if p.name not in gates]
    if missing:
        raise _heads.unknown_heads(unit, f"{missing} are used outside their module's forward call")
    if outputs[0].param.shape[_heads.input_axis(outputs[0], 0)] != width:
        raise _heads.unknown_heads(unit, "the output projection's input has another width than its weight")
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(0)).to(features)

    def rows_behind(start: int, stop: int) -> Tensor:
        """Which rows of all input projections, one after the other, the features in [start, stop) depend on."""
        scalar = (features[..., start:stop] * weights[..., start:stop]).sum()
        gradients = torch.autograd.grad(scalar, list(gates.values()), retain_graph=True, allow_unused=True)
        parts = [torch.zeros_like(g) if d is None else d for g, d in zip(gates.values(), gradients, strict=True)]
        return torch.cat(parts).cpu() != 0

    count = num_heads or _count(rows_behind, width, unit)
    if width % count:
        raise _heads.unknown_heads(unit, f"{width} features do not divide among {count} heads")
    size = width // count
    owners = torch.stack([rows_behind(h * size, (h + 1) * size) for h in range(count)])  # (head, row)
    query, key_value, n_kv = _owners(owners, unit)
    slices = []
    for projection in unit.projections:
        gate = next((name for name in gates if _same_module(unit, name, projection.name)), None)
        if gate is not None:
            begin = sum(g.shape[0] for g in list(gates.values())[: list(gates).index(gate)])
            rows = slice(begin, begin + gates[gate].shape[0])
            slices.append(HeadSlices(projection.name, _heads.output_axis(projection), query[rows], key_value[rows]))
        elif projection.role == "o" and not projection.is_bias:
            columns = torch.arange(count).repeat_interleave(size)
            slices.append(
                HeadSlices(projection.name, _heads.input_axis(projection, count), columns, torch.full_like(columns, -1))
            )
    return Heads(count, n_kv, tuple(slices))


def _features(model: Module, unit: AttentionUnit, gates: dict[str, Tensor]) -> Tensor:
    """Run the model up to the input of the output projection; fill in one gate per input projection used."""
    import torch

    captured: list[Tensor] = []

    def capture(_module: Module, args: tuple[Any, ...]) -> None:
        captured.append(args[0])
        raise _Captured

    def gated(name: str) -> Any:
        def hook(_module: Module, _args: Any, output: Tensor) -> Tensor:
            if name not in gates:
                gates[name] = torch.ones(output.shape[-1], dtype=output.dtype, device=output.device, requires_grad=True)
            return output * gates[name]

        return hook

    hooks = [p.module.register_forward_hook(gated(p.name)) for p in unit.of("q", "k", "v", "qkv", "kv")]
    hooks.append(unit.of("o")[0].module.register_forward_pre_hook(capture))
    parameter = next(model.parameters())
    try:
        with _undisturbed(model), contextlib.suppress(_Captured):
            model(_input_ids(model).to(parameter.device))
    except RestrictionError:
        raise
    except Exception as error:
        raise _heads.unknown_heads(unit, f"model(input_ids) raised {type(error).__name__}: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    if not captured:
        raise _heads.unknown_heads(unit, "the output projection is not called in the model's forward pass")
    if not captured[0].requires_grad:
        raise _heads.unknown_heads(unit, "its output does not depend on its input projections")
    return captured[0]


def _input_ids(model: Module) -> Tensor:
    import torch

    try:
        rows = dict(model.named_parameters())[stack.find_embedding(model)[0]].shape[0]
    except RestrictionError:
        rows = _TOKENS + 3
    return ((torch.arange(_TOKENS) + 3) % rows)[None]  # different tokens: equal keys would hide the queries


@contextlib.contextmanager
def _undisturbed(model: Module) -> Iterator[None]:
    import torch

    modes = {module: module.training for module in model.modules()}
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        model.eval()
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training


def _count(rows_behind: Any, width: int, unit: AttentionUnit) -> int:
    first = rows_behind(0, 1)
    total = int(first.sum())
    if not total:
        raise _heads.unknown_heads(unit, "its output does not depend on its input projections")
    low, high = 1, width  # the first head is the features [0, size) with low <= size <= high
    while low < high:
        middle = (low + high + 1) // 2
        if int((first & rows_behind(middle - 1, middle)).sum()) > _SAME_HEAD * total:
            low = middle
        else:
            high = middle - 1
    if width % low:
        raise _heads.unknown_heads(unit, f"{width} features do not divide into heads of {low}")
    return width // low


def _owners(owners: Tensor, unit: AttentionUnit) -> tuple[Tensor, Tensor, int]:
    """Return the query head and the key-value head of each row, and the number of key-value heads."""
    import torch

    count, rows = owners.shape
    sharing = owners.sum(0)
    per = int(sharing.max())
    if per == 0 or count % per:
        raise _heads.unknown_heads(unit, f"{per} of {count} heads share rows")
    lowest = owners.int().argmax(0)
    groups = lowest // per
    own, shared = sharing == 1, sharing == per
    grouped = owners == (torch.arange(count)[:, None] // per == groups)
    aligned = bool(((sharing <= 1) | shared).all()) and (per == 1 or bool(grouped[:, shared].all()))
    if not aligned or not bool(owners[:, own].any(1).all()):  # every head has queries of its own
        raise _heads.unknown_heads(unit, "its heads are mixed before the output projection")
    nobody = torch.full((rows,), -1, dtype=torch.int64)
    query = torch.where(own, lowest, nobody)
    key_value = torch.where(shared, groups, nobody) if per > 1 else nobody
    return query, key_value, count // per


def _same_module(unit: AttentionUnit, weight: str, name: str) -> bool:
    by_name = {p.name: p for p in unit.projections}
    return by_name[weight].module is by_name[name].module
