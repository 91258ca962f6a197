"""What the command line wrote, read back."""

from __future__ import annotations

import csv
import io

import xarray as xr

SMALL = {"chains": 2, "draws": 20, "rows": 2, "save_metrics": False}


def records(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def opened(path):
    return xr.open_datatree(path, engine="zarr")
