"""pandera schemas made from ours say of every variable what the document says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandera.errors
import pytest
import xarray as xr

from devinterp.schema import load, to_pandera
from devinterp.testing import make_tree

DOCUMENT: dict[str, Any] = {
    "schema": "lab/x",
    "version": 2,
    "doc": "x",
    "parameters": {"flag": {"path": "flag", "type": "boolean", "doc": "x"}},
    "families": {"obs": {"doc": "x", "path": "obs"}},
    "nodes": {
        "/": {
            "doc": "The root.",
            "dimensions": {"d": {"doc": "x"}, "e": {"doc": "x"}, "row_{obs}": {"doc": "x"}},
            "variables": {
                "a": {
                    "dims": ["d"],
                    "alternatives": [["e"]],
                    "dtype": "float32",
                    "unit": "nat",
                    "doc": "A.",
                    "checks": [
                        {"code": "LAB301", "predicate": "at_least", "arguments": {"minimum": 0}},
                        {"code": "LAB302", "predicate": "within_vocabulary", "arguments": {"path": "size"}},
                    ],
                },
                "c": {
                    "dims": ["d"],
                    "dtype": "int64",
                    "unit": "1",
                    "doc": "C.",
                    "role": "coordinate",
                    "presence": "optional",
                },
                "kept": {"dims": [], "dtype": "float64", "unit": "1", "doc": "K.", "presence": {"when": "flag"}},
                "word": {"dims": [], "dtype": "string", "unit": "1", "doc": "W.", "presence": "optional"},
                "text": {"dims": [], "dtype": "text", "unit": "1", "doc": "T.", "presence": "optional"},
                "l_{obs}": {"dims": ["row_{obs}"], "dtype": "float32", "unit": "nat", "doc": "L."},
            },
        },
        "/part": {"doc": "x", "variables": {"b": {"dims": [], "dtype": "float32", "unit": "1", "doc": "B."}}},
    },
    "profiles": {"strict": {"doc": "s"}, "open": {"doc": "o", "undeclared": "warning"}},
}


def compiled(profile: str = "strict", **options: Any) -> Any:
    return to_pandera(load(DOCUMENT, profile=profile), **options)


def dataset(**variables: Any) -> xr.Dataset:
    return xr.Dataset({"a": ("d", np.array([0.0, 1.0, np.nan], dtype=np.float32)), **variables})


def refused(schema: Any, data: xr.Dataset) -> bool:
    try:
        schema.validate(data, lazy=True)
    except pandera.errors.SchemaErrors:
        return True
    return False


def test_what_a_schema_says_of_its_variables() -> None:
    schema = compiled(attributes={"flag": True, "obs": ["x", "y"]})
    assert (schema.name, schema.description, schema.strict, schema.strict_coords) == (
        "lab/x@2",
        "The root.",
        True,
        True,
    )
    assert set(schema.data_vars) == {"a", "kept", "word", "text", "l_x", "l_y"}
    assert set(schema.coords) == {"c"}
    a = schema.data_vars["a"]
    assert (a.dims, str(a.dtype), a.required, a.nullable, a.description) == (("d",), "float32", True, True, "A.")
    assert a.metadata == {"unit": "nat", "fill": pytest.approx(np.nan, nan_ok=True)}
    assert [(c.name, c.error) for c in a.checks] == [("LAB301 at_least", "at least 0")]
    assert schema.data_vars["kept"].required
    assert schema.data_vars["l_x"].dims == ("row_x",)
    assert not schema.coords["c"].required
    assert str(schema.data_vars["word"].dtype) == repr(schema.data_vars["word"].dtype) == "string"
    assert "kept" not in compiled(attributes={"flag": False}).data_vars
    assert not compiled().data_vars["kept"].required
    assert to_pandera(load(DOCUMENT), node="/part").name == "lab/x@2/part"
    assert set(to_pandera(load(DOCUMENT), node="/part").data_vars) == {"b"}


def test_variables_choose_among_the_legal_dimensions_and_name_the_members() -> None:
    schema = compiled(variables={"a": ("e",), "l_z": ("row_z",), "odd": ()})
    assert schema.data_vars["a"].dims == ("e",)
    assert {n for n in schema.data_vars if n.startswith("l_")} == {"l_z"}
    assert compiled(variables={"a": ("f",)}).data_vars["a"].dims == ("d",)


def test_values_and_names_are_checked() -> None:
    schema = compiled(attributes={"flag": False, "obs": []})
    assert not refused(schema, dataset())
    assert not refused(schema, dataset(word="x", text="y"))
    assert refused(schema, dataset().drop_vars("a").assign(word="x"))
    assert refused(schema, dataset(a=("d", np.array([-1.0], dtype=np.float32))))
    assert refused(schema, dataset(a=("d", np.array([1.0]))))
    assert refused(schema, dataset(a=("f", np.zeros(1, dtype=np.float32))))
    assert refused(schema, dataset(odd=1.0))
    assert refused(schema, dataset().assign_coords(odd=1.0))
    assert refused(schema, dataset(word=1))
    assert not refused(
        compiled("open", attributes={"flag": False, "obs": []}), dataset(odd=1.0).assign_coords(more=1.0)
    )
    limited = compiled(attributes={"flag": False, "obs": [], "size": 1})
    assert [c.name for c in limited.data_vars["a"].checks] == ["LAB301 at_least", "LAB302 within_vocabulary"]
    assert refused(limited, dataset())
    assert not refused(limited, dataset(a=("d", np.array([0.5], dtype=np.float32))))


@pytest.mark.parametrize(
    ("values", "word", "text"),
    [
        (np.array("x"), True, True),
        (np.array("x", dtype=object), True, True),
        (np.array("x", dtype=np.dtypes.StringDType()), True, True),
        (np.array(b"x"), False, True),
        (np.array(1), False, False),
    ],
)
def test_strings_may_be_of_any_representation_and_bytes_are_text_alone(values: Any, word: bool, text: bool) -> None:
    schema = compiled(attributes={"flag": False, "obs": []})
    assert refused(schema, dataset(word=((), values))) == (not word)
    assert refused(schema, dataset(text=((), values))) == (not text)


@pytest.mark.parametrize("profile", ["strict", "open"])
def test_a_kind_is_loaded_under_the_profile(profile: str) -> None:
    assert to_pandera("llc", profile=profile).strict == (profile == "strict")
    data = make_tree("llc").to_dataset()
    schema = to_pandera(
        "llc", profile=profile, attributes=data.attrs, variables={str(n): v.dims for n, v in data.variables.items()}
    )
    schema.validate(data)
