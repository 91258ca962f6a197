"""One contestant of bench.py in a process of its own: for every number of draws that it reads, the seconds they took.

python side.py {peer,ours,metrics,parallel,floor,update} {small,large} THREADS
"""

from __future__ import annotations

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

VOCAB, CONTEXT, BATCH, CHAINS = 256, 64, 16, 2
UPDATES = 200  # so many are timed; the passes between them cost fifty times as much
SIZES = {"small": (32, 2, 4), "large": (192, 4, 6)}  # width, layers, heads: about 42 k and 2 M parameters


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, seq, width = x.shape
        q, k, v = (p.view(batch, seq, self.heads, -1).transpose(1, 2) for p in self.qkv(self.ln1(x)).chunk(3, dim=-1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, seq, width))
        return x + self.down(nn.functional.gelu(self.up(self.ln2(x))))


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(VOCAB, width), nn.Embedding(CONTEXT + 1, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.unembed = nn.LayerNorm(width), nn.Linear(width, VOCAB, bias=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.unembed(self.norm(self.blocks(self.embed(input_ids) + self.position.weight[: input_ids.shape[1]])))


def build(size: str) -> Transformer:
    torch.manual_seed(0)
    return Transformer(*SIZES[size])


def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCAB, (512, CONTEXT + 1))


def settings(draws: int) -> dict[str, Any]:
    return {
        "lr": 1e-4, "n_beta": 30.0, "localization": 100.0, "num_chains": CHAINS, "num_draws": draws,
        "batch_size": BATCH, "num_init_loss_batches": 1, "device": "cpu",
    }  # fmt: skip


def floor(size: str, draws: int) -> float:
    """Forward and backward of every step and the observable's pass of every draw, and nothing else."""
    from devinterp.slt.sampling.engine.losses import next_token_loss

    model, rows = build(size), torch.from_numpy(tokens())
    batches = [rows[i : i + BATCH].clone() for i in range(0, 512, BATCH)]
    began = time.perf_counter()
    for _ in range(CHAINS):
        for step in range(draws):
            ids = batches[step % len(batches)]
            next_token_loss(model(ids), ids).mean().backward()
            for parameter in model.parameters():
                parameter.grad = None
            with torch.no_grad():
                next_token_loss(model(batches[0]), batches[0])
    return time.perf_counter() - began


def update(size: str, draws: int) -> float:
    """The update alone: noise, drift and localisation of every step, out of the cache as the passes leave it."""
    from devinterp.slt.sampling.engine.losses import next_token_loss
    from devinterp.slt.sampling.engine.parameters import SampledParameter
    from devinterp.slt.sampling.engine.update import UpdateRule
    from devinterp.slt.sampling.settings import SamplerSettings

    chosen = {key: value for key, value in settings(draws).items() if key != "device"}
    model, ids = build(size), torch.from_numpy(tokens()[:BATCH])
    rule = UpdateRule(
        [SampledParameter.take(name, p, None) for name, p in model.named_parameters()], SamplerSettings.build(**chosen)
    )
    steps = min(CHAINS * draws, UPDATES)
    spent = 0.0
    for _ in range(steps):
        next_token_loss(model(ids), ids).mean().backward()
        began = time.perf_counter()
        rule.step()
        spent += time.perf_counter() - began
    return spent * CHAINS * draws / steps


def sampled(who: str, size: str, draws: int) -> float:
    """A run into a store, from the call of `sample` to what it returns."""
    from devinterp.slt.sampling import sample

    data: Any = tokens()
    options: dict[str, Any] = {"progress": False}
    if who == "peer":
        from datasets import Dataset

        data, options = Dataset.from_dict({"input_ids": data.tolist()}).with_format("torch"), {}
    elif who == "parallel":
        options |= {"chain_method": "parallel", "num_workers": 2, "threads_per_chain": 1}
    elif who == "metrics":
        options["save_metrics"] = True
    model = build(size)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        sample(model, data, {"a": (data, 1)}, output_path=Path(folder) / "a.zarr", **options, **settings(draws))
        return time.perf_counter() - began


def main() -> None:
    who, size, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(threads)

    def run(draws: int) -> None:
        began = time.process_time()
        if who in ("floor", "update"):
            seconds = (floor if who == "floor" else update)(size, draws)
        else:
            seconds = sampled(who, size, draws)
        parameters = sum(p.numel() for p in build(size).parameters())
        print(
            json.dumps({"seconds": seconds, "cpu": time.process_time() - began, "parameters": parameters}), flush=True
        )

    run(1)  # what the first run of a process costs
    for line in sys.stdin:
        run(int(line))


if __name__ == "__main__":
    main()
