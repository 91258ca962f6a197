"""Find the attention units and the feed-forward parameters of one layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from devinterp.slt.weight_restrictions import module_names
from devinterp.slt.weight_restrictions.model_parts import AttentionUnit, Projection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.nn import Module, Parameter

    from devinterp.slt.weight_restrictions.model_parts import Layer


def find_units(parts: dict[str, Module], canonical: dict[int, str]) -> list[AttentionUnit]:
    """Return the self-attention units of a layer: modules with queries, keys, values and an output projection."""
    modules = _modules(parts)
    roles = {path: role for path, _ in _parameters(parts) if (role := module_names.role_of(path)) is not None}
    units: dict[str, AttentionUnit] = {}
    for query_path, role in roles.items():
        if role not in ("q", "qkv"):
            continue
        owner = module_names.projection_of(query_path).rpartition(".")[0]
        root, output = _root_with_output(owner, roles)
        if root is None or root in units or module_names.is_cross_attention(root):
            continue
        unit = _unit(root, owner, output, modules, roles, canonical)
        present = {p.role for p in unit.projections}
        if "qkv" in present or {"q", "kv"} <= present or {"q", "k", "v"} <= present:
            units[root] = unit
    return list(units.values())


def attention_params(layer: Layer, canonical: dict[int, str]) -> list[str]:
    """Return the names of a layer's self-attention parameters, norms excluded; empty where it has no attention."""
    units = find_units(layer.parts, canonical)
    if units:
        return [name for unit in units for name in unit.params]
    modules = _modules(layer.parts)
    roots = [
        path
        for path, module in modules.items()
        if path
        and module_names.is_attention(path.rpartition(".")[2])
        and not module_names.is_cross_attention(path)
        and not module_names.is_norm(path.rpartition(".")[2], type(module).__name__)
    ]
    return [
        canonical[id(param)]
        for path, param in _parameters(layer.parts)
        if any(path.startswith(f"{root}.") for root in roots) and not _in_norm(path, modules)
    ]


def mlp_params(layer: Layer, canonical: dict[int, str]) -> list[str]:
    """Return the names of a layer's feed-forward parameters, routers and experts included, norms excluded.

    Where no module is named or classed as feed-forward, these are the linear maps that are left of a layer with
    attention.
    """
    modules = _modules(layer.parts)
    attention = set(attention_params(layer, canonical))
    roots = [
        path
        for path, module in modules.items()
        if path and module_names.is_mlp(path.rpartition(".")[2], type(module).__name__)
    ]
    rest = [
        (path, param)
        for path, param in _parameters(layer.parts)
        if canonical[id(param)] not in attention
        and not _in_norm(path, modules)
        and not any(module_names.is_cross_attention(part) for part in path.split("."))
    ]
    if roots:
        return [canonical[id(param)] for path, param in rest if any(path.startswith(f"{root}.") for root in roots)]
    if not attention:
        return []
    matrices = {module_names.projection_of(path) for path, param in rest if param.dim() >= 2}
    return [canonical[id(param)] for path, param in rest if module_names.projection_of(path) in matrices]


def _modules(parts: dict[str, Module]) -> dict[str, Module]:
    return {
        ".".join(piece for piece in (part, name) if piece): module
        for part, block in parts.items()
        for name, module in block.named_modules(remove_duplicate=False)
    }


def _parameters(parts: dict[str, Module]) -> Iterator[tuple[str, Parameter]]:
    for part, block in parts.items():
        for name, param in block.named_parameters():
            yield ".".join(piece for piece in (part, name) if piece), param


def _root_with_output(owner: str, roles: dict[str, module_names.Role]) -> tuple[str | None, str]:
    """Return the smallest module from ``owner`` upwards that holds an output projection too, and that projection."""
    root = owner
    while True:
        prefix = f"{root}." if root else ""
        outputs = [p for p, role in roles.items() if role == "o" and p.startswith(prefix) and _may_be_output(p, root)]
        if outputs:
            return root, min(map(module_names.projection_of, outputs), key=lambda path: path.count("."))
        if not root:
            return None, ""
        root = root.rpartition(".")[0]


def _may_be_output(path: str, root: str) -> bool:
    # "dense" and "output" also name feed-forward maps: accept them only inside something called attention
    inner = path[len(root) + 1 :] if root else path
    leaf = module_names.projection_of(path).rpartition(".")[2]
    depth = module_names.projection_of(inner).count(".")
    if leaf in ("dense", "output"):
        return module_names.is_attention(module_names.projection_of(path).rpartition(".")[0])
    return depth == 0 or module_names.is_attention(path)


def _unit(
    root: str,
    owner: str,
    output: str,
    modules: dict[str, Module],
    roles: dict[str, module_names.Role],
    canonical: dict[int, str],
) -> AttentionUnit:
    prefix = f"{root}." if root else ""
    chain = [owner]
    while chain[-1] != root:
        chain.append(chain[-1].rpartition(".")[0])
    projections: list[Projection] = []
    params: list[str] = []
    for module_path, module in modules.items():
        if root and module_path != root and not module_path.startswith(prefix):
            continue
        for own, param in module.named_parameters(recurse=False):
            path = f"{module_path}.{own}" if module_path else own
            if _in_norm(path, modules):
                continue
            if root or roles.get(path) not in (None, "extra"):
                params.append(canonical[id(param)])
            role = roles.get(path)
            if role == "extra" and not root:  # a flat block's gate belongs to its feed-forward part
                continue
            projection = module_names.projection_of(path)
            if role is None or (projection != output if role == "o" else projection.rpartition(".")[0] not in chain):
                continue
            is_bias = own == "bias" or own.endswith("_bias") or own.lower().lstrip("_").startswith("b_")
            projections.append(Projection(canonical[id(param)], role, param, module, is_bias))
    if {"q", "k", "v"} <= {p.role for p in projections}:  # TransformerLens 4 keeps the fused one, unused
        projections = [p for p in projections if p.role != "qkv"]
    order = {name: i for i, name in enumerate(canonical.values())}
    return AttentionUnit(
        path=root,
        modules=tuple(modules[path] for path in chain if path in modules),
        projections=tuple(sorted(projections, key=lambda p: order[p.name])),
        params=tuple(sorted(dict.fromkeys(params), key=order.__getitem__)),
    )


def _in_norm(path: str, modules: dict[str, Module]) -> bool:
    parts = path.split(".")[:-1]
    above = {".".join(parts[: i + 1]): part for i, part in enumerate(parts)}
    return any(_is_norm(part, modules[owner]) for owner, part in above.items() if owner in modules)


def _is_norm(name: str, module: Module) -> bool:
    # a block may be named after its norm and hold attention besides (DBRX's norm_attn_norm)
    return module_names.is_norm(name, type(module).__name__) and not any(
        map(module_names.is_attention, dict(module.named_children()))
    )
