from __future__ import annotations

import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import xarray as xr
from tiny_lm import build_model, build_tokens, head_masks

import devinterp
from devinterp.errors import (
    ProvenanceError,
    RestrictionError,
    SettingError,
    StoreConflictError,
    StoreNotFoundError,
)
from devinterp.slt.llc import compute_llc
from devinterp.slt.sampling import from_state_dicts, sample, sample_checkpoints
from devinterp.slt.sampling.inputs.batches import SamplingData
from devinterp.slt.sampling.running import options as execution

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = {
    "lr": 1e-3,
    "n_beta": 30.0,
    "num_chains": 2,
    "num_draws": 4,
    "batch_size": 2,
    "num_init_loss_batches": 2,
    "localization": 10.0,
    "device": "cpu",
    "progress": False,
}
OBSERVABLES = {"train": (build_tokens("train"), 1), "code": (build_tokens("code"), 1)}


def restrictions(*names):
    model = build_model()
    return {"full": None, **{name: head_masks(model, int(name[1]), int(name[3])) for name in names}}


def series(path, checkpoints, load=build_model, **changes):
    settings = {**SETTINGS, "weight_restrictions": restrictions("l0h0"), **changes}
    return sample_checkpoints(
        load, checkpoints, build_tokens("train"), OBSERVABLES, sampling_task="train", output_path=path, **settings
    )


def test_every_checkpoint_is_what_sampling_it_alone_gives(tmp_path):
    tree = series(tmp_path / "s.zarr", [0, 7])
    assert devinterp.validate(tmp_path / "s.zarr").ok
    assert tree["checkpoint"].values.tolist() == [0, 7]
    for step in (0, 7):
        alone = sample(
            build_model(step), build_tokens("train"), OBSERVABLES, param_masks=restrictions("l0h0")["l0h0"], **SETTINGS
        )
        for name, values in alone.data_vars.items():
            np.testing.assert_array_equal(tree[f"{step}/l0h0"][name].values, values.values, err_msg=str(name))


def test_a_further_checkpoint_leaves_the_files_of_the_others_alone(tmp_path):
    path = tmp_path / "s.zarr"
    loaded = []

    def load(step):
        loaded.append(step)
        return build_model(step)

    series(path, [0, 7])
    before = {p: p.stat().st_mtime_ns for s in ("0", "7") for p in (path / s).rglob("c/**/*") if p.is_file()}
    tree = series(path, [0, 7, 3], load)
    assert loaded == [0, 7, 3, 3], "each once to be identified, the new one again to be sampled"
    written = {p for p in before if p.stat().st_mtime_ns != before[p]}
    assert {p.relative_to(path).parts[2] for p in written} <= {"draws_written"}
    assert tree["checkpoint"].values.tolist() == [0, 7, 3]
    assert set(tree.children) == {"0", "7", "3"}


MORE = {
    "checkpoint": lambda asked: {"checkpoints": [*asked["checkpoints"], 3]},
    "restriction": lambda asked: {"weight_restrictions": restrictions("l0h0", "l1h2")},
    "chain": lambda asked: {"num_chains": 3},
    "draws": lambda asked: {"num_draws": asked.get("num_draws", 4) + 2},
}


@pytest.mark.parametrize(
    "stages",
    [
        ["draws", "chain", "restriction", "checkpoint"],
        ["checkpoint restriction chain draws"],
    ],
    ids=", ".join,
)
def test_every_extension_is_interrupted_and_no_step_is_computed_twice(tmp_path, stages):
    path = tmp_path / "s.zarr"
    steps, stop_after = Counter(), [0]

    def watch(event):
        steps[event.restriction, event.chain, event.step] += 1
        stop_after[0] -= 1
        if stop_after[0] == 0:
            signal.raise_signal(signal.SIGINT)  # an orderly end after the present draw

    asked = {"checkpoints": [0, 7], "keep_state": True, "checkpoint_every": 1, "progress": watch}
    for stage in ["", *stages]:
        for what in stage.split():
            asked |= MORE[what](asked)
        stop_after[0] = 5
        with pytest.raises(KeyboardInterrupt):
            series(path, **asked)
        tree = series(path, **asked)
    assert devinterp.validate(path).ok
    fresh = series(None, **{**asked, "progress": False})
    assert [node.path for node in tree.subtree] == [node.path for node in fresh.subtree]
    for node in fresh.subtree:
        for name, values in node.data_vars.items():
            np.testing.assert_array_equal(tree[f"{node.path}/{name}"].values, values.values, err_msg=node.path)
    runs = len(fresh.children) * len(next(iter(fresh.children.values())).children)
    wanted = runs * fresh["0/full"].sizes["chain"] * fresh["0/full"].sizes["draw"]
    computed = {key: n for key, n in steps.items() if key[2] > 0}
    assert len(computed) == wanted
    assert max(computed.values()) == 1, [key for key, n in computed.items() if n > 1]


def test_a_signal_in_the_last_draw_of_a_checkpoint_ends_the_series(tmp_path, capsys):
    path, events = tmp_path / "s.zarr", []

    def watch(event):
        events.append(event)
        if len([e for e in events if e.step > 0]) == 16:  # 2 restrictions, 2 chains, 4 draws
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        series(path, [0, 7], progress=watch)
    assert "with 4 chains to go" in capsys.readouterr().err
    assert {event.restriction for event in events if event.step > 0} == {"0/full", "0/l0h0"}
    assert series(path, [0, 7]).attrs["completed"] == 1


def test_a_longer_series_on_rows_that_the_shorter_one_did_not_begin_with_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "s.zarr"
    series(path, [0], keep_state=True)
    monkeypatch.setattr(SamplingData, "visited", lambda self, settings: f"others, {settings.num_draws} draws")
    with pytest.raises(StoreConflictError, match="visited other rows"):
        series(path, [0], keep_state=True, num_draws=6)


@pytest.mark.parametrize("ours", [True, False])
def test_one_pool_of_any_kind_serves_all_checkpoints(tmp_path, monkeypatch, ours):
    made = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, workers):
            made.append(workers)
            super().__init__(workers)

    monkeypatch.setattr(execution, "worker_pool", Pool)
    with Pool(2) as theirs:
        options = {"num_workers": 2} if ours else {"executor": theirs}
        tree = series(tmp_path / "s.zarr", [0, 7], chain_method="parallel", threads_per_chain=1, **options)
    assert made == ([2, 2] if ours else [2]), "one pool for the whole series"
    alone = series(None, [0, 7])
    for node in alone.subtree:
        for name, values in node.data_vars.items():
            np.testing.assert_array_equal(tree[f"{node.path}/{name}"].values, values.values, err_msg=node.path)


def test_settings_of_a_checkpoint_of_a_restriction_and_of_both(tmp_path):
    path = tmp_path / "s.zarr"
    overrides = {
        7: {"n_beta": 3.0, "lr": 1e-4, "num_draws": 5},
        "l0h0": {"num_draws": 6, "num_chains": 3},
        (7, "l0h0"): {"lr": 1e-5},
    }
    tree = series(path, [0, 7], overrides=overrides)
    assert devinterp.validate(path).ok
    found = {
        run: [tree[run].devinterp.config["sampler"][name] for name in ("n_beta", "lr", "num_draws", "num_chains")]
        for run in ("0/full", "0/l0h0", "7/full", "7/l0h0")
    }
    assert found == {
        "0/full": [30.0, 1e-3, 4, 2],
        "0/l0h0": [30.0, 1e-3, 6, 3],
        "7/full": [3.0, 1e-4, 5, 2],
        "7/l0h0": [3.0, 1e-5, 6, 3],
    }
    assert tree["7/full/n_beta"].item() == 3.0
    assert tree["7"].devinterp.susceptibilities()["susceptibilities"].sizes["wr"] == 1
    with pytest.raises(ProvenanceError, match=r"n_beta of 'full' is 30\.0 at checkpoint 0, 3\.0 at checkpoint 7"):
        tree.devinterp.llc()
    assert tree.devinterp.llc(allow_mixed=True).attrs["mixed"] == ["lr", "n_beta"]
    with pytest.raises(StoreConflictError, match=r"7/full: n_beta: the store has 3\.0, this call 30\.0"):
        series(path, [0, 7], overrides={**overrides, 7: {"num_draws": 5, "lr": 1e-4}})


def test_one_checkpoint_is_given_more_draws(tmp_path):
    path = tmp_path / "s.zarr"
    series(path, [0, 7], keep_state=True)
    before = {p: p.stat().st_mtime_ns for p in (path / "0").rglob("*") if "loss" in str(p) and p.is_file()}
    tree = series(path, [0, 7], keep_state=True, overrides={7: {"num_draws": 6}})
    assert (tree["0/full"].sizes["draw"], tree["7/full"].sizes["draw"]) == (4, 6)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert devinterp.validate(path).ok
    np.testing.assert_array_equal(tree["7/l0h0/loss_code"], series(None, [7], num_draws=6)["7/l0h0/loss_code"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({5: {"lr": 1.0}}, "not in the series: 5"),
        ({(7, "l9h9"): {"lr": 1.0}}, "not in the series"),
        ({(7, "full", 1): {"lr": 1.0}}, "not in the series"),
        ({7.5: {"lr": 1.0}}, "not in the series: 7.5"),
        ({"l9h9": {"lr": 1.0}}, "l9h9"),
        ({7: {"batch_size": 4}}, "checkpoint 7 overrides 'batch_size'"),
        ({7: {"obs_seed": 4}}, "checkpoint 7 overrides 'obs_seed'"),
        ({"full": {"n_beta": 4.0}}, "'full' overrides 'n_beta'"),
        ({(7, "full"): {"n_beta": 4.0}}, "'full' overrides 'n_beta'"),
        ({7: {"lr": -1.0}}, "lr"),
    ],
)
def test_overrides_that_mean_nothing_are_refused(tmp_path, overrides, message):
    with pytest.raises((SettingError, RestrictionError), match=message):
        series(tmp_path / "s.zarr", [0, 7], overrides=overrides)
    assert not (tmp_path / "s.zarr").exists()


def test_an_interrupted_series_goes_on(tmp_path):
    path = tmp_path / "s.zarr"
    calls = []

    def load(step):
        calls.append(step)
        if len(calls) == 4:
            raise RuntimeError("the disk with the checkpoints is gone")
        return build_model(step)

    with pytest.raises(RuntimeError, match="is gone"):
        series(path, [0, 7], load)
    tree = series(path, [0, 7])
    xr.testing.assert_identical(tree["0"].to_dataset(), series(None, [0, 7])["0"].to_dataset())
    np.testing.assert_array_equal(tree["7/full/loss_code"].values, series(None, [7])["7/full/loss_code"].values)


def test_the_same_series_is_returned_and_another_is_refused(tmp_path):
    path = tmp_path / "s.zarr"
    series(path, [0, 7])
    xr.testing.assert_identical(
        series(path, [0, 7])["7/full"].to_dataset().load(),
        xr.open_datatree(path, engine="zarr")["7/full"].to_dataset().load(),
    )
    with pytest.raises(StoreConflictError, match="weights"):
        series(path, [0, 7], lambda step: build_model(step + 1))


def test_the_llc_of_a_series_has_a_checkpoint_and_a_restriction(tmp_path):
    tree = series(tmp_path / "s.zarr", [0, 7])
    result = tree.devinterp.llc(over="observable", ci=0.9)
    assert result["llc_mean"].dims == ("checkpoint", "wr")
    assert devinterp.validate(result).ok
    for step in (0, 7):
        one = compute_llc(tree[f"{step}/l0h0"], over="observable", observable="train")
        assert result["llc_mean"].sel(checkpoint=step, wr="l0h0").item() == one["llc_mean"].item()


def test_a_curve_over_different_posteriors_is_refused(tmp_path):
    one, other = series(None, [0]), series(None, [7], n_beta=3.0)
    mixed = xr.DataTree.from_dict(
        {
            f"{step}/{name}": tree[f"{step}/{name}"].to_dataset()
            for step, tree in ((0, one), (7, other))
            for name in ("full",)
        }
    )
    with pytest.raises(ProvenanceError, match="n_beta"):
        mixed.devinterp.llc()


def test_state_dicts_are_loaded_from_a_folder(tmp_path):
    for step in (0, 7):
        torch.save(build_model(step).state_dict(), tmp_path / f"{step}.pt")
    load = from_state_dicts(build_model, tmp_path)
    for got, wanted in zip(load(7).parameters(), build_model(7).parameters(), strict=True):
        assert torch.equal(got, wanted)
    with pytest.raises(StoreNotFoundError, match="checkpoint 8"):
        load(8)


@pytest.mark.parametrize("bad", [[], [0, 0], [-1], ["0"], [0.5], "01", 3])
def test_checkpoints_are_distinct_training_steps(tmp_path, bad):
    with pytest.raises(SettingError, match="must name training steps"):
        series(tmp_path / "s.zarr", bad)
    assert not (tmp_path / "s.zarr").exists()
