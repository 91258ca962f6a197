"""Rules of every level: which are run, which are left out and why, and what comes of one that fails."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from edits import edit_array, edit_attributes

from devinterp.errors import SchemaError
from devinterp.schema import load, validate
from devinterp.schema.rules import registry as predicates
from devinterp.schema.rules.registry import Problem, find_predicate, predicate
from devinterp.testing import make_tree

StoreOf = Callable[[str], Path]


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules of our own, for as long as a test lasts."""
    find_predicate("finite")
    monkeypatch.setattr(predicates, "_REGISTRY", dict(predicates._REGISTRY))

    @predicate("lab_says", kind="relation")
    def says(context: Any, *, name: str = "") -> Iterator[Problem]:
        yield Problem("It is odd.", "even", 3, name)

    @predicate("lab_breaks", kind="relation")
    def breaks(context: Any) -> Iterator[Problem]:
        raise ZeroDivisionError("by zero")
        yield

    @predicate("lab_refuses", kind="relation")
    def refuses(context: Any) -> Iterator[Problem]:
        raise SchemaError("The rule is used wrongly.")
        yield


def judged(*rules: dict[str, Any], level: str = "values") -> Any:
    nodes = {"/": {"doc": "x"}, "/g": {"doc": "x", "rules": list(rules)}}
    schema = load({"schema": "lab/x", "version": 1, "doc": "x", "nodes": nodes})
    return validate(xr.DataTree.from_dict({"/g": xr.Dataset()}), schema=schema, level=level)  # type: ignore[arg-type]


def rule(name: str, **more: Any) -> dict[str, Any]:
    return {"code": "LAB401", "predicate": name, **more}


def test_what_a_rule_finds_is_reported_as_the_document_says(rules: None) -> None:
    (finding,) = judged(rule("lab_says", level="structure", severity="note")).findings
    assert (finding.code, finding.path, finding.message) == ("LAB401", "/g", "It is odd.")
    assert (finding.expected, finding.found, finding.severity, finding.level) == ("even", "3", "note", "structure")
    (finding,) = judged(rule("lab_says", arguments={"name": "a"})).findings
    assert (finding.path, finding.severity, finding.level) == ("/g/a", "error", "values")


@pytest.mark.parametrize("own", ["structure", "completeness", "values"])
def test_a_rule_is_run_at_its_level_and_above(rules: None, own: str) -> None:
    levels = ["structure", "completeness", "values"]
    run = [len(judged(rule("lab_says", level=own), level=level).findings) for level in levels]
    assert run == [int(levels.index(level) >= levels.index(own)) for level in levels]


def test_a_rule_that_fails_is_a_finding_and_one_that_is_used_wrongly_an_error(rules: None) -> None:
    report = judged(rule("lab_breaks", level="structure"), rule("lab_says"))
    assert {(str(f.code), f.found) for f in report.findings} == {
        ("DI901", "ZeroDivisionError: by zero"),
        ("LAB401", "3"),
    }
    (failed,) = report.filter(code="DI901").findings
    assert (failed.path, failed.level) == ("/g", "structure")
    assert failed.message == "The rule LAB401 lab_breaks could not be evaluated."
    with pytest.raises(SchemaError, match="used wrongly"):
        judged(rule("lab_refuses"))


def test_a_rule_for_stores_is_left_out_of_a_tree_in_memory(rules: None) -> None:
    report = judged(rule("lab_says", views="skip"))
    assert report.findings == ()
    assert ("/g", "lab says", "a rule for stores, not for a tree in memory") in {
        (n.path, n.what, n.why) for n in report.not_checked
    }


def test_a_rule_whose_values_cannot_be_read_is_left_out_and_said_to_be(store_of: StoreOf) -> None:
    store = store_of("llc")
    edit_array(store, "llc_mean", data_type="float32")
    left = {n.what: n.why for n in validate(store).not_checked}
    assert "llc identities" in left
    assert "/llc_mean has the wrong dimensions or the wrong data type" in left["llc identities"]


def test_groups_and_arrays_are_counted(store_of: StoreOf) -> None:
    report = validate(store_of("susceptibilities"), level="structure")
    tree = make_tree("susceptibilities")
    arrays = sum(len(node.to_dataset(inherit=False).variables) for node in tree.subtree)
    assert (report.checked["groups"], report.checked["arrays"]) == (3, arrays)


def test_equal_arrays_of_many_groups_have_a_finding_each(store_of: StoreOf) -> None:
    store = store_of("study")
    for group in ("full", "l0h0"):
        edit_attributes(store, lambda a: a.update(units="bit"), f"{group}/init_loss")
    (finding,) = validate(store, level="structure").findings
    assert (finding.code, set(finding.paths)) == ("DI111", {"/full/init_loss", "/l0h0/init_loss"})


def test_another_profile_is_offered_where_it_fits_plainly_better(reference: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(reference / "llc.zarr", tmp_path / "llc.zarr"))

    def offered(**options: Any) -> list[tuple[str, str | None, str | None]]:
        found = validate(store, level="structure", **options).filter(code="DI008").findings
        return [(f.message, f.expected, f.found) for f in found]

    assert offered() == [("The store is as the profile 'devinterp-2.0' has it.", "strict", "devinterp-2.0")]
    assert offered(profile="devinterp-2.0") == []
    errors = len(validate(store, level="structure").errors)
    for n in range(errors):  # faults under both: then the other fits no better
        edit_attributes(store, lambda a: a.update(units="bit"), ("llc_mean", "llc_std", "init_loss")[n % 3])
        shutil.copytree(store / "llc_std", store / f"odd{n}")
    assert offered() == []
