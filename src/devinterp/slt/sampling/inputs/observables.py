"""Observables: the fixed rows whose losses every draw records."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from devinterp.errors import DataError
from devinterp.names import check_observable_names
from devinterp.slt.sampling.inputs.rows import TokenRows, fingerprint, hash_rows, read_compact
from devinterp.slt.sampling.settings import SamplerSettings

__all__ = ["Observable", "build_observables"]


@dataclass(frozen=True)
class Observable:
    """Fixed rows whose per-token loss is evaluated at every draw.

    Attributes
    ----------
    obs_id : str
        The name, made safe for a variable's name.
    name : str
        As the caller wrote it.
    batches_per_draw : int
    rows : (batch_{obs},) int64
        Indices into the observable's dataset.
    ids : (batch_{obs}, token) int64 tensor
        Token ids, on the CPU.
    identity : dict
        `fingerprint` of its dataset.
    """

    obs_id: str
    name: str
    batches_per_draw: int
    rows: npt.NDArray[np.int64]
    ids: torch.Tensor
    identity: Mapping[str, Any]

    def batch_key(self, start: int) -> tuple[str, int]:
        """Return what tells the batch that begins with row `start` from all others."""
        return self.obs_id, start

    def not_finite(self, losses: npt.NDArray[np.float32]) -> str:
        """Name the observable and its first rows whose losses, (batch, ...), are not finite, if any."""
        rows = sorted(self.rows[~np.isfinite(losses).all(axis=1)].tolist())
        if not rows:
            return f"observable {self.name!r}"
        shown = ", ".join(map(str, rows[:5])) + (" ..." if len(rows) > 5 else "")
        return f"observable {self.name!r}, row{'s' if len(rows) > 1 else ''} {shown}"

    def provenance(self) -> dict[str, Any]:
        """Return the identity of the dataset and the sha256 of the fixed rows."""
        return {**self.identity, "visited": hash_rows(self.ids.numpy())}


def build_observables(
    observables: Mapping[str, Any], settings: SamplerSettings, *, length: int
) -> tuple[Observable, ...]:
    """Choose and read the rows of every observable.

    Parameters
    ----------
    observables : mapping of str to a dataset or a (dataset, batches_per_draw) tuple
    settings : SamplerSettings
    length : int
        Tokens per row of the sampling dataset, which the observables share.

    Raises
    ------
    SettingError
        Names clash, or a number of batches is not a positive integer.
    DataError
        An observable has too few rows, rows of another length, or no integer ids.
    """
    if not isinstance(observables, Mapping):
        raise DataError(
            "observables must be a dict.",
            expected="a mapping of names to datasets or (dataset, batches_per_draw) tuples",
            found=type(observables).__name__,
        )
    built = []
    for (name, spec), obs_id in zip(observables.items(), check_observable_names(observables), strict=True):
        data, batches = spec if _is_pair(spec) else (spec, settings.batches_per_draw)
        label = f"The observable {name!r}"
        batches = settings.override(batches_per_draw=batches).batches_per_draw
        rows = TokenRows(data, label)
        size = settings.batch_size * batches
        if len(rows) < size:
            raise DataError(
                f"{label} has too few rows.",
                expected=f"at least batch_size * batches_per_draw = {size}",
                found=f"{len(rows)} rows",
                remedy="Pass (dataset, batches_per_draw) with fewer batches, or more rows.",
            )
        if rows.length != length:
            raise DataError(
                f"{label} has sequences of another length than the sampling dataset.",
                expected=f"{length} tokens",
                found=f"{rows.length} tokens",
            )
        indices = np.asarray(random.Random(settings.obs_seed).sample(range(len(rows)), size), dtype=np.int64)
        ids = torch.from_numpy(read_compact(rows, indices).astype(np.int64))
        built.append(Observable(obs_id, str(name), batches, indices, ids, fingerprint(rows)))
    return tuple(built)


def _is_pair(spec: Any) -> bool:
    return isinstance(spec, tuple) and len(spec) == 2 and not isinstance(spec[1], Sequence | Mapping | np.ndarray)
