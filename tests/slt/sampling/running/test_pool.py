"""Worker processes of our own: what they know, and what they are deaf to."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from devinterp.slt.sampling.running import pool
from devinterp.slt.sampling.running.pool import orphaned, worker_pool
from devinterp.slt.sampling.running.worker import _terminable


def look():
    return (
        os.getppid(),
        os.environ.get("OF_THE_DAY"),
        signal.getsignal(signal.SIGINT),
        "torch" in sys.modules,
        orphaned(),
    )


def test_workers_have_the_present_environment_and_leave_ctrl_c_to_the_coordinator(monkeypatch):
    found = []
    for day in ("one", "two"):
        monkeypatch.setenv("OF_THE_DAY", day)
        with worker_pool(1) as workers:
            found.append(workers.submit(look).result())
    assert [each[1] for each in found] == ["one", "two"]
    assert all(handler == signal.SIG_IGN and not lost for *_, handler, _, lost in found)


def end_during_a_chain():
    with _terminable() as terminated:
        signal.raise_signal(signal.SIGTERM)
        return terminated()


def test_a_worker_that_is_told_to_end_gives_its_result_and_ends():
    """Who waits for the lock of a queue that a dead worker holds would otherwise be waited for by the executor."""
    with worker_pool(1) as workers:
        assert workers.submit(end_during_a_chain).result() is True
        (process,) = workers._processes.values()
        process.join(60)
        assert process.exitcode == -signal.SIGTERM


def test_processes_that_cannot_start_are_not_waited_for(monkeypatch):
    def refuse(count):
        raise OSError("no more processes")

    monkeypatch.setattr(pool, "worker_pool", refuse)
    starting = pool.StartingPool(1, lambda executor: None)
    assert isinstance(starting.begun.exception(timeout=60), OSError)
    starting.close(wait=True)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each worker is a process of its own making")
def test_workers_are_forked_from_one_server_that_has_torch():
    found = set()
    for _ in range(2):
        with worker_pool(1) as workers:
            parent, _, _, torch, _ = workers.submit(look).result()
        found.add(parent)
        assert torch
    assert len(found) == 1
    assert os.getpid() not in found
