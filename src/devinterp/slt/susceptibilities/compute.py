"""Susceptibilities from the runs of a study, one restriction after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import MissingVariableError, ProvenanceError, SettingError
from devinterp.slt.runs.chains import warn_excluded
from devinterp.slt.runs.comparable import check_curve, check_same_origin, own_settings
from devinterp.slt.runs.masked_means import row_mask
from devinterp.slt.runs.results import label_result, row_labels, said_of_rows
from devinterp.slt.runs.run import Samples, Tree, series_members, study_members
from devinterp.slt.runs.side_by_side import along_checkpoints
from devinterp.slt.susceptibilities.baseline import Baseline, init_loss_variance, loss_at_start
from devinterp.slt.susceptibilities.estimator import restriction_column
from devinterp.slt.susceptibilities.flat_form import flat_tree
from devinterp.slt.susceptibilities.moments import gather_moments
from devinterp.wording import shown

__all__ = ["compute_susceptibilities"]

GROUPS_PER_CHAIN = 10


def compute_susceptibilities(
    wr_map: xr.DataTree | Mapping[str, Tree],
    sampling_task: str | None = None,
    observable_names: Sequence[str] | None = None,
    include_sampling_task: bool = False,
    *,
    baseline: Baseline = "init",
    terms: bool = False,
    se: bool = False,
    allow_partial: bool = False,
    allow_mixed: bool = False,
) -> xr.DataTree:
    """Compute the susceptibility of every restriction to every token of the observables.

    Parameters
    ----------
    wr_map : DataTree or mapping of str to DataTree
        A study, or runs by restriction name; ``full``, the run without a restriction, must be among them. One is
        read after the other, each once, in memory that depends on neither draws nor restrictions. A series gives
        results with a leading dimension ``checkpoint``.
    sampling_task : str, optional
        The observable of the dataset that was sampled on; by default what the study records.
    observable_names : sequence of str, optional
        The probes, in this order; by default all observables but the sampling task, sorted.
    include_sampling_task : bool
        With the default probes: the sampling task too.
    baseline : {"init", "observable"}
        The loss at the start that is subtracted from phi: ``init_loss`` of ``full`` (as the paper and devinterp 2.0),
        or ``init_loss_{task}`` of the fixed rows, the rows that phi is computed on, which is far less noisy: an error
        of 0.02 nat moves a column of ``sus`` by about its own spread.
    terms : bool
        Also the two terms that ``sus`` is made of, ``sus_cov`` and ``sus_shift``.
    se : bool
        Also ``sus_se``, the standard error by batch means; autocorrelation, the draws of ``full`` and the noise of
        the loss at the start are accounted for. The attribute ``se_dof`` is what Student's t should be taken with.
    allow_partial : bool
        Accept stores that have not completed, and use the draws that all chains of a run have.
    allow_mixed : bool
        As in `devinterp.slt.llc.compute_llc`.

    Returns
    -------
    xarray.DataTree
        Schema ``devinterp/susceptibilities@1``. ``/susceptibilities``: ``sus`` (sus_flat, wr) float32, nat^2; of a
        series (checkpoint, sus_flat, wr).
        ``/context``: ``input_ids`` (ctx_flat,) int64. Values of different restrictions are not comparable as they are
        (each scales with its own spread of phi); see `devinterp.slt.susceptibilities.matrix.matrix`.

    Raises
    ------
    MissingVariableError
        ``full``, an observable, or what names the sampling task is missing.
    ProvenanceError
        The runs differ in weights, rows, loss or posterior; or the checkpoints of a series in settings, and
        ``allow_mixed`` is false.
    SettingError
        There is no probe, or no restriction besides ``full``.
    IncompleteStoreError
        A store has not completed, and ``allow_partial`` is false.

    Warns
    -----
    ChainFailedWarning
        A chain that failed was excluded.
    """
    if baseline not in ("init", "observable"):
        raise SettingError("There is no such baseline.", expected="'init' or 'observable'", found=repr(baseline))
    checkpoints = series_members(wr_map)
    if checkpoints is not None:
        mixed = check_curve(checkpoints, allow_mixed=allow_mixed)
        return _along_checkpoints(
            {
                step: compute_susceptibilities(
                    study,
                    sampling_task,
                    observable_names,
                    include_sampling_task,
                    baseline=baseline,
                    terms=terms,
                    se=se,
                    allow_partial=allow_partial,
                )
                for step, study in checkpoints.items()
            },
            mixed,
        )
    runs = _runs(wr_map, allow_partial)
    full = runs["full"]
    task = full.sampling_task(sampling_task)
    if task is None:
        raise MissingVariableError(
            "It is not known which observable is the sampling task.",
            expected="metadata.config.sampling_task on the study's root",
            remedy="Pass sampling_task=NAME.",
        )
    if observable_names is not None:
        probes = full.resolve(list(observable_names))
    else:
        probes = tuple(o for o in sorted(full.observables) if include_sampling_task or o != task)
    names = [name for name in runs if name != "full"]
    if not probes or not names:
        raise SettingError(
            "There is nothing to compute: no observable besides the sampling task."
            if not probes
            else "There is nothing to compute: no restriction besides 'full'.",
            found=f"observables {shown(sorted(full.observables))}, restrictions {shown(list(runs))}",
            remedy="Add a probe observable, or pass include_sampling_task=True." if not probes else None,
        )
    for run in runs.values():
        for obs_id in (task, *probes):
            run.loss(obs_id)
    check_same_origin({"full": full, **runs}, observables=(task, *probes))
    tokens = _tokens(runs, probes)
    targets, positions = _positions(runs)
    masks = _masks(runs, (task, *probes))

    groups = GROUPS_PER_CHAIN if se else 1
    reference = gather_moments(
        full, task, probes, with_products=False, groups_per_chain=groups, allow_partial=allow_partial
    )
    warn_excluded(full, reference.selection)
    init = loss_at_start(full, task, baseline, reference.selection.used)
    # The fixed rows are the very ones that phi is computed on: nothing of their loss at the start is uncertain.
    certain = (0.0, 1.0)
    init_noise = (certain if baseline == "observable" else init_loss_variance(full, task)) if se else None
    columns: dict[str, list[npt.NDArray[np.float64]]] = {}
    used = {"full": reference.selection.attrs}
    for name in names:
        moments = gather_moments(
            runs[name], task, probes, with_products=True, groups_per_chain=groups, allow_partial=allow_partial
        )
        warn_excluded(runs[name], moments.selection)
        used[name] = moments.selection.attrs
        column = restriction_column(moments, reference, probes, masks, init, terms=terms, init_noise=init_noise)
        for variable, values in column.items():
            columns.setdefault(variable, []).append(values)
    attrs: dict[str, Any] = {
        "sampling_task": task,
        "baseline": baseline,
        **{key: {name: counts[key] for name, counts in used.items()} for key in next(iter(used.values()))},
    }
    if own := own_settings({"full": full, **{name: runs[name] for name in names}}):
        attrs["own_settings"] = own
    if se:
        attrs["se_dof"] = round(float(np.median(columns.pop("dof"))), 1)
    data = {variable: np.stack(values, axis=1).astype(np.float32) for variable, values in columns.items()}
    return flat_tree(
        data,
        tokens,
        names,
        attrs,
        probes=probes,
        batches=[np.arange(full.loss(name).shape[2]) for name in probes],
        targets=[targets for _ in probes],
        positions=[positions for _ in probes],
        counts=[masks[name] for name in probes],
        labels=row_labels(full.dataset, probes),
        root=said_of_rows(full.metadata),
    )


def _along_checkpoints(trees: Mapping[int, xr.DataTree], mixed: tuple[str, ...]) -> xr.DataTree:
    """Put the results of checkpoints side by side; their tokens must be the same."""
    first, *others = (tree["context"].to_dataset() for tree in trees.values())
    if not all(first.equals(other) for other in others):
        raise ProvenanceError(
            "The checkpoints of the series have other rows.",
            expected=f"the tokens of checkpoint {next(iter(trees))} at every checkpoint",
            remedy="Analyse the checkpoints one by one: tree['STEP'].",
        )
    stacked = along_checkpoints({s: t["susceptibilities"].to_dataset() for s, t in trees.items()}, mixed=mixed)
    root = dict(next(iter(trees.values())).attrs)
    unit = root.get("loss_unit")
    sus = label_result(stacked, "susceptibilities", node="/susceptibilities", attrs=stacked.attrs, loss_unit=unit)
    tree = xr.DataTree.from_dict({"/susceptibilities": sus, "/context": first})
    tree.attrs = root
    return tree


def _runs(wr_map: xr.DataTree | Mapping[str, Tree], allow_partial: bool) -> dict[str, Samples]:
    members = study_members(wr_map)
    if members is None or "full" not in members:
        raise MissingVariableError(
            "Susceptibilities need the run without a restriction.",
            expected="a study or mapping with a run named 'full'",
            found=sorted(members) if members else f"{type(wr_map).__name__} without runs as children",
            remedy="Sample with weight_restrictions={'full': None, ...}.",
        )
    return {name: Samples.of(tree, label=name, allow_partial=allow_partial) for name, tree in members.items()}


def _tokens(runs: Mapping[str, Samples], probes: tuple[str, ...]) -> dict[str, npt.NDArray[np.int64]]:
    """Token ids of the probes, which all runs must share; none where rows are not tokens."""
    if not runs["full"].has_tokens:
        return {}
    reference = {obs_id: runs["full"].input_ids(obs_id) for obs_id in probes}
    for name, run in runs.items():
        for obs_id, ids in reference.items():
            if name != "full" and not np.array_equal(ids, run.input_ids(obs_id)):
                raise ProvenanceError(
                    f"The rows of {obs_id!r} in the run {name!r} are not those of 'full'.",
                    expected="the same input_ids in every run",
                    found=f"input_ids_{obs_id} differ",
                    remedy="Sample all restrictions with the same observables and obs_seed.",
                )
    return reference


def _positions(runs: Mapping[str, Samples]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions of the predicted tokens, and of all tokens, which all runs must share."""

    def places(run: Samples) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        return run.target_positions(), run.token_positions() if run.has_tokens else np.arange(0)

    targets, positions = places(runs["full"])
    for name, run in runs.items():
        if run is runs["full"]:
            continue
        if not all(np.array_equal(own, ours) for own, ours in zip(places(run), (targets, positions), strict=True)):
            raise ProvenanceError(
                f"The positions of the run {name!r} are not those of 'full'.",
                expected=f"the positions {shown(targets.tolist()[:8])}",
                found=run.target_positions().tolist()[:8],
                remedy="Select the same positions in every run: tree.isel(token_pos=...) on the study.",
            )
    return targets, positions


def _masks(runs: Mapping[str, Samples], names: tuple[str, ...]) -> dict[str, npt.NDArray[np.bool_] | None]:
    """Which positions of each observable count, in all runs alike; None where all do."""
    reference = {name: row_mask(runs["full"], name) for name in names}
    for label, run in runs.items():
        for name, mask in reference.items():
            own = row_mask(run, name)
            if own is not mask and (own is None or mask is None or not np.array_equal(own, mask)):
                raise ProvenanceError(
                    f"The positions of {name!r} that count in the run {label!r} are not those of 'full'.",
                    expected="the same mask in every run",
                    found=f"mask_{name} differs",
                    remedy="Sample all restrictions with the same observables and masks.",
                )
    return reference
