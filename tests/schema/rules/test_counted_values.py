"""Masks say which values count: what may be NaN, what must be, and which runs have the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from contexts import problems
from hypothesis import given, settings
from hypothesis import strategies as st

from devinterp.errors import SchemaError, SettingError
from devinterp.names import check_observable_names
from devinterp.schema import load, to_pandera, validate
from devinterp.testing import make_tree, recipes

MASKS = ("mask_{obs}", "mask_sampling", "mask_sampling_micro")
SIZES: dict[str, Any] = {"parameters": {"num_chains": 2, "save_step_losses": True}, "sizes": {"token_pos": 3}}


def masked(**changes: Any) -> xr.DataTree:
    return make_tree("samples", optional=frozenset(MASKS), **{**SIZES, **changes})


def codes(tree: xr.DataTree) -> dict[str, str]:
    return {f.path: str(f.code) for f in validate(tree).findings}


@settings(max_examples=8)
@given(recipes("samples", masks=True), st.randoms(use_true_random=False))
def test_nan_stands_exactly_where_a_mask_is_0(recipe: Any, random: Any) -> None:
    """Oracle: plain xarray. Each loss has NaN where its mask is 0, and either other way is a finding there."""
    tree = make_tree(recipe)
    failed = xr.DataArray(np.isin(np.arange(tree.sizes["chain"]), [*recipe.failed]), dims="chain")
    for name in [n for n in map(str, tree.data_vars) if n.startswith("mask_")]:
        losses = [n for n in map(str, tree.data_vars) if tree[n].dims[-len(tree[name].dims) :] == tree[name].dims]
        for loss in [n for n in losses if n != name]:
            written = tree[loss].notnull().any("token_pos")
            # Of a chain that failed, a step's only value is not missed: without it the chain failed one step sooner.
            alone = (tree[loss].notnull().sum("token_pos") == 1) & (failed if "chain" in tree[loss].dims else False)
            assert (tree[loss].isnull() == (tree[name] != 1)).where(written, True).all()
            for counts, code in ((1, "DI301"), (0, "DI309")):
                places = np.argwhere(
                    (written & (tree[name] == counts) & ~(alone & bool(counts))).transpose(*tree[loss].dims).values
                )
                if len(places):
                    spoilt = tree.copy(deep=True)
                    spoilt[loss].values[tuple(random.choice(places.tolist()))] = np.nan if counts else 2.0
                    assert codes(spoilt)[f"/{loss}"] == code


def test_an_infinite_loss_is_found_on_either_side_of_the_mask() -> None:
    tree = masked()
    counts = tree["mask_code"].values
    for value, code in ((1, "DI301"), (0, "DI309")):
        spoilt = tree.copy(deep=True)
        spoilt["init_loss_code"].values[tuple(np.argwhere(counts == value)[0])] = np.inf
        assert codes(spoilt) == {"/init_loss_code": code}


def test_without_a_mask_nan_is_not_finite() -> None:
    tree = masked()
    without = tree.copy()
    del without["mask_code"]
    assert codes(without) == {"/loss_code": "DI301", "/init_loss_code": "DI301"}


def test_the_mean_over_rows_may_be_nan_where_rows_are_masked_and_nowhere_else() -> None:
    tree = masked()
    tree["init_loss"].values[0, 1] = np.nan
    assert codes(tree) == {}
    tree["init_loss"].values[0, 2] = np.inf
    assert codes(tree) == {"/init_loss": "DI301"}
    plain = make_tree("samples", **SIZES)
    plain["init_loss"].values[0, 1] = np.nan
    assert codes(plain) == {"/init_loss": "DI301"}


@pytest.mark.parametrize("value", [-1, 2])
def test_a_mask_is_0_or_1(value: int) -> None:
    tree = masked()
    tree["mask_code"].values[0, 0] = value
    assert codes(tree)["/mask_code"] == ("DI302" if value < 0 else "DI308")


def test_what_is_behind_the_last_draw_is_fill_in_masks_too() -> None:
    tree = masked(failed={1: 1})
    assert (tree["mask_sampling"].values[1, 1:] == -1).all()
    assert codes(tree) == {}
    tree["mask_sampling"].values[1, 1:] = 0
    assert codes(tree)["/mask_sampling"] == "DI307"


def test_a_part_may_have_rows_without_a_position_that_counts() -> None:
    """Selections leave rows that are all masked; they are right as they are."""
    tree = masked()
    tree["mask_code"].values[0] = [0, 1, 1]
    for name in ("loss_code", "init_loss_code"):
        tree[name].values[..., 0, :] = [np.nan, 1.0, 1.0]
    assert codes(tree) == {}
    assert codes(tree.isel(token_pos=slice(0, 1), token=slice(0, 2))) == {}


def test_rows_and_masks_belong_together() -> None:
    def said(tree: xr.DataTree) -> list[tuple[str, str]]:
        return [(p.message, p.name) for p in problems("positions_count", tree)]

    tree = masked()
    assert said(tree) == []
    tree["mask_code"].values[0] = 0
    tree["mask_sampling"].values[1, 1, 1] = 0
    empty = "A row has no position that counts."
    assert said(tree) == [(empty, "mask_sampling"), (empty, "mask_code")]
    alone = masked()
    del alone["loss_code"], alone["init_loss_code"], alone["mask_sampling_micro"]
    assert said(alone) == [
        ("A mask is there without its losses.", "mask_code"),
        ("Some losses of the sampling dataset have a mask, others none.", ""),
    ]


def test_runs_of_a_study_have_the_same_masks() -> None:
    def said(tree: xr.DataTree) -> list[tuple[str, str]]:
        return [(p.message, p.name) for p in problems("rows_agree", tree, "study")]

    tree = make_tree("study", optional=frozenset({"mask_code"}), **SIZES)
    assert validate(tree).ok
    assert said(tree) == []
    other = tree.copy(deep=True)
    other["l0h0"]["mask_code"].values[0] ^= 1
    assert said(other) == [("mask_code is not that of 'full'.", "l0h0/mask_code")]
    for lacking, found in (("l0h0", ["l0h0"]), ("full", [n for n in tree.children if n != "full"])):
        other = tree.copy(deep=True)
        del other[lacking]["mask_code"]
        assert said(other) == [("mask_code is not that of 'full'.", name) for name in sorted(found)]


def test_pandera_alone_passes_what_is_masked() -> None:
    tree = masked()
    attributes = dict(tree.attrs)
    dims = {str(n): tuple(map(str, v.dims)) for n, v in tree.variables.items()}
    to_pandera("samples", attributes=attributes, variables=dims).validate(tree.to_dataset())
    plain = {n: d for n, d in dims.items() if not n.startswith("mask_")}
    without = tree.to_dataset().drop_vars([n for n in dims if n.startswith("mask_")])
    with pytest.raises(Exception, match="finite"):
        to_pandera("samples", attributes=attributes, variables=plain).validate(without)


def test_a_document_names_a_mask_that_it_declares() -> None:
    document = {
        "schema": "lab/masked", "version": 1, "doc": "Masked by nothing.",
        "nodes": {"/": {"doc": "All.", "dimensions": {"x": {"doc": "x"}}, "variables": {
            "loss": {"dims": ["x"], "dtype": "float32", "unit": "nat", "doc": "A loss.", "mask": "counts"}}}},
    }  # fmt: skip
    with pytest.raises(SchemaError, match="loss is masked by 'counts'"):
        load(document)


def test_an_observable_may_not_be_called_like_the_mask_of_the_steps() -> None:
    with pytest.raises(SettingError, match="reserved"):
        check_observable_names(["sampling micro"])
