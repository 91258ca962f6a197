from __future__ import annotations

import json
import os
import socket
import time

import lifelike
import pytest

from devinterp.errors import StoreLockedError, StoreNotFoundError
from devinterp.store import filesystem, locate, lock, lock_holder, open_run
from devinterp.store.lock import LOCK_KEY
from devinterp.store.reading.status import read_status

SMALL = {"chains": 2, "draws": 120, "rows": 2, "observables": ("code",), "save_metrics": False}


def test_a_run_is_followed_from_its_first_chunk_to_its_end(tmp_path):
    path = tmp_path / "run.zarr"
    with open_run(path, {"/": lifelike.request(**SMALL)}) as run:
        (only,) = read_status(locate(path)).runs
        assert [c.status for c in only.chains] == ["waiting", "waiting"]
        engine = lifelike.Engine(run, "/", scale=0.02, seed=1)
        engine.write_fixed()
        engine.run_chain(0)
        writer, _ = run.writer("/", 1)
        writer.steps(0, engine._step_rows(1, 0, 105))  # two chunks of 50 steps are full; no checkpoint yet
        writer.abort()
        status = read_status(locate(path))
        first, second = status.runs[0].chains
        assert (first.status, first.draws, first.steps) == ("complete", 120, 250)
        assert second.status == "waiting"
        assert str(os.getpid()) in (status.writer or "")
        assert status.runs[0].done == pytest.approx(0.5)
        engine.run_chain(1, stop_at=30, status="failed")
        run.complete()
    status = read_status(locate(path))
    assert status.completed
    assert status.writer is None
    assert [(c.status, c.draws) for c in status.runs[0].chains] == [("complete", 120), ("failed", 30)]
    assert status.runs[0].done == 1


def test_steps_between_checkpoints_are_seen(tmp_path):
    path = tmp_path / "run.zarr"
    with open_run(path, {"/": lifelike.request(**SMALL)}, checkpoint_every=10) as run:
        engine = lifelike.Engine(run, "/", scale=0.02, seed=1)
        engine.write_fixed()
        engine.run_chain(0, stop_at=10, status="interrupted")
        writer, _ = run.writer("/", 0)
        from devinterp.store.chain_checkpoints import ChainProgress, write_progress

        write_progress(run.location, "/", 0, ChainProgress(draws=10, steps=29, status="running"))
        writer.steps(29, engine._step_rows(0, 29, 151))
        writer.abort()
        chain = read_status(locate(path)).runs[0].chains[0]
        assert chain.status == "running"
        assert 29 < chain.steps <= 151


def test_runs_of_a_study_come_in_its_order_consolidated_or_not(tmp_path):
    path = lifelike.make_study(tmp_path / "s.zarr", ["full", "b b", "a"], **{**SMALL, "draws": 10})
    status = read_status(locate(path))
    assert [run.group for run in status.runs] == ["/full", "/b b", "/a"]
    document = json.loads((path / "zarr.json").read_text())
    del document["consolidated_metadata"]
    (path / "zarr.json").write_text(json.dumps(document))
    assert [run.group for run in read_status(locate(path)).runs] == ["/full", "/b b", "/a"]


LEFT_BEHIND = {
    "by a process that died": lambda: {"pid": dead(), "host": socket.gethostname(), "where": lock_holder.pid_space()},
    "before a reboot, its pid another's now": lambda: {
        "pid": os.getpid(), "host": socket.gethostname(), "where": "0d9c5b1e-another-boot pid:[4026531836]",
    },
    "in another container of this machine": lambda: {
        "pid": 1, "host": socket.gethostname(), "where": f"{str(lock_holder.pid_space()).split()[0]} pid:[1]",
    },
    "on another machine, copied with its store": lambda: {"pid": 1, "host": "elsewhere"},
    "by a process that was killed while it wrote this": lambda: "rubbish",
}  # fmt: skip


def dead():
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(child, 0)
    return child


@pytest.mark.parametrize("network", [False, True], ids=["disk", "network"])
@pytest.mark.parametrize("left", LEFT_BEHIND)
def test_a_lock_that_was_left_behind_names_no_writer(tmp_path, monkeypatch, left, network):
    path = tmp_path / "run.zarr"
    with open_run(path, {"/": lifelike.request(**SMALL)}):
        pass
    if network:
        monkeypatch.setattr(filesystem, "_kind", lambda folder: "nfs4")
    (path / ".devinterp").mkdir(exist_ok=True)
    (path / LOCK_KEY).write_text(json.dumps(LEFT_BEHIND[left]()))
    assert read_status(locate(path)).writer is None
    assert (path / LOCK_KEY).exists()  # who looks takes nothing away


@pytest.mark.parametrize("network", [False, True], ids=["disk", "network"])
def test_whoever_is_refused_is_told_the_name_that_the_status_says(tmp_path, monkeypatch, network):
    if network:
        monkeypatch.setattr(filesystem, "_kind", lambda folder: "nfs4")
    path = tmp_path / "run.zarr"
    with open_run(path, {"/": lifelike.request(**SMALL)}):
        name = read_status(locate(path)).writer
        assert name == f"process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(StoreLockedError) as refused:
            lock.WriterLock(locate(path, mode="w"), LOCK_KEY)
        assert refused.value.found == name


def test_a_heart_that_has_stopped_holds_nothing(tmp_path):
    path = tmp_path / "run.zarr"
    with open_run(path, {"/": lifelike.request(**SMALL)}):
        pass
    (path / ".devinterp").mkdir(exist_ok=True)
    for age, alive in ((0, True), (30, True), (100, False)):
        who = {"pid": 7, "host": "elsewhere", "beat": time.time() - age}
        (path / LOCK_KEY).write_text(json.dumps(who))
        assert (read_status(locate(path)).writer == "process 7 on elsewhere") is alive


def test_stores_of_devinterp_2_and_no_store(reference, tmp_path):
    status = read_status(locate(reference / "full.zarr"))
    assert status.schema is None
    assert status.runs[0].num_draws == 6
    with pytest.raises(StoreNotFoundError):
        read_status(locate(tmp_path / "nothing.zarr"))
