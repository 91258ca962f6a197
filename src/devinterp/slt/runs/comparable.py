"""Whether runs may be combined: the same weights, rows and loss, sampled from posteriors of the same kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from devinterp.errors import ProvenanceError
from devinterp.plain_json import dig
from devinterp.slt.runs.run import Samples, Tree, metadata_of, series_members, study_members

__all__ = ["check_same_origin", "own_settings", "shared_provenance"]

# What the runs of a study must share. Masks differ by design; versions, lr and the numbers of chains and draws may.
PROVENANCE = ("weights", "dataset", "loss", "mode", "tokenizer")
SETTINGS = (
    "n_beta",
    "localization",
    "noise_level",
    "llc_weight_decay",
    "bounding_box_size",
    "sampling_method",
    "sampling_method_kwargs",
)
# What every run may have for itself: the estimates differ in their error, not in what they estimate.
OWN = ("lr", "num_chains", "num_draws", "num_burnin_steps", "num_steps_bw_draws")
# Runs that agree in these, and in how many rows they visit, visit the same rows of the same dataset.
ROUTE = (
    "config.sampler.init_seed",
    "config.sampler.shuffle",
    "config.sampler.batch_size",
    "config.sampler.gradient_accumulation_steps",
    "config.sampler.match_sampling_input_ids_across_chains",
    "provenance.visited.count",
)


def shared_provenance(obj: Tree) -> Mapping[str, Any]:
    """Return ``metadata.provenance`` of a run or result; of a study or series, the entries that all its runs share."""
    steps = series_members(obj)
    studies = [obj] if steps is None else list(steps.values())
    runs = [run for study in studies for run in (study_members(study) or {"": study}).values()]
    first, *others = [dig(metadata_of(run), "provenance") or {} for run in runs] or [{}]
    return {key: value for key, value in first.items() if all(key in o and o[key] == value for o in others)}


def check_same_origin(runs: Sequence[Samples], *, observables: Sequence[str]) -> None:
    """Compare every run with the first.

    Parameters
    ----------
    runs : sequence of Samples
        The runs that an analysis combines. What a run does not record is not compared.
    observables : sequence of str
        Ids of the observables that the analysis uses.

    Raises
    ------
    ProvenanceError
        They differ; the message names each difference.
    """
    reference = runs[0]
    problems = [
        f"{name} of {run.label or 'a run'!r} is {_short(theirs)}, of {reference.label or 'the first'!r} {_short(ours)}"
        for run in runs[1:]
        for name, ours, theirs in _differences(reference, run, observables)
    ]
    if problems:
        raise ProvenanceError(
            "The runs were not sampled from the same weights, rows, loss or posterior.",
            found="; ".join(problems),
            remedy="Sample them again with the same model, data and settings, or leave the odd ones out.",
        )


def _differences(first: Samples, other: Samples, observables: Sequence[str]) -> Iterator[tuple[str, Any, Any]]:
    paths = [f"provenance.{key}" for key in PROVENANCE]
    paths += [f"provenance.observables.{obs_id}" for obs_id in observables]
    paths += [f"config.sampler.{key}" for key in SETTINGS]
    for path in paths:
        ours, theirs = dig(first.metadata, path), dig(other.metadata, path)
        if ours is not None and theirs is not None and ours != theirs:
            yield path, ours, theirs
    if all(dig(first.metadata, path) == dig(other.metadata, path) for path in ROUTE):
        # The dataset's own hash looks at some rows of it; what was sampled on may differ in others.
        path = "provenance.visited.rows"
        ours, theirs = dig(first.metadata, path), dig(other.metadata, path)
        if ours is not None and theirs is not None and ours != theirs:
            yield path, ours, theirs
    unrecorded = dig(first.metadata, "config.sampler.n_beta") is None
    if unrecorded and all("n_beta" in run.dataset for run in (first, other)) and first.n_beta != other.n_beta:
        yield "n_beta", first.n_beta, other.n_beta


def own_settings(runs: Mapping[str, Samples]) -> dict[str, dict[str, Any]]:
    """Return, by setting and run, what the runs legitimately do not share; a setting that they share is left out."""
    found = {key: {name: run.setting(key) for name, run in runs.items()} for key in OWN}
    return {key: values for key, values in found.items() if len(set(values.values())) > 1}


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_short(part)}" for key, part in value.items()) + "}"
    text = repr(value)
    return text if len(text) <= 24 else f"{text[:17]}...{text[-4:]}"
