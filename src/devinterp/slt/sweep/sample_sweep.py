"""`sweep`: the same run at every setting of a grid, short first, longer where it promises something, in one store."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import xarray as xr

from devinterp.errors import SettingError, StoreConflictError
from devinterp.names import SECONDARY, swept_value
from devinterp.plain_json import dig
from devinterp.schema.definition.may_differ import settings_that
from devinterp.schema.reading.keys import STATE_FOLDER
from devinterp.slt.diagnostics.step_bias import LARGEST_INFLATION, least_inflation
from devinterp.slt.runs.grid import SETTINGS, axes_of, cell_name
from devinterp.slt.sampling.engine.losses import LossFn
from devinterp.slt.sampling.inputs.rows import RowOptions
from devinterp.slt.sampling.running.coordinator import sample_part
from devinterp.slt.sampling.running.finish import open_quietly, validate_store
from devinterp.slt.sampling.running.options import Execution, shared_workers
from devinterp.slt.sampling.running.run_plan import RunPlan, Variant, check_visited, describe, make_plan
from devinterp.slt.sampling.settings import SamplerSettings
from devinterp.slt.sampling.study import check_task, read_settings
from devinterp.slt.sweep.recommend import promising
from devinterp.slt.sweep.summary import compute_sweep
from devinterp.store import Container, Location, Run, SamplesRequest, StoreLike, locate, open_run
from devinterp.store.filesystem import remove_empty
from devinterp.store.reading.path_state import read_group
from devinterp.store.writing.run import remove_states
from devinterp.utils import starting_points
from devinterp.wording import shown

__all__ = ["sweep"]

Cells = dict[str, SamplerSettings]


def sweep(
    model: torch.nn.Module,
    dataset: Any,
    observables: Mapping[str, Any],
    *,
    grid: Mapping[str, Sequence[float]] | None = None,
    sampling_task: str | None = None,
    num_chains: int = 4,
    num_draws: int = 200,
    pilot_chains: int | None = None,
    pilot_draws: int | None = None,
    extend: int = 3,
    control: bool = True,
    param_masks: Mapping[str, Any] | None = None,
    output_path: StoreLike | None = None,
    device: str | torch.device | None = None,
    loss_fn: LossFn | None = None,
    tokenizer: Any = None,
    **settings: Any,
) -> xr.DataTree:
    """Sample a grid of step sizes, inverse temperatures, localizations and more, into one store.

    Every cell gets a short pilot. The most promising ones are then given the full number of chains and draws, which
    go on from where the pilots ended. A chain whose loss is not finite ends there, and a cell that diverged is not
    extended; neither is an error. All cells see the same rows, and the initial losses are computed once.

    Calling again with the same arguments resumes what was interrupted, or returns what is there. Cells that the store
    has already are kept, so that a second call with other values adds theirs. With ``keep_state=True`` a later call
    may also ask for a larger ``extend``, ``num_draws`` or ``pilot_draws``.

    Parameters
    ----------
    model, dataset, observables, param_masks, output_path, device, loss_fn, tokenizer
        As in `devinterp.slt.sampling.sample`. Observe rows of `dataset`: verdicts on minibatches are blind to chains
        that disagree.
    grid : mapping of str to sequence of float, optional
        Values of ``lr``, ``n_beta`` and ``localization``; one that is left out is given as a keyword, as in
        `devinterp.slt.sampling.sample`. Without a grid, those that are not keywords are searched around what models of
        this size were published with (`devinterp.utils.starting_points`): that lr and a third of it, n_beta 10, 30
        and 100, localization 10, 100 and the largest of 300 and 1000, as far as lr * localization stays below the 0.36
        at which the step alone inflates a variance by a tenth (a longer lr that is given gets a weaker one).
        ``batch_size``, ``rmsprop_eps`` and ``rmsprop_alpha`` may be varied besides, the latter two with
        ``sampling_method="rmsprop_sgld"``. A batch is taken in micro-batches of the smallest size, which divides the
        others: all cells observe the same rows, as many of each observable as with the smallest, and need as much
        memory.
    sampling_task : str, optional
        The observable that verdicts rest on. By default the one whose rows are the dataset's.
    num_chains, num_draws : int
        Of the cells that are extended.
    pilot_chains, pilot_draws : int, optional
        Of every cell. By default 2 chains, and a quarter of the draws, at least 25.
    extend : int
        How many cells are given the full number of draws; 0 leaves it at the pilots.
    control : bool
        Add n_beta = 0 to the grid: where the loss plays no part, the rise is what localization alone allows.
    **settings
        Every other keyword of `devinterp.slt.sampling.sample`. ``save_metrics`` is true unless given, since the
        step's bias is measured from them.

    Returns
    -------
    xarray.DataTree
        Defined by the schema ``devinterp/sweep``; one child per cell, lazily loaded. Next:
        ``tree.devinterp.recommend()``, ``tree.devinterp.sweep()``, ``tree.devinterp.plot.sweep()``.

    Raises
    ------
    SettingError, DataError, ModelError, RestrictionError
        Bad input: raised before any sampling, and no store is left behind.
    StoreExistsError, StoreConflictError, StoreLockedError
        Something else, another request's store, or a live writer is at `output_path`. Also where a cell is to be
        extended that did not keep its chains' states.
    """
    full = {"num_chains": num_chains, "num_draws": num_draws}
    if grid is None:
        grid = _default_grid(sum(parameter.numel() for parameter in model.parameters()), settings)
    asked, options, about = _read_grid(grid, {"save_metrics": True, **settings, **full}, control=control)
    axes = axes_of(grid)
    options.check(output_path)
    options.begin()
    first = next(iter(asked.values()))
    pilot = _pilot(first, pilot_chains, pilot_draws)
    if isinstance(extend, bool) or not isinstance(extend, int) or extend < 0:
        raise SettingError("extend must be a number of cells.", expected="an integer, at least 0", found=repr(extend))
    task = None if sampling_task is None else check_task(sampling_task, observables)
    stored = {} if output_path is None else _stored(locate(output_path, mode="w"), first, axes)
    # Built for the longest that any cell may become: all of them share the rows that the longest visits.
    longest = {"num_chains": first.num_chains, "num_draws": first.num_draws}
    everything = {n: _at_least(s, longest) for n, s in {**asked, **stored}.items()}
    variants = {f"/{name}": (each, param_masks) for name, each in everything.items()}
    plan = make_plan(model, dataset, observables, variants, device=device, loss_fn=loss_fn, options=about)
    cells = {n: stored[n] if n in stored else s.override(**pilot) for n, s in {**stored, **asked}.items()}
    cells = {n: _at_least(s, pilot) if n in asked else s for n, s in cells.items()}
    temporary = output_path is None
    requests = describe(_with(plan, cells), tokenizer=tokenizer, target=output_path)
    with shared_workers(options, tasks=sum(each.num_chains for each in cells.values())) as workers:
        work = _Sweep(plan, requests, task, workers, axes)
        location, fresh = work.carry_out(cells, output_path, temporary=temporary)
        longer = _promising(open_quietly(location), cells, asked, task, longest, extend)
        if longer:
            cells |= {name: _at_least(cells[name], longest) for name in longer}
            work.carry_out(cells, location.folder or location.store, temporary=temporary)
    if (fresh or longer) and not options.keep_state:
        remove_states(location)
        if location.folder is not None:
            remove_empty(location.folder / STATE_FOLDER)
    return open_quietly(location)


@dataclass
class _Sweep:
    """What the stages of one call share."""

    plan: RunPlan
    requests: Mapping[str, SamplesRequest]
    task: str | None
    options: Execution
    axes: tuple[str, ...]

    def carry_out(self, cells: Cells, target: StoreLike | None, *, temporary: bool) -> tuple[Location, bool]:
        """Bring every cell to its number of chains and draws; return where, and whether anything had to be done."""
        plan = _with(self.plan, cells)
        if target is not None:
            check_visited(plan, locate(target))
        # Whether a pilot is to go on is not known before it has ended.
        with self._open(plan, cells, target, keep_state=True) as run:
            run.temporary = temporary
            if run.finished:
                return run.location, False
            groups = _open_groups(run)
            if groups:
                part = replace(plan, variants={g: plan.variants[g] for g in groups})
                sample_part(part, run.part(groups), replace(self.options, keep_state=True))
            run.note_seconds()
            run.complete(validate_store)
            return run.location, True

    def _open(self, plan: RunPlan, cells: Cells, target: StoreLike | None, *, keep_state: bool) -> Run:
        requests = {}
        for group, variant in plan.variants.items():  # as described for the pilots, but for the length
            known = self.requests[group]
            provenance = {**known.provenance, "visited": plan.data.visited(variant.settings)}
            requests[group] = replace(known, parameters=variant.settings.as_dict(), provenance=provenance)
        config: dict[str, Any] = {"cells": list(cells)}
        if self.task is not None:
            config["sampling_task"] = self.task
        coordinates: dict[str, list[Any]] = {"cell": list(range(len(cells)))}
        coordinates |= {name: [swept_value(s.as_dict(), name) for s in cells.values()] for name in self.axes}
        root = Container("devinterp/sweep@1", {"config": config}, coordinates, grows=("cells",))
        return open_run(
            target,
            requests,
            containers={"/": root},
            resume=bool(self.options.resume),
            keep_state=keep_state,
            checkpoint_every=self.options.checkpoint_every,
        )


def _with(plan: RunPlan, cells: Cells) -> RunPlan:
    """Return the plan with the lengths that ``cells`` have."""
    variants = {f"/{n}": Variant(settings, plan.variants[f"/{n}"].masks) for n, settings in cells.items()}
    return replace(plan, variants=variants)


def _read_grid(grid: object, settings: Mapping[str, Any], *, control: bool) -> tuple[Cells, Execution, RowOptions]:
    """Return the settings of every cell, in full length, how they are carried out, and what is said of rows."""
    if not isinstance(grid, Mapping) or not grid:
        raise SettingError(
            "grid must map settings to the values to try.",
            expected="a dict such as {'lr': [1e-4, 1e-3], 'n_beta': [10, 30]}",
            found=repr(grid),
        )
    axes: dict[str, list[float]] = {}
    for name, values in grid.items():
        if name not in (*SETTINGS, *SECONDARY):
            expected = f"some of {shown([*SETTINGS, *SECONDARY])}"
            raise SettingError("A sweep does not vary this.", expected=expected, found=repr(name))
        if name in settings:
            raise SettingError(f"{name} is given twice, in grid and as a keyword.", remedy="Leave one of them out.")
        if isinstance(values, str) or (not isinstance(values, Sequence) and not hasattr(values, "tolist")):
            raise SettingError(f"The values of {name} must be a sequence.", found=repr(values))
        axes[name] = [_value(name, value) for value in values]
        if not axes[name] or len(set(axes[name])) < len(axes[name]):
            raise SettingError(f"The values of {name} must be distinct, at least one.", found=repr(values))
    rest = dict(settings)
    for name in SETTINGS:
        if name not in axes:
            if name not in rest and name != "localization":
                raise SettingError(f"The sweep needs {name}, in grid or as a keyword.")
            axes[name] = [_value(name, rest.pop(name, SamplerSettings.localization))]
    if control and 0.0 not in axes["n_beta"]:
        axes["n_beta"].insert(0, 0.0)
    common, options, about = read_settings("sweep", rest, lr=axes["lr"][0], n_beta=axes["n_beta"][0])
    names = axes_of(axes)
    smallest = int(min(axes["batch_size"])) if "batch_size" in axes else common.batch_size
    cells: Cells = {}
    for values in itertools.product(*(axes[name] for name in names)):
        place = dict(zip(names, values, strict=True))
        own = {**place, **_micro_batches(place["batch_size"], smallest, rest)} if "batch_size" in place else place
        cells[cell_name(place)] = common.override(**own)
    return cells, options, about


def _micro_batches(rows: float, smallest: int, settings: Mapping[str, Any]) -> dict[str, int]:
    """Return the settings with which a step is of so many rows, in micro-batches that all cells share."""
    if "gradient_accumulation_steps" in settings:
        raise SettingError(
            "gradient_accumulation_steps is what a grid of batch_size varies.", remedy="Leave one of them out."
        )
    if rows % smallest:
        raise SettingError(
            "A batch is taken in micro-batches of the smallest size, of which this is not a multiple.",
            expected=f"multiples of batch_size = {smallest}",
            found=int(rows),
        )
    return {"batch_size": smallest, "gradient_accumulation_steps": int(rows) // smallest}


def _default_grid(num_parameters: int, settings: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return the axes that are not keywords, around what was published of models of this size."""
    rest = {name: value for name, value in settings.items() if name not in SETTINGS}
    checked = read_settings("sweep", rest, lr=1.0, n_beta=1.0)[0].as_dict()
    largest = starting_points(num_parameters)[0].lr[0]
    pulls = [10.0, 100.0, 300.0, 1000.0]
    every = {"lr": [_third(largest), largest], "n_beta": [10.0, 30.0, 100.0], "localization": pulls}
    axes = {name: values for name, values in every.items() if name not in settings}

    def good(lr: float, localization: float) -> bool:
        least = least_inflation({**checked, "lr": lr, "localization": localization})
        return least is not None and least <= LARGEST_INFLATION

    if "localization" in axes:
        lr = max(axes.get("lr") or [_value("lr", settings["lr"])])
        fit = [value for value in axes["localization"] if good(lr, value)]
        weaker = (10.0**-power for power in range(20))  # for a long step that was given; see below
        axes["localization"] = [*fit[:2], *fit[2:][-1:]] or [next((v for v in weaker if good(lr, v)), pulls[0])]
    if "lr" in axes:
        strongest = max(axes.get("localization") or [_value("localization", settings["localization"])])
        for _ in range(20):  # enough for any localization; RMSprop without eps has no step that is sure to do
            if not good(max(axes["lr"]), strongest):
                axes["lr"] = [_third(lr) for lr in axes["lr"]]
    if not axes:
        raise SettingError("There is nothing to vary.", remedy="Pass a grid, or leave lr, n_beta or localization out.")
    return axes


def _third(lr: float) -> float:
    return float(f"{lr / 3:.0e}")


def _value(name: str, value: Any) -> float:
    method = {"sampling_method": "rmsprop_sgld"} if name.startswith("rmsprop") else {}
    if value is None:
        raise SettingError(f"The values of {name} must be numbers.", found=repr(value))
    checked = SamplerSettings.build(**{"lr": 1.0, "n_beta": 1.0, **method, name: value})
    return float(getattr(checked, name))


def _pilot(first: SamplerSettings, chains: int | None, draws: int | None) -> dict[str, int]:
    """Return the lengths of the pilots, never more than the full ones."""
    wanted = first.override(
        num_chains=2 if chains is None else chains, num_draws=max(25, first.num_draws // 4) if draws is None else draws
    )
    return {
        "num_chains": min(wanted.num_chains, first.num_chains),
        "num_draws": min(wanted.num_draws, first.num_draws),
    }


def _at_least(settings: SamplerSettings, least: Mapping[str, int]) -> SamplerSettings:
    return settings.override(**{name: max(getattr(settings, name), value) for name, value in least.items()})


def _stored(location: Location, common: SamplerSettings, axes: tuple[str, ...]) -> Cells:
    """Return the cells that a sweep in the store has already, as long as they are; what else differs is found later."""
    own = {"batch_size": ("gradient_accumulation_steps",)}
    names = [*itertools.chain(*(own.get(axis, (axis,)) for axis in axes)), *settings_that("resume", "grows")]
    found: Cells = {}
    for name in dig(read_group(location), "attributes.metadata.config.cells") or []:
        sampler = dig(read_group(location, name), "attributes.metadata.config.sampler")
        if isinstance(sampler, Mapping):
            found[name] = common.override(**{k: sampler[k] for k in names})
            if cell_name({axis: swept_value(sampler, axis) for axis in axes}) != name:
                raise StoreConflictError(
                    "The sweep at the path has other axes.",
                    expected=f"cells over {', '.join(axes)}",
                    found=name,
                    remedy="Call sweep() with the axes that it has, or with another output_path.",
                )
    return found


def _open_groups(run: Run) -> list[str]:
    """Groups with chains that have not ended, or arrays of the coordinator's that a killed run did not write."""
    remaining = {group for group, _ in run.remaining()}
    return [group for group in run.requests if group in remaining or run.unwritten(group)]


def _promising(
    tree: xr.DataTree, cells: Cells, asked: Cells, task: str | None, longest: Mapping[str, int], extend: int
) -> list[str]:
    """Choose the cells to extend, so that as many as asked for have their full length."""
    long = [n for n in asked if all(getattr(cells[n], key) >= value for key, value in longest.items())]
    if len(long) >= extend:
        return []
    names = [n for n in promising(compute_sweep(tree, observable=task)) if n in asked and n not in long]
    return names[: extend - len(long)]
