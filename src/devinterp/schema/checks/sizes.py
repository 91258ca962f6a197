"""Sizes of dimensions: equal in every variable, and what the settings make them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from devinterp.schema.definition.layout import bindings
from devinterp.schema.findings.codes import RuleCode
from devinterp.schema.findings.report import Collector

if TYPE_CHECKING:
    from devinterp.schema.definition.spec import DimensionSpec
    from devinterp.schema.rules.bound import Bound

__all__ = ["check_sizes"]


def check_sizes(bound: Bound, sound: set[str], findings: Collector) -> None:
    """Check the sizes of every dimension of a group."""
    seen: dict[str, Counter[int]] = {}
    for name in sound:
        array = bound.group.arrays[name]
        for dim, size in zip(array.dims, array.shape, strict=True):
            seen.setdefault(dim, Counter())[size] += 1
    _check_leading(bound, sound, findings)
    observed = {dim: _agreed(sizes) for dim, sizes in seen.items()}
    for pattern in bound.node.dimensions.values():
        for binding in bindings(pattern.name, bound.members):
            dim = pattern.name.format_map(binding)
            if dim in observed:
                _check_dimension(bound, pattern, dim, binding, observed, sound, findings)


def _check_leading(bound: Bound, sound: set[str], findings: Collector) -> None:
    """Check that every variable that may be stacked (along ``wr``, ``checkpoint``) is stacked as the others are."""
    stacked = {
        name: tuple(d for d in bound.group.arrays[name].dims if d in bound.variables[name][0].leading)
        for name in sound
        if bound.variables[name][0].leading
    }
    wanted = max(stacked.values(), key=len, default=())
    for name, dims in sorted(stacked.items()):
        if dims != wanted:
            array = bound.group.arrays[name]
            findings.add(
                RuleCode.DIMS,
                array.path,
                "The dimensions are not those of the other variables.",
                expected=", ".join((*wanted, *(d for d in array.dims if d not in dims))),
                found=", ".join(array.dims) or "none",
            )


def _agreed(sizes: Counter[int]) -> int:
    """The size that most variables have; of equally many the larger, since arrays are truncated, not grown."""
    return max(sizes, key=lambda size: (sizes[size], size))


def _check_dimension(
    bound: Bound,
    pattern: DimensionSpec,
    dim: str,
    binding: dict[str, str],
    observed: dict[str, int],
    sound: set[str],
    findings: Collector,
) -> None:
    wanted, relation = None, ""
    recorded = (bound.group.selected or {}).get("sizes")
    if isinstance(recorded, Mapping) and type(recorded.get(dim)) is int and not bound.group.view:
        wanted, relation = recorded[dim], ", as metadata.selection has it"
    elif pattern.size is not None and not bound.group.view:
        own = {k: v for family, member in binding.items() for k, v in bound.members[family][member].items()}
        values = {**bound.parameters, **{d: n for d, n in observed.items() if d != dim}, **own}
        unknown = sorted(n for n in pattern.size.names if type(values.get(n)) is not int)
        if unknown:
            findings.skip(bound.path, f"size of dimension {dim}", f"the attributes do not say {', '.join(unknown)}")
        else:
            wanted = pattern.size.evaluate(values)
            relation = f" = {pattern.size}" if pattern.size.names else ""
    for name in sorted(sound):
        array = bound.group.arrays[name]
        if dim not in array.dims:
            continue
        size = array.shape[array.dims.index(dim)]
        if wanted is not None and size != wanted:
            code, what, expected = RuleCode.SIZE, "has the wrong size", f"{wanted}{relation}"
        elif wanted is None and size != observed[dim]:
            code, what = RuleCode.SIZE_CONFLICT, "has another size than in the group's other variables"
            expected = str(observed[dim])
        elif size < pattern.minimum:
            code, what, expected = RuleCode.SIZE, "is too small", f"at least {pattern.minimum}"
        else:
            continue
        findings.add(code, array.path, f"The dimension {dim!r} {what}.", expected=expected, found=size)
