"""Real faults, injected while real chains run: the error names the cause, nothing that was done is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children

import numpy as np
import pytest
import torch
import xarray as xr
from kills import Server, campaign, differing_chunks
from tiny_lm import build_model, build_tokens

import devinterp
from devinterp.errors import (
    AllChainsFailedError,
    ChainFailedWarning,
    SamplingError,
    StoreError,
    StoreLockedError,
)
from devinterp.slt.sampling import sample
from devinterp.slt.sampling.running.pool import worker_context

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = {
    "lr": 1e-3,
    "n_beta": 30.0,
    "num_chains": 2,
    "num_draws": 24,
    "batch_size": 4,
    "num_burnin_steps": 2,
    "num_steps_bw_draws": 1,
    "num_init_loss_batches": 2,
    "localization": 10.0,
    "save_metrics": True,
    "checkpoint_every": 3,
    "device": "cpu",
    "progress": False,
}


def go(path, model=None, **changes):
    observables = {"train": (build_tokens("train"), 2), "code": (build_tokens("code"), 1)}
    return sample(
        build_model() if model is None else model,
        build_tokens("train"),
        observables,
        output_path=path,
        **{**SETTINGS, **changes},
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "whole.zarr"
    go(path)
    return path


def readable_draws(path, whole):
    """Check that every draw that the store says it has is the right one, and return how many there are."""
    report = devinterp.validate(path, level="structure").without("incomplete")
    assert report.ok, report
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Zarr remarks on the state folder of a run that has not ended
        tree = xr.open_datatree(path, engine="zarr", consolidated=False)
    reference = xr.open_datatree(whole, engine="zarr")
    written = tree["draws_written"].values
    for chain, count in enumerate(np.maximum(written, 0)):
        for name in ("sampling_loss", "loss_train", "loss_code"):
            found = tree[name].values[chain, :count]
            np.testing.assert_array_equal(found, reference[name].values[chain, :count], err_msg=name)
    return int(np.maximum(written, 0).sum())


class Bomb:
    """A progress callback that does something once, at one step of one chain."""

    def __init__(self, action, *, chain=1, step=15):
        self.action, self.at, self.done = action, (chain, step), False

    def __call__(self, event):
        if not self.done and event.chain == self.at[0] and event.step >= self.at[1]:
            self.done = True
            self.action()


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of one megabyte, or a reason why there is none."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=False).returncode:
        pytest.skip("a small tmpfs cannot be mounted here: it takes root and the right to mount")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk(small_disk, whole):
    path = small_disk / "a.zarr"
    ballast = small_disk / "ballast"

    def fill():
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                return

    with pytest.raises(StoreError, match="No space left"):
        go(path, progress=Bomb(fill))
    ballast.unlink()
    assert go(path)["draws_written"].values.tolist() == [24, 24]
    assert differing_chunks(whole, path) == []
    assert readable_draws(path, whole) == 48


def test_permission_lost(tmp_path, whole):
    path = tmp_path / "a.zarr"
    root = os.geteuid() == 0  # whom file modes do not stop: then the process gives its rights up instead

    def lock():
        if root:
            os.seteuid(65534)
        for folder in (path, *(p for p in path.rglob("*") if p.is_dir())) if not root else ():
            folder.chmod(0o500)

    def unlock():
        if root:
            os.seteuid(0)
        for folder in (path, *(p for p in path.rglob("*") if p.is_dir())):
            folder.chmod(0o755)

    try:
        with pytest.raises(StoreError, match="Permission denied"):
            go(path, progress=Bomb(lock))
    finally:
        unlock()
    go(path)
    assert differing_chunks(whole, path) == []


def test_a_store_deleted_underneath(tmp_path, whole):
    path = tmp_path / "a.zarr"

    def remove():
        while path.exists():  # what is being written to may not go at once
            shutil.rmtree(path, ignore_errors=True)

    with pytest.raises(StoreError, match=r"a\.zarr was removed or replaced"):
        go(path, progress=Bomb(remove))
    assert not path.exists()
    go(path)
    assert differing_chunks(whole, path) == []


def test_an_exception_in_the_callers_loss(tmp_path, whole):
    path = tmp_path / "a.zarr"
    model = build_model()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}

    def explode():
        raise ZeroDivisionError("the caller's own")

    with pytest.raises(ZeroDivisionError, match="the caller's own"):
        go(path, model, progress=Bomb(explode))
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert readable_draws(path, whole) >= 24
    go(path)
    assert differing_chunks(whole, path) == []


def test_a_chain_that_turns_nan_and_a_run_in_which_all_do(tmp_path, whole):
    path = tmp_path / "a.zarr"
    seen = []

    def loss_fn(model, input_ids):
        logits = model(input_ids)[:, :-1]
        loss = -torch.log_softmax(logits.float(), -1).gather(-1, input_ids[:, 1:, None])[..., 0]
        if torch.is_grad_enabled():
            seen.append(1)
            if len(seen) == 12:  # step 11 of chain 0, which then ends; chain 1 goes on
                loss = loss * float("nan")
        return loss

    with pytest.warns(ChainFailedWarning, match="chain 0 at step"):
        tree = go(path, loss_fn=loss_fn)
    assert tree["draws_written"].values[1] == 24
    assert 0 < tree["draws_written"].values[0] < 24
    states = tree.attrs["metadata"]["run"]["chains"]
    assert [s["status"] for s in states] == ["failed", "complete"]
    assert devinterp.validate(path).ok
    with pytest.warns(ChainFailedWarning, match="1 of 2 chains failed .* chain 0 at step"):
        go(path, loss_fn=loss_fn)  # the finished store, returned with the same warning
    with pytest.warns(ChainFailedWarning):
        assert tree.devinterp.llc().attrs["n_chains_used"] == 1
    with pytest.raises(AllChainsFailedError, match="Lower lr"):
        go(tmp_path / "b.zarr", lr=1e30)


LONGER = {"num_draws": 150, "checkpoint_every": 10}  # a run that no worker ends before one is killed


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    path = tmp_path_factory.mktemp("longer") / "longer.zarr"
    go(path, **LONGER)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("ours", [True, False], ids=["own pool", "caller's executor"])
def test_a_worker_process_is_killed(tmp_path, longer, ours):
    path = tmp_path / "a.zarr"
    before = set(active_children())
    killed = threading.Event()

    def kill():
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            children = sorted(set(active_children()) - before, key=lambda each: each.pid)
            if children and (path / ".devinterp" / "chain-0001.state").exists():
                # Of our own, any may have chain 1; of the caller's two, which both have one, the younger.
                for each in children if ours else children[-1:]:
                    each.kill()
                break
            time.sleep(0.005)
        killed.set()

    thread = threading.Thread(target=kill)
    thread.start()
    executor = None if ours else ProcessPoolExecutor(2, mp_context=worker_context())
    options = {"chain_method": "parallel", "threads_per_chain": 1, **LONGER}
    # Chain 0 may be sampled in this process, and then waits for the kill: a worker is to have chain 1.
    with pytest.raises(SamplingError, match="worker process died"):
        go(path, executor=executor, progress=lambda event: killed.wait(120), **options)
    thread.join()
    if executor is not None:
        executor.shutdown()
    # Seen at once, not when the other's chain was done.
    with devinterp.open_store(path, allow_partial=True) as left:
        assert max(left["draws_written"].values) < LONGER["num_draws"]
    tree = go(path, **LONGER)
    assert tree["draws_written"].values.tolist() == [LONGER["num_draws"]] * 2
    assert differing_chunks(longer, path) == []
    assert tree.attrs["completed"] == 1


def test_two_processes_on_one_path(tmp_path, whole):
    path = tmp_path / "a.zarr"
    refused, other = [], build_model()  # made beforehand: it seeds the generators that the first run draws from

    def second():
        try:
            go(path, other)
        except StoreLockedError as error:
            refused.append(str(error))

    go(path, progress=Bomb(second, chain=0, step=3))
    assert len(refused) == 1
    assert f"process {os.getpid()}" in refused[0]
    assert differing_chunks(whole, path) == []
    assert devinterp.validate(path).ok


@pytest.mark.slow
def test_killed_processes_resume_to_the_same_bytes(tmp_path):
    settings = {k: v for k, v in SETTINGS.items() if k not in ("progress", "device")}
    with Server() as server:
        outcome = campaign(server, tmp_path, "sgld", settings, kills=1, seed=1)
    assert outcome.kills == 1
    assert outcome.differing == []
