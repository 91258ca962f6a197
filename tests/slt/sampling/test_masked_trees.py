"""Rows of unequal lengths in studies, series and sweeps, in runs that go on, and in parts of runs that are kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_lm import build_model, build_tokens, head_masks

import devinterp
from devinterp import sample, sample_restrictions, sweep
from devinterp.slt.sampling import sample_checkpoints
from devinterp.slt.sampling.inputs.batches import loader_order
from devinterp.slt.sampling.settings import SamplerSettings

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS = build_tokens("train")[:, :8]
LENGTHS = np.random.default_rng(4).integers(3, 9, len(TOKENS))
LENGTHS[-1] = 8
THERE = np.arange(8) < LENGTHS[:, None]
RAGGED = [row[:n].tolist() for row, n in zip(TOKENS, LENGTHS, strict=True)]
OBSERVED = {"train": (RAGGED, 1), "whole": (TOKENS, 1)}
RESTRICTIONS = {"full": None, "head": head_masks(build_model(), 1, 0)}
OPTIONS = {
    "lr": 1e-3, "n_beta": 30.0, "num_chains": 2, "num_draws": 3, "batch_size": 3, "num_init_loss_batches": 2,
    "localization": 10.0, "device": "cpu", "progress": False,
}  # fmt: skip


def alone(model=None, data=RAGGED, observed=OBSERVED, **changes):
    return sample(model or build_model(), data, observed, **{**OPTIONS, **changes})


def study(data=RAGGED, observed=OBSERVED, **changes):
    options = {"sampling_task": "train", **OPTIONS, **changes}
    return sample_restrictions(build_model(), data, observed, RESTRICTIONS, **options)


def equal(one, other, *, but=()):
    one, other = (tree.to_dataset(inherit=False).drop_vars(but).load() for tree in (one, other))
    xr.testing.assert_equal(one, other)


def counted_means(run, name):
    """Mean loss of a draw over what the lengths of its rows say, (chain, draw)."""
    counts = THERE[run[f"row_{name}"].values][:, 1:] if name == "train" else np.ones(run[f"loss_{name}"].shape[2:])
    losses = np.where(counts == 1, run[f"loss_{name}"].values.astype(np.float64), 0.0)
    return losses.sum(axis=(2, 3)) / counts.sum(), counts


def test_the_runs_of_a_study_are_those_of_each_restriction_alone(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        tree = study(output_path=tmp_path / "s.zarr", chain_method="parallel", executor=pool)
    for name, masks in RESTRICTIONS.items():
        equal(tree[name], alone(param_masks=masks))
    assert devinterp.validate(tmp_path / "s.zarr", level="values").ok
    pads = np.random.default_rng(0).integers(0, 64, TOKENS.shape)
    other = {"input_ids": np.where(THERE, TOKENS, pads), "attention_mask": THERE.astype(int)}
    filled = study(other, {"train": (other, 1), "whole": (TOKENS, 1)})
    for name in RESTRICTIONS:  # whatever stands in the pads
        equal(filled[name], tree[name], but=["input_ids_train"])


def test_estimates_of_a_study_are_over_what_counts(tmp_path):
    """Oracle: numpy on the losses, and on the lengths that the rows had when they were passed."""
    tree = study()
    full = tree["full"]
    mean, counts = counted_means(full, "train")
    start = np.where(counts, full["init_loss_train"].values.astype(np.float64), 0.0).sum() / counts.sum()
    llc = tree.devinterp.llc(over="observable", observable="train")
    np.testing.assert_allclose(llc["llc_per_chain"].sel(wr="full"), 30.0 * (mean.mean(axis=1) - start), rtol=1e-6)
    sus = tree.devinterp.susceptibilities(include_sampling_task=True)["susceptibilities"]
    assert sus.sizes["sus_flat"] == counts.sum() + TOKENS[:, 1:].shape[1] * 3
    pairs = set(zip(sus["batch"].values[: counts.sum()], sus["target_position"].values[: counts.sum()], strict=True))
    assert pairs == {(row, position + 1) for row, position in zip(*counts.nonzero(), strict=True)}
    assert not np.isnan(sus["sus"]).any()
    bif = full.devinterp.bif(method="sequence", loss_keys=["train"])
    means = full["loss_train"].mean("token_pos").values.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(bif["influences"], np.corrcoef(means.T), atol=1e-5)


def test_the_runs_of_a_series_are_those_of_each_checkpoint_alone(tmp_path):
    tree = sample_checkpoints(
        build_model, (0, 3), RAGGED, OBSERVED, sampling_task="train", weight_restrictions=RESTRICTIONS,
        output_path=tmp_path / "s.zarr", **OPTIONS,
    )  # fmt: skip
    for step in (0, 3):
        for name, masks in RESTRICTIONS.items():
            equal(tree[f"{step}/{name}"], alone(build_model(step), param_masks=masks))
    assert devinterp.validate(tmp_path / "s.zarr", level="values").ok
    mean, _ = counted_means(tree["3/head"], "train")
    trace = tree.devinterp.llc(over="observable")["loss_trace"].sel(checkpoint=3, wr="head")
    np.testing.assert_allclose(trace, mean, rtol=1e-6)


def test_the_cells_of_a_sweep_are_those_of_each_setting_alone(tmp_path):
    given = {k: v for k, v in OPTIONS.items() if k not in ("lr", "n_beta", "localization")}
    tree = sweep(
        build_model(), RAGGED, OBSERVED, grid={"lr": [1e-4, 1e-3], "n_beta": [30.0], "localization": [10.0]},
        sampling_task="train", pilot_chains=1, pilot_draws=2, extend=1, output_path=tmp_path / "s.zarr", **given,
    )  # fmt: skip
    assert devinterp.validate(tmp_path / "s.zarr", level="values").ok
    for cell in tree.children.values():
        sampler = cell.attrs["metadata"]["config"]["sampler"]
        own = {name: sampler[name] for name in ("lr", "n_beta", "localization", "num_chains", "num_draws")}
        equal(cell, alone(save_metrics=True, **own))
        assert {"mask_train", "mask_sampling", "step_count"} <= set(cell.data_vars)
    assert devinterp.validate(tree.devinterp.sweep()).ok


def test_a_run_with_masks_grows_to_what_it_would_have_been(tmp_path):
    """Also onto rows that the first part did not visit, among them the only one of the greatest length."""
    options = {"keep_state": True, "save_step_losses": True, "observed": {}, "batch_size": 16}
    order = loader_order(len(RAGGED), shuffle=True, seed=SamplerSettings.build(lr=1e-3, n_beta=30.0).loader_seed(0))
    data = [row[:5] for row in RAGGED]
    data[order[40]] = TOKENS[order[40]].tolist()  # in the third of four batches
    alone(data=data, output_path=tmp_path / "a.zarr", num_draws=1, **options)
    more = {**options, "num_chains": 3, "num_draws": 4}
    grown = alone(data=data, output_path=tmp_path / "a.zarr", **more)
    assert grown["mask_sampling"].isel(token_pos=-1).sum(("chain", "batch")).values.tolist() == [0, 0, 3, 0]
    equal(grown, alone(data=data, **more))
    assert devinterp.validate(tmp_path / "a.zarr", level="values").ok


class Stop(Exception):
    """Stands for whatever stops a program."""


def test_a_study_that_was_stopped_goes_on_to_the_same_losses(tmp_path):
    def stop(event):
        if event.restriction == "head" and event.chain == 1 and event.step == 2:
            raise Stop

    where = tmp_path / "s.zarr"
    with pytest.raises(Stop):
        study(output_path=where, progress=stop)
    whole, resumed = study(), study(output_path=where)
    for name in RESTRICTIONS:
        equal(resumed[name], whole[name])


@pytest.fixture(scope="module")
def run():
    """Its positions are numbered, so that a part of them can be told."""
    tree = alone(num_draws=6).load()
    numbered = tree.to_dataset().assign_coords(
        token_pos=range(tree.sizes["token_pos"]), token=range(tree.sizes["token"])
    )
    return xr.DataTree(numbered)


CHAINS = st.lists(st.integers(0, 1), min_size=1, unique=True)


ROWS = st.lists(st.integers(0, 2), min_size=1, unique=True)


@given(chains=CHAINS, first=st.integers(0, 3), rows=ROWS, last=st.integers(4, 7))
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_part_that_is_saved_is_read_as_that_part(run, tmp_path_factory, chains, first, rows, last):
    part = run.isel(chain=chains, draw=slice(first, None), batch_train=rows, token_pos=slice(1, last))
    where = tmp_path_factory.mktemp("part") / "p.zarr"
    part.devinterp.save(where)
    assert devinterp.validate(where, level="values").ok
    kept = devinterp.open_store(where)
    for name in ("loss_train", "mask_train", "init_loss_train", "sampling_loss", "mask_sampling"):
        np.testing.assert_array_equal(kept[name], part[name])
    for of in (kept, part):
        llc = of.devinterp.llc(over="observable", observable="train")["llc_per_chain"]
        rise = (part["loss_train"] - part["init_loss_train"]).mean(["draw", "batch_train", "token_pos"])
        np.testing.assert_allclose(llc, 30.0 * rise, rtol=1e-4, atol=1e-4)
