from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import xarray as xr
from made_runs import fail_chain, make_run, make_series, make_study, to_store

from devinterp.errors import (
    AllChainsFailedError,
    ChainFailedWarning,
    DataError,
    IncompleteStoreError,
    MissingVariableError,
    SettingError,
)
from devinterp.schema import validate
from devinterp.slt.llc import compute_llc, llc
from devinterp.slt.llc.of_run import CI_IS_FOR, best_average
from devinterp.slt.runs.results import told


def by_hand(tree, chains=None, draws=None):
    """The documented definition, in float64."""
    loss = tree["sampling_loss"].values.astype(np.float64)
    chains = list(range(loss.shape[0])) if chains is None else chains
    start = tree["init_loss"].values.astype(np.float64)[chains].mean()
    return float(tree["n_beta"]) * (loss[chains][:, :draws].mean(axis=(1, 2, 3)) - start)


def test_over_steps_with_burnin_equals_the_peers_result(reference):
    tree = xr.open_datatree(reference / "full.zarr", engine="zarr", consolidated=False)
    expected = xr.open_dataset(reference / "llc.zarr", engine="zarr", consolidated=False)
    result = compute_llc(tree, over="steps", burnin=True)
    assert result["loss_trace"].dims == ("chain", "step")
    for name in expected:
        np.testing.assert_allclose(result[name], expected[name], rtol=1e-5, err_msg=name)


def test_over_draws_is_the_documented_definition():
    tree = make_run()
    result = compute_llc(tree)
    expected = by_hand(tree)
    np.testing.assert_allclose(result["llc_per_chain"], expected, rtol=1e-12)
    np.testing.assert_allclose(result["llc_mean"], expected.mean(), rtol=1e-12)
    np.testing.assert_allclose(result["llc_std"], expected.std(ddof=0), rtol=1e-12)
    np.testing.assert_allclose(result["llc_scalar"], expected.mean(), rtol=1e-12)
    trace = tree["sampling_loss"].values.astype(np.float64).mean(axis=(2, 3))
    np.testing.assert_allclose(result["loss_trace"], trace, rtol=1e-6)
    assert {n: str(v.dtype) for n, v in result.variables.items()} == {
        "llc_mean": "float64",
        "llc_std": "float64",
        "llc_per_chain": "float64",
        "llc_scalar": "float64",
        "init_loss": "float64",
        "loss_trace": "float32",
    }
    assert result.attrs == {
        "devinterp_schema": "devinterp/llc@1",
        "over": "draws",
        "n_beta": 30.0,
        "n_chains_used": 3,
        "chains_excluded": [],
        "step_inflation": 1.002506,
        "step_inflation_is": "lower bound",
    }
    assert result["loss_trace"].attrs["units"] == "nat"
    assert validate(result).ok


def test_over_observable_compares_the_same_rows_before_and_after():
    tree = make_run()
    result = compute_llc(tree, over="observable", observable="train")
    rise = tree["loss_train"].values.astype(np.float64) - tree["init_loss_train"].values
    np.testing.assert_allclose(result["llc_per_chain"], 30 * rise.mean(axis=(1, 2, 3)), rtol=1e-9)
    assert result.attrs["observable"] == "train"


def test_over_observable_knows_the_sampling_task_of_a_study_and_by_provenance():
    assert compute_llc(make_study(), over="observable").attrs["observable"] == "train"
    assert compute_llc(make_study()["l0h0"], over="observable").attrs["observable"] == "train"
    tree = make_run()
    tree.attrs["metadata"]["provenance"] = {"dataset": {"rows": "abc"}, "observables": {"code": "x", "math": "abc"}}
    assert compute_llc(tree, over="observable").attrs["observable"] == "math"
    assert "llc_is" not in compute_llc(tree, over="observable").attrs
    del tree.attrs["metadata"]["provenance"]
    with pytest.raises(MissingVariableError, match="observable=NAME"):
        compute_llc(tree, over="observable")


def test_the_rise_on_another_kind_of_data_is_not_called_its_llc():
    for result in (
        compute_llc(make_study(), over="observable", observable="code"),
        compute_llc(make_study()["l0h0"], over="observable", observable="code"),
    ):
        assert "not the data-refined LLC of code" in result.attrs["llc_is"]
        assert "while the loss on train is sampled" in result.attrs["llc_is"]
        assert validate(result).ok
    assert "llc_is" not in compute_llc(make_study(), over="observable", observable="train").attrs


def test_over_steps_leaves_the_burnin_out_where_it_is_known():
    tree = make_run(draws=20)
    trace = np.random.default_rng(0).normal(3, 0.1, (3, 25)).astype(np.float32)
    tree = xr.DataTree(tree.to_dataset().assign(step_loss=(("chain", "step"), trace)))
    start = tree["init_loss"].values.astype(np.float64).mean()
    result = compute_llc(tree, over="steps")
    np.testing.assert_allclose(result["llc_mean"], 30 * (trace[:, 5:].astype(np.float64).mean() - start))
    assert result.sizes == {"chain": 3, "step": 20}
    assert result.attrs["burnin"] == 0
    assert "burnin" not in compute_llc(tree).attrs
    with pytest.raises(SettingError, match="burn-in"):
        compute_llc(tree.isel(step=slice(3, None)), over="steps")
    part = compute_llc(tree.isel(step=slice(3, None)), over="steps", burnin=True)
    assert part.sizes["step"] == 22
    assert part.attrs["burnin"] == 1


@pytest.mark.parametrize("chains", [[0, 2], [2, 0], slice(1, None), 1])
def test_selections_work(chains):
    tree = make_run()
    result = compute_llc(tree.isel(draw=slice(10, None), chain=chains))
    expected = by_hand(tree.isel(draw=slice(10, None)))
    np.testing.assert_allclose(result["llc_per_chain"], np.atleast_1d(expected[chains]), rtol=1e-9)


def test_needs_nothing_but_what_it_uses():
    tree = make_run()
    bare = xr.Dataset({n: tree[n] for n in ("sampling_loss", "init_loss", "n_beta")})
    np.testing.assert_allclose(compute_llc(bare)["llc_mean"], by_hand(tree).mean())
    with pytest.raises(MissingVariableError, match="inverse temperature"):
        compute_llc(bare.drop_vars("n_beta"))
    with pytest.raises(MissingVariableError, match="init_loss"):
        compute_llc(bare.drop_vars("init_loss"))


def test_a_failed_chain_is_excluded_and_named():
    tree = fail_chain(make_run(), 1, 12)
    with pytest.warns(ChainFailedWarning, match="chain 1: failed at step 17: loss is NaN") as caught:
        result = compute_llc(tree)
    assert [w.filename for w in caught] == [__file__]
    with pytest.warns(ChainFailedWarning) as caught:
        tree.devinterp.llc()
    assert [w.filename for w in caught] == [__file__]
    assert result.attrs["n_chains_used"] == 2
    assert result.attrs["chains_excluded"] == [1]
    expected = by_hand(tree, [0, 2])
    np.testing.assert_allclose(result["llc_per_chain"].values[[0, 2]], expected)
    assert np.isnan(result["llc_per_chain"].values[1])
    np.testing.assert_allclose(result["llc_mean"], expected.mean())
    np.testing.assert_allclose(result["init_loss"], tree["init_loss"].values.astype(np.float64)[[0, 2]].mean())


@pytest.mark.parametrize("forget", ["run", "draws_written"])
def test_a_failed_chain_is_known_by_any_sign(forget):
    tree = fail_chain(make_run(), 2, 12)
    if forget == "run":
        tree.attrs["metadata"].pop("run")
        dataset = tree.to_dataset()
    else:
        dataset = tree.to_dataset().drop_vars("draws_written")
        dataset.attrs["metadata"].pop("run")
    with pytest.warns(ChainFailedWarning, match="chain 2"):
        assert compute_llc(dataset).attrs["chains_excluded"] == [2]


def test_a_failed_chain_stays_excluded_in_a_selection_of_its_good_draws():
    tree = fail_chain(make_run(), 1, 12)
    with pytest.warns(ChainFailedWarning, match="chain 1: failed at step 17"):
        assert compute_llc(tree.isel(draw=slice(0, 10))).attrs["chains_excluded"] == [1]
    with pytest.warns(ChainFailedWarning):
        assert compute_llc(tree.isel(chain=[1, 0])).attrs["chains_excluded"] == [0]
    assert compute_llc(tree.isel(chain=[0, 2])).attrs["chains_excluded"] == []


def test_allow_partial_uses_the_draws_that_all_chains_have():
    tree = fail_chain(make_run(), 1, 12)
    result = compute_llc(tree, allow_partial=True)
    assert result.attrs["n_chains_used"] == 3
    np.testing.assert_allclose(result["llc_per_chain"], by_hand(tree, draws=12), rtol=1e-9)


def test_a_chain_without_any_draw_is_excluded_even_from_partial_runs():
    tree = fail_chain(fail_chain(make_run(), 1, 12), 2, 0)
    with pytest.warns(ChainFailedWarning, match="chain 2"):
        result = compute_llc(tree, allow_partial=True)
    np.testing.assert_allclose(result["llc_per_chain"].values[:2], by_hand(tree, [0, 1], draws=12), rtol=1e-9)


def test_no_chain_left_is_an_error():
    tree = fail_chain(fail_chain(fail_chain(make_run(), 0, 3), 1, 4), 2, 5)
    with pytest.raises(AllChainsFailedError, match="chain 0: failed"):
        compute_llc(tree)


@pytest.mark.parametrize("completed", [0, None])
def test_a_store_that_has_not_completed_is_an_error(completed):
    tree = make_run()
    tree.attrs.pop("completed")
    if completed is not None:
        tree.attrs["completed"] = completed
    with pytest.raises(IncompleteStoreError, match="allow_partial"):
        compute_llc(tree)
    assert compute_llc(tree, allow_partial=True).attrs["n_chains_used"] == 3


def test_a_tree_without_a_state_is_taken_as_it_is():
    tree = make_run()
    tree.attrs.pop("completed")
    tree.attrs.pop("devinterp_schema")
    assert compute_llc(tree).attrs["n_chains_used"] == 3


def test_a_loss_at_the_start_that_is_missing_is_an_error():
    tree = make_run()
    tree["init_loss"].values[0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        compute_llc(tree)


def test_a_study_gives_a_wr_dimension_in_its_order():
    names = ("full", "l1h2", "l0h0")
    study = make_study(names)
    result = compute_llc(study)
    assert result["wr"].values.tolist() == list(names)
    assert result["llc_per_chain"].dims == ("wr", "chain")
    assert result["loss_trace"].dims == ("wr", "chain", "draw")
    for k, name in enumerate(names):
        alone = compute_llc(study[name])
        np.testing.assert_array_equal(result["llc_per_chain"].values[k], alone["llc_per_chain"])
    assert told(result.attrs, "n_chains_used") == {"full": 3, "l1h2": 3, "l0h0": 3}
    assert validate(result).ok
    mapping = compute_llc({name: study[name] for name in names})
    xr.testing.assert_identical(mapping, result)


def test_a_study_whose_runs_differ_in_size_is_padded_with_nan():
    study = {"full": make_run(), "a": make_run(1, chains=2, draws=30)}
    result = compute_llc(study)
    assert result["loss_trace"].shape == (2, 3, 40)
    assert result["llc_per_chain"].isnull().sum() == 1
    np.testing.assert_allclose(result["llc_mean"].values[1], by_hand(study["a"]).mean())


@pytest.mark.needs("dask")
def test_lazy_dask_and_in_memory_agree_exactly_and_lazy_stays_unloaded(tmp_path):
    tree = make_run()
    stored = to_store(tree, tmp_path / "run.zarr")
    expected = compute_llc(tree)
    xr.testing.assert_identical(compute_llc(stored), expected)
    assert not stored["sampling_loss"].variable._in_memory
    np.testing.assert_allclose(compute_llc(stored.chunk(chain=1, draw=7))["llc_mean"], expected["llc_mean"], rtol=1e-12)


def test_results_survive_a_store_identically(tmp_path):
    result = compute_llc(make_study(), ci=0.9, over="observable")
    result.to_zarr(tmp_path / "llc.zarr", consolidated=False, zarr_format=3)
    back = xr.open_dataset(tmp_path / "llc.zarr", engine="zarr", consolidated=False)
    assert back.identical(result)
    assert validate(tmp_path / "llc.zarr").ok


@pytest.mark.parametrize(
    ("options", "match"),
    [({"over": "epochs"}, "one of"), ({"ci": 1.5}, "between 0 and 1"), ({"ci": 0.0}, "between 0 and 1")],
)
def test_bad_settings(options, match):
    with pytest.raises(SettingError, match=match):
        compute_llc(make_run(), **options)


def test_what_is_no_run_is_refused():
    with pytest.raises(SettingError, match="DataTree"):
        compute_llc(np.zeros(3))
    with pytest.raises(MissingVariableError, match="no losses"):
        compute_llc(xr.DataTree())
    with pytest.raises(MissingVariableError, match="empty"):
        compute_llc({})
    with pytest.raises(DataError, match="empty"):
        compute_llc(make_run().isel(draw=slice(0, 0)))
    with pytest.raises(MissingVariableError, match="steps were not kept"):
        compute_llc(make_run(), over="steps")
    with pytest.raises(MissingVariableError, match="at the start was not kept"):
        compute_llc(
            make_run().drop_nodes([]).to_dataset().drop_vars("init_loss_train"), over="observable", observable="train"
        )


def test_one_call_samples_with_what_it_is_given_and_averages_as_asked(monkeypatch):
    asked = {}

    def sample(*arguments, **options):
        asked.update(options, arguments=arguments)
        return make_run(draws=20).to_dataset().assign(step_loss=(("chain", "step"), np.full((3, 25), 4.0)))

    fake = types.ModuleType("devinterp.slt.sampling")
    fake.sample = sample
    monkeypatch.setitem(sys.modules, "devinterp.slt.sampling", fake)
    options = {"lr": 0.1, "n_beta": 3.0, "param_masks": {"a": None}, "loss_fn": len, "num_chains": 3}
    result = llc("model", "data", {"code": 1}, **options, over="steps", burnin=True, ci=0.5)
    assert asked == {**options, "arguments": ("model", "data", {"code": 1})}
    assert (result.attrs["over"], result.attrs["burnin"], result.attrs["ci"]) == ("steps", 1, 0.5)
    assert result.sizes["step"] == 25
    chosen = llc("model", "data", {}, lr=1.0, n_beta=1.0, over="observable", observable="code")
    assert chosen.attrs["observable"] == "code"
    assert llc("model", "data", {}, lr=1.0, n_beta=1.0).attrs["over"] == "draws"


@pytest.mark.parametrize("ci", [1, 1.0, -0.1, 0])
def test_a_level_lies_between_0_and_1(ci):
    with pytest.raises(SettingError, match="between 0 and 1"):
        compute_llc(make_run(), ci=ci)
    assert compute_llc(make_run(), ci=0.999).attrs["ci"] == 0.999


def test_losses_of_every_micro_batch_are_averaged_over_steps():
    tree = make_run(draws=20)
    losses = np.random.default_rng(0).normal(3, 0.1, (3, 25, 8, 6)).astype(np.float32)
    data = tree.to_dataset().assign(sampling_loss_micro=(("chain", "step", "batch_sampling", "token_pos"), losses))
    start = tree["init_loss"].values.astype(np.float64).mean()
    for burnin, skipped in ((True, 0), (False, 5)):
        result = compute_llc(data, over="steps", burnin=burnin, ci=0.9)
        trace = losses.astype(np.float64).mean(axis=(2, 3))[:, skipped:]
        np.testing.assert_allclose(result["llc_per_chain"], 30 * (trace.mean(axis=1) - start))
        np.testing.assert_allclose(result["loss_trace"], trace, rtol=1e-6)
    both = data.assign(step_loss=(("chain", "step"), np.zeros((3, 25))))  # rows tell more than their mean
    xr.testing.assert_identical(compute_llc(both, over="steps"), compute_llc(data, over="steps"))


def test_which_steps_are_burnin_follows_from_three_settings():
    steps = np.random.default_rng(0).normal(3, 0.1, (3, 5 + 20 * 3))
    data = make_run(draws=20, num_steps_bw_draws=3).to_dataset().assign(step_loss=(("chain", "step"), steps))
    result = compute_llc(data, over="steps")
    assert result.sizes["step"] == 60
    np.testing.assert_allclose(result["loss_trace"], steps[:, 5:], rtol=1e-6)
    for name in ("num_burnin_steps", "num_draws", "num_steps_bw_draws"):
        lacking = data.copy(deep=True)
        lacking.attrs["metadata"]["config"]["sampler"].pop(name)
        with pytest.raises(SettingError, match="burn-in"):
            compute_llc(lacking, over="steps")


@pytest.mark.parametrize("allow_partial", [False, True])
def test_members_of_a_study_are_named_where_they_fail(allow_partial):
    study = make_study(("full", "a"))
    study["a"]["init_loss"].values[0] = np.nan
    with pytest.raises(DataError, match="of the run 'a' is not finite"):
        compute_llc(study, allow_partial=allow_partial)
    unfinished = make_study(("full", "a"))
    unfinished["a"].attrs["completed"] = 0
    if allow_partial:
        assert told(compute_llc(unfinished, allow_partial=True).attrs, "n_chains_used") == {"full": 3, "a": 3}
    else:
        with pytest.raises(IncompleteStoreError, match="'a'"):
            compute_llc(unfinished)


def test_attributes_of_a_study_are_by_run_where_runs_differ():
    study = {"full": make_run(), "a": fail_chain(make_run(1), 1, 12)}
    study["a"]["n_beta"].values[...] = 15.0
    study["a"].attrs["metadata"]["config"]["sampler"]["n_beta"] = 15.0
    with pytest.warns(ChainFailedWarning):
        result = compute_llc(study, over="observable", observable="train", ci=0.9)
    assert {name: told(result.attrs, name) for name in result.attrs} == {
        "devinterp_schema": "devinterp/llc@1", "over": "observable", "observable": "train", "ci": 0.9,
        "n_beta": {"full": 30.0, "a": 15.0}, "n_chains_used": {"full": 3, "a": 2},
        "chains_excluded": {"full": [], "a": [1]}, "ci_is_for": CI_IS_FOR,
        "step_inflation": {"full": 1.002506, "a": 1.002506},
        "step_inflation_is": {"full": "lower bound", "a": "lower bound"},
    }  # fmt: skip
    assert result["llc_ci"].dims == ("wr", "bound")


def test_the_best_average_compares_the_same_rows_where_every_run_has_them():
    assert best_average(make_study()) == "observable"
    assert best_average(make_study()["full"]) == "observable"
    assert best_average(make_run()) == "draws"  # which of its observables is the task is not known
    assert best_average(make_series()) == "observable"
    study = make_study()
    study["l0h0"] = xr.DataTree(study["l0h0"].to_dataset().drop_vars("init_loss_train"))
    assert best_average(study) == "draws"
    unfinished = make_study()
    unfinished["l0h0"].attrs["completed"] = 0
    assert best_average(unfinished) == "observable"
