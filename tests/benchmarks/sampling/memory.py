"""Peak memory of sampling above the model itself, in copies of the sampled parameters.

    python tests/benchmarks/sampling/memory.py [--layers 24]

The model is a stack of 4 MiB matrices, its batches and activations are small. Target: two copies of the sampled
parameters (the chain's weights, and gradients or a checkpoint) plus a buffer: two matrices as large as the largest
parameter, and 32 MiB for batches, activations, the writer and checkpoints that wait for the disk. RMSprop keeps one
copy more by its nature (its running mean), diagnostics four more of the largest parameter. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

WIDTH, BUFFER_MIB = 1024, 32
CASES: dict[str, dict[str, Any]] = {
    "sgld": {},
    "a tenth of the layers": {"masks": 0.1},
    "a checkpoint after every draw": {"checkpoint_every": 1},
    "last states kept": {"keep_state": True},
    "init noise": {"init_noise": 1e-3},
    "metrics": {"save_metrics": True},
    "rmsprop": {"sampling_method": "rmsprop_sgld"},
}


class Stack(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(input_ids)
        for layer in self.layers:
            x = x + layer(x)
        return x.square().mean(-1)[:, 1:]


def status(field: str) -> float:
    """A figure of this process's memory, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("/proc/self/status has no such figure; this script needs Linux")


def main() -> int:
    from devinterp.slt.sampling import sample

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = np.random.default_rng(0).integers(0, 64, (64, 5))
    model = Stack(args.layers)
    largest = 4 * max(p.numel() for p in model.parameters()) / 2**20

    def run(**options: Any) -> None:
        fraction = options.pop("masks", None)
        if fraction is not None:
            chosen = list(dict(model.named_parameters()))[1 : 1 + round(fraction * args.layers)]
            options["param_masks"] = dict.fromkeys(chosen)
        with tempfile.TemporaryDirectory() as folder:
            sample(
                model, data, {"a": (data, 1)}, output_path=Path(folder) / "a.zarr", loss_fn=lambda m, ids: m(ids),
                lr=1e-6, n_beta=1.0, num_chains=2, num_draws=4, batch_size=2, num_init_loss_batches=1, device="cpu",
                progress=False, localization=1.0, **options,
            )  # fmt: skip

    run(masks=0.1)  # what torch and the store need once
    fail = False
    for name, options in CASES.items():
        names = None if "masks" not in options else round(options["masks"] * args.layers)
        sampled = sum(p.numel() for p in model.parameters()) * 4 / 2**20 if names is None else names * largest
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier runs freed must not serve this one
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = status("VmRSS")
        run(**options)
        grown = status("VmHWM") - before
        copies = 2 + (name == "rmsprop")
        allowed = copies * sampled + (2 + 4 * (name in ("metrics", "rmsprop"))) * largest + BUFFER_MIB
        fail |= grown > allowed
        verdict = "" if grown <= allowed else "  TOO MUCH"
        print(
            f"{name:30s} sampled {sampled:6.1f} MiB, peak above the model {grown:6.1f}, allowed {allowed:6.1f}{verdict}"
        )
    return int(fail)


if __name__ == "__main__":
    sys.exit(main())
