from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
import zarr
from stores import Numbers, request, run_chain, write_fixed

import devinterp
from devinterp.errors import StoreConflictError
from devinterp.schema.definition import load as loading
from devinterp.store import open_run, open_store

pytestmark = pytest.mark.filterwarnings(
    "ignore:Object at .devinterp", "ignore:Consolidated metadata is currently not part"
)


def fill(path, groups, root=None, *, longest=12, **options):
    """Complete the store with the numbers of a run of the longest shape, and return which chains were run."""
    with open_run(path, groups, root=root, **options) as run:
        done = []
        for group in groups if not run.finished else ():
            write_fixed(run, group)
        for group, chain in run.remaining():
            with open_run(None, {"/": request(num_draws=longest, num_chains=4)}) as reference:
                numbers = Numbers(reference)
            writer, _ = run.writer(group, chain)
            done.append((group, chain, writer.progress.draws))
            run_chain(run, writer, numbers, group=group)
        if not run.finished:
            run.complete()
    return done, numbers if done else None


def test_more_draws_go_on_from_the_kept_states(tmp_path):
    path = tmp_path / "a.zarr"
    fill(path, {"/": request()}, keep_state=True)
    done, numbers = fill(path, {"/": request(num_draws=12)}, keep_state=True)
    assert done == [("/", 0, 7), ("/", 1, 7)]
    tree = open_store(path, level=None)
    for name, values in numbers.arrays.items():
        rows = tree[name].shape[1]
        np.testing.assert_array_equal(tree[name].values, values[:2, :rows])
    assert tree.sizes["draw"] == 12
    assert tree.attrs["metadata"]["config"]["sampler"]["num_draws"] == 12
    assert tree["draws_written"].values.tolist() == [12, 12]


def test_more_draws_without_states_are_refused_and_nothing_changes(tmp_path):
    path = tmp_path / "a.zarr"
    fill(path, {"/": request()})
    with pytest.raises(StoreConflictError, match="did not keep the states"):
        open_run(path, {"/": request(num_draws=12)})
    assert open_store(path, level=None).attrs["completed"] == 1


def test_more_chains_leave_the_others_alone(tmp_path):
    path = tmp_path / "a.zarr"
    fill(path, {"/": request()})
    done, numbers = fill(path, {"/": request(num_chains=4)})
    assert done == [("/", 2, 0), ("/", 3, 0)]
    tree = open_store(path, level=None)
    np.testing.assert_array_equal(tree["loss_code"].values, numbers.arrays["loss_code"][:, :7])
    assert tree["draws_written"].values.tolist() == [7] * 4
    assert tree["init_loss"].shape == (4, 5)


def test_a_study_takes_more_restrictions(tmp_path):
    path = tmp_path / "a.zarr"
    groups = {"/full": request(), "/l0h0": request()}
    fill(path, groups, {"config": {"sampling_task": "code", "restrictions": ["full", "l0h0"]}})
    groups["/l0h1"] = request()
    root = {"config": {"sampling_task": "code", "restrictions": ["full", "l0h0", "l0h1"]}}
    done, _ = fill(path, groups, root)
    assert done == [("/l0h1", 0, 0), ("/l0h1", 1, 0)]
    tree = xr.open_datatree(path, engine="zarr")
    assert set(tree.children) == {"full", "l0h0", "l0h1"}
    assert tree.attrs["metadata"] == root
    assert fill(path, groups, root)[0] == []


@pytest.mark.parametrize("moment", ["reopened", "one chain done"])
def test_growth_that_is_interrupted_goes_on(tmp_path, moment):
    path = tmp_path / "a.zarr"
    fill(path, {"/": request()}, keep_state=True)
    bigger = {"/": request(num_draws=12, num_chains=3)}
    with open_run(path, bigger, keep_state=True) as run:
        if moment == "one chain done":
            with open_run(None, {"/": request(num_draws=12, num_chains=4)}) as reference:
                numbers = Numbers(reference)
            run_chain(run, run.writer("/", 1)[0], numbers)
            run.publish()
    done, numbers = fill(path, bigger, keep_state=True)
    expected = [("/", 0, 7), ("/", 1, 7), ("/", 2, 0)]
    assert done == (expected if moment == "reopened" else [expected[0], expected[2]])
    tree = open_store(path, level=None)
    np.testing.assert_array_equal(tree["loss_math"].values, numbers.arrays["loss_math"][:3])
    np.testing.assert_array_equal(tree["step_loss"].values, numbers.arrays["step_loss"][:3])


ACCURACY = {"dims": ["chain", "draw"], "dtype": "float32", "unit": "1", "doc": "A.", "presence": "optional"}
WEIGHT = {"dims": ["batch_{obs}"], "dtype": "float32", "unit": "1", "doc": "W.", "presence": "optional"}


@pytest.fixture
def graded(tmp_path, monkeypatch):
    """The id of an installed schema of somebody else, which adds two variables to a run."""
    document = tmp_path / "graded.yaml"
    nodes = {"/": {"doc": "A graded run.", "variables": {"accuracy": ACCURACY, "weight_{obs}": WEIGHT}}}
    text = {"schema": "lab/graded", "version": 1, "doc": "D.", "extends": "devinterp/samples@1", "nodes": nodes}
    document.write_text(json.dumps(text))
    monkeypatch.setattr(loading, "_installed", lambda: (("lab/graded@1", document),))
    return "lab/graded@1"


def add(path, name, dims, shape):
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    codecs = [zarr.codecs.ZstdCodec(level=0), zarr.codecs.Crc32cCodec()]
    array = group.create_array(
        name, shape=shape, dtype="float32", dimension_names=dims, fill_value=float("nan"), compressors=codecs,
        attributes={"units": "1"}, config={"write_empty_chunks": True},
    )  # fmt: skip
    array[...] = np.ones(shape, "float32")
    zarr.consolidate_metadata(path)


def contents(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("longer", [{"num_chains": 3}, {"num_draws": 12}])
@pytest.mark.parametrize("case", ["extended", "not installed", "undeclared"])
def test_what_could_not_grow_with_the_run_is_refused_before_anything_is_written(
    tmp_path, graded, monkeypatch, longer, case
):
    path = tmp_path / "a.zarr"
    fill(path, {"/": request()}, keep_state=True)
    add(path, "accuracy" if case != "undeclared" else "mine", ("chain", "draw"), (2, 7))
    zarr.open_group(path, mode="r+", use_consolidated=False).attrs["devinterp_schema"] = (
        graded if case != "undeclared" else "devinterp/samples@1"
    )
    if case == "not installed":
        monkeypatch.setattr(loading, "_installed", lambda: ())
    before = contents(path)
    why = {"extended": "cannot make longer", "not installed": "is not installed", "undeclared": "cannot make longer"}
    with pytest.raises(StoreConflictError, match=why[case]):
        open_run(path, {"/": request(**longer)}, keep_state=True)
    after = contents(path)
    assert {k: v for k, v in after.items() if "lock" not in k} == {k: v for k, v in before.items() if "lock" not in k}
    assert fill(path, {"/": request()}, keep_state=True) == ([], None)


@pytest.mark.parametrize("longer", [{"num_chains": 3}, {"num_draws": 12}, {"num_chains": 4, "num_draws": 9}])
def test_an_extension_that_the_growth_does_not_touch_stays(tmp_path, graded, longer):
    path = tmp_path / "a.zarr"
    fill(path, {"/": request()}, keep_state=True)
    rows = open_store(path, level=None).sizes["batch_code"]
    add(path, "weight_code", ("batch_code",), (rows,))
    zarr.open_group(path, mode="r+", use_consolidated=False).attrs["devinterp_schema"] = graded
    fill(path, {"/": request(**longer)}, keep_state=True)
    report = devinterp.validate(path, level="structure")
    assert report.ok, report
    assert report.schema == graded
    for consolidated in (True, False):
        tree = xr.open_datatree(path, engine="zarr", consolidated=consolidated)
        assert tree["weight_code"].values.tolist() == [1.0] * rows
        assert tree.attrs["devinterp_schema"] == graded


@pytest.mark.parametrize("moment", ["at once", "after an interruption"])
@pytest.mark.parametrize("longer", [{}, {"num_chains": 3}, {"num_draws": 12}])
def test_what_others_noted_stays(tmp_path, longer, moment):
    path = tmp_path / "a.zarr"
    fill(path, {"/": request()}, keep_state=True)
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    group.attrs["notes"] = {"by": "me"}
    metadata = group.attrs["metadata"]
    group.attrs["metadata"] = {**metadata, "paper": "x", "config": {**metadata["config"], "why": "for the appendix"}}
    group["loss_code"].attrs["checked_by"] = "me"
    group["n_beta"].attrs["checked_by"] = "me"
    if moment == "after an interruption" and longer:
        with open_run(path, {"/": request(**longer)}, keep_state=True):
            pass  # killed before a chain came to its end
    fill(path, {"/": request(**longer)}, keep_state=True)
    for consolidated in (True, False) if longer else (False,):
        tree = xr.open_datatree(path, engine="zarr", consolidated=consolidated)
        assert tree.attrs["notes"] == {"by": "me"}
        assert tree.attrs["metadata"]["paper"] == "x"
        assert tree.attrs["metadata"]["config"]["why"] == "for the appendix"
        assert tree["loss_code"].attrs["checked_by"] == tree["n_beta"].attrs["checked_by"] == "me"


def test_a_study_keeps_what_others_noted_in_it(tmp_path):
    path = tmp_path / "s.zarr"
    root = {"config": {"sampling_task": "code", "restrictions": ["full"]}}
    fill(path, {"/full": request()}, root)
    zarr.open_group(path, mode="r+", use_consolidated=False).attrs["notes"] = "root's"
    zarr.open_group(path / "full", mode="r+").attrs["notes"] = "full's"
    metadata = zarr.open_group(path, mode="r").attrs["metadata"]
    metadata["config"]["why"] = "for the appendix"
    zarr.open_group(path, mode="r+", use_consolidated=False).attrs["metadata"] = metadata
    larger = {"config": {"sampling_task": "code", "restrictions": ["full", "w"]}}
    fill(path, {"/full": request(), "/w": request()}, larger)
    tree = open_store(path, level=None)
    assert [tree.attrs["notes"], tree["full"].attrs["notes"], tree["w"].attrs.get("notes")] == [
        "root's",
        "full's",
        None,
    ]
    assert tree.attrs["metadata"]["config"]["why"] == "for the appendix"
