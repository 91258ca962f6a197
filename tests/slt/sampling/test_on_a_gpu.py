"""A CUDA device: the same bytes in every way to run, the model left where it was, the known law."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from engine import assert_same_snapshot, snapshot
from interrupted import assert_same_in_other_ways
from tiny_lm import build_model, build_tokens, head_masks
from torch import nn

from devinterp import sample, sample_restrictions, validate
from devinterp.errors import SettingError
from devinterp.slt.bif import compute_bif
from devinterp.slt.sampling.engine.frozen_prefix import plain_passes

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
TRAIN = build_tokens("train")
SETTINGS = {
    "lr": 1e-3, "n_beta": 30.0, "num_chains": 2, "num_draws": 4, "batch_size": 4, "num_init_loss_batches": 2,
    "localization": 10.0, "progress": False, "save_metrics": True, "save_step_losses": True,
}  # fmt: skip


def run(model=None, masks=None, rows=TRAIN, device=DEVICE, **changes):
    model = model if model is not None else build_model()
    options = {**SETTINGS, "device": device, **changes}
    return sample(model, rows, {"train": (rows, 2)}, param_masks=masks, **options)


@pytest.mark.parametrize("masked", [False, True])
def test_parallel_and_resumed_runs_are_the_same(masked, tmp_path):
    def one(**options):
        model = build_model()
        return run(model, head_masks(model, 1, 0) if masked else None, **options)

    path = assert_same_in_other_ways(one, tmp_path)
    assert validate(path, level="values").ok
    (environment,) = one().attrs["metadata"]["run"]["environments"]
    assert environment["device"] == DEVICE
    assert environment["hardware"] == torch.cuda.get_device_name()


@pytest.mark.parametrize("layer", [0, 1])
def test_draws_with_and_without_the_frozen_prefix_are_the_same(layer):
    masks = head_masks(build_model(), layer, 2)
    reused = run(masks=masks)
    with plain_passes():
        plain = run(masks=masks)
    for name in plain.data_vars:
        assert reused[name].values.tobytes() == plain[name].values.tobytes(), name
    if layer == 1:
        assert reused.attrs["metadata"]["run"]["frozen_prefix"]["reused"] > 0


@pytest.mark.parametrize("home", ["cpu", DEVICE])
def test_model_and_generators_are_left_as_they_were_errors_included(home):
    model = build_model().to(home)
    before, generators = snapshot(model), (torch.get_rng_state(), torch.cuda.get_rng_state())

    def stop(event):
        if event.step == 2:
            raise InterruptedError

    run(model)
    with pytest.raises(InterruptedError):
        run(model, progress=stop)
    after = snapshot(model)
    assert {p.device.type for p in model.parameters()} == {home}
    if home != "cpu":
        assert_same_snapshot(before, after)
    assert all(torch.equal(value, after["data"][name][1]) for name, (_, value) in before["data"].items())
    assert torch.equal(generators[0], torch.get_rng_state())
    assert torch.equal(generators[1], torch.cuda.get_rng_state())


def test_losses_at_the_trained_weights_are_those_of_the_cpu():
    here, there = run(), run(device="cpu")
    for name in ("init_loss", "init_loss_train"):
        np.testing.assert_allclose(here[name], there[name], rtol=1e-5)
    assert not np.array_equal(here["loss_train"], there["loss_train"])  # another generator
    np.testing.assert_array_equal(here["input_ids_train"], there["input_ids_train"])


def test_rows_that_are_padded():
    mask = np.arange(TRAIN.shape[1]) < np.random.default_rng(3).integers(3, TRAIN.shape[1] + 1, len(TRAIN))[:, None]
    rows = {"input_ids": np.where(mask, TRAIN, 0), "attention_mask": mask.astype(np.int64)}
    here, there = run(rows=rows), run(rows=rows, device="cpu")
    np.testing.assert_array_equal(here["mask_train"], there["mask_train"])
    np.testing.assert_array_equal(np.isnan(here["loss_train"]), np.isnan(there["loss_train"]))
    np.testing.assert_allclose(here["init_loss_train"], there["init_loss_train"], rtol=1e-5)


def test_half_precision_keeps_float32_losses_and_every_step():
    tree = run(build_model().bfloat16(), lr=1e-5)
    assert tree["loss_train"].dtype == np.float32
    distance = tree["metrics_distance"].values
    assert np.isfinite(distance).all()
    assert (np.diff(distance.mean(0)) > 0).all()  # steps far below the weights' last bit are not rounded away


def test_a_study_is_the_runs_of_its_restrictions():
    model = build_model()
    restrictions = {"full": None, "l0h1": head_masks(model, 0, 1), "l1h3": head_masks(model, 1, 3)}
    study = sample_restrictions(
        model, TRAIN, {"train": (TRAIN, 2)}, restrictions, sampling_task="train", device=DEVICE, **SETTINGS
    )
    for name, masks in restrictions.items():
        alone = run(masks=masks)
        np.testing.assert_array_equal(study[name]["loss_train"], alone["loss_train"], strict=True)


def test_the_posterior_of_a_quadratic():
    """L = ½ Σ a w²: at small steps the LLC is ½ Σ n_beta a / (n_beta a + localization)."""
    curvatures = torch.tensor([0.5, 1.0, 4.0] * 20)

    class Quadratic(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(60))
            self.register_buffer("a", curvatures)

        def forward(self, ids):
            return (0.5 * (self.a * self.w**2).sum()).expand(len(ids), 1)

    tree = sample(
        Quadratic(), np.zeros((8, 2), dtype=np.int64), {}, loss_fn=lambda m, ids: m(ids), lr=2e-3, n_beta=20.0,
        localization=10.0, num_chains=4, num_draws=300, num_burnin_steps=200, num_steps_bw_draws=10, batch_size=8,
        device=DEVICE, progress=False, save_metrics=True,
    )  # fmt: skip
    result = tree.devinterp.llc(over="draws", ci=0.999)
    precision = 20.0 * curvatures.numpy() + 10.0
    truth = (
        0.5 * (20.0 * curvatures.numpy() / precision / (1 - 2e-3 * precision / 4)).sum()
    )  # with the bias of the step
    low, high = result["llc_ci"].values.ravel()
    assert low < truth < high


def test_influences_multiplied_there():
    tree = run()
    for method in ("sequence", "token"):
        here, there = (compute_bif(tree, correlation_method=method, device=each) for each in (DEVICE, "cpu"))
        xr.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-4)


def test_a_device_that_is_not_there_is_refused_by_name():
    with pytest.raises(SettingError, match="device"):
        run(device=f"cuda:{torch.cuda.device_count()}")
