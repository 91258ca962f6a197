"""Shared by every test: the helpers folder on the path, one thread, hypothesis profiles."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent / "helpers"))

REFERENCE = Path(__file__).parent / "data" / "devinterp-2.0.1"

settings.register_profile(
    "ci", deadline=None, derandomize=bool(os.environ.get("CI")), suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ci")


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of the stores that devinterp 2.0.1 wrote."""
    return REFERENCE
