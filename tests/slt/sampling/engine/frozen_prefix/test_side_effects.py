"""What a frozen part leaves behind beside its output is not missed by what comes after it."""

from __future__ import annotations

import io
import itertools
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from odd_models import PARTS, Plain, build
from prefix_runs import chains, compared, last, same_runs
from torch import nn

from devinterp.slt.sampling.engine.frozen_prefix import FrozenPrefix
from devinterp.slt.sampling.engine.frozen_prefix.side_effects import StoresSeen

pytestmark = pytest.mark.usefixtures("short_looks")

SEEN: dict[str, Any] = {"number": 0.0, "list": [0.0], "kept": torch.zeros(()), "rows": None, "calls": 0}


class Elsewhere:
    number, config = 0.0, SimpleNamespace(number=0.0, flag=False)


NUMBER, FLAG = 0.0, False


class Writes(nn.Module):
    """Leaves what depends on its rows in a place that is not its own."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place, self.inner, self.config = place, PARTS["Plain"](), Elsewhere.config
        self.kept, self.named = [torch.zeros(())], {"kept": torch.zeros(())}
        cell = 0.0

        def put(value: float | None = None) -> float:
            nonlocal cell
            cell = cell if value is None else value
            return cell

        self.put = put

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        global NUMBER, FLAG
        out = self.inner(x)
        if self.place == "global":
            NUMBER = out.mean().item()
        elif self.place == "flag":
            FLAG = bool(out.mean() > 0)
        elif self.place == "closure":
            self.put(out[0, 0, 0].item())
        elif self.place == "attribute":
            self.config.number = float(out.mean())
        elif self.place == "class":
            Elsewhere.number = float(out.mean())
        elif self.place == "dict":
            SEEN.update(number=float(out.mean()))
        elif self.place == "list":
            SEEN["list"].insert(0, float(out.mean()))
        elif self.place == "output":
            SEEN["kept"] = out.detach()
        elif self.place == "input":
            SEEN["kept"] = x.detach()
        elif self.place == "numpy":
            ARRAY[0] = out.detach().mean().numpy()
        elif self.place == "shape":
            NUMBER = float(out.shape[0])
        elif self.place == "count":
            SEEN["calls"] += 1
        elif self.place == "constant":
            NUMBER = 0.25
        elif self.place == "own list of outputs":
            self.kept[0] = out.detach()
        elif self.place == "own dict of inputs":
            self.named["kept"] = x.detach()
        elif self.place == "context":
            CONTEXT.set(out.detach())
        elif self.place == "context number":
            CONTEXT.set(out.detach().mean().cpu().numpy().copy())
        elif self.place == "setattr":
            setattr(Elsewhere, "number", out.mean().item())  # noqa: B010
        return out


ARRAY = np.zeros(1)
CONTEXT: ContextVar[Any] = ContextVar("left")
STREAM = io.StringIO()


class Gathers(Plain):
    """Goes by numbers that it has put into a list of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: list[float] = []
        for row in x:
            found.append(float(row.mean()))
        return super().forward(x) * (1.0 if sum(found) > 0 else 0.5)


class Streams(Plain):
    """Leaves a digit in a stream, the same one for most rows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = super().forward(x)
        STREAM.seek(0)
        STREAM.write(str(int(out.mean() > -9)))
        return out


class Reads(nn.Module):
    """Takes it from there; of the frozen modules after it and of the sampled ones alike."""

    def __init__(self, place: str, writer: Writes) -> None:
        super().__init__()
        self.place, self.put, self.inner = place, writer.put, PARTS["Plain"]()
        self.writer = [writer]  # a list, or it would be a part of this one

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.place in ("global", "shape", "constant"):
            x = x * (1 + NUMBER)
        elif self.place == "flag":
            x = x * 1.5 if FLAG else x
        elif self.place == "closure":
            x = x * (1 + self.put())
        elif self.place == "attribute":
            x = x * (1 + Elsewhere.config.number)
        elif self.place in ("class", "setattr"):
            x = x * (1 + Elsewhere.number)
        elif self.place == "dict":
            x = x * (1 + SEEN["number"])
        elif self.place == "list":
            x = x * (1 + SEEN["list"][0])
        elif self.place in ("output", "input"):
            x = x * (1 + SEEN["kept"].mean())
        elif self.place == "own list of outputs":
            x = x * (1 + self.writer[0].kept[0].mean())
        elif self.place == "own dict of inputs":
            x = x * (1 + self.writer[0].named["kept"].mean())
        elif self.place == "stream":
            x = x * (1.5 if STREAM.getvalue() == "1" else 1)
        elif self.place in ("context", "context number"):
            x = x * (1 + torch.as_tensor(CONTEXT.get()).mean())
        elif self.place == "numpy":
            x = x * (1 + float(ARRAY[0]))
        elif self.place == "count":
            x = x * 1.5 if SEEN["calls"] % 40 == 0 else x
        return self.inner(x)


PLACES = (
    "global", "flag", "closure", "attribute", "class", "dict", "list", "output", "input", "numpy", "shape", "count",
    "setattr", "context", "context number", "own list of outputs", "own dict of inputs",
)  # fmt: skip


@pytest.mark.parametrize(("place", "size"), [*((each, 1) for each in PLACES), ("context", 2), ("output", 3)])
def test_what_a_part_leaves_elsewhere_is_not_missed(place: str, size: int) -> None:
    """A later part reads it, and would find what another batch has left there."""
    SEEN.update(list=[0.0], calls=0)
    model = build(("Plain",) * 4)
    model.parts[1] = Writes(place)
    model.parts[3] = Reads(place, model.parts[1])
    masks = {"parts.3.inner.down.weight": None}
    changes = {"batch_size": size}
    plain = chains(model, masks, FrozenPrefix(enabled=False, minibatches=True), changes=changes)
    SEEN.update(list=[0.0], calls=0)
    reused = chains(model, masks, FrozenPrefix(minibatches=True), changes=changes)
    for (_, one), (result, other) in zip(plain, reused, strict=True):
        if place != "count":  # it is another number anyway
            same_runs(one, other)
        if place in ("global", "flag", "closure", "count"):
            assert result.reuse.reused == 0


def test_a_flag_that_is_left_in_a_stream_is_not_missed() -> None:
    model = build(("Plain",) * 4)
    model.parts[1], model.parts[3] = Streams(), Reads("stream", Writes("stream"))
    assert compared(model, {"parts.3.inner.down.weight": None})[1].reuse.reused == 0


@pytest.mark.parametrize("place", ["constant", "own list"])
def test_what_is_the_same_for_all_rows_or_gone_after_the_call_stands_in_no_way(place: str) -> None:
    model = build(("Plain",) * 4)
    writer = Writes(place)
    model.parts[1] = Gathers() if place == "own list" else writer
    model.parts[3] = Reads(place, writer)
    assert compared(model, {"parts.3.inner.down.weight": None})[1].reuse.reused == 12


@pytest.mark.parametrize(
    ("module", "stores"), [(vars(nn.functional), False), (globals(), True)], ids=["torch's", "the caller's"]
)
def test_generated_code_belongs_to_the_module_that_it_was_made_for(module: dict[str, Any], stores: bool) -> None:
    # Operations of torch 2.4 make dataclasses of torch's own, whose __init__ was written by the interpreter.
    made: dict[str, Any] = {}
    exec("def init(owner, number):\n    owner.number = number", module, made)
    seen = StoresSeen()
    with seen.inside():
        made["init"](SimpleNamespace(), 1.0)
    assert seen.settle() == stores


def test_a_check_that_fails_ends_it_for_all_restrictions() -> None:
    model, prefix = build(("Plain",) * 4), FrozenPrefix(minibatches=True)
    model.parts[1] = Writes("context")
    model.parts[3] = Reads("context", model.parts[1])
    for name in ("parts.3.inner.down.weight", "parts.2.up.weight", "parts.0.up.weight"):
        (result, _), *_ = chains(model, {name: None}, prefix)
        assert (result.reuse.reused, result.reuse.reason) == (0, prefix.failed)
    assert prefix.failed == "the check on the first batch failed"
    assert not prefix._kept


class Caching(Plain):
    """Puts its output into a cache that it is given, or into the one that is open."""

    def forward(self, x: torch.Tensor, cache: Any = None) -> torch.Tensor:
        out = super().forward(x)
        (OPEN[-1] if cache is None else cache).kept[id(self)] = out
        return out


OPEN: list[SimpleNamespace] = []


class Cached(nn.Module):
    """Reads what its parts have put into a cache."""

    def __init__(self, inner: nn.Module, way: str) -> None:
        super().__init__()
        self.inner, self.way = inner, way
        for number in range(3):
            inner.parts[number] = Caching()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x, cache = self.inner.embed(input_ids), SimpleNamespace(kept={})
        OPEN.append(cache)
        for part in self.inner.parts[:3]:
            x = part(x, cache) if self.way == "given" else part(x)
        OPEN.pop()
        x = x + 0.1 * cache.kept[id(self.inner.parts[0])]
        return self.inner.unembed(self.inner.parts[3](x))


@pytest.mark.parametrize(("way", "reused"), [("given", 12), ("open", 0)])
def test_what_a_part_puts_into_a_cache_is_not_missed(way: str, reused: int) -> None:
    model = Cached(build(("Plain",) * 4), way)
    assert compared(model, {"inner.parts.3.down.weight": None})[1].reuse.reused == reused


def counter(kind: str) -> Any:
    """Return what gives the number of the pass."""
    if kind == "iterator":
        return partial(next, itertools.count(1))
    if kind == "slots":
        return Slotted()
    count = {"number": 0}

    def number() -> int:
        count["number"] += 1
        return count["number"]

    return number


class Slotted:
    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> int:
        self.number += 1
        return self.number


class EveryFew(Plain):
    """Does something else at every few passes, which somebody else counts."""

    def __init__(self, few: int, count: Any) -> None:
        super().__init__()
        self.forward = lambda x: Plain.forward(self, x) * (1.0 if count() % few else 1.5)


@pytest.mark.parametrize(("kind", "few"), [("closure", 2), ("closure", 5), ("iterator", 5), ("slots", 5)])
def test_a_part_that_counts_its_passes_is_not_left_out(kind: str, few: int) -> None:
    model = build(("Plain",) * 4)
    model.parts[1] = EveryFew(few, counter(kind))
    prefix = FrozenPrefix(minibatches=True, any_length=True)
    assert [result.reuse.reused for result, _ in chains(model, last(model), prefix)] == [0, 0]


def test_a_look_is_no_pass_that_a_model_counts() -> None:
    class Counting(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.calls, self.seen = 0, [0]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self.seen[0] += 1
            return super().forward(x) * (1.5 if self.calls % 3 == 0 or self.seen[0] % 5 == 1 else 1.0)

    model = build(("Plain",) * 4)
    model.parts[1] = Counting()
    assert compared(model, last(model))[1].reuse.reused == 0


def test_what_a_step_leaves_elsewhere_is_not_missed() -> None:
    """A frozen part reads what the backward pass of a sampled one has left."""
    left = [0.0]

    class Reading(Plain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * (1 + left[0])

    class Leaving(Plain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = super().forward(x)
            if out.requires_grad:
                out.register_hook(lambda gradient: left.__setitem__(0, float(gradient.abs().mean())))
            return out

    model = build(("Plain",) * 4)
    model.parts[0], model.parts[3] = Reading(), Leaving()
    plain = chains(model, last(model), FrozenPrefix(enabled=False, minibatches=True))
    left[0] = 0.0
    reused = chains(model, last(model), FrozenPrefix(minibatches=True))
    for (_, one), (_, other) in zip(plain, reused, strict=True):
        same_runs(one, other)


def test_parts_that_run_in_other_threads_are_not_left_out() -> None:
    """What they read is not seen there: a sampled weight, say."""

    class Elsewhere(nn.Module):
        def __init__(self, part: nn.Module) -> None:
            super().__init__()
            self.part, self.threads = part, ThreadPoolExecutor(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gradients = torch.is_grad_enabled()

            def run() -> torch.Tensor:
                with torch.set_grad_enabled(gradients):
                    return self.part(x)

            return self.threads.submit(run).result()

    results = []
    for enabled in (True, False):
        model = build(("Plain",) * 4)
        model.parts[1] = Elsewhere(model.parts[1])
        results.append(
            chains(model, {"parts.1.part.down.weight": None}, FrozenPrefix(enabled=enabled, minibatches=True))
        )
        model.parts[1].threads.shutdown()
    for (result, one), (_, other) in zip(*results, strict=True):
        assert result.reuse.reused == 0
        same_runs(one, other)
