"""The attributes that every result carries: its schema, and each variable's meaning and unit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

__all__ = ["label_result", "schema_id", "string_index", "told"]


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
        Attributes of the group, JSON-able. A mapping becomes its JSON text, which `told` reads: netCDF has no
        attributes of that kind, and a result is to be saved by whatever xarray saves with.
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
            if found[0].dtype == "string":  # Zarr v3 has no type of fixed-width Unicode
                dataset[name].encoding["dtype"] = np.dtypes.StringDType()
    dataset.attrs = {name: _savable(value) for name, value in attrs.items()}
    return dataset


def _savable(value: Any) -> Any:
    """Return an attribute as text, a number or a list of these, which is all that netCDF has."""
    if isinstance(value, bool):
        return int(value)
    nested = isinstance(value, list | tuple) and any(v is None or isinstance(v, Mapping | list | tuple) for v in value)
    return json.dumps(value, ensure_ascii=False) if value is None or nested or isinstance(value, Mapping) else value


def told(attrs: Mapping[Any, Any], name: str) -> Any:
    """Return an attribute of a result, a mapping (by restriction, cell or checkpoint) where it tells of several."""
    value = attrs.get(name)
    return json.loads(value) if isinstance(value, str) and value.startswith("{") else value


def string_index(names: Any) -> npt.NDArray[np.str_]:
    """Return names as an array of text: of a type that xarray draws along, which neither Python objects are nor the
    strings of variable length that a store has.
    """
    return np.array([str(name) for name in names], dtype=np.str_)
