"""Which chains and draws an analysis uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from devinterp.errors import AllChainsFailedError, ChainFailedWarning, warn_caller
from devinterp.plain_json import dig
from devinterp.slt.runs.run import Samples

__all__ = [
    "ChainSelection",
    "ChainStates",
    "are_reordered",
    "chain_states",
    "finite_prefix",
    "select_chains",
    "warn_excluded",
]


@dataclass(frozen=True)
class ChainSelection:
    """The chains that an estimate is made from.

    Attributes
    ----------
    used, excluded : tuple of int
        Positions along ``chain``.
    length : int
        How many draws (or steps), a prefix, are used of each.
    reasons : mapping of int to str
        Why each excluded chain is left out.
    """

    used: tuple[int, ...]
    excluded: tuple[int, ...]
    length: int
    reasons: Mapping[int, str]

    COUNTS = ("n_chains_used", "chains_excluded")

    @property
    def attrs(self) -> dict[str, Any]:
        """The counts that stand in the attributes of every result."""
        return dict(zip(self.COUNTS, (len(self.used), list(self.excluded)), strict=True))

    @classmethod
    def none_of(cls, size: int) -> ChainSelection:
        """Return the selection of none of so many chains."""
        return cls((), tuple(range(size)), 0, {})


class ChainStates(NamedTuple):
    """What a store says about its chains.

    Attributes
    ----------
    written : array of int64, shape (chain,), or None
        ``draws_written``.
    failures : list of str or None
        Per chain the reason for which it is known not to be complete, or None.
    fine : list of bool
        Per chain whether what it lacks was never sampled, or is lost: no step of it was wrong. A chain of which a loss
        was not finite is recorded as failed. One that is recorded as complete had every draw, one that was interrupted
        has those that it came to, and of one that a repair marked data were lost. Of a run that is under way nothing
        is recorded yet.
    """

    written: npt.NDArray[np.int64] | None
    failures: list[str | None]
    fine: list[bool]

    def failures_with(self, prefix: npt.NDArray[np.int64], total: int, axis: str = "draw") -> list[str | None]:
        """Return the failures, and of the other chains what those lack whose losses end before ``total``."""

        def ends(number: int, fine: bool) -> str | None:
            if number >= total:
                return None
            if fine:
                return f"no loss at {axis} {number}, though the chain is recorded as complete"
            return f"non-finite loss at {axis} {number}"

        return [failure or ends(n, f) for failure, n, f in zip(self.failures, prefix.tolist(), self.fine, strict=True)]


def chain_states(samples: Samples, size: int) -> ChainStates:
    """Return what the store says about its chains, without reading a loss.

    Parameters
    ----------
    samples : Samples
        The run.
    size : int
        Number of chains in the view.

    Notes
    -----
    ``draws_written``, which is read here, travels with a selection of chains and ``metadata.run.chains`` does not; see
    `_recorded`.
    """
    written, failures = _written(samples, size)
    recorded, under_way = _recorded(samples, size), samples.dataset.attrs.get("completed") == 0
    of_others = bool(_contradicting(recorded, [f is None for f in failures]))
    if written is None or not of_others:
        failures = [_reason(e) or f for e, f in zip(recorded or [None] * size, failures, strict=True)]
    fine = [
        isinstance(e, Mapping) and (e.get("status") in ("complete", "interrupted") or e.get("data_lost") is True)
        for e in recorded or ()
    ]
    return ChainStates(written, failures, [under_way] * size if recorded is None or of_others else fine)


def finite_prefix(
    samples: Samples,
    finite: npt.NDArray[np.bool_],
    written: npt.NDArray[np.int64] | None,
    axis: str = "draw",
) -> npt.NDArray[np.int64]:
    """Return how many losses each chain has before the first that is missing: (chain,), of (chain, draw) or steps."""
    total = finite.shape[1]
    prefix: npt.NDArray[np.int64] = np.where(finite.all(axis=1), total, np.argmin(finite, axis=1))
    if written is not None and axis == "draw" and samples.setting("num_draws") in (None, total):
        prefix = np.minimum(prefix, written)
    return prefix


def are_reordered(samples: Samples, size: int) -> bool:
    """Whether there are as many recorded states as chains, but they are not of these chains in this order."""
    states, (written, failures) = dig(samples.metadata, "run.chains"), _written(samples, size)
    if not isinstance(states, list) or len(states) != size or written is None:
        return False
    return bool(_contradicting(states, [f is None for f in failures]))


def _written(samples: Samples, size: int) -> tuple[npt.NDArray[np.int64] | None, list[str | None]]:
    """Return ``draws_written``, and per chain what it lacks of the draws that were asked for, or None."""
    if "draws_written" not in samples.dataset:
        return None, [None] * size
    stored = samples.variable("draws_written", ("chain",)).values
    written = np.maximum(np.nan_to_num(stored).astype(np.int64), 0)  # where(chain != 1) leaves NaN of a chain
    expected = samples.setting("num_draws")
    goal = int(expected) if expected is not None else int(written.max(initial=0))
    return written, [f"{count} of {goal} draws written" if count < goal else None for count in written]


def _recorded(samples: Samples, size: int) -> list[Any] | None:
    """Return the recorded states of these very chains, or None where it is not known whose they are.

    An integer coordinate ``chain`` says which chain is which. Without one states and chains are matched in order where
    there are as many, and `_contradicting` tells whether they can belong together.
    """
    states = dig(samples.metadata, "run.chains")
    if not isinstance(states, list):
        return None
    if "chain" in samples.dataset.coords and samples.dataset["chain"].dims == ("chain",):
        named = samples.dataset["chain"].values
        numbers = np.issubdtype(named.dtype, np.integer) and np.unique(named).size == named.size
        if numbers and all(0 <= c < len(states) for c in named):
            return [states[int(c)] for c in named]
    return list(states) if len(states) == size else None


def _reason(entry: Any) -> str | None:
    """Return why a chain is recorded not to be complete, or None."""
    if not isinstance(entry, Mapping) or entry.get("status", "complete") == "complete":
        return None
    return f"{entry['status']} at step {entry.get('step')}: {entry.get('reason') or 'no reason recorded'}"


def _contradicting(recorded: list[Any] | None, whole: Sequence[bool]) -> list[int]:
    """Return the chains whose recorded state is not what their draws say: then the states are of other chains."""
    pairs = zip(recorded or [], whole, strict=bool(recorded))
    return [c for c, (entry, complete) in enumerate(pairs) if (_reason(entry) is None) != complete]


def select_chains(
    samples: Samples,
    finite: npt.NDArray[np.bool_],
    *,
    allow_partial: bool = False,
    axis: str = "draw",
    states: ChainStates | None = None,
) -> ChainSelection:
    """Choose the complete chains, or with ``allow_partial`` the draws that all chains have.

    Parameters
    ----------
    samples : Samples
        The run.
    finite : array of bool, shape (chain, draw) or (chain, step)
        Where every loss that the analysis uses is finite.
    allow_partial : bool
        Use the longest prefix that all chains have, instead of the complete chains. A chain without any draw is
        still excluded.
    axis : {"draw", "step"}
        What the second axis of ``finite`` is.
    states : ChainStates, optional
        What the store says of the run's chains, where the caller has asked it.

    Returns
    -------
    ChainSelection

    Raises
    ------
    AllChainsFailedError
        No chain is left.
    """
    size, total = finite.shape
    states = chain_states(samples, size) if states is None else states
    prefix = finite_prefix(samples, finite, states.written, axis)
    whole_run = states.written is None and axis == "draw" and samples.setting("num_draws") in (None, total)
    if whole_run and _contradicting(_recorded(samples, size), (prefix == total).tolist()):
        states = states._replace(failures=[None] * size)
    if allow_partial:
        used = tuple(int(c) for c in np.flatnonzero(prefix > 0))
        reasons = {c: states.failures[c] or "no finite draw" for c in range(size) if c not in used}
        length = int(prefix[list(used)].min()) if used else 0
    else:
        found = enumerate(states.failures_with(prefix, total, axis))
        reasons = {c: reason for c, reason in found if reason is not None}
        used = tuple(c for c in range(size) if c not in reasons)
        length = total
    selection = ChainSelection(used, tuple(sorted(reasons)), length, reasons)
    if not used:
        raise AllChainsFailedError(
            f"No chain{samples.of_label} can be used: {describe(reasons)}.",
            expected="at least one complete chain",
            remedy=(
                "Call sample() again where it was stopped; where chunks are lost, devinterp validate says which."
                if all(states.fine)
                else "Lower lr, then n_beta, or pass allow_partial=True to use what there is."
            ),
        )
    return selection


def warn_excluded(samples: Samples, selection: ChainSelection) -> None:
    """Warn, by `ChainFailedWarning` at the caller's line, where chains were left out."""
    if selection.excluded:
        warn_caller(
            f"{len(selection.excluded)} of {len(selection.used) + len(selection.excluded)} chains"
            f"{samples.of_label} left out ({describe(selection.reasons)}).",
            ChainFailedWarning,
        )


def describe(reasons: Mapping[int, str]) -> str:
    """Put the reasons into one line."""
    return "; ".join(f"chain {c}: {why}" for c, why in sorted(reasons.items()))
