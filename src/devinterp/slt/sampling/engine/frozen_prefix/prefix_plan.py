"""Which calls of modules to leave out, of those that come before the first sampled weight; and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from devinterp.slt.sampling.engine.frozen_prefix.call_trace import Call, Trace

__all__ = ["Planned", "PrefixPlan", "Reuse", "choose_calls"]

_WORTH = 0.04  # share of an evaluation that must be left out
_TRIMMED = 0.01  # share that is rather computed again than kept


@dataclass(frozen=True)
class Planned:
    """A call that is left out.

    Attributes
    ----------
    module : torch.nn.Module
    nth : int
        How many calls of the module came before.
    needed : bool
        Whether anything else than calls that are left out too reads its output, or may do so.
    """

    module: nn.Module
    nth: int
    needed: bool


@dataclass(frozen=True)
class PrefixPlan:
    """What to leave out.

    Attributes
    ----------
    calls : tuple of Planned
    share : float
        Of an evaluation's arithmetic.
    needs : tuple of frozenset of int
        For every number of calls from the first on: of which the outputs are needed, were only these left out.
    """

    calls: tuple[Planned, ...]
    share: float
    needs: tuple[frozenset[int], ...]

    def shared_with(self, other: PrefixPlan) -> int:
        """How many calls, from the first on, can be given out of what was kept for another plan of the same model."""
        same = 0
        for mine, theirs in zip(self.calls, other.calls, strict=False):
            if (mine.module, mine.nth) != (theirs.module, theirs.nth):
                break
            same += 1
        kept = {position for position, call in enumerate(other.calls) if call.needed}
        return next((count for count in range(same, 0, -1) if self.needs[count] <= kept), 0)


def choose_calls(trace: Trace) -> PrefixPlan | None:
    """Return the calls to leave out, None where it is not worth it.

    Of all runs of calls that can stand for themselves, the dearest. At both its ends, calls that cost next to nothing
    are rather done again, where fewer outputs are to be kept then: an embedding, a norm.
    """
    calls = trace.calls
    costs = [call.cost for call in calls]
    most = max((sum(costs[first:stop]) for first, stop in _runs(calls)), default=0.0)
    least = max(most - _TRIMMED * trace.cost, _WORTH * trace.cost)
    best: tuple[tuple[int, float], int, int] | None = None
    for first, stop in _runs(calls):
        for start in range(first, stop):
            if sum(costs[start:stop]) < least:
                break
            for end in range(stop, start, -1):
                cost = sum(costs[start:end])
                if cost < least:
                    break
                needed = _needed(calls, start, end)
                rank = (len(needed), -cost)
                if not any(calls[start + place].written for place in needed) and (best is None or rank < best[0]):
                    best = (rank, start, end)
    if best is None:
        return None
    (_, cost), start, end = best
    needs = tuple(_needed(calls, start, start + count) for count in range(end - start + 1))
    chosen = tuple(Planned(call.module, call.nth, n in needs[-1]) for n, call in enumerate(calls[start:end]))
    return PrefixPlan(chosen, -cost / trace.cost, needs)


def _runs(calls: Sequence[Call]) -> Iterator[tuple[int, int]]:
    """Yield the bounds of the runs of calls that can stand for themselves."""
    start = 0
    for index in range(len(calls) + 1):
        if index == len(calls) or not calls[index].fine:
            if index > start:
                yield start, index
            start = index + 1


def _needed(calls: Sequence[Call], start: int, stop: int) -> frozenset[int]:
    """Return which of ``calls[start:stop]`` have outputs that others read, or that are in memory when they are over."""
    return frozenset(
        index - start
        for index in range(start, stop)
        if index in calls[stop - 1].alive or any(begun < stop for begun in calls[index].read_before)
    )


@dataclass
class Reuse:
    """What the frozen prefix did for a chain.

    Attributes
    ----------
    passes : int
        Evaluations of the loss.
    reused : int
        Those of them that left the prefix out.
    share : float
        Of the arithmetic of one forward pass, the part that such an evaluation leaves out.
    reason : str or None
        Why no evaluation could leave anything out.
    """

    passes: int = 0
    reused: int = 0
    share: float = 0.0
    reason: str | None = None

    def add(self, other: Reuse) -> None:
        """Take in what it did for another chain."""
        self.passes += other.passes
        self.reused += other.reused
        self.share = max(self.share, other.share)
        self.reason = self.reason or other.reason

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values: the reason alone where nothing was left out."""
        if self.reused:
            return {"passes": self.passes, "reused": self.reused, "share": round(self.share, 4)}
        return {"passes": self.passes, "reused": 0, "reason": self.reason or "no rows came again"}
