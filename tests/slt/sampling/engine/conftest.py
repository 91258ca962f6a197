"""Shared by the tests of the engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def short_looks() -> Iterator[None]:
    """Have rows of six tokens be long: a look at the model takes a few of them."""
    from prefix_runs import LOOK

    from devinterp.slt.sampling.engine.frozen_prefix import evaluator

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "_TOKENS", LOOK)
        yield
