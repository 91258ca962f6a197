"""How well the susceptibilities of one half of the chains predict those of the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import SettingError
from devinterp.plain_json import dig
from devinterp.slt.runs.comparable import check_curve
from devinterp.slt.runs.run import Tree, metadata_of, series_members, study_members
from devinterp.slt.runs.side_by_side import along_checkpoints
from devinterp.slt.susceptibilities.compute import compute_susceptibilities
from devinterp.slt.susceptibilities.matrix import matrix

__all__ = ["split_half"]


def split_half(
    wr_map: xr.DataTree | Mapping[str, Tree],
    sampling_task: str | None = None,
    *,
    allow_mixed: bool = False,
    **options: Any,
) -> xr.Dataset:
    """How well susceptibilities from one half of the chains predict those from the other.

    Parameters
    ----------
    wr_map, sampling_task, allow_mixed, **options
        As in `devinterp.slt.susceptibilities.compute_susceptibilities`.

    Returns
    -------
    xarray.Dataset
        ``reproducibility`` (wr,): the correlation over tokens of the first half's column with the second's; and
        ``reproducibility_standardized`` (wr,), the same after `matrix` has removed what all restrictions share. Of a
        series, both (checkpoint, wr).

    Raises
    ------
    SettingError
        A run has fewer than two chains.
    """
    checkpoints = series_members(wr_map)
    if checkpoints is not None:
        mixed = check_curve(checkpoints, allow_mixed=allow_mixed)
        each = {step: split_half(study, sampling_task, **options) for step, study in checkpoints.items()}
        return along_checkpoints(each, mixed=mixed)
    members = study_members(wr_map) or {}
    single = [name for name, tree in members.items() if tree.sizes.get("chain", 1) < 2]
    if single or not members:
        raise SettingError("Halves need at least two chains in every run.", found=f"one chain in {single}")
    if sampling_task is None and isinstance(wr_map, xr.DataTree):
        sampling_task = dig(metadata_of(wr_map), "config.sampling_task")
    halves = []
    for first in (True, False):
        cut = {}
        for name, tree in members.items():
            middle = tree.sizes["chain"] // 2
            cut[name] = tree.isel(chain=slice(0, middle) if first else slice(middle, None))
        halves.append(compute_susceptibilities(cut, sampling_task, **options))
    out = {}
    for name, standardize in (("reproducibility", False), ("reproducibility_standardized", True)):
        a, b = (matrix(half, standardize=standardize).values for half in halves)
        out[name] = ("wr", np.array([_correlation(a[:, k], b[:, k]) for k in range(a.shape[1])]))
    dataset = xr.Dataset(out, coords={"wr": halves[0]["susceptibilities"]["wr"].variable})
    for variable in out:
        dataset[variable].attrs = {"units": "1"}
    return dataset


def _correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0
