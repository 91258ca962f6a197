"""What decides a run's bytes beside its settings: device, threads, torch. Resumed, it should have the same."""

from __future__ import annotations

import platform
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import torch

from devinterp.errors import StoreConflictError, warn_caller
from devinterp.slt.sampling.running.options import Execution
from devinterp.slt.sampling.running.torch_settings import DEFAULTS, TorchSettings
from devinterp.store import Run

__all__ = [
    "choose_threads",
    "describe_environment",
    "differences",
    "enter_environment",
]

# Where and when, which no byte depends on.
_INCIDENTAL = ("host", "started")


def describe_environment(device: str, threads: int) -> dict[str, Any]:
    """Return what the bytes of a chain depend on here, as plain JSON values."""
    kind = torch.device(device).type
    if kind == "cuda":
        hardware = torch.cuda.get_device_name(torch.device(device))
    elif kind == "cpu":  # kernels are chosen by the widest vectors that the processor knows
        hardware = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    else:
        hardware = platform.machine()
    return {
        "device": kind,
        "hardware": hardware,
        "threads_per_chain": threads,
        "torch": str(torch.__version__),
        **TorchSettings.of_this_process().as_dict(),
    }


def differences(recorded: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Return one line per difference that the bytes may depend on; what was not recorded is not compared."""
    return [
        f"{name}: sampled so far with {before}, here {value}"
        for name, before, value in _pairs(recorded, here)
        if name not in _INCIDENTAL and before != value
    ]


def _pairs(recorded: dict[str, Any], here: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in here.keys() & recorded.keys():
        if name == "torch_settings":
            for each in sorted({*here[name], *recorded[name]}):
                yield each, *(part[name].get(each, DEFAULTS.get(each)) for part in (recorded, here))
        else:
            yield name, recorded[name], here[name]


def choose_threads(run: Run, options: Execution) -> int:
    """Return the torch threads of each chain: what was asked for, what the run was begun with, or the default."""
    if options.threads_per_chain is not None:
        return options.threads_per_chain
    if run.environments and not run.nothing_done_yet:
        recorded = run.environments[-1].get("threads_per_chain")
        if isinstance(recorded, int) and recorded > 0:
            return recorded
    return 1 if options.chain_method == "parallel" else torch.get_num_threads()


def enter_environment(run: Run, device: str, threads: int, *, inexact: bool) -> dict[str, Any]:
    """Record where the run is sampled, and see that it is the same kind of place as before.

    Parameters
    ----------
    run : Run
    device : str
    threads : int
        Of each chain.
    inexact : bool
        Go on although the bytes will not be those of an uninterrupted run.

    Returns
    -------
    dict
        The environment.

    Raises
    ------
    StoreConflictError
        A run that has begun would go on in another environment, and ``inexact`` is false.

    Warns
    -----
    DevinterpWarning
        It does, and ``inexact`` is true.
    """
    here = describe_environment(device, threads)
    if run.environments and not run.nothing_done_yet:
        changed = differences(run.environments[-1], here)
        if not changed:
            return here
        listed = "\n  ".join(changed)
        if not inexact:
            raise StoreConflictError(
                f"The run in {run.location.name} was begun in another environment; going on in this one would not "
                f"give the bytes of an uninterrupted run:\n  {listed}\n",
                remedy="Resume where it was begun, or pass resume='inexact': the draws to come are as valid, their "
                "bytes are not those of an uninterrupted run, and the store records both environments.",
            )
        warn_caller(
            f"The run in {run.location.name} goes on in another environment, so its bytes are not those of an "
            f"uninterrupted run:\n  {listed}"
        )
    started = datetime.now(UTC).isoformat(timespec="seconds")
    run.record_environment({**here, "host": socket.gethostname(), "started": started})
    return here
