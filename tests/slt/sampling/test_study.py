"""A study: one store, one group per restriction, shared initial losses, overrides, resume."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
import torch
import xarray as xr
from tiny_lm import build_model, build_tokens, head_masks

import devinterp
from devinterp.errors import (
    AllChainsFailedError,
    ChainFailedWarning,
    RestrictionError,
    SettingError,
    StoreConflictError,
)
from devinterp.schema import validate
from devinterp.slt.sampling import sample, sample_restrictions
from devinterp.slt.sampling.engine.frozen_prefix import plain_passes
from devinterp.slt.susceptibilities import compute_susceptibilities
from devinterp.store import locate
from devinterp.store.reading.status import read_status

TRAIN, CODE = build_tokens("train"), build_tokens("code")
OBSERVABLES = {"train": (TRAIN, 1), "code": (CODE, 1)}
SETTINGS = {
    "lr": 1e-3, "n_beta": 30.0, "num_chains": 2, "num_draws": 3, "batch_size": 4, "num_init_loss_batches": 2,
    "localization": 10.0, "device": "cpu", "progress": False,
}  # fmt: skip


def restrictions():
    model = build_model()
    return {"l0h0": head_masks(model, 0, 0), "full": None, "layer 1, head 2": head_masks(model, 1, 2)}


def study(weight_restrictions=None, model=None, **changes):
    return sample_restrictions(
        model or build_model(), TRAIN, OBSERVABLES, weight_restrictions or restrictions(),
        **{"sampling_task": "train", **SETTINGS, **changes},
    )  # fmt: skip


def assert_same_store(one, other):
    assert set(one.data_vars) == set(other.data_vars)
    for name in one.data_vars:
        assert one[name].values.tobytes() == other[name].values.tobytes(), name


def test_without_the_loss_a_study_is_the_control_of_its_susceptibilities(tmp_path):
    """n_beta = 0: chains see only the pull, and what is left of a susceptibility is not the posterior's."""
    tree = study(n_beta=0.0, num_draws=24, output_path=tmp_path / "control.zarr")
    assert validate(tmp_path / "control.zarr").ok
    control = compute_susceptibilities(tree, "train", se=True)["susceptibilities"]
    assert np.isfinite(control["sus"].values).all()
    assert np.isfinite(control["sus_se"].values).all()
    assert (tree.devinterp.llc()["llc_mean"] == 0).all()
    rows = np.random.default_rng(0).permuted(TRAIN, axis=0)  # no draw depends on what is seen
    elsewhere = sample(build_model(), rows, OBSERVABLES, **{**SETTINGS, "n_beta": 0.0, "num_draws": 24})
    for name in OBSERVABLES:
        assert (tree["full"][f"loss_{name}"].values == elsewhere[f"loss_{name}"].values).all()


def test_each_restriction_is_the_run_that_sample_would_make(tmp_path):
    tree = study(output_path=tmp_path / "study.zarr", save_metrics=True)
    assert list(tree.children) == ["l0h0", "full", "layer 1, head 2"] or set(tree.children) == set(restrictions())
    for name, masks in restrictions().items():
        alone = sample(build_model(), TRAIN, OBSERVABLES, param_masks=masks, save_metrics=True, **SETTINGS)
        assert_same_store(tree[name], alone)
        assert tree[name].attrs["metadata"]["provenance"]["masks"] == alone.attrs["metadata"]["provenance"]["masks"]
    config = tree.attrs["metadata"]["config"]
    assert config == {"sampling_task": "train", "restrictions": ["l0h0", "full", "layer 1, head 2"]}
    report = validate(tmp_path / "study.zarr", level="values")
    assert report.ok, report
    reopened = xr.open_datatree(tmp_path / "study.zarr", engine="zarr", consolidated=False)
    assert set(reopened.children) == set(restrictions())
    assert compute_susceptibilities(reopened, "train")["susceptibilities"]["sus"].dims == ("sus_flat", "wr")


def test_initial_losses_are_computed_once_for_all():
    calls = []

    def loss_fn(model, input_ids):
        calls.append(torch.is_grad_enabled())
        return -torch.log_softmax(model(input_ids), -1)[:, :-1].gather(-1, input_ids[:, 1:, None])[..., 0]

    with plain_passes():
        tree = study(loss_fn=loss_fn)
    per_draw = len(OBSERVABLES)
    steps = 3 * 2 * 3  # restrictions, chains, draws
    observed = steps * per_draw
    initial = 2 + per_draw  # batches of the initial loss, and one batch of each observable
    assert calls.count(True) == steps + 1  # and the probe
    assert calls.count(False) == observed + initial
    for name in tree.children:
        np.testing.assert_array_equal(tree[name]["init_loss"].values, tree["full"]["init_loss"].values)


@pytest.mark.parametrize("how", [{}, {"chain_method": "parallel", "num_workers": 2}])
def test_a_study_reuses_what_no_restriction_moves_and_tells(tmp_path, how):
    heads = {f"l{layer}h{head}": head_masks(build_model(), layer, head) for head in (0, 1) for layer in (1, 0)}
    chosen = {**heads, "unembed": {"unembed.weight": None}, "full": None}
    model, seen = build_model(), []
    first, forward = model.blocks[0], model.blocks[0].forward
    if not how:
        first.forward = lambda x: seen.append(1) or forward(x)
    tree = study(chosen, model, output_path=tmp_path / "with.zarr", **how)
    with plain_passes():
        plain = study(chosen, output_path=tmp_path / "without.zarr")
    for name in chosen:
        assert_same_store(tree[name], plain[name])
    assert tree.attrs["metadata"]["config"]["restrictions"] == list(chosen)
    told = {name: tree[name].attrs["metadata"]["run"]["frozen_prefix"] for name in chosen}
    passes = 2 * 3 * (1 + len(OBSERVABLES))  # chains, draws, batches
    assert {each["passes"] for each in told.values()} == {passes}
    assert told["full"] == {"passes": passes, "reused": 0, "reason": "every weight is sampled"}
    assert told["l1h0"]["share"] == told["l1h1"]["share"] < told["unembed"]["share"] < 1
    if not how:
        # The first chain of each keeps two batches of observables and three of steps; others find them all.
        assert [told[name]["reused"] for name in ("l1h0", "l1h1", "unembed")] == [passes - 5, passes, passes - 5]
        assert first.__dict__["forward"] is not None
        # Three sets of weights, with and without gradients: watched once, and evaluated twice to see that both agree.
        watched = 3 * 2 * (1 + 2)
        # The first layer is evaluated for what l1h0 keeps, the first batches of `unembed` that are held against it,
        # three restrictions that move it or what comes before, the start of both observables, and once for the probe.
        # Some of these are given out of a prefix that another restriction holds whole.
        most = 5 + 2 + 3 * passes + 2 + SETTINGS["num_init_loss_batches"] + 1 + watched
        assert 3 * passes + watched < len(seen) <= most
    assert "behind a frozen prefix" in read_status(locate(tmp_path / "with.zarr")).saved
    assert read_status(locate(tmp_path / "without.zarr")).saved.endswith("it is switched off")


def test_names_of_restrictions_are_made_into_masks():
    tree = study({"full": "full", "l0h1": "l0h1", "both": ["l0h0", "l1h2"]})
    model = build_model()
    expected = sample(model, TRAIN, OBSERVABLES, param_masks=head_masks(model, 0, 1), **SETTINGS)
    np.testing.assert_allclose(tree["l0h1"]["loss_code"].values, expected["loss_code"].values, rtol=1e-5)
    assert tree["full"].attrs["metadata"]["provenance"]["masks"] is None


def test_overrides_change_one_restriction_alone(tmp_path):
    own = {"l0h0": {"lr": 2e-3, "num_draws": 5, "num_chains": 3, "num_burnin_steps": 1}}
    tree = study(overrides=own, output_path=tmp_path / "study.zarr")
    alone = sample(build_model(), TRAIN, OBSERVABLES, param_masks=restrictions()["l0h0"], **{**SETTINGS, **own["l0h0"]})
    assert_same_store(tree["l0h0"], alone)
    assert tree["full"]["sampling_loss"].sizes["draw"] == 3
    report = validate(tmp_path / "study.zarr", level="values")
    assert report.ok, report


BAD = {
    "no full": (RestrictionError, {"weight_restrictions": {"l0h0": "l0h0"}}),
    "not a mapping": (RestrictionError, {"weight_restrictions": ["full"]}),
    "a slash": (RestrictionError, {"weight_restrictions": {"full": None, "a/b": None}}),
    "dots": (RestrictionError, {"weight_restrictions": {"full": None, "..": None}}),
    "a leading __": (RestrictionError, {"weight_restrictions": {"full": None, "__x": None}}),
    "a control character": (RestrictionError, {"weight_restrictions": {"full": None, "a\n": None}}),
    "the same up to case": (RestrictionError, {"weight_restrictions": {"full": None, "Full": None}}),
    "an unknown restriction": (RestrictionError, {"weight_restrictions": {"full": None, "x": "l9h9"}}),
    "masks that fit nothing": (RestrictionError, {"weight_restrictions": {"full": None, "x": {"nothing": None}}}),
    "an unknown sampling task": (SettingError, {"sampling_task": "trian"}),
    "an unknown argument": (SettingError, {"temperature": 3}),
    "masks as an argument": (SettingError, {"param_masks": {}}),
    "overrides of nothing": (RestrictionError, {"overrides": {"l5h5": {"lr": 1.0}}}),
    "an override that must be shared": (SettingError, {"overrides": {"l0h0": {"n_beta": 1.0}}}),
    "a bad override": (SettingError, {"overrides": {"l0h0": {"lr": -1.0}}}),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_clear_error_and_leaves_nothing_behind(kind, tmp_path):
    error, changes = BAD[kind]
    with pytest.raises(error) as caught:
        study(**{"output_path": tmp_path / "study.zarr", **changes})
    assert type(caught.value) is error
    assert list(tmp_path.iterdir()) == []


def test_a_restriction_that_is_bad_is_named():
    with pytest.raises(RestrictionError) as caught:
        study({"full": None, "the odd one": {"embed.weight": torch.ones(2)}})
    assert "embed.weight" in str(caught.value)
    with pytest.raises(RestrictionError) as caught:
        study({"full": None, "the odd one": {}})
    assert "'the odd one'" in str(caught.value)


def test_a_study_resumes_as_one_and_skips_what_is_done(tmp_path):
    path, told = tmp_path / "study.zarr", []

    def strike(event):
        told.append((event.restriction, event.chain, event.step))
        if (event.restriction, event.chain, event.step) == ("l0h0", 1, 2):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        study(output_path=path, progress=strike)
    metadata = json.loads((path / "l0h0" / "zarr.json").read_text())["attributes"]["metadata"]
    assert [chain["status"] for chain in metadata["run"]["chains"]] == ["complete", "interrupted"]
    before = len(told)
    tree = study(output_path=path, progress=lambda event: told.append((event.restriction, event.chain, event.step)))
    assert told[before] == ("l0h0", 1, 3)
    assert ("full", 0, 1) not in told[before:]
    whole = study()
    for name in whole.children:
        assert_same_store(tree[name], whole[name])
    assert validate(path, level="values").ok


def test_a_finished_study_takes_further_restrictions(tmp_path, monkeypatch):
    path = tmp_path / "study.zarr"
    first = {name: masks for name, masks in restrictions().items() if name != "l0h0"}
    study(first, output_path=path)
    told = []
    tree = study({**first, "l0h0": restrictions()["l0h0"]}, output_path=path, progress=told.append)
    assert {event.restriction for event in told} == {"l0h0"}
    whole = study()
    for name in whole.children:
        assert_same_store(tree[name], whole[name])
    report = validate(path, level="values")
    assert report.ok, report
    with pytest.raises(StoreConflictError):
        study({**first, "l0h0": head_masks(build_model(), 0, 3)}, output_path=path)


class DivergesIn(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = build_model()

    def forward(self, input_ids):
        logits = self.inner(input_ids)
        head_alone = not self.inner.embed.weight.requires_grad
        moved = not torch.equal(self.inner.blocks[0].qkv.weight, self.start)
        return logits * float("nan") if head_alone and moved else logits


def test_a_restriction_whose_chains_all_fail_is_named_and_the_others_stay():
    model = DivergesIn()
    model.start = model.inner.blocks[0].qkv.weight.detach().clone()
    masks = {f"inner.{name}": mask for name, mask in head_masks(model.inner, 0, 0).items()}
    with pytest.warns(ChainFailedWarning, match="l0h0 chain 0 at step 0") as caught:
        tree = study({"full": None, "l0h0": masks}, model)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert tree["l0h0"]["draws_written"].values.tolist() == [0, 0]
    assert tree["full"]["draws_written"].values.tolist() == [3, 3]


def test_when_no_chain_of_any_restriction_survives_the_call_raises():
    with pytest.raises(AllChainsFailedError, match="full chain 0"):
        study({"full": None}, lr=1e38)


def test_it_is_reachable_where_the_contract_says():
    from devinterp.slt import susceptibilities

    assert devinterp.sample_restrictions is sample_restrictions
    assert susceptibilities.sample_restrictions is sample_restrictions
