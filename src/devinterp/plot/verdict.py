"""The verdict of ``diagnose()`` as a table: what is wrong is marked where the number stands that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from devinterp.plot.drawing.numbers import with_error
from devinterp.plot.drawing.style import NEUTRAL, new_axes, note, title
from devinterp.plot.tokens.decode import drawable, drawable_name
from devinterp.slt.diagnostics import ChainDiagnosis, Diagnosis, SeriesDiagnosis, StudyDiagnosis, diagnose
from devinterp.slt.diagnostics.diagnosis import TITLES
from devinterp.slt.runs.kind import kind_of
from devinterp.slt.runs.results import with_unit
from devinterp.slt.runs.run import Tree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

__all__ = ["verdict_table"]

# Wrong is told by a sign and by bold letters too, not by colour alone.
GOOD, BAD = "#0072B2", "#D55E00"
EFFECTIVE = "effective / needed"
COLUMNS = ("chains", "R-hat", EFFECTIVE, "rise", "drift")
OF_LOSSES = ("rise", "drift")
# Where columns begin, of a table that is so wide; letters are so wide there.
EDGES = (0.0, 0.17, 0.25, 0.35, 0.57, 0.81, 1.05)
WIDTH, LETTER, LONGEST_NAME, INCHES = 1.37, 0.0118, 34, 5.7  # inches for a width of 1
_MEANT: dict[str, tuple[str, ...]] = {
    "diverged": ("chains",),
    "incomplete": ("chains",),
    "below_start": ("rise",),
    "chains_disagree": ("R-hat",),
    "little_signal": ("rise",),
}
_NOT_CONVERGED = {"drift": "the loss still drifts", EFFECTIVE: "are worth"}


def verdict_table(
    obj: Tree | Diagnosis | StudyDiagnosis | SeriesDiagnosis, *, ax: Axes | None = None, limit: int | None = None
) -> list[Text]:
    """Draw what ``diagnose()`` says of a run, or of every run of a study or series.

    Parameters
    ----------
    obj : DataTree, Dataset, Diagnosis, StudyDiagnosis or SeriesDiagnosis
        A run, a study or a series, which is diagnosed first, or the diagnosis.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure that is as high as there are rows.
    limit : int, optional
        Draw only so many runs, those with something wrong first.

    Returns
    -------
    list of Text
        The verdict of every row.

    Notes
    -----
    Effective draws are those that the verdict rests on: fewer than R-hat's where chains share the noise of their
    minibatches. How many are needed depends on the number of complete chains.
    """
    if isinstance(obj, Diagnosis | StudyDiagnosis | SeriesDiagnosis):
        found = obj
    else:
        kind_of(obj)
        found = diagnose(obj)
    if isinstance(found, SeriesDiagnosis):
        found = found.runs
    runs: Mapping[str, Diagnosis] = found if isinstance(found, StudyDiagnosis) else {found.label or "run": found}
    shown = list(runs.items())
    if limit is not None and limit < len(shown):
        shown = sorted(shown, key=lambda item: item[1].good)[:limit]
    first = next(iter(runs.values()))
    chains = first.chains if len(runs) == 1 else ()
    lines = len(shown) + (len(chains) + 1.2 if chains else 0)
    names = drawable([name for name, _ in shown], longest=LONGEST_NAME, names=True)
    wider = max(0.0, LETTER * max(map(len, names)) - EDGES[1])  # names have room of their own
    ax = new_axes(ax, (INCHES * (WIDTH + wider), 0.8 + 0.22 * max(lines, 3)))
    edges = [EDGES[0], *(edge + wider for edge in EDGES[1:])]
    for edge, head in zip(edges[1:], (*COLUMNS, "verdict"), strict=True):
        ax.text(edge, -0.9, _head(head, first), fontsize=8, color=NEUTRAL, va="center")
    verdicts = []
    for row, (name, (_, diagnosis)) in enumerate(zip(names, shown, strict=True)):
        verdicts.append(_row(ax, edges, row, name, diagnosis))
    if chains:
        top = len(shown) + 0.8
        heads = ("chain", "draws", "effective", "rise", "drift", "spikes")
        for edge, head in zip((edges[0], *edges[2:]), heads, strict=True):
            ax.text(edge, top - 0.3, _head(head, first), fontsize=8, color=NEUTRAL, va="center")
        for row, chain in enumerate(chains):
            _chain_row(ax, edges, top + 0.7 + row, chain)
    ax.set_xlim(0, WIDTH + wider)
    ax.set_ylim(lines + 0.1, -1.6)
    ax.axhline(-0.5, color=NEUTRAL, linewidth=0.6)
    ax.set_axis_off()
    title(
        ax,
        f"diagnosis on {drawable_name(first.source, longest=36)}"
        + ("" if first.rows == "fixed" else " (minibatches: blind)"),
    )
    bad = sum(not d.good for d in runs.values())
    if len(runs) > 1:
        left_out = "" if len(shown) == len(runs) else f"; {len(shown)} shown"
        note(ax, f"{bad} of {len(runs)} runs have something wrong{left_out}")
    return verdicts


def _head(column: str, d: Diagnosis) -> str:
    return with_unit(column, d.unit) if column in OF_LOSSES else column


def _row(ax: Axes, edges: list[float], row: float, name: str, d: Diagnosis) -> Text:
    complete = sum(c.status == "complete" for c in d.chains)
    cells = {
        "chains": f"{complete}/{len(d.chains)}",
        "R-hat": _number(d.rhat, ".2f"),
        EFFECTIVE: d.effective_text(),
        "rise": with_error(d.rise, d.rise_se),
        "drift": with_error(d.drift, d.drift_se),
    }
    wrong = _wrong_columns(d)
    ax.text(edges[0], row, name, fontsize=8, va="center", parse_math=False)
    for edge, (column, text) in zip(edges[1:], cells.items(), strict=False):
        bad = column in wrong
        ax.text(
            edge,
            row,
            f"{text} ✗" if bad else text,
            fontsize=8,
            va="center",
            color=BAD if bad else None,
            fontweight="bold" if bad else "normal",
        )
    codes = list(dict.fromkeys(v.code for v in d.verdicts))
    label = TITLES[codes[0]] + (f" (+{len(codes) - 1})" if len(codes) > 1 else "")
    return ax.text(
        edges[6],
        row,
        f"{'✓' if d.good else '✗'} {label}",
        fontsize=8,
        va="center",
        color=GOOD if d.good else BAD,
        fontweight="bold",
    )


def _chain_row(ax: Axes, edges: list[float], row: float, chain: ChainDiagnosis) -> None:
    bad = chain.status != "complete"
    cells = (
        f"chain {chain.chain}" + (" ✗" if bad else ""),
        str(chain.n_draws),
        _number(chain.ess, ".0f"),
        _number(chain.rise, ".3g"),
        _number(chain.drift, "+.2g"),
        str(chain.n_spikes),
    )
    for edge, text in zip((edges[0], *edges[2:]), cells, strict=True):
        ax.text(edge, row, text, fontsize=8, va="center", color=BAD if bad else None)


def _wrong_columns(d: Diagnosis) -> set[str]:
    wrong: set[str] = set()
    for verdict in d.verdicts:
        if verdict.code == "not_converged":
            # The one verdict with several grounds, of which two have a column.
            wrong |= {column for column, said in _NOT_CONVERGED.items() if said in verdict.evidence}
        else:
            wrong |= set(_MEANT.get(verdict.code, ()))
    return wrong


def _number(value: Any, form: str) -> str:
    return "–" if value is None else format(value, form)
