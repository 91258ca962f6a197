"""A text whose tokens are coloured by numbers, as HTML, for a terminal, and plain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from devinterp._html import Markup, join, tag
from devinterp.plot.tokens.decode import gap_between, visible

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

__all__ = ["TextRow", "TokenText"]

# Laid over whatever the page's background is, so that the text keeps its own colour, on white and on black.
_POSITIVE, _NEGATIVE = (213, 94, 0), (0, 114, 178)


@dataclass(frozen=True)
class TextRow:
    """One text and the number of each of its tokens.

    Attributes
    ----------
    name : str
        What it is (observable and row).
    texts : tuple of str
        Its tokens, as the tokenizer gives them.
    values : array, shape (token,)
        A number for each, NaN where there is none (the first token is never predicted).
    marked : int or None
        A token to frame: the query of an influence.
    counts : array of bool, shape (token,), or None
        Which tokens are predicted and count, where not all do; the others are greyed, but for the first.
    """

    name: str
    texts: tuple[str, ...]
    values: npt.NDArray[np.float64]
    marked: int | None = None
    counts: npt.NDArray[np.bool_] | None = None

    def is_grey(self, place: int) -> bool:
        """Whether the token does not count."""
        return self.counts is not None and place > 0 and not self.counts[place]


@dataclass(frozen=True)
class TokenText:
    """Texts whose tokens are coloured by a number.

    Attributes
    ----------
    rows : tuple of TextRow
        The texts.
    label, unit : str
        What the numbers are.
    limit : float
        Where the colour is strongest.
    diverging : bool
        Whether the sign counts (blue below zero, orange above); else colours start at 0.
    """

    rows: tuple[TextRow, ...]
    label: str
    unit: str
    limit: float
    diverging: bool

    def to_html(self) -> Markup:
        """Return an element that can stand in any page; every token is escaped."""
        ends = [f"{-self.limit:.3g}", f"{self.limit:.3g}"] if self.diverging else ["0", f"{self.limit:.3g}"]
        scale = [self._swatch(x) for x in np.linspace(-1 if self.diverging else 0, 1, 9)]
        head = tag(
            "p",
            f"{self.label} ({self.unit}) ",
            tag("span", ends[0], " ", scale, " ", ends[1], style="white-space:nowrap"),
            style="margin:.2em 0",
        )
        return tag("div", head, [self._row_html(row) for row in self.rows], class_="devinterp-tokens")

    def row_html(self, index: int, *, joined: bool = True) -> Markup:
        """Return one row without the scale; ``joined`` False puts blanks between tokens (for ids)."""
        return self._row_html(self.rows[index], joined=joined)

    def _swatch(self, strength: float) -> Markup:
        return tag("span", Markup("&ensp;"), style=self._css(strength * self.limit))

    def _row_html(self, row: TextRow, *, joined: bool | None = None) -> Markup:
        if joined is None:
            joined = not gap_between(row.texts)
        spans = []
        for place, (text, value) in enumerate(zip(row.texts, row.values, strict=True)):
            number = f"{value:.4g} {self.unit}".strip() if np.isfinite(value) else "no value"
            if row.is_grey(place):
                number = "does not count"
            frame = ";outline:1.5px solid currentColor" if place == row.marked else ""
            shown = visible(text)
            span = tag(
                "span",
                shown,
                title=f"position {place}, {text!r}: {number}",
                style=f"{self._css(value)}{frame}{';opacity:.4' if row.is_grey(place) else ''}",
            )
            # A token ends a line where it says so; elsewhere lines may break between any two tokens.
            gap = tag("br") if "\n" in text else tag("wbr") if joined else " "
            spans.append(join(span, gap))
        body = tag(
            "div",
            spans,
            style="font-family:ui-monospace,monospace;font-size:.92em;line-height:1.7;overflow-wrap:anywhere",
        )
        return tag("div", tag("div", row.name, style="opacity:.7;font-size:.85em"), body, style="margin:.5em 0")

    def _css(self, value: float) -> str:
        strength = self._strength(value)
        if strength == 0:
            return "border-radius:2px"
        red, green, blue = _POSITIVE if strength > 0 else _NEGATIVE
        return f"background:rgba({red},{green},{blue},{0.65 * abs(strength):.2f});border-radius:2px"

    def _strength(self, value: float) -> float:
        if not np.isfinite(value) or not self.limit:
            return 0.0
        return float(np.clip(value / self.limit, -1 if self.diverging else 0, 1))

    def _repr_html_(self) -> str:
        return str(self.to_html())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        yield Text(f"{self.label} ({self.unit}), colour up to {self.limit:.3g}")
        for row in self.rows:
            yield Text(row.name, style="dim")
            line, gap = Text(overflow="fold"), gap_between(row.texts)
            for place, (text, value) in enumerate(zip(row.texts, row.values, strict=True)):
                grey = "dim " if row.is_grey(place) else ""
                line.append(visible(text), style=grey + self._terminal_style(value, place == row.marked))
                line.append("\n" if "\n" in text else gap)
            yield line

    def _terminal_style(self, value: float, marked: bool) -> str:
        strength = self._strength(value)
        parts = ["underline bold"] if marked else []
        if abs(strength) >= 0.08:
            # Blended with white, under black letters: legible whatever the terminal's own colours are.
            base = _POSITIVE if strength > 0 else _NEGATIVE
            mixed = [int(255 + (c - 255) * 0.75 * abs(strength)) for c in base]
            parts.append("black on #{:02x}{:02x}{:02x}".format(*mixed))
        return " ".join(parts)

    def __str__(self) -> str:
        lines = [f"{self.label} ({self.unit}); strong tokens carry their number"]
        for row in self.rows:
            words = [
                f"{visible(t)}[{v:+.2g}]" if abs(self._strength(v)) >= 0.5 else visible(t)
                for t, v in zip(row.texts, row.values, strict=True)
            ]
            lines += [f"-- {row.name}", gap_between(row.texts).join(words)]
        return "\n".join(lines)

    __repr__ = __str__
