"""What the demo samples: a study of every head, and a series of the whole model across the transition."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from devinterp.demo.analysis import COPIED_KIND, FULL, REPEATED, TASK
from devinterp.demo.circuit import head_names
from devinterp.demo.corpus import KINDS, Corpus, Ids
from devinterp.demo.model import AttentionOnly, build_model
from devinterp.demo.settings import Settings
from devinterp.slt.sampling import from_state_dicts, sample, sample_checkpoints, sample_restrictions
from devinterp.slt.sampling.running.pool import worker_pool
from devinterp.slt.sampling.running.progress import ProgressEvent
from devinterp.slt.weight_restrictions import create_param_masks

__all__ = [
    "WEIGHTS",
    "Data",
    "sample_n_beta",
    "sample_refined",
    "sample_series",
    "sample_study",
    "workers",
]

WEIGHTS = "step-{checkpoint:05d}.pt"
TASK_BATCHES = 2  # twice the rows of the others: every estimate is held against this one

Show = Callable[[ProgressEvent], object]


class Data:
    """The windows that are sampled on, and the observables.

    Parameters
    ----------
    corpus : Corpus
        Where the windows are cut from.
    settings : Settings
        How many.

    Attributes
    ----------
    dataset : ndarray of int64, (row, token)
        Training windows, a quarter of each kind.
    observables : dict of str to ndarray, or to (ndarray, int)
        ``train``, the sampling task: rows of ``dataset``. Then held-out windows of each kind, and ``repeated``.
    copied : ndarray of int64, (row, token)
        Training windows of snippets alone: text that is copied.
    """

    def __init__(self, corpus: Corpus, settings: Settings) -> None:
        rng, rows = np.random.default_rng(settings.seed + 10), settings.batch_size
        self.dataset: Ids = rng.permutation(corpus.mixture(settings.dataset_rows, rng))
        self.observables: dict[str, Ids | tuple[Ids, int]] = {TASK: (self.dataset, TASK_BATCHES)}
        self.observables |= {kind: corpus.windows(kind, rows, rng, held_out=True) for kind in KINDS}
        self.observables[REPEATED] = corpus.repeated(rows, rng)
        self.copied: Ids = corpus.windows(COPIED_KIND, settings.dataset_rows, rng)


@contextmanager
def workers(count: int) -> Iterator[dict[str, Any]]:
    """Start processes for chains, and give the keyword arguments that make a run use them.

    Gives keyword arguments for ``sample_restrictions`` and ``sample_checkpoints``.
    """
    if count < 2:
        yield {"chain_method": "sequential", "threads_per_chain": 1}
        return
    with worker_pool(count) as executor:
        yield {"chain_method": "parallel", "executor": executor, "threads_per_chain": 1}


def sample_study(
    model: AttentionOnly,
    data: Data,
    settings: Settings,
    path: Path,
    *,
    circuit: Collection[str],
    show: Show,
    execution: Mapping[str, Any],
) -> xr.DataTree:
    """Sample the whole model and each head alone into one store, heads of the circuit by smaller steps.

    Returns a study: ``full``, ``l0h0``, ``l0h1``, ...
    """
    restrictions = _restrictions(model)
    steps = {name: settings.lr_of(name, circuit) for name in restrictions if restrictions[name] is not None}
    return sample_restrictions(
        model,
        data.dataset,
        data.observables,
        restrictions,
        sampling_task=TASK,
        overrides={name: {"lr": lr, **settings.pace(lr)} for name, lr in steps.items()},
        output_path=path,
        progress=show,
        **settings.sampler(settings.num_draws, lr=settings.lr, n_beta=settings.n_beta),
        **execution,
    )


def sample_refined(
    model: AttentionOnly,
    data: Data,
    settings: Settings,
    path: Path,
    *,
    kind: str,
    show: Show,
    execution: Mapping[str, Any],
) -> xr.DataTree:
    """Sample the same restrictions at ``refined_n_beta``, on all text or on copied text alone, and observe that text.

    ``kind`` is `TASK` or `COPIED_KIND`. Returns a study. For one model and one restriction
    `devinterp.slt.llc.data_refined_llc` does this, and computes, in one call.
    """
    rows = data.dataset if kind == TASK else data.copied
    return sample_restrictions(
        model,
        rows,
        {kind: (rows, TASK_BATCHES)},
        _restrictions(model),
        sampling_task=kind,
        output_path=path,
        progress=show,
        **settings.sampler(settings.refined_draws, lr=settings.refined_lr, n_beta=settings.refined_n_beta),
        **execution,
    )


def _restrictions(model: AttentionOnly) -> dict[str, str | None]:
    heads = head_names(model.config.num_hidden_layers, model.config.num_attention_heads)
    return {FULL: None} | {name: name for name in heads}


def sample_series(
    weights: Path, data: Data, settings: Settings, path: Path, *, show: Show, execution: Mapping[str, Any]
) -> xr.DataTree:
    """Sample the whole model as it was at every checkpoint, into one store.

    Returns a series with the observables that the learning coefficient is estimated on.
    """
    return sample_checkpoints(
        from_state_dicts(lambda: build_model(settings.seed), weights, WEIGHTS),
        settings.checkpoints,
        data.dataset,
        {name: data.observables[name] for name in (TASK, REPEATED)},
        sampling_task=TASK,
        output_path=path,
        progress=show,
        **settings.sampler(settings.checkpoint_draws, lr=settings.checkpoint_lr, n_beta=settings.checkpoint_n_beta),
        **execution,
    )


def sample_n_beta(
    model: AttentionOnly,
    head: str,
    n_beta: float,
    data: Data,
    settings: Settings,
    path: Path,
    *,
    show: Show,
    execution: Mapping[str, Any],
) -> xr.DataTree:
    """Sample one head as in the study, at another inverse temperature.

    Returns a run that observes training rows.
    """
    return sample(
        model,
        data.dataset,
        {TASK: data.observables[TASK]},
        param_masks=create_param_masks(model, head),
        output_path=path,
        progress=show,
        **settings.sampler(settings.num_draws, lr=settings.head_lr, n_beta=n_beta),
        **execution,
    )
