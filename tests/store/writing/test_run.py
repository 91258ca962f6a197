from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from stores import Numbers, request, run_chain, write_fixed
from zarr.storage import FsspecStore, MemoryStore, ZipStore

from devinterp.errors import (
    ChainFailedWarning,
    IncompleteStoreError,
    StoreConflictError,
    StoreError,
    StoreExistsError,
    StoreLockedError,
    StoreNotFoundError,
)
from devinterp.schema import validate
from devinterp.store import open_run, open_store
from devinterp.store.location import Location, locate
from devinterp.store.reading.path_state import PathState, inspect_path


def fill(run, *, failed=None, interrupted=None, groups=("/",)):
    for group in groups:
        numbers = Numbers(run, group)
        write_fixed(run, group)
        for where, chain in run.remaining():
            if where == group:
                writer, _ = run.writer(group, chain)
                stop, status = (failed[1], "failed") if failed and failed[0] == chain else (None, "complete")
                if interrupted and interrupted[0] == chain:
                    stop, status = interrupted[1], "interrupted"
                run_chain(run, writer, numbers, group=group, stop_at=stop, status=status)
    return numbers


def every_byte(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_completed_store_holds_what_was_pushed_and_opens_with_plain_xarray(tmp_path):
    path = tmp_path / "a.zarr"
    with open_run(path, {"/": request()}) as run:
        numbers = fill(run)
        run.complete()
    for consolidated in (True, False):
        tree = xr.open_datatree(path, engine="zarr", consolidated=consolidated)
        for name, values in numbers.arrays.items():
            np.testing.assert_array_equal(tree[name].values, values)
        assert tree.attrs["completed"] == 1
        assert tree["draws_written"].values.tolist() == [7, 7]
        assert [c["status"] for c in tree.attrs["metadata"]["run"]["chains"]] == ["complete", "complete"]
    assert not (path / ".devinterp").exists()


def test_every_chunk_is_on_disk_even_where_it_equals_the_fill_value(tmp_path):
    path = tmp_path / "a.zarr"
    with open_run(path, {"/": request()}) as run:
        fill(run, failed=(1, 0))
        run.complete()
    for name, array in zarr.open_group(path, mode="r").arrays():
        expected = int(np.prod([-(-n // c) for n, c in zip(array.shape, array.chunks, strict=True)]))
        assert sum(p.is_file() for p in (path / name / "c").rglob("*")) + (path / name / "c").is_file() == expected, (
            name
        )


def test_the_same_computation_returns_the_finished_store_untouched(tmp_path):
    path = tmp_path / "a.zarr"
    with open_run(path, {"/": request()}) as run:
        fill(run)
        run.complete()
    before = every_byte(path)
    with open_run(path, {"/": request()}) as run:
        assert run.finished
        assert run.remaining() == []
    assert every_byte(path) == before


@pytest.mark.parametrize("stop", range(8))
def test_an_interrupted_chain_resumes_to_the_same_bytes(tmp_path, stop):
    whole, broken = tmp_path / "whole.zarr", tmp_path / "broken.zarr"
    with open_run(whole, {"/": request()}) as run:
        fill(run)
        run.complete()
    with open_run(broken, {"/": request()}, checkpoint_every=3) as run:
        fill(run, interrupted=(1, stop))
        run.publish()
    assert inspect_path(locate(broken)) is PathState.INTERRUPTED
    with open_run(broken, {"/": request()}, checkpoint_every=3) as run:
        assert run.remaining() == [("/", 1)]
        writer, state = run.writer("/", 1)
        assert writer.progress.draws == 3 * (stop // 3)
        assert state == (b"state of draw %d" % writer.progress.draws if stop >= 3 else None)
        run_chain(run, writer, Numbers(run))
        run.complete()
    assert every_byte(broken) == every_byte(whole)


def test_resume_false_refuses_an_interrupted_store(tmp_path):
    with open_run(tmp_path / "a.zarr", {"/": request()}) as run:
        fill(run, interrupted=(0, 2))
    with pytest.raises(StoreExistsError, match="interrupted run lies"):
        open_run(tmp_path / "a.zarr", {"/": request()}, resume=False)


def test_another_request_is_refused_with_every_difference(tmp_path):
    path = tmp_path / "a.zarr"
    with open_run(path, {"/": request()}) as run:
        fill(run)
        run.complete()
    before = every_byte(path)
    other = dataclasses.replace(request(lr=2e-3, n_beta=3.0), provenance={"weights": "def"})
    with pytest.raises(StoreConflictError) as error:
        open_run(path, {"/": other})
    for part in ("lr: the store has 0.001, this call 0.002", "n_beta", "provenance.weights: the store has 'abc'"):
        assert part in str(error.value)
    assert every_byte(path) == before


@pytest.mark.parametrize("content", ["file", "folder", "zarr group", "zarr v2"])
def test_what_is_not_ours_is_refused_untouched(tmp_path, content):
    path = tmp_path / "x"
    if content == "file":
        path.write_text("mine")
    elif content == "folder":
        path.mkdir()
        (path / "notes.txt").write_text("mine")
    elif content == "zarr group":
        zarr.create_group(path, attributes={"a": 1})
    else:
        zarr.create_group(path, zarr_format=2)
    before = path.read_text() if content == "file" else every_byte(path)
    with pytest.raises(StoreExistsError, match="left untouched"):
        open_run(path, {"/": request()})
    assert (path.read_text() if content == "file" else every_byte(path)) == before


def test_an_empty_folder_is_a_place_for_a_store(tmp_path):
    with open_run(tmp_path, {"/": request()}) as run:
        fill(run)
        run.complete()
    assert open_store(tmp_path, level=None)["sampling_loss"].shape == (2, 7, 2, 5)


def test_a_failed_chain_leaves_fill_behind_its_prefix_and_a_warning(tmp_path):
    path = tmp_path / "a.zarr"
    with open_run(path, {"/": request()}) as run:
        fill(run, failed=(1, 4))
        run.complete()
    with pytest.warns(ChainFailedWarning, match="chain 1 at step"):
        tree = open_store(path, level=None)
    assert tree["draws_written"].values.tolist() == [7, 4]
    for name in ("sampling_loss", "loss_code", "loss_math"):
        values = tree[name].values
        assert np.isfinite(values[1, :4]).all()
        assert np.isnan(values[1, 4:]).all()
    assert tree.attrs["metadata"]["run"]["chains"][1] == {"status": "failed", "reason": "why", "step": 12}
    assert np.isfinite(tree["step_loss"].values[1, : 3 + 4 * 2]).all()
    assert np.isnan(tree["step_loss"].values[1, 3 + 4 * 2 :]).all()


def test_a_row_that_breaks_the_schema_never_reaches_the_disk(tmp_path):
    with open_run(tmp_path / "a.zarr", {"/": request()}) as run:
        numbers = Numbers(run)
        writer, _ = run.writer("/", 0)
        good = numbers.draw(0, 0)
        for name, bad in {
            "not those of the schema": {"sampling_loss": good["sampling_loss"]},
            "does not fit": {**good, "loss_code": good["loss_code"][:, :-1]},
            "does not fit the store": {**good, "loss_code": good["loss_code"].astype(float)},
            "not finite": {**good, "loss_code": np.full_like(good["loss_code"], np.nan)},
        }.items():
            with pytest.raises(StoreError, match=name):
                writer.draw(0, bad)
        with pytest.raises(StoreError, match="out of turn"):
            writer.draw(1, good)
        writer.abort()


def _hold(path, ready, release):
    with open_run(path, {"/": request()}):
        ready.set()
        release.wait(30)


def test_a_live_writer_is_named_and_a_dead_ones_lock_is_free(tmp_path):
    path = tmp_path / "a.zarr"
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork with the event loop's thread: this child only waits
        child = context.Process(target=_hold, args=(path, ready, release))
        child.start()
    assert ready.wait(30)
    with pytest.raises(StoreLockedError, match=f"process {child.pid} on"):
        open_run(path, {"/": request()})
    child.kill()
    child.join()
    with open_run(path, {"/": request()}) as run:
        fill(run)
        run.complete()


def _race(path, barrier, outcomes):
    barrier.wait(60)
    try:
        with open_run(path, {"/": request()}) as run:
            fill(run)
            run.complete()
        outcomes.put("finished" if run.resumed else "sampled")
    except Exception as error:
        outcomes.put(type(error).__name__)


def test_of_processes_that_start_at_the_same_time_one_samples_and_the_others_are_refused(tmp_path):
    context = multiprocessing.get_context("fork")
    everything = []
    for round_ in range(3):
        path, barrier, outcomes = tmp_path / f"{round_}.zarr", context.Barrier(3), context.SimpleQueue()
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # fork with the event loop's thread: it is not used here
            children = [context.Process(target=_race, args=(path, barrier, outcomes)) for _ in range(3)]
            for child in children:
                child.start()
        said = sorted(outcomes.get() for _ in children)
        for child in children:
            child.join()
        assert said.count("sampled") == 1
        assert set(said) <= {"sampled", "finished", "StoreLockedError"}
        everything += said
        report = validate(path, level="completeness")
        assert report.ok, str(report)
        assert not (path / ".devinterp").exists()
    assert "StoreLockedError" in everything


def test_a_store_that_another_process_creates_between_two_looks_is_not_foreign(tmp_path, monkeypatch):
    path = tmp_path / "a.zarr"
    path.mkdir()
    real = Location.list_dir

    def late(self, *args):
        monkeypatch.setattr(Location, "list_dir", real)
        with open_run(path, {"/": request()}) as run:  # as if by another process, after the first look
            fill(run)
            run.complete()
        return real(self, *args)

    monkeypatch.setattr(Location, "list_dir", late)
    with open_run(path, {"/": request()}) as run:
        assert run.finished


@pytest.mark.parametrize("leftover", ["zarr.json.{}.partial", "zarr.{}.partial"])
def test_a_creation_that_was_killed_in_the_middle_of_its_first_document_is_no_foreign_folder(tmp_path, leftover):
    path = tmp_path / "a.zarr"
    (path / ".devinterp").mkdir(parents=True)
    (path / leftover.format("0" * 32)).write_bytes(b"{")
    with open_run(path, {"/": request()}) as run:
        fill(run)
        run.complete()
    assert validate(path, level="completeness").ok


def test_a_creation_that_was_killed_on_an_object_store_is_known_for_ours(monkeypatch):
    """Its documents are written many at a time; the root's must be there before any other."""
    store, written = MemoryStore(), []
    real = MemoryStore.set

    async def note(self, key, value, *args, **kwargs):
        written.append(key)
        await real(self, key, value, *args, **kwargs)

    monkeypatch.setattr(MemoryStore, "set", note)
    with open_run(store, {"/": request()}):
        pass
    documents = [key for key in written if key.endswith("zarr.json")]
    assert documents[0] == "zarr.json"
    assert documents.count("zarr.json") == 1


def test_nothing_is_sampled_into_an_archive(tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("zarr.json", "{}")
    before = archive.read_bytes()
    for target in (archive, ZipStore(tmp_path / "b.zip", mode="w")):
        with pytest.raises(StoreError, match=r"nothing in it can be replaced .* zip archive"):
            open_run(target, {"/": request()})
    assert archive.read_bytes() == before


@pytest.mark.needs("fsspec")
def test_a_local_store_of_fsspec_is_written_as_a_local_disk(tmp_path):
    """fsspec writes in place, so that a kill would leave half a chunk where a whole one was."""
    store = FsspecStore.from_url(f"file://{tmp_path}/a.zarr")
    with open_run(store, {"/": request()}) as run:
        assert run.location.folder == tmp_path / "a.zarr"


def test_a_place_where_nothing_can_be_created_or_removed_is_named(tmp_path, monkeypatch):
    def refuse(self, *args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Location, "set_many", refuse)
    monkeypatch.setattr(Location, "list_keys", refuse)
    with pytest.raises(StoreError, match=r"could not be created: .*Permission denied"):
        open_run(tmp_path / "a.zarr", {"/": request()})
    monkeypatch.undo()
    with open_run(tmp_path / "a.zarr", {"/": request()}):
        pass


def test_a_creation_that_was_killed_is_taken_up_again(tmp_path):
    path = tmp_path / "a.zarr"
    with open_run(path, {"/": request()}):
        pass
    (path / "loss_code" / "zarr.json").unlink()
    (path / "sampling_loss" / "c").mkdir()
    (path / "sampling_loss" / "c.0123.partial").write_bytes(b"torn")
    with open_run(path, {"/": request()}) as run:
        numbers = fill(run)
        run.complete()
    tree = open_store(path, level=None)
    np.testing.assert_array_equal(tree["loss_code"].values, numbers.arrays["loss_code"])
    assert not list(path.rglob("*.partial"))


def test_a_study_is_one_store_with_a_group_per_restriction(tmp_path):
    path = tmp_path / "study.zarr"
    root = {"config": {"sampling_task": "code", "restrictions": ["full", "l0 h0"]}}
    groups = {"/full": request(), "/l0 h0": request()}
    with open_run(path, groups, root=root) as run:
        fill(run, groups=tuple(groups))
        run.complete()
    tree = xr.open_datatree(path, engine="zarr")
    assert list(tree.children) == ["full", "l0 h0"]
    assert tree.attrs["metadata"] == root
    assert all(child.attrs["completed"] == 1 for child in tree.children.values())
    plain = xr.open_datatree(path, engine="zarr", consolidated=False)
    assert plain["l0 h0"].attrs == tree["l0 h0"].attrs


def test_a_study_skips_what_is_finished(tmp_path):
    path = tmp_path / "study.zarr"
    root = {"config": {"sampling_task": "code", "restrictions": ["full", "l0h0"]}}
    groups = {"/full": request(), "/l0h0": request()}
    with open_run(path, groups, root=root) as run:
        fill(run, groups=("/full",))
    with open_run(path, groups, root=root) as run:
        assert run.remaining() == [("/l0h0", 0), ("/l0h0", 1)]


@pytest.mark.needs("fsspec")
def test_the_same_on_a_store_object_and_on_a_url():
    store = MemoryStore()
    with open_run(store, {"/": request()}) as run:
        numbers = fill(run)
        run.complete()
    with open_run("memory://run/a.zarr", {"/": request()}) as run:
        fill(run, interrupted=(1, 4))
    with pytest.raises(IncompleteStoreError):
        open_store("memory://run/a.zarr", level=None)
    with open_run("memory://run/a.zarr", {"/": request()}) as run:
        writer, _ = run.writer("/", 1)
        run_chain(run, writer, numbers)
        run.complete()
    for target in (store, "memory://run/a.zarr"):
        tree = open_store(target, level=None)
        for name, values in numbers.arrays.items():
            np.testing.assert_array_equal(tree[name].values, values)


def test_a_full_disk_is_an_error_that_names_it_and_what_was_written_stays(tmp_path, monkeypatch):
    path = tmp_path / "a.zarr"
    from zarr.storage import LocalStore

    real = LocalStore.set

    async def full(self, key, value, *args, **kwargs):
        if key.startswith("loss_code/c/1"):
            raise OSError(28, "No space left on device")
        await real(self, key, value, *args, **kwargs)

    monkeypatch.setattr(LocalStore, "set", full)
    with open_run(path, {"/": request()}) as run, pytest.raises(StoreError, match="No space left on device"):
        fill(run)
    monkeypatch.undo()
    with open_run(path, {"/": request()}) as run:
        assert run.remaining() == [("/", 1)]
        numbers = fill(run)
        run.complete()
    np.testing.assert_array_equal(open_store(path, level=None)["loss_code"].values, numbers.arrays["loss_code"])


def test_missing_and_v2_stores_have_clear_answers(tmp_path):
    with pytest.raises(StoreNotFoundError, match="There is no store at"):
        open_store(tmp_path / "nothing.zarr")
    zarr.create_group(tmp_path / "old.zarr", zarr_format=2)
    with pytest.raises(StoreError, match="Zarr v2"):
        open_store(tmp_path / "old.zarr")


def test_importing_the_store_brings_neither_torch_nor_pandera():
    code = "import devinterp.store, sys; assert not {'torch', 'pandera'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})


def test_attributes_are_json_whatever_numpy_puts_in(tmp_path):
    other = dataclasses.replace(request(), provenance={"n": np.int64(3), "x": np.float32(0.5)})
    with open_run(tmp_path / "a.zarr", {"/": other}) as run:
        fill(run)
        run.complete()
    document = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())
    assert document["attributes"]["metadata"]["provenance"] == {"n": 3, "x": 0.5}
    bad = dataclasses.replace(request(), provenance={"x": float("nan")})
    with pytest.raises(StoreError, match=r"provenance\.x is nan"):
        open_run(tmp_path / "b.zarr", {"/": bad})
    assert not (tmp_path / "b.zarr").exists()
