"""Texts coloured by loss, susceptibility or influence: HTML in a notebook, text in a terminal."""

from __future__ import annotations

from devinterp.plot.tokens.coloured import TextRow as TextRow
from devinterp.plot.tokens.rows import tokens

__all__ = ["tokens"]
