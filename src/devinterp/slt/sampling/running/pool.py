"""Worker processes of our own: quick to start, deaf to Ctrl-C, and gone when their coordinator is."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.context import BaseContext

__all__ = ["StartingPool", "children_ignore_sigint", "orphaned", "start_server", "worker_context", "worker_pool"]

_LIBRARIES = ("transformers", "transformer_lens")  # whose import takes seconds, and runs no torch kernel


def worker_pool(count: int) -> ProcessPoolExecutor:
    """Return an executor of `count` processes, which begin to start here and now.

    On Linux they are forked from a server that has torch and this package imported, and that stays until this process
    ends: the import takes seconds, and is paid once for all pools. The server has run no torch kernel, started no
    thread and not touched the GPU, so that a fork of it is as good as a new process; a fork of the coordinator would
    hang in torch's thread pool. Elsewhere every worker is a new process and imports for itself.
    """
    return ProcessPoolExecutor(count, mp_context=worker_context(), initializer=_begin, initargs=(dict(os.environ),))


class StartingPool:
    """Processes that are given work once they are there; whoever asks for them need not wait.

    Attributes
    ----------
    begun : Future
        Done when the work has been given to them, with what went wrong.

    Parameters
    ----------
    count : int
        Processes, at most.
    send : callable
        Gives an executor its work.
    """

    def __init__(self, count: int, send: Callable[[Executor], None]) -> None:
        self.begun: Future[None] = Future()
        self._count, self._send, self._over = count, send, threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True, name="devinterp-pool")
        self._thread.start()

    def _serve(self) -> None:
        try:
            pool = worker_pool(self._count)
        except BaseException as error:
            self.begun.set_exception(error)
            return
        with pool as executor:
            try:
                with children_ignore_sigint():
                    executor.submit(os.getpid)  # returns when there is a process: once its server has imported torch
                self.begun.set_result(self._send(executor))
            except BaseException as error:
                self.begun.set_exception(error)
            self._over.wait()

    def close(self, *, wait: bool) -> None:
        """Let the processes go; without waiting, where none was given any work."""
        self._over.set()
        if wait:
            self._thread.join()


def start_server(modules: Iterable[str] = ()) -> None:
    """Have the server that workers are forked from begin its imports, where there is one and it does not run yet.

    Parameters
    ----------
    modules : iterable of str
        Modules that define the model's classes; those of libraries that are known to be slow to import are.
    """
    if sys.platform != "linux":
        return
    from multiprocessing import forkserver

    known = sorted({name for name in modules if name.split(".")[0] in _LIBRARIES})
    forkserver.set_forkserver_preload(["devinterp.slt.sampling.running.worker", *known])
    with children_ignore_sigint():
        forkserver.ensure_running()


def worker_context() -> BaseContext:
    """Return the way in which processes of ours begin: forked from the server, where there is one."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    start_server()
    return multiprocessing.get_context("forkserver")


def _begin(environment: dict[str, str]) -> None:
    """Initialise a worker: it has the coordinator's present environment, leaves Ctrl-C to it, and ends with it.

    A worker that waits for its next task holds the writing end of the queue it reads from, as do its siblings, and so
    would never learn that the coordinator was killed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(environment)  # the server's is of the day when it started
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="devinterp-parent").start()


def orphaned() -> bool:
    """Whether the process that started this one through multiprocessing has ended."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


@contextmanager
def children_ignore_sigint() -> Iterator[None]:
    """Start processes that never see Ctrl-C, which a terminal sends to all; the coordinator tells them to stop.

    A signal that is blocked stays so in a new process, from before its first line of Python runs.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
