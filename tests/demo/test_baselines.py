from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

torch = pytest.importorskip("torch")

from devinterp.demo.analysis import COPIED  # noqa: E402
from devinterp.demo.baselines import baselines, loss_rises  # noqa: E402
from devinterp.demo.circuit import Circuit  # noqa: E402
from devinterp.demo.corpus import BOS, CONTEXT  # noqa: E402
from devinterp.demo.model import AttentionOnly, Config, build_model, per_token_loss  # noqa: E402
from devinterp.demo.settings import Settings  # noqa: E402
from devinterp.slt.sampling import sample  # noqa: E402

HEADS = ("l0h1", "l1h0")
CIRCUIT = Circuit(HEADS, np.array([0.9, 0.1]), np.array([0.1, 0.4]), ("l1h0",))
CONFIG = Config(hidden_size=16, num_attention_heads=2)


@pytest.fixture(scope="module")
def model() -> AttentionOnly:
    return build_model(0, CONFIG)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    ids = np.random.default_rng(0).integers(0, 256, (4, CONTEXT + 1))
    ids[:, 0] = BOS
    return ids


def study(rows: np.ndarray, distance: float) -> xr.DataTree:
    run = xr.Dataset(
        {
            "input_ids_repeated": (("batch_repeated", "token"), rows[:2]),
            "input_ids_train": (("batch_train", "token"), rows[2:]),
            "metrics_distance": (("chain", "step"), np.full((2, 10), distance, np.float32)),
        }
    )
    run["metrics_distance"][:, :2] = 0  # burn-in
    return xr.DataTree.from_dict({f"/{head}": run for head in HEADS})


def test_a_removed_head_adds_nothing_to_the_stream(model: AttentionOnly, rows: np.ndarray) -> None:
    found = baselines(model, study(rows, 1.0), CIRCUIT, Settings.quick())
    reduced = build_model(0, CONFIG)
    with torch.no_grad():
        reduced.layers[0].attn.o_proj.weight[:, 8:] = 0
        ids = torch.from_numpy(rows)
        rise = per_token_loss(reduced, ids) - per_token_loss(model, ids)
    assert float(found["removed_copied"].sel(wr="l0h1")) == pytest.approx(rise[:2, COPIED].mean().item(), abs=1e-6)
    assert float(found["removed_task"].sel(wr="l0h1")) == pytest.approx(rise[2:].mean().item(), abs=1e-6)


def test_noise_has_the_size_of_the_draws_without_the_burn_in_and_the_weights_stay(
    model: AttentionOnly, rows: np.ndarray
) -> None:
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    sampled = 4 * CONFIG.hidden_size * CONFIG.hidden_size // CONFIG.num_attention_heads
    found = baselines(model, study(rows, 0.3), CIRCUIT, Settings.quick())
    np.testing.assert_allclose(found["spread"], 0.3 / np.sqrt(sampled), rtol=1e-5)
    far = baselines(model, study(rows, 30.0), CIRCUIT, Settings.quick())
    assert (far["noise_task"] > found["noise_task"]).all()
    np.testing.assert_array_equal(far["control_task"], found["control_task"])
    quick = Settings.quick()
    np.testing.assert_allclose(found["allowed"], [quick.spread(quick.head_lr), quick.spread(quick.circuit_lr)])
    assert (found["noise_copied_se"] >= 0).all()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_nothing_rises_without_a_shift(model: AttentionOnly, rows: np.ndarray) -> None:
    ids = torch.from_numpy(rows)
    assert loss_rises(model, {"copied": ids, "task": ids}, {}) == {"copied": 0.0, "task": 0.0}


@pytest.mark.filterwarnings("ignore::devinterp.errors.StepBiasWarning")
def test_the_control_is_what_sgld_samples_at_n_beta_0(model: AttentionOnly, rows: np.ndarray) -> None:
    """The distance that `Settings.spread` says is the stationary one of the sampler itself."""
    settings = Settings(localization=100.0, num_chains=1, batch_size=4)
    kwargs = settings.sampler(3, lr=1e-2, n_beta=0.0) | {"num_burnin_steps": 15, "num_steps_bw_draws": 5}
    kwargs |= {"num_init_loss_batches": 1}
    run = sample(model, rows, {"train": rows}, progress=False, **kwargs)
    count = sum(weight.numel() for weight in model.parameters())
    spread = np.sqrt((run["metrics_distance"].values[:, 15:].astype(float) ** 2).mean() / count)
    assert spread == pytest.approx(settings.spread(1e-2), rel=0.02)  # ten thousand weights, forgotten in 2 steps
