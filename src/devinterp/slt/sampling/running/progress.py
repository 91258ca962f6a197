"""Progress of all chains on one screen, or handed to the caller."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch

from devinterp.errors import SettingError
from devinterp.slt.sampling.engine.restore_model import isolated_generators

__all__ = ["Progress", "ProgressEvent", "check_progress", "make_progress"]

_MOST_BARS = 8
_MIN_SECONDS = 0.1
_LINE_SECONDS = 30.0


@dataclass(frozen=True)
class ProgressEvent:
    """How far one chain is.

    Attributes
    ----------
    restriction : str or None
        Name of the weight restriction in a study.
    chain : int
    step, num_steps : int
        Steps done, and steps in all, burn-in included.
    loss : float or None
        Mean loss of the last recorded draw, in the unit of the loss, where it is known.
    """

    restriction: str | None
    chain: int
    step: int
    num_steps: int
    loss: float | None = None


class Progress:
    """Takes events and shows nothing; the base of what shows something.

    Attributes
    ----------
    shows : bool
        Whether anything comes of an event.
    """

    shows = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def show(self, event: ProgressEvent) -> None:
        """Take an event."""

    def close(self) -> None:
        """End."""


class _Call(Progress):
    shows = True

    def __init__(self, function: Callable[[ProgressEvent], object], device: torch.device) -> None:
        self._function, self._device = function, device

    def show(self, event: ProgressEvent) -> None:
        with isolated_generators(self._device):  # a chain is under way, whose noise comes from them
            self._function(event)


class _Bars(Progress):
    """One bar per chain where they fit on a screen, else one for all steps."""

    shows = True

    def __init__(self, chains: Sequence[ProgressEvent], bar: Callable[..., Any]) -> None:
        self._one = len(chains) > _MOST_BARS
        self._shown = {(event.restriction, event.chain): event.step for event in chains}
        self._next = dict.fromkeys(self._shown, 0.0)
        if self._one:
            total, done = sum(event.num_steps for event in chains), sum(event.step for event in chains)
            bars = [bar(total=total, initial=done, desc=f"{len(chains)} chains", unit="step")]
            self._bars = dict.fromkeys(self._shown, bars[0])
        else:
            self._bars = {
                (event.restriction, event.chain): bar(
                    total=event.num_steps,
                    initial=event.step,
                    desc=" ".join(filter(None, [event.restriction, f"chain {event.chain}"])),
                    unit="step",
                )
                for event in chains
            }

    def show(self, event: ProgressEvent) -> None:
        key = (event.restriction, event.chain)
        now = time.monotonic()
        if now < self._next[key] and event.step < event.num_steps:
            return
        self._next[key] = now + _MIN_SECONDS
        bar = self._bars[key]
        bar.update(event.step - self._shown[key])
        self._shown[key] = event.step
        if event.loss is not None and not self._one:
            bar.set_postfix_str(f"loss {event.loss:.4g}", refresh=False)

    def close(self) -> None:
        for bar in {id(bar): bar for bar in self._bars.values()}.values():
            bar.close()


class _Lines(Progress):
    """A line on standard error now and then, for logs: bars would leave their control characters there."""

    shows = True

    def __init__(self, chains: Sequence[ProgressEvent]) -> None:
        self._steps = {(event.restriction, event.chain): event.step for event in chains}
        self._total = sum(event.num_steps for event in chains)
        self._done = sum(self._steps.values())
        self._last = time.monotonic()
        self._since: tuple[float, int] | None = None  # the first step: what came before it does not come again
        self._loss: float | None = None

    def show(self, event: ProgressEvent) -> None:
        key = (event.restriction, event.chain)
        self._done += event.step - self._steps[key]
        gained, self._steps[key] = event.step > self._steps[key], event.step
        self._loss = event.loss if event.loss is not None else self._loss
        now = time.monotonic()
        if self._since is None and gained:
            self._since = now, self._done
        ended = gained and self._done == self._total
        if not ended and now - self._last < _LINE_SECONDS:
            return
        self._last = now
        told = f"sampling: {self._done} of {self._total} steps ({100 * self._done / self._total:.0f} %)"
        if self._loss is not None:
            told += f", loss {self._loss:.4g}"
        if not ended and self._since is not None and self._done > self._since[1]:
            began, first = self._since
            left = (now - began) / (self._done - first) * (self._total - self._done)
            told += f", {left / 60:.0f} min left" if left >= 90 else f", {left:.0f} s left"
        print(told, file=sys.stderr, flush=True)


def make_progress(
    progress: bool | Callable[[ProgressEvent], object], chains: Sequence[ProgressEvent], device: torch.device
) -> Progress:
    """Return what shows the progress of `chains`, which stand where their events say.

    Parameters
    ----------
    progress : bool or callable
        True shows bars at a terminal and in a notebook where tqdm is installed, and in a log a line every half minute
        (nothing with the environment variable ``TQDM_DISABLE``); a callable is called with every `ProgressEvent`, in
        the main process.
    chains : sequence of ProgressEvent
    device : torch.device
        Where the chains run; random numbers that a callable draws there or on the CPU change none of theirs.

    Raises
    ------
    SettingError
        `progress` is neither.
    """
    check_progress(progress)
    if not isinstance(progress, bool):
        return _Call(progress, device)
    if not progress or not chains:
        return Progress()
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return Progress()
    notebook = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)
    if notebook or (sys.stderr is not None and sys.stderr.isatty()):
        return _Bars(chains, tqdm)
    silent = sys.stderr is None or os.environ.get("TQDM_DISABLE", "") not in ("", "0")
    return Progress() if silent else _Lines(chains)


def check_progress(progress: object) -> None:
    """Raise `SettingError` where `progress` is neither a bool nor callable."""
    if not (isinstance(progress, bool) or callable(progress)):
        raise SettingError(
            "progress must be True, False or callable.", expected="bool or callable", found=type(progress).__name__
        )
