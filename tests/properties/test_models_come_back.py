"""Whatever a model is made of, and however the call ends: model, hooks, modes and generators are as before."""

from __future__ import annotations

import random
import warnings
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devinterp.errors import DevinterpError

torch = pytest.importorskip("torch")
nn = torch.nn
prune = pytest.importorskip("torch.nn.utils.prune")
ROWS = np.random.default_rng(5).integers(0, 8, (8, 5))

PARTS = st.sets(st.sampled_from([
    "tied", "dropout", "norm", "buffer", "passing buffer", "shared buffer", "lazy buffer", "lazy module",
    "plain tensor", "cache", "weight norm", "pruned", "forward hook", "pre-hook", "backward hook", "gradient hook",
    "accumulate hook",
    "frozen weight", "infinite mask", "unused", "gradients", "eval inside", "sparse", "own attribute",
]), max_size=8)  # fmt: skip
DTYPES = st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16])
WRAPPERS = st.sampled_from([None, None, "module", "parallel"])
EXITS = st.sampled_from(["normal", "exception", "interrupt", "nan", "refused"])


class Model(nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self, parts: set[str], dtype: Any) -> None:
        super().__init__()
        self.parts = parts
        self.embed = nn.Embedding(8, 4, sparse="sparse" in parts and "tied" not in parts)
        self.drop, self.norm = nn.Dropout(0.2), nn.BatchNorm1d(5)
        self.hidden, self.out = nn.Linear(4, 4), nn.Linear(4, 8)
        self.register_buffer("scale", torch.ones(1), persistent="passing buffer" not in parts)
        if "tied" in parts:
            self.out.weight = self.embed.weight
        if "shared buffer" in parts:
            self.hidden.register_buffer("scale", self.scale)
        if "plain tensor" in parts:
            self.plain = torch.zeros(2)
        if "cache" in parts:
            self.cache: dict[str, Any] = {}
        if "infinite mask" in parts:
            self.mask = nn.Parameter(torch.full((3,), -torch.inf), requires_grad=False)
        if "unused" in parts:
            self.unused = nn.Linear(2, 2)
        self.to(dtype)
        if "frozen weight" in parts:
            self.hidden.weight.requires_grad_(False)
        if "weight norm" in parts:
            nn.utils.weight_norm(self.hidden)
        elif "pruned" in parts:
            prune.random_unstructured(self.hidden, "weight", 0.5)
        if "forward hook" in parts:
            self.out.register_forward_hook(lambda module, args, out: out * 1.5)
        if "pre-hook" in parts:
            self.hidden.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
        if "backward hook" in parts:
            self.out.register_full_backward_hook(lambda module, gin, gout: None)
        if "gradient hook" in parts:
            self.embed.weight.register_hook(lambda gradient: gradient)
        if "accumulate hook" in parts:
            self.out.bias.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
        if "gradients" in parts:
            self.out.bias.grad = torch.ones_like(self.out.bias)
        if "eval inside" in parts:
            self.drop.eval()
        if "own attribute" in parts:
            self.hidden.temperature = 2.0

    def forward(self, ids: Any) -> Any:
        parts, x = self.parts, self.embed(ids)
        if "lazy buffer" in parts and not hasattr(self, "late"):
            self.register_buffer("late", torch.ones(1, dtype=x.dtype))
        if "lazy module" in parts and not hasattr(self, "later"):
            self.later = nn.Identity()
        if "buffer" in parts:
            self.scale += 1
        if "plain tensor" in parts:
            self.plain += 1
        if "cache" in parts:
            self.cache["last"] = x
            self.seen = x
        x = self.hidden(x)
        x = self.norm(x) if "norm" in parts else x
        return self.out(self.drop(x) if "dropout" in parts else x)


class Wrapper(nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, ids: Any) -> Any:
        return self.inner(ids)


def copied(value: Any) -> Any:
    return (id(value), value.detach().clone()) if isinstance(value, torch.Tensor) else value


def picture(model: Any) -> dict[str, Any]:
    """All that a caller could notice: of every module each entry of its ``__dict__``, of every parameter its own."""
    seen: dict[str, Any] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for name, value in vars(module).items():
            if isinstance(value, dict):
                seen[f"{path}:{name}"] = [(key, copied(each)) for key, each in value.items()]
            else:
                seen[f"{path}:{name}"] = copied(value)
    for name, p in model.named_parameters():
        hooks = [list((table or {}).items()) for table in (p._backward_hooks, p._post_accumulate_grad_hooks)]
        seen[f"{name} itself"] = [p.requires_grad, p.data_ptr(), p.dtype, copied(p.grad), *hooks]
    seen |= {"torch": torch.get_rng_state(), "numpy": np.random.get_state(), "random": random.getstate()}  # noqa: NPY002
    seen |= {"grad": torch.is_grad_enabled(), "threads": torch.get_num_threads(), "dtype": torch.get_default_dtype()}
    return seen


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(PARTS, DTYPES, WRAPPERS, EXITS, st.integers(2, 9), st.sampled_from([None, 0.05]), st.booleans())
def test_the_model_comes_back(
    parts: set[str], dtype: Any, wrapper: str | None, way: str, when: int, noise: float | None, training: bool
) -> None:
    from devinterp.slt.sampling import sample

    calls = []

    def loss(model: Any, ids: Any) -> Any:
        calls.append(1)
        losses = nn.functional.cross_entropy(model(ids)[:, :-1].mT.float(), ids[:, 1:], reduction="none")
        if len(calls) == when:
            if way == "exception":
                raise ZeroDivisionError
            if way == "interrupt":
                raise KeyboardInterrupt
            if way == "nan":
                return losses * torch.nan
        return losses

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Model(parts, dtype).train(training)
        model = {None: lambda m: m, "module": Wrapper, "parallel": nn.DataParallel}[wrapper](model)
        before = picture(model)
        with suppress(DevinterpError, ZeroDivisionError, KeyboardInterrupt):
            sample(model, ROWS, {"a": ROWS}, lr=-1.0 if way == "refused" else 1e-3, n_beta=5.0, num_chains=1,
                   num_draws=2, batch_size=2, batches_per_draw=1, num_init_loss_batches=1, localization=1.0,
                   init_noise=noise, loss_fn=loss, device="cpu", progress=False,
                   output_path=zarr.storage.MemoryStore())  # fmt: skip
        after = picture(model)
    assert [name for name in {**before, **after} if not same(before.get(name), after.get(name))] == []
