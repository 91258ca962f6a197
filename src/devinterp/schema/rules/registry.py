"""Named rules in Python, for what the grammar of the documents cannot say: each registered once, under one name.

Two sorts. A *value predicate* looks at the values of one variable, block by block (or whole, for a coordinate), and
says which break it; pandera runs it. A *relation* looks at a group, or a tree, and yields `Problem` objects.

A package that extends a schema registers its own with the same decorator, and names the module under the entry-point
group ``devinterp.predicates`` so that the command line finds it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from devinterp.errors import PredicateError, SchemaError, warn_caller
from devinterp.plain_json import dig
from devinterp.schema.definition.suggest import suggestion
from devinterp.wording import one_of, shown

if TYPE_CHECKING:
    from devinterp.schema.definition.schema import Schema
    from devinterp.schema.definition.spec import Check, Rule

__all__ = ["Predicate", "Problem", "find_predicate", "predicate", "verify_predicates"]

Kind = Literal["element", "whole", "relation"]
ENTRY_POINT_GROUP = "devinterp.predicates"
_OURS = (
    "devinterp.schema.rules.samples",
    "devinterp.schema.rules.members",
    "devinterp.schema.rules.results",
    "devinterp.schema.rules.influences",
)


@dataclass(frozen=True)
class Problem:
    """What a relation found.

    Attributes
    ----------
    message : str
        What is wrong, in one sentence.
    expected, found : object
    name : str
        The variable (or group, or chunk) it is about, relative to the group; empty for the group itself.
    """

    message: str
    expected: object | None = None
    found: object | None = None
    name: str = ""


@dataclass(frozen=True)
class Predicate:
    """A registered rule.

    Attributes
    ----------
    function : callable
        ``element`` and ``whole``: values and arguments to a boolean array, True where a value breaks the rule.
        ``relation``: a context and arguments to an iterator of `Problem`.
    quick : callable or None
        Values and arguments to True where certainly no value breaks the rule, without a temporary array.
    """

    name: str
    kind: Kind
    function: Callable[..., Any]
    expected: str = ""
    quick: Callable[..., bool] | None = None

    @cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """What the function takes besides values or context."""
        return {p.name: p for p in list(inspect.signature(self.function).parameters.values())[1:]}

    def holds(self, values: NDArray[Any], **arguments: Any) -> bool:
        """Whether no value breaks the rule."""
        if values.size == 0 or (self.quick is not None and self._ask(self.quick, values, arguments) is True):
            return True
        return not bool(self.broken(values, **arguments).any())

    def broken(self, values: NDArray[Any], **arguments: Any) -> NDArray[np.bool_]:
        """True where a value breaks the rule.

        Raises
        ------
        PredicateError
            The function raises, or does not return one truth value for each value.
        """
        found = np.asarray(self._ask(self.function, values, arguments))
        if found.dtype != np.bool_ or found.shape != values.shape:
            raise PredicateError(
                f"The predicate {self.name!r} does not say of each value whether it breaks the rule.",
                expected=f"booleans of shape {shown(values.shape)}",
                found=f"{found.dtype} of shape {shown(found.shape)}",
            )
        return found

    def _ask(self, function: Callable[..., Any], values: NDArray[Any], arguments: Mapping[str, Any]) -> Any:
        shown = np.asarray(values).view()
        shown.flags.writeable = False  # they may be the caller's own
        try:
            return function(shown, **arguments)
        except (Exception, SystemExit) as error:  # it may be anybody's
            raise PredicateError(
                f"The predicate {self.name!r} cannot be evaluated.", found=f"{type(error).__name__}: {error}"
            ) from error

    def describe(self, **arguments: Any) -> str:
        """What the rule expects, in words."""
        return self.expected.format_map(arguments)


_REGISTRY: dict[str, Predicate] = {}


def predicate(
    name: str, *, kind: Kind = "element", expected: str = "", quick: Callable[..., bool] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as the rule ``name``; documents refer to it by that name.

    Parameters
    ----------
    name : str
        As written under ``predicate:`` in a document.
    kind : {"element", "whole", "relation"}
        ``element``: every value for itself, so blocks of any shape will do. ``whole``: needs the variable in one piece.
        ``relation``: called with a context instead of values.
    expected : str
        What the rule expects; arguments are filled in (``"at least {minimum}"``).
    quick : callable, optional
        A cheaper sufficient test.

    Raises
    ------
    SchemaError
        Another function already has the name.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        known = _REGISTRY.get(name)
        if known is not None and known.function.__qualname__ != function.__qualname__:
            raise SchemaError(f"The predicate {name!r} is registered twice.", remedy="Give the new one another name.")
        _REGISTRY[name] = Predicate(name, kind, function, expected, quick)
        return function

    return register


@cache
def _load_ours() -> None:
    for module in _OURS:
        import_module(module)


@lru_cache(maxsize=1)
def _load_installed() -> None:
    from importlib.metadata import entry_points

    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            entry.load()
        except (Exception, SystemExit) as error:  # its own schemas then lack their rules; no other is harmed
            warn_caller(
                f"The predicates that the entry point {entry.name!r} names cannot be used, and are left out: "
                f"{type(error).__name__}: {error}"
            )


def find_predicate(name: str) -> Predicate:
    """Return the predicate of that name.

    Raises `SchemaError` where nothing is registered under it.
    """
    _load_ours()
    if name not in _REGISTRY:
        _load_installed()
    if name not in _REGISTRY:
        raise SchemaError(
            f"There is no predicate {name!r}.",
            expected=one_of(sorted(_REGISTRY)),
            remedy=suggestion(name, _REGISTRY)
            or "Register it with @devinterp.schema.predicate before the schema is used.",
        )
    return _REGISTRY[name]


@lru_cache(maxsize=64)
def verify_predicates(schema: Schema) -> None:
    """Check that every predicate a schema names is there, of the right kind, and takes the arguments given.

    Raises `SchemaError` with every place where one is not.
    """
    problems = []
    for node in schema.nodes:
        uses: list[tuple[str, Check | Rule, bool]] = [
            (f"{node.path}/{v.name}", c, False) for v in node.variables.values() for c in v.checks
        ]
        uses += [(node.path, rule, True) for rule in node.rules]
        for where, use, relation in uses:
            found = find_predicate(use.predicate)
            if (found.kind == "relation") != relation:
                problems.append(f"{where}: {use.predicate} is not a rule of {'a group' if relation else 'a variable'}")
                continue
            problems += [f"{where}: {use.predicate} {p}" for p in _argument_problems(found, use.arguments)]
    if problems:
        raise SchemaError(f"{schema.id} uses predicates wrongly:\n  " + "\n  ".join(problems))


def _argument_problems(found: Predicate, arguments: Mapping[str, Any]) -> Iterator[str]:
    taken = found.parameters
    # A limit that stands in the attributes is given by its path; see `resolve_arguments`.
    given = {"limit" if name == "path" and "path" not in taken else name for name in arguments}
    for name in sorted(given - set(taken)):
        yield f"takes no argument {name!r}"
    for name, parameter in taken.items():
        if parameter.default is inspect.Parameter.empty and name not in given:
            yield f"needs the argument {name!r}"


def resolve_arguments(name: str, arguments: Mapping[str, Any], attrs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the arguments with ``path`` replaced by the ``limit`` that stands there in the attributes.

    None where nothing stands there: then the rule says nothing.
    """
    if "path" not in arguments or "path" in find_predicate(name).parameters:
        return dict(arguments)
    limit = dig(attrs, arguments["path"])
    if isinstance(limit, bool) or not isinstance(limit, int | float):
        return None
    return {**{k: v for k, v in arguments.items() if k != "path"}, "limit": limit}


def holds_where_filled(
    checks: Iterable[Check], fill: NDArray[Any], shape: tuple[int, ...], attrs: Mapping[str, Any]
) -> bool:
    """Whether a block of nothing but fill obeys the value rules of a variable, so that its chunk may be absent.

    Parameters
    ----------
    checks : iterable of Check
    fill : ndarray
        The array's own fill value, a scalar of its data type.
    shape : tuple of int
        Of the block.
    attrs : mapping
        Attributes of the tree's root, where limits stand.
    """
    block = np.full(tuple(min(n, 4) for n in shape), fill, dtype=fill.dtype)  # more of the same shows no more
    for check in checks:
        arguments = resolve_arguments(check.predicate, check.arguments, attrs)
        with suppress(PredicateError):  # what fails itself is a finding, and shows nothing
            if arguments is not None and block.size and not find_predicate(check.predicate).holds(block, **arguments):
                return False
    return True


def _sum_is_finite(values: NDArray[Any]) -> bool:
    # One pass without a temporary: NaN and infinity survive a sum. An overflow is looked at more closely.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.add.reduce(values, axis=None)))


@predicate("finite", expected="finite numbers", quick=_sum_is_finite)
def finite(values: NDArray[Any]) -> NDArray[np.bool_]:
    """No NaN, no infinity."""
    bad: NDArray[np.bool_] = ~np.isfinite(values)
    return bad


@predicate("at_least", expected="at least {minimum}", quick=lambda v, minimum: bool(v.min() >= minimum))
def at_least(values: NDArray[Any], *, minimum: float) -> NDArray[np.bool_]:
    """No value below ``minimum``; NaN is left to `finite`."""
    return values < minimum


@predicate("at_most", expected="at most {maximum}", quick=lambda v, maximum: bool(v.max() <= maximum))
def at_most(values: NDArray[Any], *, maximum: float) -> NDArray[np.bool_]:
    """No value above ``maximum``; NaN is left to `finite`."""
    return values > maximum


@predicate("within_vocabulary", expected="token ids below {limit}", quick=lambda v, limit: bool(v.max() < limit))
def within_vocabulary(values: NDArray[Any], *, limit: float) -> NDArray[np.bool_]:
    """No token id of ``limit`` (the size of the vocabulary, given by its ``path`` in the attributes) or above."""
    return values >= limit


@predicate("other_than", expected="another name than {name!r}")
def other_than(values: NDArray[Any], *, name: str) -> NDArray[np.bool_]:
    """No value that is ``name``."""
    return np.asarray(values == name, dtype=bool)


@predicate("distinct", kind="whole", expected="values that differ from each other")
def distinct(values: NDArray[Any]) -> NDArray[np.bool_]:
    """No value twice; every occurrence but the first is marked."""
    flat = values.ravel()
    _, first = np.unique(flat, return_index=True)
    again = np.ones(flat.shape, dtype=bool)
    again[first] = False
    return again.reshape(values.shape)


@predicate("ascending", kind="whole", expected="values that do not decrease along the last dimension")
def ascending(values: NDArray[Any], *, dim: str = "") -> NDArray[np.bool_]:
    """Along the last dimension (named by ``dim`` for the reader), no value below the one before it."""
    down = np.zeros(values.shape, dtype=bool)
    down[..., 1:] = values[..., 1:] < values[..., :-1]
    return down


@predicate("distinct_from", kind="whole", expected="different numbers, {start} or more")
def distinct_from(values: NDArray[Any], *, start: int) -> NDArray[np.bool_]:
    """No value below ``start``, and none twice."""
    bad: NDArray[np.bool_] = distinct(values) | (values < start)
    return bad


@predicate("counts_from", kind="whole", expected="{start}, then one more each")
def counts_from(values: NDArray[Any], *, start: int) -> NDArray[np.bool_]:
    """``start``, ``start + 1``, ... along the only dimension."""
    bad: NDArray[np.bool_] = values != np.arange(start, start + values.size).reshape(values.shape)
    return bad
