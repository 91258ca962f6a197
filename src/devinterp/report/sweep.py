"""The section of a sweep: every cell, and the setting that is recommended."""

from __future__ import annotations

from itertools import product

from devinterp._html import Content, Markup, tag
from devinterp.plot.sweep import panels_of, sweep_map
from devinterp.report.elements import listing, note, number, section
from devinterp.report.subject import Subject
from devinterp.report.svg import picture
from devinterp.slt.runs.grid import axes_of
from devinterp.slt.sweep.criteria import verdict_title
from devinterp.slt.sweep.recommend import Recommendation, recommend

__all__ = ["settings_swept"]


def settings_swept(subject: Subject) -> Markup | None:
    """Heat maps with verdicts, the recommendation with its evidence, and every cell in numbers."""
    summary = subject.sweep
    if summary is None:
        return None
    columns, rows = (int((summary[setting].values > 0).sum()) for setting in ("lr", "n_beta"))
    maps = [
        picture(
            f"sweep{i}",
            "LLC and verdict of every step size and inverse temperature at "
            + ", ".join(f"{name} {value:g}" for name, value in panel.items()),
            (1.6 + 0.95 * columns, 1.0 + 0.62 * rows),
            lambda ax, panel=panel: sweep_map(summary, ax=ax, panel=panel),  # type: ignore[misc]  # mypy: lambda
        )
        for i, panel in enumerate(panels_of(summary))
    ]
    return section(
        "sweep",
        "Which settings?",
        *_recommended(recommend(summary)),
        tag("div", maps, class_="columns"),
        _cells(subject),
    )


def _recommended(found: Recommendation) -> list[Content]:
    settings = ", ".join(f"{name} = {value:g}" for name, value in found.settings.items())
    head = "Recommended" if found.good else "No cell is good. The best of them"
    marks = {True: tag("span", "✓", class_="good"), False: tag("span", "✗", class_="bad"), None: tag("span", "?")}
    rows: list[list[Content]] = [[marks[c.met], c.name, c.evidence] for c in found.criteria]
    beaten: list[list[Content]] = [[f"{n.differs} = {n.settings[n.differs]:g}", n.reason] for n in found.neighbours]
    return [
        tag("p", f"{head}: {settings}", class_="good" if found.good else "bad"),
        listing(["", "criterion", "evidence"], rows, wide=["evidence"]),
        tag("h3", "Neighbours that it was preferred to"),
        listing(["setting", "why not"], beaten, wide=["why not"]) if beaten else note("There are none."),
        *(note(text) for text in found.notes),
    ]


def _cells(subject: Subject) -> Markup:
    summary = subject.sweep
    assert summary is not None
    rows: list[list[Content]] = []
    axes = axes_of(summary.coords)
    for place in product(*(range(summary.sizes[s]) for s in axes)):
        one = summary.isel(dict(zip(axes, place, strict=True)))
        verdict = str(one["verdict"].values[()])
        if verdict:
            settings = [number(float(one[s]), "g") for s in axes]
            numbers = [number(float(one[n])) for n in ("llc_mean", "llc_se", "ess_bulk", "rhat", "seconds")]
            rows.append([*settings, *numbers, str(int(one["num_draws"])), verdict_title(verdict)])
    heads = [*axes, "LLC", "±", "effective draws", "R-hat", "seconds", "draws", "verdict"]
    return tag("details", tag("summary", f"all {len(rows)} cells in numbers"), listing(heads, rows, numbers=heads[:-1]))
