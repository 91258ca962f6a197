"""The grammar of restriction strings; knows no model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["full", "embed", "unembed", "layer", "attn", "mlp", "head", "group", "name"]

FORMS = '"full", "embed", "unembed", "l0", "l0 attn", "l0 mlp", "l0h1", "l0g0", or a parameter name'

_HEAD = re.compile(r"l(\d+)\s*h(\d+)")
_GROUP = re.compile(r"l(\d+)\s*g(\d+)")
_LAYER = re.compile(r"l(\d+)(?:\s+(attn|mlp))?")


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
    """

    kind: Kind
    text: str
    layer: int | None = None
    index: int | None = None


def parse(text: str) -> Restriction:
    """Parse one restriction string.

    Letters may be of either case; space may stand before, after, and between layer and head (``"L0 H1"``), and must
    stand before ``attn`` and ``mlp``. What fits no form is taken as a parameter's name, in the case given.
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
    return Restriction("name", stripped)
