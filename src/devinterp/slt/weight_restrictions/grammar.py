"""The grammar of restriction strings; knows no model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import EllipsisType
from typing import Literal

Kind = Literal["full", "embed", "unembed", "layer", "attn", "mlp", "head", "group", "module", "class", "name"]
Cut = tuple[int | slice | EllipsisType, ...]

FORMS = (
    '"full", "embed", "unembed", "l0", "l0 attn", "l0 mlp", "l0h1", "l0g0", "module:" with a path, "class:" with the '
    "name of a class, or a parameter name"
)

_HEAD = re.compile(r"l(\d+)\s*h(\d+)")
_GROUP = re.compile(r"l(\d+)\s*g(\d+)")
_LAYER = re.compile(r"l(\d+)(?:\s+(attn|mlp))?")
_TREE = re.compile(r"(module|class):\s*(.*)", re.I | re.S)
_BRACKETS = re.compile(r"(.*?)\s*(\[[^\[\]]*\])", re.S)


@dataclass(frozen=True)
class Restriction:
    """One parsed restriction.

    Attributes
    ----------
    kind : str
        What is selected; ``"name"`` means that the text is taken as a parameter's name.
    text : str
        The text as given, without surrounding space.
    layer, index : int or None
        The layer, and the head or key-value group in it, where the kind has them.
    path : str
        Of the kinds ``"module"`` and ``"class"``: a path or a class, in which stars may stand.
    brackets : str
        What stood behind a path, as given.
    cut : tuple or None
        The same, read: one place or slice per axis; None where no slice is asked for.
    """

    kind: Kind
    text: str
    layer: int | None = None
    index: int | None = None
    path: str = ""
    brackets: str = ""
    cut: Cut | None = None


def parse(text: str) -> Restriction:
    """Parse one restriction string.

    Letters may be of either case, but not in paths and classes; space may stand before, after, between layer and head
    (``"L0 H1"``) and in brackets, and must stand before ``attn`` and ``mlp``. What fits no form is taken as a
    parameter's name, in the case given.
    """
    stripped = text.strip()
    lowered = stripped.lower()
    match lowered:
        case "full" | "embed" | "unembed":
            return Restriction(lowered, stripped)
        case _:
            pass
    if match_ := _HEAD.fullmatch(lowered):
        return Restriction("head", stripped, int(match_[1]), int(match_[2]))
    if match_ := _GROUP.fullmatch(lowered):
        return Restriction("group", stripped, int(match_[1]), int(match_[2]))
    if match_ := _LAYER.fullmatch(lowered):
        component = match_[2]
        kind: Kind = "layer" if component is None else "attn" if component == "attn" else "mlp"
        return Restriction(kind, stripped, int(match_[1]))
    if match_ := _TREE.fullmatch(stripped):
        tree: Kind = "module" if match_[1].lower() == "module" else "class"
        if tree == "module" and (behind := _BRACKETS.fullmatch(match_[2])):
            cut = _read_cut(behind[2][1:-1])
            if cut is not None:
                return Restriction(tree, stripped, path=behind[1], brackets=behind[2], cut=cut)
        return Restriction(tree, stripped, path=match_[2])
    return Restriction("name", stripped)


def _read_cut(text: str) -> Cut | None:
    """Read integers, slices and one ellipsis as numpy does; None where the brackets hold something else."""
    read: list[int | slice | EllipsisType] = []
    for part in text.split(","):
        numbers = [piece.strip() for piece in part.split(":")]
        if numbers == ["..."] and Ellipsis not in read:
            read.append(Ellipsis)
        elif len(numbers) > 3 or not all(
            re.fullmatch(r"-?[0-9]{1,18}", n) or (n == "" and len(numbers) > 1) for n in numbers
        ):
            return None
        elif len(numbers) == 1:
            read.append(int(numbers[0]))
        elif numbers[2:] and numbers[2] and int(numbers[2]) == 0:
            return None
        else:
            read.append(slice(*(int(n) if n else None for n in numbers)))
    return tuple(read)
