"""The order on disk, also where writes fail: no checkpoint past a gap, no count of rows that are not there."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import zarr
from stores import Numbers, request, run_chain, write_fixed
from zarr.storage import LocalStore

from devinterp.errors import StoreError, StoreLockedError
from devinterp.store import filesystem, location, open_run
from devinterp.store.chain_checkpoints import read_checkpoint, read_progress


@pytest.fixture
def fail_once(monkeypatch):
    """Make the n-th write of a key fail, and only that one."""
    real = LocalStore.set

    def arm(prefix, number=1):
        seen = []

        async def flaky(self, key, value, *args, **kwargs):
            if key.startswith(prefix):
                seen.append(key)
                if len(seen) == number:
                    raise OSError(5, "Input/output error")
            await real(self, key, value, *args, **kwargs)

        monkeypatch.setattr(LocalStore, "set", flaky)

    return arm


def advance(run, writer, numbers, draws):
    """Hand over draws one by one, and let the disk come after each."""
    step = writer.progress.steps
    for draw in range(writer.progress.draws, draws):
        writer.steps(step, numbers.steps(0, step, step_of(draw)))
        writer.draw(draw, numbers.draw(0, draw))
        step = step_of(draw)
        if writer.checkpoint_due(draw + 1):
            writer.checkpoint(draw + 1, step, b"state of draw %d" % (draw + 1))
        writer._thread.submit(lambda: None).result()


def step_of(draw):
    return 3 + draw * 2 + 1


@pytest.mark.parametrize("lost", ["loss_code/c/0", "loss_math/c/0", "sampling_loss/c/0", "step_loss/c/0"])
def test_nothing_is_written_behind_a_write_that_failed(tmp_path, fail_once, lost):
    """The disk refuses one chunk and takes what follows: a checkpoint past it would lose its rows for good."""
    path = tmp_path / "a.zarr"
    with open_run(path, {"/": request()}, checkpoint_every=2) as run:
        write_fixed(run)
        numbers = Numbers(run)
        writer, _ = run.writer("/", 0)
        fail_once(lost, number=2)
        with pytest.raises(StoreError, match="Input/output error"):
            advance(run, writer, numbers, 7)
        saved, told = read_checkpoint(run.location, "/", 0), read_progress(run.location, "/", 0)
        assert (saved[0].draws, told.draws, writer.progress.draws) == (2, 2, 2)
        with pytest.raises(StoreError, match="Input/output error"):
            writer.finish("interrupted", "why", writer.progress.steps)
        run.record("/", 0, writer.progress)
        run.publish()
    group = zarr.open_group(path, mode="r")
    assert group["draws_written"][0] == 2
    for name in numbers.by_draw:
        np.testing.assert_array_equal(group[name][0, :2], numbers.arrays[name][0, :2])
    with open_run(path, {"/": request()}, checkpoint_every=2) as run:
        for _, chain in run.remaining():
            run_chain(run, run.writer("/", chain)[0], numbers)
        run.complete()
    for name in numbers.by_draw:
        np.testing.assert_array_equal(zarr.open_group(path, mode="r")[name][...], numbers.arrays[name])


def test_chunks_are_on_the_disk_before_the_checkpoint_that_counts_them(tmp_path, monkeypatch):
    events = []
    real_set, real_file, real_sync = LocalStore.set, location._write_file, filesystem._sync

    async def note_set(self, key, value, *args, **kwargs):
        await real_set(self, key, value, *args, **kwargs)
        events.append(("set", key))

    def note_file(path, parts):
        real_file(path, parts)
        events.append(("set", path.relative_to(tmp_path / "a.zarr").as_posix()))

    def note_sync(path):
        real_sync(path)
        events.append(("sync", path.relative_to(tmp_path / "a.zarr").as_posix()))

    with open_run(tmp_path / "a.zarr", {"/": request()}, checkpoint_every=2) as run:
        write_fixed(run)
        writer, _ = run.writer("/", 0)
        monkeypatch.setattr(LocalStore, "set", note_set)
        monkeypatch.setattr(location, "_write_file", note_file)
        monkeypatch.setattr(filesystem, "_sync", note_sync)
        advance(run, writer, Numbers(run), 2)
        writer.abort()
    state, progress = (f".devinterp/chain-0000.{what}" for what in ("state", "progress"))
    at = {event: number for number, event in enumerate(events)}
    chunks = [key for kind, key in events if kind == "set" and "/c/" in key]
    assert len(chunks) == 4
    assert all(at["set", key] < at["sync", key] < at["set", state] for key in chunks)
    assert at["set", state] < at["sync", state] < at["set", progress]


def test_a_store_that_was_removed_is_not_half_made_again(tmp_path):
    path = tmp_path / "a.zarr"
    with open_run(path, {"/": request()}, checkpoint_every=2) as run:
        numbers = Numbers(run)
        writer, _ = run.writer("/", 0)
        advance(run, writer, numbers, 2)
        shutil.rmtree(path)
        with pytest.raises(StoreError, match="was removed or replaced"):
            advance(run, writer, numbers, 7)
        writer.abort()
        with pytest.raises(StoreError, match="was removed or replaced"):
            run.publish()
    assert not path.exists()


def test_a_store_that_was_made_anew_keeps_its_own_lock(tmp_path):
    path = tmp_path / "a.zarr"
    with open_run(path, {"/": request()}) as run:
        shutil.rmtree(path)
        with open_run(path, {"/": request()}) as other:
            with pytest.raises(StoreError, match="was removed or replaced"):
                run.confirm()
            run.close()
            other.confirm()
            with pytest.raises(StoreLockedError):
                open_run(path, {"/": request()})


def test_a_chain_has_one_writer_whoever_coordinates(tmp_path):
    """A worker may outlive its coordinator by a draw; the next coordinator waits for it, and does not write beside."""
    with open_run(tmp_path / "a.zarr", {"/": request()}) as run:
        writer, _ = run.address("/", 1).open()
        with pytest.raises(StoreLockedError, match=r"writing to chain 1 of .*a\.zarr"):
            run.writer("/", 1)
        run.writer("/", 0)[0].abort()
        writer.abort()
        run.writer("/", 1)[0].abort()


def test_a_loss_that_counts_is_finite_and_any_other_is_nan(tmp_path):
    masked = replace(request(), optional=frozenset({"mask_sampling", "mask_code"}))
    with open_run(tmp_path / "a.zarr", {"/": masked}) as run:
        writer, _ = run.writer("/", 0)
        layouts = run.layout("/").arrays
        names = [n for n, a in layouts.items() if a.spec.prefix == "draw"]
        rows = {n: np.ones(layouts[n].shape[2:], dtype=layouts[n].dtype) for n in names}
        rows["mask_sampling"][0, 1:3] = 0
        rows["sampling_loss"][0, 1:3] = np.nan
        rows["loss_code"][1, 0] = np.nan  # its mask is of rows that are the same at every draw
        writer.steps(0, {"step_loss": np.ones(4, dtype=np.float32)})
        writer.draw(0, rows)
        assert writer.progress.loss == 1.0
        for name, place, value in [
            ("sampling_loss", (1, 0), np.nan), ("sampling_loss", (0, 1), np.inf), ("loss_code", (0, 0), np.inf),
            ("loss_math", (0, 0), np.nan),
        ]:  # fmt: skip
            spoilt = {n: v.copy() for n, v in rows.items()}
            spoilt[name][place] = value
            with pytest.raises(StoreError, match=f"{name}.* is not finite"):
                writer.draw(1, spoilt)
        writer.abort()
