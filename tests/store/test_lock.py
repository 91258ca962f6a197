from __future__ import annotations

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import warnings

import pytest
from zarr.storage import MemoryStore

from devinterp.errors import StoreError, StoreLockedError
from devinterp.store import filesystem, locate, lock, lock_holder
from devinterp.store.lock import WriterLock
from devinterp.store.lock_holder import STALE_SECONDS, HolderWatch

KEY = ".devinterp/lock"


@pytest.fixture(params=["disk", "network disk", pytest.param("memory", marks=pytest.mark.needs("fsspec")), "object"])
def place(request, tmp_path, monkeypatch):
    """Every way to lock: flock, and heartbeats in a file, in a URL and in a store object."""
    if request.param == "network disk":
        monkeypatch.setattr(filesystem, "_kind", lambda folder: "nfs4")
    if request.param == "memory":
        return locate(f"memory://{tmp_path.name}", mode="w")
    return locate(MemoryStore() if request.param == "object" else tmp_path / "a.zarr", mode="w")


@pytest.fixture
def network(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_holder, "_WATCH_SECONDS", 0.6)
    monkeypatch.setattr(filesystem, "_kind", lambda folder: "nfs4")
    return locate(tmp_path / "a.zarr", mode="w")


def test_one_holder_at_a_time_and_the_other_is_told_who(place):
    with WriterLock(place, KEY) as held:
        held.confirm()
        with pytest.raises(StoreLockedError, match=f"process {os.getpid()} on"):
            WriterLock(place, KEY)
        assert HolderWatch(place, KEY, held.token).holds()
        watch = HolderWatch(place, KEY, held.token)
    assert not watch.holds()
    assert not place.exists(KEY)
    with WriterLock(place, KEY) as other:
        assert not watch.holds()
        assert HolderWatch(place, KEY, other.token).holds()


def test_whoever_waits_gets_it(place):
    held = WriterLock(place, KEY)
    threading.Timer(0.3, held.release).start()
    with WriterLock(place, KEY, patience=20):
        pass


def test_of_many_that_reach_at_once_one_gets_it(place):
    got, barrier = [], threading.Barrier(6)

    def reach():
        barrier.wait()
        try:
            got.append(WriterLock(place, KEY))
        except StoreLockedError:
            return

    threads = [threading.Thread(target=reach) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    got[0].release()


_REACH = """
import sys, time
from devinterp.store import filesystem, locate, lock
filesystem._kind = lambda folder: "nfs4"
lock._SETTLE_SECONDS = 0.5
location = locate(sys.argv[1], mode="w")
print("ready", flush=True)
sys.stdin.readline()
try:
    held = lock.WriterLock(location, ".devinterp/lock")
    print("got", flush=True)
    sys.stdin.readline()
except Exception as error:
    print(type(error).__name__, flush=True)
"""


def _reach(place):
    return subprocess.Popen(
        [sys.executable, "-c", _REACH, str(place.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_of_processes_that_reach_for_a_heartbeat_at_once_one_gets_it_and_a_kill_frees_it(network):
    processes = [_reach(network) for _ in range(3)]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        said = [process.stdout.readline().strip() for process in processes]
        assert sorted(said) == ["StoreLockedError", "StoreLockedError", "got"]
        holder = processes[said.index("got")]
        with pytest.raises(StoreLockedError, match=f"process {holder.pid} on"):
            WriterLock(network, KEY)
        holder.kill()
        holder.wait()
        WriterLock(network, KEY).release()  # a process of this machine: seen to be dead at once
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def beat_of(network, **changes):
    who = {"pid": 1, "host": "elsewhere", "where": "another", "token": "t", "beat": time.time(), **changes}
    network.set(KEY, json.dumps(who).encode())
    return who


@pytest.mark.parametrize("skew", [-3600, 3600])
def test_a_clock_that_is_wrong_makes_nobody_dead_whose_heart_still_beats(network, skew):
    who, stop = beat_of(network, beat=time.time() + skew), threading.Event()

    def beat():
        while not stop.wait(0.1):
            who["beat"] += 0.1
            network.set(KEY, json.dumps(who).encode())

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(StoreLockedError, match="process 1 on elsewhere"):
            WriterLock(network, KEY)
    finally:
        stop.set()
        thread.join()
    WriterLock(network, KEY).release()  # and once it is still, it is free


def test_who_was_just_heard_of_holds_it_and_torn_content_does_not(network):
    beat_of(network)
    with pytest.raises(StoreLockedError, match="process 1 on elsewhere"):
        WriterLock(network, KEY)
    network.set(KEY, b'{"pid": 1, "be')
    WriterLock(network, KEY).release()


def test_a_holder_that_slept_learns_that_it_was_replaced(network, monkeypatch):
    held = WriterLock(network, KEY)
    held.confirm()
    beat_of(network)  # another took over while this process was suspended
    held._hold._beaten -= STALE_SECONDS
    with pytest.raises(StoreLockedError, match="process 1 on elsewhere"):
        held.confirm()
    held.release()
    assert network.exists(KEY)  # the other's


@pytest.mark.parametrize("kind", ["file", "heartbeat"])
def test_a_store_that_cannot_be_looked_at_is_one_error_that_says_what_to_do(kind, tmp_path, request, monkeypatch):
    """Between two writes a run looks whether it still holds its store, which may be closed to it by then."""

    def refused(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    place = request.getfixturevalue("network") if kind == "heartbeat" else locate(tmp_path / "a.zarr", mode="w")
    held = WriterLock(place, KEY)
    with monkeypatch.context() as closed:
        if kind == "heartbeat":
            held._hold._beaten -= STALE_SECONDS
            closed.setattr(type(place), "get", refused)
        else:
            closed.setattr(lock.Path, "stat", refused)
        with pytest.raises(StoreError, match=r"looked at: .*Permission denied\. .* same arguments to resume"):
            held.confirm()
    held.release()


def test_a_heartbeat_that_fails_for_a_moment_goes_on(network, monkeypatch):
    monkeypatch.setattr(lock, "_BEAT_SECONDS", 0.05)
    real, failures = type(network).set, []

    def flaky(self, key, value):
        if len(failures) < 3:
            failures.append(key)
            raise OSError("the network is away")
        real(self, key, value)

    with WriterLock(network, KEY) as held:
        before = held._hold._beaten
        monkeypatch.setattr(type(network), "set", flaky)
        deadline = time.monotonic() + 10
        while held._hold._beaten == before and time.monotonic() < deadline:
            time.sleep(0.02)
        held.confirm()
    assert len(failures) == 3


def test_a_forked_child_keeps_no_lock_beyond_its_parent(tmp_path):
    place = locate(tmp_path / "a.zarr", mode="w")
    held = WriterLock(place, KEY)
    release = multiprocessing.get_context("fork").Event()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads: this child only waits
        child = multiprocessing.get_context("fork").Process(target=release.wait, args=(60,))
        child.start()
    os.close(held._hold._descriptor)  # as the death of this process would
    held._hold._descriptor = None
    WriterLock(place, KEY).release()
    release.set()
    child.join()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match=r"a\.zarr cannot be locked"):
        WriterLock(locate(tmp_path / "file" / "a.zarr", mode="w"), KEY)
