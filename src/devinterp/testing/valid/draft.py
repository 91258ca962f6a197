"""A tree under construction, and the registry of what makes its cross-variable rules hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from devinterp.errors import DevinterpError, SchemaError
from devinterp.schema.definition.schema import Schema
from devinterp.schema.definition.spec import GroupLayout, NodeSpec, Rule

if TYPE_CHECKING:
    from devinterp.testing.valid.recipe import StoreRecipe

__all__ = ["Draft", "GroupDraft", "RuleMaker", "naming", "rule_maker", "rule_makers"]


@contextmanager
def naming(hook: str, predicate: str, where: str) -> Iterator[None]:
    """Raise what a hook raises as one `SchemaError` that names it; errors of ours, and hypothesis' own, pass.

    Parameters
    ----------
    hook : {"value_maker", "rule_maker"}
    predicate : str
        What it was registered for.
    where : str
        The variable or group that it was called for.
    """
    try:
        yield
    except DevinterpError:
        raise
    except (Exception, SystemExit) as error:
        if type(error).__module__.startswith("hypothesis"):
            raise
        raise SchemaError(
            f"The function registered for {predicate!r} with @devinterp.testing.{hook} failed for {where}.",
            found=f"{type(error).__name__}: {error}",
            remedy="Its own traceback stands above this one. Mend it where it is registered.",
        ) from error


@dataclass
class GroupDraft:
    """One group under construction: sizes first, then layout, then values."""

    path: str
    node: NodeSpec
    schema: Schema
    attributes: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    layout: GroupLayout | None = None
    values: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[str]:
        """Variables of the group."""
        return frozenset() if self.layout is None else frozenset(self.layout.arrays)

    def dims(self, name: str) -> tuple[str, ...]:
        """Dimensions of a variable."""
        assert self.layout is not None
        return self.layout.arrays[name].dims

    def set(self, name: str, values: Any) -> None:
        """Replace the values of a variable, in its own dtype."""
        assert self.layout is not None
        layout = self.layout.arrays[name]
        block = np.asarray(values, dtype=object if layout.dtype == "string" else layout.dtype)
        self.values[name] = np.broadcast_to(block, layout.shape).copy()


@dataclass
class Draft:
    """A whole tree under construction."""

    schema: Schema
    recipe: StoreRecipe
    rng: np.random.Generator
    parameters: dict[str, Any]
    members: dict[str, dict[str, dict[str, Any]]]
    groups: dict[str, GroupDraft] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)

    @property
    def root(self) -> GroupDraft:
        """The root group."""
        return self.groups["/"]

    def rules(self) -> Iterator[tuple[GroupDraft, Rule]]:
        """Every rule with the group it stands in, inner groups first."""
        for group in sorted(self.groups.values(), key=lambda g: -g.path.count("/") if g.path != "/" else 1):
            for rule in group.node.rules:
                yield group, rule


Step = Callable[[Draft, GroupDraft, Mapping[str, Any]], None]


@dataclass
class RuleMaker:
    """How a rule is made to hold: ``plan`` may set sizes and members, ``fill`` sets values and attributes."""

    plan: Step | None = None
    fill: Step | None = None


rule_makers: dict[str, RuleMaker] = {}


def rule_maker(predicate: str, *, stage: str = "fill") -> Callable[[Step], Step]:
    """Register how drawn trees are made to satisfy a cross-variable rule.

    A schema with relations of its own needs one for each that drawn trees may break.

    Parameters
    ----------
    predicate : str
        The relation's name.
    stage : {"fill", "plan"}
        ``plan`` runs before sizes are fixed, ``fill`` after all values are drawn.

    Returns
    -------
    callable
        Decorates a function of the `Draft`, the `GroupDraft` that the rule stands in and the rule's arguments
        (mapping), which changes them: ``group.set(name, values)``, ``group.attributes[...]``, ``group.sizes[...]``.
    """
    if stage not in ("plan", "fill"):
        raise ValueError(f"stage is 'plan' or 'fill', not {stage!r}")

    def register(function: Step) -> Step:
        setattr(rule_makers.setdefault(predicate, RuleMaker()), stage, function)
        return function

    return register
