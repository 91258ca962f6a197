"""From a plan to a completed store: chains here or elsewhere, one writer of attributes, an orderly end on a signal."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    wait,
)
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from devinterp.errors import ModelError, SamplingError
from devinterp.slt.sampling.engine.chain import ChainResult
from devinterp.slt.sampling.engine.frozen_prefix import Reuse
from devinterp.slt.sampling.engine.restore_model import LENDING
from devinterp.slt.sampling.running.environment import choose_threads, enter_environment
from devinterp.slt.sampling.running.finish import complete_run, open_finished
from devinterp.slt.sampling.running.initial_arrays import write_initial_arrays
from devinterp.slt.sampling.running.options import NO_GUARD, Execution
from devinterp.slt.sampling.running.pool import StartingPool, children_ignore_sigint
from devinterp.slt.sampling.running.progress import Progress, ProgressEvent, make_progress
from devinterp.slt.sampling.running.run_plan import RunPlan, check_visited
from devinterp.slt.sampling.running.signals import Stop
from devinterp.slt.sampling.running.torch_settings import TorchSettings
from devinterp.slt.sampling.running.worker import (
    PATIENCE,
    PLAN_KEY,
    STOP_KEY,
    ChainTask,
    limited_threads,
    live_step,
    pack_plan,
    run_chain_task,
)
from devinterp.store import Run, SamplesRequest, StoreLike, locate, open_run

__all__ = ["Execution", "complete_run", "execute", "open_finished", "sample_part"]

_LOOK_SECONDS = 0.5


def execute(
    plan: RunPlan,
    requests: Mapping[str, SamplesRequest],
    target: StoreLike | None,
    options: Execution,
    *,
    root: Mapping[str, Any] | None = None,
) -> xr.DataTree:
    """Carry a plan out, and return its store, lazily loaded.

    Parameters
    ----------
    plan : RunPlan
    requests : mapping of group path to SamplesRequest
    target : path, URL, zarr Store or None
        None is a temporary directory.
    options : Execution
    root : mapping, optional
        ``metadata`` of a study's root.

    Raises
    ------
    AllChainsFailedError
        No chain of the whole run survived.
    KeyboardInterrupt, SystemExit
        The run was stopped by SIGINT or SIGTERM; what it has done is written.
    StoreError
        The store cannot be written, or something else lies there.
    """
    if target is not None:
        check_visited(plan, locate(target))
    run = open_run(
        target,
        requests,
        root=root,
        resume=bool(options.resume),
        keep_state=options.keep_state,
        checkpoint_every=options.checkpoint_every,
    )
    with run:
        if not run.finished:
            sample_part(plan, run, options)
            complete_run(run)
        return open_finished(run)


def sample_part(plan: RunPlan, run: Run, options: Execution) -> None:
    """Bring every chain of the plan's variants to its end; the store stays open for others.

    Raises
    ------
    KeyboardInterrupt, SystemExit
        The run was stopped by a signal; what it has done is written.
    """
    _Coordinator(plan, run, options).carry_out()


def _is_guarded() -> bool:
    """Whether the script that a worker process would run again says what it is not to do there."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    try:
        return script is None or "__main__" in Path(script).read_text(errors="replace")
    except OSError:
        return True


class _Coordinator:
    def __init__(self, plan: RunPlan, run: Run, options: Execution) -> None:
        self.plan, self.run, self.options = plan, run, options
        self.stop = Stop()
        self.reuse: dict[str, Reuse] = {}
        self.packed = b""

    def carry_out(self) -> None:
        parallel = self.options.chain_method == "parallel"
        threads = choose_threads(self.run, self.options)
        device, inexact = self.plan.device, self.options.resume == "inexact"
        self.environment = enter_environment(self.run, device, threads, inexact=inexact)
        self._note("started", threads)
        if parallel:
            self.packed = self._pack()
        try:
            with self.stop.listening(), self._bars() as bars:
                if parallel:
                    self._parallel(bars, threads)
                else:
                    with LENDING, limited_threads(threads):
                        write_initial_arrays(self.plan, self.run, chains_follow=True)
                        self._sequential(bars)
        except BaseException:
            self._publish_quietly()
            raise
        # A signal during the last draw of a part ends the run all the same, where other parts remain.
        if self.run.remaining() or (self.stop and self.run.whole.remaining()):
            self._publish_quietly()
            self._leave()
        self._note("ended", None)

    def _note(self, moment: str, threads: int | None) -> None:
        facts: dict[str, Any] = {moment: datetime.now(UTC).isoformat(timespec="seconds")}
        if threads is not None:
            facts |= {"device": self.plan.device, "threads_per_chain": threads, "host": socket.gethostname()}
        for group in self.plan.variants:
            self.run.add_facts(group, facts)

    def _note_reuse(self, group: str, result: ChainResult) -> None:
        """Add what a chain left out to the facts of its group."""
        total = self.reuse.setdefault(group, Reuse())
        total.add(result.reuse)
        self.run.add_facts(group, {"frozen_prefix": total.as_dict()})

    def _bars(self) -> Progress:
        events = [
            self._event(group, chain, self.run.progress(group, chain).step) for group, chain in self.run.remaining()
        ]
        return make_progress(self.options.progress, events, torch.device(self.plan.device))

    def _event(self, group: str, chain: int, step: int) -> ProgressEvent:
        progress = self.run.progress(group, chain)
        name = group.strip("/") or None
        return ProgressEvent(name, chain, step, self.plan.variants[group].settings.num_steps, progress.loss)

    def _order(self) -> list[tuple[str, int]]:
        """Return the chains that remain, in the order in which most can be reused."""
        depths = {group: self.plan.depth(group) for group in self.plan.variants}
        return sorted(self.run.remaining(), key=lambda each: depths[each[0]])

    # Chains

    def _sequential(self, bars: Progress) -> None:
        for group, chain in self._order():
            if self.stop:
                return
            self._sample_here(group, chain, bars)

    def _sample_here(
        self, group: str, chain: int, bars: Progress, failed_elsewhere: Callable[[], bool] = lambda: False
    ) -> None:
        """Sample a chain in this process."""
        writer, state = self.run.writer(group, chain, patience=PATIENCE)
        looked, ends = time.monotonic(), False

        def show(step: int) -> None:
            nonlocal looked, ends
            if time.monotonic() - looked > _LOOK_SECONDS:
                looked, ends = time.monotonic(), failed_elsewhere()
                self.run.confirm()  # or hours are spent on a store that is gone
                self.run.record(group, chain, writer.durable)
                self.run.publish_draws(group)
            if bars.shows:
                bars.show(replace(self._event(group, chain, step), loss=writer.progress.loss))

        try:
            result = self.plan.run(
                group,
                chain,
                writer,
                state,
                keep_state=self.options.keep_state,
                should_stop=lambda: ends or bool(self.stop),
                on_step=show,
            )
        except BaseException:
            writer.abort()
            raise
        finally:
            self.run.record(group, chain, writer.progress)
        self._note_reuse(group, result)
        self.run.publish_draws(group)

    def _pack(self) -> bytes:
        """Pickle the plan; where that cannot be done, no store is left but one in which other checkpoints are done."""
        try:
            return pack_plan(self.plan)
        except Exception as error:  # whatever an object raises that does not want to be copied
            if self.run.whole.nothing_done_yet:
                self.run.whole.discard()
            raise ModelError(
                f"The model, its loss or the data cannot be sent to another process: {error}.",
                remedy="Take out what cannot be pickled (open files, locks, generators), or use "
                "chain_method='sequential'.",
            ) from error

    def _parallel(self, bars: Progress, threads: int) -> None:
        self.run.location.delete(STOP_KEY)
        self.run.write_state(PLAN_KEY, self.packed)
        digest, self.packed = hashlib.sha256(self.packed).hexdigest(), b""  # as large as the model
        token = self.run.token
        assert token is not None, "a run that samples holds its lock"
        exact = None if self.options.resume == "inexact" or self.run.nothing_done_yet else self.environment
        tasks = deque(
            ChainTask(
                self.run.address(group, chain),
                digest,
                threads,
                self.options.keep_state,
                token,
                exact,
                TorchSettings.of_this_process(),
            )
            for group, chain in self._order()
        )
        count, futures = len(tasks), dict[Future[Any], ChainTask]()
        own = self.options.executor
        # A script that no worker can run again is told so, also where its chains would be over before.
        helps = own is None and self.options.num_workers is None and _is_guarded()
        wanted = replace(self.options, threads_per_chain=threads).workers(count)
        pool = StartingPool(wanted, partial(self._send, tasks, futures)) if own is None else None
        done_here = 0
        try:
            if own is not None:
                self._send(tasks, futures, own)
            with LENDING, limited_threads(threads):
                write_initial_arrays(self.plan, self.run, chains_follow=helps)
                if pool is not None and helps:
                    done_here = self._help(bars, tasks, futures, pool.begun)
            if pool is not None and done_here < count:
                pool.begun.result()
            self._watch(futures, bars)
        except BaseException as error:
            if pool is not None:
                tasks.clear()
                wait([pool.begun])
            self._call_back(futures)
            if isinstance(error, BrokenExecutor | CancelledError):
                if self.stop:  # the signal reached the caller's workers too
                    return
                died = isinstance(error, BrokenProcessPool)
                if died and pool is not None and not _is_guarded():
                    raise SamplingError(NO_GUARD) from error
                raise SamplingError(
                    "A worker process died, perhaps for want of memory."
                    if died
                    else f"The executor gave its work up: {type(error).__name__} {error}".strip(),
                    remedy="What was written stays; call sample() again with the same arguments to resume.",
                ) from error
            raise
        finally:
            if pool is not None:
                pool.close(wait=done_here < count)
            with suppress(OSError):  # the store may be what broke
                self.run.location.delete(PLAN_KEY)  # it holds the model; a resumed run packs its own
        self.run.refresh()

    @staticmethod
    def _send(tasks: deque[ChainTask], futures: dict[Future[Any], ChainTask], executor: Executor) -> None:
        """Give an executor the tasks that are not taken yet."""
        try:
            with children_ignore_sigint():
                while tasks:
                    with suppress(IndexError):  # it has just been taken
                        task = tasks.popleft()
                        futures[executor.submit(run_chain_task, task)] = task
                if isinstance(executor, ProcessPoolExecutor):
                    # It looks after the processes that it knew when it last woke, which a task makes it do *before*
                    # it starts a process for it: the last one would die unnoticed until some chain ends.
                    executor.submit(os.getpid)
        except RuntimeError as error:
            if isinstance(error, BrokenExecutor):
                raise
            raise SamplingError(
                f"The executor takes no work: {error}.",
                remedy="Call sample() again with one that has not been shut down, to resume.",
            ) from error

    def _help(
        self, bars: Progress, tasks: deque[ChainTask], futures: dict[Future[Any], ChainTask], begun: Future[None]
    ) -> int:
        """Sample chains here while processes start, which takes longer than a short chain.

        Returns how many never go there. What goes wrong elsewhere meanwhile ends the chain here after its present draw.
        """
        count = 0
        wait([begun], timeout=_LOOK_SECONDS)  # they may be there at once, forked from a server that runs

        def failed() -> bool:
            return any(future.done() and future.exception() is not None for future in tuple(futures))

        while not begun.done():
            try:
                address = tasks.popleft().address
            except IndexError:
                break
            self._sample_here(address.group, address.chain, bars, failed)
            count += 1
            while self.stop and tasks:  # nobody is to begin with the rest
                with suppress(IndexError):
                    tasks.popleft()
                    count += 1
        return count

    def _watch(self, futures: Mapping[Future[Any], ChainTask], bars: Progress) -> None:
        pending = set(futures)
        while pending:
            wait(pending, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
            # `wait` takes what an executor cancelled in its shutdown for pending.
            done = {future for future in pending if future.done()}
            pending -= done
            # A study has thousands of chains, of which few run at a time.
            active = [(e.address.group, e.address.chain) for f, e in futures.items() if f in done or f.running()]
            self.run.refresh(active)
            for each in {group for group, _ in active}:
                self.run.publish_draws(each)
            for future, task in futures.items():
                group, chain = task.address.group, task.address.chain
                if future in pending and future.running():
                    bars.show(self._event(group, chain, live_step(self.run.location, group, chain)))
                elif future in done and not (self.stop and future.cancelled()):
                    self._note_reuse(group, future.result())
                    bars.show(self._event(group, chain, future.result().step))
            if self.stop:
                self._call_back(futures)
                pending = {future for future in pending if not future.cancelled()}

    def _call_back(self, futures: Mapping[Future[Any], ChainTask]) -> None:
        """Take back what has not begun, and have the rest end after its present draw."""
        for future in futures:
            future.cancel()
        with suppress(OSError):  # the store may be what broke
            self.run.write_state(STOP_KEY, b"")
        wait([future for future in futures if not future.cancelled()])
        self.run.refresh()

    # The end

    def _publish_quietly(self) -> None:
        """Bring the attributes up to date where that is still possible; what ended the run matters more."""
        try:
            self.run.publish()
        except OSError:
            return

    def _leave(self) -> None:
        name = self.run.location.name
        how = f"call again with output_path={name!r}" if self.run.temporary else "call again with the same arguments"
        remaining = len(self.run.whole.remaining())
        chains = f"{remaining} chain{'s' * (remaining != 1)}"
        print(f"Sampling stopped with {chains} to go; to resume, {how}.", file=sys.stderr)
        if self.stop.signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt
