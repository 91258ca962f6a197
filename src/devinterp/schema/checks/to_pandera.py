"""pandera schemas compiled from ours: what pandera decides about a node, it decides from these."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from devinterp.schema.definition.load import load
from devinterp.schema.definition.schema import Schema
from devinterp.schema.definition.spec import Check, legal_dims
from devinterp.schema.reading.nodes import ArrayNode, GroupNode
from devinterp.schema.rules.registry import find_predicate, resolve_arguments

if TYPE_CHECKING:
    import pandera.xarray as pa

    from devinterp.schema.rules.bound import Bound

__all__ = ["compile_node", "to_pandera"]


def to_pandera(
    schema: Schema | str,
    *,
    node: str = "/",
    profile: str = "strict",
    attributes: Mapping[str, Any] | None = None,
    variables: Mapping[str, tuple[str, ...]] | None = None,
) -> pa.DatasetSchema:
    """Return a node of a schema as a `pandera.xarray.DatasetSchema`.

    It says which variables and coordinates there are, their dimensions, data types and values. Sizes that follow from
    settings, relations between variables, storage and the tree are the validator's own: see `devinterp.validate`.

    Parameters
    ----------
    schema : Schema or str
        A loaded schema, or what `load` takes.
    node : str
        Path pattern of the node (``/``, ``/susceptibilities``).
    profile : str
        Used where ``schema`` is not loaded yet.
    attributes : mapping, optional
        Attributes of a store or tree: they say which observables there are, which variables its settings require, and
        how large the vocabulary is. Without them, what depends on them is optional, or left out.
    variables : mapping of str to tuple of str, optional
        Variables with their dimensions, as in ``{k: v.dims for k, v in ds.variables.items()}``: chooses among the legal
        dimensions, and names the observables where there are no attributes.

    Returns
    -------
    pandera.xarray.DatasetSchema

    Raises
    ------
    SchemaError
        There is no such schema, profile or predicate.
    """
    from devinterp.schema.rules.bound import Bound

    loaded = schema if isinstance(schema, Schema) else load(schema, profile=profile)
    group = GroupNode("/", dict(attributes or {}))
    for name, dims in (variables or {}).items():
        group.arrays[name] = ArrayNode(f"/{name}", name, tuple(dims), (1,) * len(dims), "", {})
    return compile_node(Bound(loaded, loaded.node(node), group, group, group))


def compile_node(bound: Bound) -> pa.DatasetSchema:
    """Return the pandera schema of a bound group."""
    import pandera.xarray as pa

    data_vars: dict[str, Any] = {}
    coords: dict[str, Any] = {}
    for name, (spec, placeholders) in bound.variables.items():
        presence = bound.presence(spec)
        if presence == "forbidden":
            continue
        array = bound.group.arrays.get(name)
        legal = legal_dims(spec, placeholders)
        dims = array.dims if array is not None and array.dims in legal else legal[0]
        masked = bound.mask(name) is not None
        found = (pandera_check(check, bound.root.attrs, masked) for check in spec.checks)
        checks = [c for c in found if c is not None]
        common: dict[str, Any] = {
            "dtype": dtype_of(spec.dtype),
            "dims": dims,
            "checks": checks,
            "nullable": True,  # NaN is the business of `finite`: a failed chain's rows are NaN by right
            "required": presence == "required",
            "description": spec.doc,
            "metadata": {"unit": spec.unit, "fill": spec.fill},
        }
        if spec.role == "coordinate":
            coords[name] = pa.Coordinate(**common)
        else:
            data_vars[name] = pa.DataVar(**common)
    return pa.DatasetSchema(
        data_vars=data_vars,
        coords=coords,
        strict=bound.schema.undeclared == "error",
        strict_coords=bound.schema.undeclared == "error",
        name=f"{bound.schema.id}{bound.node.path if bound.node.path != '/' else ''}",
        description=bound.node.doc,
    )


def pandera_check(check: Check, attrs: Mapping[str, Any], masked: bool = False) -> pa.Check | None:
    """Return a value rule as a pandera Check, or None where its limit does not stand in the attributes.

    Of a ``masked`` variable it is a rule for the values that are not NaN.
    """
    import pandera.xarray as pa

    from devinterp.schema.checks.pandera_parts import Holds

    arguments = resolve_arguments(check.predicate, check.arguments, attrs)
    if arguments is None:
        return None
    holds = Holds(check.predicate, tuple(arguments.items()), masked)
    expected = find_predicate(check.predicate).describe(**arguments)
    # ignore_na must be off: pandera would look for nulls in the whole array a second time.
    return pa.Check(holds, name=f"{check.code} {check.predicate}", error=expected, ignore_na=False)


@lru_cache(maxsize=32)
def dtype_of(name: str) -> Any:
    """Return pandera's data type for one of ours."""
    if name not in ("string", "text"):
        return np.dtype(name)
    from devinterp.schema.checks.pandera_parts import Text

    return Text(name)
