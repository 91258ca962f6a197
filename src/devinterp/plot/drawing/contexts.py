"""Tokens in their context, as lines of text beside a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from devinterp.plot.drawing.style import NEUTRAL, PALETTE
from devinterp.plot.tokens.decode import drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

__all__ = ["ContextLine", "write_contexts"]

ROOM_BEFORE, ROOM_OF_TOKEN = 32, 14  # characters


@dataclass(frozen=True)
class ContextLine:
    """A token and the tokens before it, with what is said of it: a number, written in front."""

    number: str
    before: Sequence[str]
    token: str


def write_contexts(ax: Axes, lines: Sequence[ContextLine]) -> list[Text]:
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
