"""What runs in another process: one chain of a plan, writing its own region of the store."""

from __future__ import annotations

import hashlib
import json
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from devinterp.errors import SamplingError, StoreConflictError
from devinterp.schema.reading.keys import STATE_FOLDER
from devinterp.slt.sampling.engine.chain import ChainResult
from devinterp.slt.sampling.engine.restore_model import LENDING
from devinterp.slt.sampling.running.environment import describe_environment, differences
from devinterp.slt.sampling.running.pool import orphaned
from devinterp.slt.sampling.running.run_plan import RunPlan
from devinterp.slt.sampling.running.torch_settings import TorchSettings
from devinterp.store import ChainWriter, Location, WriterAddress, locate
from devinterp.store.chain_checkpoints import state_key
from devinterp.store.lock import LOCK_KEY
from devinterp.store.lock_holder import HolderWatch

__all__ = [
    "PATIENCE",
    "PLAN_KEY",
    "STOP_KEY",
    "ChainTask",
    "limited_threads",
    "live_step",
    "pack_plan",
    "run_chain_task",
]

PLAN_KEY = f"{STATE_FOLDER}/plan"
STOP_KEY = f"{STATE_FOLDER}/stop"

PATIENCE = 60.0
"""Seconds that a chain waits for the worker of a coordinator that died, which ends after its present draw."""

_LOOK_SECONDS = 0.5
_RESULT_SECONDS = 1.0  # for the result of a chain to reach the coordinator before its worker ends
_PARENT_SECONDS = 2.0
_LOADED: list[tuple[str, RunPlan]] = []


@dataclass(frozen=True)
class ChainTask:
    """One chain to sample somewhere else; it travels by pickle.

    Attributes
    ----------
    address : WriterAddress
        Where its records go.
    digest : str
        The sha256 of the plan, which lies in the store; nothing else is unpickled.
    threads : int or None
        Torch threads of the chain; None leaves the worker's own number.
    keep_state : bool
    token : str
        Of the run's lock: any worker ends once the coordinator no longer holds it.
    environment : dict or None
        What the chain must be sampled in to go on to the same bytes; None where that does not matter.
    settings : TorchSettings
        Of the coordinator's process, which the worker takes over for the chain.
    """

    address: WriterAddress
    digest: str
    threads: int | None
    keep_state: bool
    token: str
    environment: dict[str, Any] | None
    settings: TorchSettings


def pack_plan(plan: RunPlan) -> bytes:
    """Pickle a plan, classes and functions of a notebook or script by value."""
    import cloudpickle

    with LENDING:
        packed: bytes = cloudpickle.dumps(plan)
    return packed


def run_chain_task(task: ChainTask) -> ChainResult:
    """Sample the chain of a task.

    Raises
    ------
    Exception
        What the model or its loss raised; `SamplingError` stands in for one that would not survive the way back.
    """
    with LENDING:
        try:
            return _run(task)
        except Exception as error:
            raise _portable(error) from None


def _run(task: ChainTask) -> ChainResult:
    address = task.address
    writer, state = address.open(patience=PATIENCE)
    try:
        with _terminable() as terminated, limited_threads(task.threads), task.settings.applied():
            location = locate(address.target, mode="w")
            plan = _load(location, task.digest)
            if task.environment is not None:
                _check(task.environment, plan.device, address.chain)
            return plan.run(
                address.group,
                address.chain,
                writer,
                state,
                keep_state=task.keep_state,
                should_stop=_StopRequested(location, task, terminated),
                on_step=_ProgressBeacon(location, writer),
            )
    except BaseException:
        writer.abort()
        raise


def _check(expected: dict[str, Any], device: str, chain: int) -> None:
    changed = differences(expected, describe_environment(device, torch.get_num_threads()))
    if changed:
        raise StoreConflictError(
            f"The worker that should go on with chain {chain} runs in another environment, and would not give the "
            "bytes of an uninterrupted run:\n  " + "\n  ".join(changed) + "\n",
            remedy="Use workers like those that the run was begun with, or pass resume='inexact'.",
        )


def _load(location: Location, digest: str) -> RunPlan:
    if not _LOADED or _LOADED[0][0] != digest:
        packed = location.get(PLAN_KEY)
        if packed is None or hashlib.sha256(packed).hexdigest() != digest:
            raise SamplingError(
                f"The plan in {location.name} is not the one that this worker was sent for.",
                remedy="Another run has taken the store over; call sample() again.",
            )
        _LOADED[:] = [(digest, pickle.loads(packed))]
    return _LOADED[0][1]


class _StopRequested:
    """Whether a chain should end after its present draw: told so, or orphaned. Looks at the store now and then."""

    def __init__(self, location: Location, task: ChainTask, terminated: Callable[[], bool]) -> None:
        self._location, self._terminated = location, terminated
        self._coordinator = HolderWatch(location, LOCK_KEY, task.token)
        self._next, self._next_parent, self._found = 0.0, time.monotonic() + _PARENT_SECONDS, False

    def __call__(self) -> bool:
        if self._terminated() or orphaned():
            return True
        if not self._found and time.monotonic() >= self._next:
            self._found = self._location.exists(STOP_KEY)
            self._next = time.monotonic() + _LOOK_SECONDS
        if not self._found and time.monotonic() >= self._next_parent:
            self._found = not self._coordinator.holds()
            self._next_parent = time.monotonic() + _PARENT_SECONDS
        return self._found


class _ProgressBeacon:
    """Tells whoever watches the store how far the chain is."""

    def __init__(self, location: Location, writer: ChainWriter) -> None:
        self._location, self._writer, self._next = location, writer, 0.0
        self._key = state_key(writer.group, writer.chain, "live")

    def __call__(self, step: int) -> None:
        if time.monotonic() >= self._next:
            self._writer.confirm()  # or hours are spent on a store that is gone
            self._location.set(self._key, json.dumps({"step": step}).encode())
            self._next = time.monotonic() + _LOOK_SECONDS


def live_step(location: Location, group: str, chain: int) -> int:
    """Return the step that a running chain last told."""
    raw = location.get(state_key(group, chain, "live"))
    return 0 if raw is None else int(json.loads(raw)["step"])


@contextmanager
def _terminable() -> Iterator[Callable[[], bool]]:
    """Finish the draw on SIGTERM, then end; leave Ctrl-C, which a terminal sends to every process, to the coordinator.

    A worker that lived on could wait for ever: whoever broke the pool may have died holding the lock of its queue, and
    an executor ends its processes by that one signal and waits until they are gone.
    """
    told: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, frame: told.append(number)),
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
    }
    try:
        yield lambda: bool(told)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if told and before[signal.SIGTERM] is signal.SIG_DFL:
            again = threading.Timer(_RESULT_SECONDS, signal.raise_signal, [signal.SIGTERM])
            again.daemon = True
            again.start()


@contextmanager
def limited_threads(threads: int | None) -> Iterator[None]:
    """Use so many torch threads inside; None changes nothing."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if threads is not None:
            torch.set_num_threads(before)


def _portable(error: Exception) -> Exception:
    trace = "".join(traceback.format_exception(error))
    try:
        copy: Any = pickle.loads(pickle.dumps(error))
        survives = type(copy) is type(error)
    except Exception:
        survives = False
    if not survives:
        error = SamplingError(f"{type(error).__name__} in a worker process: {error}")
    error.add_note(f"Traceback of the worker process:\n{trace}")
    return error
