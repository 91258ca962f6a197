from __future__ import annotations

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr
from replicas import Replicas, run_arguments
from tiny_lm import build_model, build_tokens

import devinterp
from devinterp import sample, sweep
from devinterp.errors import SettingError, StoreConflictError
from devinterp.slt.diagnostics.step_bias import LARGEST_INFLATION, least_inflation
from devinterp.slt.sampling.running import initial_arrays
from devinterp.slt.sweep.sample_sweep import _default_grid
from devinterp.slt.sweep.temperature import compute_temperature
from devinterp.testing.mutations.store_editor import StoreEditor

pytestmark = pytest.mark.usefixtures("one_thread")

TRAIN = build_tokens("train")
OBSERVABLES = {"train": (TRAIN, 1)}
SETTINGS = {
    "num_chains": 2,
    "num_draws": 4,
    "batch_size": 2,
    "num_init_loss_batches": 2,
    "device": "cpu",
    "progress": False,
}
GRID = {"lr": [1e-4, 1e-3], "n_beta": [30.0], "localization": [10.0]}
PILOT = {"pilot_chains": 1, "pilot_draws": 2, "extend": 1}


def swept(path=None, **changes):
    given = {"grid": GRID, **PILOT, **SETTINGS, **changes}
    arguments = {k: v for k, v in given.items() if k != "batch_size" or k not in (given["grid"] or ())}
    return sweep(build_model(), TRAIN, OBSERVABLES, output_path=path, **arguments)


def lengths(tree):
    return {name: (cell.sizes["chain"], cell.sizes["draw"]) for name, cell in tree.children.items()}


def digests(path, group):
    files = [p for p in (path / group).rglob("*") if p.is_file() and p.name != "zarr.json"]
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in files if "draws_written" not in p.parts}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Where a sweep lies, and its tree: to be read, and copied where it is to go on."""
    path = tmp_path_factory.mktemp("whole") / "s.zarr"
    return path, swept(path)


@pytest.fixture(scope="module")
def pilot(tmp_path_factory):
    """Where a sweep lies that kept its states and extended nothing yet, and its tree."""
    path = tmp_path_factory.mktemp("pilot") / "s.zarr"
    return path, swept(path, keep_state=True, extend=0)


def test_every_cell_is_what_sampling_it_alone_gives_short_or_extended(whole):
    path, tree = whole
    assert tree.devinterp.kind == "sweep"
    report = devinterp.validate(path)
    assert report.ok, report
    assert not report.findings
    assert not (path / ".devinterp").exists(), "states are not kept unless asked for"
    assert sorted(lengths(tree).values()) == [(1, 2), (1, 2), (1, 2), (2, 4)]
    assert tree["n_beta"].values.tolist() == [0.0, 30.0, 0.0, 30.0]
    for name, cell in tree.children.items():
        own = cell.attrs["metadata"]["config"]["sampler"]
        keys = ("lr", "n_beta", "localization", "num_chains", "num_draws")
        alone = sample(build_model(), TRAIN, OBSERVABLES, **{**SETTINGS, **{k: own[k] for k in keys}})
        for variable, values in alone.data_vars.items():
            np.testing.assert_array_equal(cell[variable].values, values.values, err_msg=f"{name} {variable}")
        for key in ("weights", "visited", "observables"):
            assert cell.attrs["metadata"]["provenance"][key] == alone.attrs["metadata"]["provenance"][key]


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    """Two sizes of a batch, one of them extended."""
    path = tmp_path_factory.mktemp("batches") / "s.zarr"
    return path, swept(path, grid={**GRID, "batch_size": [4, 2]})


def test_batches_of_several_sizes_observe_the_same_rows_in_one_store(batches):
    path, tree = batches
    report = devinterp.validate(path)
    assert not report.findings, report
    assert sorted({*tree["batch_size"].values.tolist()}) == [2, 4]
    first, *others = tree.children.values()
    for cell in others:
        xr.testing.assert_identical(cell["input_ids_train"].variable, first["input_ids_train"].variable)
    own = {**GRID, "lr": 1e-3, "n_beta": 30.0, "localization": 10.0, "num_chains": 1, "num_draws": 2}
    alone = sample(build_model(), TRAIN, OBSERVABLES, **{**SETTINGS, **own, "gradient_accumulation_steps": 2})
    cell = tree["lr=0.001,n_beta=30,localization=10,batch_size=4"].isel(chain=[0], draw=slice(2))
    np.testing.assert_array_equal(cell["loss_train"].values, alone["loss_train"].values)


def test_what_a_grid_varies_besides_is_a_dimension_of_its_summary(batches):
    _, tree = batches
    summary = tree.devinterp.sweep()
    assert devinterp.validate(summary).ok
    assert dict(summary.sizes) == {"batch_size": 2, "lr": 2, "n_beta": 2, "localization": 1, "bound": 2}
    large = tree.isel(cell=np.flatnonzero(tree["batch_size"].values == 4))
    plain = large.devinterp.llc(over="observable")
    assert dict(plain["llc_mean"].sizes) == {"lr": 2, "n_beta": 2, "localization": 1}
    np.testing.assert_array_equal(summary["llc_mean"].sel(batch_size=4), plain["llc_mean"])
    for refused in (tree.devinterp.llc, lambda: compute_temperature(tree)):
        with pytest.raises(SettingError, match="varies batch_size as well"):
            refused()
    found = tree.devinterp.recommend()
    assert found.cell in tree.children
    assert isinstance(found.settings["batch_size"], int)
    assert {n.differs for n in found.neighbours} >= {"batch_size"}
    assert summary.sel(batch_size=2).devinterp.recommend().settings["batch_size"] == 2


def test_settings_of_rmsprop_are_axes_and_every_one_is_what_its_cells_were_sampled_with():
    grid = {"lr": [1e-4], "n_beta": [30.0], "rmsprop_eps": [0.01, 0.1], "rmsprop_alpha": [0.9, 0.99]}
    tree = swept(grid=grid, localization=10.0, sampling_method="rmsprop_sgld", control=False, extend=0)
    for name, cell in tree.children.items():
        sampler = cell.attrs["metadata"]["config"]["sampler"]
        assert f"rmsprop_eps={sampler['rmsprop_eps']},rmsprop_alpha={sampler['rmsprop_alpha']}" in name
    summary = tree.devinterp.sweep()
    assert summary["llc_mean"].dims == ("rmsprop_eps", "rmsprop_alpha", "lr", "n_beta", "localization")
    assert len(np.unique(summary["llc_mean"].values)) == 4


def test_axes_of_another_sweep_are_refused_and_further_values_added(batches, tmp_path):
    path, tree = shutil.copytree(batches[0], tmp_path / "s.zarr"), batches[1]
    with pytest.raises(StoreConflictError, match="other axes"):
        swept(path)
    more = swept(path, grid={**GRID, "batch_size": [2, 4, 6]})
    assert {*tree.children} < {*more.children}
    assert devinterp.validate(path).ok


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": {**GRID, "batch_size": [2, 3]}}, "multiples of batch_size = 2"),
        ({"grid": {**GRID, "batch_size": [2, 2.5]}}, "batch_size must be an integer"),
        ({"grid": {**GRID, "batch_size": [2, 4]}, "gradient_accumulation_steps": 2}, "Leave one of them out"),
        ({"grid": {**GRID, "rmsprop_eps": [0.1]}}, "no meaning for sampling_method='sgmcmc_sgld'"),
        ({"grid": {**GRID, "rmsprop_eps": [None]}, "sampling_method": "rmsprop_sgld"}, "must be numbers"),
    ],
)
def test_values_that_do_not_go_together_are_refused(changes, message):
    settings = {k: v for k, v in SETTINGS.items() if k not in changes["grid"]}
    with pytest.raises(SettingError, match=message):
        sweep(build_model(), TRAIN, OBSERVABLES, **{**PILOT, **settings, **changes})


def test_a_cell_that_diverges_ends_early_and_is_no_error(tmp_path):
    tree = swept(tmp_path / "s.zarr", grid={**GRID, "lr": [1e-3, 1e3]}, pilot_draws=3, num_draws=6)
    summary = tree.devinterp.sweep()
    lost = summary.sel(lr=1e3, n_beta=30.0, localization=10.0)
    assert str(lost["verdict"].values) == "diverged"
    assert int(lost["num_chains"]) == 0
    assert int(lost["num_draws"]) == 3, "it was not extended"
    assert lengths(tree)["lr=0.001,n_beta=30,localization=10"] == (2, 6)
    assert devinterp.validate(tmp_path / "s.zarr").ok


def test_a_sweep_of_which_everything_diverged_is_complete_all_the_same(tmp_path):
    tree = swept(tmp_path / "s.zarr", grid={**GRID, "lr": [1e3]}, control=False)
    assert tree.attrs["completed"] == 1
    assert not tree.devinterp.recommend().good


def test_losses_that_are_finite_but_too_large_to_be_averaged_end_a_chain():
    model = Replicas({"w": np.zeros(1)}, [lambda w: 5 * (w**2).sum(1)], 512)
    grid = {"lr": [0.01, 1.0], "n_beta": [1.0], "localization": [0.0]}
    tree = sweep(
        **run_arguments(model, ["loss"]), grid=grid, control=False, num_draws=100, pilot_draws=100, progress=False
    )
    lost = tree["lr=1,n_beta=1,localization=0"]
    assert {c["reason"] for c in lost.attrs["metadata"]["run"]["chains"]} == {
        "the loss on the sampling dataset is not finite"
    }
    assert np.isfinite(lost["step_loss"].values[0, : int(lost["draws_written"][0])]).all()


def test_initial_losses_are_computed_once(monkeypatch):
    calls = []
    for name in ("initial_losses", "observable_initial_losses"):
        real = getattr(initial_arrays, name)
        monkeypatch.setattr(initial_arrays, name, lambda *a, real=real, name=name: calls.append(name) or real(*a))
    swept(pilot_chains=2)
    assert sorted(calls) == ["initial_losses", "observable_initial_losses"]


def test_the_same_call_returns_what_is_there(whole):
    (path, tree), events = whole, []
    again = swept(path, progress=events.append)
    assert not events
    xr.testing.assert_identical(tree.copy().load(), again.load())


def test_an_interrupted_sweep_goes_on_in_either_stage(whole, tmp_path):
    _, uninterrupted = whole

    class Interruption(Exception):
        pass

    for stop in (3, 9):  # in a pilot; while a cell is extended
        path, events = tmp_path / f"{stop}.zarr", []

        def strike(event, events=events, stop=stop):
            events.append(event)
            if len(events) == stop:
                raise Interruption

        with pytest.raises(Interruption):
            swept(path, progress=strike, checkpoint_every=1)
        assert json.loads((path / "zarr.json").read_text())["attributes"]["completed"] == 0
        resumed = swept(path)
        assert lengths(resumed) == lengths(uninterrupted)
        for name, cell in uninterrupted.children.items():
            for variable, values in cell.data_vars.items():
                np.testing.assert_array_equal(
                    resumed[name][variable].values, values.values, err_msg=f"{name} {variable}"
                )


def test_further_values_are_added_and_nothing_is_sampled_again(whole, tmp_path):
    path, before = shutil.copytree(whole[0], tmp_path / "s.zarr"), whole[1]
    kept = {name: digests(path, name) for name in before.children}
    more = swept(path, grid={**GRID, "lr": [3e-4]}, extend=0)
    cells = [tree.attrs["metadata"]["config"]["cells"] for tree in (before, more)]
    assert cells[1][:4] == cells[0]
    assert more.sizes["cell"] == 6
    assert {name: digests(path, name) for name in before.children} == kept
    for name, cell in before.children.items():  # when, where and how long they were sampled, too
        assert more[name].attrs["metadata"]["run"] == cell.attrs["metadata"]["run"]
    assert devinterp.validate(path).ok
    assert more.devinterp.sweep()["lr"].values.tolist() == [1e-4, 3e-4, 1e-3]


def test_more_cells_are_extended_later_where_the_states_were_kept(whole, tmp_path):
    path = tmp_path / "s.zarr"
    swept(path, keep_state=True)
    tree = swept(path, extend=2, keep_state=True)
    assert sorted(lengths(tree).values()) == [(1, 2), (1, 2), (2, 4), (2, 4)]
    fresh = swept(extend=2)
    for name in fresh.children:
        np.testing.assert_array_equal(tree[name]["loss_train"].values, fresh[name]["loss_train"].values)
    forgotten = shutil.copytree(whole[0], tmp_path / "forgotten.zarr")
    with pytest.raises(StoreConflictError, match="did not keep the states"):
        swept(forgotten, extend=2)


def test_chains_elsewhere_give_the_same(whole, tmp_path):
    with ThreadPoolExecutor(2) as executor:
        tree = swept(tmp_path / "s.zarr", chain_method="parallel", executor=executor)
    _, here = whole
    assert lengths(tree) == lengths(here)
    for name in here.children:
        np.testing.assert_array_equal(tree[name]["loss_train"].values, here[name]["loss_train"].values)


def test_time_is_counted_over_both_stages(pilot, tmp_path):
    path, tree = shutil.copytree(pilot[0], tmp_path / "s.zarr"), pilot[1]
    before = tree.devinterp.sweep()["seconds"]
    assert (before > 0).all()
    longer = swept(path, keep_state=True).devinterp.sweep()["seconds"]
    assert (longer >= before).all()
    assert float(longer.sum()) > float(before.sum())


def test_time_that_the_disk_took_at_a_chains_end_is_not_forgotten(pilot, tmp_path):
    path, before = shutil.copytree(pilot[0], tmp_path / "s.zarr"), pilot[1]
    for name in before.children:
        chains = before[name].sizes["chain"]
        StoreEditor(path).set_attribute(name, "metadata.run.seconds", [100.0] * chains)
    after = swept(path, keep_state=True)
    assert (after.devinterp.sweep()["seconds"] >= 100).all()


def test_another_model_or_dataset_is_refused(whole):
    with pytest.raises(StoreConflictError, match="weights"):
        sweep(build_model(7), TRAIN, OBSERVABLES, output_path=whole[0], grid=GRID, **PILOT, **SETTINGS)


BAD = {
    "no grid": {"grid": {}},
    "no mapping": {"grid": [1e-3]},
    "a setting that is not swept": {"grid": {**GRID, "noise_level": [1.0]}},
    "a value twice": {"grid": {**GRID, "lr": [1e-3, 1e-3]}},
    "a value that is none": {"grid": {**GRID, "lr": ["fast"]}},
    "a negative value": {"grid": {**GRID, "n_beta": [-1.0]}},
    "no values": {"grid": {**GRID, "lr": []}},
    "one value, not in a list": {"grid": {**GRID, "lr": 1e-3}},
    "a setting twice": {"lr": 1e-3},
    "a setting nowhere": {"grid": {"lr": [1e-3]}},
    "an unknown argument": {"temperature": 3},
    "a bad number of cells": {"extend": -1},
    "a bad pilot": {"pilot_draws": 0},
    "an unknown sampling task": {"sampling_task": "trian"},
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_clear_error_and_leaves_nothing_behind(kind, tmp_path):
    with pytest.raises(SettingError):
        swept(tmp_path / "s.zarr", **BAD[kind])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("parameters", "keywords"),
    [
        (10**5, {}),
        (7 * 10**7, {"num_draws": 10}),
        (10**9, {"lr": 1e-2}),
        (10**6, {"lr": 1.0}),
        (10**6, {"localization": 5000.0}),
        (10**6, {"sampling_method": "rmsprop_sgld", "rmsprop_eps": 0.1}),
        (10**6, {"llc_weight_decay": 300.0, "n_beta": 5.0}),
    ],
)
def test_the_default_grid_is_of_steps_that_are_short_enough(parameters, keywords):
    axes = _default_grid(parameters, keywords)
    assert set(axes) | set(keywords) >= {"lr", "n_beta", "localization"}
    assert not set(axes) & set(keywords)
    for lr in axes.get("lr", [keywords.get("lr")]):
        for localization in axes.get("localization", [keywords.get("localization")]):
            found = least_inflation({**keywords, "lr": lr, "localization": localization})
            assert found <= LARGEST_INFLATION
    assert set(axes.get("n_beta", [])) <= {10.0, 30.0, 100.0}


def test_without_a_grid_the_default_one_is_sampled_and_keywords_are_not_varied():
    tree = swept(grid=None, lr=1e-4, localization=10.0, extend=0)
    assert [f"{n:g}" for n in tree["n_beta"].values] == ["0", "10", "30", "100"]
    with pytest.raises(SettingError, match="nothing to vary"):
        swept(grid=None, lr=1e-4, localization=10.0, n_beta=1.0)


def test_a_step_of_zero_is_a_control_that_is_neither_recommended_nor_extended():
    tree = swept(grid={**GRID, "lr": [0.0, 1e-4]})
    summary = tree.devinterp.sweep()
    assert (summary["verdict"].sel(lr=0.0) == "control").all()
    assert (summary["rise"].sel(lr=0.0) == 0).all()
    assert tree.devinterp.recommend().settings["lr"] == 1e-4
    assert {length for name, length in lengths(tree).items() if name.startswith("lr=0,")} == {(1, 2)}


def test_a_setting_that_does_not_vary_is_a_keyword():
    tree = swept(grid={"lr": [1e-3]}, n_beta=30.0, control=False, extend=0)
    assert list(tree.children) == ["lr=0.001,n_beta=30,localization=0"]
