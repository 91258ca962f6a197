"""Rules of an extension's own: hooks make drawn trees and stores obey them, and without one that is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import devinterp
from devinterp.errors import SchemaError
from devinterp.schema import Context, Problem, predicate
from devinterp.schema.rules import registry
from devinterp.testing import Draft, GroupDraft, make_store, make_tree, rule_maker, trees, value_maker
from devinterp.testing.valid import draft as drafts
from devinterp.testing.valid import values as shapers

EVEN = {"dims": ["chain"], "dtype": "int64", "fill": -1, "unit": "1", "doc": "x",
        "checks": [{"code": "LAB101", "predicate": "lab_even"}]}  # fmt: skip
LAB: dict[str, Any] = {
    "schema": "lab/even",
    "version": 1,
    "extends": "devinterp/samples@1",
    "doc": "Even numbers that follow the losses.",
    "nodes": {
        "/": {
            "doc": "The root.",
            "variables": {"even": EVEN},
            "rules": [{"code": "LAB102", "predicate": "lab_ordered", "level": "values"}],
        }
    },
}


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    registry.find_predicate("finite")  # ours are there before the registry is set aside
    for module, name in ((registry, "_REGISTRY"), (drafts, "rule_makers"), (shapers, "_SHAPERS")):
        kept = dict(getattr(module, name))
        monkeypatch.setattr(module, name, kept)
    from devinterp.testing import factory

    monkeypatch.setattr(factory, "rule_makers", drafts.rule_makers)
    registry.verify_predicates.cache_clear()

    @predicate("lab_even", expected="even numbers")
    def lab_even(values: np.ndarray) -> np.ndarray:
        return values % 2 != 0

    @predicate("lab_ordered", kind="relation")
    def lab_ordered(context: Context) -> Iterator[Problem]:
        if context.has("even") and (np.diff(context.read("even")) <= 0).any():
            yield Problem("They do not ascend.", found=context.read("even").tolist(), name="even")

    yield
    registry.verify_predicates.cache_clear()


def hook_values() -> None:
    @value_maker("lab_even")
    def even(values: Any, layout: Any, arguments: Any, attributes: Any, rng: Any) -> Any:
        return 2 * values


def hook_relation() -> None:
    @rule_maker("lab_ordered")
    def ordered(draft: Draft, group: GroupDraft, arguments: Any) -> None:
        group.set("even", 2 * np.arange(group.sizes["chain"]))


def test_without_hooks_it_is_said_which_is_missing() -> None:
    for words, then in ((r"'lab_even'.*value_maker", hook_values), (r"'lab_ordered'.*rule_maker", hook_relation)):
        with pytest.raises(SchemaError, match=words):
            [make_tree(LAB, seed=seed) for seed in range(9)]  # one of these draws what breaks the rule
        then()


def test_with_hooks_every_drawn_tree_and_store_is_valid(tmp_path: Path) -> None:
    hook_values()
    hook_relation()

    @settings(max_examples=8)
    @given(trees(LAB))
    def drawn(tree: Any) -> None:
        assert devinterp.validate(tree, schema=LAB).ok
        assert (tree["even"].values % 2 == 0).all()

    drawn()
    store = make_store(tmp_path / "s.zarr", LAB, parameters={"num_chains": 5})
    report = devinterp.validate(store, schema=LAB)
    assert report.ok, str(report)
    spoilt = make_tree(LAB, parameters={"num_chains": 3})
    spoilt["even"].values[:] = [4, 2, 3]
    assert devinterp.validate(spoilt, schema=LAB).codes == {"LAB101", "LAB102"}


def _raises(error: BaseException) -> Any:
    def hook(*_: Any) -> Any:
        raise error

    return hook


@pytest.mark.parametrize(
    ("hook", "found"),
    [
        (_raises(KeyError("rows")), "KeyError: 'rows'"),
        (_raises(SystemExit(3)), "SystemExit: 3"),
        (lambda *_: [[1, 2], [3]], "ValueError: "),
        (lambda values, *_: np.full(values.shape, "even"), "ValueError: "),
        (lambda values, *_: np.full(values.shape, np.nan), "FloatingPointError: "),
    ],
    ids=["raises", "exits", "ragged", "text", "nan"],
)
def test_a_hook_that_fails_is_one_error_that_names_it(tmp_path: Path, hook: Any, found: str) -> None:
    value_maker("lab_even")(hook)
    hook_relation()

    for make in (lambda: make_tree(LAB), lambda: make_store(tmp_path / "s.zarr", LAB)):
        with pytest.raises(SchemaError, match=r"'lab_even' with @devinterp\.testing\.value_maker.*'even'") as raised:
            make()
        assert raised.value.found is not None
        assert raised.value.found.startswith(found)
        assert raised.value.__cause__ is not None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stage", ["plan", "fill"])
def test_a_rule_maker_that_fails_is_named(stage: str) -> None:
    hook_values()
    rule_maker("lab_ordered", stage=stage)(lambda draft, group, _: group.set("odd", [1]))
    with pytest.raises(SchemaError, match=r"'lab_ordered' with @devinterp\.testing\.rule_maker.*the group /") as raised:
        make_tree(LAB)
    assert isinstance(raised.value.__cause__, KeyError if stage == "fill" else AssertionError)
