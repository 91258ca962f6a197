"""What every result carries: its schema, each variable's meaning and unit, what the rows are, and their labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import DataError, MissingVariableError
from devinterp.plain_json import dig
from devinterp.schema import load
from devinterp.schema.definition.spec import NAT

__all__ = [
    "SAID_OF_ROWS",
    "label_result",
    "loss_unit",
    "no_text",
    "of_tokens",
    "refuse_empty",
    "result_of_tokens",
    "row_labels",
    "said_of_losses",
    "said_of_rows",
    "schema_id",
    "string_index",
    "told",
    "with_unit",
]

SAID_OF_ROWS = ("rows_are_tokens", "loss_unit")

# Text of any length, as xarray itself marks it: numpy's StringDType it wrote as fixed-width text before 2026.9.
_TEXT = np.dtype("O", metadata={"element_type": str})


def schema_id(kind: str) -> str:
    """Return the id (``devinterp/llc@1``) of the schema of a kind of result."""
    return str(load(kind).id)


def row_labels(dataset: xr.Dataset, observables: Sequence[str]) -> dict[str, list[npt.NDArray[Any]]]:
    """Return the coordinates that a user put on the rows of observables, by name, for each observable in order.

    Their numbers (``batch_{obs}``) are called ``row_number``, and count where an observable has none. Of another
    coordinate, rows of an observable that does not have it say nothing: NaN, NaT, or an empty text. What the rows
    were called when they were sampled, ``label_{obs}``, is called ``label``.
    """
    own = {
        obs: {
            "label" if n == f"label_{obs}" else str(n): c
            for n, c in dataset.coords.items()
            if c.dims == (f"batch_{obs}",)
        }
        for obs in observables
    }
    sizes = {obs: int(dataset.sizes[f"batch_{obs}"]) for obs in observables}
    out: dict[str, list[npt.NDArray[Any]]] = {}
    if any(f"batch_{obs}" in found for obs, found in own.items()):
        numbers = {obs: found.get(f"batch_{obs}") for obs, found in own.items()}
        out["row_number"] = [np.arange(sizes[o]) if c is None else np.asarray(c.values) for o, c in numbers.items()]
    for name in dict.fromkeys(n for obs, found in own.items() for n in found if n != f"batch_{obs}"):
        known = {obs: _plain_text(found[name].values) for obs, found in own.items() if name in found}
        nothing = _nothing(next(iter(known.values())))
        out[name] = [known[o] if o in known else np.full(sizes[o], nothing) for o in observables]
    return out


def with_plain_coords(dataset: xr.Dataset) -> xr.Dataset:
    """Return the dataset with coordinates of pandas' own types (its text, categories) as what numpy has.

    xarray takes them, and does not select from all of them.
    """
    own = {n: c.variable for n, c in dataset.coords.items() if not isinstance(c.dtype, np.dtype)}
    return dataset.assign_coords({n: (v.dims, v.to_numpy(), v.attrs) for n, v in own.items()}) if own else dataset


def _plain_text(values: Any) -> npt.NDArray[Any]:
    """Return text of variable length, as a store has it, as text that can be put beside other."""
    array = np.asarray(values)
    return string_index(array.tolist()) if array.dtype.kind == "T" else array


def _nothing(known: npt.NDArray[Any]) -> Any:
    """Return what stands for a row that a coordinate says nothing of: an empty text, NaT, or NaN."""
    if known.dtype.kind in "UTS" or (known.dtype.kind == "O" and any(isinstance(v, str) for v in known)):
        return b"" if known.dtype.kind == "S" else ""
    return np.array("NaT", known.dtype) if known.dtype.kind in "mM" else np.nan


def label_result(
    dataset: xr.Dataset,
    kind: str,
    *,
    node: str = "/",
    attrs: Mapping[str, Any],
    units: Mapping[str, str] | None = None,
    loss_unit: str | None = None,
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
    loss_unit : str, optional
        Unit of the losses, where neither it is nat nor the attributes tell it.
    """
    given = {"loss_unit": loss_unit or attrs.get("loss_unit", NAT)}
    spec = load(kind).node(node)
    for name in dataset.variables:
        found = spec.find(str(name))
        if found is not None:
            unit = (units or {}).get(str(name), found[0].units(given)[0])
            dataset[name].attrs = {"long_name": found[0].doc, "units": unit}
            if found[0].dtype == "int64":  # xarray would write integers with the fill value 0, which is a token
                dataset[name].encoding["fill_value"] = found[0].fill
            if found[0].dtype == "string":  # Zarr v3 has no type of fixed-width Unicode
                dataset[name].encoding["dtype"] = _TEXT
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


def loss_unit(metadata: Mapping[str, Any]) -> str:
    """Return the unit of a run's losses."""
    return str(dig(metadata, "config.loss_unit") or NAT)


def with_unit(text: str, unit: str, *, within: bool = False) -> str:
    """Return a quantity's name with its unit, or a number with it ``within`` a sentence; a unit of 1 is not said."""
    shown = unit.replace("^2", "²")
    return text if unit == "1" else f"{text} {shown}" if within else f"{text} ({shown})"


def said_of_losses(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the attributes of a result must say of a run's losses: their unit, where it is not nat."""
    unit = loss_unit(metadata)
    return {} if unit == NAT else {"loss_unit": unit}


def of_tokens(metadata: Mapping[str, Any]) -> bool:
    """Whether the rows of a run are of token ids."""
    return dig(metadata, "config.rows_are_tokens") is not False


def said_of_rows(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same, and that the rows are not tokens where they are not."""
    return {**said_of_losses(metadata), **({} if of_tokens(metadata) else {"rows_are_tokens": 0})}


def result_of_tokens(attrs: Mapping[Any, Any]) -> bool:
    """Whether a result is of token ids, by what `said_of_rows` has put into its attributes."""
    return bool(attrs.get("rows_are_tokens", 1))


def no_text(what: str) -> MissingVariableError:
    """Return the error of whatever needs the text of rows that are not tokens."""
    return MissingVariableError(
        f"{what} are not tokens, so that there is no text to show.",
        expected="a run on token ids",
        found="metadata.config.rows_are_tokens = false",
        remedy="Look at their losses, loss_{obs} and row_{obs}; labels come along if sample() got row_labels=.",
    )


def refuse_empty(obj: xr.DataTree | xr.Dataset) -> None:
    """Raise `DataError` where a dimension of a tree or dataset has no element."""
    nodes = obj.subtree if isinstance(obj, xr.DataTree) else (obj,)
    empty = dict.fromkeys(str(dim) for node in nodes for dim, size in node.sizes.items() if not size)
    if empty:
        raise DataError(f"Nothing is left along {', '.join(empty)}.", remedy="Widen the selection.")
