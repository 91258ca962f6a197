"""`sample_checkpoints`: the same study at several checkpoints of one training run, all in one store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from devinterp.errors import MissingDependencyError, SettingError, StoreNotFoundError
from devinterp.schema.definition.may_differ import overridable
from devinterp.slt.diagnostics.step_bias import warn_of_step
from devinterp.slt.sampling.engine.losses import LossFn
from devinterp.slt.sampling.running.coordinator import complete_run, open_finished, sample_part
from devinterp.slt.sampling.running.options import shared_workers
from devinterp.slt.sampling.running.run_plan import RunPlan, check_visited, describe, make_plan
from devinterp.slt.sampling.settings import SamplerSettings
from devinterp.slt.sampling.study import (
    check_names,
    check_overridable,
    check_task,
    masks,
    overridden,
    read_settings,
)
from devinterp.store import Container, SamplesRequest, StoreLike, locate, open_run

__all__ = ["from_revisions", "from_state_dicts", "sample_checkpoints"]

Load = Callable[[int], torch.nn.Module]


def sample_checkpoints(
    load: Load,
    checkpoints: Sequence[int],
    dataset: Any,
    observables: Mapping[str, Any],
    *,
    sampling_task: str,
    lr: float,
    n_beta: float,
    weight_restrictions: Mapping[str, Any] | None = None,
    output_path: StoreLike | None = None,
    overrides: Mapping[int | str | tuple[int, str], Mapping[str, Any]] | None = None,
    device: str | torch.device | None = None,
    loss_fn: LossFn | None = None,
    tokenizer: Any = None,
    **settings: Any,
) -> xr.DataTree:
    """Sample every weight restriction at every checkpoint, into one store.

    One checkpoint is in memory at a time. Each is loaded twice: first to check and identify it, so that nothing is
    sampled before all of them are known to work, then to be sampled. A finished series takes further checkpoints,
    restrictions and chains, and with ``keep_state=True`` further draws, without computing anything again.

    Parameters
    ----------
    load : callable
        ``load(checkpoint) -> model``; see `from_state_dicts` and `from_revisions`.
    checkpoints : sequence of int
        Training steps, distinct and not negative; the store keeps their order.
    dataset, observables, sampling_task, lr, n_beta, output_path, device, loss_fn, tokenizer
        As in `devinterp.slt.sampling.sample_restrictions`.
    weight_restrictions : mapping of str to restriction, optional
        As in `devinterp.slt.sampling.sample_restrictions`; by default ``{"full": None}``.
    overrides : mapping, optional
        Settings of their own: by checkpoint (``{3000: {"n_beta": 10.0}}``) ``lr``, ``n_beta``, ``localization``,
        ``llc_weight_decay``, ``noise_level``, ``bounding_box_size``, the sampling method, and the numbers of chains,
        draws, burn-in steps and steps between draws; by restriction (``{"full": {"num_draws": 400}}``), or by both
        (``{(3000, "full"): {"lr": 1e-4}}``), what `devinterp.slt.sampling.sample_restrictions` takes. The narrower
        one counts: both, then restriction, then checkpoint. An analysis puts checkpoints that were sampled from
        different posteriors into one curve only with ``allow_mixed=True``.
    **settings
        Every other keyword of `devinterp.slt.sampling.sample` except ``param_masks``.

    Returns
    -------
    xarray.DataTree
        Defined by the schema ``devinterp/series``: ``/{checkpoint}/{restriction}``, lazily loaded.

    Raises
    ------
    SettingError, DataError, ModelError, RestrictionError, StoreExistsError, StoreConflictError, StoreLockedError
        As in `devinterp.sample_restrictions`.
    AllChainsFailedError
        No chain of any checkpoint survived.

    Warns
    -----
    StepBiasWarning, ChainFailedWarning
        As in `devinterp.sample_restrictions`.
    """
    steps = _check_checkpoints(checkpoints)
    common, options, about = read_settings("sample_checkpoints", settings, lr=lr, n_beta=n_beta)
    options.check(output_path)
    options.begin()
    restrictions = {"full": None} if weight_restrictions is None else weight_restrictions
    names = check_names(restrictions)
    task = check_task(sampling_task, observables)
    own = _own_settings(common, steps, names, overrides or {})
    warn_of_step([each.as_dict() for of_step in own.values() for each in of_step.values()])

    def prepare(step: int) -> tuple[RunPlan, dict[str, SamplesRequest]]:
        model = load(step)
        variants = {f"/{name}": (own[step][name], masks(model, name, restrictions[name])) for name in names}
        plan = make_plan(model, dataset, observables, variants, device=device, loss_fn=loss_fn, options=about)
        requests = describe(plan, tokenizer=tokenizer, target=output_path, below=f"/{step}")
        placed = {f"/{step}{group}": variant for group, variant in plan.variants.items()}
        return replace(plan, variants=placed), {f"/{step}{group}": request for group, request in requests.items()}

    requests: dict[str, SamplesRequest] = {}
    for step in steps:
        plan, described = prepare(step)
        if output_path is not None:
            check_visited(plan, locate(output_path))
        requests |= described
    del plan  # the last model need not wait in memory while the first is sampled
    with open_run(
        output_path,
        requests,
        containers=_containers(steps, names, task),
        resume=bool(options.resume),
        keep_state=options.keep_state,
        checkpoint_every=options.checkpoint_every,
    ) as run:
        if not run.finished:
            remaining = {group for group, _ in run.remaining()}
            with shared_workers(options, tasks=len(run.remaining())) as shared:
                for step in steps:
                    groups = [f"/{step}/{name}" for name in names]
                    if remaining.intersection(groups):
                        sample_part(prepare(step)[0], run.part(groups), shared)
            complete_run(run)
        return open_finished(run)


def _check_checkpoints(checkpoints: object) -> list[int]:
    steps = list(checkpoints) if isinstance(checkpoints, Sequence) and not isinstance(checkpoints, str) else None
    good = steps is not None and all(isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in steps)
    if not steps or not good or len(set(steps)) < len(steps):
        raise SettingError(
            "checkpoints must name training steps.",
            expected="a sequence of distinct integers that are not negative, such as [0, 100, 1000]",
            found=repr(checkpoints),
        )
    return steps


def _own_settings(
    common: SamplerSettings,
    steps: list[int],
    names: tuple[str, ...],
    overrides: Mapping[Any, Mapping[str, Any]],
) -> dict[int, dict[str, SamplerSettings]]:
    """Return the settings of every run."""
    by_step = {key: changes for key, changes in overrides.items() if isinstance(key, int)}
    by_name = {key: changes for key, changes in overrides.items() if isinstance(key, str)}
    by_both = {key: changes for key, changes in overrides.items() if isinstance(key, tuple)}
    unknown: list[Any] = [key for key in by_step if key not in steps]
    unknown += [key for key in by_both if len(key) != 2 or key[0] not in steps or key[1] not in names]
    unknown += [key for key in overrides if not isinstance(key, int | str | tuple)]
    if unknown:
        raise SettingError(
            f"overrides names what is not in the series: {', '.join(map(repr, unknown))}.",
            expected=f"a checkpoint ({', '.join(map(str, steps[:5]))}{', ...' if len(steps) > 5 else ''}), the name of "
            "a restriction, or a tuple of both",
            found=repr(unknown[0]),
        )
    overridden(common, names, by_name)  # refuses names that are not there
    own = {}
    for step in steps:
        changes = by_step.get(step, {})
        check_overridable(
            changes,
            overridable("checkpoint"),
            who=f"The checkpoint {step}",
            shared_by="all checkpoints of a series",
        )
        narrower = {name: {**by_name.get(name, {}), **by_both.get((step, name), {})} for name in names}
        own[step] = overridden(common.override(**changes), names, narrower)
    return own


def _containers(steps: list[int], names: tuple[str, ...], task: str) -> dict[str, Container]:
    study = {"config": {"sampling_task": task, "restrictions": list(names)}}
    root = {"config": {**study["config"], "checkpoints": list(steps)}}
    above = {f"/{step}": Container("devinterp/study@1", study) for step in steps}
    return {"/": Container("devinterp/series@1", root, {"checkpoint": list(steps)}), **above}


def from_state_dicts(
    build: Callable[[], torch.nn.Module], folder: str | Path, pattern: str = "{checkpoint}.pt"
) -> Load:
    """Return a ``load`` for a folder of state dicts that ``torch.save`` wrote.

    Parameters
    ----------
    build : callable
        Makes the model that the state dicts belong to.
    folder : path
    pattern : str
        File name, with ``{checkpoint}`` for the training step.

    Returns
    -------
    callable
        Raises `StoreNotFoundError` where a checkpoint's file is missing.
    """
    place = Path(folder)

    def load(checkpoint: int) -> torch.nn.Module:
        path = place / pattern.format(checkpoint=checkpoint)
        if not path.is_file():
            raise StoreNotFoundError(f"There is no state dict of checkpoint {checkpoint} at {path}.")
        model = build()
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return model

    return load


def from_revisions(name: str, revision: str = "step{checkpoint}", **kwargs: Any) -> Load:
    """Return a ``load`` for a HuggingFace model whose checkpoints are revisions, as Pythia's are.

    Parameters
    ----------
    name : str
        Model id or path.
    revision : str
        Revision name, with ``{checkpoint}`` for the training step.
    **kwargs
        Passed to ``AutoModelForCausalLM.from_pretrained``.

    Raises
    ------
    MissingDependencyError
        transformers is not installed.
    """
    try:
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise MissingDependencyError(
            "Loading a HuggingFace model needs transformers.", remedy="pip install transformers"
        ) from error

    def load(checkpoint: int) -> torch.nn.Module:
        model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(
            name, revision=revision.format(checkpoint=checkpoint), **kwargs
        )
        return model

    return load
