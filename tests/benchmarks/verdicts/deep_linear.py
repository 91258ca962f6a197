"""Deep linear networks as the field's benchmark draws them: the LLC against Aoyagi's coefficient, and the verdicts.

Layers and widths at random, Xavier-normal weights, each layer cut to a random rank with probability 1/2, inputs uniform
in [-10, 10], mean squared error on the network's own outputs; one chain, nine tenths of it burn-in. Aoyagi's number is
the smallest coefficient of the fibre: where half the rank of the network's derivative is larger, that is what the chain
sees at least, and the estimate is held against the larger of the two.

python tests/benchmarks/verdicts/deep_linear.py {1K,10K} FIRST LAST [--chains 1]     # appends to deep_linear.jsonl
python tests/benchmarks/verdicts/deep_linear.py --table
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "helpers"))
from targets import deep_linear_lambda

from devinterp import sample
from devinterp.slt.diagnostics import Diagnosis, diagnose
from devinterp.slt.diagnostics.diagnosis import TITLES
from devinterp.slt.llc import compute_llc

CLASSES = {"1K": ((2, 5), (5, 50)), "10K": ((2, 10), (5, 100))}  # layers, widths, each without its upper end
LR, STEPS, ROWS, BATCH = 5e-7, 10_000, 10**5, 500
RESULTS = Path(__file__).with_suffix(".jsonl")
HEADER = """| class | widths | rank | weights | Aoyagi | derivative's rank / 2 | LLC | interval | error | verdicts |
|---|---|---|---|---|---|---|---|---|---|"""


class Network(nn.Module):
    """Matrices one after another."""

    def __init__(self, matrices: list[Any]) -> None:
        super().__init__()
        self.layers = nn.ParameterList([nn.Parameter(torch.tensor(m, dtype=torch.float32)) for m in matrices])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(row, input) to (row, output)."""
        for layer in self.layers:
            x = x @ layer
        return x


def draw(rng: np.random.Generator, name: str) -> list[Any]:
    """Matrices of a random network."""
    layers, widths = CLASSES[name]
    sizes = rng.integers(*widths, int(rng.integers(*layers)) + 1)
    found = []
    for a, b in pairwise(sizes):
        matrix = rng.normal(size=(a, b)) * math.sqrt(2 / (a + b))
        if rng.uniform() <= 0.5:
            rank = int(rng.integers(0, min(a, b)))
            matrix[(slice(rank, None), slice(None)) if a <= b else (slice(None), slice(rank, None))] = 0
        found.append(matrix)
    return found


def rank(matrix: Any) -> int:
    """Rank, 0 of a zero matrix."""
    return int(np.linalg.matrix_rank(matrix)) if np.abs(matrix).max(initial=0.0) > 0 else 0


def product(matrices: list[Any], size: int) -> Any:
    """The matrices multiplied; the identity of ``size`` where there are none."""
    found = np.eye(size)
    for matrix in matrices:
        found = found @ matrix
    return found


def derivative_rank(matrices: list[Any]) -> int:
    """Rank of the derivative of the product: dimension of the sum of (image before a layer) x (image after it)."""
    before = [rank(product(matrices[:k], matrices[0].shape[0])) for k in range(len(matrices))]
    after = [rank(product(matrices[k + 1 :], m.shape[1])) for k, m in enumerate(matrices)]
    total = seen = 0
    for rows, columns in zip(before, after, strict=True):  # images before shrink, those after grow
        total += max(0, columns - seen) * rows
        seen = max(seen, columns)
    return total


def measure(name: str, number: int, chains: int) -> dict[str, Any]:
    """Sample a network, and hold its LLC against its coefficient."""
    matrices = draw(np.random.default_rng([17, *name.encode(), number]), name)
    widths = (matrices[0].shape[0], *(m.shape[1] for m in matrices))
    rng = np.random.default_rng(number)
    x = torch.from_numpy(rng.uniform(-10, 10, size=(ROWS, widths[0])).astype(np.float32))
    model = Network(matrices)
    with torch.no_grad():
        y = model(x)

    def loss(network: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        rows = ids[:, 0]
        return ((network(x[rows]) - y[rows]) ** 2).mean(dim=1, keepdim=True)

    index, after = np.stack([np.arange(ROWS), np.zeros(ROWS, np.int64)], axis=1), STEPS // 10
    n_beta = ROWS / math.log(ROWS)
    begun = time.process_time()
    tree = sample(
        model, index, {"train": (index, 2)}, lr=LR, n_beta=n_beta, localization=1.0, num_chains=chains,
        num_draws=after // 10, num_steps_bw_draws=10, num_burnin_steps=STEPS - after, batch_size=BATCH,
        loss_fn=loss, init_seed=100 + number, save_metrics=True, progress=False, device="cpu",
    )  # fmt: skip
    seconds = time.process_time() - begun
    result, found = compute_llc(tree, over="steps", ci=0.9), diagnose(tree)
    assert isinstance(found, Diagnosis)
    true_rank = rank(product(matrices, widths[0]))
    return {
        "class": name, "number": number, "chains": chains, "widths": list(widths), "rank": true_rank,
        "weights": sum(m.size for m in matrices), "lambda": deep_linear_lambda(widths, true_rank),
        "local": derivative_rank(matrices) / 2, "llc": float(result["llc_mean"]),
        "ci": result["llc_ci"].values.tolist(), "codes": [v.code for v in found.verdicts],
        "evidence": [str(v) for v in found.verdicts], "inflation": found.step_bias and found.step_bias.inflation,
        "seconds": round(seconds, 1), "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def table() -> None:
    """Print what was measured, in Markdown."""
    entries = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    entries.sort(key=lambda e: (list(CLASSES).index(e["class"]), e["number"]))
    print(HEADER)
    for e in entries:
        right = max(e["lambda"], e["local"])
        print(
            f"| {e['class']} | {'-'.join(map(str, e['widths']))} | {e['rank']} | {e['weights']} | {e['lambda']:g} | "
            f"{e['local']:g} | {e['llc']:.4g} | {e['ci'][0]:.4g} to {e['ci'][1]:.4g} | {e['llc'] / right - 1:+.3f} | "
            f"{', '.join(dict.fromkeys(TITLES[code] for code in e['codes']))} |"
        )
    for name in CLASSES:
        own = [e for e in entries if e["class"] == name and np.isfinite(e["llc"]) and max(e["lambda"], e["local"]) > 0]
        if len(own) < 3:
            continue
        truth, llc = (np.array(v) for v in ([max(e["lambda"], e["local"]) for e in own], [e["llc"] for e in own]))
        pairs = [(i, j) for i in range(len(own)) for j in range(i) if truth[i] != truth[j]]
        ordered = sum((llc[i] - llc[j]) * (truth[i] - truth[j]) > 0 for i, j in pairs)
        error = llc / truth - 1
        codes = Counter(TITLES[code] for e in own for code in set(e["codes"]))
        print(
            f"\n{name}: {len(own)} networks, error mean {error.mean():+.3f}, sd {error.std(ddof=1):.3f}, median "
            f"{np.median(error):+.3f}; {ordered} of {len(pairs)} pairs in order; "
            + ", ".join(f"{c} {n}" for c, n in codes.most_common())
        )


def main() -> None:
    """Sample, or print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", nargs="?", choices=CLASSES)
    parser.add_argument("first", nargs="?", type=int)
    parser.add_argument("last", nargs="?", type=int)
    parser.add_argument("--chains", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    chosen = parser.parse_args()
    if chosen.table:
        table()
        return
    torch.set_num_threads(1)
    for number in range(chosen.first, chosen.last):
        entry = measure(chosen.name, number, chosen.chains)
        with RESULTS.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        print(entry["class"], number, entry["widths"], entry["lambda"], entry["local"], entry["llc"], entry["codes"],
              f"{entry['seconds']} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
