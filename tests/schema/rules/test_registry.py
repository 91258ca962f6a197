"""Rules by name: what each value rule marks, how rules are registered, and how documents may use them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from devinterp.errors import PredicateError, SchemaError
from devinterp.schema import load, validate
from devinterp.schema.rules import registry as predicates
from devinterp.schema.rules.registry import find_predicate, predicate, resolve_arguments, verify_predicates
from devinterp.testing import make_tree


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The registry, given back as it was."""
    find_predicate("finite")
    monkeypatch.setattr(predicates, "_REGISTRY", dict(predicates._REGISTRY))
    return predicates._REGISTRY


def marked(name: str, values: Any, **arguments: Any) -> list[Any]:
    found = find_predicate(name)
    array = np.asarray(values)
    broken = found.broken(array, **arguments)
    assert broken.dtype == bool
    assert broken.shape == array.shape
    assert found.holds(array, **arguments) == (not broken.any())
    return broken.tolist()


@pytest.mark.parametrize(
    ("name", "arguments", "values", "broken"),
    [
        ("finite", {}, [0.0, np.nan, np.inf, -np.inf, 3e38], [0, 1, 1, 1, 0]),
        ("finite", {}, [np.inf, -np.inf], [1, 1]),
        ("at_least", {"minimum": 0}, [-1, 0, 1], [1, 0, 0]),
        ("at_least", {"minimum": 0}, [-0.5, np.nan, 0.0], [1, 0, 0]),
        ("at_most", {"maximum": 2}, [3, 2, 1], [1, 0, 0]),
        ("within_vocabulary", {"limit": 10}, [9, 10, 11], [0, 1, 1]),
        ("distinct", {}, [[3, 1], [3, 3]], [[0, 0], [1, 1]]),
        ("distinct", {}, ["a", "b", "a"], [0, 0, 1]),
        ("ascending", {}, [[1, 1, 2], [2, 1, 3]], [[0, 0, 0], [0, 1, 0]]),
        ("ascending", {"dim": "draw"}, [5], [0]),
        ("counts_from", {"start": 1}, [1, 2, 4, 4], [0, 0, 1, 0]),
        ("counts_from", {"start": 3}, [3, 4], [0, 0]),
    ],
)
def test_the_values_that_break_a_rule_are_marked(name: str, arguments: Any, values: Any, broken: Any) -> None:
    assert marked(name, values, **arguments) == np.asarray(broken, dtype=bool).tolist()


FLOATS = arrays.arrays(
    np.float32, st.integers(0, 5), elements=st.floats(-3, 3, width=32) | st.sampled_from([np.nan, np.inf])
)


@given(FLOATS, st.sampled_from(["finite", "at_least", "at_most"]), st.integers(-1, 1))
def test_a_rule_holds_exactly_where_it_marks_nothing(values: Any, name: str, bound: int) -> None:
    """The quick test may only ever save time."""
    arguments = {"at_least": {"minimum": bound}, "at_most": {"maximum": bound}}.get(name, {})
    found = find_predicate(name)
    if found.quick is not None and values.size and found.quick(values, **arguments):
        assert not found.broken(values, **arguments).any()
    assert found.holds(values, **arguments) == (not found.broken(values, **arguments).any())


def test_finite_numbers_whose_sum_overflows_are_finite() -> None:
    assert marked("finite", np.full((2, 2), 3e38, dtype=np.float32)) == [[False] * 2] * 2


def test_a_rule_says_what_it_expects() -> None:
    assert find_predicate("at_least").describe(minimum=3) == "at least 3"
    assert find_predicate("within_vocabulary").describe(limit=7) == "token ids below 7"


def test_a_name_is_registered_once_and_its_function_again(registry: dict[str, Any]) -> None:
    def rule(values: Any) -> Any:
        return values < 0

    assert predicate("lab_rule", expected="x")(rule) is rule
    assert predicate("lab_rule", kind="whole", expected="y")(rule) is rule  # a module that is loaded again
    assert (find_predicate("lab_rule").kind, find_predicate("lab_rule").expected) == ("whole", "y")
    with pytest.raises(SchemaError, match="'lab_rule' is registered twice"):
        predicate("lab_rule")(lambda values: values)


def test_rules_of_installed_packages_are_loaded_when_a_name_is_not_known(
    registry: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Installed(EntryPoint):
        def load(self) -> None:
            asked.append(self.name)
            predicate("lab_installed")(lambda values: values)

    def entry_points(group: str) -> list[EntryPoint]:
        return [Installed("lab", "lab.rules", group)] if group == "devinterp.predicates" else []

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    predicates._load_installed.cache_clear()
    try:
        find_predicate("finite")
        assert asked == []
        assert find_predicate("lab_installed").name == "lab_installed"
        with pytest.raises(SchemaError, match="no predicate 'lab_instaled'") as error:
            find_predicate("lab_instaled")
        assert "lab_installed" in str(error.value)
        with pytest.raises(SchemaError, match="Register it"):
            find_predicate("nothing like it")
        assert asked == ["lab"]
    finally:
        predicates._load_installed.cache_clear()


def _schema(checks: list[dict[str, Any]], rules: list[dict[str, Any]]) -> Any:
    variable = {"dims": [], "dtype": "float32", "unit": "1", "doc": "x", "checks": checks}
    return load(
        {
            "schema": "lab/x", "version": 1, "doc": "x",
            "nodes": {"/": {"doc": "x", "variables": {"a": variable}, "rules": rules}},
        }
    )  # fmt: skip


def test_every_wrong_use_in_a_document_is_named(registry: dict[str, Any]) -> None:
    @predicate("lab_relation", kind="relation")
    def relation(context: Any, *, path: str, other: int = 0) -> Iterator[Any]:
        yield from ()

    verify_predicates(
        _schema(
            [{"code": "LAB001", "predicate": "at_least", "arguments": {"minimum": 1}},
             {"code": "LAB001", "predicate": "within_vocabulary", "arguments": {"path": "a.b"}}],
            [{"code": "LAB002", "predicate": "lab_relation", "arguments": {"path": "a"}},
             {"code": "LAB002", "predicate": "lab_relation", "arguments": {"path": "a", "other": 2}}],
        )
    )  # fmt: skip
    with pytest.raises(SchemaError) as error:
        verify_predicates(
            _schema(
                [{"code": "LAB001", "predicate": "at_least", "arguments": {"minimun": 1}},
                 {"code": "LAB001", "predicate": "finite", "arguments": {"path": "a"}},
                 {"code": "LAB001", "predicate": "lab_relation"}],
                [{"code": "LAB002", "predicate": "finite"}, {"code": "LAB002", "predicate": "lab_relation"}],
            )
        )  # fmt: skip
    assert str(error.value).split("\n  ")[1:] == [
        "//a: at_least takes no argument 'minimun'",
        "//a: at_least needs the argument 'minimum'",
        "//a: finite takes no argument 'limit'",
        "//a: lab_relation is not a rule of a variable",
        "/: finite is not a rule of a group",
        "/: lab_relation needs the argument 'path'",
    ]
    assert "lab/x@1 uses predicates wrongly" in str(error.value)


def test_a_limit_is_taken_from_where_its_path_leads(registry: dict[str, Any]) -> None:
    attrs = {"a": {"b": 7, "c": True, "d": "7", "e": 2.5}}
    assert resolve_arguments("within_vocabulary", {"path": "a.b"}, attrs) == {"limit": 7}
    assert resolve_arguments("within_vocabulary", {"path": "a.e"}, attrs) == {"limit": 2.5}
    assert resolve_arguments("within_vocabulary", {"path": "a.b", "strict": 1}, attrs) == {"limit": 7, "strict": 1}
    for path in ("a.c", "a.d", "a.x", "a"):
        assert resolve_arguments("within_vocabulary", {"path": path}, attrs) is None
    assert resolve_arguments("at_least", {"minimum": 1}, {}) == {"minimum": 1}
    own = {"variable": "n_beta", "path": "a.b"}  # a rule that takes a path itself gets it
    assert resolve_arguments("scalar_equals_parameter", own, attrs) == own


def test_a_rule_lists_what_it_takes_besides_values() -> None:
    assert list(find_predicate("at_least").parameters) == ["minimum"]
    assert list(find_predicate("scalar_equals_parameter").parameters) == ["variable", "path"]


FAILING: dict[str, Callable[[Any], Any]] = {
    "raises": lambda values: 1 / 0,
    "exits": lambda values: sys.exit(3),
    "says one thing of all": lambda values: False,
    "says it in words": lambda values: "yes",
    "is of another shape": lambda values: np.zeros(3, dtype=bool),
    "changes what it looks at": lambda values: values.sort() or np.zeros(values.shape, dtype=bool),
}


@pytest.mark.parametrize("case", FAILING)
def test_a_value_rule_that_fails_is_a_finding_and_harms_nothing(registry: dict[str, Any], case: str) -> None:
    predicate("foreign")(FAILING[case])
    with pytest.raises(PredicateError, match="foreign"):
        find_predicate("foreign").broken(np.ones((2, 2)))
    document = {
        "schema": "lab/foreign", "version": 1, "extends": "devinterp/samples@1", "doc": "d",
        "nodes": {"/": {"doc": "d", "variables": {
            "mine": {"dims": ["chain", "draw"], "dtype": "float32", "fill": "NaN", "unit": "1", "doc": "d",
                     "checks": [{"code": "LAB301", "predicate": "foreign"}, {"code": "LAB302", "predicate": "finite"}]},
        }}},
    }  # fmt: skip
    mine = np.array([[2.0, np.nan], [1.0, 0.0]], dtype=np.float32)
    run = make_tree("samples").to_dataset()
    tree = xr.DataTree(run.assign(mine=(("chain", "draw"), mine.copy(), {"units": "1"})))
    report = validate(tree, schema=document)
    assert {"DI901", "LAB302"} <= report.codes
    assert "LAB301 foreign could not be evaluated" in str(report)
    np.testing.assert_array_equal(tree["mine"], mine)


def test_a_relation_that_leaves_the_process_is_a_finding(registry: dict[str, Any]) -> None:
    @predicate("leaves", kind="relation")
    def leaves(context: Any) -> Any:
        sys.exit(3)

    document = {
        "schema": "lab/leaves", "version": 1, "extends": "devinterp/samples@1", "doc": "d",
        "nodes": {"/": {"doc": "d", "rules": [{"code": "LAB401", "predicate": "leaves"}]}},
    }  # fmt: skip
    assert "DI901" in validate(make_tree("samples"), schema=document).codes
