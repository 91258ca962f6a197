"""What can be said of a run that is still going on: losses so far, the LLC so far, R-hat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr

from devinterp.plain_json import dig
from devinterp.slt.runs.run import Samples
from devinterp.store.location import Location
from devinterp.store.reading.status import RunStatus

__all__ = ["Live", "Traces"]

FEWEST_DRAWS = 8


@dataclass(frozen=True)
class Live:
    """Estimates from the draws that are on disk.

    Attributes
    ----------
    source : str
        The variable they come from.
    losses : tuple of float or None
        Mean loss (nat) of each chain's last quarter.
    llc : float or None
        Of all draws so far, burn-in apart; None without a loss at the start.
    rhat : float or None
        Over chains that have enough draws, cut to the shortest.
    """

    source: str
    losses: tuple[float | None, ...]
    llc: float | None
    rhat: float | None


class Traces:
    """Reads the mean loss of every draw once, as draws arrive."""

    def __init__(self, location: Location, root_metadata: Mapping[str, Any]) -> None:
        self._location, self._root = location, root_metadata
        self._known: dict[tuple[str, int], npt.NDArray[np.float64]] = {}
        self._start: dict[str, float | None] = {}

    def look(self, run: RunStatus) -> Live | None:
        """Return what the draws so far say, or None where there are none yet."""
        source = self._source(run)
        traces = [self._trace(run, chain, state.draws, source) for chain, state in enumerate(run.chains)]
        if not any(t.size for t in traces):
            return None
        losses = tuple(float(t[-max(1, t.size // 4) :].mean()) if t.size else None for t in traces)
        start = self._loss_at_start(run, source)
        n_beta = dig(run.metadata, "config.sampler.n_beta")
        llc = None
        if start is not None and isinstance(n_beta, int | float):
            llc = float(n_beta) * (float(np.mean([t.mean() for t in traces if t.size])) - start)
        return Live(source, losses, llc, _rhat([t for t in traces if t.size >= FEWEST_DRAWS]))

    def _source(self, run: RunStatus) -> str:
        """The sampling task's fixed rows where the metadata tell which they are, else the minibatches of the draws."""
        ids = [o.get("obs_id") for o in dig(run.metadata, "config.observables") or [] if isinstance(o, dict)]
        names = xr.Dataset({f"loss_{i}": ((), 0.0) for i in ids if isinstance(i, str)})
        task = Samples(names, run.metadata, root_metadata=self._root).sampling_task()
        return "sampling_loss" if task is None else f"loss_{task}"

    def _array(self, run: RunStatus, name: str) -> zarr.Array[Any] | None:
        try:
            found = zarr.open_array(self._location.store, path=f"{run.group.strip('/')}/{name}".lstrip("/"), mode="r")
        except (FileNotFoundError, KeyError, ValueError):
            return None
        return found

    def _trace(self, run: RunStatus, chain: int, draws: int, source: str) -> npt.NDArray[np.float64]:
        known = self._known.get((run.group, chain), np.empty(0))
        array = self._array(run, source) if draws > known.size else None
        if array is not None:
            new = np.asarray(array[chain, known.size : draws], dtype=np.float64)
            flat = new.reshape(len(new), -1)
            counts = ~np.isnan(flat)  # what is written is NaN where it does not count
            total, number = np.where(counts, flat, 0.0).sum(axis=1), counts.sum(axis=1)
            means = np.divide(total, number, out=np.full(len(flat), np.nan), where=number > 0)
            known = np.concatenate([known, means])
            self._known[run.group, chain] = known
        return known[np.isfinite(known)]

    def _loss_at_start(self, run: RunStatus, source: str) -> float | None:
        if self._start.get(run.group) is None:
            name = f"init_{source}" if source != "sampling_loss" else "init_loss"
            # Where minibatches have masks, both means would be of other positions.
            masked = source == "sampling_loss" and self._array(run, "mask_sampling") is not None
            array = None if masked else self._array(run, name)
            values = np.asarray(array[...], dtype=np.float64) if array is not None else np.empty(0)
            finite = values[np.isfinite(values)]
            self._start[run.group] = float(finite.mean()) if finite.size else None
        return self._start[run.group]


def _rhat(traces: list[npt.NDArray[np.float64]]) -> float | None:
    if len(traces) < 2:
        return None
    length = min(t.size for t in traces)
    cut = np.stack([t[:length] for t in traces])
    if np.ptp(cut) == 0:
        return None
    from arviz_stats.base.array import array_stats

    value = float(array_stats.rhat(cut, chain_axis=0, draw_axis=1, method="rank"))  # type: ignore[no-untyped-call]
    return value if np.isfinite(value) else None
