"""`sample_restrictions`: a study, one run per weight restriction, all in one store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
import xarray as xr

from devinterp.errors import RestrictionError, SettingError
from devinterp.names import check_restriction_names, sanitize_observable_name
from devinterp.schema.definition.may_differ import overridable
from devinterp.slt.diagnostics.step_bias import warn_of_step
from devinterp.slt.sampling.engine.losses import LossFn
from devinterp.slt.sampling.inputs.rows import RowOptions
from devinterp.slt.sampling.running.coordinator import execute
from devinterp.slt.sampling.running.options import Execution
from devinterp.slt.sampling.running.run_plan import describe, make_plan
from devinterp.slt.sampling.settings import SamplerSettings
from devinterp.store import StoreLike
from devinterp.wording import one_of

__all__ = [
    "check_names",
    "check_overridable",
    "check_task",
    "masks",
    "overridden",
    "read_settings",
    "sample_restrictions",
]

FULL = "full"
_SETTINGS = frozenset(field.name for field in fields(SamplerSettings))
_OPTIONS = frozenset(field.name for field in fields(Execution))
_ROWS = frozenset(field.name for field in fields(RowOptions))


def sample_restrictions(
    model: torch.nn.Module,
    dataset: Any,
    observables: Mapping[str, Any],
    weight_restrictions: Mapping[str, Any],
    *,
    sampling_task: str,
    lr: float,
    n_beta: float,
    output_path: StoreLike | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    device: str | torch.device | None = None,
    loss_fn: LossFn | None = None,
    tokenizer: Any = None,
    **settings: Any,
) -> xr.DataTree:
    """Sample the same model once per weight restriction, into one store.

    Every restriction starts from the same weights and sees the same data. The initial losses are computed once for
    all. In a parallel run, each chain of each restriction is a task of its own.

    Parameters
    ----------
    model, dataset, observables, lr, n_beta, output_path, device, loss_fn, tokenizer
        As in `devinterp.slt.sampling.sample`.
    weight_restrictions : mapping of str to restriction
        By name, in the order that the study keeps. A restriction is None (every weight), a mapping of parameter names
        to masks, or anything that `devinterp.slt.weight_restrictions.create_param_masks` takes. ``"full"`` must be
        among them. The name becomes the name of the restriction's group, verbatim.
    sampling_task : str
        Which observable stands for the sampling dataset in the analysis.
    overrides : mapping of str to mapping, optional
        Settings that a restriction has for itself: ``lr``, ``num_chains``, ``num_draws``, ``num_burnin_steps``,
        ``num_steps_bw_draws``.
    **settings
        Every other keyword of `devinterp.slt.sampling.sample` except ``param_masks``.

    Returns
    -------
    xarray.DataTree
        Defined by the schema ``devinterp/study``; one child per restriction, lazily loaded.

    Raises
    ------
    SettingError, DataError, ModelError, RestrictionError
        Bad input: raised before any sampling, and no store is left behind.
    StoreExistsError, StoreConflictError, StoreLockedError
        Something else, another request's store, or a live writer is at `output_path`.
    AllChainsFailedError
        No chain of any restriction survived.

    Warns
    -----
    StepBiasWarning
        ``lr * localization`` is above 0.36, which inflates every variance by more than a tenth; before any sampling.
    ChainFailedWarning
        Some chains met a non-finite loss, logit or weight, and ended there.
    """
    common, options, about = read_settings("sample_restrictions", settings, lr=lr, n_beta=n_beta)
    options.check(output_path)
    options.begin(model)
    names = check_names(weight_restrictions)
    task = check_task(sampling_task, observables)
    own = overridden(common, names, overrides or {})
    warn_of_step([each.as_dict() for each in own.values()])
    variants = {f"/{name}": (own[name], masks(model, name, weight_restrictions[name])) for name in names}
    plan = make_plan(model, dataset, observables, variants, device=device, loss_fn=loss_fn, options=about)
    requests = describe(plan, tokenizer=tokenizer, target=output_path)
    root = {"config": {"sampling_task": task, "restrictions": list(names)}}
    return execute(plan, requests, output_path, options, root=root)


def read_settings(
    function: str, settings: Mapping[str, Any], *, lr: float, n_beta: float
) -> tuple[SamplerSettings, Execution, RowOptions]:
    """Split the keywords of ``sample()`` into what decides the draws, how they are made, and what is said of rows."""
    for name in settings.keys() - (_SETTINGS - {"lr", "n_beta"}) - _OPTIONS - _ROWS:
        raise SettingError(
            f"{function}() has no argument {name!r}.",
            expected="the keywords of sample(), without param_masks",
            found=repr(name),
            remedy="Put masks into weight_restrictions." if name == "param_masks" else None,
        )
    common = SamplerSettings.build(lr=lr, n_beta=n_beta, **{k: v for k, v in settings.items() if k in _SETTINGS})
    options = Execution(**{k: v for k, v in settings.items() if k in _OPTIONS})
    return common, options, RowOptions(**{k: v for k, v in settings.items() if k in _ROWS})


def check_names(weight_restrictions: object) -> tuple[str, ...]:
    """Return the names of the restrictions, in order; ``full`` must be among them."""
    if not isinstance(weight_restrictions, Mapping):
        raise RestrictionError(
            "weight_restrictions must map names to restrictions.",
            expected="a dict such as {'full': None, 'l0h1': 'l0h1'}",
            found=type(weight_restrictions).__name__,
        )
    names = check_restriction_names(weight_restrictions)
    if FULL not in names:
        raise RestrictionError(
            "The study has no restriction 'full', which every susceptibility is measured against.",
            expected="'full' among the restrictions",
            found=", ".join(map(repr, names)) or "none",
            remedy="Add 'full': None.",
        )
    return names


def check_task(sampling_task: object, observables: object) -> str:
    """Return the id of the observable that stands for the sampling dataset."""
    names = list(observables) if isinstance(observables, Mapping) else []
    if sampling_task not in names:
        raise SettingError(
            f"sampling_task {sampling_task!r} is not an observable of this study.",
            expected=one_of(names) if names else "an observable of that name",
            found=repr(sampling_task),
        )
    return sanitize_observable_name(str(sampling_task))


def overridden(
    common: SamplerSettings, names: tuple[str, ...], overrides: Mapping[str, Mapping[str, Any]]
) -> dict[str, SamplerSettings]:
    """Return the settings of each restriction."""
    unknown = sorted(map(str, overrides.keys() - set(names)))
    if unknown:
        raise RestrictionError(
            f"overrides names weight restrictions that are not there: {', '.join(map(repr, unknown))}.",
            expected=one_of(names),
        )
    allowed = overridable("restriction")
    own = {}
    for name in names:
        changes = overrides.get(name, {})
        check_overridable(changes, allowed, who=f"The restriction {name!r}", shared_by="all restrictions of a study")
        own[name] = common.override(**changes)
    return own


def check_overridable(changes: Mapping[str, Any], allowed: Sequence[str], *, who: str, shared_by: str) -> None:
    """Raise `SettingError` where one part of a run changes a setting that all parts must share."""
    for key in changes.keys() - set(allowed):
        raise SettingError(
            f"{who} overrides {key!r}, which {shared_by} must share.",
            expected=one_of(allowed),
            found=repr(key),
        )


def masks(model: torch.nn.Module, name: str, restriction: Any) -> Mapping[str, Any] | None:
    """Return the masks of one restriction, in whatever form it was given."""
    if restriction is None or isinstance(restriction, Mapping):
        return restriction
    from devinterp.slt import weight_restrictions

    create: Callable[[Any, Any], Mapping[str, Any]] = weight_restrictions.create_param_masks
    try:
        return create(model, restriction)
    except RestrictionError as error:
        error.add_note(f"in the weight restriction {name!r}")
        raise
