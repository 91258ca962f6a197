"""`sample()` from end to end: the store, the reference's numbers, what is refused, and what a path may hold."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import xarray as xr
from engine import assert_same_snapshot, snapshot
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from oracle import oracle_chain, oracle_init_loss
from quick_runs import CODE, MATH, OBSERVABLES, QUICK, TRAIN, assert_same_store, quick
from tiny_lm import build_model, head_masks
from torch import nn

import devinterp
from devinterp.errors import (
    DevinterpWarning,
    StoreConflictError,
    StoreExistsError,
)
from devinterp.schema import validate
from devinterp.slt.sampling import SamplerSettings, sample


@pytest.mark.parametrize("name", ["full", "l0h0", "l1h2"])
def test_the_reference_run_has_the_reference_numbers(reference, name):
    """Stored on another machine, where matrix products round otherwise; the oracle tests are exact."""
    made = json.loads((reference / "made_with.json").read_text())
    model = build_model()
    masks = {"full": None, "l0h0": head_masks(model, 0, 0), "l1h2": head_masks(model, 1, 2)}[name]
    arguments = {key: value for key, value in made.items() if key in inspect.signature(sample).parameters}
    tree = sample(model, TRAIN, OBSERVABLES, param_masks=masks, save_step_losses=True, progress=False, **arguments)
    stored = xr.open_zarr(reference / f"{name}.zarr", consolidated=False)
    for variable in stored.data_vars:
        ours, theirs = tree[variable].values, stored[variable].values
        if ours.dtype.kind == "i":
            np.testing.assert_array_equal(ours, theirs)
        elif variable.startswith("metrics_dot"):
            np.testing.assert_allclose(ours, theirs, atol=1e-7)
        else:
            np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6, err_msg=variable)


def test_every_array_is_the_oracles(tmp_path):
    settings = SamplerSettings.build(
        **{k: v for k, v in QUICK.items() if k not in ("device", "progress")}, save_metrics=True
    )
    tree = quick(
        save_metrics=True, observables={"train": (TRAIN, 2), "code": (CODE, 1)}, output_path=tmp_path / "a.zarr"
    )
    for chain in range(2):
        expected = oracle_chain(build_model(), TRAIN, {"train": (TRAIN, 2), "code": (CODE, 1)}, settings, chain)
        expected["init_loss"] = oracle_init_loss(build_model(), TRAIN, settings, chain)
        for name, values in expected.items():
            assert tree[name].values[chain].tobytes() == values.tobytes(), name
    assert tree["n_beta"].item() == 30.0
    assert tree["draws_written"].values.tolist() == [3, 3]
    np.testing.assert_array_equal(tree["input_ids_code"].values, CODE[tree["row_code"].values])


def test_the_store_is_valid_and_reads_with_plain_xarray(tmp_path):
    path = tmp_path / "a.zarr"
    quick(output_path=path, save_metrics=True, save_step_losses=True)
    report = validate(path, level="values")
    assert report.ok, report
    tree = xr.open_datatree(path, engine="zarr", consolidated=False)
    assert tree.attrs["completed"] == 1
    assert tree["sampling_loss"].dims == ("chain", "draw", "batch", "token_pos")
    assert not (path / ".devinterp").exists()
    metadata = tree.attrs["metadata"]
    assert metadata["config"]["observables"] == [{"obs_id": "code", "name": "code", "batches_per_draw": 1}]
    assert metadata["config"]["sampler"]["lr"] == 1e-3
    assert [chain["status"] for chain in metadata["run"]["chains"]] == ["complete"] * 2
    assert metadata["provenance"]["vocabulary_size"] == 64
    assert {"started", "ended", "device", "threads_per_chain"} <= metadata["run"].keys()


def test_without_a_path_the_store_is_temporary_and_lazy():
    tree = quick()
    assert isinstance(tree, xr.DataTree)
    assert not tree["sampling_loss"]._in_memory


def test_a_zarr_store_object_will_do():
    from zarr.storage import MemoryStore

    store = MemoryStore()
    tree = quick(output_path=store)
    assert_same_store(tree, quick())
    assert validate(store, level="values").ok


def test_names_of_observables_are_made_safe_and_kept():
    tree = quick(observables={"my code": (CODE, 1), "2nd": (MATH, 1)})
    assert {"loss_my_code", "loss__2nd", "input_ids__2nd"} <= set(tree.data_vars)
    listed = tree.attrs["metadata"]["config"]["observables"]
    assert [(o["obs_id"], o["name"]) for o in listed] == [("my_code", "my code"), ("_2nd", "2nd")]


def test_a_run_without_observables_is_a_run():
    tree = quick(observables={})
    assert "sampling_loss" in tree
    assert not [name for name in tree.data_vars if name.startswith("loss_")]


def test_a_huggingface_dataset_and_model_give_what_arrays_and_the_module_give():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=64, n_positions=32, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids):
            return self.model(input_ids).logits

    data = datasets.Dataset.from_dict({"input_ids": TRAIN.tolist()}).with_format("torch")
    assert_same_store(quick(model, data), quick(Bare(), TRAIN))


def test_a_loss_of_the_callers_replaces_the_cross_entropy():
    def loss_fn(model, input_ids):
        return model(input_ids)[:, :-1].square().mean(-1)

    tree = quick(loss_fn=loss_fn)
    provenance = tree.attrs["metadata"]["provenance"]
    assert provenance["loss"]["name"].endswith("loss_fn")
    assert "vocabulary_size" not in provenance
    with torch.no_grad():
        expected = loss_fn(build_model(), torch.from_numpy(tree["input_ids_code"].values))
    np.testing.assert_allclose(tree["init_loss_code"].values, expected.numpy(), rtol=1e-6)


def test_sampling_leaves_the_model_and_the_generators_alone():
    model = build_model().eval()
    before = snapshot(model)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    quick(model, init_noise=0.1)
    assert torch.equal(torch.rand(2), expected)
    assert_same_snapshot(before, snapshot(model))


def test_metrics_and_step_losses_change_no_draw():
    plain = quick()
    rich = quick(save_metrics=True, save_step_losses=True)
    for name in plain.data_vars:
        assert plain[name].values.tobytes() == rich[name].values.tobytes(), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_are_sampled_with_float32_losses(dtype):
    tree = quick(build_model().to(dtype), lr=1e-4, save_metrics=True)
    assert np.isfinite(tree["sampling_loss"].values).all()
    assert tree["sampling_loss"].dtype == np.float32
    # losses of half precision would take few distinct values
    assert len(np.unique(tree["sampling_loss"].values)) > tree["sampling_loss"].size * 0.8


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.dropout = build_model(), nn.Dropout(0.3)

    def forward(self, input_ids):
        return self.dropout(self.inner(input_ids))


def test_dropout_warns_once_and_is_recorded_and_eval_mode_is_quiet():
    with pytest.warns(DevinterpWarning, match="dropout") as caught:
        tree = quick(Dropping())
    assert len(caught) == 1
    assert caught[0].filename == quick.__code__.co_filename
    assert tree.attrs["metadata"]["provenance"]["random_forward"] is True
    tree = quick(Dropping(), mode="eval")
    assert tree.attrs["metadata"]["provenance"]["random_forward"] is False


@pytest.mark.parametrize("method", ["sgmcmc_sgld", "rmsprop_sgld"])
def test_a_step_of_zero_is_a_control_whose_draws_are_the_start(method, tmp_path):
    """Nothing moves, whatever pulls: what differs from the start then is not the sampler's doing."""
    path = tmp_path / "control.zarr"
    tree = quick(
        observables={"train": (TRAIN, 1)}, lr=0.0, num_draws=12, save_metrics=True, sampling_method=method,
        output_path=path,
    )  # fmt: skip
    assert (tree["loss_train"].values == tree["init_loss_train"].values).all()
    assert not any(tree[f"metrics_{name}"].values.any() for name in ("distance", "noise", "scaled_grad"))
    assert devinterp.validate(path).ok
    diagnosis = tree.devinterp.diagnose()
    assert [verdict.code for verdict in diagnosis.verdicts] == ["not_converged"]
    assert "lr is 0" in diagnosis.verdict.evidence
    assert diagnosis.to_dict()["llc"] == tree.devinterp.llc(over="observable", ci=0.9)["llc_mean"] == 0


def test_a_kept_state_lets_a_run_grow_by_chains_and_draws(tmp_path):
    options = {"keep_state": True, "save_metrics": True, "init_noise": 0.01}
    quick(output_path=tmp_path / "a.zarr", **options)
    more = {**options, "num_chains": 3, "num_draws": 5}
    grown = quick(output_path=tmp_path / "a.zarr", **more)
    assert_same_store(grown, quick(**more))
    assert validate(tmp_path / "a.zarr", level="values").ok
    changed = np.vstack([TRAIN[:5], TRAIN[5:6] ^ 1, TRAIN[6:]])
    with pytest.raises(StoreConflictError):
        quick(dataset=changed, output_path=tmp_path / "a.zarr", **{**more, "num_draws": 6})


@pytest.mark.parametrize("options", [{}, {"sampling_method": "rmsprop_sgld"}])
def test_an_exception_in_the_loss_leaves_what_a_second_call_resumes_from(tmp_path, options):
    path = tmp_path / "a.zarr"
    settings = {**options, "num_draws": 7, "save_metrics": True, "checkpoint_every": 2}
    broken = [True]
    calls = []

    def loss_fn(model, input_ids):
        calls.append(None)
        if broken[0] and len(calls) == 26:  # in the second chain
            raise RuntimeError("the cluster is on fire")
        return -torch.log_softmax(model(input_ids), -1)[:, :-1].gather(-1, input_ids[:, 1:, None])[..., 0]

    with pytest.raises(RuntimeError, match="on fire"):
        quick(loss_fn=loss_fn, output_path=path, **settings)
    metadata = json.loads((path / "zarr.json").read_text())["attributes"]["metadata"]
    assert [chain["status"] for chain in metadata["run"]["chains"]] == ["complete", "interrupted"]
    assert "on fire" in metadata["run"]["chains"][1]["reason"]
    with pytest.raises(StoreExistsError):
        quick(loss_fn=loss_fn, output_path=path, resume=False, **settings)
    broken[0] = False
    calls.clear()
    resumed = quick(loss_fn=loss_fn, output_path=path, **settings)
    assert len(calls) < 2 * 7 * 2
    assert_same_store(resumed, quick(loss_fn=loss_fn, **settings))
    assert validate(path, level="values").ok


def test_the_loss_is_known_by_its_source_and_not_by_its_object(tmp_path):
    def make():
        def loss_fn(model, input_ids):
            return model(input_ids)[:, 1:, 0]

        return loss_fn

    quick(loss_fn=make(), output_path=tmp_path / "a.zarr")
    quick(loss_fn=make(), output_path=tmp_path / "a.zarr")


def test_the_signature_is_that_of_the_contract():
    contract = (
        "model, dataset, observables, *, lr, n_beta, param_masks=None, num_chains=4, num_draws=200, batch_size=32, "
        "num_burnin_steps=0, num_steps_bw_draws=1, num_init_loss_batches=32, init_seed=100, batches_per_draw=3, "
        "obs_seed=1337, gradient_accumulation_steps=1, localization=0.0, noise_level=1.0, llc_weight_decay=0.0, "
        "bounding_box_size=None, sampling_method='sgmcmc_sgld', sampling_method_kwargs=None, rmsprop_eps=None, "
        "rmsprop_alpha=None, shuffle=True, match_sampling_input_ids_across_chains=True, init_noise=None, device=None, "
        "save_metrics=False, output_path=None, loss_fn=None"
    )
    scope: dict = {}
    exec(f"def reference({contract}): pass", scope)
    expected = inspect.signature(scope["reference"]).parameters
    ours = inspect.signature(sample).parameters
    assert list(ours)[: len(expected)] == list(expected)
    for name, parameter in expected.items():
        assert (ours[name].default, ours[name].kind) == (parameter.default, parameter.kind), name
    added = list(ours.values())[len(expected) :]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in added)
    assert devinterp.sample is sample


def test_every_argument_is_documented():
    documented = sample.__doc__ or ""
    for name in inspect.signature(sample).parameters:
        assert f"    {name}" in documented or f", {name}" in documented, name


def test_the_snippet_of_the_contract_runs_in_a_fresh_interpreter(tmp_path):
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[2] / "helpers")!r})
from tiny_lm import build_model, build_tokens
from devinterp.slt.sampling import sample
tree = sample(build_model(), build_tokens("train"), {{"code": (build_tokens("code"), 1)}}, lr=1e-3, n_beta=30.0,
              num_chains=2, num_draws=2, batch_size=4, device="cpu", progress=False, output_path="my_experiment.zarr")
import xarray as xr
tree = xr.open_datatree("my_experiment.zarr", engine="zarr", consolidated=False)
loss = tree.dataset["sampling_loss"]
assert loss.values.shape == (2, 2, 4, 16)
from devinterp.slt.llc import compute_llc
result = compute_llc(tree)
print(float(result.llc_mean))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert np.isfinite(float(done.stdout))


@hypothesis_settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    burnin=st.integers(0, 3),
    between=st.integers(1, 3),
    draws=st.integers(1, 3),
    parts=st.integers(1, 2),
    method=st.sampled_from(["sgmcmc_sgld", "rmsprop_sgld"]),
    noise=st.sampled_from([None, 0.05]),
    matched=st.booleans(),
    metrics=st.booleans(),
)
def test_every_store_is_valid_to_its_values(burnin, between, draws, parts, method, noise, matched, metrics):
    from zarr.storage import MemoryStore

    store = MemoryStore()
    tree = quick(
        output_path=store, num_burnin_steps=burnin, num_steps_bw_draws=between, num_draws=draws,
        gradient_accumulation_steps=parts, sampling_method=method, init_noise=noise, save_metrics=metrics,
        match_sampling_input_ids_across_chains=matched, save_step_losses=metrics,
    )  # fmt: skip
    assert tree["step_loss"].shape == (2, burnin + draws * between)
    report = validate(store, level="values")
    assert report.ok, report
