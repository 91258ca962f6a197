"""What errors, reports and verdicts must do between processes: pickle, deep-copy, and say the same afterwards."""

from __future__ import annotations

import copy
import importlib
import inspect
import multiprocessing
import pickle
import pkgutil
from concurrent.futures import ProcessPoolExecutor

import made_runs
import pytest

import devinterp
from devinterp.errors import DevinterpError, StoreError, ValidationError
from devinterp.schema import load
from devinterp.schema.checks.to_pandera import to_pandera
from devinterp.schema.definition.load import available
from devinterp.slt.diagnostics import diagnose
from devinterp.testing import make_store, make_tree


def every_exception() -> list[type[BaseException]]:
    found = set()
    for module in pkgutil.walk_packages(devinterp.__path__, "devinterp."):
        if not module.name.endswith("__main__"):
            for cls in vars(importlib.import_module(module.name)).values():
                if inspect.isclass(cls) and issubclass(cls, BaseException) and cls.__module__.startswith("devinterp"):
                    found.add(cls)
    return sorted(found, key=lambda cls: cls.__qualname__)


def ways(value):
    yield copy.deepcopy(value)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        yield pickle.loads(pickle.dumps(value, protocol))


@pytest.mark.parametrize("cls", every_exception(), ids=lambda cls: cls.__name__)
def test_every_exception_travels(cls):
    error = cls("It is wrong.")
    if issubclass(cls, DevinterpError):
        error = cls("It is wrong.", expected=(1, 2), found=lambda: None, remedy="Mend it.")
        error.add_note("seen on the way")
    for again in ways(error):
        assert type(again) is cls
        assert str(again) == str(error)
        if issubclass(cls, DevinterpError):
            assert (again.problem, again.remedy, again.__notes__) == (error.problem, "Mend it.", ["seen on the way"])
            assert "Found" in str(again)


def test_the_report_of_an_error_travels_with_it():
    with pytest.raises(ValidationError) as raised:
        devinterp.validate(make_tree("llc").to_dataset().assign(extra=1.0)).raise_for_errors()
    for again in ways(raised.value):
        assert again.report == raised.value.report


@pytest.mark.parametrize("kind", sorted(available()))
def test_schemas_and_what_pandera_makes_of_them_travel(kind):
    schema = load(kind)
    for again in ways(schema):
        assert again is schema
    for node in schema.nodes:
        if node.include is None:
            compiled = to_pandera(schema, node=node.path)
            for again in ways(compiled):
                assert (again.name, set(again.data_vars or ()), set(again.coords or ())) == (
                    compiled.name,
                    set(compiled.data_vars or ()),
                    set(compiled.coords or ()),
                )


def test_a_pandera_schema_that_travelled_still_finds_what_is_wrong():
    from pandera.errors import SchemaError

    dataset = make_tree("llc").to_dataset()
    again = pickle.loads(pickle.dumps(to_pandera("llc")))
    again.validate(dataset)
    with pytest.raises(SchemaError, match="DI302"):
        again.validate(dataset.assign(llc_std=-1.0))


def test_a_document_that_is_not_installed_travels():
    from devinterp.testing.mutations.bases import EXTENDED

    for again in ways(load(EXTENDED)):
        assert again.to_dict() == load(EXTENDED).to_dict()
        assert again.extends == ("devinterp/samples@1",)


def test_diagnoses_travel():
    diagnosis = diagnose(made_runs.make_run())
    for again in ways(diagnosis):
        assert str(again) == str(diagnosis)


def test_recommendations_travel():
    import made_sweeps

    from devinterp.slt.sweep.recommend import recommend

    sweep = made_sweeps.make_sweep((1e-3,), (0.0, 30.0), (10.0,), draws=60)
    recommendation = recommend(sweep)
    for again in ways(recommendation):
        assert str(again) == str(recommendation)


def test_stores_are_validated_by_a_pool_of_processes(tmp_path):
    paths = [str(make_store(tmp_path / f"{kind}.zarr", kind)) for kind in ("llc", "bif")] + [
        str(tmp_path / "not there")
    ]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
        reports = list(pool.map(devinterp.validate, paths))
        with pytest.raises(StoreError, match="no store"):
            pool.submit(devinterp.open_store, paths[-1]).result()
    assert [report.ok for report in reports] == [True, True, False]
    assert reports == [devinterp.validate(path) for path in paths]
