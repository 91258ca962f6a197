"""Whether a call computes what a store was sampled from: the loss of the first rows, and what could be hashed of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from devinterp.slt.sampling.inputs.callables import LOOSE, describe_backward_hooks, describe_callable, describe_model
from devinterp.slt.sampling.running.environment import describe_environment, differences

__all__ = ["Held", "describe_computation", "reconcile", "unproved"]

_SHOWN = 16  # losses that are kept as numbers, for a look from another machine
_VARIES = "changes at every call"
# Two machines' float32 passes differ in the last digits, which a deep network amplifies; two losses in the first.
_TOLERANCE, _HALF_TOLERANCE = 1e-3, 5e-2


@dataclass(frozen=True)
class Held:
    """What loss and model hold beside source and weights, by name."""

    loss: Mapping[str, str]
    model: Mapping[str, str]

    @classmethod
    def by(cls, model: torch.nn.Module, loss_fn: Any) -> Held:
        """Look at what they hold now."""
        return cls(describe_callable(loss_fn, model=model), describe_model(model))

    def unchanged(self, after: Held) -> Held:
        """Return this, with a word in place of what a call has changed: a counter, a cache, identifies nothing."""
        pairs = ((self.loss, after.loss), (self.model, after.model))
        return Held(*({n: t if new.get(n) == t else _VARIES for n, t in old.items()} for old, new in pairs))


def describe_computation(
    model: torch.nn.Module,
    loss_fn: Any,
    losses: npt.NDArray[np.float32],
    before: Held,
    device: str,
) -> dict[str, Any]:
    """Return what model and loss compute, as plain JSON values.

    Parameters
    ----------
    model : torch.nn.Module
    loss_fn : callable or None
    losses : (batch, token_pos) float32
        Of the first batch.
    before : Held
        By loss and model before they were called.
    device : str
    """
    held = before.unchanged(Held.by(model, loss_fn))
    flat = losses.reshape(-1)
    here = describe_environment(device, torch.get_num_threads())
    lowest = _HALF_TOLERANCE if any(p.dtype.itemsize < 4 for p in model.parameters()) else _TOLERANCE
    if "autocast" in here["torch_settings"]:
        lowest = _HALF_TOLERANCE
    return {
        "first_loss": {
            "mean": float(flat.mean(dtype=np.float64)),
            "some": _some(flat).tolist(),
            "sha256": _hash(flat),
            "tolerance": lowest,
        },
        "where": here,
        "loss_fn": held.loss,
        "backward_hooks": describe_backward_hooks(model),
        "model": held.model,
    }


def reconcile(ours: Mapping[str, Any], stored: Any, again: Callable[[], npt.NDArray[np.float32]]) -> Mapping[str, Any]:
    """Return what the request should ask the store for: its own record where this call computes the same.

    Where it does not, the entries that differ are this call's, and the store names each.

    Parameters
    ----------
    ours, stored : mapping
        From `describe_computation`, for this call and from the store.
    again : callable
        Evaluates the first batch once more: a loss that draws on a source of its own agrees with nothing to the bit.
    """
    if not isinstance(stored, Mapping) or not isinstance(stored.get("first_loss"), Mapping):
        return ours
    changed: dict[str, Any] = {}
    held, before = ours["loss_fn"], stored.get("loss_fn", {})
    if _firm(held, before) != _firm(before, held):
        changed["loss_fn"] = held
    if ours["backward_hooks"] != stored.get("backward_hooks", {}):
        changed["backward_hooks"] = ours["backward_hooks"]
    first, theirs = ours["first_loss"], stored["first_loss"]
    if first["sha256"] != theirs["sha256"]:
        slack = 0.0
        if differences(stored.get("where", {}), ours["where"]):
            slack = max(float(first["tolerance"]), float(theirs["tolerance"]))
        else:
            own = again().reshape(-1)
            if _hash(own) != first["sha256"]:
                spread = abs(np.asarray(first["some"]) - _some(own)).max()
                slack = max(float(first["tolerance"]), 4 * float(spread))
        if not _close(first, theirs, slack):
            changed["first_loss"] = {**first, "tolerance": theirs["tolerance"]}
            changed |= {"model": ours["model"], "loss_fn": held, "where": ours["where"]}
    return {**stored, **changed}


def unproved(ours: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """Return what of the model differs and may compute another loss, of other rows than those that were compared.

    Not a switch of the loss, which is set back where a run goes on after what it stopped for.
    """
    own, theirs = ours["model"], stored.get("model") or {}
    differ = [n for n in own if n in theirs and own[n] != theirs[n] and _VARIES not in (own[n], theirs[n])]
    return [f"model.{name}" for name in differ if LOOSE in (own[name][:1], theirs[name][:1])]


def _firm(held: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    """Return what a loss holds, without what may change while the same is computed."""
    vague = {n for each in (held, other) for n, text in each.items() if text.startswith((LOOSE, _VARIES))}
    return {name: text for name, text in held.items() if name not in vague}


def _hash(flat: npt.NDArray[np.float32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(flat, dtype="<f4").tobytes()).hexdigest()


def _some(flat: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    spread = np.unique(np.linspace(0, flat.size - 1, min(_SHOWN, flat.size)).astype(np.int64))
    return flat[spread].astype(np.float64)


def _close(one: Mapping[str, Any], other: Mapping[str, Any], slack: float) -> bool:
    ours, theirs = ([each["mean"], *each["some"]] for each in (one, other))
    if slack == 0 or len(ours) != len(theirs):
        return False
    return all(abs(a - b) <= slack * max(1.0, abs(b)) for a, b in zip(ours, theirs, strict=True))
