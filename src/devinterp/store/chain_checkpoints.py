"""What a chain needs to go on, and how far it has come: small files under ``.devinterp/`` in the store.

A checkpoint is one object, so that it appears whole or not at all: a line of JSON (progress, and the hash of what
follows), then the engine's opaque bytes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from devinterp.errors import StoreError
from devinterp.schema.reading.keys import STATE_FOLDER, join_key
from devinterp.store.location import Location

__all__ = [
    "ChainProgress",
    "read_checkpoint",
    "read_progress",
    "state_key",
    "write_checkpoint",
    "write_progress",
]


@dataclass(frozen=True)
class ChainProgress:
    """How far a chain has come.

    Attributes
    ----------
    draws, steps : int
        Draws and steps that are present in every array.
    status : str
        ``running``, ``complete``, ``failed`` or ``interrupted``.
    reason : str or None
        Why it failed or was interrupted.
    step : int
        The step it stands at (where it failed, for a failed chain).
    loss : float or None
        Mean loss of the last draw, in nat, for whoever watches.
    seconds : float
        Time that was spent on it, by all processes that took it up.
    """

    draws: int = 0
    steps: int = 0
    status: str = "running"
    reason: str | None = None
    step: int = 0
    loss: float | None = None
    seconds: float = 0.0


def state_key(group: str, chain: int, what: str) -> str:
    """Return the key of a chain's file: ``.devinterp/l0h1/chain-0003.state``."""
    return join_key(STATE_FOLDER, group, f"chain-{chain:04d}.{what}")


def write_checkpoint(location: Location, group: str, chain: int, progress: ChainProgress, state: bytes) -> None:
    """Store progress and state as one object."""
    header = {**asdict(progress), "sha256": hashlib.sha256(state).hexdigest(), "bytes": len(state)}
    location.set_parts(state_key(group, chain, "state"), json.dumps(header).encode() + b"\n", state)


def read_checkpoint(location: Location, group: str, chain: int) -> tuple[ChainProgress, bytes] | None:
    """Return the last checkpoint of a chain, or None where there is none.

    Raises
    ------
    StoreError
        The object is damaged: its hash does not fit.
    """
    raw = location.get(state_key(group, chain, "state"))
    if raw is None:
        return None
    line, _, state = raw.partition(b"\n")
    try:
        header = json.loads(line)
        intact = header.pop("sha256") == hashlib.sha256(state).hexdigest() and header.pop("bytes") == len(state)
        progress = ChainProgress(**header)
    except (ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise StoreError(
            f"The checkpoint of chain {chain} in {location.name} is damaged.",
            remedy=f"Remove {state_key(group, chain, 'state')}: the chain then begins again from its first step.",
        )
    return progress, state


def write_progress(location: Location, group: str, chain: int, progress: ChainProgress) -> None:
    """Store the progress alone, for the coordinator and for whoever watches."""
    location.set(state_key(group, chain, "progress"), json.dumps(asdict(progress)).encode())


def read_progress(location: Location, group: str, chain: int) -> ChainProgress | None:
    """Return the last progress that a chain wrote, or None."""
    raw = location.get(state_key(group, chain, "progress"))
    if raw is None:
        return None
    try:
        return ChainProgress(**json.loads(raw))
    except (ValueError, TypeError):
        return None
