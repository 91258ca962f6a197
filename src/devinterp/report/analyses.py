"""The sections with estimates: diagnosis, traces, LLC, influence, texts, susceptibilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from devinterp._html import Content, Markup, join, tag
from devinterp.errors import MissingVariableError, SettingError
from devinterp.plot.drawing.numbers import with_error
from devinterp.plot.drawing.style import legend, title
from devinterp.plot.influence import influence_matrix
from devinterp.plot.influence.rows import describe
from devinterp.plot.llc import llc_over_checkpoints, llc_per_chain
from devinterp.plot.metrics import QUANTITIES, TITLES, sgld_metrics
from devinterp.plot.susceptibility import susceptibility_classes
from devinterp.plot.susceptibility.classes import token_classes
from devinterp.plot.susceptibility.components import susceptibility_pca
from devinterp.plot.tokens import tokens
from devinterp.plot.tokens.coloured import TextRow, TokenText
from devinterp.plot.tokens.decode import token_strings
from devinterp.plot.traces import loss_traces
from devinterp.report.elements import listing, note, number, section
from devinterp.report.restrictions import MOST_RESTRICTIONS, class_table, llc_pictures, llc_table
from devinterp.report.subject import Subject
from devinterp.report.svg import picture
from devinterp.schema import load
from devinterp.slt.diagnostics import Diagnosis, SeriesDiagnosis, StudyDiagnosis, diagnose
from devinterp.slt.estimands import Estimand, resolve
from devinterp.slt.llc import compute_llc
from devinterp.slt.llc.of_run import best_average
from devinterp.slt.runs.kind import kind_of
from devinterp.slt.runs.results import with_unit

__all__ = [
    "diagnosis",
    "influence",
    "llc",
    "metrics",
    "numbers",
    "run_diagnosis",
    "susceptibilities",
    "texts",
    "traces",
]

MOST_SEQUENCES = 1500
PRODUCTS = 2e10  # multiplications that the strongest pairs may cost: a few seconds
PAIRS = 6


def run_diagnosis(subject: Subject) -> dict[str, Diagnosis]:
    """Diagnose every run of the main study."""
    found = diagnose(subject.main)
    return {found.label or "run": found} if isinstance(found, Diagnosis) else dict(_study(found))


def _study(found: StudyDiagnosis | SeriesDiagnosis) -> StudyDiagnosis:
    return found.runs if isinstance(found, SeriesDiagnosis) else found


def diagnosis(subject: Subject, found: dict[str, Diagnosis]) -> Markup:
    """Whether the runs can be trusted, with the evidence and what to try next."""
    first = next(iter(found.values()))
    heads = [
        "run",
        "verdict",
        "chains",
        "R-hat",
        "effective draws / needed",
        with_unit("rise", first.unit),
        with_unit("drift", first.unit),
        "evidence, what to try",
    ]
    wrong = sum(not d.good for d in found.values())
    order = sorted(found.items(), key=lambda item: item[1].good)
    shown = order if len(found) <= MOST_RESTRICTIONS else order[: min(max(wrong, 1), MOST_RESTRICTIONS)]
    rows = [_diagnosis_row(name, d) for name, d in shown]
    summary = f"{wrong} of {len(found)} runs have something wrong. " if len(found) > 1 else ""
    blind = "" if first.rows == "fixed" else " These are minibatches: they are blind to chains that disagree."
    parts: list[Content] = [
        note(f"{summary}Judged on {first.source}.{blind}"),
        listing(heads, rows, numbers=heads[2:7], wide=heads[7:]),
    ]
    rest = order[len(shown) :]
    if rest:
        folded = listing(heads[:-1], [_diagnosis_row(name, d)[:-1] for name, d in rest], numbers=heads[2:7])
        what = "good runs" if wrong <= len(shown) else f"more runs, {wrong - len(shown)} of them with something wrong,"
        parts.append(tag("details", tag("summary", f"{len(rest)} {what} in numbers"), folded))
    return section("diagnosis", "Can it be trusted?", *parts)


def _diagnosis_row(name: str, d: Diagnosis) -> list[Content]:
    state = "good" if d.good else "bad"
    titles = "; ".join(dict.fromkeys(v.title for v in d.verdicts))
    verdict = tag("span", ("✓ " if d.good else "✗ ") + titles, class_=state)
    evidence = [tag("div", v.evidence, *([tag("div", f"Try: {v.remedy}")] if v.remedy else [])) for v in d.verdicts]
    complete = sum(c.status == "complete" for c in d.chains)
    return [
        name,
        verdict,
        f"{complete}/{len(d.chains)}",
        number(d.rhat, ".2f"),
        d.effective_text(),
        with_error(d.rise, d.rise_se),
        with_error(d.drift, d.drift_se),
        join(*evidence),
    ]


def traces(subject: Subject) -> Markup:
    """Loss traces of the main run."""
    run = subject.full
    pictures = [_trace(subject, "trace", "Minibatch loss of every chain", None)]
    task = run.sampling_task()
    shown = [task] if task is not None else []
    shown += [name for name in run.observables if name != task]
    for index, name in enumerate(shown[:3]):
        pictures.append(_trace(subject, f"trace{index}", f"Loss of the fixed rows of {name}, every chain", name))
    which = f" of the run {run.label}" if run.label else ""
    return section("traces", f"Loss traces{which}", tag("div", pictures, class_="columns"))


def _trace(subject: Subject, name: str, alt: str, observable: str | None) -> Markup:
    def draw(ax: Any) -> None:
        loss_traces(subject.run, observable=observable, ax=ax)
        if ax.get_legend() is not None:  # a narrow page has room below, not beside
            legend(ax, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)

    return picture(name, alt, (4.8, 3.2), draw)


def llc(subject: Subject, estimand: Estimand) -> Markup:
    """The LLC, with its interval, as a picture and in numbers."""
    options: dict[str, Any] = {"ci": 0.9, "allow_partial": subject.partial}
    if subject.checkpoints:
        over = best_average(subject.main)
        # A report shows what is there: settings that differ are said above the picture.
        result = compute_llc(subject.tree, over=over, allow_mixed=True, **options)
        found = diagnose(subject.tree)
        verdicts = found if isinstance(found, SeriesDiagnosis) else None
        drawn = [
            picture(
                "llc", "LLC over training", (7, 3.4), lambda ax: llc_over_checkpoints(result, ax=ax, verdicts=verdicts)
            )
        ]
        table: Content = None
    else:
        result = compute_llc(subject.main, over=best_average(subject.main), **options)
        if "wr" in result.dims:
            drawn = llc_pictures(result)
        else:
            drawn = [picture("llc", "LLC of every chain", (4.8, 3), lambda ax: llc_per_chain(result, ax=ax))]
        table = llc_table(result)
    explained = note(
        "The local learning coefficient, n_beta times the rise of the mean loss over the loss at the start; "
        "dimensionless. Intervals account for autocorrelation and for the noise of the loss at the start. They are for "
        "this number at the step size, localization and length of chain of the run, not for the learning coefficient."
    )
    several = "wr" in result.dims and result.sizes["wr"] > MOST_RESTRICTIONS
    inside = [tag("div", drawn, class_="columns"), table] if several else [tag("div", drawn, table, class_="columns")]
    return section(estimand.kind, _heading(estimand), explained, *inside)


def numbers(subject: Subject, estimand: Estimand) -> Markup | None:
    """The numbers of an estimand that has no part of its own, where the store has what it is computed from."""
    if kind_of(subject.main) not in estimand.takes:
        return None
    try:
        result = estimand.function()(subject.main, allow_partial=subject.partial)
    except (MissingVariableError, SettingError):  # not sampled for this: a report shows what there is
        return None
    header, rows = resolve(estimand.records)(result)
    leading = next(iter(result.data_vars.values())).dims
    cells: list[list[Content]] = [
        [number(v, ".4g") if isinstance(v, float) else str(v) for v in row] for row in rows[:MOST_RESTRICTIONS]
    ]
    more = f" The first {MOST_RESTRICTIONS} of {len(rows)}." if len(rows) > MOST_RESTRICTIONS else ""
    heads = ["restriction" if h == "wr" else h.replace("_", " ") for h in header]
    said = note(load(estimand.kind).doc + more)
    return section(estimand.kind, _heading(estimand), said, listing(heads, cells, numbers=heads[len(leading) :]))


def _heading(estimand: Estimand) -> str:
    return estimand.title[0].upper() + estimand.title[1:]


def metrics(subject: Subject) -> Markup | None:
    """SGLD diagnostics, where they were saved."""
    if "metrics_scaled_grad" not in subject.full.dataset:
        return None
    drawn = [
        picture(f"metrics{i}", TITLES[q], (4.8, 3.2), lambda ax, q=q: sgld_metrics(subject.run, q, ax=ax))  # type: ignore[misc]
        for i, q in enumerate(QUANTITIES)
    ]
    return section("metrics", "The sampler", tag("div", drawn, class_="columns"))


def influence(subject: Subject, estimand: Estimand) -> Markup | None:
    """Which texts and tokens influence which."""
    from devinterp.slt.bif import compute_bif

    run = subject.full
    if not run.observables or run.dataset.sizes.get("draw", 0) < 2:
        return None
    source = subject.run
    total = sum(run.loss(name).sizes[f"batch_{name}"] for name in run.observables)
    tokens_per_row = run.loss(run.observables[0]).sizes["token_pos"]
    drawn: list[Content] = []
    if total <= MOST_SEQUENCES:
        matrix = compute_bif(source, correlation_method="sequence", allow_partial=subject.partial)
        drawn.append(
            picture(
                "bif",
                f"Influence between {'sequences' if run.has_tokens else 'rows'}",
                (5.4, 4.6),
                lambda ax: influence_matrix(matrix, ax=ax),
            )
        )
    if run.has_tokens:
        observations = run.dataset.sizes["chain"] * run.dataset.sizes["draw"]
        queries = int(min(total, max(1, PRODUCTS / (observations * total * tokens_per_row**2))))
        strongest = compute_bif(
            source,
            correlation_method="token",
            top_k=1,
            batch_index_range_1=list(np.unique(np.linspace(0, total - 1, queries).astype(int))),
            allow_partial=subject.partial,
        )
        among = f" Sought among all tokens, as partners of {queries} of the {total} sequences."
        drawn.append(_strongest_pairs(subject, strongest, among if queries < total else ""))
    explained = note(
        "The Bayesian influence function: the correlation over draws of two losses. Above zero, learning one helps "
        "the other. The diagonal, which is 1, is left out of the colour scale."
    )
    where = f" in the run {run.label}" if run.label else ""
    return section(estimand.kind, f"{_heading(estimand)}{where}", tag("div", drawn, class_="columns"), explained)


def _strongest_pairs(subject: Subject, top: xr.Dataset, among: str) -> Markup:
    first = top.isel(rank=0).transpose("batch_1", "target_position", "sign", ...)
    values, *partners = (first[name].values for name in ("influences", "partner_batch", "partner_position"))
    order = np.argsort(-np.abs(np.nan_to_num(values)), axis=None, kind="stable")
    ids = np.asarray(top["input_ids"].transpose("batch", "position").values)
    seen: set[frozenset[int]] = set()
    rows: list[list[Content]] = []
    for flat in order:
        place = np.unravel_index(flat, values.shape)
        if len(rows) == PAIRS or not np.isfinite(values[place]):
            break
        query = (int(top["batch_1"].values[place[0]]), int(top["target_position"].values[place[1]]))
        partner = (int(partners[0][place]), int(partners[1][place]))
        # Of two sequences with a passage in common, its every token would be in the list.
        if frozenset((query[0], partner[0])) in seen:
            continue
        seen.add(frozenset((query[0], partner[0])))
        cells = [_excerpt(subject, ids[b], p, describe(top, b), float(values[place])) for b, p in (query, partner)]
        rows.append([number(float(values[place]), "+.2f"), *cells])
    floor = top.attrs.get("noise_floor_strongest")
    noise = "" if floor is None else f" Of unrelated losses, the strongest would stay below {float(floor):.2f}."
    return tag(
        "div",
        tag("h3", "Strongest pairs of tokens"),
        listing(["correlation", "token", "token"], rows, numbers=["correlation"], wide=["token"])
        if rows
        else note("There are none."),
        note(
            "Of every two sequences the strongest pair; pairs within one and in shared beginnings are left out."
            f"{noise}{among}"
        ),
    )


def _excerpt(subject: Subject, ids: np.ndarray[Any, Any], position: int, sequence: str, value: float) -> Markup:
    """A token with what comes before it in its row, coloured by a value."""
    before = token_strings(ids[max(0, position - 24) : position + 1], subject.tokenizer)
    coloured = np.full(len(before), np.nan)
    coloured[-1] = value
    row = TextRow(f"{sequence}, position {position}", tuple(before), coloured, len(before) - 1)
    return TokenText((row,), "", "", 1.0, diverging=True).row_html(0, joined=subject.tokenizer is not None)


def texts(subject: Subject) -> Markup | None:
    """A few rows of every observable, coloured by how their loss changed."""
    run = subject.full
    if not run.has_tokens:
        return None
    shown = []
    for name in run.observables[:4]:
        by: Any = "change" if f"init_loss_{name}" in run.dataset else "loss"
        shown.append(tokens(subject.run, subject.tokenizer, by=by, observable=name, rows=None, most=2).to_html())
    if not shown:
        return None
    return section("texts", "Texts", tag("div", shown, class_="columns"))


def susceptibilities(subject: Subject, estimand: Estimand) -> Markup | None:
    """Which restriction answers to which tokens."""
    from devinterp.slt.susceptibilities import compute_susceptibilities

    members = subject.members
    if members is None or "full" not in members or len(members) < 2:
        return None
    run = subject.full
    task = run.sampling_task()
    if task is None:
        raise MissingVariableError("It is not known which observable is the sampling task.")
    alone = set(run.observables) == {task}
    baseline: Any = "observable" if f"init_loss_{task}" in run.dataset else "init"
    result = compute_susceptibilities(
        subject.main,
        task,
        include_sampling_task=alone or len(run.observables) < 3,
        baseline=baseline,
        allow_partial=subject.partial,
    )
    kept = _most_different(result, subject.tokenizer)
    left = result["susceptibilities"].sizes["wr"] - kept["susceptibilities"].sizes["wr"]
    count = kept["susceptibilities"].sizes["wr"]
    classes = 6 if subject.tokenizer is not None else max(2, len(run.observables))
    by = "class of tokens" if run.has_tokens else "observable"
    drawn = [
        picture(
            "classes",
            f"Mean susceptibility of every restriction to every {by}",
            (2.4 + 0.62 * classes, 1.7 + 0.21 * max(count, 4)),
            lambda ax: susceptibility_classes(kept, tokenizer=subject.tokenizer, ax=ax),
        )
    ]
    if count > 3 and not left:

        def differences(ax: Any) -> None:
            susceptibility_classes(kept, tokenizer=subject.tokenizer, standardize=True, ax=ax)
            title(ax, "less the mean of all restrictions")

        size = (2.4 + 0.62 * classes, 1.9 + 0.21 * count)
        drawn.append(picture("differences", f"In what the restrictions differ, by {by}", size, differences))
    if result["susceptibilities"].sizes["wr"] >= 3:
        drawn.append(
            picture("pca", "Loadings of the restrictions", (5, 4.2), lambda ax: susceptibility_pca(result, ax=ax))
        )
        drawn.append(
            picture(
                "scores",
                f"Scores of the {'tokens' if run.has_tokens else 'rows'}",
                (5.4, 4.2),
                lambda ax: susceptibility_pca(result, "tokens", tokenizer=subject.tokenizer, ax=ax),
            )
        )
    first = str(kept["susceptibilities"].to_dataset()["wr"].values[0])
    told = (
        "Standardised: raw values of two restrictions are not comparable. "
        f"Single {'tokens are noisy; classes' if run.has_tokens else 'rows are noisy; observables'} average them."
    )
    more = f" The {count} restrictions whose classes differ most, of {count + left}." if left else ""
    coloured = tokens(kept, subject.tokenizer, wr=first, most=2).to_html() if run.has_tokens else None
    table = class_table(result, subject.tokenizer) if left else None
    return section(
        estimand.kind, _heading(estimand), note(told + more), tag("div", drawn, class_="columns"), table, coloured
    )


def _most_different(result: xr.DataTree, tokenizer: Any) -> xr.DataTree:
    """Keep the restrictions whose classes differ most, in the order of the study."""
    from devinterp.slt.susceptibilities.matrix import matrix

    total = result["susceptibilities"].sizes["wr"]
    if total <= MOST_RESTRICTIONS:
        return result
    values = matrix(result, standardize="columns").values
    labels = token_classes(result, None, tokenizer)
    means = np.stack([values[labels == name].mean(axis=0) for name in np.unique(labels)])
    kept = np.sort(np.argsort(-np.ptp(means, axis=0), kind="stable")[:MOST_RESTRICTIONS])
    chosen = result["susceptibilities"].to_dataset().isel(wr=kept)
    groups = {"/susceptibilities": chosen, "/context": result["context"].to_dataset()}
    return xr.DataTree.from_dict(groups)
