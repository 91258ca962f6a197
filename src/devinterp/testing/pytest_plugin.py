"""A pytest plugin, active wherever devinterp is installed: the fixture ``assert_valid_store``.

Nothing but pytest is imported until a test asks for the fixture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from devinterp.schema import Report
    from devinterp.schema.definition.spec import Level

__all__ = ["assert_valid_store"]


@pytest.fixture(scope="session")
def assert_valid_store() -> Callable[..., Report]:
    """Assert that a store, tree or dataset breaks no rule of its schema.

    ``assert_valid_store(target, *, level="values", profile="strict", allow=())`` validates ``target`` (anything
    `devinterp.validate` takes), fails the test with the rendered report where there is a finding of severity error or
    warning, and returns the `Report`. ``allow`` names codes that may be found; a chain that failed (DI007) may, since
    such a store is valid.
    """

    def check(
        target: Any, *, level: Level = "values", profile: str = "strict", allow: tuple[str, ...] = (), **options: Any
    ) -> Report:
        from devinterp.schema import validate

        report = validate(target, level=level, profile=profile, **options)
        left = [f for f in report.findings if str(f.severity) != "note" and str(f.code) not in ("DI007", *allow)]
        if left:
            pytest.fail(f"{len(left)} finding(s) in {target!r}:\n{report}", pytrace=False)
        return report

    return check
