"""Whether runs may be combined: what differs between them, held against ``schemas/runs/may_differ.yaml``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from devinterp.errors import MissingVariableError, ProvenanceError
from devinterp.plain_json import dig
from devinterp.schema.definition.may_differ import SETTING, Combined, Entry, entries, settings_that, that
from devinterp.slt.runs.run import Samples, Tree, metadata_of, series_members, study_members
from devinterp.wording import shown

__all__ = ["check_cells", "check_curve", "check_same_origin", "own_settings", "shared_provenance"]

OBSERVED = "provenance.observables"
VISITED = "provenance.visited"


def shared_provenance(obj: Tree) -> Mapping[str, Any]:
    """Return ``metadata.provenance`` of a run or result; of a study or series, the entries that all its runs share."""
    steps = series_members(obj)
    studies = [obj] if steps is None else list(steps.values())
    runs = [run for study in studies for run in (study_members(study) or {"": study}).values()]
    first, *others = [dig(metadata_of(run), "provenance") or {} for run in runs] or [{}]
    return {key: value for key, value in first.items() if all(key in o and o[key] == value for o in others)}


def check_same_origin(runs: Mapping[str, Samples], *, observables: tuple[str, ...]) -> None:
    """Compare the runs of a study with the first of them.

    The table says what may differ. Beside the three checks here it is read by what samples several runs (`study`,
    `series`, `sample_sweep`), by resuming (`store.writing.compare_requests`), and by the validator's rules on members
    (`schema.rules.members`) with the stores made to obey them (`testing.valid`).

    Parameters
    ----------
    runs : mapping of str to Samples
        The runs that an analysis combines. What a run does not record is not compared.
    observables : tuple of str
        Ids of the observables that the analysis uses: the others may be of other rows.

    Raises
    ------
    ProvenanceError
        They differ; the message names each difference.
    """
    problems = _problems(runs, "study", observables)
    if problems:
        raise ProvenanceError(
            "The runs were not sampled from the same weights, rows, loss or posterior.",
            found="; ".join(problems),
            remedy="Sample them again with the same model, data and settings, or leave the odd ones out.",
        )


def check_cells(cells: Mapping[str, Samples]) -> None:
    """Compare the cells of a sweep with the first of them; as `check_same_origin`.

    Raises
    ------
    ProvenanceError
        They differ in more than a sweep varies.
    """
    problems = _problems(cells, "sweep", None)
    if problems:
        raise ProvenanceError(
            "The cells of the sweep differ in more than the settings that a sweep varies.",
            expected=f"the same but for {', '.join(settings_that('sweep', 'noted', 'freely'))}",
            found="; ".join(problems),
            remedy="Leave the odd ones out: tree.isel(cell=...), or del tree[CELL].",
        )


def check_curve(members: Mapping[int, Tree], *, allow_mixed: bool) -> tuple[str, ...]:
    """Return which settings differ between the checkpoints of a series, for the same restriction.

    Parameters
    ----------
    members : mapping of int to DataTree
        Studies by training step.
    allow_mixed : bool
        Accept that settings differ.

    Raises
    ------
    MissingVariableError
        There is no checkpoint.
    ProvenanceError
        The checkpoints were sampled with different settings and ``allow_mixed`` is false; or on different data, with
        another loss or with other masks.
    """
    if not members:
        raise MissingVariableError(
            "The selection has no checkpoint.", remedy="Widen it: series['checkpoint'] has the training steps."
        )
    seen: dict[tuple[str, str], tuple[int, Any]] = {}
    mixed: dict[str, str] = {}
    apart: dict[str, str] = {}
    for step, study in members.items():
        for restriction, tree in (study_members(study) or {}).items():
            told = _told(Samples.of(tree, label=restriction, allow_partial=True))
            for entry in that("series", "never", "asked"):
                if entry.path not in told:
                    continue
                value = told[entry.path]
                before_step, before = seen.setdefault((restriction, entry.path), (step, value))
                into = apart if entry.series == "never" else mixed
                if before != value and entry.name not in into:
                    into[entry.name] = (
                        f"{entry.name} of {restriction!r} is {shown(before, 72)} at checkpoint {before_step}, "
                        f"{shown(value, 72)} at checkpoint {step}"
                    )
    if apart:
        raise ProvenanceError(
            "The checkpoints of the series were sampled on different data, with another loss or with other masks.",
            found="; ".join(apart.values()),
            remedy="Sample them again on the same data, or analyse them one by one: tree['STEP'].",
        )
    if mixed and not allow_mixed:
        raise ProvenanceError(
            "The checkpoints of the series were sampled with different settings, so that they make no one curve.",
            found="; ".join(mixed.values()),
            remedy="Pass allow_mixed=True to have them side by side all the same, or analyse them one by one: "
            "tree['STEP'].",
        )
    return tuple(mixed)


def own_settings(runs: Mapping[str, Samples]) -> dict[str, dict[str, Any]]:
    """Return, by setting and run, what the runs of a study legitimately do not share; what they share is left out."""
    found = {key: {name: run.setting(key) for name, run in runs.items()} for key in settings_that("study", "noted")}
    return {key: values for key, values in found.items() if len(set(values.values())) > 1}


def _told(run: Samples) -> dict[str, Any]:
    """What a run tells of the entries of the table, by their path; what it does not tell is not there."""
    told = {}
    for path, entry in entries().items():
        above, _, key = path.rpartition(".")
        inside = dig(run.metadata, above) if above else run.metadata
        if isinstance(inside, Mapping) and key in inside and not (entry.unknown and inside[key] is None):
            told[path] = inside[key]
        elif isinstance(inside, Mapping) and entry.default is not None:
            told[path] = entry.default
    if f"{SETTING}n_beta" not in told and "n_beta" in run.dataset:
        told[f"{SETTING}n_beta"] = run.n_beta
    return told


def _between(
    first: Samples, ours: Mapping[str, Any], other: Samples, combined: Combined, observables: tuple[str, ...] | None
) -> Iterator[tuple[str, Any, Any]]:
    """Yield what two runs both tell, the first of them `ours`, tell differently, and may not differ in."""
    theirs = _told(other)

    def differ(entry: Entry) -> bool:
        return entry.path in ours and entry.path in theirs and ours[entry.path] != theirs[entry.path]

    for entry in that(combined, "never"):
        if entry.path == "config.observables":
            continue  # the rows themselves are compared
        if entry.path == OBSERVED and observables is not None:
            for obs_id in observables:
                one, two = dig(first.metadata, f"{OBSERVED}.{obs_id}"), dig(other.metadata, f"{OBSERVED}.{obs_id}")
                if one is not None and two is not None and one != two:
                    yield f"{OBSERVED}.{obs_id}", one, two
        elif differ(entry):
            yield entry.path, ours[entry.path], theirs[entry.path]
    # The dataset's own hash looks at some rows of it; what was sampled on may differ in others.
    same_rows = all(ours.get(e.path) == theirs.get(e.path) for e in that("rows", True))
    counts = [dig(run.metadata, f"{VISITED}.count") for run in (first, other)]
    rows = [dig(run.metadata, f"{VISITED}.rows") for run in (first, other)]
    if same_rows and counts[0] == counts[1] and None not in rows and rows[0] != rows[1]:
        yield f"{VISITED}.rows", *rows


def _problems(runs: Mapping[str, Samples], combined: Combined, observables: tuple[str, ...] | None) -> list[str]:
    """Say what every run may not differ in from the first, and does."""
    (first, reference), *others = runs.items()
    told = _told(reference)
    return [
        _difference(path, name, theirs, first, ours)
        for name, run in others
        for path, ours, theirs in _between(reference, told, run, combined, observables)
    ]


def _difference(path: str, name: str, theirs: Any, first: str, ours: Any) -> str:
    """Say what differs, and why it may not."""
    why = next((e.why for e in entries().values() if path == e.path or path.startswith(f"{e.path}.")), "")
    told = f"{path} of {name!r} is {shown(theirs, 72)}, of {first!r} {shown(ours, 72)}"
    return f"{told} ({why.rstrip('.')})" if why else told
