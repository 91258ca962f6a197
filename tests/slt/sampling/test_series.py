from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from tiny_lm import build_model, build_tokens, head_masks

import devinterp
from devinterp.errors import ProvenanceError, SettingError, StoreConflictError, StoreNotFoundError
from devinterp.slt.llc import compute_llc
from devinterp.slt.sampling import from_state_dicts, sample, sample_checkpoints

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


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


def test_a_series_takes_more_checkpoints_restrictions_and_draws_without_redoing_any(tmp_path):
    path = tmp_path / "s.zarr"
    loaded = []

    def load(step):
        loaded.append(step)
        return build_model(step)

    series(path, [0, 7], keep_state=True)
    before = {p: p.read_bytes() for p in (path / "0" / "full" / "loss_code" / "c").rglob("*") if p.is_file()}
    more = {"weight_restrictions": restrictions("l0h0", "l1h2"), "keep_state": True}
    tree = series(path, [0, 7, 3], load, **more)
    assert loaded == [0, 7, 3, 0, 7, 3], "each once to be identified, once to be sampled"
    assert all(p.read_bytes() == content for p, content in before.items())
    assert set(tree["3"].children) == {"full", "l0h0", "l1h2"}
    longer = series(path, [0, 7, 3], num_draws=6, **more)
    fresh = series(None, [0, 7, 3], num_draws=6, **more)
    for node in fresh.subtree:
        for name, values in node.data_vars.items():
            np.testing.assert_array_equal(
                longer[f"{node.path}/{name}"].values, values.values, err_msg=f"{node.path} {name}"
            )
    assert devinterp.validate(path).ok


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
