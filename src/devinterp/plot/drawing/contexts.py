"""Signed bars, and beside them tokens in their context as lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from devinterp.plot.drawing.facets import Facets, make_facets
from devinterp.plot.drawing.style import NEUTRAL, PALETTE, absent
from devinterp.plot.tokens.decode import MONO, drawable, gap_between

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

__all__ = ["ContextLine", "bars_with_contexts", "last_of"]

ROOM_BEFORE, ROOM_OF_TOKEN = 32, 14  # characters
SIZE, LETTER = 7.5, 0.602 * 7.5  # points: of the font, and the width of its letters
FEWEST_ROWS = 4  # that bars are made as high as


@dataclass(frozen=True)
class ContextLine:
    """A token and the tokens before it, with what is said of it: a number, written in front."""

    number: str
    before: Sequence[str]
    token: str


def last_of(text: str, room: int) -> str:
    """Return the end of a text of at most ``room`` letters, with an ellipsis where something is left out."""
    return text if len(text) <= room else f"…{text[-room + 1 :]}"


def bars_with_contexts(names: Sequence[str], values: Any, lines: Sequence[ContextLine]) -> Facets:
    """Draw a bar for each of ``values`` from the top, and ``lines`` beside them; returns two panels, still untitled.

    Where there are as many lines as bars, each stands beside its own.
    """
    rows = max(len(lines), 8)
    height = 0.9 + 0.165 * max(len(names), rows)
    facets = make_facets(["", ""], size=(4.4, height), col_wrap=2, sharex=False, sharey=False)
    bars, texts = facets
    signs = [PALETTE[1] if value > 0 else PALETTE[0] for value in values]
    facets.artists.append(bars.barh(range(len(names)), np.asarray(values), color=signs, height=0.75))
    bars.axvline(0, color=NEUTRAL, linewidth=0.6)
    bars.set_yticks(range(len(names)), drawable(names, longest=24, names=True), fontsize=7.5, parse_math=False)
    bars.set_ylim((rows if len(names) == len(lines) else max(len(names), FEWEST_ROWS)) - 0.5, -0.5)
    bars.tick_params(axis="y", length=0)
    if not len(names):
        absent(bars)
    facets.artists.append(_write_contexts(texts, lines, rows))
    return facets


def _write_contexts(ax: Axes, lines: Sequence[ContextLine], rows: int) -> list[Text]:
    """Write lines from the top of empty axes; the token stands out, and begins at one place in all of them."""
    ax.set_axis_off()
    ax.set_xlim(0, 1)
    ax.set_ylim(rows - 0.5, -0.5)
    contexts = []
    for line in lines:
        gap = gap_between([*line.before, line.token])
        shown = gap.join(drawable(line.before, longest=200, mono=True)) + gap
        contexts.append(last_of(shown, ROOM_BEFORE))
    width = 72 * ax.get_window_extent().width / ax.figure.dpi
    # As far from the numbers as the longest context is long, and no further.
    at = min(0.7, 0.14 + LETTER * max(map(len, contexts), default=0) / width)
    written = []
    for y, (line, before) in enumerate(zip(lines, contexts, strict=True)):
        sign = PALETTE[1] if line.number.startswith("+") else PALETTE[0]
        common = {"va": "center", "fontsize": SIZE, "parse_math": False, "clip_on": False}
        text = {**common, "family": list(MONO)}
        ax.text(0.1, y, line.number, ha="right", color=sign, **common)  # type: ignore[arg-type]  # matplotlib's stubs
        ax.text(at, y, before, ha="right", color=NEUTRAL, **text)  # type: ignore[arg-type]
        token = drawable([line.token], longest=ROOM_OF_TOKEN, mono=True)[0]
        written.append(
            ax.text(at, y, token, ha="left", weight="bold", **text)  # type: ignore[arg-type]
        )
    return written
