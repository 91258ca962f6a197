"""Random structural damage to random valid stores is always found, at the level of metadata alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from devinterp.schema import RuleCode, validate
from devinterp.schema.definition.spec import match_pattern
from devinterp.testing import StoreRecipe, make_store, recipes
from devinterp.testing.mutations.store_editor import StoreEditor

Damage = Callable[[StoreEditor, str, Any], None]


def remove(store: StoreEditor, path: str, data: Any) -> None:
    store.remove(path)


def rename(store: StoreEditor, path: str, data: Any) -> None:
    store.rename(path, f"{path}_{data.draw(st.from_regex(r'[a-z]{3,5}', fullmatch=True))}")


def add(store: StoreEditor, path: str, data: Any) -> None:
    store.copy(path, f"{path.rpartition('/')[0]}/zz_{data.draw(st.integers(0, 99))}".lstrip("/"))


def change_dtype(store: StoreEditor, path: str, data: Any) -> None:
    now = store.document(path)["data_type"]
    other = data.draw(st.sampled_from([t for t in ("float32", "float64", "int32", "uint8", "bool") if t != now]))
    store.edit(path, {"data_type": other, "fill_value": {"bool": False}.get(other, 0)})


def rename_dimension(store: StoreEditor, path: str, data: Any) -> None:
    names = store.document(path)["dimension_names"]
    assume(names)
    index = data.draw(st.integers(0, len(names) - 1))
    store.edit(path, {"dimension_names": [f"{n}_" if i == index else n for i, n in enumerate(names)]})


def drop_dimension(store: StoreEditor, path: str, data: Any) -> None:
    document = store.document(path)
    # A leading dimension is legal with and without, variable by variable.
    assume(document["shape"] and document["dimension_names"][-1] not in ("wr", "checkpoint"))
    chunks = document["chunk_grid"]["configuration"]["chunk_shape"][:-1]
    names = document["dimension_names"][:-1]
    store.edit(path, {"shape": document["shape"][:-1], "dimension_names": names, "chunks": chunks})


def change_fill(store: StoreEditor, path: str, data: Any) -> None:
    document = store.document(path)
    assume(document["data_type"] != "string")
    store.edit(path, {"fill_value": 7.5 if document["data_type"].startswith("float") else 7})


def change_unit(store: StoreEditor, path: str, data: Any) -> None:
    store.set_attribute(path, "units", data.draw(st.sampled_from(["bit", "", "nats", "m/s"])))


def change_codecs(store: StoreEditor, path: str, data: Any) -> None:
    codecs = store.document(path)["codecs"]
    others = [codecs[:1], [codecs[0], codecs[2]], [*codecs[:2], codecs[1]]]
    store.edit(path, {"codecs": data.draw(st.sampled_from(others))})


def change_keys(store: StoreEditor, path: str, data: Any) -> None:
    store.edit(path, {"chunk_keys": ["v2", data.draw(st.sampled_from("./"))]})


def break_document(store: StoreEditor, path: str, data: Any) -> None:
    raw = store.get(f"{path}/zarr.json")
    store.put(f"{path}/zarr.json", raw[: data.draw(st.integers(0, len(raw) - 1))])


def drop_member(store: StoreEditor, path: str, data: Any) -> None:
    needed = [
        "shape",
        "data_type",
        "chunk_grid",
        "chunk_key_encoding",
        "fill_value",
        "codecs",
        "zarr_format",
        "node_type",
    ]
    store.edit(path, {data.draw(st.sampled_from(needed)): None})


def turn_into_group(store: StoreEditor, path: str, data: Any) -> None:
    store.remove(path)
    store.add_group(path)


DAMAGES: tuple[Damage, ...] = (
    remove, rename, add, change_dtype, rename_dimension, drop_dimension, change_fill, change_unit, change_codecs,
    change_keys, break_document, drop_member, turn_into_group,
)  # fmt: skip
KINDS = ("samples", "study", "llc", "bif", "susceptibilities", "sweep")


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
def test_is_found(damage: Damage) -> None:
    @settings(max_examples=5)
    @given(st.sampled_from(KINDS).flatmap(lambda k: recipes(k, long=False, failures=False)), st.data())
    def check(recipe: StoreRecipe, data: st.DataObject) -> None:
        store = zarr.storage.MemoryStore()
        make_store(store, recipe, consolidated=False)
        editor = StoreEditor(store)
        path = data.draw(st.sampled_from(sorted(editor.arrays())), label="array")
        name = path.rsplit("/", 1)[-1]
        assume(damage is not remove or all(match_pattern(each, name) is None for each in recipe.optional))
        damage(editor, path, data)
        report = validate(store, level="structure")
        # Of a result, which xarray may have saved, another fill value is a warning.
        found = report.findings if damage is change_fill else report.errors
        assert found, f"{damage.__name__} of {path} was not found"

    check()


def test_a_variable_that_is_not_stacked_as_the_others_is_found() -> None:
    """A restriction dropped from one variable alone leaves it legal by itself, and wrong beside the others."""
    tree = xr.Dataset(
        {
            "llc_mean": ("wr", np.ones(1)),
            "llc_std": ("wr", np.ones(1)),
            "llc_scalar": ("wr", np.ones(1)),
            "llc_per_chain": (("wr", "chain"), np.ones((1, 2))),
            "loss_trace": (("wr", "chain", "draw"), np.ones((1, 2, 3), np.float32)),
            "init_loss": ((), 1.0),
        },
        coords={"wr": ("wr", np.array(["full"], dtype=object))},
    )
    report = validate(tree, level="structure", schema="llc")
    assert [(f.code, f.path) for f in report.errors] == [(RuleCode.DIMS, "/init_loss")]
    assert validate(tree.assign(init_loss=("wr", np.ones(1))), level="structure", schema="llc").ok
