"""What one `sample()` computes, over what it must: multiplications in matrix products, which no neighbour disturbs.

    python tests/benchmarks/restricted/passes.py [--draws 1 2 4] [--model FOLDER]

It must evaluate, each once: the fixed rows and the batches of ``init_loss`` at the start; and at every step the
gradient, at every draw the fixed rows, of both what lies behind the first sampled weight. A step shares the forward
pass of the first batch with ``init_loss``, which is at the same weights. The model is that of run.py, with three
observables of three batches and an ``init_loss`` of one, or a language model of transformers from a folder, with rows
of 33 tokens, batches of 4, one observable of one batch. Target: 1.15 for one draw.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from side import LAYERS, OBSERVABLES, Transformer, head, settings, tokens
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from devinterp import sample
from devinterp.slt.sampling.engine.losses import forward_logits, next_token_loss


class Multiplications(TorchDispatchMode):
    """Counts them, and those from the first operation on that reads one of some parameters."""

    def __init__(self, sampled: Iterable[nn.Parameter] = ()) -> None:
        super().__init__()
        self.all = self.behind = 0
        self._memory = {each.untyped_storage()._cdata for each in sampled}
        self._reached = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [each for each in args if isinstance(each, torch.Tensor)]
        self._reached |= any(each.untyped_storage()._cdata in self._memory for each in given)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            number = int(count(*args, **(kwargs or {}), out_val=out)) // 2
            self.all, self.behind = self.all + number, self.behind + number * self._reached
        return out


def counted(action: Callable[[], object], sampled: Iterable[nn.Parameter] = ()) -> Multiplications:
    with Multiplications(sampled) as found:
        action()
    return found


def must(model: nn.Module, names: Iterable[str], ids: torch.Tensor, draws: int, fixed: int) -> float:
    """What a run of one batch of ``init_loss`` and so many batches of fixed rows must multiply."""
    parameters = dict(model.named_parameters())
    wanted = [parameters[name] for name in names]
    for name, each in parameters.items():
        each.requires_grad_(name in set(names))

    def loss() -> torch.Tensor:
        return next_token_loss(forward_logits(model, ids), ids).mean()

    with torch.no_grad():
        forward = counted(loss, wanted)
    gradient = counted(lambda: loss().backward()).all - forward.all
    for each in parameters.values():
        each.requires_grad_(True)
        each.grad = None
    at_start = (fixed + 1) * forward.all
    return at_start + (draws - 1) * forward.all + draws * (gradient + fixed * forward.behind)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--model", help="folder of a language model of transformers")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    restrictions: dict[str, Any]
    if args.model:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
        rows = np.random.default_rng(0).integers(0, model.config.vocab_size, (16, 33))
        observables, fixed, options = {"train": (rows, 1)}, 1, {**settings(1), "batch_size": 4}
        layers = model.config.num_hidden_layers
        attention = {n: f"model.layers.{n}.self_attn.q_proj.weight" for n in (layers // 2, layers - 1)}
        group = f"model.layers.{layers // 2}."
        restrictions = {
            "full": None,
            "a head's matrix, middle": {attention[layers // 2]: None},
            "a head's matrix, last layer": {attention[layers - 1]: None},
        }
    else:
        model, rows = Transformer(), tokens("sampling")
        observables, fixed, options = {name: (tokens(name), 3) for name in OBSERVABLES}, 9, settings(1)
        group = f"blocks.{LAYERS // 2}."
        restrictions = {
            "full": None,
            "head, middle": head(model, LAYERS // 2, 0),
            "head, last layer": head(model, LAYERS - 1, 0),
        }
    names = [name for name, _ in model.named_parameters()]
    restrictions["group, middle"] = {name: None for name in names if name.startswith(group)}
    ids = torch.from_numpy(rows[: options["batch_size"]])
    print(f"batches of {options['batch_size']}, {fixed} of fixed rows; multiplications over what must be")
    print(" " * 28, *(f"{draws} draws".rjust(10) for draws in args.draws))
    for name, masks in restrictions.items():
        ratios = []
        for draws in args.draws:
            needed = must(model, masks or names, ids, draws, fixed)
            told = {**options, "num_draws": draws, "progress": False, "param_masks": masks}
            ratios.append(counted(lambda told=told: sample(model, rows, observables, **told)).all / needed)
        print(f"{name:28s}", *(f"{ratio:10.3f}" for ratio in ratios))


if __name__ == "__main__":
    main()
