"""Observables: the fixed rows whose losses every draw records."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt

from devinterp.errors import DataError
from devinterp.names import check_observable_names
from devinterp.slt.sampling.inputs.batches import name_rows
from devinterp.slt.sampling.inputs.nested import Batch
from devinterp.slt.sampling.inputs.rows import RowOptions, Rows, fingerprint, open_rows
from devinterp.slt.sampling.inputs.rows_in_memory import HeldRows, hash_marks
from devinterp.slt.sampling.inputs.token_rows import UnequalLengths
from devinterp.slt.sampling.settings import SamplerSettings

__all__ = ["Observable", "OpenedObservable", "open_observables"]


@dataclass(frozen=True)
class Observable:
    """Fixed rows whose loss is evaluated at every draw.

    Attributes
    ----------
    obs_id : str
        The name, made safe for a variable's name.
    name : str
        As the caller wrote it.
    batches_per_draw : int
    rows : (batch_{obs},) int64
        Indices into the observable's dataset.
    held : HeldRows
        Those rows.
    identity : dict
        `fingerprint` of its dataset.
    labels : tuple of str or None
        What the caller calls the rows.
    """

    obs_id: str
    name: str
    batches_per_draw: int
    rows: npt.NDArray[np.int64]
    held: HeldRows
    identity: Mapping[str, Any]
    labels: tuple[str, ...] | None = None

    def batch(self) -> Batch:
        """Return all rows as one batch, on the CPU."""
        return self.held.batch(slice(None))

    def batch_key(self, start: int) -> tuple[str, int]:
        """Return what tells the batch that begins with row `start` from all others."""
        return self.obs_id, start

    def not_finite(self, losses: npt.NDArray[np.float32]) -> str:
        """Name the observable and its first rows whose losses, (batch, ...), are not finite, if any."""
        return name_rows(f"observable {self.name!r}", self.rows[: len(losses)], losses)

    def provenance(self) -> dict[str, Any]:
        """Return the identity of the dataset, and the sha256 of the fixed rows and of their labels."""
        named = {} if self.labels is None else {"labels": sha256(json.dumps(self.labels).encode()).hexdigest()}
        return {**self.identity, "visited": self.held.hash(), **hash_marks(self.held), **named}


@dataclass(frozen=True)
class OpenedObservable:
    """An observable of which no row was read yet.

    Attributes
    ----------
    obs_id, name, batches_per_draw, labels
        See `Observable`.
    rows : Rows
        Its dataset.
    chosen : (batch_{obs},) int64
        Indices of its fixed rows.
    """

    obs_id: str
    name: str
    batches_per_draw: int
    rows: Rows
    chosen: npt.NDArray[np.int64]
    labels: tuple[str, ...] | None

    def read(self, like: Rows) -> Observable:
        """Read the fixed rows.

        Parameters
        ----------
        like : Rows
            The sampling dataset, whose losses per row the observables share.

        Raises
        ------
        UnequalLengths
            Its rows are of another length.
        DataError
            They are of another kind, or not integer ids.
        """
        if self.rows.positions != like.positions:
            both_of_tokens = None not in (like.positions, self.rows.positions)
            other = "sequences of another length" if both_of_tokens else "rows of another kind"
            kinds = [
                f"{n + 1} tokens" if n else "rows that are not tokens" for n in (like.positions, self.rows.positions)
            ]
            raise (UnequalLengths if both_of_tokens else DataError)(
                f"{self.rows.name} has {other} than the sampling dataset.", expected=kinds[0], found=kinds[1]
            )
        held, identity = self.rows.hold(self.chosen), fingerprint(self.rows)
        return Observable(self.obs_id, self.name, self.batches_per_draw, self.chosen, held, identity, self.labels)


def open_observables(
    observables: Mapping[str, Any],
    settings: SamplerSettings,
    *,
    own_loss: bool = False,
    options: RowOptions | None = None,
) -> tuple[OpenedObservable, ...]:
    """Choose the rows of every observable.

    Parameters
    ----------
    observables : mapping of str to a dataset or a (dataset, batches_per_draw) tuple
    settings : SamplerSettings
    own_loss : bool
        Whether the caller has a loss of his own, without which rows must be of token ids.
    options : RowOptions, optional

    Raises
    ------
    SettingError
        Names clash, or a number of batches is not a positive integer.
    DataError
        An observable has too few rows, or no integer ids.
    """
    if not isinstance(observables, Mapping):
        raise DataError(
            "observables must be a dict.",
            expected="a mapping of names to datasets or (dataset, batches_per_draw) tuples",
            found=type(observables).__name__,
        )
    options = options or RowOptions()
    options.check(observables)
    opened = []
    for (name, spec), obs_id in zip(observables.items(), check_observable_names(observables), strict=True):
        data, batches = spec if _is_pair(spec) else (spec, settings.batches_per_draw)
        label = f"The observable {name!r}"
        batches = settings.override(batches_per_draw=batches).batches_per_draw
        rows = open_rows(data, label, own_loss=own_loss, loss_mask=options.mask_of(name))
        size = settings.batch_size * batches
        if len(rows) < size:
            raise DataError(
                f"{label} has too few rows.",
                expected=f"at least batch_size * batches_per_draw = {size}",
                found=f"{len(rows)} rows",
                remedy="Pass (dataset, batches_per_draw) with fewer batches, or more rows.",
            )
        chosen = np.asarray(random.Random(settings.obs_seed).sample(range(len(rows)), size), dtype=np.int64)
        named = options.labels(name, len(rows))
        labels = None if named is None else tuple(named[index] for index in chosen)
        opened.append(OpenedObservable(obs_id, str(name), batches, rows, chosen, labels))
    return tuple(opened)


def _is_pair(spec: Any) -> bool:
    return isinstance(spec, tuple) and len(spec) == 2 and not isinstance(spec[1], Sequence | Mapping | np.ndarray)
