"""Singular learning theory: estimands on stores, one per module, and the sampling that writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from devinterp._renamed import successor

if not TYPE_CHECKING:  # a checker shall know the names that there are

    def __getattr__(name: str) -> Any:
        return successor(__name__, name)
