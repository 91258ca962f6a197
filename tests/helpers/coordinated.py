"""Small runs for the coordinator, compared byte by byte."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_lm import build_model, build_tokens

from devinterp.slt.sampling import sample

HELPERS = Path(__file__).parent


TRAIN, CODE = build_tokens("train"), build_tokens("code")


SETTINGS = {
    "lr": 1e-3, "n_beta": 30.0, "num_chains": 2, "num_draws": 4, "batch_size": 4, "num_init_loss_batches": 2,
    "localization": 10.0, "save_metrics": True, "device": "cpu", "progress": False,
}  # fmt: skip


def run(model=None, **changes):
    return sample(model or build_model(), TRAIN, {"train": (TRAIN, 1), "code": (CODE, 1)}, **{**SETTINGS, **changes})


def assert_same_store(one, other):
    assert set(one.data_vars) == set(other.data_vars)
    for name in one.data_vars:
        assert one[name].values.tobytes() == other[name].values.tobytes(), name


def chains_of(path):
    return json.loads((path / "zarr.json").read_text())["attributes"]["metadata"]["run"]["chains"]
