"""Whether losses, logits and weights are finite, and what is said of those that are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from devinterp.slt.sampling.engine.losses import NonFiniteError, all_finite

__all__ = ["Health", "not_finite"]

Reason = str | Callable[[], str]
"""What is wrong, or what says it once something is."""


def not_finite(what: str, named: Callable[[Any], str], losses: Sequence[torch.Tensor]) -> str:
    """Say of which rows something is not finite.

    Parameters
    ----------
    what : str
    named : callable
        From losses, (row, ...), to what the rows are called whose losses are not finite.
    losses : sequence of (batch, token_pos) tensors
        Batch by batch, as they were evaluated.
    """
    where = named(torch.cat(list(losses)).float().cpu().numpy())
    return f"{what}{where and ' on '}{where} {'is' if what.startswith('the loss') else 'are'} not finite"


class Health:
    """Finds out whether everything is finite, with one wait for the device per step (none on the CPU)."""

    def __init__(self, device: torch.device) -> None:
        self._immediate = device.type == "cpu"
        self._pending: list[tuple[Reason, torch.Tensor]] = []

    def expect(self, fine: torch.Tensor | bool | None, reason: Reason) -> None:
        """Raise `NonFiniteError` where this is False; at `settle`, where the device knows."""
        if isinstance(fine, torch.Tensor):
            self._pending.append((reason, fine))
        elif fine is False:
            raise NonFiniteError(_said(reason))

    def finite(self, values: torch.Tensor) -> torch.Tensor | bool:
        """Whether all of these are finite, to be expected."""
        return all_finite(values) if self._immediate else torch.isfinite(values).all()

    def settle(self) -> None:
        """Ask the device, and raise what is found."""
        pending, self._pending = self._pending, []
        if pending:
            for (reason, _), fine in zip(pending, torch.stack([fine for _, fine in pending]).tolist(), strict=True):
                if not fine:
                    raise NonFiniteError(_said(reason))


def _said(reason: Reason) -> str:
    return reason if isinstance(reason, str) else reason()
