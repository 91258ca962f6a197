"""The attributes that every result carries: its schema, and each variable's meaning and unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xarray as xr

__all__ = ["label_result", "schema_id", "string_index"]


def schema_id(kind: str) -> str:
    """Return the id (``devinterp/llc@1``) of the schema of a kind of result."""
    from devinterp.schema import load

    return str(load(kind).id)


def label_result(
    dataset: xr.Dataset, kind: str, *, node: str = "/", attrs: Mapping[str, Any], units: Mapping[str, str] | None = None
) -> xr.Dataset:
    """Return the dataset with its attributes, and with each variable's meaning and unit as the schema states them.

    Parameters
    ----------
    dataset : xarray.Dataset
        A result.
    kind : str
        Name of its schema.
    node : str
        Group within the schema.
    attrs : mapping
        Attributes of the group, JSON-able.
    units : mapping of str to str, optional
        Units that differ from the schema's (``nat^2`` of a covariance).
    """
    from devinterp.schema import load

    spec = load(kind).node(node)
    for name in dataset.variables:
        found = spec.find(str(name))
        if found is not None:
            unit = (units or {}).get(str(name), found[0].unit)
            dataset[name].attrs = {"long_name": found[0].doc, "units": unit}
            if found[0].dtype == "int64":  # xarray would write integers with the fill value 0, which is a token
                dataset[name].encoding["fill_value"] = found[0].fill
    dataset.attrs = dict(attrs)
    return dataset


def string_index(names: Any) -> Any:
    """Return names as an array of Python strings: Zarr v3 has no fixed-width Unicode type."""
    import numpy as np

    return np.array([str(name) for name in names], dtype=object)
