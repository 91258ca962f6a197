"""`devinterp demo`: text, training, sampling, stores, results, in one go."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from devinterp.cores import available_cores
from devinterp.demo.analysis import (
    COPIED_KIND,
    FULL,
    TASK,
    head_effects,
    influence,
    llc_over_checkpoints,
    llc_over_n_beta,
    refined_llc,
    susceptibility_classes,
)
from devinterp.demo.baselines import baselines
from devinterp.demo.circuit import Circuit, find_circuit
from devinterp.demo.comparison import Comparison
from devinterp.demo.corpus import HALF, Corpus, load_corpus
from devinterp.demo.model import AttentionOnly, build_model
from devinterp.demo.page.show import SNIPPET, introduction, show
from devinterp.demo.results import Results
from devinterp.demo.sampling import (
    WEIGHTS,
    Data,
    sample_n_beta,
    sample_refined,
    sample_series,
    sample_study,
    workers,
)
from devinterp.demo.settings import Settings
from devinterp.demo.train import Training, train
from devinterp.schema import Report, validate
from devinterp.slt.diagnostics import Diagnosis, SeriesDiagnosis, diagnose
from devinterp.slt.sampling.running.progress import ProgressEvent

__all__ = ["main"]

STUDY, SERIES, N_BETA, REFINED = "study.zarr", "checkpoints.zarr", "n-beta-{:g}.zarr", "n-beta-{:g}-{}.zarr"

Advance = Callable[[int], None]


def main(out: Path, quick: bool = False) -> int:
    """Train a small transformer on real text, sample around it, and show what was found.

    Parameters
    ----------
    out : Path
        Folder for stores, weights, figures and the page; made when it is not there. When a run was interrupted, the
        next one to the same folder goes on with its stores.
    quick : bool
        Go the same way within seconds, too short a training to see anything.

    Returns
    -------
    int
        0 when no store has a finding of severity error, else 1.

    Raises
    ------
    DataError
        This Python lacks the files that the demo learns from.
    StoreConflictError
        ``out`` has the stores of other settings or of other weights (another Python, torch or machine).
    """
    console, settings, started = _console(), Settings.quick() if quick else Settings(), time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    corpus, model = load_corpus(), build_model(settings.seed)
    intro = introduction(corpus, model, settings)
    console.print(intro, highlight=False)
    with _one_thread():
        training = _train(model, corpus, settings, console)
        _save_weights(training, out / "weights")
        circuit, scale = _attention(model, corpus, settings), _weight_scale(model)
        paths = _sample(
            model, circuit, Data(corpus, settings), settings, out, console, 1 if quick else available_cores()
        )
    with _stage(console, "reopening and validating", len(paths)) as advance:
        reports = {}
        for path in paths.values():
            reports[path] = validate(path)
            advance(1)
    with _stage(console, "analysing", 6) as advance:
        results = _analyse(paths, reports, settings, model, training, circuit, scale, advance)
    page = show(results, intro, out, console)
    console.print(SNIPPET.format(study=out / STUDY, series=out / SERIES), highlight=False, markup=False, soft_wrap=True)
    console.print(f"Done in {time.monotonic() - started:.0f} s. Open {page} in a browser.", highlight=False)
    return 0 if all(report.ok for report in reports.values()) else 1


def _train(model: AttentionOnly, corpus: Corpus, settings: Settings, console: Console) -> Training:
    with _stage(console, f"training, {settings.train_steps} steps", settings.train_steps) as advance:
        return train(
            model,
            corpus,
            steps=settings.train_steps,
            checkpoints=settings.checkpoints,
            seed=settings.seed,
            report=lambda _step, _loss: advance(1),
        )


def _save_weights(training: Training, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for checkpoint in training.checkpoints:
        torch.save(checkpoint.state, folder / WEIGHTS.format(checkpoint=checkpoint.step))


def _attention(model: AttentionOnly, corpus: Corpus, settings: Settings) -> Circuit:
    ids = corpus.repeated(64, np.random.default_rng(settings.seed + 20))
    return find_circuit(model.attention(torch.from_numpy(ids)).numpy(), HALF, HALF + 1)


def _weight_scale(model: AttentionOnly) -> float:
    weights = torch.cat([p.detach().flatten() for name, p in model.named_parameters() if ".attn." in name])
    return float(weights.square().mean().sqrt())


def _sample(
    model: AttentionOnly,
    circuit: Circuit,
    data: Data,
    settings: Settings,
    out: Path,
    console: Console,
    processes: int,
) -> dict[str, Path]:
    """Sample everything, ``model`` as it was trained; return the stores by what they hold."""
    paths = {"study": out / STUDY, "series": out / SERIES}

    heads, draws = circuit.names, settings.num_draws
    with workers(min(processes, settings.num_chains)) as execution:
        sizes = [settings.lr, *(settings.lr_of(each, circuit.members) for each in heads)]
        total = sum(settings.steps(draws, lr) for lr in sizes)
        with _stage(console, f"sampling the model and each of its {len(heads)} heads", total) as advance:
            members, meter = circuit.members, _Meter(advance)
            sample_study(model, data, settings, paths["study"], circuit=members, show=meter, execution=execution)
        count = len(settings.checkpoints)
        total = count * settings.steps(settings.checkpoint_draws, settings.checkpoint_lr)
        with _stage(console, f"sampling {count} checkpoints", total) as advance:
            sample_series(out / "weights", data, settings, paths["series"], show=_Meter(advance), execution=execution)
        kinds = (TASK, COPIED_KIND)
        total = len(kinds) * (len(heads) + 1) * settings.steps(settings.refined_draws, settings.refined_lr)
        with _stage(console, f"sampling them on all text and on {COPIED_KIND} alone", total) as advance:
            for kind in kinds:
                paths[kind] = path = out / REFINED.format(settings.refined_n_beta, kind)
                meter = _Meter(advance)
                sample_refined(model, data, settings, path, kind=kind, show=meter, execution=execution)
        level, head = settings.n_beta_share * settings.n_beta, circuit.induction
        with _stage(
            console, f"sampling {head} at n_beta {level:g}", settings.steps(draws, settings.head_lr)
        ) as advance:
            paths["n_beta"] = path = out / N_BETA.format(level)
            sample_n_beta(model, head, level, data, settings, path, show=_Meter(advance), execution=execution)
    return paths


def _analyse(
    paths: Mapping[str, Path],
    reports: Mapping[Path, Report],
    settings: Settings,
    model: AttentionOnly,
    training: Training,
    circuit: Circuit,
    scale: float,
    advance: Advance,
) -> Results:
    # Plain xarray: what anybody would open the stores with.
    trees = {name: xr.open_datatree(path, engine="zarr", consolidated=False) for name, path in paths.items()}
    study, series = trees["study"], trees["series"]
    whole = study.children[FULL]
    heads = head_effects(study)
    advance(1)
    with _one_thread():
        held = baselines(model, study, circuit, settings)
    advance(1)
    n_betas = llc_over_n_beta(study, circuit.induction, (trees["n_beta"], trees[TASK].children[circuit.induction]))
    refined = refined_llc(trees[TASK], trees[COPIED_KIND])
    advance(1)
    checkpoints = llc_over_checkpoints(series)
    advance(1)
    influenced = influence(whole, settings.permutations)
    advance(1)
    classes = susceptibility_classes(study)
    advance(1)
    verdicts = {name: found.verdict.title for name, found in _diagnoses(study).items()}
    verdicts |= {name: found.verdict.title for name, found in _diagnoses(series).items()}
    for kind in (TASK, COPIED_KIND):
        verdicts |= {f"{kind}/{name}": found.verdict.title for name, found in _diagnoses(trees[kind]).items()}
    root = paths["study"].parent
    findings = {str(path.relative_to(root)): len(report) for path, report in reports.items()}
    return Results(
        settings,
        scale,
        training,
        Comparison(circuit, heads, held, settings.n_beta),
        refined,
        n_betas,
        checkpoints,
        classes,
        influenced,
        verdicts,
        findings,
    )


def _diagnoses(tree: xr.DataTree) -> Mapping[str, Diagnosis]:
    """Every run's diagnosis by its path: ``l0h1`` of a study, ``3000/full`` of a series."""
    found = diagnose(tree)
    if isinstance(found, SeriesDiagnosis):
        return found.runs
    return {found.label: found} if isinstance(found, Diagnosis) else found


def _console() -> Console:
    """Return a console as wide as the terminal, or as the tables where a file or a pipe reads them."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


class _Meter:
    """Turns the events of many chains into one bar's progress."""

    def __init__(self, advance: Advance) -> None:
        self._advance, self._seen = advance, dict[tuple[str | None, int], int]()

    def __call__(self, event: ProgressEvent) -> None:
        key = (event.restriction, event.chain)
        self._advance(max(0, event.step - self._seen.get(key, 0)))
        self._seen[key] = max(event.step, self._seen.get(key, 0))


@contextmanager
def _stage(console: Console, name: str, total: int) -> Iterator[Advance]:
    """Show a bar while it lasts, and a line with the seconds when it is done."""
    started = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=total)
        yield lambda steps: progress.advance(task, steps)
    console.print(f"  {time.monotonic() - started:5.1f} s  {name}", highlight=False)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: the same numbers whatever the number of cores, and no slower at this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
