"""What tests of the core leave out where an extra is not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import strategies as st

HAS_DASK = importlib.util.find_spec("dask") is not None
DASK = st.booleans() if HAS_DASK else st.just(False)
"""Whether arrays are dask's."""


def needing(extra: str, cases: Iterable[str], *, named: str | None = None) -> list[Any]:
    """Return cases as parameters, the one that needs the extra marked with it; it has the extra's name by default."""
    name = extra if named is None else named
    return [pytest.param(case, marks=pytest.mark.needs(extra)) if case == name else case for case in cases]
