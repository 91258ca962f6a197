"""A sink that keeps a chain's records in memory, with the checks that a store would make."""

from __future__ import annotations

from typing import Any

import numpy as np


class MemorySink:
    """Holds what a chain hands over; `arrays` stacks it."""

    def __init__(self, every: int | None = None) -> None:
        self.every = every  # draws between checkpoints
        self.step_rows: list[dict[str, np.ndarray]] = []
        self.draws: list[dict[str, np.ndarray]] = []
        self.checkpoints: list[tuple[int, int, bytes]] = []
        self.end: tuple[str, str | None, int] | None = None
        self.num_steps = 0

    def steps(self, first_step: int, arrays: dict[str, np.ndarray]) -> None:
        assert first_step == self.num_steps, "steps arrive in order and without a gap"
        sizes = {len(values) for values in arrays.values()}
        assert len(sizes) == 1
        self.num_steps += sizes.pop()
        self.step_rows.append(arrays)

    def draw(self, draw: int, arrays: dict[str, np.ndarray]) -> None:
        assert draw == len(self.draws), "draws arrive in order and without a gap"
        self.draws.append(arrays)

    def checkpoint_due(self, draws: int) -> bool:
        return self.every is not None and draws % self.every == 0

    def checkpoint(self, draws: int, step: int, state: bytes) -> None:
        assert draws == len(self.draws)
        assert step == self.num_steps, "a checkpoint comes after the rows of its steps"
        self.checkpoints.append((draws, step, state))

    def finish(self, status: str, reason: str | None, step: int) -> None:
        assert self.end is None, "a chain ends once"
        self.end = (status, reason, step)

    def resume(self) -> tuple[MemorySink, bytes]:
        """A sink that stands at the last checkpoint, and that checkpoint's state."""
        draws, step, state = self.checkpoints[-1]
        other = MemorySink(self.every)
        other.draws = self.draws[:draws]
        for rows in self.step_rows:
            take = min(step - other.num_steps, len(next(iter(rows.values()))))
            if take:
                other.step_rows.append({name: values[:take] for name, values in rows.items()})
                other.num_steps += take
        return other, state

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        out: dict[str, Any] = {name: np.stack([d[name] for d in self.draws]) for name in (self.draws or [{}])[0]}
        for name in (self.step_rows or [{}])[0]:
            out[name] = np.concatenate([rows[name] for rows in self.step_rows])
        return out
