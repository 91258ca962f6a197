"""Hypothesis strategies, derived from schema documents: ours, and with no further work a consumer's extension.

Hypothesis draws what is worth shrinking (which variables there are, their sizes, names, settings, which chains
failed) and a seed; the values themselves come from numpy by that seed, so that an example costs milliseconds.

>>> from hypothesis import given
>>> from devinterp.testing import trees
>>> @given(trees("samples"))
... def test_my_analysis(tree): ...
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr
from hypothesis import strategies as st

from devinterp.errors import RestrictionError, SettingError
from devinterp.names import check_observable_names, check_restriction_names, sanitize_observable_name
from devinterp.schema import load
from devinterp.schema.definition.layout import bindings
from devinterp.schema.definition.schema import Schema
from devinterp.schema.definition.spec import NodeSpec
from devinterp.steps import StepLayout
from devinterp.testing.factory import StoreRecipe, included_schemas, make_tree, masks_of
from devinterp.testing.valid.attributes import declared_attributes, put, subschema

__all__ = ["member_names", "observable_names", "recipes", "restriction_names", "sample_settings", "trees"]

_SPREAD = 3  # how far above its minimum a size goes
_UNUSUAL_OBSERVABLES = (
    "", "_", "0", "1st try", "a/b", "a b", "a.b", "Ünïcode", "数学", "π", "sampling_", "micro", "init", "batch", "draw",
    "chain", "token", "token_pos", "x" * 60, "ids_x", "__x__", "loss_y", "N²", "zarr.json",
)  # fmt: skip
_UNUSUAL_RESTRICTIONS = (
    " ", "a b", "l0h0 + l1h2", "layer.0", "Ünïcode", "注意", "c", "0", "..a", "-", "_x", "%2F", "x" * 60, "🙂", "a:b",
    "~", "#1", "samples", "full2", "[0]", "metadata",
)  # fmt: skip
_TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc", "Cn")), max_size=12)


def _is_observable(name: str) -> bool:
    try:
        check_observable_names([name])
    except SettingError:
        return False
    return True


def _is_restriction(name: str) -> bool:
    try:
        check_restriction_names([name])
    except RestrictionError:
        return False
    return True


def observable_names() -> st.SearchStrategy[str]:
    """Legal names of observables, as a user may write them: short words, and much that is unusual."""
    plain = st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True)
    return st.one_of(plain, st.sampled_from(_UNUSUAL_OBSERVABLES), _TEXT).filter(_is_observable)


def restriction_names() -> st.SearchStrategy[str]:
    """Legal names of weight restrictions other than ``full``."""
    plain = st.from_regex(r"l[0-9]h[0-9]", fullmatch=True)
    return (
        st.one_of(plain, st.sampled_from(_UNUSUAL_RESTRICTIONS), _TEXT)
        .filter(_is_restriction)
        .filter(lambda name: name.casefold() != "full")
    )


def member_names(family: str, *, min_size: int = 1, max_size: int = 3) -> st.SearchStrategy[dict[str, dict[str, Any]]]:
    """Members of a family, each with the fields its name implies."""
    if family == "obs":
        return (
            st.lists(observable_names(), min_size=min_size, max_size=max_size)
            .filter(lambda names: _no_clash(names, check_observable_names))
            .map(lambda names: {sanitize_observable_name(n): {"name": n} for n in names})
        )
    if family == "restriction":
        return (
            st.lists(restriction_names(), min_size=max(0, min_size - 1), max_size=max_size - 1)
            .filter(lambda names: _no_clash(["full", *names], check_restriction_names))
            .flatmap(lambda names: st.permutations(["full", *names]))
            .map(lambda names: {n: {} for n in names})
        )
    if family == "checkpoint":
        steps = st.lists(st.integers(0, 2**40), min_size=min_size, max_size=max_size, unique=True)
        return steps.map(lambda numbers: {str(n): {} for n in numbers})
    words = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)
    return st.lists(words, min_size=min_size, max_size=max_size, unique=True).map(lambda names: {n: {} for n in names})


def _no_clash(names: list[str], check: Any) -> bool:
    try:
        check(names)
    except (SettingError, RestrictionError):
        return False
    return True


def recipes(
    schema: str | Path | Mapping[str, Any] | Schema = "samples",
    *,
    profile: str = "strict",
    failures: bool = True,
    long: bool = True,
    min_members: int = 1,
    masks: bool = False,
    values: bool = False,
) -> st.SearchStrategy[StoreRecipe]:
    """Recipes of valid trees of a schema.

    Parameters
    ----------
    schema : str, Path, mapping or Schema
        A kind (``"samples"``, ``"study"``, ``"series"``, ``"sweep"``, ``"llc"``, ``"bif"``, ``"susceptibilities"``),
        an id, or a document of your own.
    profile : str
        Profile that the trees are valid under.
    failures : bool
        Whether chains may have failed, with a shorter prefix.
    long : bool
        Whether a chunked dimension is sometimes longer than one chunk.
    min_members : int
        Smallest number of members of every family (observables, restrictions).
    masks : bool
        Whether positions may be masked.
    values : bool
        Whether rows may be other things than sequences of tokens.
    """
    loaded: Schema = schema if isinstance(schema, Schema) else load(schema, profile=profile)
    return _recipes(loaded, schema, profile, failures, long, min_members, masks, values)


@st.composite
def _recipes(
    draw: st.DrawFn,
    loaded: Schema,
    source: Any,
    profile: str,
    failures: bool,
    long: bool,
    min_members: int,
    masks: bool,
    values: bool,
) -> StoreRecipe:
    included = included_schemas(loaded, profile)
    schemas = [loaded, *included]
    parameters: dict[str, Any] = {}
    for one in schemas:
        parameters.update(_draw_parameters(draw, one, long))
    if not values:
        parameters.pop("rows_are_tokens", None)  # by default they are
    members: dict[str, dict[str, dict[str, Any]]] = {}
    for one in schemas:
        for family, spec in one.families.items():
            drawn = draw(member_names(family, min_size=min_members), label=family)
            counts = st.fixed_dictionaries({p: st.integers(1, 3) for p in spec.parameters})
            members[family] = {name: {**fields, **draw(counts)} for name, fields in drawn.items()}
    every_node = [n for one in schemas for n in one.nodes]
    sizes, optional, leading = _draw_shape(draw, every_node)
    optional -= {name for one in schemas for name in masks_of(one)}
    if masks:
        optional |= _draw_masks(draw, schemas, members)
    alternatives = max((len(v.alternatives) for n in every_node for v in n.variables.values()), default=0)
    attributes: dict[str, Any] = draw(_undeclared_attributes())
    _draw_vocabulary(draw, loaded, attributes)
    inner: dict[str, Any] = {}
    for one in included:
        _draw_vocabulary(draw, one, inner)
    chains = parameters.get("num_chains", sizes.get("chain", 0))
    fail = _failed(chains, parameters.get("num_draws", sizes.get("draw", 1))) if failures else st.just({})
    stateful = any(r.predicate in ("chain_states", "llc_identities") for n in loaded.nodes for r in n.rules)

    def below(levels: list[Schema]) -> dict[str, dict[str, Any]]:
        """What the recipes of the groups of a level have of their own: runs fail, what holds them does not."""
        if len(levels) == 1:
            return {}
        out: dict[str, dict[str, Any]] = {}
        for family in levels[0].families:
            for name in members[family]:
                run = {"failed": draw(fail) if profile == "strict" else {}, "attributes": inner}
                out[name] = run if len(levels) == 2 else {"children": below(levels[1:])}
        return out

    children = below(schemas)
    return StoreRecipe(
        schema=source,
        profile=profile,
        parameters=parameters,
        members=members,
        sizes=sizes,
        optional=frozenset(optional),
        leading=leading,
        alternative=draw(st.integers(0, alternatives)),
        failed=draw(fail) if stateful else {},
        attributes=attributes,
        children=children,
        seed=draw(st.integers(0, 2**32 - 1), label="seed"),
    )


def _draw_parameters(draw: st.DrawFn, schema: Schema, long: bool) -> dict[str, Any]:
    declared = declared_attributes(schema)
    chunked: dict[str, int] = {}
    for node in schema.nodes:
        for variable in node.variables.values():
            for dim, largest in variable.chunks.items():
                size = node.dimensions[dim].size
                for name in size.names if size is not None and largest > 1 else ():
                    chunked[name] = largest
    out: dict[str, Any] = {}
    stretched = False
    for name, spec in schema.parameters.items():
        if spec.type == "boolean":
            out[name] = draw(st.booleans(), label=name)
        elif spec.type == "integer":
            low = int(subschema(declared, spec.path).get("minimum", 0))
            out[name] = draw(st.integers(low, low + _SPREAD), label=name)
            # One dimension longer than its chunk is enough; two would make the arrays large.
            if long and not stretched and name in chunked and draw(st.integers(0, 9)) == 0:
                out[name], stretched = chunked[name] + 1, True
        elif spec.type == "number":
            out[name] = draw(st.floats(0.1, 10.0), label=name)
    return out


def _draw_vocabulary(draw: st.DrawFn, schema: Schema, attributes: dict[str, Any]) -> None:
    """Sometimes say how many tokens there are, where a check asks for it."""
    for check in [c for n in schema.nodes for v in n.variables.values() for c in v.checks]:
        if check.predicate == "within_vocabulary" and draw(st.booleans()):
            put(attributes, check.arguments["path"], draw(st.integers(1, 70000)))


def _draw_shape(draw: st.DrawFn, nodes: list[NodeSpec]) -> tuple[dict[str, int], set[str], frozenset[str]]:
    sizes: dict[str, int] = {}
    optional: set[str] = set()
    leading: set[str] = set()
    for node in nodes:
        for dim in node.dimensions.values():
            if dim.size is None and "{" not in dim.name:
                sizes[dim.name] = draw(st.integers(max(1, dim.minimum), dim.minimum + _SPREAD), label=dim.name)
        for variable in node.variables.values():
            if variable.presence.kind == "optional" and variable.name not in optional and draw(st.booleans()):
                optional.add(variable.name)
        for dim_name in dict.fromkeys(d for v in node.variables.values() for d in v.leading):
            if draw(st.booleans()):
                leading.add(dim_name)
    return sizes, optional, frozenset(leading)


def _draw_masks(draw: st.DrawFn, schemas: list[Schema], members: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Which losses are masked: those of the sampling dataset, all or none, and those of each observable."""
    patterns = {mask for one in schemas for mask in masks_of(one)}
    sampled = {mask for mask in patterns if "{" not in mask}
    single = {p.format_map(b) for p in patterns - sampled for b in bindings(p, members)}
    chosen = {name for name in sorted(single) if draw(st.booleans(), label=name)}
    return chosen | (sampled if draw(st.booleans(), label="masks of the sampling dataset") else set())


def _failed(chains: int, draws: int) -> st.SearchStrategy[dict[int, int]]:
    """Some chains, never all, with fewer draws than they should have."""
    if chains < 2:
        return st.just({})
    return st.dictionaries(st.integers(0, chains - 1), st.integers(0, max(0, draws - 1)), max_size=chains - 1)


def _undeclared_attributes() -> st.SearchStrategy[dict[str, Any]]:
    """Attributes that no schema declares, which are allowed; any JSON."""
    leaf = (
        st.none()
        | st.booleans()
        | st.integers(-(2**53), 2**53)
        | st.floats(allow_nan=False, allow_infinity=False)
        | _TEXT
    )
    json = st.recursive(
        leaf, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_TEXT, inner, max_size=2), max_leaves=4
    )
    return st.dictionaries(st.from_regex(r"lab_[a-z]{1,5}", fullmatch=True), json, max_size=1)


def trees(
    schema: str | Path | Mapping[str, Any] | Schema = "samples", **options: Any
) -> st.SearchStrategy[xr.DataTree]:
    """Valid trees in memory.

    Parameters
    ----------
    schema, **options
        As in `recipes`.
    """
    return recipes(schema, **options).map(make_tree)


@st.composite
def sample_settings(draw: st.DrawFn, *, max_steps: int = 12) -> dict[str, Any]:
    """Legal keyword arguments of `devinterp.sample`, for runs of a few steps on a small model.

    Parameters
    ----------
    max_steps : int
        Largest number of steps of a chain.
    """
    between = draw(st.integers(1, 3))
    burnin = draw(st.integers(0, 3))
    draws = draw(st.integers(1, max(1, StepLayout(burnin, between, max_steps).whole_draws(max_steps))))
    settings: dict[str, Any] = {
        "lr": draw(st.floats(1e-6, 1e-3)),
        "n_beta": draw(st.floats(0.0, 50.0)),
        "num_chains": draw(st.integers(1, 3)),
        "num_draws": draws,
        "num_burnin_steps": burnin,
        "num_steps_bw_draws": between,
        "batch_size": draw(st.integers(1, 3)),
        "gradient_accumulation_steps": draw(st.integers(1, 2)),
        "num_init_loss_batches": draw(st.integers(1, 3)),
        "batches_per_draw": draw(st.integers(1, 2)),
        "init_seed": draw(st.integers(0, 2**20)),
        "obs_seed": draw(st.integers(0, 2**20)),
        "localization": draw(st.sampled_from([0.0, 1.0, 300.0])),
        "noise_level": draw(st.sampled_from([0.0, 0.5, 1.0])),
        "llc_weight_decay": draw(st.sampled_from([0.0, 0.1])),
        "bounding_box_size": draw(st.sampled_from([None, 0.01, 10.0])),
        "shuffle": draw(st.booleans()),
        "match_sampling_input_ids_across_chains": draw(st.booleans()),
        "init_noise": draw(st.sampled_from([None, 0.01])),
        "save_metrics": draw(st.booleans()),
        "save_step_losses": draw(st.booleans()),
        "save_paired_losses": draw(st.booleans()),
        "sampling_method": draw(st.sampled_from(["sgmcmc_sgld", "rmsprop_sgld"])),
    }
    if settings["sampling_method"] == "rmsprop_sgld":
        settings["rmsprop_alpha"] = draw(st.sampled_from([None, 0.9, 0.99]))
        settings["rmsprop_eps"] = draw(st.sampled_from([None, 0.01, 0.1, 1.0]))
    return settings
