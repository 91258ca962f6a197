"""Write, read, write: the same bytes; unflatten, flatten: the same result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from devinterp.testing import StoreRecipe, make_store, make_tree, recipes

KINDS = ("samples", "study", "series", "llc", "bif", "susceptibilities", "sweep")
OPTIONS: dict[str, Any] = {"zarr_format": 3, "consolidated": False, "write_inherited_coords": False}


def contents(store: zarr.storage.MemoryStore) -> dict[str, bytes]:
    """Every object of a store."""
    return {key: buffer.to_bytes() for key, buffer in store._store_dict.items()}


def document(raw: bytes) -> dict[str, Any]:
    """A zarr.json without what may be written or left out: scalars have no names of dimensions to tell."""
    parsed: dict[str, Any] = json.loads(raw)
    return {k: v for k, v in parsed.items() if k != "consolidated_metadata" and v != []}


def rewritten(store: zarr.storage.MemoryStore) -> zarr.storage.MemoryStore:
    """The store, read by xarray and written by xarray."""
    target = zarr.storage.MemoryStore()
    tree = xr.open_datatree(store, engine="zarr", consolidated=False)  # type: ignore[arg-type]
    with zarr.config.set({"array.write_empty_chunks": True}):
        tree.to_zarr(target, **OPTIONS)  # type: ignore[arg-type]
    return target


@pytest.mark.parametrize("kind", KINDS)
def test_write_read_write_is_the_identity(kind: str) -> None:
    """What our writer wrote, xarray writes again: equal chunks, equal documents; from then on, equal bytes."""

    @settings(max_examples=4)
    @given(recipes(kind))
    def check(recipe: StoreRecipe) -> None:
        ours = zarr.storage.MemoryStore()
        make_store(ours, recipe, consolidated=False)
        once = rewritten(ours)
        twice = rewritten(once)
        first, second = contents(ours), contents(once)
        assert set(first) == set(second)
        for key, raw in first.items():
            if key.endswith("zarr.json"):
                assert document(raw) == document(second[key]), key
            else:
                assert raw == second[key], key
        assert contents(twice) == second

    check()


def results() -> st.SearchStrategy[xr.DataTree]:
    """Susceptibilities of one checkpoint or of several, with no attributes but their own."""
    return recipes("susceptibilities").map(lambda recipe: make_tree(replace(recipe, attributes={})))


@settings(max_examples=8)
@given(results())
def test_flatten_undoes_unflatten(tree: xr.DataTree) -> None:
    unflattened = tree.devinterp.unflatten()
    assert [str(n) for n in unflattened.children] == tree["susceptibilities"].attrs["dataset_id_to_name"]
    again = unflattened.devinterp.flatten()
    for group in ("susceptibilities", "context"):
        xr.testing.assert_equal(again[group].to_dataset(), tree[group].to_dataset())
        assert again[group].attrs["dataset_id_to_name"] == tree[group].attrs["dataset_id_to_name"]


@settings(max_examples=8)
@given(results(), st.data())
def test_unflattened_values_lie_where_their_coordinates_say(tree: xr.DataTree, data: st.DataObject) -> None:
    sus, unflattened = tree["susceptibilities"], tree.devinterp.unflatten()
    index = data.draw(st.integers(0, sus.sizes["sus_flat"] - 1))
    name = sus.attrs["dataset_id_to_name"][int(sus["dataset_id"][index])]
    place = {"batch": int(sus["batch"][index]), "target_position": int(sus["target_position"][index])}
    moved = unflattened[name].to_dataset().sel(place)
    assert moved["sus"].dims == tuple(d for d in sus["sus"].dims if d != "sus_flat")
    assert moved["sus"].values.tolist() == sus["sus"].isel(sus_flat=index).values.tolist()
    token = int(moved["input_ids"].sel(position=place["target_position"]))
    context = tree["context"]
    here = (context["dataset_id"] == sus["dataset_id"][index]) & (context["batch"] == place["batch"])
    assert token == int(
        context["input_ids"].values[(here & (context["position"] == place["target_position"])).values][0]
    )


def test_a_store_on_disk_is_the_store_in_memory(tmp_path: Path) -> None:
    recipe = StoreRecipe("samples", seed=4)
    memory = zarr.storage.MemoryStore()
    make_store(memory, recipe)
    make_store(tmp_path / "x.zarr", recipe)
    files = {
        str(p.relative_to(tmp_path / "x.zarr")): p.read_bytes() for p in (tmp_path / "x.zarr").rglob("*") if p.is_file()
    }
    assert files == contents(memory)
