"""One side of run.py, in a process of its own: a study of every head, its seconds, and what it sampled.

python side.py {peer,ours,plain,alone} OUT.npz {wall,cpu} THREADS DEVICE DRAWS [LAYER ...]
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ["TQDM_DISABLE"] = "1"
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

LAYERS, HEADS, WIDTH, VOCAB, CONTEXT, BATCH = 6, 8, 128, 2000, 64, 16
OBSERVABLES = ("train", "code", "maths")


clock = time.process_time if sys.argv[3:4] == ["cpu"] else time.perf_counter
DEVICE = sys.argv[5] if Path(sys.argv[0]).name == "side.py" else "cpu"  # passes.py imports this too


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, seq, width = x.shape
        q, k, v = (p.view(batch, seq, HEADS, -1).transpose(1, 2) for p in self.qkv(self.ln1(x)).chunk(3, dim=-1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, seq, width))
        return x + self.down(nn.functional.gelu(self.up(self.ln2(x))))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(VOCAB, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.unembed = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(input_ids) + self.position.weight[: input_ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.unembed(self.norm(x))


def head(model: nn.Module, layer: int, number: int) -> dict[str, torch.Tensor]:
    """Masks of one attention head: its rows of qkv, its columns of out."""
    size = WIDTH // HEADS
    rows = torch.zeros(3, HEADS, size, dtype=torch.bool)
    rows[:, number] = True
    columns = torch.zeros(WIDTH, dtype=torch.bool)
    columns[number * size : (number + 1) * size] = True
    return {
        f"blocks.{layer}.qkv.weight": rows.reshape(-1)[:, None].expand(-1, WIDTH).clone(),
        f"blocks.{layer}.qkv.bias": rows.reshape(-1).clone(),
        f"blocks.{layer}.out.weight": columns[None, :].expand(WIDTH, -1).clone(),
    }


def tokens(name: str) -> np.ndarray:
    rows = 4 * BATCH if name == "sampling" else 3 * BATCH
    return np.random.default_rng(len(name)).integers(0, VOCAB, (rows, CONTEXT))


def rows(name: str) -> Any:
    """The same as a dataset of HuggingFace, which every version takes."""
    from datasets import Dataset

    return Dataset.from_dict({"input_ids": tokens(name).tolist()}).with_format("torch")


def settings(draws: int) -> dict[str, Any]:
    return {
        "lr": 1e-4, "n_beta": 30.0, "localization": 100.0, "num_chains": 1, "num_draws": draws, "batch_size": BATCH,
        "num_init_loss_batches": 1, "device": DEVICE,
    }  # fmt: skip


def peer(model: nn.Module, restrictions: dict[str, Any], draws: int) -> tuple[dict[str, Any], dict[str, float]]:
    """A loop of `sample`, one per restriction."""
    from devinterp.slt.sampling import sample

    trees, seconds = {}, {}
    sampling, observables = rows("sampling"), {name: (rows(name), 3) for name in OBSERVABLES}
    with tempfile.TemporaryDirectory() as folder:
        for name, masks in restrictions.items():
            began = clock()
            tree = sample(
                model, sampling, observables, param_masks=masks, output_path=Path(folder) / f"{name}.zarr",
                **settings(draws),
            )  # fmt: skip
            seconds[name] = clock() - began
            trees[name] = {variable: tree[variable].values for variable in tree.data_vars}
    return trees, seconds


def ours(model: nn.Module, restrictions: dict[str, Any], draws: int) -> tuple[dict[str, Any], dict[str, float]]:
    """One study; what precedes the first chain, for all of them, and follows the last, are entries of their own."""
    from devinterp.slt.sampling.running.run_plan import RunPlan
    from devinterp.slt.sampling.study import sample_restrictions

    ends: dict[str, float] = {}
    run, first = RunPlan.run, list[float]()

    def noted(*given: Any, **named: Any) -> Any:
        first.append(clock())
        return run(*given, **named)

    RunPlan.run = noted  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        began = clock()

        def note(event: Any) -> None:
            ends[event.restriction] = clock()

        tree = sample_restrictions(
            model, tokens("sampling"), {name: (tokens(name), 3) for name in OBSERVABLES}, restrictions,
            sampling_task="train", output_path=Path(folder) / "study.zarr", progress=note, **settings(draws),
        )  # fmt: skip
        ended = clock()
        trees = {name: {v: tree[name][v].values for v in tree[name].data_vars} for name in restrictions}
    RunPlan.run = run  # type: ignore[method-assign]
    seconds = {"set-up": first[0] - began}
    before = first[0]
    for name, end in sorted(ends.items(), key=lambda each: each[1]):
        seconds[name], before = end - before, end
    seconds["the end"] = ended - before
    return trees, seconds


def alone(model: nn.Module, restrictions: dict[str, Any], draws: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Every restriction by a `sample()` of its own, as any version takes it: the least of three."""
    from devinterp.slt.sampling import sample

    trees, seconds = {}, {}
    quiet = {"progress": False} if "progress" in inspect.signature(sample).parameters else {}
    observables = {name: (rows(name), 3) for name in OBSERVABLES}
    for name, masks in restrictions.items():
        found = []
        for _ in range(3):
            began = clock()
            with tempfile.TemporaryDirectory() as folder:
                tree = sample(
                    model, rows("sampling"), observables, param_masks=masks, output_path=Path(folder) / "a.zarr",
                    **quiet, **settings(draws),
                )  # fmt: skip
                found.append(clock() - began)
                trees[name] = {variable: tree[variable].values for variable in tree.data_vars}
        seconds[name] = min(found)
    return trees, seconds


def main() -> None:
    who, out, _, threads, _, draws, *layers = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    model = Transformer()
    restrictions: dict[str, Any] = {"full": None}
    for layer in map(int, layers or range(LAYERS)):
        restrictions |= {f"l{layer}h{number}": head(model, layer, number) for number in range(HEADS)}
    warm = {"full": None}
    if who == "alone":
        last = head(model, LAYERS - 1, 0)
        group = {name: None for name, _ in model.named_parameters() if name.startswith(f"blocks.{LAYERS // 2}.")}
        alone(model, warm, 1)
        trees, seconds = alone(model, {"full": None, "head, last layer": last, "group, middle": group}, int(draws))
    elif who == "peer":
        peer(model, warm, 1)
        trees, seconds = peer(model, restrictions, int(draws))
    else:
        from devinterp.slt.sampling.engine.frozen_prefix import plain_passes

        ours(model, warm, 1)
        if who == "plain":
            with plain_passes():
                trees, seconds = ours(model, restrictions, int(draws))
        else:
            trees, seconds = ours(model, restrictions, int(draws))
    np.savez(out, **{f"{name}/{variable}": values for name, tree in trees.items() for variable, values in tree.items()})
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
