"""A declared variable in a store that is there: validated as it will be, and all of it or nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from zarr.storage import MemoryStore

import devinterp
from devinterp.errors import DataError, MissingVariableError, StoreExistsError, ValidationError
from devinterp.store import write_variable, write_variables
from devinterp.store.location import Location
from devinterp.testing import make_store

GRADED: dict[str, Any] = {
    "schema": "lab/graded",
    "version": 1,
    "extends": "devinterp/samples@1",
    "doc": "A run with accuracies.",
    "nodes": {
        "/": {
            "doc": "The root.",
            "dimensions": {"grader": {"doc": "who graded"}},
            "variables": {
                "accuracy_{obs}": {
                    "dims": ["chain", "draw", "batch_{obs}"], "dtype": "float32", "fill": "NaN", "unit": "1",
                    "doc": "Accuracy on {obs}.", "chunks": {"chain": 1, "draw": 50}, "prefix": "draw",
                    "presence": "optional",
                    "checks": [{"code": "LAB301", "predicate": "finite"},
                               {"code": "LAB303", "predicate": "at_most", "arguments": {"maximum": 1}}],
                },
                "grader": {"dims": ["grader"], "dtype": "string", "fill": "", "unit": "1", "doc": "Names.",
                           "role": "coordinate", "presence": "optional"},
            },
            "attributes": {"type": "object", "required": ["graded_by"]},
        }
    },
}  # fmt: skip


def files(store: Path) -> dict[str, bytes]:
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in store.rglob("*") if p.is_file()}


def accuracy(store: Path, like: str = "loss_code") -> xr.DataArray:
    loss = xr.open_datatree(store, engine="zarr", consolidated=False)[like]
    return (loss.max("token_pos") < loss.mean("token_pos")).astype(np.float32).transpose(..., "chain").drop_attrs()


@pytest.fixture(params=[True, False], ids=["consolidated", "plain"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(make_store(tmp_path / "s.zarr", consolidated=request.param))


def test_a_variable_of_an_extension_is_added_and_nothing_else_changes(store: Path) -> None:
    before, values = files(store), accuracy(store)
    write_variable(store, "accuracy_code", values, schema=GRADED, attributes={"graded_by": "us"})
    assert devinterp.validate(store, schema=GRADED).ok
    after = files(store)
    assert {k for k in before if before[k] != after[k]} == {"zarr.json"}
    assert {k.split("/")[0] for k in set(after) - set(before)} == {"accuracy_code"}
    for consolidated in (None, False):
        tree = devinterp.open_store(store, level=None, consolidated=consolidated)
        np.testing.assert_array_equal(tree["accuracy_code"], values.transpose("chain", "draw", "batch_code"))
    assert tree.attrs["devinterp_schema"] == "lab/graded@1"
    write_variable(store, "grader", ["ann", "bo"], schema=GRADED)
    assert list(devinterp.open_store(store, level=None).coords["grader"].values) == ["ann", "bo"]


@pytest.mark.parametrize(
    ("name", "values", "options", "error", "words"),
    [
        ("accuracy_cod", lambda v: v, {"schema": GRADED}, MissingVariableError, "accuracy_code"),
        ("accuracy_other", lambda v: v, {"schema": GRADED}, MissingVariableError, "accuracy_code"),
        ("accuracy_code", lambda v: v, {}, MissingVariableError, "declares no variable"),
        ("accuracy_code", lambda v: v.isel(draw=0), {"schema": GRADED}, DataError, "other dimensions"),
        ("accuracy_code", lambda v: v.isel(draw=[0]), {"schema": GRADED}, DataError, "other sizes"),
        ("accuracy_code", lambda v: v.astype(str), {"schema": GRADED}, DataError, "wrong kind"),
        ("accuracy_code", lambda v: v + 1.5, {"schema": GRADED}, ValidationError, "LAB303"),
        ("accuracy_code", lambda v: v * np.nan, {"schema": GRADED}, ValidationError, "LAB301"),
        ("accuracy_code", lambda v: v, {"schema": GRADED, "attributes": {}}, ValidationError, "graded_by"),
        ("loss_code", lambda v: v, {}, StoreExistsError, "already"),
        ("accuracy_code", lambda v: v, {"schema": GRADED, "group": "none"}, MissingVariableError, "no group"),
    ],
)  # fmt: skip
def test_what_does_not_fit_leaves_the_store_as_it_was(
    store: Path, name: str, values: Any, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    before = files(store)
    given = {"attributes": {"graded_by": "us"}, **options}
    with pytest.raises(error, match=words):
        write_variable(store, name, values(accuracy(store)), **given)
    assert files(store) == before


REQUIRED = {
    "schema": "lab/marked", "version": 1, "extends": "devinterp/samples@1", "doc": "d",
    "nodes": {"/": {"doc": "d", "variables": {
        "mark_{obs}": {"dims": ["batch_{obs}"], "dtype": "float32", "fill": "NaN", "unit": "1", "doc": "d"},
        "marker": {"dims": ["chain"], "dtype": "int64", "fill": -1, "unit": "1", "doc": "d"}}}},
}  # fmt: skip


def test_variables_that_a_schema_requires_together_are_written_in_one(store: Path) -> None:
    rows = xr.open_datatree(store, engine="zarr", consolidated=False).sizes
    marks = {f"mark_{obs}": np.arange(rows[f"batch_{obs}"], dtype=np.float32) for obs in ("code", "math")}
    marks["marker"] = np.arange(rows["chain"])
    before = files(store)
    for part in ({}, {"mark_code": marks["mark_code"]}, {**marks, "marker": ["a"] * rows["chain"]}):
        with pytest.raises((ValidationError, DataError)):
            write_variables(store, part, schema=REQUIRED)
        assert files(store) == before
    write_variables(store, marks, schema=REQUIRED)
    for consolidated in (None, False):
        assert devinterp.validate(store, schema=REQUIRED, consolidated=consolidated).ok
    assert {k.split("/")[0] for k in files(store).keys() - before} == set(marks)
    with pytest.raises(StoreExistsError):
        write_variables(store, marks, schema=REQUIRED)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda v: v.assign_coords(chain=range(v.sizes["chain"])).isel(chain=slice(None, None, -1)), "along 'chain'"),
        (lambda v: v.assign_coords(batch_code=[0] * v.sizes["batch_code"]), "along 'batch_code'"),
        (lambda v: np.ma.masked_array(v.transpose("chain", "draw", "batch_code"), mask=v == v), "are masked"),
        (lambda v: v.astype(complex), "wrong kind"),
        (lambda v: np.float32(1), "other dimensions"),
    ],
)
def test_values_of_other_places_or_none_are_refused(store: Path, change: Any, error: str) -> None:
    before, given = files(store), {"schema": GRADED, "attributes": {"graded_by": "us"}}
    with pytest.raises(DataError, match=error):
        write_variable(store, "accuracy_code", change(accuracy(store)), **given)
    assert files(store) == before
    labelled = accuracy(store).assign_coords(draw=range(accuracy(store).sizes["draw"]))
    write_variable(store, "accuracy_code", labelled, **given)


@pytest.mark.parametrize("fail_at", range(5))
def test_a_write_that_fails_leaves_the_store_as_it_was(
    store: Path, fail_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, values, real, calls = files(store), accuracy(store), Location.set, [0]

    def failing(self: Location, key: str, value: bytes) -> None:
        if self.folder is not None:
            calls[0] += 1
            if calls[0] == fail_at + 1:
                raise OSError("no space left")
        real(self, key, value)

    monkeypatch.setattr(Location, "set", failing)
    if fail_at < 4:
        with pytest.raises(OSError, match="no space"):
            write_variable(store, "accuracy_code", values, schema=GRADED, attributes={"graded_by": "us"})
        assert files(store) == before
    monkeypatch.undo()
    write_variable(store, "accuracy_code", values, schema=GRADED, attributes={"graded_by": "us"})
    assert devinterp.validate(store, schema=GRADED).ok


def test_whoever_was_killed_calls_again(store: Path) -> None:
    before, values = files(store), accuracy(store)
    write_variable(store, "accuracy_code", values, schema=GRADED, attributes={"graded_by": "us"})
    for lost in (["zarr.json"], ["zarr.json", "accuracy_code/zarr.json"]):  # killed before the last, or the last two
        again = Path(shutil.copytree(store, store.with_name("again.zarr"), dirs_exist_ok=True))
        for key in lost:
            if key in before:
                (again / key).write_bytes(before[key])
            else:
                os.remove(again / key)
        write_variable(again, "accuracy_code", values, schema=GRADED, attributes={"graded_by": "us"})
        assert devinterp.validate(again, schema=GRADED).ok


def test_an_optional_variable_of_ours_is_written_into_any_store(tmp_path: Path) -> None:
    folder = Path(make_store(tmp_path / "a.zarr", "llc"))
    memory = MemoryStore()
    make_store(memory, "llc")
    for target in (folder, memory):
        write_variable(target, "llc_ci", np.array([0.1, 0.2]))
        report = devinterp.validate(target)
        assert report.ok, str(report)
        np.testing.assert_array_equal(devinterp.open_store(target)["llc_ci"], [0.1, 0.2])


def test_a_run_of_a_study_takes_an_installed_extension(tmp_path: Path) -> None:
    store = Path(make_store(tmp_path / "a.zarr", "study"))
    rows = xr.open_datatree(store, engine="zarr")["full"].sizes["chain"]
    write_variable(store, "chain", np.arange(rows), group="full")
    assert devinterp.validate(store).ok
    assert list(devinterp.open_store(store)["full"].coords["chain"].values) == list(range(rows))
