"""Chains here and elsewhere give the same bytes; signals, dead workers and exceptions lose nothing."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from coordinated import HELPERS, SETTINGS, TRAIN, assert_same_store, chains_of, run
from tiny_lm import build_model, head_masks

import devinterp
from devinterp.errors import ChainFailedWarning, DevinterpWarning, SamplingError, StoreLockedError
from devinterp.schema import validate
from devinterp.slt.sampling import ProgressEvent, sample_restrictions
from devinterp.slt.sampling.running import coordinator, initial_arrays, worker
from devinterp.slt.sampling.running import pool as processes
from devinterp.slt.sampling.running.run_plan import RunPlan
from devinterp.store import locate
from devinterp.store.lock import LOCK_KEY, WriterLock


@pytest.fixture(scope="module")
def pool():
    # Of a context that has torch imported: a pool that imports it in each process is no other, and 8 s of CPU later.
    with ProcessPoolExecutor(2, mp_context=processes.worker_context()) as executor:
        yield executor


def test_processes_of_our_own_give_the_bytes_of_one_chain_after_the_other(tmp_path):
    events = []
    tree = run(chain_method="parallel", output_path=tmp_path / "a.zarr", progress=events.append, init_noise=0.01)
    assert_same_store(tree, run(init_noise=0.01))
    assert {(event.chain, event.step) for event in events if event.step == event.num_steps} == {(0, 4), (1, 4)}
    assert not (tmp_path / "a.zarr" / ".devinterp").exists()
    assert torch.get_num_threads() == 1


@pytest.fixture
def arrival(monkeypatch):
    """What to set for processes to be there, as when their server has imported torch."""
    there, start = threading.Event(), processes.worker_pool
    monkeypatch.setattr(processes, "worker_pool", lambda count: there.wait(120) and start(count))
    yield there
    there.set()


def test_no_chain_waits_for_processes_that_start(arrival, tmp_path):
    """All are sampled here where they take less time; where processes come meanwhile, the rest is theirs."""
    alone = run(num_chains=3)
    assert_same_store(run(chain_method="parallel", num_chains=3, output_path=tmp_path / "a.zarr"), alone)
    assert not arrival.is_set()
    begun = []

    def meanwhile(event):
        if not arrival.is_set():
            arrival.set()
            deadline = time.monotonic() + 120
            while not begun and time.monotonic() < deadline:  # a chain in one of them
                begun.extend((tmp_path / "b.zarr" / ".devinterp").glob("chain-*.live"))
                time.sleep(0.02)

    tree = run(chain_method="parallel", num_chains=3, output_path=tmp_path / "b.zarr", progress=meanwhile)
    assert len(begun) > 0
    assert_same_store(tree, alone)


def test_a_signal_while_processes_start_does_not_wait_for_them(arrival, tmp_path):
    def strike(event):
        if event.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(chain_method="parallel", num_chains=3, output_path=tmp_path / "a.zarr", progress=strike)
    assert [chain["step"] for chain in chains_of(tmp_path / "a.zarr")] == [2, 0, 0]
    assert_same_store(run(output_path=tmp_path / "a.zarr", num_chains=3), run(num_chains=3))


@pytest.mark.parametrize(
    "options", [{"sampling_method": "rmsprop_sgld"}, {"match_sampling_input_ids_across_chains": False}]
)
def test_an_executor_of_the_callers_gives_the_same_bytes_and_is_left_running(pool, options):
    assert_same_store(run(chain_method="parallel", executor=pool, **options), run(**options))
    assert pool.submit(os.getpid).result() > 0


def test_the_pickled_plan_which_is_as_large_as_the_model_is_not_held_while_chains_run(monkeypatch):
    freed, at_submission = [], []

    class Packed(bytes):
        def __del__(self):
            freed.append(len(self))

    class Looks(ThreadPoolExecutor):
        def submit(self, *args, **options):
            deadline = time.monotonic() + 10
            while not freed and time.monotonic() < deadline:  # the thread that wrote it may not have let go of it yet
                time.sleep(0.01)
            at_submission.append(len(freed))
            return super().submit(*args, **options)

    monkeypatch.setattr(coordinator, "pack_plan", lambda plan: Packed(worker.pack_plan(plan)))
    with Looks(1) as threads:
        run(chain_method="parallel", executor=threads)
    assert at_submission == [1, 1]


def test_threads_take_turns():
    with ThreadPoolExecutor(3) as threads:
        tree = run(chain_method="parallel", executor=threads, num_chains=3)
    assert_same_store(tree, run(num_chains=3))


def test_initial_losses_are_not_computed_while_a_thread_samples(monkeypatch):
    """Both seed the generators of the process: beside each other, a chain would draw other numbers."""
    sampling, overlaps = [], []
    real_run, real_losses = RunPlan.run, initial_arrays.initial_losses

    def chain(self, *args, **kwargs):
        sampling.append(1)
        try:
            time.sleep(0.3)  # long enough that a coordinator which does not wait is caught
            return real_run(self, *args, **kwargs)
        finally:
            sampling.pop()

    def losses(*args, **kwargs):
        time.sleep(0.1)
        overlaps.append(len(sampling))
        return real_losses(*args, **kwargs)

    expected = run(num_chains=2)
    # The executor pickles the plan by value, so its class is the one that is patched.
    monkeypatch.setattr(RunPlan, "run", chain)
    monkeypatch.setattr(initial_arrays, "initial_losses", losses)
    with ThreadPoolExecutor(2) as threads:
        tree = run(chain_method="parallel", executor=threads, num_chains=2)
    assert overlaps == [0]
    assert_same_store(tree, expected)


def test_a_study_is_one_task_per_restriction_and_chain(pool):
    model = build_model()
    restrictions = {"full": None, "one head": head_masks(model, 0, 0)}

    def study(**options):
        return sample_restrictions(
            model, TRAIN, {"train": (TRAIN, 1)}, restrictions, sampling_task="train", **{**SETTINGS, **options}
        )

    parallel, sequential = study(chain_method="parallel", executor=pool), study()
    for name in restrictions:
        assert_same_store(parallel[name], sequential[name])


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_bytes(tmp_path):
    import dask
    import distributed

    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}),  # of ours, which has torch
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        client.run(sys.path.insert, 0, str(HELPERS))
        tree = run(
            chain_method="parallel", executor=client.get_executor(), output_path=tmp_path / "a.zarr", num_chains=3
        )
    assert_same_store(tree, run(num_chains=3))


def test_threads_per_chain_hold_for_the_run_alone():
    seen = []
    run(threads_per_chain=2, progress=lambda event: seen.append(torch.get_num_threads()))
    assert set(seen) == {2}
    assert torch.get_num_threads() == 1


def test_a_run_in_a_thread_of_the_callers_works():
    with ThreadPoolExecutor(1) as thread:
        tree = thread.submit(run).result()
    assert_same_store(tree, run())


def test_every_step_is_told_with_the_last_draws_loss():
    events = []
    run(progress=events.append, num_burnin_steps=2)
    assert all(isinstance(event, ProgressEvent) for event in events)
    assert [(event.chain, event.step) for event in events] == [(c, s) for c in (0, 1) for s in range(1, 7)]
    assert events[1].loss is None
    assert events[-1].loss is not None
    assert events[0].restriction is None


class Doomed(torch.nn.Module):
    """Ends as it is told once a chain reaches a draw: by NaN, by an exception, or with its process."""

    def __init__(self, how, seed):
        super().__init__()
        self.inner, self.how, self.seed = build_model(), how, seed
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, input_ids):
        logits = self.inner(input_ids)
        if torch.is_grad_enabled():
            self.calls += 1
        if torch.initial_seed() == self.seed and self.calls > 2:
            if self.how == "nan":
                return logits * float("nan")
            if self.how == "exception":
                raise RuntimeError("the cluster is on fire")
            if self.how == "death":
                os.kill(os.getpid(), signal.SIGKILL)
        return logits


def test_a_chain_that_fails_in_a_worker_is_named_by_the_coordinator(pool):
    with pytest.warns(DevinterpWarning) as caught:
        tree = run(Doomed("nan", 101), chain_method="parallel", executor=pool)
    (message,) = [str(w.message) for w in caught if w.category is ChainFailedWarning]
    assert "chain 1 at step 2" in message
    assert tree["draws_written"].values.tolist() == [4, 2]


def test_an_exception_in_a_worker_comes_back_with_its_type_and_the_rest_is_kept(pool, tmp_path):
    path = tmp_path / "a.zarr"
    with pytest.warns(DevinterpWarning, match="BatchNorm"), pytest.raises(RuntimeError, match="on fire") as caught:
        run(Doomed("exception", 100), chain_method="parallel", executor=pool, output_path=path, num_chains=3)
    assert "Traceback of the worker process" in "".join(caught.value.__notes__)
    states = chains_of(path)
    assert states[0]["status"] == "interrupted"
    assert "on fire" in states[0]["reason"]


def test_a_dead_worker_is_named_and_the_run_resumes(tmp_path):
    path = tmp_path / "a.zarr"
    marker = tmp_path / "die"
    marker.touch()
    loss = DieOnce(str(marker))
    settings = {"loss_fn": loss, "checkpoint_every": 1, "num_draws": 6}
    with pytest.raises(SamplingError, match="worker process died"):
        run(chain_method="parallel", num_workers=2, output_path=path, **settings)
    assert chains_of(path)
    resumed = run(chain_method="parallel", num_workers=2, output_path=path, **settings)
    assert_same_store(resumed, run(**settings))
    assert validate(path, level="values").ok


class DieOnce:
    """A loss that kills its process in the middle of chain 1, as long as a file is there."""

    def __init__(self, marker):
        self.marker, self.calls = marker, 0

    def __call__(self, model, input_ids):
        self.calls += 1
        if self.calls > 8 and torch.initial_seed() == 101 and os.path.exists(self.marker):
            os.unlink(self.marker)
            os.kill(os.getpid(), signal.SIGKILL)
        return model(input_ids)[:, 1:, 0]


def test_a_second_run_on_a_path_that_is_being_written_is_refused(tmp_path):
    path, refused = tmp_path / "a.zarr", []

    def intrude(event):
        if not refused:
            with pytest.raises(StoreLockedError):
                run(output_path=path)
            refused.append(True)

    tree = run(output_path=path, progress=intrude)
    assert refused
    assert_same_store(tree, run())


def test_the_counts_of_an_interrupted_store_are_those_of_its_rows(tmp_path):
    path = tmp_path / "a.zarr"

    def strike(event):
        if event.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(progress=strike, output_path=path)
    import zarr

    group = zarr.open_group(path, mode="r")
    assert group["draws_written"][...].tolist() == [3, 0]
    assert np.isfinite(group["sampling_loss"][0, :3]).all()
    assert np.isnan(group["sampling_loss"][0, 3:]).all()


def test_threads_of_the_writer_end_with_the_run():
    before = set(threading.enumerate())
    run()
    left = [t.name for t in set(threading.enumerate()) - before if t.name.startswith("devinterp")]
    assert left == []


def test_an_executor_that_was_shut_down_is_named(tmp_path):
    threads = ThreadPoolExecutor(1)
    threads.shutdown()
    with pytest.raises(SamplingError, match="takes no work: cannot schedule new futures after shutdown"):
        run(chain_method="parallel", executor=threads, output_path=tmp_path / "a.zarr")
    assert_same_store(run(output_path=tmp_path / "a.zarr"), run())


class GivesUp(ThreadPoolExecutor):
    """Is shut down by somebody else while the first of three chains runs."""

    def submit(self, *task):
        future = super().submit(*task)
        self.taken = getattr(self, "taken", 0) + 1
        if self.taken == 3:
            self.shutdown(wait=False, cancel_futures=True)
        return future


def test_an_executor_that_gives_its_work_up_is_named_and_the_run_resumes(tmp_path):
    path = tmp_path / "a.zarr"
    settings = {"num_chains": 3, "output_path": path}
    with pytest.raises(SamplingError, match="gave its work up: CancelledError"):
        run(chain_method="parallel", executor=GivesUp(1), **settings)
    assert not (path / ".devinterp" / "plan").exists()
    assert_same_store(run(**settings), run(**{**settings, "output_path": None}))


def test_states_that_are_kept_are_not_kept_with_the_plan(tmp_path):
    path = tmp_path / "a.zarr"
    with ThreadPoolExecutor(1) as threads:
        run(chain_method="parallel", executor=threads, output_path=path, keep_state=True)
    assert {file.suffix for file in (path / ".devinterp").iterdir() if file.suffix} >= {".state"}
    assert not (path / ".devinterp" / "plan").exists()


def test_a_worker_stops_once_its_coordinator_no_longer_holds_the_store(tmp_path, monkeypatch):
    """Also one that the coordinator did not start itself, on another machine."""
    monkeypatch.setattr(worker, "_PARENT_SECONDS", 0.0)
    place = locate(tmp_path / "a.zarr", mode="w")
    lock = WriterLock(place, LOCK_KEY)
    task = SimpleNamespace(parent=("another host", 1), token=lock.token)
    sign = worker._StopRequested(place, task, lambda: False)
    assert not sign()
    lock.release()
    assert sign()


def test_what_is_counted_as_written_can_be_read_while_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("devinterp.slt.sampling.running.coordinator._LOOK_SECONDS", 0.0)  # twice a second, otherwise
    path, seen = tmp_path / "a.zarr", []

    def look(event):
        if (event.chain, event.step) == (1, 4):
            tree = devinterp.open_store(path, allow_partial=True)
            seen.append(tree["draws_written"].values[0])
            assert np.isfinite(tree["sampling_loss"].values[0]).all()
            assert np.isfinite(tree.devinterp.llc(allow_partial=True)["llc_mean"])

    run(output_path=path, progress=look, checkpoint_every=1)
    assert seen == [4]
