from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import xarray as xr
from made_runs import fail_chain, make_study, to_store

from devinterp.errors import (
    ChainFailedWarning,
    DataError,
    IncompleteStoreError,
    MissingVariableError,
    ProvenanceError,
    SettingError,
)
from devinterp.schema import validate
from devinterp.slt import susceptibilities as module
from devinterp.slt.runs.results import told
from devinterp.slt.susceptibilities import compute_susceptibilities


def by_hand(study, name, probe, *, task="train", init=None, chains=slice(None), full_chains=slice(None)):
    """The estimator as it is documented, in float64."""
    run, full = study[name], study["full"]
    u = run[f"loss_{task}"].values[chains].astype(np.float64).mean(axis=(2, 3))
    loss = run[f"loss_{probe}"].values[chains].astype(np.float64)
    init = full["init_loss"].values[full_chains].astype(np.float64).mean() if init is None else init
    phi = u - init
    full_u = full[f"loss_{task}"].values[full_chains].astype(np.float64).mean()
    full_loss = full[f"loss_{probe}"].values[full_chains].astype(np.float64).mean(axis=(0, 1))
    cov = ((phi - phi.mean()) * u).mean() - np.einsum("cd,cdbt->bt", phi - phi.mean(), loss) / phi.size
    shift = phi.mean() * (u.mean() - loss.mean(axis=(0, 1)) - full_u + full_loss)
    return cov.ravel(), shift.ravel()


def column(result, name, variable="sus"):
    return result["susceptibilities"][variable].sel(wr=name).values


@pytest.mark.parametrize("opened", ["lazy", pytest.param("dask", marks=pytest.mark.needs("dask")), "memory"])
def test_equals_the_peers_stored_result(reference, opened):
    runs = {
        n: xr.open_datatree(reference / f"{n}.zarr", engine="zarr", consolidated=False)
        for n in ("full", "l0h0", "l1h2")
    }
    if opened == "dask":
        runs = {name: tree.chunk(chain=1, draw=2) for name, tree in runs.items()}
    if opened == "memory":
        runs = {name: tree.load() for name, tree in runs.items()}
    expected = xr.open_datatree(reference / "susceptibilities.zarr", engine="zarr", consolidated=False)
    result = compute_susceptibilities(runs, "train")
    for group in ("susceptibilities", "context"):
        assert set(result[group].variables) == set(expected[group].variables)
        assert result[group].attrs["dataset_id_to_name"] == expected[group].attrs["dataset_id_to_name"]
        for name, variable in expected[group].variables.items():
            if name == "wr":
                assert result[group][name].values.tolist() == variable.values.tolist()
            else:
                np.testing.assert_allclose(result[group][name], variable, atol=1e-5, rtol=0)
    assert result["susceptibilities/sus"].dtype == np.float32
    assert validate(result).ok


def test_terms_add_up_to_the_documented_estimator():
    study = make_study()
    result = compute_susceptibilities(study, terms=True)
    size = 0.0
    for name in ("l0h0", "l1h2"):
        terms = [by_hand(study, name, probe) for probe in ("code", "math")]
        cov, shift = (np.concatenate(parts) for parts in zip(*terms, strict=True))
        size = max(size, np.abs(cov + shift).max())
        np.testing.assert_allclose(column(result, name), cov + shift, atol=1e-5 * size)
        np.testing.assert_allclose(column(result, name, "sus_cov"), cov, atol=1e-5 * size)
        np.testing.assert_allclose(column(result, name, "sus_shift"), shift, atol=1e-5 * size)
    assert "sus_cov" not in compute_susceptibilities(study)["susceptibilities"]
    assert result["susceptibilities/sus"].attrs["units"] == "nat^2"


def test_large_losses_keep_their_precision():
    study = make_study()
    for run in study.children.values():
        run["loss_code"].values[...] += 500
    cov, shift = by_hand(study, "l0h0", "code")
    found = column(compute_susceptibilities(study, observable_names=["code"]), "l0h0")
    np.testing.assert_allclose(found, cov + shift, rtol=1e-5, atol=1e-7)


def test_baseline_observable_takes_the_rows_own_start():
    study = make_study()
    result = compute_susceptibilities(study, baseline="observable")
    init = study["full"]["init_loss_train"].values.astype(np.float64).mean()
    cov, shift = by_hand(study, "l1h2", "code", init=init)
    np.testing.assert_allclose(column(result, "l1h2")[: cov.size], cov + shift, atol=1e-6)
    assert result["susceptibilities"].attrs["baseline"] == "observable"


def test_probes_are_sorted_or_in_the_order_given():
    study = make_study()
    names = lambda **o: compute_susceptibilities(study, **o)["context"].attrs["dataset_id_to_name"]  # noqa: E731
    assert names() == ["code", "math"]
    assert names(include_sampling_task=True) == ["code", "math", "train"]
    assert names(observable_names=["train", "code"]) == ["train", "code"]
    result = compute_susceptibilities(study, observable_names=["math", "code"])
    ids = [study["full"][f"input_ids_{n}"].values.ravel() for n in ("math", "code")]
    np.testing.assert_array_equal(result["context/input_ids"], np.concatenate(ids))


def test_restrictions_keep_the_order_that_the_study_records():
    study = make_study(("l1h2", "full", "b", "a"))
    assert compute_susceptibilities(study)["susceptibilities"]["wr"].values.tolist() == ["l1h2", "b", "a"]
    mapping = {name: study[name] for name in ("a", "full", "b")}
    assert compute_susceptibilities(mapping, "train")["susceptibilities"]["wr"].values.tolist() == ["a", "b"]


@pytest.mark.parametrize("draws", [7, 16, 40])
@pytest.mark.parametrize("se", [False, True])
def test_a_store_gives_the_same_as_memory_and_stays_unloaded(tmp_path, draws, se):
    study = make_study()
    stored = to_store(study, tmp_path / "study.zarr", draws=draws)
    result, expected = (compute_susceptibilities(s, se=se, terms=True) for s in (stored, study))
    for name in ("susceptibilities", "context"):
        xr.testing.assert_allclose(result[name].to_dataset(), expected[name].to_dataset(), rtol=1e-5, atol=1e-9)
        assert result[name].attrs == expected[name].attrs
    assert not any(v.variable._in_memory for n, v in stored["l0h0"].data_vars.items() if n.startswith("loss_"))


def test_failed_chains_are_left_out_of_their_own_run_only():
    study = make_study()
    study["l0h0"] = fail_chain(study["l0h0"], 0, 9)
    study["full"] = fail_chain(study["full"], 2, 11)
    with pytest.warns(ChainFailedWarning) as caught:
        result = compute_susceptibilities(study)
    assert [str(w.message)[:50] for w in caught] == [
        "1 of 3 chains of the run 'full' left out (chain 2:",
        "1 of 3 chains of the run 'l0h0' left out (chain 0:",
    ]
    attrs = result["susceptibilities"].attrs
    assert told(attrs, "chains_excluded") == {"full": [2], "l0h0": [0], "l1h2": []}
    assert told(attrs, "n_chains_used") == {"full": 2, "l0h0": 2, "l1h2": 3}
    cov, shift = by_hand(study, "l0h0", "code", chains=[1, 2], full_chains=[0, 1])
    np.testing.assert_allclose(column(result, "l0h0")[: cov.size], cov + shift, atol=1e-6)


@pytest.mark.parametrize("where", ["task", "probe"])
@pytest.mark.parametrize("dask", [False, pytest.param(True, marks=pytest.mark.needs("dask"))])
def test_a_chain_that_is_not_finite_is_found_where_the_store_does_not_tell(where, dask):
    study = make_study()
    study["l0h0"][f"loss_{'train' if where == 'task' else 'code'}"].values[0, 3:] = np.nan
    source = study.chunk(chain=1, draw=8) if dask else study
    with pytest.warns(ChainFailedWarning, match="chain 0: no loss at draw 3, though the chain is recorded as complete"):
        result = compute_susceptibilities(source)
    cov, shift = by_hand(study, "l0h0", "code", chains=[1, 2])
    np.testing.assert_allclose(column(result, "l0h0")[: cov.size], cov + shift, atol=1e-6)


@pytest.mark.parametrize("dask", [False, pytest.param(True, marks=pytest.mark.needs("dask"))])
def test_allow_partial_uses_the_draws_that_all_chains_have(dask):
    study = make_study()
    study["l0h0"] = fail_chain(study["l0h0"], 0, 9)
    source = study.chunk(chain=1, draw=8) if dask else study
    result = compute_susceptibilities(source, allow_partial=True)
    short = study.copy()
    short["l0h0"] = xr.DataTree(study["l0h0"].to_dataset().isel(draw=slice(0, 9)))
    cov, shift = by_hand(short, "l0h0", "code")
    np.testing.assert_allclose(column(result, "l0h0")[: cov.size], cov + shift, atol=1e-6)


def test_selections_work():
    study = make_study().isel(draw=slice(8, None), chain=[0, 2], batch_code=[1, 2])
    cov, shift = by_hand(study, "l1h2", "code")
    np.testing.assert_allclose(column(compute_susceptibilities(study), "l1h2")[: cov.size], cov + shift, atol=1e-6)


def test_results_survive_a_store_identically(tmp_path):
    result = compute_susceptibilities(make_study(("full", "head 0.1", "ü")), terms=True, se=True)
    result.to_zarr(tmp_path / "sus.zarr", consolidated=False, zarr_format=3)
    back = xr.open_datatree(tmp_path / "sus.zarr", engine="zarr", consolidated=False)
    assert back.identical(result)
    assert validate(tmp_path / "sus.zarr").ok
    assert compute_susceptibilities(make_study(("full", "head 0.1", "ü")), terms=True, se=True).identical(result)


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (("provenance", "weights"), "other", "provenance.weights"),
        (("provenance", "loss"), {"name": "mine", "source": "x"}, "provenance.loss"),
        (("provenance", "mode"), "eval", "provenance.mode"),
        (("provenance", "dataset"), {"rows": "zz", "length": 9}, "provenance.dataset"),
        (("provenance", "observables"), {"code": "zz"}, "provenance.observables.code"),
        (("provenance", "visited"), {"rows": "zz", "count": 40}, "provenance.visited.rows"),
        (("config", "sampler", "n_beta"), 31.0, "n_beta is? of 'l0h0' is 31.0, of 'full' 30.0|n_beta"),
        (("config", "sampler", "localization"), 11.0, "localization"),
        (("config", "sampler", "noise_level"), 0.5, "noise_level"),
        (("config", "sampler", "llc_weight_decay"), 0.1, "llc_weight_decay"),
    ],
)
def test_runs_of_another_origin_are_refused_and_each_difference_named(path, value, match):
    study = make_study()
    for run in study.children.values():
        run.attrs["metadata"]["provenance"] = {
            "weights": "abc",
            "loss": {"name": "nll", "source": "y"},
            "mode": "train",
            "dataset": {"rows": "aa", "length": 9},
            "observables": {"code": "c", "math": "m"},
            "visited": {"rows": "vv", "count": 40},
            "masks": str(id(run)),
        }
        run.attrs["metadata"]["config"]["sampler"] |= {"noise_level": 1.0, "llc_weight_decay": 0.0}
    compute_susceptibilities(study)
    where = study["l0h0"].attrs["metadata"]
    for key in path[:-1]:
        where = where[key]
    where[path[-1]] = value
    study["l1h2"].attrs["metadata"]["provenance"]["mode"] = "eval"
    with pytest.raises(ProvenanceError, match=match) as error:
        compute_susceptibilities(study)
    assert "'l1h2'" in str(error.value)


def test_a_run_that_is_longer_visits_more_rows_and_another_seed_other_rows():
    study = make_study()
    for run in study.children.values():
        run.attrs["metadata"]["provenance"] = {"visited": {"rows": "vv", "count": 40}}
    study["l0h0"].attrs["metadata"]["provenance"]["visited"] = {"rows": "ww", "count": 60}
    study["l1h2"].attrs["metadata"]["provenance"]["visited"] = {"rows": "zz", "count": 40}
    study["l1h2"].attrs["metadata"]["config"]["sampler"]["init_seed"] = 7
    assert "own_settings" not in compute_susceptibilities(study)["susceptibilities"].attrs
    study["l0h0"].attrs["metadata"]["config"]["sampler"]["lr"] = 2.0
    own = told(compute_susceptibilities(study)["susceptibilities"].attrs, "own_settings")
    assert own.keys() == {"lr"}
    assert own["lr"]["l0h0"] == 2.0
    assert own["lr"]["full"] == own["lr"]["l1h2"] != 2.0


def test_what_is_not_recorded_is_not_compared():
    study = make_study()
    study["l0h0"].attrs["metadata"]["provenance"] = {"weights": "abc"}
    study["l1h2"].attrs["metadata"] = {}
    compute_susceptibilities(study)
    study["l1h2"]["n_beta"] = 31.0
    study["full"].attrs["metadata"] = {}
    with pytest.raises(ProvenanceError, match="n_beta"):
        compute_susceptibilities(study)


def test_runs_on_other_rows_are_refused():
    study = make_study()
    study["l0h0"]["input_ids_code"].values[0, 1] += 1
    with pytest.raises(ProvenanceError, match="'code' in the run 'l0h0'"):
        compute_susceptibilities(study)


def test_bad_input_is_one_clear_error():
    study = make_study()
    with pytest.raises(MissingVariableError, match="without a restriction"):
        compute_susceptibilities({"l0h0": study["l0h0"]}, "train")
    with pytest.raises(MissingVariableError, match="without a restriction"):
        compute_susceptibilities(study["full"], "train")
    with pytest.raises(SettingError, match="no restriction besides"):
        compute_susceptibilities({"full": study["full"]}, "train")
    with pytest.raises(MissingVariableError, match="sampling_task=NAME"):
        compute_susceptibilities({name: tree.copy() for name, tree in study.children.items()})
    with pytest.raises(MissingVariableError, match="'prose'"):
        compute_susceptibilities(study, "prose")
    with pytest.raises(MissingVariableError, match="'prose'"):
        compute_susceptibilities(study, observable_names=["prose"])
    with pytest.raises(SettingError, match="no observable besides"):
        compute_susceptibilities(make_study(rows={"train": 2}))
    with pytest.raises(SettingError, match="There is no such baseline"):
        compute_susceptibilities(study, baseline="zero")
    lacking = study.copy()
    lacking["l0h0"] = xr.DataTree(study["l0h0"].to_dataset().drop_vars("loss_math"))
    with pytest.raises(MissingVariableError, match=r"loss_math.*'l0h0'"):
        compute_susceptibilities(lacking)
    bare = {n: xr.DataTree(t.to_dataset().drop_vars("init_loss_train")) for n, t in study.children.items()}
    with pytest.raises(MissingVariableError, match="baseline='init'"):
        compute_susceptibilities(bare, "train", baseline="observable")
    unfinished = study.copy()
    unfinished["l0h0"].attrs["completed"] = 0
    with pytest.raises(IncompleteStoreError, match="'l0h0'"):
        compute_susceptibilities(unfinished)
    broken = study.copy(deep=True)
    broken["full"]["init_loss"].values[:] = np.nan
    with pytest.raises(DataError, match="'full' is not finite"):
        compute_susceptibilities(broken)


def test_needs_nothing_but_what_it_uses():
    study = make_study()
    keep = [f"{kind}_{name}" for kind in ("loss", "input_ids") for name in ("train", "code", "math")] + ["init_loss"]
    bare = {name: xr.Dataset({n: tree[n] for n in keep}) for name, tree in study.children.items()}
    result = compute_susceptibilities(bare, "train")
    np.testing.assert_array_equal(
        result["susceptibilities/sus"], compute_susceptibilities(study)["susceptibilities/sus"]
    )


def test_the_memory_does_not_grow_with_draws(tmp_path, monkeypatch):
    """A few blocks of the store are all that is held: the peak stays far below the losses of one observable."""
    import tracemalloc

    from devinterp.slt.runs import read_blocks as _blocks

    monkeypatch.setattr(_blocks, "BLOCK_BYTES", 2**17)
    monkeypatch.setattr(_blocks, "READ_AHEAD_BYTES", 2**19)

    rows = {"train": 40, "code": 40}
    study = make_study(("full", "a"), rows=rows, draws=400, chains=2, tokens=64)
    stored = to_store(study, tmp_path / "study.zarr", draws=10)
    losses = study["full"]["loss_code"].nbytes
    del study
    compute_susceptibilities(stored)  # imports and caches
    tracemalloc.start()
    compute_susceptibilities(stored)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert losses > 8e6
    assert peak < losses / 2, f"{peak / 1e6:.1f} MB held for {losses / 1e6:.1f} MB of losses"


def test_sample_restrictions_is_found_here_without_importing_torch(monkeypatch):
    assert "sample_restrictions" in module.__all__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018
    fake = types.ModuleType("devinterp.slt.sampling")
    fake.sample_restrictions = calls = []
    monkeypatch.setitem(sys.modules, "devinterp.slt.sampling", fake)
    assert module.sample_restrictions is calls


def test_single_observation_se_is_refused_by_name():
    study = make_study()
    for run in study.children.values():
        run.attrs["metadata"]["config"]["sampler"].pop("num_init_loss_batches")
    with pytest.raises(MissingVariableError, match="num_init_loss_batches"):
        compute_susceptibilities(study, se=True)
    assert "sus_se" in compute_susceptibilities(study, se=True, baseline="observable")["susceptibilities"]


def test_sus_se_counts_the_noise_of_the_loss_at_the_start():
    """A baseline that is known less well widens the errors where probes move unlike under the two runs."""
    study = make_study(("full", "a"))
    errors = {}
    for batches in (1, 8, 10**6):
        for run in study.children.values():
            run.attrs["metadata"]["config"]["sampler"]["num_init_loss_batches"] = batches
        errors[batches] = compute_susceptibilities(study, se=True)["susceptibilities/sus_se"].values
    assert errors[1].mean() > errors[8].mean() > errors[10**6].mean()
