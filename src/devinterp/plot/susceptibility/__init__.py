"""Susceptibilities: by restriction and class of token, along a text, by patterns and components, as a map of tokens."""

from __future__ import annotations

from devinterp.plot.susceptibility.heat_maps import susceptibility_classes, susceptibility_text

__all__ = ["susceptibility_classes", "susceptibility_text"]
