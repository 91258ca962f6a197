"""Signed bars, and beside them tokens in their context as lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from devinterp.plot.drawing.facets import Facets, make_facets
from devinterp.plot.drawing.style import NEUTRAL, PALETTE
from devinterp.plot.tokens.decode import drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

__all__ = ["ContextLine", "bars_with_contexts"]

ROOM_BEFORE, ROOM_OF_TOKEN = 32, 14  # characters


@dataclass(frozen=True)
class ContextLine:
    """A token and the tokens before it, with what is said of it: a number, written in front."""

    number: str
    before: Sequence[str]
    token: str


def bars_with_contexts(names: Sequence[str], values: Any, lines: Sequence[ContextLine]) -> Facets:
    """Draw a bar for each of ``values`` from the top, and ``lines`` beside them; returns two panels, still untitled."""
    height = 0.9 + 0.165 * max(len(names), len(lines), 8)
    facets = make_facets(["", ""], size=(4.4, height), col_wrap=2, sharex=False, sharey=False)
    bars, texts = facets
    signs = [PALETTE[1] if value > 0 else PALETTE[0] for value in values]
    facets.artists.append(bars.barh(range(len(names)), np.asarray(values), color=signs, height=0.75))
    bars.axvline(0, color=NEUTRAL, linewidth=0.6)
    bars.set_yticks(range(len(names)), drawable(names, longest=24, names=True), fontsize=7.5, parse_math=False)
    bars.set_ylim(max(len(names), 1) - 0.5, -0.5)
    bars.tick_params(axis="y", length=0)
    facets.artists.append(_write_contexts(texts, lines))
    return facets


def _write_contexts(ax: Axes, lines: Sequence[ContextLine]) -> list[Text]:
    """Write lines from the top of empty axes; the token stands out, and begins at one place in all of them."""
    ax.set_axis_off()
    ax.set_xlim(0, 1)
    ax.set_ylim(max(len(lines), 8) - 0.5, -0.5)
    written = []
    for y, line in enumerate(lines):
        before = "".join(drawable(line.before, longest=200))
        before = before if len(before) <= ROOM_BEFORE else f"…{before[-ROOM_BEFORE + 1 :]}"
        sign = PALETTE[1] if line.number.startswith("+") else PALETTE[0]
        common = {"va": "center", "fontsize": 7.5, "parse_math": False, "clip_on": False}
        ax.text(0.1, y, line.number, ha="right", color=sign, **common)  # type: ignore[arg-type]  # matplotlib's stubs
        ax.text(0.7, y, before, ha="right", color=NEUTRAL, family="DejaVu Sans Mono", **common)  # type: ignore[arg-type]
        token = drawable([line.token], longest=ROOM_OF_TOKEN)[0]
        written.append(
            ax.text(0.7, y, token, ha="left", weight="bold", family="DejaVu Sans Mono", **common)  # type: ignore[arg-type]
        )
    return written
