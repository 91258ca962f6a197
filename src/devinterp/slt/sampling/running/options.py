"""How a run is carried out: here or in other processes, and in which. Nothing of it changes a number."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import nn

from devinterp.cores import available_cores
from devinterp.errors import SettingError
from devinterp.schema.reading.target import resolve_target
from devinterp.slt.sampling.running.pool import start_server, worker_pool
from devinterp.slt.sampling.running.progress import ProgressEvent, check_progress
from devinterp.slt.sampling.running.torch_settings import check_settings_travel
from devinterp.store import StoreLike, locate
from devinterp.store.location import require_any_key

__all__ = ["CHAIN_METHODS", "NO_GUARD", "Execution", "shared_workers"]

NO_GUARD = (
    "The script begins again in every worker process, since its calls do not stand below "
    "`if __name__ == '__main__':`. Put them there, or use chain_method='sequential'."
)
CHAIN_METHODS = ("sequential", "parallel")


@dataclass(frozen=True)
class Execution:
    """How a run is carried out; nothing of it changes a number.

    Its fields are arguments of `devinterp.slt.sampling.sample`, and what each means is said there.
    """

    chain_method: str = "sequential"
    executor: Executor | None = None
    num_workers: int | None = None
    threads_per_chain: int | None = None
    resume: bool | str = True
    keep_state: bool = False
    checkpoint_every: int | None = None
    progress: bool | Callable[[ProgressEvent], object] = True

    def check(self, target: StoreLike | None) -> None:
        """Raise `SettingError` where the options contradict each other or the place of the store."""
        check_progress(self.progress)
        _check_path(target)
        if self.chain_method not in CHAIN_METHODS:
            raise SettingError(
                f"Unknown chain method {self.chain_method!r}.",
                expected=" or ".join(map(repr, CHAIN_METHODS)),
                found=repr(self.chain_method),
                remedy="Use 'parallel': vmap over chains was measured, and takes longer than one after the other."
                if self.chain_method == "vectorized"
                else None,
            )
        if not isinstance(self.resume, bool) and self.resume != "inexact":
            raise SettingError(
                "resume has a value that it cannot take.", expected="True, False or 'inexact'", found=repr(self.resume)
            )
        for name in ("num_workers", "threads_per_chain", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise SettingError(f"{name} must be a positive integer or None.", found=repr(value))
        if self.chain_method == "sequential":
            for name in ("executor", "num_workers"):
                if getattr(self, name) is not None:
                    raise SettingError(
                        f"{name} has no meaning for chain_method='sequential'.",
                        remedy="Pass chain_method='parallel', or leave it out.",
                    )
            return
        check_settings_travel()
        if self.executor is None:
            _check_processes()
        if self.executor is not None and not callable(getattr(self.executor, "submit", None)):
            raise SettingError(
                "executor cannot be given work.",
                expected="a concurrent.futures.Executor",
                found=type(self.executor).__name__,
            )
        place = None if target is None else locate(target, mode="w")
        if place is not None and (place.url is None or place.in_memory):
            raise SettingError(
                "Chains in other processes cannot write to a store in this process's memory.",
                expected="a path or a URL that the workers can reach",
                found=str(target),
                remedy="Give a path, or use chain_method='sequential'.",
            )

    def workers(self, tasks: int) -> int:
        """Return how many processes of our own so many tasks want."""
        return min(self.num_workers or max(1, available_cores() // (self.threads_per_chain or 1)), max(tasks, 1))

    def begin(self, model: object = None) -> None:
        """Let what processes of our own need for a model be imported while the run is prepared."""
        if self.chain_method == "parallel" and self.executor is None:
            parts = model.modules() if isinstance(model, nn.Module) else ()
            start_server(type(part).__module__ for part in parts)


def _check_path(target: StoreLike | None) -> None:
    """Raise `SettingError` or `StoreError` for a place where no run can lie."""
    if target is None:
        return
    found = resolve_target(target) if isinstance(target, str | os.PathLike) else None
    if found is None or found.path is None:
        require_any_key(target)
    elif found.asks_for_archive:
        raise SettingError(
            "A run is written into a folder, chain by chain, which a ZIP archive does not allow.",
            expected="a path such as 'run.zarr'",
            found=repr(str(target)),
            remedy="Sample into a folder, and pack it afterwards: every reader of ours takes the archive.",
        )


def _check_processes() -> None:
    """Raise `SettingError` where this process can start no others."""
    process = multiprocessing.current_process()
    if getattr(process, "_inheriting", False):
        raise SettingError(NO_GUARD)
    if process.daemon:
        raise SettingError(
            "This is a daemonic process, a worker of multiprocessing.Pool for one, which may start no others.",
            remedy="Use chain_method='sequential' here, or a pool whose workers are not daemonic, such as "
            "concurrent.futures.ProcessPoolExecutor.",
        )


@contextmanager
def shared_workers(options: Execution, *, tasks: int) -> Iterator[Execution]:
    """Start the processes of a parallel run, unless the caller brought an executor; one pool serves several parts.

    Yields
    ------
    Execution
        The options, with the executor in them.
    """
    if options.chain_method != "parallel" or options.executor is not None:
        yield options
        return
    with worker_pool(options.workers(tasks)) as pool:
        yield replace(options, executor=pool)
