"""What the stages share: the model, its rows, the settings, and how large a machine lets them be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from model import LENGTH, PERIOD, Texts, convert, load

from devinterp.demo.circuit import head_names, prefix_matching_score

# Where models of this size began in published work: lr 1e-4 (160 M to 410 M weights), n_beta 30, localization 300.
START = {"n_beta": 30.0, "localization": 300.0}
SETTLED = {"lr": 1.2e-3, "n_beta": 10.0, "localization": 100.0}  # what the calibration led to


@dataclass(frozen=True)
class Scale:
    """How much is sampled: a forward and backward pass takes a quarter of a second here, a fortieth there."""

    grid: dict[str, list[float]]
    rows: int
    """To sample on, half of them repeats."""
    batch_size: int
    batches: int
    """Of fixed rows, evaluated at every draw."""
    chains: int
    draws: int
    pilot_draws: int
    extend: int
    """Cells of the sweep that are sampled to that many draws."""
    heads: int
    """Of the strongest, and as many others."""
    parts: int
    """Groups and feed-forward parts, one of each for that many of the strongest heads' layers."""
    corpus: int
    """Sequences of each kind whose influences are asked for; a third of them get a near-duplicate."""

    @property
    def sampling(self) -> dict[str, Any]:
        # A run needs some ten independent draws a chain. With lr * localization near 0.19, the most at which the step inflates
        # an LLC by less than a twentieth, a chain forgets its start in ten steps: draws nine apart (which see every batch in
        # turn) are worth nearly half as many.
        return {
            "batch_size": self.batch_size, "num_chains": self.chains, "num_burnin_steps": 20, "num_steps_bw_draws": 9,
            "num_init_loss_batches": 8, "mode": "eval", "save_metrics": True,
        }  # fmt: skip


# Steps of one row are the cheapest on a CPU; their noise stays far below the sampler's own at n_beta 10, as the metrics tell.
CPU = Scale({"lr": [1.2e-3, 1.9e-3], "n_beta": [10.0, 30.0], "localization": [100.0]}, 64, 1, 8, 2, 32, 8, 1, 2, 1, 9)
ACCELERATOR = Scale(
    {"lr": [6e-4, 1.2e-3, 1.9e-3], "n_beta": [10.0, 30.0], "localization": [100.0]}, 256, 8, 8, 4, 48, 12, 3, 5, 2, 24
)


class Real:
    """The folder, the model, its texts; where to sample, and how much."""

    def __init__(self, out: Path, peer: Path, quick: bool, device: str, workers: int) -> None:
        self.out, self.peer, self.quick, self.device = out / "quick" if quick else out, peer, quick, device
        self.scale = CPU if device == "cpu" else ACCELERATOR
        self.options = {**self.scale.sampling, "device": device}
        if workers > 1:
            self.options |= {"chain_method": "parallel", "num_workers": workers}
        self.folder = out / "model"
        (self.out / "results").mkdir(parents=True, exist_ok=True)
        if not (self.folder / "model.safetensors").exists():
            convert(self.folder)
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.texts = Texts(self.tokenizer)
        self.model = load(self.folder)

    @property
    def hardware(self) -> str:
        """What is sampled on."""
        return "CPU" if self.device == "cpu" else torch.cuda.get_device_name(self.device)

    def mixture(self) -> np.ndarray:
        """Rows to sample on: repeats at even places, prose and code by turns at odd ones."""
        quarter = self.scale.rows // 4
        rows = np.empty((4 * quarter, LENGTH), dtype=np.int64)
        rows[0::2] = self.texts.repeats(2 * quarter, seed=0)
        rows[1::4], rows[3::4] = self.texts.rows("prose", quarter, seed=1), self.texts.rows("code", quarter, seed=2)
        return rows

    def induction(self) -> dict[str, float]:
        """Each head's attention, on repeats, to the token that followed the last time; the strongest first."""
        eager = load(self.folder, attn_implementation="eager")  # the one that returns its attention
        with torch.no_grad():
            layers = eager(torch.from_numpy(self.texts.repeats(8, seed=7)), output_attentions=True).attentions
        scores = prefix_matching_score(torch.stack(layers).transpose(1, 2).numpy(), PERIOD, PERIOD + 1)
        named = zip(head_names(*scores.shape), scores.ravel().tolist(), strict=True)
        return dict(sorted(named, key=lambda each: -each[1]))


def records(title: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a table for the page from rows with the same keys."""
    return {"title": title, "head": list(rows[0]), "rows": [list(row.values()) for row in rows]}


def frame(title: str, table: Any) -> dict[str, Any]:
    """Return a table for the page from a data frame."""
    return {"title": title, "head": list(table.columns), "rows": table.values.tolist()}
