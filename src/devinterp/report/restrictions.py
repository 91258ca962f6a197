"""What a report shows of many weight restrictions: both ends of the list, a map, and every number in a table."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp._html import Content, Markup, tag
from devinterp.plot.drawing.numbers import with_error
from devinterp.plot.drawing.style import NEUTRAL, PALETTE, SEQUENTIAL, add_colorbar, note, title
from devinterp.plot.llc import llc_over_restrictions
from devinterp.plot.llc.intervals import LABEL
from devinterp.plot.susceptibility.classes import class_means
from devinterp.report.elements import listing, number
from devinterp.report.svg import picture
from devinterp.slt.runs.results import with_unit

__all__ = ["MOST_RESTRICTIONS", "class_table", "llc_pictures", "llc_table"]

MOST_RESTRICTIONS = 40
ENDS = 20
FEWEST_HEADS = 24
_HEAD = re.compile(r"l(\d+)h(\d+)")


def llc_pictures(result: xr.Dataset) -> list[Markup]:
    """Draw the LLC of every restriction; of many, both ends of the list and a map of the heads or of the ranks."""
    count = result.sizes["wr"]
    if count <= MOST_RESTRICTIONS:
        size = (5.6, 0.9 + 0.2 * max(count, 3))
        return [
            picture(
                "llc",
                "LLC of every weight restriction",
                size,
                lambda ax: llc_over_restrictions(result, ax=ax, sort=True),
            )
        ]
    means = np.asarray(result["llc_mean"].values, dtype=float)
    order = np.argsort(-np.nan_to_num(means, nan=-np.inf), kind="stable")
    size = (5.6, 0.9 + 0.2 * ENDS)
    drawn = []
    for name, which, chosen in (("llc", "largest", order[:ENDS]), ("llc-least", "smallest", order[-ENDS:])):

        def draw(ax: Any, which: str = which, chosen: npt.NDArray[np.int64] = chosen) -> None:
            llc_over_restrictions(result.isel(wr=chosen), ax=ax)
            note(ax, f"the {ENDS} {which} of {count}")

        drawn.append(picture(name, f"The {ENDS} {which} LLCs of {count} weight restrictions", size, draw))
    heads = _heads(result)
    if heads is not None:
        drawn.append(_map_of_heads(*heads))
    else:
        drawn.append(picture("llc-ranks", "LLC of all restrictions, sorted", (5.6, 3.2), lambda ax: _ranks(result, ax)))
    return drawn


def _heads(result: xr.Dataset) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]] | None:
    """Return (layer, head) of the restrictions that are single heads, and their LLC, where these make a map."""
    found = [_HEAD.fullmatch(str(name)) for name in result["wr"].values]
    at = [i for i, match in enumerate(found) if match is not None]
    if len(at) < FEWEST_HEADS:
        return None
    places = np.array([[int(g) for g in match.groups()] for match in found if match is not None])
    height, width = places.max(axis=0) + 1
    if min(height, width) < 2 or height * width > 4 * len(at):
        return None
    return places, np.asarray(result["llc_mean"].values, dtype=float)[at]


def _map_of_heads(places: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> Markup:
    height, width = (int(n) + 1 for n in places.max(axis=0))
    grid = np.full((height, width), np.nan)
    grid[places[:, 0], places[:, 1]] = values

    def draw(ax: Any) -> None:
        image = ax.imshow(grid, cmap=SEQUENTIAL, aspect="auto", interpolation="nearest")
        for which, size in (("x", width), ("y", height)):
            getattr(ax, f"set_{which}ticks")(range(0, size, max(1, size // 12)))
        ax.set_xlabel("head")
        ax.set_ylabel("layer")
        title(ax, "LLC of single heads")
        add_colorbar(ax, image, LABEL)

    size = (float(np.clip(1.6 + 0.26 * width, 3.6, 5.6)), float(np.clip(0.9 + 0.2 * height, 2.6, 8.0)))
    return picture("llc-heads", "LLC of every head, by layer", size, draw)


def _ranks(result: xr.Dataset, ax: Any) -> None:
    means = np.asarray(result["llc_mean"].values, dtype=float)
    order = np.argsort(-np.nan_to_num(means, nan=-np.inf), kind="stable")
    low, high = np.asarray(result["llc_ci"].transpose("bound", "wr").values, dtype=float)[:, order]
    rank = np.arange(1, means.size + 1)
    ax.fill_between(rank, low, high, color=PALETTE[0], alpha=0.3, linewidth=0)
    ax.plot(rank, means[order], color=PALETTE[0])
    ax.axhline(0, color=NEUTRAL, linewidth=0.8)
    ax.set_xlabel("rank")
    ax.set_ylabel(LABEL)
    title(ax, "all restrictions, sorted")


def llc_table(result: xr.Dataset) -> Markup:
    """Return the LLC in numbers; of a study a row for each restriction, folded away where there are many."""
    start = with_unit("loss at the start", result["init_loss"].attrs["units"])
    heads = ["LLC", "90 % from", "to", "std over chains", start]
    columns = {name: np.atleast_1d(result[name].values) for name in ("llc_mean", "llc_std", "init_loss")}
    ends = np.atleast_2d(result["llc_ci"].transpose(..., "bound").values)
    rows: list[list[Content]] = [
        [*map(number, (float(mean), float(low), float(high), float(spread), float(start)))]
        for mean, (low, high), spread, start in zip(
            columns["llc_mean"], ends, columns["llc_std"], columns["init_loss"], strict=True
        )
    ]
    if "wr" not in result.dims:
        return listing(heads, rows, numbers=heads, stack=True)
    named = [[str(name), *row] for name, row in zip(result["wr"].values, rows, strict=True)]
    full = listing(["restriction", *heads], named, numbers=heads)
    return tag("details", tag("summary", f"all {len(rows)} in numbers"), full, open=len(rows) <= MOST_RESTRICTIONS)


def class_table(result: xr.DataTree, tokenizer: Any) -> Markup:
    """Return the mean susceptibility of every restriction to every class of tokens, in numbers."""
    names, sizes, means, errors = class_means(result, None, tokenizer, "columns")
    heads = [f"{name} ({size})" for name, size in zip(names, sizes, strict=True)]
    restrictions = result["susceptibilities"].to_dataset()["wr"].values
    rows: list[list[Content]] = [
        [str(wr), *(with_error(float(m), float(e)) for m, e in zip(mean, error, strict=True))]
        for wr, mean, error in zip(restrictions, means, errors, strict=True)
    ]
    full = listing(["restriction", *heads], rows, numbers=heads)
    return tag("details", tag("summary", f"all {len(rows)} restrictions, in standard deviations"), full)
