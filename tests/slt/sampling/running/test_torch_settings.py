"""A chain in another process has the torch settings of this one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_lm import build_model, build_tokens
from torch.overrides import TorchFunctionMode

from devinterp.errors import SettingError, StoreConflictError
from devinterp.slt.sampling import sample
from devinterp.slt.sampling.running.torch_settings import TorchSettings

ROWS = build_tokens("train")
PRESENT = TorchSettings.of_this_process().values
OTHER = {
    "matmul_precision": "medium", "default_dtype": "float64", "default_device": "meta", "autocast": {"cpu": "bfloat16"},
    "autocast_cache": False, "deterministic_algorithms": "warn", "fill_uninitialized_memory": False,
    "flush_denormal": True,
    **{n: not v for n, v in PRESENT.items() if n.startswith(("sdpa", "mkldnn", "cudnn", "fp16", "bf16"))},
}  # fmt: skip
# What differs from the defaults by itself: torch 2.4 attends by cuDNN only where it is asked to.
OWN = {} if PRESENT["sdpa_cudnn"] else {"sdpa_cudnn": False}


def run(path=None, **changes):
    settings = {"lr": 1e-3, "n_beta": 30.0, "num_chains": 2, "num_draws": 2, "batch_size": 4, "batches_per_draw": 1,
                "num_init_loss_batches": 1, "device": "cpu", "progress": False, "threads_per_chain": 1}  # fmt: skip
    return sample(build_model(), ROWS, {"train": ROWS}, output_path=path, **{**settings, **changes})


@pytest.mark.parametrize("name", OTHER)
def test_a_setting_is_applied_and_taken_back(name):
    before = TorchSettings.of_this_process()
    assert before.as_dict()["torch_settings"] == OWN, "the defaults that are not recorded are torch's"
    with TorchSettings({**before.values, name: OTHER[name]}).applied():
        inside = TorchSettings.of_this_process()
        assert inside.values[name] == OTHER[name]
        assert inside.as_dict() != before.as_dict()
    assert TorchSettings.of_this_process() == before


def test_what_a_version_of_torch_has_no_autocast_for_is_not_asked_for(monkeypatch):
    ask = torch.is_autocast_enabled

    def as_of_2_4(kind):
        if kind == "mps":
            raise RuntimeError("unknown device type for autocast in get_autocast_dispatch_key_from_device_type")
        return ask(kind)

    monkeypatch.setattr(torch, "is_autocast_enabled", as_of_2_4)
    assert TorchSettings.of_this_process().values["autocast"] == {}
    with torch.autocast("cpu", torch.bfloat16):
        assert TorchSettings.of_this_process().values["autocast"] == {"cpu": "bfloat16"}


def under(**changes):
    return TorchSettings({**TorchSettings.of_this_process().values, **changes}).applied()


@pytest.mark.parametrize("changes", [{"autocast": {"cpu": "bfloat16"}}, {"sdpa_flash": False}])
def test_chains_in_processes_are_those_of_this_one(changes, tmp_path):
    with under(**changes):
        one = run(tmp_path / "a.zarr")
        two = run(tmp_path / "b.zarr", chain_method="parallel", num_workers=1)
    for name in one.data_vars:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    recorded = two.attrs["metadata"]["run"]["environments"][-1]["torch_settings"]
    assert recorded == OWN | changes


@pytest.mark.parametrize("parallel", [False, True])
def test_an_interrupted_run_goes_on_under_the_same_settings_alone(parallel, tmp_path):
    def stop(event):
        if event.step == 2:
            raise KeyboardInterrupt

    path, method = tmp_path / "a.zarr", {"chain_method": "parallel", "num_workers": 1} if parallel else {}
    with under(matmul_precision="medium", autocast={"cpu": "bfloat16"}), pytest.raises(KeyboardInterrupt):
        run(path, progress=stop, checkpoint_every=1)
    with pytest.raises(StoreConflictError, match=r"autocast: sampled so far with \{'cpu': 'bfloat16'\}, here \{\}"):
        run(path, **method)
    with under(matmul_precision="medium", autocast={"cpu": "bfloat16"}):
        went_on, whole = run(path, **method), run()
    np.testing.assert_array_equal(went_on["sampling_loss"], whole["sampling_loss"])


def test_autocast_casts_the_weights_of_every_step():
    """Its cache would keep those of the first, until the caller leaves it."""
    with torch.autocast("cpu", torch.bfloat16):
        cached = run(gradient_accumulation_steps=2)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        plain = run(gradient_accumulation_steps=2)
    np.testing.assert_array_equal(cached["loss_train"], plain["loss_train"])


class Doubling(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def test_a_mode_that_cannot_travel_is_refused(tmp_path):
    with Doubling(), pytest.raises(SettingError, match="Doubling"):
        run(tmp_path / "a.zarr", chain_method="parallel")
    assert not (tmp_path / "a.zarr").exists()
    with Doubling():
        run()
