"""Eight programs as they are written for devinterp 2.0.1, and what they give.

    PEER_PYTHON tests/benchmarks/parity/programs.py tests/data/devinterp-2.0.1/programs.json

records what 2.0.1 gives; tests/test_migration.py runs the same programs here and compares. Only names that both
releases have are used, and what differs on purpose is asked for by `Ways`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "helpers"))

import tiny_lm

SETTINGS: dict[str, Any] = {
    "lr": 1e-3, "n_beta": 30.0, "localization": 10.0, "num_chains": 2, "num_draws": 8, "batch_size": 4,
    "num_init_loss_batches": 3, "device": "cpu",
}  # fmt: skip


class Ways:
    """What a program that is carried over must say in another way, as 2.0.1 does it."""

    def __init__(self, sampling: dict[str, Any] | None = None, llc: dict[str, Any] | None = None) -> None:
        self.sampling, self.llc = sampling or {}, llc or {}

    def rows(self, name: str) -> Any:
        from datasets import Dataset

        data = Dataset.from_dict({"input_ids": tiny_lm.build_tokens(name).tolist()})
        data.set_format("torch")
        return data

    def masks(self, model: Any) -> Any:
        return tiny_lm.head_masks(model, 0, 1)

    def draw(self, lines: Any, level: float) -> Any:
        """Return what lines in a figure have as their heights; matplotlib need not be there to record it."""
        return lines.T


def _sampled(ways: Ways, model: Any = None, **changes: Any) -> Any:
    from devinterp.slt.sampling import sample

    observables = {"train": (ways.rows("train"), 1), "code": (ways.rows("code"), 1)}
    arguments = {**SETTINGS, **ways.sampling, **changes}
    with tempfile.TemporaryDirectory() as folder:
        tree = sample(
            model or tiny_lm.build_model(), ways.rows("train"), observables,
            output_path=Path(folder) / "samples.zarr", **arguments,
        )  # fmt: skip
        return tree.load()


def _llc(ways: Ways, tree: Any) -> dict[str, list[float]]:
    from devinterp.slt.llc import compute_llc

    result = compute_llc(tree, **ways.llc)
    return {name: numbers(result[name]) for name in ("llc_mean", "llc_per_chain", "init_loss", "loss_trace")}


def numbers(values: Any) -> list[float]:
    return np.asarray(values, dtype=np.float64).ravel().tolist()


def quickstart(ways: Ways) -> dict[str, list[float]]:
    from devinterp.slt.bif import compute_bif

    tree = _sampled(ways)
    influences = compute_bif(tree, correlation_method="sequence")["influences"]
    return {**_llc(ways, tree), "influences": numbers(influences)}


def calibration(ways: Ways) -> dict[str, list[float]]:
    """A loop over step sizes and temperatures."""
    return {
        f"lr {lr:g}, n_beta {n_beta:g}": _llc(ways, _sampled(ways, lr=lr, n_beta=n_beta, num_chains=1))["llc_mean"]
        for lr in (1e-4, 1e-3)
        for n_beta in (10.0, 100.0)
    }


def last_half(model: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """A loss of the caller's own: that of the second half of every row, zero before."""
    logits = model(input_ids)
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), input_ids[:, 1:], reduction="none")
    return loss * (torch.arange(loss.shape[1]) >= loss.shape[1] // 2)


def custom_loss(ways: Ways) -> dict[str, list[float]]:
    return _llc(ways, _sampled(ways, loss_fn=last_half))


def caching(ways: Ways) -> dict[str, list[float]]:
    """The same call twice at one path: the second one samples nothing."""
    from devinterp.slt.sampling import sample

    calls: list[int] = []

    def counted(model: Any, input_ids: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return last_half(model, input_ids)

    with tempfile.TemporaryDirectory() as folder:
        found = []
        for _ in range(2):
            tree = sample(
                tiny_lm.build_model(), ways.rows("train"), {}, output_path=Path(folder) / "samples.zarr",
                loss_fn=counted, **{**SETTINGS, **ways.sampling},
            )  # fmt: skip
            found.append((len(calls), numbers(tree["sampling_loss"].mean("token_pos"))))
    (first, one), (second, other) = found
    return {"losses": one, "again": other, "evaluations of the second call": [float(second > 2 * first)]}


def restrictions(ways: Ways) -> dict[str, list[float]]:
    from devinterp.slt.susceptibilities import compute_susceptibilities

    runs = {
        "full": _sampled(ways),
        "l0h1": _sampled(ways, param_masks=ways.masks(tiny_lm.build_model())),
    }
    sus = compute_susceptibilities(runs, "train")["susceptibilities"]["sus"]
    return {**{name: _llc(ways, run)["llc_mean"] for name, run in runs.items()}, "sus": numbers(sus)}


class Bare(torch.nn.Module):
    """Logits that are a row of one matrix: the weights are all there is."""

    def __init__(self) -> None:
        super().__init__()
        size = (tiny_lm.VOCAB, tiny_lm.VOCAB)
        self.weight = torch.nn.Parameter(torch.randn(size, generator=torch.Generator().manual_seed(0)))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.weight[input_ids]


def half_precision(ways: Ways) -> dict[str, list[float]]:
    """Localization alone: the weights should spread by 1 / sqrt(localization), whatever their type."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        tree = _sampled(
            ways, Bare().to(dtype), lr=1e-5, n_beta=0.0, localization=1200.0, num_chains=1, num_draws=4,
            num_steps_bw_draws=100, save_metrics=True,
        )  # fmt: skip
        distance = np.asarray(tree["metrics_distance"].values, dtype=np.float64)[0]
        found[str(dtype)] = [float(distance[-1] / tiny_lm.VOCAB)]  # over the root of the number of weights
    return found


class Lens(torch.nn.Module):
    """A model with TransformerLens's manners: a configuration, and a loss unless it is asked for logits."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.cfg = tiny_lm.build_model(), SimpleNamespace(n_heads=4)

    def to(self, *args: Any, print_details: bool = True, **kwargs: Any) -> Lens:
        return super().to(*args, **kwargs)

    def forward(self, input_ids: torch.Tensor, return_type: str = "loss") -> torch.Tensor:
        logits: torch.Tensor = self.inner(input_ids)
        if return_type == "logits":
            return logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten())


def transformer_lens(ways: Ways) -> dict[str, list[float]]:
    return _llc(ways, _sampled(ways, Lens()))


def plotting(ways: Ways) -> dict[str, list[float]]:
    """Every step's loss as a line per chain, burn-in cut off, and the loss at the start across it."""
    from devinterp.slt.llc import compute_llc

    result = compute_llc(_sampled(ways, num_burnin_steps=4), **ways.llc)
    drawn = ways.draw(result["loss_trace"].values[:, 4:].T, float(result["init_loss"]))
    return {f"chain {chain}": numbers(values) for chain, values in enumerate(drawn)}


PROGRAMS: dict[str, Callable[[Ways], dict[str, list[float]]]] = {
    each.__name__: each  # type: ignore[attr-defined]  # a function has a name
    for each in (
        quickstart, calibration, custom_loss, caching, restrictions, half_precision, transformer_lens, plotting
    )
}  # fmt: skip


def main() -> None:
    os.environ["TQDM_DISABLE"] = "1"
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    from importlib.metadata import version

    made_with = {name: version(name) for name in ("devinterp", "torch", "xarray", "zarr", "numpy")}
    found = {name: program(Ways()) for name, program in PROGRAMS.items()}
    told = {"made_with": {**made_with, **SETTINGS}, "programs": found}
    Path(sys.argv[1]).write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
