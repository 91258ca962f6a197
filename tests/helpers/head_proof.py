"""Functional proof that the masks of a head are that head's weights and no other's.

With everything outside the masks frozen, masked weights are moved, and the input of the attention's output projection,
whose features are the heads' outputs side by side, shows which heads notice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from devinterp.slt.weight_restrictions import attention, module_tree, stack

torch.set_num_threads(1)  # hundreds of tiny forward passes: threads only wait for each other

CHANGED, UNCHANGED = 1e-4, 1e-6  # largest absolute difference; activations are of order 1
Masks = dict[str, Tensor | None]


@dataclass(frozen=True)
class Site:
    """Where one layer's heads can be watched."""

    layer: int
    output: nn.Module
    num_heads: int
    num_groups: int
    norms: tuple[nn.Module, ...]


def find_site(model: nn.Module, layer: int, num_heads: int, num_groups: int) -> Site | None:
    """The output projection of a layer's attention, and the norms that mix its heads; None if it is not a module."""
    unit = attention.find_units(stack.find_layers(model)[layer].parts, module_tree.canonical_names(model))[0]
    output = unit.of("o")[0]
    if output.param.dim() != 2:
        return None
    inside = [module for owner in unit.modules for module in owner.modules()]
    own_size = output.param.numel() // max(output.module.weight.shape[0], 1) // num_heads
    norms = {
        id(module): module
        for module in inside
        if "norm" in type(module).__name__.lower() and getattr(module, "weight", None) is not None
        if module.weight.dim() == 1 and module.weight.numel() > own_size
    }
    return Site(layer, output.module, num_heads, num_groups, tuple(norms.values()))


def head_outputs(model: nn.Module, site: Site, input_ids: Tensor) -> Tensor:
    """Return the heads' outputs (row, head, feature) of one forward pass, a row for each batch item and position."""
    seen: list[Tensor] = []
    handle = site.output.register_forward_pre_hook(lambda _module, args: seen.append(args[0].detach().clone()))
    try:
        with torch.no_grad():
            model(input_ids)
    finally:
        handle.remove()
    return seen[0].reshape(-1, site.num_heads, seen[0].shape[-1] // site.num_heads)


@contextlib.contextmanager
def moved(model: nn.Module, masks: Masks, seed: int = 1) -> Iterator[None]:
    """Move exactly the masked weights, by noise of their own size; put them back."""
    params = dict(model.named_parameters())
    before = {name: params[name].detach().clone() for name in masks}
    generator = torch.Generator().manual_seed(seed)
    try:
        with torch.no_grad():
            for name, mask in masks.items():
                noise = torch.randn(params[name].shape, generator=generator) * (params[name].std() + 0.05)
                params[name].add_(noise if mask is None else noise * mask)
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                params[name].copy_(value)


@contextlib.contextmanager
def _elementwise(norms: tuple[nn.Module, ...]) -> Iterator[None]:
    """Let these norms scale each feature without normalising."""
    originals = [(module, module.forward) for module in norms]
    try:
        for module, _ in originals:
            module.forward = lambda x, *rest, _m=module, **kw: x * _m.weight  # type: ignore[method-assign]
        yield
    finally:
        for module, _ in originals:
            del module.forward


def without_output(masks: Masks, model: nn.Module, site: Site) -> Masks:
    """The masks of the projections into the attention."""
    own = {id(param) for param in site.output.parameters()}
    params = dict(model.named_parameters())
    return {name: mask for name, mask in masks.items() if id(params[name]) not in own}


def minus(first: Masks, second: Masks) -> Masks:
    """The weights of ``first`` that are not in ``second``."""
    return {name: mask & ~second[name] if name in second else mask for name, mask in first.items()}


def both(first: Masks, second: Masks) -> Masks:
    """The weights that are in both."""
    return {name: mask & second[name] for name, mask in first.items() if name in second}


def prove(
    model: nn.Module, input_ids: Tensor, site: Site, masks_of: Callable[[int], Masks], *, hold_norms: bool = False
) -> list[str]:
    """Return what is wrong with the masks of a layer's heads; empty if they are proved.

    For each head: moving its masked input projections changes its output and that of no head outside its key-value
    group; moving what it shares with no other head changes its output alone; moving the complement of its masks leaves
    it unchanged and changes all heads outside its group; moving its masked output weights changes what becomes of its
    own output and of no other's, and moving their complement the reverse. With ``hold_norms``, norms over several heads
    scale but do not normalise: in models that have them every head feels every other through their statistics.
    """
    wrong: list[str] = []
    with _elementwise(site.norms if hold_norms else ()):
        base = head_outputs(model, site, input_ids)
        per = site.num_heads // site.num_groups
        masks = [masks_of(head) for head in range(site.num_heads)]
        inputs = [without_output(m, model, site) for m in masks]

        def changed(moved_masks: Masks) -> tuple[set[int], set[int]]:
            with moved(model, moved_masks):
                distance = (head_outputs(model, site, input_ids) - base).abs().amax(dim=(0, 2))
            return set((distance > CHANGED).nonzero().flatten().tolist()), set(
                (distance > UNCHANGED).nonzero().flatten().tolist()
            )

        for head in range(site.num_heads):
            group = set(range(head // per * per, head // per * per + per))
            surely, maybe = changed(inputs[head])
            if surely != group or maybe != group:
                wrong.append(f"head {head}: moving its inputs changes heads {sorted(maybe)}, not {sorted(group)}")
            if per > 1:
                mate = inputs[head - 1 if head % per else head + 1]
                alone, maybe = changed(minus(inputs[head], mate))
                if alone != {head} or maybe != {head}:
                    wrong.append(f"head {head}: moving its own queries changes heads {sorted(maybe)}")
                shared, maybe = changed(both(inputs[head], mate))
                if shared != group or maybe != group:
                    wrong.append(f"head {head}: moving its keys and values changes heads {sorted(maybe)}")
            surely, maybe = changed({name: ~mask for name, mask in inputs[head].items()})
            outside = set(range(site.num_heads)) - group
            if head in maybe or not outside <= surely:
                wrong.append(f"head {head}: moving the complement changes heads {sorted(maybe)}")
            wrong += _prove_output(model, site, base, masks[head], head)
    return wrong


def _prove_output(model: nn.Module, site: Site, base: Tensor, masks: Masks, head: int) -> list[str]:
    own = {id(param): name for name, param in model.named_parameters()}
    names = {own[id(param)] for param in site.output.parameters() if id(param) in own}
    part = {name: mask for name, mask in masks.items() if name in names}
    alone, rest = torch.zeros_like(base), base.clone()
    alone[:, head] = base[:, head]
    rest[:, head] = 0

    def through(x: Tensor) -> Tensor:
        with torch.no_grad():
            return site.output(x.flatten(-2))

    before = through(alone), through(rest)
    with moved(model, part):
        after = through(alone), through(rest)
    with moved(model, {name: ~mask for name, mask in part.items()}):
        elsewhere = through(alone)
    wrong = []
    if (after[0] - before[0]).abs().max() <= CHANGED:
        wrong.append(f"head {head}: moving its output weights does not change what becomes of its output")
    if (after[1] - before[1]).abs().max() > UNCHANGED:
        wrong.append(f"head {head}: moving its output weights changes what becomes of other heads' outputs")
    if (elsewhere - before[0]).abs().max() > UNCHANGED:
        wrong.append(f"head {head}: moving other output weights changes what becomes of its output")
    return wrong


def language_input(model: Any, vocabulary: int = 64, length: int = 8) -> Tensor:
    """Token ids (batch, position), all different in a row, for the forward pass of a tiny model."""
    codebooks = getattr(getattr(model, "config", None), "num_codebooks", 1)
    rows = codebooks if "musicgen" in type(model).__module__ else 1
    generator = torch.Generator().manual_seed(3)
    return torch.stack([torch.randperm(vocabulary - 4, generator=generator)[:length] + 4 for _ in range(rows)])
