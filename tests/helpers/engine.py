"""Short runs of the engine into memory, on the tiny model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from memory_sink import MemorySink
from tiny_lm import build_tokens
from torch import nn

from devinterp.slt.sampling.engine.chain import ChainResult, run_chain
from devinterp.slt.sampling.engine.losses import PerTokenLoss
from devinterp.slt.sampling.inputs.batches import SamplingData
from devinterp.slt.sampling.inputs.observables import Observable, open_observables
from devinterp.slt.sampling.inputs.parameter_masks import check_masks
from devinterp.slt.sampling.inputs.token_rows import TokenRows
from devinterp.slt.sampling.settings import SamplerSettings

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {
    "lr": 1e-3, "n_beta": 30.0, "num_chains": 2, "num_draws": 4, "batch_size": 4, "num_init_loss_batches": 2,
    "localization": 10.0, "save_metrics": True,
}  # fmt: skip
ROWS = TokenRows(build_tokens("train"), "The sampling dataset")
OBSERVABLES = {"train": (build_tokens("train"), 2), "code": (build_tokens("code"), 1)}


def settings(**changes: Any) -> SamplerSettings:
    return SamplerSettings.build(**{**SETTINGS, **changes})


def like(rows: Any = None) -> TokenRows:
    return ROWS if rows is None else TokenRows(rows, "The sampling dataset")


def sampling_data(chosen: SamplerSettings, rows: Any = None) -> SamplingData:
    return SamplingData(like(rows), [chosen])


def observed(chosen: SamplerSettings, observables: Any = OBSERVABLES, rows: Any = None) -> tuple[Observable, ...]:
    """Open and read observables."""
    opened = open_observables(observables, chosen)
    return tuple(each.read(like(rows)) for each in opened)


def run(
    model: nn.Module,
    chosen: SamplerSettings,
    chain: int = 0,
    *,
    masks: Any = None,
    loss_fn: Any = None,
    sink: MemorySink | None = None,
    rows: Any = None,
    observables: Any = None,
    **options: Any,
) -> tuple[ChainResult, MemorySink]:
    """Sample one chain into memory."""
    data = sampling_data(chosen, rows)
    fixed = observed(chosen, OBSERVABLES if observables is None else observables, rows)
    sink = sink or MemorySink()
    result = run_chain(
        model, PerTokenLoss(loss_fn), chosen, data.feed(chain), fixed, check_masks(model, masks), sink,
        chain=chain, device=CPU, **options,
    )  # fmt: skip
    return result, sink


class SameMemory(torch.autograd.Function):
    """The identity, its result at one place in memory at every call, as CUDA graphs have it."""

    place = torch.empty(0)

    @staticmethod
    def forward(ctx, x):
        if SameMemory.place.shape != x.shape:
            SameMemory.place = torch.empty_like(x)
        return SameMemory.place.copy_(x).detach()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def same_bytes(one: dict[str, np.ndarray], other: dict[str, np.ndarray], names: Any = None) -> None:
    """Assert that the arrays that both name are equal to the last bit."""
    for name in names if names is not None else one:
        assert one[name].shape == other[name].shape, name
        assert one[name].dtype == other[name].dtype, name
        assert one[name].tobytes() == other[name].tobytes(), name


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything of a model that a run must give back."""
    return {
        "data": {n: (p.data.data_ptr(), p.detach().clone()) for n, p in model.named_parameters()},
        "grad": {n: None if p.grad is None else (id(p.grad), p.grad.clone()) for n, p in model.named_parameters()},
        "requires_grad": {n: p.requires_grad for n, p in model.named_parameters()},
        "buffers": {n: (id(b), b.clone()) for n, b in model.named_buffers()},
        "training": {n: m.training for n, m in model.named_modules()},
    }


def assert_same_snapshot(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before["requires_grad"] == after["requires_grad"]
    assert before["training"] == after["training"]
    for part in ("data", "grad", "buffers"):
        assert before[part].keys() == after[part].keys()
        for name, value in before[part].items():
            other = after[part][name]
            assert (value is None) == (other is None), name
            if value is not None:
                assert value[0] == other[0], f"{name} has another storage"
                assert torch.equal(value[1], other[1]), name
