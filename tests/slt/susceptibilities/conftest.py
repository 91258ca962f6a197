from __future__ import annotations

import pytest
from made_runs import make_study

from devinterp.slt.susceptibilities import compute_susceptibilities


@pytest.fixture(scope="session")
def result():
    """Susceptibilities of three restrictions, with their terms and standard errors."""
    return compute_susceptibilities(make_study(("full", "a", "b", "c")), terms=True, se=True)
