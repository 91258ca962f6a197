"""TransformerLens 4's bridge around a model, held against the model itself: weights, heads, losses.

    PYTHON_WITH_TRANSFORMER_LENS_4 tests/benchmarks/sampling/bridge.py

Of a Llama every draw is the model's own. Of a GPT-2 the bridge splits the fused projection into three, which draw their
noise in another order: there the sampled weights and the losses at the start are compared.
"""

from __future__ import annotations

import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))

import cases
import numpy as np
import torch
from transformer_lens.model_bridge.sources import build_bridge_from_module

from devinterp import sample_restrictions

RESTRICTIONS = {"full": "full", "head": "l0h1", "layer": "l1", "mlp": "l0 mlp", "embed": "embed", "unembed": "unembed"}


def study(model: Any) -> Any:
    """Every restriction, in two chains of four draws."""
    rows = cases.tokens("train")
    return sample_restrictions(
        model, rows, {"a": (rows, 1)}, RESTRICTIONS, sampling_task="a", lr=1e-4, n_beta=10.0, num_chains=2, num_draws=4,
        batch_size=4, num_init_loss_batches=2, localization=10.0, mode="eval", device="cpu", progress=False,
    )  # fmt: skip


def main() -> int:
    """Print a row per restriction; 1 where weights are missed or a Llama's draws differ."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"transformer-lens {version('transformer-lens')}: bridge beside model")
    print(
        "| model | restriction | weights | losses at the start differ by | losses of the draws |\n|---|---|---|---|---|"
    )
    wrong = 0
    for name, build in (("Llama", cases.llama), ("GPT-2", cases.gpt2)):
        inside = build()
        inside.set_attn_implementation("eager")
        bridge = build_bridge_from_module(build(), type(inside).__name__, hf_config=inside.config)
        ours, theirs = study(inside), study(bridge)
        for restriction in RESTRICTIONS:
            one, other = ours[restriction], theirs[restriction]
            weights = [t.attrs["metadata"]["provenance"]["sampled"]["weights"] for t in (one, other)]
            start, draws = (float(np.abs(one[v].values - other[v].values).max()) for v in ("init_loss_a", "loss_a"))
            print(f"| {name} | {restriction} | {weights[0]}, {weights[1]} | {start:.2g} | {draws:.2g} |", flush=True)
            wrong += weights[0] != weights[1] or start > 1e-5 or (name == "Llama" and draws > 0)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
