"""Whatever a user of xarray does with a result, it opens again: saved to Zarr or netCDF, pickled, copied, drawn."""

from __future__ import annotations

import copy
import json
import pickle
from functools import partial

import made_runs
import made_sweeps
import numpy as np
import pytest
import xarray as xr

import devinterp
from devinterp.cli import main
from devinterp.errors import ChainFailedWarning, IncompleteStoreError
from devinterp.schema import load
from devinterp.schema.definition.load import available
from devinterp.slt.bif import compute_bif
from devinterp.slt.bif.reweighting import compute_reweighting
from devinterp.slt.estimands import ESTIMANDS, resolve
from devinterp.slt.information.waic import compute_waic
from devinterp.slt.information.wbic import compute_wbic
from devinterp.slt.llc import compute_llc
from devinterp.slt.runs.results import told
from devinterp.slt.susceptibilities import compute_susceptibilities
from devinterp.slt.susceptibilities.by_observable import flatten, unflatten
from devinterp.slt.sweep import compute_sweep
from devinterp.slt.sweep.temperature import compute_temperature
from devinterp.testing import make_tree

pytestmark = pytest.mark.filterwarnings(
    "ignore:Consolidated metadata is currently not part", "ignore:The data type .FixedLengthUTF32"
)
KINDS = sorted(i for i in available() if load(i).storage.empty_chunks == "omitted")
VOTES = {"dims": ["chain"], "dtype": "int64", "unit": "1", "doc": "Votes."}
OTHER = {
    "schema": "lab/llc",
    "version": 1,
    "doc": "The LLC, with who computed it.",
    "extends": "devinterp/llc@1",
    "nodes": {"/": {"doc": "The root.", "variables": {"votes": VOTES}}},
}


def computed():
    study = made_runs.make_study()
    run, series, sweep = (
        study["full"],
        made_runs.make_series(),
        made_sweeps.make_sweep((1e-3,), (0.0, 30.0), (10.0,), draws=60),
    )
    at_temperature = run.to_dataset().assign(n_beta=500 / np.log(500))
    steps = run.to_dataset().assign(step_loss=(("chain", "step"), np.ones((3, 45), np.float32)))
    listed = {
        "llc": lambda: compute_llc(run, ci=0.9),
        "llc over steps": lambda: compute_llc(steps, over="steps"),
        "llc of a study": lambda: compute_llc(study),
        "llc of a series": lambda: compute_llc(series),
        "llc of a sweep": lambda: compute_llc(sweep),
        "bif": lambda: compute_bif(run),
        "bif of sequences": lambda: compute_bif(run, correlation_method="sequence", se=True),
        "bif_topk": lambda: compute_bif(run, top_k=2),
        "susceptibilities": lambda: compute_susceptibilities(study, se=True),
        "susceptibilities of a series": lambda: compute_susceptibilities(series),
        "sweep_summary": lambda: compute_sweep(sweep),
        "temperature": lambda: compute_temperature(
            made_sweeps.make_sweep((1e-3,), (0.0, 10.0, 30.0, 90.0), (10.0,), draws=60)
        ),
        "waic": lambda: compute_waic(run),
        "wbic": lambda: compute_wbic(at_temperature),
        "reweighting": lambda: compute_reweighting(run, num_samples=100),
    }  # fmt: skip
    subjects = {"samples": run, "study": study, "series": series, "sweep": sweep}
    for estimand in ESTIMANDS.values():  # what asks for nothing more than a tree needs no line above
        listed.setdefault(estimand.kind, partial(estimand.function(), subjects[estimand.takes[0]]))
    return listed


def test_every_kind_of_result_is_among_those_computed_here():
    ids = {result().attrs["devinterp_schema"] for result in computed().values()}
    assert ids == {load(kind).id for kind in KINDS}


RESULTS = {**computed(), **{f"any {kind}": lambda kind=kind: make_tree(kind) for kind in KINDS}}


@pytest.fixture(scope="module")
def results():
    return {}


@pytest.fixture(params=RESULTS)
def result(request, results):
    if request.param not in results:
        results[request.param] = RESULTS[request.param]()
    return results[request.param]


def as_tree(result):
    return result if isinstance(result, xr.DataTree) else xr.DataTree(result)


def test_a_result_that_xarray_saved_opens_everywhere(result, tmp_path, capsys):
    path = tmp_path / "r.zarr"
    result.to_zarr(path)
    assert devinterp.validate(path).ok
    for tree in (devinterp.open_store(path), xr.open_datatree(path, engine="devinterp")):
        assert tree.identical(as_tree(result))
    with pytest.raises(SystemExit) as ended:
        main(["info", str(path), "--format", "json"])
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out)["completed"] is True


def test_what_was_computed_with_and_saved_again_opens(result, tmp_path):
    """Arithmetic loses every encoding: xarray then chooses fill values and types of text of its own."""
    bare = as_tree(result).map_over_datasets(lambda ds: ds.drop_encoding())
    bare.to_zarr(tmp_path / "r.zarr")
    assert devinterp.open_store(tmp_path / "r.zarr").identical(as_tree(result))


@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf"])
def test_a_result_can_be_saved_as_netcdf(result, tmp_path, engine):
    pytest.importorskip({"netcdf4": "netCDF4"}.get(engine, engine))
    result.to_netcdf(tmp_path / "r.nc", engine=engine)
    with xr.open_datatree(tmp_path / "r.nc", engine=engine) as back:
        again = as_tree(result)
        assert set(back.groups) == set(again.groups)
        for group in again.groups:
            xr.testing.assert_equal(back[group].to_dataset(), again[group].to_dataset())
            assert set(back[group].attrs) == set(again[group].attrs)
        assert devinterp.validate(back).ok


@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf"])
def test_lists_of_one_come_back_from_netcdf_as_lists(tmp_path, engine, capsys):
    pytest.importorskip({"netcdf4": "netCDF4"}.get(engine, engine))
    small = {"rows": {"train": 3, "code": 2}}
    run, study = made_runs.make_run(**small), made_runs.make_study(**small)
    failed = made_runs.fail_chain(run, 0, 9)
    with pytest.warns(ChainFailedWarning):
        llc = compute_llc(failed)
    results = {
        "bif": compute_bif(run, loss_keys=["code"]),
        "bif_topk": compute_bif(run, loss_keys=["code"], top_k=1),
        "reweighting": compute_reweighting(run, num_samples=100, loss_keys=["code"]),
        "susceptibilities": compute_susceptibilities(study),
        "unflattened": unflatten(compute_susceptibilities(study)),
        "llc": llc,
    }
    for kind, result in results.items():
        result.to_netcdf(tmp_path / f"{kind}.nc", engine=engine)
        with xr.open_datatree(tmp_path / f"{kind}.nc", engine=engine) as back:
            if kind != "llc":
                assert back.devinterp.observables == ("code",)
            if kind == "unflattened":
                folded = flatten(back)["susceptibilities"].to_dataset()
                assert folded.equals(results["susceptibilities"]["susceptibilities"].to_dataset())
                continue
            assert devinterp.validate(back).ok, str(devinterp.validate(back))
            back.devinterp.save(tmp_path / f"{kind}.zarr")
            devinterp.open_store(tmp_path / f"{kind}.zarr", level="values")
            estimand = ESTIMANDS["bif" if kind == "bif_topk" else kind]
            resolve(estimand.screen)(back if kind == "susceptibilities" else back.to_dataset(), kind, estimand)
    said = capsys.readouterr().out
    assert "0-1 code" in said
    assert "mean on code" in said
    assert "chains left out: 0" in said


def test_results_are_pickled_copied_and_written_as_json(result):
    assert pickle.loads(pickle.dumps(result)).identical(result)
    assert copy.deepcopy(result).identical(result)
    for dataset in as_tree(result).to_dict().values():
        assert json.loads(json.dumps(dataset.to_dict()))["attrs"] == json.loads(json.dumps(dataset.attrs))


def test_a_consumers_result_that_xarray_saved_opens(tmp_path, monkeypatch):
    document = tmp_path / "llc.yaml"
    document.write_text(json.dumps(OTHER))
    from devinterp.schema.definition import load as module

    monkeypatch.setattr(module, "_installed", lambda: (("lab/llc@1", document),))
    make_tree(str(document)).to_zarr(tmp_path / "r.zarr")
    assert devinterp.open_store(tmp_path / "r.zarr").attrs["devinterp_schema"] == "lab/llc@1"


def test_a_result_that_was_not_finished_is_still_refused(tmp_path):
    compute_llc(made_runs.make_run()).assign_attrs(completed=0).to_zarr(tmp_path / "r.zarr")
    with pytest.raises(IncompleteStoreError):
        devinterp.open_store(tmp_path / "r.zarr")


def test_susceptibilities_are_drawn_by_xarray_alone(tmp_path):
    plt = pytest.importorskip("matplotlib.pyplot")
    tree = compute_susceptibilities(made_runs.make_study())
    tree.to_zarr(tmp_path / "r.zarr")
    document = json.loads((tmp_path / "r.zarr/susceptibilities/wr/zarr.json").read_text())
    assert document["data_type"] == "string"
    for each in (
        tree,
        devinterp.open_store(tmp_path / "r.zarr"),
        xr.open_datatree(tmp_path / "r.zarr", engine="devinterp"),
    ):
        each["susceptibilities"]["sus"].plot()
        plt.close("all")
    for engine_tree in (
        xr.open_datatree(tmp_path / "r.zarr"),
        xr.open_zarr(tmp_path / "r.zarr", group="susceptibilities"),
    ):
        found = engine_tree["susceptibilities"] if isinstance(engine_tree, xr.DataTree) else engine_tree
        assert found["wr"].values.tolist() == ["l0h0", "l1h2"]
        assert float(found["sus"].sel(wr="l0h0").sum()) == float(tree["susceptibilities"]["sus"].sel(wr="l0h0").sum())


def test_what_is_told_of_several_runs_is_read_as_a_mapping():
    attrs = compute_llc(made_runs.make_study()).attrs
    assert told(attrs, "n_chains_used") == {"full": 3, "l0h0": 3, "l1h2": 3}
    assert told(attrs, "over") == "draws"
