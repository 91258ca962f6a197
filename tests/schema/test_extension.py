"""A consumer's document on top of ours, and the proof that nothing about a variable is written twice."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import xarray as xr
import yaml

from devinterp.errors import DevinterpWarning, SchemaError
from devinterp.schema import available, load, to_pandera, validate
from devinterp.schema.definition import load as loader
from devinterp.testing import make_store, make_tree

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "extending_the_schema"
GRADIENTS = EXAMPLE / "gradients.yaml"


def test_the_worked_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE / "extending_the_schema.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert "LAB302" in shown
    assert "lab/gradients@1 extends devinterp/samples@1" in shown


def _extension(**node: Any) -> dict[str, Any]:
    return {
        "schema": "lab/x",
        "version": 1,
        "extends": "devinterp/samples@1",
        "doc": "An extension.",
        "nodes": {"/": {"doc": "The root.", **node}},
    }


INIT_LOSS = {"dims": ["chain", "token_pos"], "dtype": "float32", "unit": "nat", "doc": "x"}


@pytest.mark.parametrize(
    "variables",
    [
        {"init_loss": {**INIT_LOSS, "dtype": "float64"}},
        {"init_loss": {**INIT_LOSS, "dims": ["token_pos", "chain"]}},
        {"init_loss": {**INIT_LOSS, "unit": "bit"}},
        {"init_loss": {**INIT_LOSS, "presence": "optional"}},
        {"init_loss": {**INIT_LOSS, "alternatives": [["chain"]]}},
        {"init_loss": {**INIT_LOSS, "alternative_units": ["bit"]}},
        {"loss_{lab}": {**INIT_LOSS, "dtype": "int8"}},  # would also stand for loss_{obs}
        {"loss_lab": INIT_LOSS},  # would be that of an observable called "lab"
    ],
)
def test_an_extension_that_loosens_is_refused(variables: dict[str, Any]) -> None:
    with pytest.raises(SchemaError, match="changes what devinterp/samples@1 fixes"):
        load(_extension(variables=variables))


@pytest.mark.parametrize(
    ("base", "part"),
    [
        ("samples", {"storage": {"shards": "allowed"}}),
        ("samples", {"storage": {"empty_chunks": "omitted"}}),
        ("samples", {"storage": {"checksums": "optional"}}),
        ("samples", {"storage": {"codecs": ["bytes"]}}),
        ("samples", {"profiles": {"strict": {"doc": "x", "attributes": {"/": {}}}}}),
        ("samples", {"profiles": {"strict": {"doc": "x", "undeclared": "note"}}}),
        ("samples", {"profiles": {"strict": {"doc": "x", "variables": {"step_loss": {"presence": "optional"}}}}}),
        ("samples", {"nodes": {"/": {"doc": "x", "dimensions": {"chain": {"doc": "x", "minimum": 0}}}}}),
        ("study", {"families": {"any": {"doc": "x"}}, "nodes": {"/{any}": {"doc": "Anything."}}}),
        ("study", {"nodes": {"/{restriction}": {"doc": "x", "minimum": 0}}}),
    ],
)
def test_an_extension_that_loosens_anything_else_is_refused(base: str, part: dict[str, Any]) -> None:
    document = {"schema": "lab/x", "version": 1, "extends": f"devinterp/{base}@1", "doc": "An extension.", **part}
    with pytest.raises(SchemaError, match=f"changes what devinterp/{base}@1 fixes"):
        load(document)


def test_what_an_extension_demands_holds_under_every_profile() -> None:
    document = {
        **_extension(
            variables={"temperature": {"dims": ["chain"], "dtype": "float64", "unit": "1", "doc": "x"}},
            attributes={"type": "object", "required": ["lab"]},
        ),
        "storage": {"checksums": "required"},
        "profiles": {"devinterp-2.0": {"doc": "x", "variables": {"temperature": {"presence": "optional"}}}},
    }
    for profile, missing in (("strict", {"DI101", "DI110"}), ("devinterp-2.0", {"DI110"})):
        report = validate(make_tree("samples", profile=profile), schema=load(document, profile=profile))
        assert {"DI101", "DI110"} & report.codes == missing, str(report)


def test_an_extension_may_tighten_values() -> None:
    check = {"code": "LAB308", "predicate": "at_most", "arguments": {"maximum": -1e9}}
    schema = load(_extension(variables={"init_loss": {**INIT_LOSS, "checks": [check]}}))
    report = validate(make_tree("samples"), schema=schema)
    assert report.codes == {"LAB308"}


def test_an_unknown_predicate_is_named_with_a_suggestion() -> None:
    check = {"code": "LAB301", "predicate": "finit"}
    schema = load(_extension(variables={"init_loss": {**INIT_LOSS, "checks": [check]}}))
    with pytest.raises(SchemaError, match="Did you mean 'finite'"):
        validate(make_tree("samples"), schema=schema)


def test_an_installed_extension_is_chosen_by_the_stores_attribute(installed: Any, tmp_path: Path) -> None:
    installed(GRADIENTS)
    assert "lab/gradients@1" in available()
    store = make_store(
        tmp_path / "a.zarr",
        load("lab/gradients@1"),
        optional=frozenset({"gradient_norm"}),
        attributes={"lab": "ours", "devinterp_schema": "lab/gradients@1"},
    )
    report = validate(store)
    assert (report.schema, report.kind, report.findings) == ("lab/gradients@1", "samples", ())


def test_a_broken_installed_document_warns_and_stands_in_nobodys_way(installed: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("schema: lab/broken\n")
    installed(broken)
    with pytest.warns(DevinterpWarning, match="broken"):
        assert "devinterp/samples@1" in available()


@pytest.fixture
def changed_schemas(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A copy of schemas/ in which step_loss is float64: the only change anywhere."""
    folder = Path(shutil.copytree(loader.schemas_folder(), tmp_path / "schemas"))
    document = yaml.safe_load((folder / "samples.yaml").read_text())
    document["nodes"]["/"]["variables"]["step_loss"]["dtype"] = "float64"
    (folder / "samples.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    monkeypatch.setattr(loader, "schemas_folder", lambda: folder)
    return folder


def test_a_type_changed_in_the_document_changes_everywhere(
    changed_schemas: Path, tmp_path: Path, valid_stores: dict[str, Path]
) -> None:
    store = Path(make_store(tmp_path / "a.zarr", "samples"))  # creation
    tree = xr.open_datatree(store, engine="zarr", consolidated=True)
    assert tree["step_loss"].dtype == np.float64
    assert validate(store).findings == ()  # the validator
    old = validate(valid_stores["samples"], level="structure")
    assert [(f.code, f.path, f.expected) for f in old.findings] == [("DI104", "/step_loss", "float64")]
    schema = load("samples")
    assert str(to_pandera(schema).data_vars["step_loss"].dtype) == "float64"  # pandera
    assert make_tree("samples")["step_loss"].dtype == np.float64  # what strategies draw
    exported = jsonschema.Draft202012Validator(schema.to_json_schema())  # other languages
    assert not list(exported.iter_errors(_root(store)))
    assert list(exported.iter_errors(_root(Path(make_store(tmp_path / "b.zarr", _float32(schema))))))


@pytest.mark.needs("torch")
def test_a_type_changed_in_the_document_changes_pages_strategies_commands_and_the_sampler(
    changed_schemas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import docs_pages  # puts the generators of pages on the path
    import pages
    from hypothesis import given, settings
    from tiny_lm import TinyLM

    import devinterp
    from devinterp.cli.app import run
    from devinterp.testing import trees

    page = pages.schema_page(load("samples"), changed_schemas / "samples.yaml")
    (row,) = [line for line in page.splitlines() if line.startswith("| `step_loss` |") and "float" in line]
    assert "float64" in row
    assert docs_pages.DOCS.is_dir()

    @settings(max_examples=2)
    @given(trees("samples"))
    def strategies(tree: xr.DataTree) -> None:
        assert tree["step_loss"].dtype == np.float64

    strategies()
    assert run(["schema", "show", "samples"]) == 0
    assert any("step_loss" in line and "float64" in line for line in capsys.readouterr().out.splitlines())
    ids = np.random.default_rng(0).integers(0, 64, (8, 5))
    few = {"num_chains": 1, "num_draws": 2, "batch_size": 2, "num_init_loss_batches": 1, "batches_per_draw": 1}
    devinterp.sample(
        TinyLM(), ids, {"code": ids}, lr=1e-4, n_beta=1.0, output_path=tmp_path / "run.zarr", progress=False, **few
    )
    written = xr.open_datatree(tmp_path / "run.zarr", engine="zarr", consolidated=False)
    assert written["step_loss"].dtype == np.float64
    assert validate(tmp_path / "run.zarr").findings == ()


def _root(store: Path) -> Any:
    import json

    return json.loads((store / "zarr.json").read_text())


def _float32(schema: Any) -> dict[str, Any]:
    document = yaml.safe_load(yaml.safe_dump(schema.to_dict()))
    for variable in document["nodes"]["/"]["variables"].values():
        if variable.get("fill") == "NaN":
            variable["fill"] = float("nan")
    document["nodes"]["/"]["variables"]["step_loss"]["dtype"] = "float32"
    return dict(document)


@pytest.mark.parametrize("kind", ["samples", "llc", "bif", "bif_topk"])
def test_the_compiled_pandera_schemas_accept_valid_trees_and_refuse_spoilt_ones(kind: str) -> None:
    import pandera.errors

    dataset = make_tree(kind).to_dataset()
    shapes = {str(k): tuple(map(str, v.dims)) for k, v in dataset.variables.items()}
    schema = to_pandera(kind, attributes=dataset.attrs, variables=shapes)
    schema.validate(dataset, lazy=True)
    name = next(iter(dataset.data_vars))
    with pytest.raises(pandera.errors.SchemaErrors):
        schema.validate(dataset.drop_vars(name), lazy=True)
    with pytest.raises(pandera.errors.SchemaErrors):
        schema.validate(dataset.assign(temperature=1.0), lazy=True)
