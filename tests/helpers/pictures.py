"""Stores opened to be drawn, axes that must draw, results of many restrictions."""

from __future__ import annotations

import xarray as xr


def opened(path):
    return xr.open_datatree(path, engine="zarr", consolidated=False)


def drawn(ax):
    """Render: what cannot be drawn, or warns while it is, fails here."""
    ax.figure.savefig("/dev/null", format="png")
    return ax


def many(result, count):
    """An LLC of `count` restrictions, from that of a few."""
    repeated = result.isel(wr=[i % result.sizes["wr"] for i in range(count)])
    return repeated.assign_coords(wr=[f"l{i // 8}h{i % 8}" for i in range(count)])
