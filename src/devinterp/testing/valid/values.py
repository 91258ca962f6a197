"""Arrays that satisfy the value checks of their variable, by the check's registered predicate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devinterp.errors import SchemaError
from devinterp.plain_json import dig
from devinterp.schema.definition.spec import ArrayLayout
from devinterp.schema.rules.registry import find_predicate, resolve_arguments
from devinterp.testing.valid.draft import naming

__all__ = ["draw_values", "value_maker"]

Shaper = Callable[[NDArray[Any], ArrayLayout, Mapping[str, Any], Mapping[str, Any], np.random.Generator], NDArray[Any]]

_SHAPERS: dict[str, Shaper] = {}
_DEFAULT_VOCABULARY = 50
_STEMS = ("l0h", "layer ", "Größe-", "注意力", "a.b ", "ünï_", "🙂", "l1 mlp #")


def value_maker(predicate: str) -> Callable[[Shaper], Shaper]:
    """Register how drawn values are made to satisfy a value check.

    A schema with predicates of its own needs one for each that drawn values may break.

    Parameters
    ----------
    predicate : str
        The predicate's name.

    Returns
    -------
    callable
        Decorates a function of the values as drawn so far (ndarray), the array's layout (`ArrayLayout`: ``name``,
        ``dims``, ``shape``, ``dtype``), the check's arguments (mapping), the attributes of the tree's root (mapping)
        and a generator (`numpy.random.Generator`), that returns values of the same shape which satisfy the check. It
        is called in the order in which the document lists the checks.
    """

    def register(function: Shaper) -> Shaper:
        _SHAPERS[predicate] = function
        return function

    return register


def draw_values(layout: ArrayLayout, attributes: Mapping[str, Any], rng: np.random.Generator) -> NDArray[Any]:
    """Draw values of the layout's shape and dtype that satisfy every check of its variable that is known here."""
    values = _raw(layout, rng)
    # In the document's order: bounds first, then what orders or numbers the values.
    for check in layout.spec.checks:
        shaper = _SHAPERS.get(check.predicate)
        if shaper is not None:
            with naming("value_maker", check.predicate, f"the variable {layout.name!r}"):
                values = np.asarray(shaper(values, layout, check.arguments, attributes, rng))
                if layout.dtype != "string":
                    with np.errstate(invalid="raise"):
                        values.astype(layout.dtype)
            if values.shape != layout.shape:
                raise SchemaError(
                    f"What makes values of {layout.name!r} obey the predicate {check.predicate!r} changes their shape.",
                    expected=layout.shape,
                    found=values.shape,
                )
    for check in (c for c in layout.spec.checks if c.predicate not in _SHAPERS):
        arguments = resolve_arguments(check.predicate, check.arguments, attributes)
        if arguments is not None and not find_predicate(check.predicate).holds(values, **arguments):
            raise SchemaError(
                f"Nothing says how values of {layout.name!r} obey the predicate {check.predicate!r}.",
                expected="a function registered for it with @devinterp.testing.value_maker",
                remedy="Register one where the predicate is, or in conftest.py.",
            )
    return values if layout.dtype == "string" else values.astype(layout.dtype)


def _raw(layout: ArrayLayout, rng: np.random.Generator) -> NDArray[Any]:
    shape = layout.shape
    if layout.dtype == "string":
        size = int(np.prod(shape, dtype=np.int64))
        flat = [f"{_STEMS[int(rng.integers(len(_STEMS)))]}{i}" for i in range(size)]
        return np.array(flat, dtype=object).reshape(shape)
    dtype = np.dtype(layout.dtype)
    if dtype.kind == "f":
        # Losses are positive and skewed; anything else takes both signs.
        raw = rng.gamma(2.0, 1.5, shape) if layout.spec.unit == "nat" else rng.normal(0.0, 1.0, shape)
        return np.asarray(raw)
    if dtype.kind == "b":
        return np.asarray(rng.integers(0, 2, shape, dtype=np.int64))
    return np.asarray(rng.integers(0, min(_DEFAULT_VOCABULARY, np.iinfo(dtype).max), shape, dtype=np.int64))


@value_maker("finite")
def _finite(values: NDArray[Any], layout: Any, arguments: Any, attributes: Any, rng: Any) -> NDArray[Any]:
    return values


@value_maker("other_than")
def _other_than(
    values: NDArray[Any], layout: Any, arguments: Mapping[str, Any], attributes: Any, rng: Any
) -> NDArray[Any]:
    return np.where(values == arguments["name"], f"{arguments['name']}'", values)


@value_maker("at_least")
def _at_least(
    values: NDArray[Any], layout: Any, arguments: Mapping[str, Any], attributes: Any, rng: Any
) -> NDArray[Any]:
    minimum = arguments["minimum"]
    if values.dtype.kind == "f":
        return np.asarray(minimum + np.abs(values - minimum))
    return np.where(values < minimum, minimum + np.abs(values - minimum), values)


@value_maker("at_most")
def _at_most(
    values: NDArray[Any], layout: Any, arguments: Mapping[str, Any], attributes: Any, rng: Any
) -> NDArray[Any]:
    return np.asarray(np.minimum(values, arguments["maximum"]))


@value_maker("within_vocabulary")
def _within_vocabulary(
    values: NDArray[Any], layout: Any, arguments: Mapping[str, Any], attributes: Mapping[str, Any], rng: Any
) -> NDArray[Any]:
    size = dig(attributes, arguments["path"])
    return values if size is None else values % int(size)


@value_maker("distinct")
def _distinct(
    values: NDArray[Any], layout: ArrayLayout, arguments: Any, attributes: Any, rng: np.random.Generator
) -> NDArray[Any]:
    if layout.dtype == "string":
        return values
    low = int(values.min()) if values.size else 0
    return low + rng.permutation(values.size + 3)[: values.size].reshape(values.shape)


@value_maker("counts_from")
@value_maker("distinct_from")
def _counts_from(
    values: NDArray[Any], layout: ArrayLayout, arguments: Mapping[str, Any], attributes: Any, rng: Any
) -> NDArray[Any]:
    if values.ndim != 1:
        raise SchemaError(f"{layout.name!r} cannot count: it has {values.ndim} dimensions.", expected="one dimension")
    return np.arange(values.size) + int(arguments["start"])


@value_maker("ascending")
def _ascending(
    values: NDArray[Any], layout: ArrayLayout, arguments: Mapping[str, Any], attributes: Any, rng: Any
) -> NDArray[Any]:
    return np.sort(values, axis=layout.dims.index(arguments["dim"]))
