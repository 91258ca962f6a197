"""Compare two sets of masks and say what differs and why."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

EQUAL_BUT_TIED = "equal but for a tied unembed"
EQUAL, DIFFERENT, ONLY_OURS = "equal", "different", "not in the reference"

TIED = "tied weights: the reference looks for a name that the tie drops; ours gives the name of the shared parameter"
NAMES = "no name in the reference's table fits this release's parameters there, and it selects nothing"
NOTHING = "the layer has no such part: the reference selects nothing, ours raises"
LACKS = "the reference's table lacks parameters of that part"
EXTRA = "the reference's table has parameters that are none of that part"
SLICES = "the reference divides a projection among the heads wrongly"
RAISES = "the reference raises"
REFUSES = "ours refuses"


def kind_of(restriction: str) -> str:
    """The restriction without its numbers."""
    return re.sub(r"\d+", "N", restriction)


def explain(result: dict[str, Any], theirs: dict[str, Any] | None) -> dict[str, Any]:
    """Return the status of an architecture, and a line for each kind of difference."""
    masks = result["masks"]
    if theirs is None or _not_known(theirs):
        return {"status": ONLY_OURS, "why": _refusals(masks), "reasons": []}
    lines: dict[tuple[str, str], list[str]] = {}
    slices = False
    for restriction, mine in masks.items():
        reason, detail = _compare(mine, theirs[restriction], set(result["tied"]))
        if reason is None:
            continue
        slices |= reason == SLICES
        lines.setdefault((kind_of(restriction), reason), []).append(
            f"{restriction}: {detail}" if detail else restriction
        )
    why = [f"{kind}: {reason} ({len(found)}; {found[0]})" for (kind, reason), found in lines.items()]
    status = EQUAL_BUT_TIED if set(lines) == {("unembed", TIED)} else DIFFERENT if lines else EQUAL
    return {"status": status, "why": why, "reasons": sorted({reason for _, reason in lines}), "slices": slices}


def _not_known(theirs: dict[str, Any]) -> bool:
    return isinstance(theirs["l0"], str) and (
        "not in HEAD_STRUCTURES" in theirs["l0"] or "detect model type" in theirs["l0"]
    )


def _refusals(masks: dict[str, Any]) -> list[str]:
    found: dict[str, list[str]] = {}
    for restriction, text in masks.items():
        if isinstance(text, str):
            found.setdefault(re.sub(r"'l\d+[^']*'|layer \d+", "it", text), []).append(restriction)
    return [
        f"{', '.join(names[:4])}{'...' if len(names) > 4 else ''}: ours raises: {text}" for text, names in found.items()
    ]


def _compare(mine: Any, other: Any, tied: set[str]) -> tuple[str | None, str]:
    if isinstance(mine, str):
        if isinstance(other, str):
            return None, ""
        return (REFUSES, mine) if other else (NOTHING, "")
    if isinstance(other, str):
        return RAISES, other
    if list(mine) == list(other) and all(_same(mine[name], other[name]) for name in mine):
        return None, ""
    lacking = [name for name in mine if name not in other]
    if lacking and tied.intersection(lacking) and all(_same(mine[name], other[name]) for name in mine if name in other):
        return TIED, f"ours selects {', '.join(list(mine)[:3])}"
    if not other:
        return NAMES, f"ours selects {', '.join(list(mine)[:3])}"
    extra = [name for name in other if name not in mine]
    if extra:
        return EXTRA, ", ".join(extra[:3])
    wrong = [name for name in mine if name in other and not _same(mine[name], other[name])]
    if wrong:
        counts = ", ".join(f"{name} {_count(mine[name])} against {_count(other[name])}" for name in wrong[:2])
        return SLICES, counts
    return LACKS, ", ".join(lacking[:3])


def _same(mine: Any, other: Any) -> bool:
    return other is None if mine is None else other is not None and np.array_equal(mine, other)


def _count(mask: Any) -> str:
    return "all" if mask is None else f"{int(mask.sum())} of {mask.size}"
