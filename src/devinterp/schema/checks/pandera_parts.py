"""What pandera is given besides its own classes: classes of a module, so that a compiled schema can be pickled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pandera.engines.xarray_engine import DataType

from devinterp.schema.rules.registry import find_predicate

__all__ = ["Holds", "Text"]


@dataclass(frozen=True)
class Holds:
    """A registered value predicate with its arguments, as pandera calls it.

    ``masked`` values are NaN where they do not count; which these are, pandera cannot know.
    """

    predicate: str
    arguments: tuple[tuple[str, Any], ...]
    masked: bool = False

    def __call__(self, values: Any) -> bool:
        """Whether no value breaks the rule."""
        given = np.asarray(values)
        counted = given[~np.isnan(given)] if self.masked else given
        return find_predicate(self.predicate).holds(counted, **dict(self.arguments))


class Text(DataType):
    """Strings of any representation in memory; which one a store has is told by its own data type."""

    name: str

    def __init__(self, name: str) -> None:
        super().__init__(np.dtype("U"))
        object.__setattr__(self, "name", name)

    def check(self, pandera_dtype: Any, data_container: Any = None) -> bool:
        """Whether the data are text."""
        kinds = "UTO" if self.name == "string" else "UTOS"
        return data_container is not None and data_container.dtype.kind in kinds

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.name,))

    def __str__(self) -> str:
        return str(self.name)

    __repr__ = __str__
