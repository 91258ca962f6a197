"""pandera's verdicts as findings: misspelt names, names that must not be there, and shapes without their sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from edits import edit_attributes
from pandera.errors import SchemaError, SchemaErrorReason

from devinterp.schema import load, validate
from devinterp.schema.checks import names_and_types
from devinterp.schema.checks.names_and_types import _MAX_SUGGESTIONS
from devinterp.testing import make_store, make_tree

VARIABLE = {"dims": [], "dtype": "float64", "unit": "1", "doc": "x"}


def schema_of(variables: dict[str, Any], **parts: Any) -> Any:
    document = {
        "schema": "lab/x", "version": 1, "doc": "x",
        "parameters": {"flag": {"path": "flag", "type": "boolean", "doc": "x"}},
        "nodes": {"/": {"doc": "x", "dimensions": {"d": {"doc": "x"}}, "variables": variables}}, **parts,
    }  # fmt: skip
    return load(document, profile=next(iter(parts.get("profiles", ["strict"]))))


@pytest.mark.parametrize("count", [_MAX_SUGGESTIONS, _MAX_SUGGESTIONS + 1])
def test_a_few_undeclared_names_may_be_misspelt_and_many_are_not(count: int) -> None:
    schema = schema_of({"temperature": VARIABLE})
    names = ["temprature", *(f"x{n}" for n in range(count - 1))]
    report = validate(xr.Dataset(dict.fromkeys(names, 1.0)), schema=schema)
    remedies = {p: str(f.remedy) for f in report.filter(code="DI102") for p in f.paths}
    assert ("'temperature'" in remedies["/temprature"]) == (count == _MAX_SUGGESTIONS)
    (missing,) = report.filter(code="DI101").findings
    assert missing.expected == "temperature () float64: x"
    assert "'temprature'" in str(missing.remedy)


@pytest.mark.parametrize("count", [_MAX_SUGGESTIONS, _MAX_SUGGESTIONS + 1])
def test_a_few_missing_names_may_be_misspelt_and_many_are_not(count: int) -> None:
    schema = schema_of(dict.fromkeys(("temperature", *(f"x{n}" for n in range(count - 1))), VARIABLE))
    report = validate(xr.Dataset({"temprature": 1.0}), schema=schema)
    remedies = {p: str(f.remedy) for f in report.filter(code="DI101") for p in f.paths}
    assert ("'temprature'" in remedies["/temperature"]) == (count == _MAX_SUGGESTIONS)


def test_a_variable_that_must_not_be_there_says_why() -> None:
    schema = schema_of({"a": {**VARIABLE, "presence": {"when": "flag"}}})
    (finding,) = validate(xr.Dataset({"a": 1.0}, attrs={"flag": False}), schema=schema).findings
    assert (finding.code, finding.path, finding.found) == ("DI112", "/a", "flag is false in the settings")
    forbidden = schema_of(
        {"a": VARIABLE}, profiles={"strict": {"doc": "x", "variables": {"a": {"presence": "forbidden"}}}}
    )
    (finding,) = validate(xr.Dataset({"a": 1.0}), schema=forbidden).findings
    assert finding.found == "the profile strict forbids it"


def test_roles_dimensions_and_types_are_told_apart() -> None:
    schema = schema_of({"a": VARIABLE, "c": {**VARIABLE, "role": "coordinate"}, "v": {**VARIABLE, "dims": ["d"]}})
    right = xr.Dataset({"a": 1.0, "v": ("d", np.zeros(2))}, coords={"c": 1.0})
    assert validate(right, schema=schema).findings == ()
    found = lambda data: [(str(f.code), f.path, f.expected, f.found) for f in validate(data, schema=schema).findings]  # noqa: E731
    assert found(right.reset_coords("c")) == [("DI105", "/c", "a coordinate", "a data variable")]
    assert found(right.set_coords("a")) == [("DI105", "/a", "a data variable", "a coordinate")]
    assert found(right.assign(a=np.float32(1))) == [("DI104", "/a", "float64", "float32")]
    assert ("DI103", "/v", "(d)", "(e)") in found(right.drop_vars("v").assign(v=("e", np.zeros(2))))
    assert [f[:2] for f in found(right.assign(v=((), np.float32(1))))] == [("DI103", "/v"), ("DI104", "/v")]


def test_a_misspelt_copy_of_a_variable_names_it_but_never_one_that_must_not_be_there() -> None:
    schema = schema_of({"temperature": VARIABLE, "pressure": {**VARIABLE, "presence": {"when": "flag"}}})
    values = dict.fromkeys(["temperature", "temprature", "presure"], 1.0)
    report = validate(xr.Dataset(values, attrs={"flag": False}), schema=schema)
    remedies = {p: str(f.remedy) for f in report.filter(code="DI102") for p in f.paths}
    assert "'temperature'" in remedies["/temprature"]
    assert "'pressure'" not in remedies["/presure"]


def test_no_wording_of_pandera_decides_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reason codes do, and the names that it gives as such: another release may say all else in other words."""
    variables = {n: {**VARIABLE, "dims": ["d"]} for n in ("a", "b", "c")}
    schema = schema_of({**variables, "x": {**VARIABLE, "role": "coordinate"}, "y": {**VARIABLE, "role": "coordinate"}})
    wrong = xr.Dataset(
        {"a": ("e", np.zeros(2)), "b": ("d", np.zeros(2, np.int8)), "it's": 0.0, "z]": 0.0}, coords={"y": 1.0, "w": 1.0}
    )
    said = validate(wrong, schema=schema).findings
    assert {str(f.code) for f in said} >= {"DI101", "DI102", "DI103", "DI104"}

    original = SchemaError.__init__

    def reworded(self: SchemaError, *args: Any, **fields: Any) -> None:
        original(self, *args, **fields)
        self.args = ("something is amiss",)
        self.check = "anything"
        if self.reason_code is SchemaErrorReason.COLUMN_NOT_IN_SCHEMA:
            self.failure_cases = "some of them"

    monkeypatch.setattr(SchemaError, "__init__", reworded)
    monkeypatch.setattr(names_and_types, "_VERDICTS", {})
    assert validate(wrong, schema=schema).findings == said


def test_an_optional_coordinate_that_is_none_is_of_another_role(tmp_path: Path) -> None:
    store = Path(make_store(tmp_path / "b.zarr", "bif", optional=frozenset({"row_number"}), consolidated=False))
    assert validate(store).ok
    edit_attributes(store, lambda a: a.pop("coordinates"), "input_ids")
    (finding,) = validate(store, level="structure").findings
    assert (finding.code, finding.path, finding.expected) == ("DI105", "/row_number", "a coordinate")


@pytest.mark.parametrize("dim", ["chain", "draw", "step", "batch"])
def test_what_xarray_combined_by_itself_is_told_and_its_remedy_helps(dim: str) -> None:
    run = make_tree(failed={1: 3}, parameters={"num_chains": 2, "num_draws": 5}).to_dataset()
    options: dict[str, Any] = {"data_vars": "all", "coords": "different", "compat": "equals", "join": "outer"}
    found = [f for f in validate(xr.concat([run, run], dim, **options)).errors if f.code == "DI103"]
    assert found
    for finding in found:
        assert f"one dimension more, {dim!r}" in finding.message
        assert f"xr.concat(parts, {dim!r}, data_vars='minimal', coords='minimal', compat='equals')" in finding.remedy
    mended = xr.concat([run, run], dim, data_vars="minimal", coords="minimal", compat="equals")
    assert validate(mended).ok, str(validate(mended))


def test_dimensions_that_xarray_added_dropped_or_turned_have_remedies_that_help() -> None:
    run = make_tree(parameters={"num_chains": 2, "num_draws": 3}).to_dataset()
    cases = {
        "ds.isel(run=0, drop=True)": (run.expand_dims("run"), lambda ds: ds.isel(run=0, drop=True)),
        "isel(draw=[0])": (run.isel(draw=0), lambda _: run.isel(draw=[0])),
        "transpose('chain', 'draw', 'batch', 'token_pos')": (
            run.assign(sampling_loss=run["sampling_loss"].transpose()),
            lambda ds: ds.assign(sampling_loss=ds["sampling_loss"].transpose("chain", "draw", "batch", "token_pos")),
        ),
    }
    for remedy, (wrong, mend) in cases.items():
        assert any(remedy in f.remedy for f in validate(wrong).errors), str(validate(wrong))
        assert validate(mend(wrong)).ok


def test_what_is_expected_of_a_missing_variable_names_the_observable() -> None:
    run = make_tree("samples", members={"obs": {"code": {}}}).to_dataset().drop_vars("loss_code")
    found = validate(xr.DataTree(run), level="structure").filter(code="DI101").findings[0]
    assert "observable code" in str(found.expected)
    assert "{" not in str(found.expected)
