"""The picture of the rooms, and the table beside it, read from the source: neither can drift from it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from html import escape
from pathlib import Path

from tables import code, table

import devinterp

SOURCE = Path(devinterp.__file__).parent
# From what is declared to what people see; each floor uses those above it.
FLOORS = (("schema", "testing"), ("store",), ("slt",), ("accessor", "plot", "report", "cli", "demo"))
FIRST = {  # the direction inside a part; rooms that are not named here follow by name
    "schema": ("definition", "findings", "reading", "rules", "checks"),
    "store": ("reading", "writing", "repair"),
    "slt": ("sampling", "weight_restrictions", "runs"),
    "slt/sampling": ("inputs", "engine", "running"),
}
WIDTH, PAD, LINE, ROOM, GAP = 1060, 14, 20, 30, 34
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1c2733; } .part { font-weight: 700; font-size: 15px; }
.small { font-size: 11.5px; fill: #5b6b7a; } .box { fill: #f3f6f9; stroke: #c3ced8; } .room { fill: #fff; stroke: #9fb1c1; }
.disk { fill: #fff3d6; stroke: #d3a53a; } .flow { stroke: #1769aa; stroke-width: 2.2; fill: none; marker-end: url(#tip); }
.tip { fill: #1769aa; } .way { fill: #1769aa; font-size: 12px; }
@media (prefers-color-scheme: dark) { text { fill: #e3e9ef; } .small { fill: #9db0c0; } .box { fill: #1d2731; stroke: #40515f; }
  .room { fill: #27333f; stroke: #587083; } .disk { fill: #4a3b14; stroke: #b58d2f; } .flow { stroke: #69b4ee; }
  .tip, .way { fill: #69b4ee; } }
"""


def rooms(part: str) -> list[str]:
    """Folders inside a part, in the order in which one uses the other."""
    folder = SOURCE / part
    found = sorted(p.name for p in folder.iterdir() if (p / "__init__.py").is_file()) if folder.is_dir() else []
    first = [name for name in FIRST.get(part, ()) if name in found]
    return [*first, *(name for name in found if name not in first)]


def modules(place: str) -> list[str]:
    """Modules that stand in a place itself."""
    if (SOURCE / f"{place}.py").is_file():
        return [place]
    return sorted(p.stem for p in (SOURCE / place).glob("*.py") if not p.stem.startswith("__"))


def what_for(place: str) -> str:
    """The first sentence of what a place says of itself."""
    file = SOURCE / f"{place}.py"
    text = ast.get_docstring(ast.parse((file if file.is_file() else SOURCE / place / "__init__.py").read_text())) or ""
    return text.split("\n")[0]


def room_table() -> str:
    """Every room with what it is for and its modules."""
    rows = []
    for place in places():
        inside = ", ".join(code(m.rsplit("/", 1)[-1]) for m in modules(place))
        rows.append((code(place), what_for(place).replace("``", "`"), inside if (SOURCE / place).is_dir() else ""))
    return table(("room", "for", "modules"), rows)


def places() -> Iterator[str]:
    """Every part and room, from the ground up."""
    for floor in FLOORS:
        for part in floor:
            yield part
            for room in rooms(part):
                yield f"{part}/{room}"
                yield from (f"{part}/{room}/{inner}" for inner in rooms(f"{part}/{room}"))


def _box(x: float, y: float, w: float, h: float, kind: str) -> str:
    return f'<rect class="{kind}" x="{x:.0f}" y="{y:.0f}" width="{w:.0f}" height="{h:.0f}" rx="6"/>'


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(text)}</text>'


def _part(part: str, x: float, y: float, w: float) -> tuple[list[str], float]:
    """Draw a part with its rooms and the modules that stand above them; return the pieces and the height."""
    pieces = [_text(x + PAD, y + 22, part, "part")]
    inner_y, at = y + 34, x + PAD
    names = rooms(part)
    tallest = 0.0
    for name in names:
        inside = rooms(f"{part}/{name}")
        wide = max(8.2 * len(name) + 20, sum(7.6 * len(i) + 22 for i in inside) + 14 if inside else 0)
        if at + wide > x + w - PAD:
            at, inner_y, tallest = x + PAD, inner_y + tallest + 8, 0.0
        high = ROOM + (ROOM + 6 if inside else 0)
        pieces += [_box(at, inner_y, wide, high, "room"), _text(at + 10, inner_y + 20, name)]
        step = at + 10
        for i in inside:
            pieces += [_box(step, inner_y + 30, 7.6 * len(i) + 14, 26, "box"), _text(step + 7, inner_y + 48, i)]
            step += 7.6 * len(i) + 22
        at += wide + 8
        tallest = max(tallest, high)
    bottom = inner_y + tallest + (8 if names else 0)
    own, line = [m for m in modules(part) if m != part], ""
    for word in [f"{m}{',' if m != own[-1] else ''}" for m in own]:
        if 6.1 * len(f"{line} {word}") > w - 2 * PAD:
            pieces.append(_text(x + PAD, bottom + 12, line, "small"))
            bottom, line = bottom + 16, ""
        line = f"{line} {word}".strip()
    if line:
        pieces.append(_text(x + PAD, bottom + 12, line, "small"))
        bottom += 18
    return [_box(x, y, w, bottom - y + 6, "box"), *pieces], bottom - y + 6


def picture() -> str:
    """The rooms by floor, and the way that data take through them, as SVG."""
    out: list[str] = [_box(20, 10, 240, 34, "disk"), _text(140, 32, "schemas/*.yaml", "", "middle")]
    flows: list[str] = []
    y = 44.0 + GAP
    flows.append(_arrow(140, 44, 140, y, "a shape stands here once"))
    for floor in FLOORS:
        share = (WIDTH - 40 - 16 * (len(floor) - 1)) / len(floor)
        widths = [share] * len(floor) if floor[0] != "schema" else [WIDTH - 40 - 16 - 300, 300.0]
        x, heights = 20.0, []
        for part, w in zip(floor, widths, strict=True):
            pieces, high = _part(part, x, y, w)
            out += pieces
            heights.append(high)
            x += w + 16
        y += max(heights)
        if floor == ("schema", "testing"):
            flows.append(_arrow(140, y, 140, y + GAP, "layouts: what is created is what is checked"))
        if floor == ("store",):
            disk = y + GAP
            out += [_box(380, disk, 300, 34, "disk"), _text(530, disk + 22, "a Zarr store", "", "middle")]
            flows.append(_arrow(440, y, 440, disk, "writing"))
            flows.append(_arrow(620, disk, 620, y, "reading", up=True))
            flows.append(_arrow(140, disk + 34 + GAP, 140, y, "sample(): draws, arrays to a sink per chain", up=True))
            flows.append(_arrow(860, y, 860, disk + 34 + GAP, "open_store(): a lazy tree"))
            y = disk + 34
        if floor == ("slt",):
            flows.append(_arrow(530, y, 530, y + GAP, "results: xarray objects with a schema of their own"))
        y += GAP
    out.append(_text(20, y - 4, "Everything may use errors, names and utils.", "small"))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 10:.0f}" role="img" '
        'aria-label="The rooms of the package, and the way of data through them">'
        f'<style>{STYLE}</style><defs><marker id="tip" markerWidth="9" markerHeight="9" refX="7" refY="3.5" '
        'orient="auto"><path class="tip" d="M0,0 L8,3.5 L0,7 z"/></marker></defs>'
    )
    return head + "".join(out + flows) + "</svg>\n"


def _arrow(x0: float, y0: float, x1: float, y1: float, text: str, *, up: bool = False) -> str:
    tip = y1 + 3 if up else y1 - 3
    middle = max(y0, y1) - GAP / 2 + 4 if abs(y1 - y0) <= GAP else (max(y0, y1) - 12)
    return f'<path class="flow" d="M{x0:.0f},{y0:.0f} L{x1:.0f},{tip:.0f}"/>' + _text(x0 + 9, middle, text, "way")
