"""What every picture of an LLC shows: its mean and interval, and what they are of."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.plot.tokens.decode import drawable_name

__all__ = ["LABEL", "averaged_over", "axis_label", "bar_lengths", "interval_of"]

LABEL = "LLC (dimensionless)"
RISE_LABEL = "n_beta · rise of the loss on {} (dimensionless)"


def axis_label(result: xr.Dataset) -> str:
    """Return the label of the axis of values."""
    return RISE_LABEL.format(_name(result)) if "llc_is" in result.attrs else LABEL


def _name(result: xr.Dataset) -> str:
    return drawable_name(str(result.attrs.get("observable") or ""), longest=24)


def averaged_over(result: xr.Dataset) -> str:
    """Return what the loss was averaged over, for the title."""
    over = result.attrs.get("over")
    fixed = _name(result)
    known = {
        "draws": "minibatches of the draws",
        "steps": "minibatches of every step",
        "observable": f"fixed rows of {fixed}" if fixed else "fixed rows",
    }
    return known.get(str(over), "")


def interval_of(result: xr.Dataset) -> tuple[Any, Any, Any, str]:
    """Return mean, lower and upper end as flat arrays, and what the interval is."""
    mean = np.atleast_1d(np.asarray(result["llc_mean"].values, dtype=float)).ravel()
    if "llc_ci" in result:
        ends = np.asarray(result["llc_ci"].transpose(..., "bound").values, dtype=float).reshape(-1, 2)
        level = result.attrs.get("ci")
        return mean, ends[:, 0], ends[:, 1], "interval" if level is None else f"{100 * float(level):g} % interval"
    spread = np.atleast_1d(np.asarray(result["llc_std"].values, dtype=float)).ravel()
    return mean, mean - spread, mean + spread, "bars: standard deviation over chains"


def bar_lengths(mean: npt.NDArray[Any], low: npt.NDArray[Any], high: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return how far bars reach below and above the mean."""
    # An interval need not contain the point estimate; matplotlib refuses negative lengths.
    return np.asarray(np.maximum(np.stack([mean - low, high - mean]), 0))
