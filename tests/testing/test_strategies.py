"""No valid store gives a finding, whatever its kind, sizes, names and failures; what is drawn follows the schema."""

from __future__ import annotations

from typing import Any

import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from devinterp.errors import SchemaError
from devinterp.names import check_observable_names, check_restriction_names
from devinterp.schema import RuleCode, load, validate
from devinterp.schema.findings.report import Report
from devinterp.testing import StoreRecipe, make_store, make_tree, observable_names, recipes, restriction_names, trees
from devinterp.testing.mutations.bases import EXTENDED

KINDS = ("samples", "study", "llc", "bif", "bif_topk", "susceptibilities", "series", "sweep", "sweep_summary")
PROFILES = ("strict", "open", "devinterp-2.0")
CASES = [(k, p) for k in KINDS for p in PROFILES if p in load(k).profiles]


def complaints(report: Report, recipe: StoreRecipe) -> list[str]:
    """Findings, but for the one that says that a chain failed where the recipe says that it did."""

    def fails(children: Any) -> bool:
        return any(c.get("failed") or fails(c.get("children", {})) for c in children.values())

    failed = recipe.failed or fails(recipe.children)
    return [str(f) for f in report.findings if not (failed and f.code == RuleCode.FAILED_CHAIN)]


@pytest.mark.parametrize(("kind", "profile"), CASES)
def test_a_valid_store_gives_no_finding_at_any_level(kind: str, profile: str) -> None:
    @settings(max_examples=5)
    @given(
        recipes(kind, profile=profile, masks=True, values=True),
        st.sampled_from(["structure", "completeness", "values"]),
        st.booleans(),
    )
    def check(recipe: StoreRecipe, level: Any, consolidated: bool) -> None:
        store = zarr.storage.MemoryStore()
        make_store(store, recipe, consolidated=consolidated)
        assert complaints(validate(store, profile=profile, level=level), recipe) == []

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_a_valid_tree_in_memory_gives_no_finding(kind: str) -> None:
    @settings(max_examples=6)
    @given(recipes(kind, masks=True, values=True))
    def check(recipe: StoreRecipe) -> None:
        assert complaints(validate(make_tree(recipe)), recipe) == []

    check()


@settings(max_examples=6)
@given(recipes(EXTENDED))
def test_an_extended_schema_gets_strategies_for_free(recipe: StoreRecipe) -> None:
    store = zarr.storage.MemoryStore()
    make_store(store, recipe)
    assert complaints(validate(store, schema=EXTENDED), recipe) == []
    tree = make_tree(recipe)
    assert ((tree["temperature"] >= 0) & (tree["temperature"] <= 10)).all()
    assert isinstance(tree.attrs["lab"], str)
    assert tree.attrs["devinterp_schema"] == "lab/samples@1"


@pytest.mark.parametrize("kind", KINDS)
def test_the_store_and_the_tree_of_a_recipe_are_identical(kind: str) -> None:
    @settings(max_examples=3)
    @given(recipes(kind, masks=True, values=True))
    def check(recipe: StoreRecipe) -> None:
        store = zarr.storage.MemoryStore()
        make_store(store, recipe, consolidated=False)
        opened = xr.open_datatree(store, engine="zarr", consolidated=False)  # type: ignore[arg-type]
        xr.testing.assert_identical(opened.load(), make_tree(recipe))

    check()


@settings(max_examples=10)
@given(recipes("samples", masks=True, values=True))
def test_arrays_are_those_that_the_schema_resolves(recipe: StoreRecipe) -> None:
    schema = load("samples")
    layout = schema.resolve(recipe.parameters, members=recipe.members, sizes=recipe.sizes, optional=recipe.optional)
    tree = make_tree(recipe)
    assert set(map(str, tree.variables)) == set(layout.arrays)
    for name, array in layout.arrays.items():
        dtype = "string" if tree[name].dtype.kind in "OT" else str(tree[name].dtype)
        assert (tree[name].dims, tree[name].shape, dtype) == (array.dims, array.shape, array.dtype)


@settings(max_examples=100)
@given(observable_names(), restriction_names())
def test_names_are_legal(observable: str, restriction: str) -> None:
    check_observable_names([observable])
    check_restriction_names(["full", restriction])


def test_the_same_recipe_gives_the_same_tree() -> None:
    xr.testing.assert_identical(make_tree("samples", seed=3), make_tree("samples", seed=3))
    assert not make_tree("samples", seed=3).identical(make_tree("samples", seed=4))


@settings(max_examples=5)
@given(trees("llc"))
def test_trees_are_trees(tree: xr.DataTree) -> None:
    assert tree.attrs["devinterp_schema"] == load("llc").id


_OTHERS = {"members": {"obs": {"train": {"batches_per_draw": 1}}}}


@pytest.mark.parametrize(
    ("kind", "children", "message"),
    [
        ("study", {"full": _OTHERS}, "see the same rows"),
        ("study", {"l0h0": {"sizes": {"token_pos": 7}}}, "see the same rows"),
        ("study", {"full": {"optional": frozenset({"mask_{obs}"})}}, "mask_code is not that of 'full'"),
        ("study", {"l9": _OTHERS}, "no member 'l9'"),
        ("series", {"0": {"children": {"l9": {}}}}, "no member 'l9'"),
        ("series", {"0": {"children": dict.fromkeys(("full", "l0h0", "l1h1 mlp"), _OTHERS)}}, "No valid tree"),
    ],
)
def test_members_that_no_valid_tree_has_are_refused_by_name(kind: str, children: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        make_tree(kind, children=children)


def test_all_members_may_be_others() -> None:
    tree = make_tree("study", children=dict.fromkeys(("full", "l0h0", "l1h1 mlp"), _OTHERS))
    assert tree.devinterp.report().ok
    assert "loss_train" in tree["full"]
