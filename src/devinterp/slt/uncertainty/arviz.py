"""A run in the layout of ArviZ: chains and draws of losses, for its statistics and its plots."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from devinterp.slt.runs.chains import select_chains, warn_excluded
from devinterp.slt.runs.masked_means import minibatch_rows, observed_rows, row_mask
from devinterp.slt.runs.results import loss_unit
from devinterp.slt.runs.run import Samples, Tree

__all__ = ["to_arviz"]


def to_arviz(samples: Tree, *, log_likelihood: bool = False, allow_partial: bool = False) -> xr.DataTree:
    """Lay a run out as ArviZ expects it (`InferenceData schema
    <https://python.arviz.org/en/stable/schema/schema.html>`_).

    Parameters
    ----------
    samples : DataTree or Dataset
        What ``sample()`` returned, or a selection of it.
    log_likelihood : bool
        Also the group ``log_likelihood``: minus the loss of every token of every observable, which loads them all
        (a run backed by dask stays lazy); of an observable with a mask along ``counted_{obs}``, the positions that
        count, row by row.
    allow_partial : bool
        As in `devinterp.slt.llc.compute_llc`.

    Returns
    -------
    xarray.DataTree
        ``/posterior``: ``sampling_loss`` and ``loss_{obs}`` (chain, draw) float64, nat, averaged over rows and tokens.
        ``/sample_stats``: ``lp``, the log density up to a constant that the sampler drew from, without the prior
        (``-n_beta * sampling_loss``); ``step_size``; and ``distance``, ``noise_norm``, ``gradient_norm`` at the
        draws' steps where metrics were saved. ``/observed_data``: ``input_ids_{obs}``. Complete chains only, their
        original positions as coordinate ``chain``.

    Raises
    ------
    MissingVariableError
        There is no loss.
    AllChainsFailedError
        No chain is complete.
    """
    run = Samples.of(samples, allow_partial=allow_partial)
    rows = {"sampling_loss": minibatch_rows(run)} if "sampling_loss" in run.dataset else {}
    for name in run.observables if rows else run.resolve(None):
        rows[f"loss_{name}"] = observed_rows(run, name)
    traces = {name: found.trace for name, found in rows.items()}
    finite = np.logical_and.reduce([found.finite for found in rows.values()])
    selection = select_chains(run, finite, allow_partial=allow_partial)
    warn_excluded(run, selection)
    used, length = list(selection.used), selection.length
    coords: dict[Any, Any] = {"chain": np.array(used, dtype=np.int64), "draw": np.arange(length)}
    coords |= run.coords_along(chain=used, draw=slice(length))
    unit = {"units": loss_unit(run.metadata)}
    kept = {name: trace[used, :length] for name, trace in traces.items()}
    posterior = xr.Dataset({name: (("chain", "draw"), trace, unit) for name, trace in kept.items()}, coords=coords)
    groups = {"/posterior": posterior}
    stats = _sample_stats(run, kept, used, length)
    if stats:
        groups["/sample_stats"] = xr.Dataset({n: (("chain", "draw"), v) for n, v in stats.items()}, coords=coords)
    observed = {
        f"input_ids_{name}": ((f"batch_{name}", "token"), run.input_ids(name))
        for name in run.observables
        if f"input_ids_{name}" in run.dataset
    }
    if observed:
        places = {dim: slice(None) for dims, _ in observed.values() for dim in dims}
        groups["/observed_data"] = xr.Dataset(observed, coords=run.coords_along(**places))
    if log_likelihood:
        likelihood = {name: _log_likelihood(run, name, used, length) for name in run.observables}
        places = {str(dim): slice(None) for v in likelihood.values() for dim in v.dims}
        labels = run.coords_along(**{**places, "chain": used, "draw": slice(length)})
        groups["/log_likelihood"] = xr.Dataset(likelihood, coords={**labels, **coords})
    # As ArviZ marks its groups; by it they are told from runs of a study, saved and opened again too.
    return xr.DataTree.from_dict({n: g.assign_attrs(inference_library="devinterp") for n, g in groups.items()})


def _log_likelihood(run: Samples, name: str, used: list[int], length: int) -> xr.Variable:
    """Minus the losses of an observable; of one with a mask those that count, row by row along one dimension."""
    losses, counts = -run.loss(name)[used, :length].variable, row_mask(run, name)
    if counts is None:
        return losses
    at = {
        dim: xr.Variable(f"counted_{name}", places)
        for dim, places in zip(losses.dims[2:], counts.nonzero(), strict=True)
    }
    return losses[at]


def _sample_stats(run: Samples, traces: dict[str, Any], used: list[int], length: int) -> dict[str, Any]:
    """The sampler's own quantities at every draw, under the names that ArviZ gives such things."""
    out: dict[str, Any] = {}
    known_n_beta = "n_beta" in run.dataset or run.setting("n_beta") is not None
    if "sampling_loss" in traces and known_n_beta:
        out["lp"] = -run.n_beta * traces["sampling_loss"]
    if run.setting("lr") is not None:
        out["step_size"] = np.full((len(used), length), float(run.setting("lr")))
    layout = run.step_layout
    for metric, name in (("distance", "distance"), ("noise", "noise_norm"), ("scaled_grad", "gradient_norm")):
        variable = f"metrics_{metric}"
        if variable not in run.dataset or layout is None:
            continue
        values = run.variable(variable, ("chain", "step"))
        # Selections of draws and of steps are independent, so which step a draw was is known only without them.
        whole = values.sizes["step"] == layout.num_steps and run.dataset.sizes.get("draw") == layout.draws
        if whole:
            out[name] = np.asarray(values.isel(chain=used, step=layout.draw_steps(length)).values, dtype=np.float64)
    return out
