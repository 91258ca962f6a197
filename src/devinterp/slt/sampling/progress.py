"""Progress of all chains on one screen, or handed to the caller."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch

from devinterp.errors import SettingError
from devinterp.slt.sampling.hands import isolated_generators

__all__ = ["Progress", "ProgressEvent", "check_progress", "make_progress"]

_MOST_BARS = 8
_MIN_SECONDS = 0.1


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
        Mean loss of the last recorded draw, in nat, where it is known.
    """

    restriction: str | None
    chain: int
    step: int
    num_steps: int
    loss: float | None = None


class Progress:
    """Takes events and shows nothing; the base of what shows something."""

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
    def __init__(self, function: Callable[[ProgressEvent], object], device: torch.device) -> None:
        self._function, self._device = function, device

    def show(self, event: ProgressEvent) -> None:
        with isolated_generators(self._device):  # a chain is under way, whose noise comes from them
            self._function(event)


class _Bars(Progress):
    """One bar per chain where they fit on a screen, else one for all steps."""

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


def make_progress(
    progress: bool | Callable[[ProgressEvent], object], chains: Sequence[ProgressEvent], device: torch.device
) -> Progress:
    """Return what shows the progress of `chains`, which stand where their events say.

    Parameters
    ----------
    progress : bool or callable
        True shows bars on standard error (in a notebook, widgets) where tqdm is installed; a callable is called with
        every `ProgressEvent`, in the main process.
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
    return _Bars(chains, tqdm)


def check_progress(progress: object) -> None:
    """Raise `SettingError` where `progress` is neither a bool nor callable."""
    if not (isinstance(progress, bool) or callable(progress)):
        raise SettingError(
            "progress must be True, False or callable.", expected="bool or callable", found=type(progress).__name__
        )
