"""Influence: the matrix between sequences or rows, from token to token, and the strongest."""

from __future__ import annotations

from devinterp.plot.influence.matrix import influence_matrix, token_influence

__all__ = ["influence_matrix", "token_influence"]
