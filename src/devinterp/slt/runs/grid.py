"""The cells of a sweep, and the grid of settings that they stand on."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import MissingVariableError, SettingError
from devinterp.names import SECONDARY, swept_value
from devinterp.names import SWEPT as SETTINGS
from devinterp.plain_json import dig, in_order
from devinterp.slt.runs.run import Tree, is_samples, metadata_of

__all__ = ["SETTINGS", "Grid", "axes_of", "cell_name", "grid_of", "plain_grid"]


def cell_name(settings: Mapping[str, Any]) -> str:
    """Return the name of a cell's group by its place: ``lr=0.001,n_beta=30,localization=100,batch_size=64``."""
    names = [*SETTINGS, *(name for name in SECONDARY if name in settings)]
    return ",".join(f"{name}={float(settings[name])!r}".removesuffix(".0") for name in names)


def axes_of(names: Iterable[Hashable]) -> tuple[str, ...]:
    """Return the axes of a sweep by the names of its coordinates, in the order of a result's dimensions."""
    given = set(names)
    return (*(name for name in SECONDARY if name in given), *SETTINGS)


def plain_grid(result: xr.Dataset) -> xr.Dataset:
    """Return a result over lr, n_beta and localization alone.

    Raises
    ------
    SettingError
        The sweep varies more.
    """
    several = [name for name in SECONDARY if result.sizes.get(name, 1) > 1]
    if several:
        name, value = several[0], result[several[0]].values[0].item()
        raise SettingError(
            f"This result has lr, n_beta and localization, and the sweep varies {' and '.join(several)} as well.",
            remedy=f"Select one value first: tree.isel(cell=np.flatnonzero(tree[{name!r}] == {value})).",
        )
    return result.isel({name: 0 for name in SECONDARY if name in result.dims}, drop=True)


@dataclass(frozen=True)
class Grid:
    """A sweep, as an analysis sees it.

    Attributes
    ----------
    axes : mapping of str to array
        The values of each setting, ascending: what the grid varies besides, then lr, n_beta and localization.
    cells : mapping of str to DataTree
        The runs by name, in the store's order.
    places : mapping of str to tuple of int
        Where each stands along `axes`.
    """

    axes: Mapping[str, npt.NDArray[Any]]
    cells: Mapping[str, xr.DataTree]
    places: Mapping[str, tuple[int, ...]]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values of each setting."""
        return tuple(axis.size for axis in self.axes.values())

    def map(self, function: Callable[[str, xr.DataTree], Any]) -> dict[str, Any]:
        """Return ``function(name, run)`` of every cell."""
        return {name: function(name, run) for name, run in self.cells.items()}


def grid_of(obj: Tree | Mapping[str, Tree]) -> Grid | None:
    """Return the cells of a sweep, or of a selection along ``cell``; None where ``obj`` is not a sweep.

    Raises
    ------
    MissingVariableError
        A cell does not tell its settings.
    """
    if not isinstance(obj, xr.DataTree) or is_samples(obj):
        return None
    listed = dig(metadata_of(obj), "config.cells")
    if not isinstance(listed, list) and not set(SETTINGS) <= set(obj.coords):
        return None
    cells = {str(name): child for name, child in obj.children.items() if is_samples(child)}
    if not cells:
        return None
    if isinstance(listed, list):
        cells = {name: cells[name] for name in in_order(cells, listed)}
    names = axes_of(obj.coords)
    settings = {name: _settings(name, cell, names) for name, cell in cells.items()}
    if set(SETTINGS) <= set(obj.coords):  # a selection along `cell` leaves every group in the tree
        chosen = list(zip(*(np.atleast_1d(obj.coords[s].values).tolist() for s in names), strict=True))
        kept = sorted(
            (name for name, own in settings.items() if own in chosen), key=lambda n: chosen.index(settings[n])
        )
        settings, cells = {name: settings[name] for name in kept}, {name: cells[name] for name in kept}
    axes = {s: np.unique([own[i] for own in settings.values()]) for i, s in enumerate(names)}
    places = {
        name: tuple(int(np.searchsorted(axes[s], own[i])) for i, s in enumerate(names))
        for name, own in settings.items()
    }
    return Grid(axes, cells, places)


def _settings(name: str, cell: xr.DataTree, names: tuple[str, ...]) -> tuple[float, ...]:
    sampler = dig(metadata_of(cell), "config.sampler") or {}
    values = {s: swept_value(sampler, s) for s in names}
    missing = [s for s, value in values.items() if value is None]
    if missing:
        raise MissingVariableError(
            f"The cell {name!r} does not tell its settings.",
            expected=f"metadata.config.sampler.{missing[0]}",
            found=sorted(map(str, sampler)) or "no settings",
        )
    return tuple(value for value in values.values() if value is not None)
