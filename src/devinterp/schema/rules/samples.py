"""Relations inside one run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devinterp.errors import SettingError
from devinterp.names import check_observable_names, sanitize_observable_name
from devinterp.schema.rules.context import Context
from devinterp.schema.rules.registry import Problem, predicate
from devinterp.schema.rules.row_hash import hash_rows
from devinterp.steps import StepLayout
from devinterp.wording import shown

__all__: list[str] = []

# The metrics are sums in float32: what an inequality may be missed by.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-12
_BLOCK = 262_144
_PASSES, _DRAWS = 5e-2, 50  # how far two passes in half precision may differ; draws that are read together


def is_complete(attrs: Mapping[str, Any], unless_without: Sequence[str] = ()) -> bool:
    """Whether ``completed`` is 1, or need not be told: none of ``unless_without`` is there."""
    return attrs.get("completed") == 1 or (bool(unless_without) and not set(unless_without) & set(attrs))


@predicate("completed", kind="relation")
def completed(context: Context, *, what: str, unless_without: Sequence[str] = ()) -> Iterator[Problem]:
    """``completed`` is 1; a store without any attribute of ``unless_without`` need not say so."""
    found = context.attrs.get("completed")
    if not is_complete(context.attrs, unless_without):
        yield Problem(
            f"The {what} has not completed.", "completed = 1", "no attribute" if found is None else shown(found)
        )


@predicate("failed_chains", kind="relation")
def failed_chains(context: Context) -> Iterator[Problem]:
    """No chain of a completed run failed."""
    if context.attrs.get("completed") != 1:
        return
    for number, chain in enumerate(_chains(context)):
        if isinstance(chain, dict) and chain.get("status") == "failed":
            yield Problem(f"Chain {number} failed.", found=f"at step {chain.get('step')}: {chain.get('reason')}")


@predicate("chain_states", kind="relation")
def chain_states(context: Context) -> Iterator[Problem]:
    """One state per chain; none interrupted in a completed run."""
    chains = _chains(context)
    wanted = context.bound.parameters.get("num_chains")
    completed = context.attrs.get("completed") == 1
    if wanted is not None and (completed or chains) and len(chains) != wanted:
        yield Problem("metadata.run.chains does not have one entry per chain.", wanted, len(chains))
    for number, chain in enumerate(chains):
        if completed and isinstance(chain, dict) and chain.get("status") == "interrupted":
            yield Problem(f"Chain {number} of a completed run is interrupted.", "complete or failed", "interrupted")


def _chains(context: Context) -> list[Any]:
    chains = context.setting("metadata.run.chains")
    return chains if isinstance(chains, list) else []


@predicate("sanitized_observables", kind="relation")
def sanitized_observables(context: Context) -> Iterator[Problem]:
    """Every obs_id is its name made safe; no two clash."""
    listed = context.setting("metadata.config.observables")
    entries = [e for e in listed if isinstance(e, dict)] if isinstance(listed, list) else []
    identities = []
    for entry in entries:
        identity, name = entry.get("obs_id"), entry.get("name")
        if not isinstance(identity, str):
            continue
        identities.append(identity)
        wanted = sanitize_observable_name(name if isinstance(name, str) else identity)
        if identity != wanted:
            yield Problem("An obs_id is not the observable's name made safe.", shown(wanted), shown(identity))
    try:
        check_observable_names(identities)
    except SettingError as error:
        yield Problem(error.problem)


@predicate("draws_written_agree", kind="relation")
def draws_written_agree(context: Context, *, variable: str, dim: str) -> Iterator[Problem]:
    """Every number is from 0 to the size of ``dim``, equal to it where a chain is complete, and of the recorded step.

    A chain that failed has the draws of the steps that it did, but for one that was taken and was not finite.
    """
    total = context.size(dim)
    if not context.has(variable) or total is None:
        return
    written = context.read(variable)
    chains = _chains(context)
    for number, count in enumerate(written.ravel().tolist()):
        state = chains[number].get("status") if number < len(chains) and isinstance(chains[number], dict) else None
        if not 0 <= count <= total:
            yield Problem(f"{variable} is out of bounds.", f"from 0 to {total}", f"{count} in chain {number}", variable)
        elif state == "complete" and count != total:
            yield Problem("A complete chain lacks draws.", total, f"{count} in chain {number}", variable)
        else:
            yield from _step_agrees(context, number, count)


def _step_agrees(context: Context, number: int, draws: int) -> Iterator[Problem]:
    """Say where the step at which a chain ended is one at which it had other draws than were written."""
    layout, chains = StepLayout.of(context.bound.parameters), _chains(context)
    state = chains[number] if number < len(chains) else None
    if layout is None or not isinstance(state, Mapping) or state.get("data_lost") is True:
        return
    step, status = state.get("step"), state.get("status")
    if type(step) is not int or status not in ("complete", "failed"):
        return
    if status == "complete":
        right, wanted = step == layout.num_steps, str(layout.num_steps)
    else:
        right = layout.draws_taken(step) - draws in (0, 1) and step <= layout.num_steps
        last = min(layout.steps_of(draws) + 1, layout.num_steps)
        wanted = f"from {layout.fewest_steps(draws)} to {last} with {draws} draws written"
    if not right:
        message = f"The step at which chain {number} ended is not one of the draws that were written."
        yield Problem(message, wanted, f"{step} ({status})")


@predicate("scalar_equals_parameter", kind="relation")
def scalar_equals_parameter(context: Context, *, variable: str, path: str) -> Iterator[Problem]:
    """A scalar variable repeats a setting."""
    wanted = context.setting(path)
    if not context.has(variable) or isinstance(wanted, bool) or not isinstance(wanted, int | float):
        return
    found = context.read(variable)
    if found.size == 1 and not math.isclose(float(found.item()), float(wanted), rel_tol=1e-12, abs_tol=0.0):
        yield Problem(f"{variable} is not the setting {path}.", wanted, found.item(), variable)


@predicate("visited_rows_agree", kind="relation")
def visited_rows_agree(context: Context) -> Iterator[Problem]:
    """The fixed rows have the hash that was recorded when they were read."""
    recorded = context.setting("metadata.provenance.observables")
    for obs in context.bound.members.get("obs", {}):
        entry = recorded.get(obs) if isinstance(recorded, Mapping) else None
        wanted = entry.get("visited") if isinstance(entry, Mapping) else None
        name = f"input_ids_{obs}"
        if not isinstance(wanted, str) or not context.has(name):
            continue
        ids = context.read(name)
        found = hash_rows(ids) if ids.ndim == 2 else wanted
        if found != wanted:
            yield Problem("The rows are not those whose hash was recorded.", wanted, found, name)


@predicate("paired_losses", kind="relation")
def paired_losses(context: Context) -> Iterator[Problem]:
    """Minibatches have one loss at the start: in all chains that share them, and as they were before the first step.

    The machine's rounding, as the run recorded it, is left to two passes over the same rows.
    """
    name, drawn = "init_loss_sampling", "sampling_loss"
    chains, draws = context.size("chain"), context.size("draw")
    if not context.has(name) or chains is None or draws is None:
        return
    recorded = context.setting("metadata.provenance.computes.first_loss.tolerance")
    slack = float(recorded) if isinstance(recorded, float) and 0 < recorded < _PASSES else _PASSES
    sampler = context.setting("metadata.config.sampler")
    sampler = sampler if isinstance(sampler, Mapping) else {}
    if sampler.get("match_sampling_input_ids_across_chains", True) is not False and chains > 1:
        for start in range(0, draws, _DRAWS):
            part = context.read(name, draw=slice(start, start + _DRAWS))
            far = _far(part, part[:1], slack).any(axis=(2, 3))
            if far.any():
                chain, draw = (int(each[0]) for each in np.nonzero(far))
                found = f"draw {start + draw} of chain {chain} has another"
                yield Problem(
                    "Chains that share their minibatches differ in their losses at the start.", "one loss", found, name
                )
                break
    noisy = ("random_forward", "stateful_forward")
    alike = not any(context.setting(f"metadata.provenance.{key}") for key in noisy) and not sampler.get("init_noise")
    if sampler.get("num_burnin_steps") != 0 or not alike or not context.has(drawn):
        return
    before, first = (context.read(each, draw=slice(0, 1)) for each in (name, drawn))
    if before.shape == first.shape and (far := _far(first, before, slack)).any():
        yield Problem(
            f"The losses before the first step are not those of {name}.",
            "the same rows at the same weights",
            f"chain {int(np.nonzero(far)[0][0])} differs by {float(np.abs(first - before)[far].max()):g}",
            name,
        )


def _far(one: NDArray[Any], other: NDArray[Any], slack: float) -> NDArray[np.bool_]:
    """Say where numbers differ by more than the slack; what is not finite in either is another rule's."""
    with np.errstate(invalid="ignore"):
        far: NDArray[np.bool_] = np.abs(one - other) > slack * np.maximum(1.0, np.abs(other))
    return far


@predicate("positions_count", kind="relation")
def positions_count(context: Context) -> Iterator[Problem]:
    """In every row that was written some position counts; a mask and the losses that it is of are both there."""
    masked: dict[str, list[str]] = {}
    for name, (spec, families) in context.bound.variables.items():
        mask = spec.mask_name(families)
        if mask is not None:
            masked.setdefault(mask, []).extend([name] if context.has(name) else [])
    for mask, losses in masked.items():
        if context.has(mask) and losses:
            yield from _rows_that_count(context, mask)
        elif context.has(mask):
            yield Problem("A mask is there without its losses.", "losses", "none", mask)
    sampled = [mask for mask in ("mask_sampling", "mask_sampling_micro") if masked.get(mask)]
    for mask in sampled:
        if not context.has(mask) and any(context.has(other) for other in sampled):
            yield Problem("Some losses of the sampling dataset have a mask, others none.", "all, or none", f"no {mask}")
    if context.has("mask_sampling", "init_loss"):
        for chain, loss in enumerate(context.read("init_loss")):
            if np.isnan(loss).all():
                yield Problem(
                    "No position of the loss before sampling counts.", found=f"chain {chain}", name="init_loss"
                )


def _rows_that_count(context: Context, mask: str) -> Iterator[Problem]:
    """Say where a mask has rows without a position that counts; rows that were never written are all fill."""
    dims = context.group.arrays[mask].dims
    fill = context.bound.variables[mask][0].fill
    blocks = [(d, range(0, context.size(d) or 0, n)) for d, n in context.bound.variables[mask][0].chunks.items()]
    for starts in product(*(steps for _, steps in blocks)):
        part = {d: slice(start, start + steps.step) for (d, steps), start in zip(blocks, starts, strict=True)}
        found = context.read(mask, **part)
        empty = ~(found == 1).any(axis=-1) & (found != fill).any(axis=-1)
        if empty.any():
            place = np.argwhere(empty)[0] + [part[d].start if d in part else 0 for d in dims[:-1]]
            where = ", ".join(f"{d}={i}" for d, i in zip(dims, place, strict=False))
            yield Problem(
                "A row has no position that counts.",
                "at least one",
                f"{empty.sum()} row(s), the first at {where}",
                mask,
            )
            return


Metrics = dict[str, NDArray[np.float64]]
_NORMS = ("scaled_grad", "localization", "weight_decay", "noise")


def _step_blocks(context: Context, *metrics: str) -> Iterator[tuple[int, int, Metrics]]:
    """Yield (chain, first step, metrics) over the written steps, each block beginning with the last row before it."""
    names = [f"metrics_{m}" for m in metrics]
    chains, steps = context.size("chain"), context.size("step")
    if not context.has(*names) or chains is None or steps is None:
        return
    rows = context.written_rows("step") or [steps] * chains
    for chain in range(chains):
        for start in range(0, rows[chain] if chain < len(rows) else 0, _BLOCK):
            first = max(0, start - 1)
            part = {"chain": slice(chain, chain + 1), "step": slice(first, min(start + _BLOCK, rows[chain]))}
            yield (
                chain,
                first,
                {m: context.read(n, **part)[0].astype(np.float64) for m, n in zip(metrics, names, strict=True)},
            )


def _first_break(excess: NDArray[np.bool_], chain: int, first: int) -> str:
    where = np.flatnonzero(excess)
    return f"{where.size} step(s), the first in chain {chain} at step {first + int(where[0])}"


@predicate("metric_inequalities", kind="relation")
def metric_inequalities(context: Context) -> Iterator[Problem]:
    """Cauchy-Schwarz between the terms of every update."""
    pairs: tuple[tuple[str, str, Callable[[Metrics], NDArray[np.float64]]], ...] = (
        ("dot_grad_noise", "scaled_grad * noise", lambda m: m["scaled_grad"] * m["noise"]),
        (
            "dot_prior_noise",
            "(localization + weight_decay) * noise",
            lambda m: (m["localization"] + m["weight_decay"]) * m["noise"],
        ),
        (
            "dot_grad_prior",
            "scaled_grad * (localization + weight_decay)",
            lambda m: m["scaled_grad"] * (m["localization"] + m["weight_decay"]),
        ),
    )
    for chain, first, metrics in _step_blocks(context, *_NORMS, *(p[0] for p in pairs)):
        for dot, text, bound in pairs:
            excess = np.abs(metrics[dot]) > bound(metrics) * (1 + _RELATIVE) + _ABSOLUTE
            if excess.any():
                yield Problem(
                    f"|{dot}| is larger than {text}.",
                    f"at most {text}",
                    _first_break(excess, chain, first),
                    f"metrics_{dot}",
                )


@predicate("distance_starts_at_zero", kind="relation")
def distance_starts_at_zero(context: Context) -> Iterator[Problem]:
    """Without init_noise a chain starts at the parameters that its distance is taken from."""
    rows = context.written_rows("step")
    if not context.has("metrics_distance") or context.setting("metadata.config.sampler.init_noise"):
        return
    for chain in range(context.size("chain") or 0):
        if rows is not None and (chain >= len(rows) or rows[chain] == 0):
            continue
        start = context.read("metrics_distance", chain=slice(chain, chain + 1), step=slice(0, 1))
        if start.size and abs(float(start.ravel()[0])) > _ABSOLUTE:
            yield Problem(
                "The distance does not start at 0.", 0, f"{start.ravel()[0]} in chain {chain}", "metrics_distance"
            )


@predicate("distance_growth", kind="relation")
def distance_growth(context: Context) -> Iterator[Problem]:
    """From step to step the distance grows by no more than the terms of the update together."""
    if context.setting("metadata.config.sampler.bounding_box_size") is not None:
        return  # the box moves parameters too
    for chain, first, metrics in _step_blocks(context, "distance", *_NORMS):
        terms = sum((metrics[n] for n in _NORMS), start=np.zeros_like(metrics["distance"]))
        reach = (metrics["distance"] + terms)[:-1]
        excess = metrics["distance"][1:] > reach * (1 + _RELATIVE) + _ABSOLUTE
        if excess.any():
            yield Problem(
                "The distance grows by more than the terms of the update.",
                "at most distance + scaled_grad + localization + weight_decay + noise of the step before",
                _first_break(excess, chain, first + 1),
                "metrics_distance",
            )
