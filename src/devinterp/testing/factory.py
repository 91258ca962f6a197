"""Valid stores and trees of any kind, built by construction from a schema and a small recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from devinterp.errors import SchemaError
from devinterp.schema import load, validate
from devinterp.schema.definition.layout import array_attributes, bindings, chunk_shape, dimension_sizes
from devinterp.schema.definition.schema import Schema
from devinterp.schema.definition.spec import ArrayLayout, GroupLayout, NodeSpec, VariableSpec, match_pattern
from devinterp.schema.rules.registry import find_predicate
from devinterp.store.location import StoreLike, locate
from devinterp.store.zarr_metadata import documents, open_array, write_consolidated_root
from devinterp.testing.valid import result_rules as result_rules  # these two register how our own rules are satisfied
from devinterp.testing.valid import rules as rules
from devinterp.testing.valid.attributes import declared_attributes, draw_instance, put, subschema
from devinterp.testing.valid.draft import Draft, GroupDraft, naming, rule_makers
from devinterp.testing.valid.recipe import StoreRecipe
from devinterp.testing.valid.values import draw_values
from devinterp.wording import shown

__all__ = ["StoreRecipe", "build_draft", "included_schemas", "is_mask", "make_store", "make_tree", "masks_of"]

_DEFAULT_MEMBERS = {
    "obs": ("code", "math"),
    "restriction": ("full", "l0h0", "l1h1 mlp"),
    "cell": ("warm", "cold"),
    "checkpoint": ("0", "512"),
}


def make_tree(recipe: StoreRecipe | str = "samples", **changes: Any) -> xr.DataTree:
    """Build a valid tree in memory.

    Parameters
    ----------
    recipe : StoreRecipe or str
        A recipe, or the schema of one with nothing but defaults.
    **changes
        Fields of the recipe to replace.

    Returns
    -------
    xarray.DataTree
    """
    return _tree(_obedient(build_draft(_recipe(recipe, changes))))


def make_store(
    target: StoreLike,
    recipe: StoreRecipe | str = "samples",
    *,
    consolidated: bool = True,
    **changes: Any,
) -> StoreLike:
    """Write a valid store, as the package's own writer lays it out.

    Parameters
    ----------
    target : path, URL or zarr Store
        An empty place.
    recipe : StoreRecipe or str
        A recipe, or the schema of one with nothing but defaults.
    consolidated : bool
        Whether the root carries the metadata of everything below it.
    **changes
        Fields of the recipe to replace.

    Returns
    -------
    path, URL or zarr Store
        ``target``.
    """
    chosen = _recipe(recipe, changes)
    draft = _obedient(build_draft(chosen))
    location = locate(target, mode="w")
    layouts = {path: g.layout for path, g in draft.groups.items() if g.layout is not None and g.layout.arrays}
    attributes = {path: _stored_attributes(g) for path, g in draft.groups.items()}
    everything: dict[str, bytes] = {}
    for storage in {id(g.schema.storage): g.schema.storage for g in draft.groups.values()}.values():
        theirs = {path: layout for path, layout in layouts.items() if draft.groups[path].schema.storage is storage}
        everything.update(documents(theirs, attributes, storage))
    location.set_many(everything)
    for path, layout in layouts.items():
        group = draft.groups[path]
        for name, array in layout.arrays.items():
            open_array(location, f"{path}/{name}", array, group.schema.storage)[...] = group.values[name]
    if consolidated:
        write_consolidated_root(location, attributes["/"], everything)
    return target


def _tree(draft: Draft) -> xr.DataTree:
    return xr.DataTree.from_dict({path: _dataset(group) for path, group in draft.groups.items()})


# What single members may have of their own, whatever the others have.
_ANYBODYS = frozenset({"failed", "seed", "children"})


def _obedient(draft: Draft) -> Draft:
    """Refuse a draft that breaks a relation of an extension which nothing was registered for to make it hold.

    And one whose members were asked to differ where the members of a valid tree do not.
    """
    if any(set(changes) - _ANYBODYS for changes in _all_children(draft.recipe.children)):
        wrong = validate(_tree(draft), schema=draft.schema).errors
        if wrong:
            raise SchemaError(
                f"No valid tree of {draft.schema.id} has these children: {wrong[0].path}: {wrong[0].message}",
                expected=wrong[0].expected,
                found=wrong[0].found,
                remedy="Give for the whole tree what its members share.",
            )
    unmade = {
        rule.code: rule.predicate
        for _, rule in draft.rules()
        if rule.predicate not in rule_makers
        and not find_predicate(rule.predicate).function.__module__.startswith("devinterp.")
    }
    broken = [f for f in validate(_tree(draft), schema=draft.schema).errors if f.code in unmade] if unmade else []
    if broken:
        raise SchemaError(
            f"Nothing says how a tree obeys the relation {unmade[broken[0].code]!r}: {broken[0].message}",
            expected="a function registered for it with @devinterp.testing.rule_maker",
            found=broken[0].found,
            remedy="Register one where the relation is, or in conftest.py.",
        )
    return draft


def _stored_attributes(group: GroupDraft) -> dict[str, Any]:
    """Attributes of a group as xarray stores them: coordinates beside no data variable are named there."""
    arrays = {} if group.layout is None else group.layout.arrays
    beside = {n for a in arrays.values() for n in str(a.attrs.get("coordinates", "")).split()}
    alone = sorted(n for n, a in arrays.items() if a.spec.role == "coordinate" and a.dims != (n,) and n not in beside)
    return {**group.attributes, "coordinates": " ".join(alone)} if alone else group.attributes


def _all_children(children: Mapping[str, Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for changes in children.values():
        yield changes
        yield from _all_children(changes.get("children", {}))


def _recipe(recipe: StoreRecipe | str, changes: Mapping[str, Any]) -> StoreRecipe:
    chosen = recipe if isinstance(recipe, StoreRecipe) else StoreRecipe(recipe)
    return replace(chosen, **changes) if changes else chosen


def build_draft(recipe: StoreRecipe) -> Draft:
    """Build the tree of a recipe: sizes, layouts, attributes, values, and then the rules across variables."""
    schema = recipe.load()
    draft = Draft(
        schema=schema,
        recipe=recipe,
        rng=np.random.default_rng(recipe.seed),
        parameters=_parameters(schema, recipe),
        members=_members(schema, recipe),
    )
    for node in schema.nodes:
        if not node.placeholders and node.include is None:
            draft.groups[node.path] = GroupDraft(node.path, node, schema, sizes=dict(recipe.sizes))
    draft.groups.setdefault("/", GroupDraft("/", NodeSpec("/", ""), schema))
    draft.root.attributes = _root_attributes(draft)
    for group, rule in list(draft.rules()):
        maker = rule_makers.get(rule.predicate)
        if maker is not None and maker.plan is not None:
            with naming("rule_maker", rule.predicate, f"the group {group.path}"):
                maker.plan(draft, group, rule.arguments)
    _mount(draft)
    for group in [g for g in draft.groups.values() if g.schema is schema]:
        _shape(draft, group)
    for group, rule in list(draft.rules()):
        maker = rule_makers.get(rule.predicate)
        if group.schema is schema and maker is not None and maker.fill is not None:
            with naming("rule_maker", rule.predicate, f"the group {group.path}"):
                maker.fill(draft, group, rule.arguments)
    return draft


def included_schemas(schema: Schema, profile: str = "strict") -> list[Schema]:
    """Return the schemas that the groups of a schema are of, from the outside in."""
    direct = [_load_included(node, profile) for node in schema.nodes if node.include]
    return [each for one in direct for each in (one, *included_schemas(one, profile))]


def masks_of(schema: Schema) -> frozenset[str]:
    """Return the variables (patterns) that say which values of others count."""
    return frozenset(mask for node in schema.nodes for mask in node.masks)


def is_mask(name: str, schema: Schema) -> bool:
    """Whether a name or pattern is that of a variable that says which values of others count."""
    return any(name == mask or match_pattern(mask, name) is not None for mask in masks_of(schema))


def _load_included(node: NodeSpec, profile: str) -> Schema:
    name = str(node.include)
    loaded: Schema = load(name, profile=profile if profile in load(name).profiles else "strict")
    return loaded


def _parameters(schema: Schema, recipe: StoreRecipe) -> dict[str, Any]:
    """Values for every parameter: the recipe's, or small ones within the bounds that the attributes declare."""
    out: dict[str, Any] = {}
    bounds = declared_attributes(schema)
    for name, spec in schema.parameters.items():
        if spec.type == "integer":
            out[name] = max(2, int(subschema(bounds, spec.path).get("minimum", 0)))
        elif spec.type == "boolean":
            out[name] = True if spec.default is None else spec.default
        elif spec.default is not None:
            out[name] = spec.default
    known = {name for each in (schema, *included_schemas(schema)) for name in each.parameters}
    unknown = set(recipe.parameters) - known
    if unknown:
        raise SchemaError(
            f"{schema.id} has no parameter {sorted(unknown)[0]!r}.",
            expected=f"some of {shown(sorted(known))}",
            remedy="Other settings are attributes: StoreRecipe(attributes={'metadata': ...}).",
        )
    return {**out, **{k: v for k, v in recipe.parameters.items() if k in schema.parameters}}


def _members(schema: Schema, recipe: StoreRecipe) -> dict[str, dict[str, dict[str, Any]]]:
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for family, spec in schema.families.items():
        given = recipe.members.get(family)
        if given is None:
            names = _DEFAULT_MEMBERS.get(family, (f"{family}_a", f"{family}_b"))
            given = {n: dict.fromkeys(spec.parameters, 1 + i) for i, n in enumerate(names)}
        out[family] = {name: {**dict.fromkeys(spec.parameters, 1), **dict(values)} for name, values in given.items()}
    return out


def _root_attributes(draft: Draft) -> dict[str, Any]:
    declared = declared_attributes(draft.schema)
    known: dict[str, Any] = deepcopy(dict(draft.recipe.attributes))
    # What the profile itself names; stores of another writer carry no id of ours.
    properties = subschema(draft.root.node.attributes, "").get("properties", {})
    if "devinterp_schema" in properties or not declared:
        known.setdefault("devinterp_schema", draft.schema.id)
    if "completed" in properties:
        known.setdefault("completed", 1)
    for name, spec in draft.schema.parameters.items():
        if name in draft.parameters:
            value = draft.parameters[name]
            # A result can be saved as netCDF, which holds no booleans.
            put(known, spec.path, int(value) if isinstance(value, bool) and "." not in spec.path else value)
    for family, kin in draft.schema.families.items():
        if kin.path is not None:
            entries = draft.members[family]
            listed: list[Any] = (
                [{kin.key: n, **e} for n, e in entries.items()] if kin.key is not None else list(entries)
            )
            if subschema(declared, kin.path).get("items", {}).get("type") == "integer":
                listed = [int(name) for name in entries]
            put(known, kin.path, listed)
    drawn: dict[str, Any] = draw_instance(declared, draft.rng, known)
    return drawn


def _mount(draft: Draft) -> None:
    """Add the groups that stand for members: patterns of this schema, and whole trees of included ones."""
    for node in draft.schema.nodes:
        if not node.placeholders and node.include is None:
            continue
        for bound in bindings(node.path, draft.members):
            path = node.path.format_map(bound)
            if node.include is None:
                draft.groups[path] = GroupDraft(path, node, draft.schema, sizes=dict(draft.recipe.sizes))
                continue
            member = next(iter(bound.values()), path)
            child = build_draft(_child(draft, node, member))
            for inner, group in child.groups.items():
                group.path = f"{path}{inner}".rstrip("/")
                draft.groups[group.path] = group
            draft.shared.setdefault("children", {})[member] = child
    unknown = sorted(set(draft.recipe.children) - set(draft.shared.get("children", {})))
    if unknown:
        raise SchemaError(
            f"{draft.schema.id} has no member {unknown[0]!r} here.",
            expected=f"some of {shown(sorted(draft.shared.get('children', {})))}",
            remedy="Name it among members= too.",
        )


def _child(draft: Draft, node: NodeSpec, member: str) -> StoreRecipe:
    recipe = draft.recipe
    included = _load_included(node, recipe.profile)
    below = (included, *included_schemas(included))
    given = {k: v for k, v in recipe.parameters.items() if any(k in each.parameters for each in below)}
    child = StoreRecipe(
        schema=str(node.include),
        profile=included.profile,
        parameters=given,
        members={k: v for k, v in recipe.members.items() if any(k in each.families for each in below)},
        sizes=recipe.sizes,
        optional=frozenset(name for name in recipe.optional if any(is_mask(name, each) for each in below)),
        seed=int(draft.rng.integers(2**31)),
    )
    return replace(child, **recipe.children.get(member, {}))


def _shape(draft: Draft, group: GroupDraft) -> None:
    """Fix the sizes of a group, lay out its arrays, and draw their attributes and values."""
    if group.path != "/":
        group.attributes = draw_instance(group.node.attributes, draft.rng, group.attributes)
    dims = _chosen_dims(draft, group.node)
    used = {d for chosen in dims.values() for d in chosen}
    for dim in group.node.dimensions.values():
        if dim.size is None and "{" not in dim.name:
            group.sizes.setdefault(dim.name, max(2, dim.minimum))
    group.sizes = dimension_sizes(group.node, draft.parameters, draft.members, group.sizes)
    arrays: dict[str, ArrayLayout] = {}
    for pattern, chosen in dims.items():
        spec = group.node.variables[pattern]
        for bound in bindings(pattern, draft.members):
            concrete = tuple(d.format_map(bound) for d in chosen)
            shape = tuple(group.sizes[d] for d in concrete)
            name = pattern.format_map(bound)
            if spec.presence.kind == "optional" and not {pattern, name} & draft.recipe.optional:
                continue
            arrays[name] = ArrayLayout(
                name=name,
                dims=concrete,
                shape=shape,
                dtype="string" if spec.dtype == "text" else spec.dtype,
                fill=spec.fill,
                chunks=chunk_shape(spec, concrete, shape),
                attrs=array_attributes(spec, bound, draft.parameters),
                spec=spec,
            )
    arrays = _with_coordinates(arrays)
    bound_dims = {d for a in arrays.values() for d in a.dims} or used
    group.layout = GroupLayout(group.path, arrays, {d: n for d, n in group.sizes.items() if d in bound_dims})
    for name, layout in arrays.items():
        group.values[name] = draw_values(layout, draft.root.attributes, draft.rng)


def _with_coordinates(arrays: dict[str, ArrayLayout]) -> dict[str, ArrayLayout]:
    """Name, beside each data variable, its coordinates that are not indexes, as xarray stores them."""
    coordinates = {n: set(a.dims) for n, a in arrays.items() if a.spec.role == "coordinate" and a.dims != (n,)}
    out = {}
    for name, layout in arrays.items():
        theirs = sorted(n for n, dims in coordinates.items() if dims <= set(layout.dims))
        data = layout.spec.role == "data"
        out[name] = (
            replace(layout, attrs={**layout.attrs, "coordinates": " ".join(theirs)}) if data and theirs else layout
        )
    return out


def _chosen_dims(draft: Draft, node: NodeSpec) -> dict[str, tuple[str, ...]]:
    """Which variables the group has, and with which of their legal dimensions."""
    recipe = draft.recipe
    out: dict[str, tuple[str, ...]] = {}
    for name, spec in node.variables.items():
        if _present(spec, draft.parameters, recipe.optional):
            bases = (spec.dims, *spec.alternatives)
            base = bases[min(recipe.alternative, len(bases) - 1)]
            out[name] = (*(d for d in spec.leading if d in recipe.leading), *base)
    masked = {node.variables[name].mask for name in out}
    out = {name: dims for name, dims in out.items() if name not in node.masks or name in masked}
    used = {d for chosen in out.values() for d in chosen}
    for name, spec in node.variables.items():
        if spec.presence.kind == "with_dimension" and spec.presence.argument in used:
            out[name] = spec.dims
    return {name: out[name] for name in node.variables if name in out}  # in the document's order


def _present(spec: VariableSpec, parameters: Mapping[str, Any], optional: frozenset[str]) -> bool:
    kind = spec.presence.kind
    if kind == "when":
        return bool(spec.presence.holds(parameters))
    return kind == "required" or (
        kind == "optional" and any(name == spec.name or spec.matches(name) is not None for name in optional)
    )


def _dataset(group: GroupDraft) -> xr.Dataset:
    arrays = {} if group.layout is None else group.layout.arrays
    variables = {}
    for name, layout in arrays.items():
        attributes = {k: v for k, v in layout.attrs.items() if k != "coordinates"}
        variables[name] = xr.Variable(layout.dims, group.values[name], attributes)
    coordinates = {n: v for n, v in variables.items() if arrays[n].spec.role == "coordinate"}
    data = {n: v for n, v in variables.items() if n not in coordinates}
    return xr.Dataset(data, coordinates, deepcopy(group.attributes))
