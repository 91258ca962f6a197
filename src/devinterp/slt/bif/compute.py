"""The BIF of a run, or of the checkpoints of a series: in memory, lazily, to a store, or the strongest partners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

from devinterp.errors import MissingVariableError, ProvenanceError, SettingError
from devinterp.slt.bif.loss_matrix import Reduce
from devinterp.slt.bif.operands import Operands, Source
from devinterp.slt.bif.request import BifPlan, check_memory
from devinterp.slt.runs.chains import warn_excluded
from devinterp.slt.runs.comparable import check_curve
from devinterp.slt.runs.results import label_result
from devinterp.slt.runs.run import Tree, series_members, study_members
from devinterp.slt.runs.side_by_side import along_checkpoints

if TYPE_CHECKING:
    import torch

__all__ = ["CorrelationMethod", "IndexRange", "compute_bif"]

CorrelationMethod = Literal["token", "sequence"]
IndexRange = str | Sequence[int]
SAME = ["input_ids", "mask"]  # of all checkpoints


def compute_bif(
    samples: Tree,
    *,
    correlation_method: CorrelationMethod = "token",
    reduce_chain_dimension_method: Reduce = "stack",
    loss_keys: Literal["all"] | Sequence[str] = "all",
    batch_index_range_1: IndexRange = "all",
    batch_index_range_2: IndexRange = "all",
    average_tokenwise_bif: bool = False,
    compute_covariance: bool = False,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    se: bool = False,
    top_k: int | None = None,
    lazy: bool | None = None,
    output_path: str | PathLike[str] | None = None,
    allow_partial: bool = False,
    allow_mixed: bool = False,
) -> xr.Dataset:
    """Compute the BIF between the observables' tokens or sequences.

    Parameters
    ----------
    samples : DataTree or Dataset
        What ``sample()`` returned, or a selection of it. A series gives results with a leading dimension
        ``checkpoint``, of the run ``full`` of each.
    correlation_method : {"token", "sequence"}
        Between tokens, or between sequences, whose losses are averaged over tokens (in float32) first.
    reduce_chain_dimension_method : {"stack", "mean"}
        Observations are all (chain, draw) pairs, or draws, with losses averaged over chains (in float32) first.
    loss_keys : "all" or sequence of str
        Observables, concatenated in sorted order for ``"all"``, else in the order given.
    batch_index_range_1 : "all", str, or sequence of int
        Sequences of the first operand: all, an observable by name, or indices into the concatenated sequences.
    batch_index_range_2 : "all", str, or sequence of int
        Sequences of the second operand, likewise. Asymmetric choices are queries against a corpus.
    average_tokenwise_bif : bool
        Average the token BIF of each pair of sequences over both positions.
    compute_covariance : bool
        Covariance (nat^2, n - 1) instead of correlation.
    batch_size : int
        Sequences per chunk of a result that is not held in memory.
    device : str or torch.device, optional
        Multiply on this torch device; None or ``"cpu"`` is numpy.
    se : bool
        Also ``influences_se``, the standard error by batch means, which accounts for autocorrelation.
    top_k : int, optional
        Keep, for each query, only the strongest positive and negative partners: a result of schema
        ``devinterp/bif_topk@1``, see `devinterp.slt.bif.strongest.topk_of_source`.
    lazy : bool, optional
        Return ``influences`` as a chunked dask array, computed on demand. By default only where the losses are dask.
    output_path : path, optional
        Write the result to a Zarr store there, tile by tile, and return it lazily loaded. An interrupted call with
        the same arguments goes on where it stopped.
    allow_partial, allow_mixed : bool
        As in `devinterp.slt.llc.compute_llc`.

    Returns
    -------
    xarray.Dataset
        Schema ``devinterp/bif@1``: ``influences`` float32, (batch_1, batch_2, target_position, target_position_T) for
        tokens, (batch_1, batch_2) for sequences or averages; ``input_ids`` (batch, position); with ``se`` also
        ``influences_se``. Where positions are masked, the loss of a sequence is the mean over its tokens that count;
        between tokens, ``mask`` (batch, target_position) int8 is 1 where one counts, and influences are NaN exactly
        where either does not. Attributes ``n_chains_used``, ``chains_excluded``, ``n_draws_used``, ``observables``,
        ``n_constant_losses``: how many of the losses never change; their correlations are 0.

    Raises
    ------
    MissingVariableError
        An observable or its tokens are missing.
    SettingError
        An argument has a value that it cannot take, or the result would not fit into memory.
    IncompleteStoreError
        The store has not completed, and ``allow_partial`` is false.
    AllChainsFailedError
        No chain is complete.
    ProvenanceError
        The checkpoints of a series differ in settings, and ``allow_mixed`` is false; or in data or rows.

    Warns
    -----
    ChainFailedWarning
        A chain that failed was excluded.

    References
    ----------
    Kreer, Wu, Adam, Furman & Hoogland 2025, "Bayesian influence functions for Hessian-free data attribution",
    `arXiv:2509.26544 <https://arxiv.org/abs/2509.26544>`_.
    """
    checkpoints = series_members(samples)
    if checkpoints is not None:
        if output_path is not None or lazy or top_k is not None:
            raise SettingError(
                "output_path, lazy and top_k are for one run, and this is a series.",
                found=f"{len(checkpoints)} checkpoints",
                remedy="Compute one checkpoint after the other: tree['STEP/full'].",
            )
        mixed = check_curve(checkpoints, allow_mixed=allow_mixed)
        each = {
            step: compute_bif(
                _full(study, step),
                correlation_method=correlation_method,
                reduce_chain_dimension_method=reduce_chain_dimension_method,
                loss_keys=loss_keys,
                batch_index_range_1=batch_index_range_1,
                batch_index_range_2=batch_index_range_2,
                average_tokenwise_bif=average_tokenwise_bif,
                compute_covariance=compute_covariance,
                device=device,
                se=se,
                lazy=lazy,
                allow_partial=allow_partial,
            )
            for step, study in checkpoints.items()
        }
        return _along_checkpoints(each, mixed)
    plan = BifPlan.of(
        samples,
        method=correlation_method,
        reduce=reduce_chain_dimension_method,
        loss_keys=loss_keys,
        first=batch_index_range_1,
        second=batch_index_range_2,
        average=average_tokenwise_bif,
        covariance=compute_covariance,
        batch_size=batch_size,
        allow_partial=allow_partial,
    )
    if top_k is not None:
        if output_path is not None or lazy or se or average_tokenwise_bif or compute_covariance:
            raise SettingError(
                "top_k goes with none of output_path, lazy, se, average_tokenwise_bif and compute_covariance.",
                remedy="Leave them out: a top-k result is small, is made of correlations and has its noise floor.",
            )
        if top_k < 1:
            raise SettingError("top_k must be positive.", expected="at least 1", found=top_k)
        from devinterp.slt.bif.strongest import topk_of_source

        return topk_of_source(_source(plan, batches=True, device=device), top_k)
    if output_path is not None:
        from devinterp.slt.bif.to_store import check_path, stream_bif

        location = check_path(output_path)
        return stream_bif(_source(plan, batches=se, device=device), location, se=se)
    if lazy or (lazy is None and plan.distributed):
        from devinterp.slt.bif.dask_tiles import LazyOperands

        source = LazyOperands.of(plan, batches=se)
        warn_excluded(plan.run, source.selection)
        return source.result(se=se)
    return _in_memory(plan, se=se, device=device)


def _full(study: xr.DataTree, step: int) -> Tree:
    members = study_members(study) or {}
    if "full" not in members:
        raise MissingVariableError(
            f"The checkpoint {step} has no run 'full'.",
            expected="a run that samples every weight",
            found=list(members),
            remedy=f"Compute the influences of one restriction at a time: tree['{step}/NAME'].",
        )
    return members["full"]


def _along_checkpoints(each: Mapping[int, xr.Dataset], mixed: tuple[str, ...]) -> xr.Dataset:
    """Put the influences of checkpoints side by side; they are of the same tokens."""
    first = next(iter(each.values()))
    for step, one in each.items():
        if any(not one[n].equals(first[n]) if n in one and n in first else n in one or n in first for n in SAME):
            raise ProvenanceError(
                "The checkpoints of the series have different rows.",
                expected=f"the tokens and masks of checkpoint {next(iter(each))}",
                found=f"others at checkpoint {step}",
                remedy="Analyse the checkpoints one by one: tree['STEP/full'].",
            )
    own = {step: one.drop_vars(SAME, errors="ignore") for step, one in each.items()}
    stacked = along_checkpoints(own, mixed=mixed)
    units = {str(name): str(variable.attrs["units"]) for name, variable in first.data_vars.items()}
    shared = {name: first[name] for name in SAME if name in first}
    return label_result(stacked.assign(shared), "bif", attrs=stacked.attrs, units=units)


def _in_memory(plan: BifPlan, *, se: bool, device: Any) -> xr.Dataset:
    check_memory(plan.shape, 3 if se else 1)
    operands = _operands(plan, batches=se, device=device)
    influences, spread = operands.tile(slice(0, plan.first.size), slice(0, plan.second.size), se=se)
    data, attrs = {"influences": influences}, dict(operands.attrs)
    if spread is not None and operands.groups is not None:
        data["influences_se"] = spread
        attrs["se_dof"] = len(operands.groups) - 1
    return plan.result(data, attrs)


def _operands(plan: BifPlan, *, batches: bool, device: Any) -> Operands:
    losses = plan.load()
    warn_excluded(plan.run, losses.selection)
    return Operands.of(plan, losses, batches=batches, device=device)


def _source(plan: BifPlan, *, batches: bool, device: Any) -> Source:
    """Where tiles come from: a cluster that has the losses, or this machine's memory."""
    if plan.distributed:
        from devinterp.slt.bif.dask_tiles import LazyOperands

        source = LazyOperands.of(plan, batches=batches)
        warn_excluded(plan.run, source.selection)
        return source.held()
    return _operands(plan, batches=batches, device=device)
