"""The page, from a store."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from devinterp._html import Content, Markup, join, tag
from devinterp.errors import DevinterpError, DevinterpWarning
from devinterp.plain_json import dig
from devinterp.report import analyses
from devinterp.report.elements import badge, facts, listing, nested, note, section
from devinterp.report.script import SCRIPT, SOURCE_HASH
from devinterp.report.style import SHEET
from devinterp.report.subject import Subject, open_subject
from devinterp.report.sweep import settings_swept
from devinterp.slt.estimands import ESTIMANDS, resolve
from devinterp.slt.runs.masked_means import row_mask
from devinterp.slt.runs.read_blocks import reading_once
from devinterp.store.location import StoreLike

__all__ = ["build_report", "write_report"]

# The page can ask nobody for anything, and runs no script but its own, whatever a store's names and texts try.
POLICY = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src '{SOURCE_HASH}'"
MOST_FINDINGS = 100


def build_report(
    store: StoreLike,
    *,
    tokenizer: Any = None,
    title: str | None = None,
    profile: str = "strict",
    level: Literal["structure", "completeness", "values"] = "completeness",
    follow_links: bool = False,
) -> str:
    """Return a report on a store as one HTML page that needs nothing but itself.

    Parameters
    ----------
    store : path, URL or zarr Store
        A run, a study, a series or a sweep; one that has not completed is reported on as far as it has come.
    tokenizer : optional
        Reads the token ids; see `devinterp.plot.tokens.decode.token_strings`.
    title : str, optional
        By default the store's name.
    profile, level, follow_links : str, str, bool
        How it is validated; see `devinterp.validate`.

    Returns
    -------
    str
        Every text that comes from the store is escaped.

    Raises
    ------
    StoreNotFoundError
        There is no store.
    StoreError
        There is no run in it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DevinterpWarning)  # what they say stands in the report
        subject = open_subject(store, tokenizer=tokenizer, profile=profile, level=level, follow_links=follow_links)
        with reading_once():
            parts = _sections(subject)
    heading = title or os.path.basename(subject.name.rstrip("/")) or subject.name
    links = [tag("a", name, href=f"#{anchor}") for anchor, name, _ in parts]
    header = tag("header", tag("h1", heading), _badges(subject), tag("nav", links))
    body = tag("body", header, *(part for *_, part in parts), tag("script", Markup(SCRIPT)))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", heading),
        tag("style", Markup(SHEET)),
    )
    return "<!DOCTYPE html>\n" + tag("html", head, body, lang="en") + "\n"


def write_report(store: StoreLike, output: str | os.PathLike[str], **options: Any) -> int:
    """Write `build_report` to a file, whole or not at all, and return its size in bytes.

    Parameters
    ----------
    store : path, URL or zarr Store
    output : path
        An existing file is replaced.
    **options
        As in `build_report`.
    """
    text = build_report(store, **options).encode("utf-8")
    path = Path(output)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(text)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return len(text)


def _sections(subject: Subject) -> list[tuple[str, str, Markup]]:
    """Every part that the store has something for: (anchor, name in the navigation, markup)."""
    builders: list[tuple[str, str, Callable[[], Markup | None]]] = [
        ("sampled", "what was sampled", lambda: _sampled(subject)),
        ("validation", "validation", lambda: _validation(subject)),
        ("sweep", "settings", lambda: settings_swept(subject)),
        ("traces", "traces", lambda: analyses.traces(subject)),
        ("diagnosis", "diagnosis", lambda: analyses.diagnosis(subject, analyses.run_diagnosis(subject))),
        *((e.kind, e.title, partial(resolve(e.section), subject, e)) for e in ESTIMANDS.values() if e.section),
        ("texts", "texts", lambda: analyses.texts(subject)),
        ("metrics", "sampler", lambda: analyses.metrics(subject)),
        ("provenance", "provenance", lambda: _provenance(subject)),
    ]
    parts = []
    for anchor, name, build in builders:
        try:
            made = build()
        except DevinterpError as error:
            # One analysis that this store cannot give must not cost the reader the others.
            made = section(anchor, name[0].upper() + name[1:], note(f"Not shown: {error}"))
        if made is not None:
            parts.append((anchor, name, made))
    return parts


def _badges(subject: Subject) -> Markup:
    status, report = subject.status, subject.validation
    chains = [c for run in status.runs for c in run.chains]
    failed = sum(c.status == "failed" for c in chains)
    errors = sum(f.count for f in report.errors)
    shown = [
        badge("completed", "good") if status.completed else badge("not completed", "bad"),
        badge(f"{len(chains) - failed} of {len(chains)} chains", "bad" if failed else "good"),
        badge(f"valid ({report.level})", "good") if report.ok else badge(f"not valid: {errors} findings", "bad"),
    ]
    return tag("div", shown, class_="badges")


def _sampled(subject: Subject) -> Markup:
    status, run = subject.status, subject.full
    sampler = dig(run.metadata, "config.sampler") or {}
    task = run.sampling_task()
    pairs: list[tuple[str, Content]] = [
        ("store", subject.name),
        ("schema", status.schema or "none named: recognised by its structure"),
    ]
    if subject.checkpoints:
        pairs.append(("checkpoints", ", ".join(subject.checkpoints)))
    if subject.sweep is not None:
        pairs += [("cells", str(len(status.runs))), ("shown below", f"the recommended cell, {subject.main.name}")]
    if subject.members is not None:
        names = list(subject.members)
        more = f" and {len(names) - 30} more" if len(names) > 30 else ""
        pairs.append((f"{len(names)} weight restrictions", ", ".join(names[:30]) + more))
    pairs += [("sampling task", task)] if task is not None else []
    for name in run.observables:
        losses = run.loss(name)
        counts = row_mask(run, name)
        some = "" if counts is None else f", of which {100 * counts.mean():.0f} % count"
        what = "predicted tokens" if run.has_tokens else "losses each"
        pairs.append((f"observable {name}", f"{losses.shape[2]} rows of {losses.shape[3]} {what}{some}"))
    if status.completed is False:
        done = sum(r.done for r in status.runs) / len(status.runs)
        pairs.append(("done", f"{100 * done:.1f} %"))
    pairs += [] if status.saved is None else [("saved", status.saved)]
    failed = [
        [r.group.strip("/") or "run", str(c), state.reason or state.status, str(state.draws)]
        for r in status.runs
        for c, state in enumerate(r.chains)
        if state.status not in ("complete", "running", "waiting")
    ]
    settings = facts([(str(k), "–" if v is None else str(v)) for k, v in sampler.items()])
    parts: list[Content] = [tag("div", facts(pairs), _settings(sampler, settings), class_="columns")]
    if failed:
        shown = listing(["run", "chain", "why", "draws"], failed[:50], numbers=["chain", "draws"], wide=["why"])
        parts += [tag("h3", f"Not complete: {len(failed)} of {sum(len(r.chains) for r in status.runs)} chains"), shown]
    return section("sampled", "What was sampled", *parts)


def _settings(sampler: Mapping[str, Any], everything: Markup) -> Markup:
    chief = ("lr", "n_beta", "localization", "num_chains", "num_draws", "num_burnin_steps", "num_steps_bw_draws")
    few = facts([(name, str(sampler[name])) for name in chief if name in sampler])
    return tag("div", few, tag("details", tag("summary", "every setting"), everything))


def _validation(subject: Subject) -> Markup:
    report = subject.validation
    told = f"Held against {report.schema or 'no known schema'}, profile {report.profile}, level {report.level}. "
    told += "Checked: " + ", ".join(f"{n} {what}" for what, n in report.checked.items() if n) + "."
    parts: list[Content] = [note(told)]
    if report.findings:
        heads = ["severity", "code", "where", "what", "expected", "found", "remedy"]
        rows = [
            [
                tag("span", f.severity, class_="bad" if f.severity == "error" else "dim"),
                str(f.code),
                f.path if f.count == 1 else f"{f.path} and {f.count - 1} more",
                f.message,
                f.expected or "",
                f.found or "",
                f.remedy or "",
            ]
            for f in report.findings[:MOST_FINDINGS]
        ]
        parts.append(listing(heads, rows, wide=heads[3:]))
        if len(report.findings) > MOST_FINDINGS:
            parts.append(note(f"{len(report.findings) - MOST_FINDINGS} more findings: see devinterp validate."))
    else:
        parts.append(tag("p", "No findings.", class_="good"))
    if report.not_checked:
        left = [tag("li", f"{n.path}: {n.what} ({n.why})") for n in report.not_checked]
        parts.append(tag("details", tag("summary", "not checked"), tag("ul", left)))
    return section("validation", "Is the store valid?", *parts)


def _provenance(subject: Subject) -> Markup | None:
    run = subject.full
    found = {k: run.metadata[k] for k in ("provenance", "run") if run.metadata.get(k)}
    if not found:
        return None
    parts = [tag("div", nested(value), class_="scroll") for value in found.values()]
    return section(
        "provenance", "Provenance", tag("details", tag("summary", "identities, versions, times"), join(*parts))
    )
