"""Chains that diverge, in whole runs: recorded, named, and left behind by the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from quick_runs import quick
from tiny_lm import build_model
from torch import nn

from devinterp.errors import (
    AllChainsFailedError,
    ChainFailedWarning,
    DevinterpWarning,
)
from devinterp.schema import validate


class DivergesLater(nn.Module):
    """Non-finite from a given step of one chain on, told from the other by the seed of its generator."""

    def __init__(self, chains, after):
        super().__init__()
        self.inner, self.seeds, self.after = build_model(), {100 + chain for chain in chains}, after
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, input_ids):
        logits = self.inner(input_ids)
        if torch.is_grad_enabled():
            self.calls += 1
        doomed = torch.initial_seed() in self.seeds and self.calls > self.after
        return logits * float("nan") if doomed else logits


def test_a_chain_that_diverges_is_recorded_and_named_and_the_others_go_on(tmp_path):
    def run(chains):
        return quick(
            DivergesLater(chains, 2), num_chains=3, save_metrics=True, output_path=tmp_path / f"{len(chains)}.zarr"
        )

    with pytest.warns(DevinterpWarning) as caught:
        tree = run([1])
    failed = [w for w in caught if issubclass(w.category, ChainFailedWarning)]
    assert len(failed) == 1
    assert "chain 1 at step 2" in str(failed[0].message)
    states = tree.attrs["metadata"]["run"]["chains"]
    assert [state["status"] for state in states] == ["complete", "failed", "complete"]
    assert states[1]["step"] == 2
    assert "logits" in states[1]["reason"]
    assert tree["draws_written"].values.tolist() == [3, 2, 3]
    for name in ("sampling_loss", "loss_code", "metrics_noise"):
        assert np.isnan(tree[name].values[1, 2:]).all()
        assert np.isfinite(tree[name].values[1, :2]).all()
        assert np.isfinite(tree[name].values[[0, 2]]).all()
    assert validate(tmp_path / "1.zarr", level="values").ok
    with pytest.warns(DevinterpWarning):
        healthy = run([])
    for name in ("sampling_loss", "loss_code", "step_loss"):
        np.testing.assert_array_equal(tree[name].values[[0, 2]], healthy[name].values[[0, 2]])


def test_when_no_chain_survives_the_call_raises(tmp_path):
    with (
        pytest.warns(DevinterpWarning, match="BatchNorm"),
        pytest.raises(AllChainsFailedError, match="chain 0 at step 2"),
    ):
        quick(DivergesLater([0, 1], 2), output_path=tmp_path / "a.zarr")


def test_a_step_far_too_large_fails_and_raises():
    with pytest.raises(AllChainsFailedError, match="not finite"):
        quick(lr=1e38)
