"""The demo's tables, printed in the terminal and repeated on its page."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np
from rich.table import Table as RichTable

from devinterp.demo.analysis import CLASSES, CONFIDENCE, COPIED_KIND, TASK
from devinterp.demo.results import Results

__all__ = ["Table", "make_tables"]


@dataclass(frozen=True)
class Table:
    """A table that can be printed and put on a page.

    Parameters
    ----------
    title : str
        What it shows.
    columns : tuple of str
        Headers; all but the first column are numbers or short words, set flush right.
    rows : tuple of tuple of str
        Cells.
    strong : frozenset of int
        Rows to emphasise.
    note : str
        A line below.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: frozenset[int] = frozenset()
    note: str = ""

    def to_rich(self) -> RichTable:
        """Return the table for a terminal."""
        table = RichTable(title=self.title, caption=self.note or None, title_justify="left", caption_justify="left")
        for i, column in enumerate(self.columns):
            table.add_column(column, justify="right" if i else "left", no_wrap=i == 0)
        for i, row in enumerate(self.rows):
            table.add_row(*row, style="bold" if i in self.strong else None)
        return table

    def to_html(self) -> str:
        """Return the table for a page."""
        head = "".join(f"<th>{escape(column)}</th>" for column in self.columns)
        body = "".join(
            f"<tr{' class=strong' if i in self.strong else ''}>"
            + "".join(f"<td>{escape(cell)}</td>" for cell in row)
            + "</tr>"
            for i, row in enumerate(self.rows)
        )
        note = f"<p class=note>{escape(self.note)}</p>" if self.note else ""
        return (
            f"<div class=table><table><caption>{escape(self.title)}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}"
        )


def make_tables(results: Results) -> dict[str, Table]:
    """Make all tables.

    Keys are ``heads``, ``refined``, ``llc``, ``influence``, ``susceptibilities``, ``stores``.
    """
    return {
        "heads": _heads(results),
        "refined": _refined(results),
        "llc": _llc(results),
        "influence": _influence(results),
        "susceptibilities": _susceptibilities(results),
        "stores": _stores(results),
    }


def _heads(results: Results) -> Table:
    circuit, effects = results.comparison.circuit, results.comparison.measures["sampling"]
    order = sorted(range(len(circuit.names)), key=lambda i: -effects[circuit.names[i]])
    rows = []
    for i in order:
        name = circuit.names[i]
        own, held = results.comparison.heads.sel(wr=name), results.comparison.baselines.sel(wr=name)
        rows.append(
            (
                name,
                f"{circuit.prefix[i]:.2f}",
                f"{circuit.previous[i]:.2f}",
                f"{float(held['removed_copied']):.2f}",
                _interval(float(own["copied"]), own["copied_ci"].values),
                f"{float(held['noise_copied']):.2f} ± {1.645 * float(held['noise_copied_se']):.2f}",
                f"{float(held['control_copied']):.2f} ± {1.645 * float(held['control_copied_se']):.2f}",
                f"{100 * float(results.comparison.share_of_control.sel(wr=name)):.0f} %",
                _interval(float(own["task"]), own["task_ci"].values, 0),
                results.verdicts.get(name, ""),
            )
        )
    return Table(
        "Heads: loss rise on copied bytes (nat), by sampling and by what it is held against",
        (
            "head",
            "prefix",
            "previous",
            "removed",
            "sampled",
            "noise",
            "n_beta = 0",
            "of n_beta = 0",
            "n_beta × rise",
            "chains",
        ),
        tuple(rows),
        frozenset(place for place, i in enumerate(order) if circuit.names[i] in circuit.members),
        "prefix, previous: attention to what followed the same byte last time, and to the byte before (unit 1). "
        "removed: without the head. sampled: SGLD on its weights. noise: Gaussian noise of the same size in them. "
        f"n_beta = 0: the noise that localization alone allows. ±: half a {CONFIDENCE:.0%} interval. The last numbers "
        "speak of training rows: the sampled rise as a share of that at n_beta = 0, and n_beta times it (unit 1). "
        "Bold: the circuit that attention shows.",
    )


def _refined(results: Results) -> Table:
    names, found = results.comparison.circuit.names, results.refined
    effects = results.comparison.measures["sampling"]
    order = sorted(names, key=lambda name: -float(found["copied"].sel(wr=name)))
    rows = []
    for name in order:
        own = found.sel(wr=name)
        cells = (_interval(float(own[kind]), own[f"{kind}_ci"].values, 1) for kind in ("all", "copied"))
        verdicts = [results.verdicts.get(f"{kind}/{name}", "") for kind in (TASK, COPIED_KIND)]
        rows.append((name, *cells, f"{effects[name]:.2f}", ", ".join(dict.fromkeys(verdicts))))
    members = results.comparison.circuit.members
    return Table(
        f"LLC of each head at n_beta {results.settings.refined_n_beta:g} (unit 1)",
        ("head", "on all text", "on snippets: data-refined", "rise on copied bytes (nat)", "chains"),
        tuple(rows),
        frozenset(place for place, name in enumerate(order) if name in members),
        "On all text and on snippets: which text the chains sample on; n_beta times the rise of its own loss. ±: half "
        f"a {CONFIDENCE:.0%} interval on these rows. Last: the table above, sampled on all text. Bold: the circuit.",
    )


def _llc(results: Results) -> Table:
    found, training = results.checkpoints, results.training
    rows = []
    for step in found["checkpoint"].values:
        own, place = found.sel(checkpoint=step), int(np.argmin(np.abs(np.asarray(training.steps) - step)))
        rows.append(
            (
                f"{step}",
                f"{training.prefix[place]:.3f}",
                f"{training.second_half[place]:.2f}",
                _interval(float(own["task"]), own["task_ci"].values, 0),
                _interval(float(own["copied"]), own["copied_ci"].values),
                results.verdicts.get(f"{step}/full", ""),
            )
        )
    return Table(
        "The whole model along training",
        (
            "step",
            "prefix",
            "copied bytes",
            "n_beta × rise",
            "rise on copied",
            "chains",
        ),
        tuple(rows),
        note="step: of training. prefix: the best head's attention to what followed the same byte last time (unit 1). "
        "copied bytes: their loss at the trained weights (nat). n_beta × rise: of the loss on training rows (unit 1), "
        f"at n_beta {results.settings.checkpoint_n_beta:g}. "
        f"rise on copied: of the loss on copied bytes (nat). ±: half a {CONFIDENCE:.0%} interval.",
    )


def _influence(results: Results) -> Table:
    found = results.influence
    names = list(dict.fromkeys(found.kinds.tolist()))
    means = found.block_means
    rows = tuple((name, *(f"{value:+.3f}" for value in row)) for name, row in zip(names, means, strict=True))
    return Table(
        "Sequence influence, mean over pairs (unit 1)",
        ("", *names),
        rows,
        note="Bayesian influence function: correlation of two windows' losses over all draws, self pairs left out. "
        "'repeated' is shuffled bytes shown twice: it has no text in common with snippets, only copying.",
    )


def _susceptibilities(results: Results) -> Table:
    found, circuit = results.classes, results.comparison.circuit
    rows = []
    for name in circuit.names:
        own = found.sel(wr=name)
        cells = zip(own["centred"].values, own["centred_se"].values, strict=True)
        rows.append(
            (name, *(f"{100 * v:+.1f} ± {100 * e:.1f}" for v, e in cells), f"{float(own['reproducibility']):.2f}")
        )
    return Table(
        "Susceptibilities: class mean ± standard error over chains (0.01 standard deviations)",
        ("head", *CLASSES, "single bytes"),
        tuple(rows),
        frozenset(i for i, name in enumerate(circuit.names) if name in circuit.members),
        "Standard deviations over all bytes; less the mean of all heads. Lower: sampling the head costs these bytes "
        "more. Errors speak of the chains, not of the choice of windows. 'single bytes' is the correlation "
        "of their values between two halves of the chains. Bold: the circuit that attention shows.",
    )


def _stores(results: Results) -> Table:
    rows = tuple((path, "valid" if not count else f"{count} findings") for path, count in results.stores.items())
    return Table("Stores, reopened and validated at level 'values'", ("store", "profile strict"), rows)


def _interval(value: float, bounds: np.ndarray, digits: int = 2) -> str:
    return f"{value:.{digits}f} ± {(bounds[1] - bounds[0]) / 2:.{digits}f}"
