"""Every setting is checked, with one clear error."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest

from devinterp.errors import SettingError
from devinterp.slt.sampling import SamplerSettings, sample

GOOD = {"lr": 1e-3, "n_beta": 10.0}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", -1e-3), ("lr", float("nan")), ("lr", float("inf")), ("lr", "0.1"), ("lr", None),
        ("lr", True),
        ("n_beta", -1.0), ("n_beta", float("inf")),
        ("num_chains", 0), ("num_chains", 2.0), ("num_chains", True), ("num_draws", 0), ("num_draws", -3),
        ("batch_size", 0), ("num_burnin_steps", -1), ("num_steps_bw_draws", 0), ("num_init_loss_batches", 0),
        ("gradient_accumulation_steps", 0), ("batches_per_draw", 0), ("init_seed", -1), ("init_seed", 1.5),
        ("init_seed", 2**32 - 1), ("obs_seed", "x"), ("obs_seed", 2**32),
        ("localization", -1.0), ("noise_level", -0.1), ("llc_weight_decay", -1.0), ("bounding_box_size", -1.0),
        ("init_noise", -0.5), ("sampling_method", "sgld"), ("sampling_method", None), ("mode", "training"),
        ("sampling_method_kwargs", [1]), ("shuffle", 1), ("save_metrics", "yes"),
        ("match_sampling_input_ids_across_chains", None), ("save_step_losses", 0),
        ("rmsprop_eps", 0.1), ("rmsprop_alpha", 0.9), ("sampling_method_kwargs", {"eps": 0.1}), ("cores", 2),
    ],
)  # fmt: skip
def test_a_bad_value_is_one_clear_error(name, value):
    with pytest.raises(SettingError) as caught:
        SamplerSettings.build(**{**GOOD, name: value})
    assert name.removeprefix("sampling_").split("_")[0] in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"rmsprop_alpha": 1.5},
        {"rmsprop_eps": -1.0},
        {"sampling_method_kwargs": {"beta": 0.1}},
        {"sampling_method_kwargs": {"eps": "x"}},
        {"sampling_method_kwargs": {"eps": 0.1}, "rmsprop_eps": 0.2},
        {"sampling_method_kwargs": {"add_grad_correction": True}},
    ],
)
def test_a_bad_value_of_rmsprop_is_one_clear_error(changes):
    with pytest.raises(SettingError):
        SamplerSettings.build(**GOOD, sampling_method="rmsprop_sgld", **changes)


def test_three_ways_to_give_the_constants_of_rmsprop_are_one_request():
    ways = [
        {"rmsprop_eps": 0.3},
        {"sampling_method_kwargs": {"eps": 0.3}},
        {"sampling_method_kwargs": {"eps": 0.3, "alpha": 0.99}, "rmsprop_eps": 0.3},
    ]
    built = [SamplerSettings.build(**GOOD, sampling_method="rmsprop_sgld", **way).as_dict() for way in ways]
    assert built[0] == built[1] == built[2]
    assert built[0]["sampling_method_kwargs"] == {"alpha": 0.99, "eps": 0.3}


def test_defaults_are_those_of_sample():
    parameters = inspect.signature(sample).parameters
    for name, value in SamplerSettings.build(**GOOD).as_dict().items():
        if name not in GOOD and name != "sampling_method_kwargs":
            assert parameters[name].default == value, name


def test_numpy_scalars_become_plain_json():
    settings = SamplerSettings.build(
        lr=np.float32(0.5), n_beta=np.int64(3), num_chains=np.int32(2), save_metrics=np.bool_(True)
    )
    assert json.loads(json.dumps(settings.as_dict()))["num_chains"] == 2
    assert settings.n_beta == 3.0
    assert settings.save_metrics is True


def test_draws_fall_on_the_steps_that_the_contract_names():
    settings = SamplerSettings.build(**GOOD, num_draws=3, num_burnin_steps=2, num_steps_bw_draws=4)
    assert settings.num_steps == 14
    assert settings.steps.draw_steps().tolist() == [2, 6, 10]


def test_override_checks_again_and_keeps_the_rest():
    settings = SamplerSettings.build(**GOOD, sampling_method="rmsprop_sgld", rmsprop_eps=0.3)
    changed = settings.override(lr=0.1, rmsprop_alpha=0.5)
    assert (changed.lr, changed.rmsprop_alpha, changed.rmsprop_eps) == (0.1, 0.5, 0.3)
    assert settings.override(sampling_method="sgmcmc_sgld").sampling_method_kwargs == {}
    with pytest.raises(SettingError):
        settings.override(num_draws=0)
