from __future__ import annotations

import shutil
from pathlib import Path

import lifelike
import numpy as np
import pytest
import xarray as xr
import zarr
from extras import needing
from masked import ALL, SIZES

from devinterp.errors import StoreError, StoreLockedError
from devinterp.schema.validation import validate
from devinterp.store import locate, open_run, open_store
from devinterp.store.lock import LOCK_KEY, WriterLock
from devinterp.store.reading.status import ChainStatus, RunStatus
from devinterp.store.repair.apply import _completed, apply_repair, undo_repair
from devinterp.store.repair.repair_plan import plan_repair
from devinterp.testing import make_store, make_tree

SMALL = {"chains": 2, "draws": 60, "rows": 2, "observables": ("code",)}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return lifelike.make_samples(tmp_path_factory.mktemp("repair") / "run.zarr", **SMALL)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return lifelike.make_study(tmp_path_factory.mktemp("repair") / "study.zarr", ["full", "l0 attn"], **SMALL)


@pytest.fixture
def copy(tmp_path):
    def make(store):
        return Path(shutil.copytree(store, tmp_path / "copy.zarr"))

    return make


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0x10
    path.write_bytes(raw)


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_whole_store_needs_nothing(samples):
    assert plan_repair(samples).nothing


@pytest.mark.parametrize("harm", [Path.unlink, flip], ids=["missing", "flipped"])
def test_a_lost_chunk_ends_its_chain_before_it_and_the_store_is_valid_again(samples, copy, harm):
    store = copy(samples)
    harm(store / "loss_code/c/1/1/0/0")
    before = xr.open_datatree(samples, engine="zarr")
    plan = plan_repair(store)
    (loss,) = plan.chains
    assert (loss.chain, loss.draws_before, loss.draws_after) == (1, 60, 50)
    assert list(loss.keys) == ["loss_code/c/1/1/0/0"]
    apply_repair(plan)
    report = validate(store)
    assert report.ok, str(report)
    assert plan_repair(store).nothing
    tree = xr.open_datatree(store, engine="zarr")
    assert tree["draws_written"].values.tolist() == [60, 50]
    state = tree.attrs["metadata"]["run"]["chains"][1]
    assert state["status"] == "failed"
    assert "loss_code/c/1/1/0/0" in state["reason"]
    for name in ("loss_code", "sampling_loss"):
        np.testing.assert_array_equal(tree[name][0], before[name][0])
        np.testing.assert_array_equal(tree[name][1, :50], before[name][1, :50])
    assert np.isnan(tree["loss_code"][1, 50:]).all()
    for name in set(tree.data_vars) - {"loss_code", "draws_written"}:  # what can be read stays
        np.testing.assert_array_equal(tree[name], before[name])


def test_lost_steps_cost_the_draws_that_they_led_to(samples, copy):
    store = copy(samples)
    (store / "metrics_noise/c/0/1").unlink()  # steps 50 to 99; burn-in 10, two steps for each draw
    (loss,) = plan_repair(store).chains
    assert loss.draws_after == 20


def test_a_study_keeps_its_other_runs(study, copy):
    store = copy(study)
    (store / "l0 attn/sampling_loss/c/0/0/0/0").unlink()
    plan = plan_repair(store)
    assert [(x.group, x.chain, x.draws_after) for x in plan.chains] == [("/l0 attn", 0, 0)]
    apply_repair(plan)
    assert validate(store).ok
    tree = xr.open_datatree(store, engine="zarr")
    assert tree["full/draws_written"].values.tolist() == [60, 60]
    assert tree["l0 attn/draws_written"].values.tolist() == [0, 60]


def test_what_follows_from_the_rest_is_written_again(samples, copy):
    store = copy(samples)
    for name in ("n_beta/c", "draws_written/c/0"):
        (store / name).unlink()
    apply_repair(plan_repair(store))
    repaired = {p: raw for p, raw in content(store).items() if not p.as_posix().startswith(".devinterp")}
    assert repaired == content(samples)


def test_reopened_and_sampled_again_the_store_is_the_same_to_the_byte(samples, copy):
    store = copy(samples)
    flip(store / "loss_code/c/1/1/0/0")
    (store / "init_loss/c/0/0").unlink()
    plan = plan_repair(store)
    assert list(plan.recomputed) == ["init_loss"]
    with pytest.raises(StoreError, match="init_loss cannot be mended"):
        apply_repair(plan)
    apply_repair(plan, reopen=True)
    with open_run(store, {"/": lifelike.request(**SMALL)}) as run:
        assert run.remaining() == [("/", 1)]
        engine = lifelike.Engine(run, "/", scale=0.02, seed=1)
        assert "init_loss" in run.unwritten("/")
        engine.write_fixed()
        engine.run_chain(1)
        run.complete()
    assert content(store) == content(samples)


def test_an_interrupted_run_forgets_what_it_lost_and_keeps_the_rest(tmp_path):
    store, request = tmp_path / "run.zarr", lifelike.request(**{**SMALL, "draws": 120})
    with open_run(store, {"/": request}) as run:
        engine = lifelike.Engine(run, "/", scale=0.02, seed=1)
        engine.write_fixed()
        for chain in (0, 1):
            engine.run_chain(chain, stop_at=110, status="interrupted")
        run.publish()
    (store / "loss_code/c/1/0/0/0").unlink()
    (store / "loss_code/c/0/zarr.5f.partial").touch()
    plan = plan_repair(store)
    assert not plan.completed
    assert [loss.chain for loss in plan.chains] == [1]
    assert plan.leftovers == ("loss_code/c/0/zarr.5f.partial",)
    apply_repair(plan)
    assert plan_repair(store).nothing
    with open_run(store, {"/": request}) as run:
        assert run.writer("/", 0)[0].progress.draws == 100  # its checkpoint stands
        assert run.writer("/", 1)[0].progress.draws == 0


def test_a_damaged_checkpoint_is_found_and_dropped(tmp_path):
    store, request = tmp_path / "run.zarr", lifelike.request(**{**SMALL, "draws": 120})
    with open_run(store, {"/": request}) as run:
        engine = lifelike.Engine(run, "/", scale=0.02, seed=1)
        engine.write_fixed()
        engine.run_chain(0, stop_at=70, status="interrupted")
        run.publish()
    state = store / ".devinterp/chain-0000.state"
    state.write_bytes(state.read_bytes()[:-1])
    apply_repair(plan_repair(store))
    assert not state.exists()
    with open_run(store, {"/": request}) as run:
        assert run.writer("/", 0)[0].progress.draws == 0


def test_a_store_that_is_being_written_is_left_alone(samples, copy):
    store = copy(samples)
    (store / "loss_code/c/1/1/0/0").unlink()
    plan, before = plan_repair(store), content(store)
    with WriterLock(locate(store, mode="w"), LOCK_KEY), pytest.raises(StoreLockedError):
        apply_repair(plan)
    assert content(store) == before


def test_a_killed_repair_leaves_no_store_that_looks_whole(samples, copy, monkeypatch):
    store = copy(samples)
    (store / "loss_code/c/1/1/0/0").unlink()
    plan = plan_repair(store)
    monkeypatch.setattr("devinterp.store.repair.apply._blank", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        apply_repair(plan)
    assert zarr.open_group(store, mode="r").attrs["completed"] == 0
    with pytest.raises(StoreError, match="was killed before its end"):
        plan_repair(store)
    undo_repair(store)
    assert plan_repair(store).chains == plan.chains


def test_results_and_damaged_metadata_are_refused(reference, samples, copy):
    with pytest.raises(StoreError, match="no run to repair"):
        plan_repair(reference / "llc.zarr")
    store = copy(samples)
    (store / "loss_code/zarr.json").write_text("{")
    with pytest.raises(StoreError, match="loss_code"):
        plan_repair(store)


@pytest.mark.parametrize("selection", [{"draw": slice(None, None, -1)}, {"chain": [1]}, {"draw": [4]}], ids=str)
def test_of_a_part_of_a_run_nothing_is_repaired(tmp_path, selection):
    part = make_tree(failed={1: 3}, parameters={"num_chains": 2, "num_draws": 8}).isel(selection)
    part.devinterp.save(tmp_path / "part.zarr")
    next((tmp_path / "part.zarr/sampling_loss/c").glob("*/*/0/0")).unlink()
    with pytest.raises(StoreError, match=r"holds a part of a run.*metadata.selection of /"):
        plan_repair(tmp_path / "part.zarr")


PLACES = {
    "memory": lambda _: zarr.storage.MemoryStore(),
    "fsspec": lambda _: "memory://repaired.zarr",
    "UPath": lambda folder: pytest.importorskip("upath").UPath(folder / "s.zarr"),
    "obstore": lambda _: zarr.storage.ObjectStore(pytest.importorskip("obstore.store").MemoryStore()),
}


@pytest.mark.parametrize("place", needing("fsspec", PLACES))
def test_wherever_a_store_lies_a_repair_ends_the_chain_and_is_taken_back(tmp_path, place):
    store = make_store(PLACES[place](tmp_path), parameters={"num_chains": 2, "num_draws": 60})
    location, key = locate(store, mode="w"), "sampling_loss/c/1/1/0/0"
    location.delete(key)
    plan = plan_repair(store)
    assert [(loss.chain, loss.draws_after) for loss in plan.chains] == [(1, 50)]
    apply_repair(plan)
    assert validate(store).ok
    undo_repair(store)
    assert not location.exists(key)
    assert plan_repair(store).chains == plan.chains


@pytest.mark.parametrize("reopen", [False, True])
@pytest.mark.parametrize("harm", [Path.unlink, flip], ids=["missing", "flipped"])
def test_a_repair_can_be_taken_back_to_the_byte(study, copy, harm, reopen):
    store = copy(study)
    for key in ("full/loss_code/c/1/1/0/0", "l0 attn/draws_written/c/0", "l0 attn/n_beta/c"):
        harm(store / key)
    before = content(store)
    apply_repair(plan_repair(store), reopen=reopen)
    assert content(store) != before
    did = undo_repair(store)
    assert any("full/loss_code/c/1/1/0/0" in line for line in did)
    assert content(store) == before
    with pytest.raises(StoreError, match="No repair"):
        undo_repair(store)


@pytest.mark.parametrize("harm", [Path.unlink, flip], ids=["gone", "flipped"])
def test_where_what_was_kept_is_lost_itself_nothing_is_put_back(samples, copy, harm):
    store = copy(samples)
    for key in ("loss_code/c/1/1/0/0", "sampling_loss/c/0/0/0/0"):
        flip(store / key)
    apply_repair(plan_repair(store))
    kept = [p for p in (store / ".devinterp").rglob("*") if p.is_file() and p.name != "record.json"]
    for path in kept:
        harm(path)
        before = content(store)
        with pytest.raises(StoreError, match="gone or damaged"):
            undo_repair(store)
        assert content(store) == before


@pytest.mark.parametrize("states", [None, [], [{"status": "complete"}], ["complete", "complete"]])
def test_a_store_that_says_nothing_of_its_chains_is_refused_before_anything_is_written(samples, copy, states):
    store = copy(samples)
    (store / "loss_code/c/1/1/0/0").unlink()
    root = zarr.open_group(store, mode="r+")
    metadata = root.attrs["metadata"]
    metadata["run"] = {**metadata["run"], "chains": states}
    root.attrs["metadata"] = metadata
    before = content(store)
    with pytest.raises(StoreError, match="how its chains ended"):
        plan_repair(store)
    assert content(store) == before


def test_a_session_of_icechunk_is_looked_at_and_not_changed(samples):
    icechunk = pytest.importorskip("icechunk")
    session = icechunk.Repository.create(icechunk.in_memory_storage()).writable_session("main")
    open_store(samples).load().devinterp.save(session.store)
    assert plan_repair(session.store).nothing
    location = locate(session.store, mode="w")
    location.delete("loss_code/c/1/1/0/0")
    before = {key: location.get(key) for key in location.list_keys()}
    plan = plan_repair(session.store)
    assert [loss.chain for loss in plan.chains] == [1]
    with pytest.raises(StoreError, match="takes no key beside"):
        apply_repair(plan)
    assert {key: location.get(key) for key in location.list_keys()} == before


def test_two_repairs_are_taken_back_one_after_the_other(samples, copy):
    store = copy(samples)
    states = []
    for key in ("loss_code/c/1/1/0/0", "loss_code/c/0/1/0/0"):
        (store / key).unlink()
        states.append(content(store))
        apply_repair(plan_repair(store))
    undo_repair(store)
    assert content(store) == states[1]
    (store / "loss_code/c/0/1/0/0").write_bytes((samples / "loss_code/c/0/1/0/0").read_bytes())
    undo_repair(store)
    (store / "loss_code/c/0/1/0/0").unlink()
    assert {**content(store), Path("loss_code/c/0/1/0/0"): b""} == {**states[0], Path("loss_code/c/0/1/0/0"): b""}


def test_once_the_run_has_gone_on_nothing_is_taken_back(samples, copy):
    store = copy(samples)
    flip(store / "loss_code/c/1/1/0/0")
    apply_repair(plan_repair(store), reopen=True)
    with open_run(store, {"/": lifelike.request(**SMALL)}) as run:
        engine = lifelike.Engine(run, "/", scale=0.02, seed=1)
        engine.run_chain(1, stop_at=20, status="interrupted")
    with pytest.raises(StoreError, match="can no longer be taken back"):
        undo_repair(store)
    with open_run(store, {"/": lifelike.request(**SMALL)}) as run:
        lifelike.Engine(run, "/", scale=0.02, seed=1).run_chain(1)
        run.complete()
    with pytest.raises(StoreError, match="No repair"):
        undo_repair(store)
    assert content(store) == content(samples)


@pytest.mark.parametrize(("step", "draws"), [(0, 0), (3, 0), (4, 1), (5, 1), (6, 2), (12, 5), (13, 5)])
def test_the_draw_before_which_a_chain_failed_counts(step, draws):
    # Draws at the steps 3, 5, 7, 9 and 11: a chain that failed at step 4 had taken the first.
    sampler = {"num_burnin_steps": 3, "num_steps_bw_draws": 2, "num_draws": 5}
    metadata = {"config": {"sampler": sampler}, "run": {"chains": [{"status": "failed", "step": step}]}}
    (chain,) = _completed(RunStatus("/", metadata, (ChainStatus(0, 0, "failed"),))).chains
    assert (chain.status, chain.draws) == ("failed", draws)


@pytest.mark.parametrize(
    "lost", ["mask_sampling/c/1/0/0/0", "sampling_loss/c/1/0/0/0", "mask_sampling_micro/c/1/0/0/0"]
)
def test_what_is_lost_of_a_masked_run_ends_its_chain_and_what_stands_is_valid(lost, tmp_path):
    store = tmp_path / "masked.zarr"
    make_store(store, "samples", optional=ALL, seed=5, **SIZES)
    (store / lost).unlink()
    apply_repair(plan_repair(store))
    assert validate(store).ok, str(validate(store))
    repaired = xr.open_datatree(store, engine="zarr")
    assert repaired["draws_written"].values.tolist() == [12, 0]
