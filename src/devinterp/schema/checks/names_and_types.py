"""pandera's verdict on a group's variables, coordinates, dimensions and types, turned into our findings.

pandera is shown a hollow copy (names, dimensions and types over single elements), so no size that a store claims costs
memory; what it says is kept with what failed, and where.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from devinterp.schema.checks.to_pandera import compile_node
from devinterp.schema.definition.layout import array_attributes
from devinterp.schema.definition.spec import legal_dims, stored_types
from devinterp.schema.definition.suggest import closest
from devinterp.schema.findings.codes import RuleCode
from devinterp.schema.findings.report import Collector
from devinterp.schema.reading.array_metadata import NUMERIC
from devinterp.schema.reading.nodes import ArrayNode, join
from devinterp.schema.rules.registry import resolve_arguments

if TYPE_CHECKING:
    import pandera.xarray as pa

    from devinterp.schema.rules.bound import Bound

__all__ = ["Conformance", "component", "pinned"]

# A store with thousands of undeclared names is not misspelt.
_MAX_SUGGESTIONS = 50
# What pandera says of one variable's dimensions and type depends on these alone.
_VERDICTS: dict[Any, list[Any]] = {}


@contextmanager
def pinned(depth: str) -> Iterator[None]:
    """Run pandera switched on and to this depth, whatever the environment says."""
    from pandera.config import config_context

    with config_context(validation_enabled=True, validation_depth=depth):
        yield


class Conformance:
    """Compiled schemas and verdicts of one validation, so that equal groups are decided once."""

    def __init__(self) -> None:
        self._compiled: dict[Any, pa.DatasetSchema] = {}
        self._presence: dict[Any, tuple[set[str], set[str]]] = {}
        self._latest: tuple[Bound, pa.DatasetSchema] | None = None

    def compiled(self, bound: Bound) -> pa.DatasetSchema:
        """Return the pandera schema of a bound group."""
        latest = self._latest  # every variable of a group asks
        if latest is None or latest[0] is not bound:
            latest = self._latest = bound, self._compile(bound)
        return latest[1]

    def _compile(self, bound: Bound) -> pa.DatasetSchema:
        limits = tuple(
            str(resolve_arguments(c.predicate, c.arguments, bound.root.attrs))
            for s in bound.node.variables.values()
            for c in s.checks
            if "path" in c.arguments
        )
        key = (
            id(bound.schema),
            bound.node.path,
            tuple((n, bound.presence(s), self._choice(bound, n)) for n, (s, _) in bound.variables.items()),
            limits,
        )
        if key not in self._compiled:
            self._compiled[key] = compile_node(bound)
        return self._compiled[key]

    def _choice(self, bound: Bound, name: str) -> tuple[str, ...]:
        array = bound.group.arrays.get(name)
        return array.dims if array is not None else ()

    def check(self, bound: Bound, findings: Collector) -> set[str]:
        """Add what pandera finds about a group; return the names of the variables whose dimensions are right."""
        from pandera.errors import SchemaErrorReason

        compiled = self.compiled(bound)
        missing, extra = self._names(bound, compiled)
        # What may be left out is missed by nobody, and yet not what is there under its name.
        both = {n for n in extra if n in missing or (n in bound.variables and _may_be_there(bound, n))}
        for name in sorted(both):
            wanted = "a coordinate" if bound.variables[name][0].role == "coordinate" else "a data variable"
            found = "a data variable" if wanted == "a coordinate" else "a coordinate"
            findings.add(RuleCode.ROLE, join(bound.path, name), f"It should be {wanted}.", expected=wanted, found=found)
        self._report_missing(bound, missing - both, extra - both, findings)
        self._report_extra(bound, missing - both, extra - both, findings)
        sound = set()
        for name, (spec, placeholders) in bound.variables.items():
            array = bound.group.arrays.get(name)
            own = component(compiled, name)
            if array is None or own is None:
                continue
            reasons = {e.reason_code for e in self._verdict(own, array)}
            if SchemaErrorReason.MISMATCH_INDEX in reasons:
                legal = legal_dims(spec, placeholders)
                problem, remedy = _what_of_dims(array.dims, legal, bound)
                expected = " or ".join(_tuple(d) for d in legal)
                found = _tuple(array.dims)
                findings.add(RuleCode.DIMS, array.path, problem, expected=expected, found=found, remedy=remedy)
            else:
                sound.add(name)
            if reasons - {SchemaErrorReason.MISMATCH_INDEX}:
                # A result that was computed with and saved again has xarray's own text, which reads just as well.
                lenient = bound.schema.storage.empty_chunks == "omitted" and array.dtype in stored_types(spec)
                findings.add(
                    RuleCode.DTYPE,
                    array.path,
                    "The data type is wrong.",
                    expected=spec.dtype,
                    found=array.dtype,
                    severity="warning" if lenient else None,
                )
        return sound

    def _names(self, bound: Bound, compiled: pa.DatasetSchema) -> tuple[set[str], set[str]]:
        """Names that pandera misses, and names that it does not expect."""
        coordinates = bound.group.coordinates()
        key = (id(compiled), frozenset(bound.group.arrays), coordinates)
        if key not in self._presence:
            self._presence[key] = _presence(compiled, set(bound.group.arrays), coordinates)
        return self._presence[key]

    def _verdict(self, component: Any, array: ArrayNode) -> list[Any]:
        key = (component.dims, str(component.dtype), array.dims, array.dtype)
        if key not in _VERDICTS:
            import xarray as xr

            if len(_VERDICTS) > 10_000:  # names come from stores
                _VERDICTS.clear()

            schema = component.to_data_array_schema(array.name)
            hollow = xr.DataArray(
                np.zeros((1,) * len(array.dims), _hollow(array.dtype)), dims=array.dims, name=array.name
            )
            _VERDICTS[key] = _errors(schema, hollow, "SCHEMA_ONLY")
        return _VERDICTS[key]

    def _report_missing(self, bound: Bound, missing: set[str], extra: set[str], findings: Collector) -> None:
        for name in sorted(missing - bound.group.broken - set(bound.group.groups)):
            spec, placeholders = bound.variables[name]
            meaning = array_attributes(spec, placeholders, bound.parameters)["long_name"]
            near = closest(name, extra) if len(missing) <= _MAX_SUGGESTIONS else None
            findings.add(
                RuleCode.MISSING_VARIABLE,
                join(bound.path, name),
                "The variable is missing.",
                expected=f"{name} {_tuple(legal_dims(spec, placeholders)[0])} {spec.dtype}: {meaning}",
                remedy=None if near is None else f"Is it the undeclared {near!r}? Then rename that to {name!r}.",
            )

    def _report_extra(self, bound: Bound, missing: set[str], extra: set[str], findings: Collector) -> None:
        known = [n for n, (s, _) in bound.variables.items() if bound.presence(s) != "forbidden"]
        for name in sorted(extra):
            path = join(bound.path, name)
            own = bound.variables.get(name)
            if own is not None:
                findings.add(
                    RuleCode.FORBIDDEN_VARIABLE, path, "The variable must not be there.", found=_why(bound, own[0])
                )
                continue
            if any(n.path == join(bound.node.path, name) for n in bound.schema.nodes):
                continue  # an array where a group belongs: the walk over the groups says so
            near = None
            if len(extra) <= _MAX_SUGGESTIONS:
                near = closest(name, missing) or closest(name, known)
            findings.add(
                RuleCode.UNDECLARED_VARIABLE,
                path,
                "The variable is not declared.",
                remedy=None
                if near is None
                else f"Did you mean {near!r}? Rename it, or declare it in a schema of your own.",
                severity=bound.schema.undeclared,
            )


def _what_of_dims(found: tuple[str, ...], legal: list[tuple[str, ...]], bound: Bound) -> tuple[str, str | None]:
    """What is wrong with dimensions, and the remedy where another than that of renaming: xarray put them there."""
    for wanted in legal:
        more = [dim for dim in found if dim not in wanted]
        fewer = [dim for dim in wanted if dim not in found]
        if set(found) == set(wanted):
            order = ", ".join(repr(dim) for dim in wanted)
            return "The dimensions are in another order.", f"Transpose the variable: ds[name].transpose({order})."
        if len(more) == 1 and not fewer:
            (dim,) = more
            along = any(dim in dims for spec, names in bound.variables.values() for dims in legal_dims(spec, names))
            return f"It has one dimension more, {dim!r}, as where several were combined along it.", (
                f"Combine by xr.concat(parts, {dim!r}, data_vars='minimal', coords='minimal', compat='equals'), which "
                f"keeps once what is not along {dim!r} and is the same in all parts."
                if along
                else f"One at a time: ds.isel({dim}=0, drop=True)."
            )
        if not more and fewer:
            kept = ", ".join(f"{dim}=[0]" for dim in fewer)
            return f"It has lost {', '.join(fewer)}.", f"Select by a list, which keeps a dimension: isel({kept})."
    return "The dimensions are wrong.", None


def component(compiled: pa.DatasetSchema, name: str) -> Any:
    """Return what a compiled schema says of one variable or coordinate, or None."""
    coords: Any = compiled.coords
    return coords.get(name) or compiled.data_vars.get(name)


def _presence(compiled: pa.DatasetSchema, arrays: set[str], coordinates: frozenset[str]) -> tuple[set[str], set[str]]:
    import pandera.xarray as pa
    import xarray as xr
    from pandera.errors import SchemaErrorReason

    def wanted(components: Any, present: set[str]) -> list[str]:
        return [n for n, c in components.items() if c.required or n in present]

    known: Any = wanted(compiled.data_vars, arrays - coordinates), wanted(compiled.coords, set(coordinates))
    # Under a lenient profile an undeclared name is still found, only of less weight.
    schema = pa.DatasetSchema(dict.fromkeys(known[0]), coords=known[1], strict=True, strict_coords=True)
    scalar = xr.Variable((), 0)
    data_vars = dict.fromkeys(sorted(arrays - coordinates), scalar)
    hollow = xr.Dataset(data_vars, coords=dict.fromkeys(sorted(coordinates), scalar))
    missing: set[str] = set()
    extra: set[str] = set()
    for error in _errors(schema, hollow, "SCHEMA_ONLY"):
        if error.reason_code is SchemaErrorReason.COLUMN_NOT_IN_DATAFRAME:
            missing.add(error.failure_cases)
        elif error.reason_code is SchemaErrorReason.COLUMN_NOT_IN_SCHEMA:
            # Which they are, pandera says in words alone where they are data variables.
            extra |= (set(data_vars) - set(known[0])) | (coordinates - set(known[1]))
        else:
            raise error
    return missing, extra


def _errors(schema: Any, target: Any, depth: str) -> list[Any]:
    from pandera.errors import SchemaError, SchemaErrors

    try:
        with pinned(depth):
            schema.validate(target, lazy=True, inplace=True)
    except SchemaErrors as errors:
        return list(errors.schema_errors)
    except SchemaError as error:
        return [error]
    return []


def _hollow(dtype: str) -> np.dtype[Any]:
    if dtype in NUMERIC:
        return np.dtype(dtype)
    # Text of fixed length is another type in a store, so that here it must look like another one too.
    return np.dtype({"string": "U1", "fixed_length_utf32": "S1"}.get(dtype, "V1"))


def _tuple(dims: tuple[str, ...]) -> str:
    return f"({', '.join(dims)})"


def _may_be_there(bound: Bound, name: str) -> bool:
    return bound.presence(bound.variables[name][0]) != "forbidden"


def _why(bound: Bound, spec: Any) -> str:
    if spec.presence.kind == "when":
        return f"{spec.presence.argument} is false in the settings"
    return f"the profile {bound.schema.profile} forbids it"
