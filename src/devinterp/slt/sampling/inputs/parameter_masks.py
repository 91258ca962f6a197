"""Parameter masks: checked against the model, and described for provenance."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from devinterp.errors import RestrictionError, warn_caller
from devinterp.wording import shown

__all__ = ["Masks", "check_masks", "hash_masks", "sampled_size", "scaled_weights"]

Masks = Mapping[str, torch.Tensor | None]
"""Parameter names, in the order of the update, to masks of their shapes; None leaves a parameter unmasked."""


def check_masks(model: nn.Module, masks: Mapping[str, Any] | None, name: str = "param_masks") -> Masks:
    """Return the masks as tensors, checked; None stands for every parameter, unmasked.

    Parameters
    ----------
    model : torch.nn.Module
    masks : mapping of parameter name to mask, or None
        A mask is a boolean or numeric tensor or array of the parameter's shape, or None.
    name : str
        What messages call them.

    Raises
    ------
    RestrictionError
        A parameter is unknown, a mask has the wrong shape or a value that is not finite, or nothing is selected.

    Warns
    -----
    DevinterpWarning
        A mask has values other than 0 and 1.
    """
    parameters = dict(model.named_parameters())
    if masks is None:
        checked: dict[str, torch.Tensor | None] = dict.fromkeys(parameters)
    else:
        if not isinstance(masks, Mapping):
            raise RestrictionError(
                f"{name} must map parameter names to masks.", expected="a dict or None", found=type(masks).__name__
            )
        checked = {key: _check(model, parameters, key, mask, name) for key, mask in masks.items()}
    if sampled_size(model, checked)[1] == 0:
        frozen = [key for key in checked if not parameters[key].requires_grad]
        raise RestrictionError(
            f"{name} selects no weight that can be sampled.",
            expected="at least one weight of a parameter with requires_grad=True",
            found=f"{len(checked)} parameters, {len(frozen)} of them with requires_grad=False",
        )
    scaled = {key: mask for key, mask in checked.items() if mask is not None and _scaled(mask).any()}
    if scaled:
        away = any(bool((mask < 0).any()) for mask in scaled.values())
        other = any(bool((_scaled(mask) & (mask > 0)).any()) for mask in scaled.values())
        means = []
        if other:
            means.append(
                "a mask of m above 0 samples with a step of m lr at a temperature of m, which is not the posterior at "
                "n_beta"
            )
        if away:
            means.append(
                "one below 0 turns the drift round, so that the weight climbs the loss and flees from its start, and "
                "no law is sampled"
            )
        warn_caller(
            f"{name} scales {len(scaled)} parameters ({_some(list(scaled))}) by values other than 0 and 1: "
            f"{'; '.join(means)}."
        )
    return checked


def _scaled(mask: torch.Tensor) -> torch.Tensor:
    """Which weights the mask scales by something other than 0 and 1."""
    return (mask != 0) & (mask != 1)


def scaled_weights(masks: Masks) -> dict[str, int]:
    """What provenance records of masks that scale: how many weights, and nothing where none does."""
    count = sum(int(_scaled(mask).count_nonzero()) for mask in masks.values() if mask is not None)
    return {"scaled": count} if count else {}


def _check(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], key: str, mask: Any, name: str
) -> torch.Tensor | None:
    if key not in parameters:
        known = dict(model.named_parameters(remove_duplicate=False))
        twin = [other for other, value in parameters.items() if value is known.get(key)]
        raise RestrictionError(
            f"{name} names the parameter {key!r}, which the model does not have.",
            expected=f"{twin[0]!r}, the name of that tied parameter" if twin else _some(list(parameters)),
            found=repr(key),
        )
    if mask is None:
        return None
    if not isinstance(mask, torch.Tensor | np.ndarray):
        raise RestrictionError(
            f"The mask of {key!r} is not an array.", expected="a tensor or array, or None", found=type(mask).__name__
        )
    values: torch.Tensor = torch.as_tensor(mask).detach()
    if values.shape != parameters[key].shape:
        raise RestrictionError(
            f"The mask of {key!r} has the wrong shape.",
            expected=f"{shown(tuple(parameters[key].shape))}, as the parameter has",
            found=tuple(values.shape),
        )
    if values.is_complex() or not torch.isfinite(values.float()).all():
        raise RestrictionError(f"The mask of {key!r} has values that are not finite real numbers.")
    return values


def _some(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:4]))
    return shown if len(names) <= 4 else f"one of {len(names)} names, such as {shown}"


def sampled_size(model: nn.Module, masks: Masks) -> tuple[int, int]:
    """Return how many parameters a chain moves, and how many weights of theirs the masks let through."""
    parameters = dict(model.named_parameters())
    tensors = weights = 0
    for key, mask in masks.items():
        if parameters[key].requires_grad:
            selected = parameters[key].numel() if mask is None else int(mask.count_nonzero())
            tensors += selected > 0
            weights += selected
    return tensors, weights


def hash_masks(model: nn.Module, masks: Masks) -> str | None:
    """Return the sha256 of names, order and values; None where every parameter is sampled whole, in its own order."""
    if all(mask is None for mask in masks.values()) and list(masks) == [name for name, _ in model.named_parameters()]:
        return None
    digest = hashlib.sha256()
    for key, mask in masks.items():
        digest.update(f"{key}:".encode())
        if mask is None:
            digest.update(b"all;")
        elif bool(((mask == 0) | (mask == 1)).all()):
            digest.update(f"{tuple(mask.shape)}".encode() + np.packbits(mask.bool().cpu().numpy()).tobytes())
        else:
            digest.update(f"{tuple(mask.shape)}".encode() + mask.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
