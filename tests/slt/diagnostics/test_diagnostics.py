from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import fail_chain, make_run, make_study, to_store

from devinterp.errors import AllChainsFailedError, MissingVariableError
from devinterp.slt.diagnostics import StudyDiagnosis, diagnose
from devinterp.slt.diagnostics.diagnosis import TITLES


def run_with(trace, *, start=2.0, rows=6, tokens=4, noise=0.02, seed=0, **sampler):
    """A run whose fixed rows follow ``trace`` (chain, draw), nat above the loss at the start."""
    rng = np.random.default_rng(seed)
    chains, draws = trace.shape
    tree = make_run(chains=chains, draws=draws, tokens=tokens, rows={"task": rows}, **sampler)
    base = rng.normal(start, 0.3, (rows, tokens))
    tree["init_loss_task"].values[...] = base
    level = base + trace[:, :, None, None] + noise * rng.normal(size=(chains, draws, rows, tokens))
    tree["loss_task"].values[...] = level
    return tree


def stationary(chains=4, draws=200, *, rise=0.1, sd=0.02, memory=0.5, seed=1):
    """An autocorrelated trace around ``rise``."""
    rng = np.random.default_rng(seed)
    out = np.empty((chains, draws))
    state = rng.normal(size=chains)
    for t in range(draws):
        state = memory * state + np.sqrt(1 - memory**2) * rng.normal(size=chains)
        out[:, t] = rise + sd * state
    return out


def judged(trace, **options):
    return diagnose(run_with(trace, **options), sampling_task="task")


def test_a_healthy_run_is_good_with_its_evidence():
    found = judged(stationary())
    assert found.good
    assert [v.code for v in found.verdicts] == ["good"]
    assert found.source == "loss_task"
    assert found.rows == "fixed"
    assert found.rhat < 1.02
    assert 150 < found.ess_bulk < 500
    assert found.rise == pytest.approx(0.1, abs=0.01)
    assert found.llc == pytest.approx(30 * found.rise)
    assert found.start_se == 0.0
    assert found.rise_se == pytest.approx(found.shared_noise * found.mcse)
    assert abs(found.drift) < 3 * found.drift_se
    assert found.signal_to_variation > 1
    assert [c.status for c in found.chains] == ["complete"] * 4
    assert "R-hat 1.0" in str(found)


def test_rhat_ess_and_mcse_are_those_of_arviz_stats():
    from arviz_stats.base.array import array_stats

    tree = run_with(stationary(memory=0.9))
    found = diagnose(tree, sampling_task="task")
    trace = tree["loss_task"].values.astype(np.float64).mean(axis=(2, 3))
    assert found.rhat == pytest.approx(array_stats.rhat(trace, chain_axis=0, draw_axis=1))
    assert found.ess_bulk == pytest.approx(array_stats.ess(trace, chain_axis=0, draw_axis=1, method="bulk"))
    assert found.mcse == pytest.approx(array_stats.mcse(trace, chain_axis=0, draw_axis=1, method="mean"))


def test_each_chain_has_numbers_of_its_own():
    """A chain that moves in its second half disagrees with itself, whatever the others do."""
    from arviz_stats.base.array import array_stats

    trace = stationary(memory=0.5)
    trace[2, 100:] += 0.2
    tree = run_with(trace)
    chains = diagnose(tree, sampling_task="task").chains
    assert [c.rhat > 1.1 for c in chains] == [False, False, True, False]
    alone = tree["loss_task"].values.astype(np.float64).mean(axis=(2, 3))[1:2]
    assert chains[1].ess == pytest.approx(array_stats.ess(alone, chain_axis=0, draw_axis=1, method="bulk"))
    assert chains[1].mcse == pytest.approx(array_stats.mcse(alone, chain_axis=0, draw_axis=1, method="mean"))
    assert chains[2].ess < chains[1].ess / 4


@pytest.mark.parametrize("draws", [4, 6, 9, 24, 100])
@pytest.mark.parametrize("bend", [0.5, 1.0, 3.0])
def test_chains_that_creep_are_worth_few_draws_however_short_they_are(draws, bend):
    """Neighbours are alike, and a chain too short to see anything else: six draws each were "13 effective draws"."""
    trace = np.linspace(0, 1, draws) ** bend * np.array([0.8, 0.9, 1.1, 1.2])[:, None]
    found = judged(trace, noise=1e-4)
    assert found.rhat > 1.3
    assert found.ess_bulk < 8
    assert found.mcse > trace.std() / np.sqrt(8)
    assert all(c.ess is None if draws < 8 else c.ess < 1.5 for c in found.chains)


@settings(max_examples=10, deadline=None)
@given(chains=st.integers(1, 5), draws=st.integers(4, 60), memory=st.floats(-0.95, 0.99), seed=st.integers(0, 99))
def test_no_run_is_worth_more_than_all_its_draws(chains, draws, memory, seed):
    found = judged(stationary(chains, draws, memory=memory, seed=seed))
    assert (found.ess_bulk or 0) <= chains * draws
    assert all((c.ess or 0) <= draws for c in found.chains)


def test_chains_at_levels_of_their_own_are_worth_one_draw_each():
    found = judged(stationary(sd=0.001) + np.array([0, 0.1, 0.2, 0.3])[:, None])
    assert 4 <= found.ess_bulk < 5
    assert found.rise_se == pytest.approx(found.shared_noise * np.std([0, 0.1, 0.2, 0.3]) / 2, rel=0.1)


def test_a_trend_is_not_converged():
    found = judged(stationary() + np.linspace(0, 0.3, 200))
    assert "not_converged" in [v.code for v in found.verdicts]
    assert found.drift == pytest.approx(0.2, abs=0.03)
    verdict = next(v for v in found.verdicts if v.code == "not_converged")
    assert "drifts" in verdict.evidence
    assert "num_burnin_steps of 205" in verdict.remedy


def test_chains_at_different_levels_disagree():
    found = judged(stationary() + np.array([0, 0.1, 0.2, 0.3])[:, None])
    codes = [v.code for v in found.verdicts]
    assert "chains_disagree" in codes
    assert found.rhat > 1.5


def test_few_effective_draws_are_not_converged():
    found = judged(stationary(memory=0.995, seed=4))
    assert found.ess_bulk < 40
    assert not found.good
    assert any("worth" in v.evidence for v in found.verdicts)


def test_a_loss_below_its_start_is_told():
    found = judged(stationary(rise=-0.1))
    assert found.verdict.code == "below_start"
    assert "0.1" in found.verdict.evidence
    assert "30" in found.verdict.remedy  # three times the localization


def test_no_rise_is_too_little_signal():
    found = judged(stationary(rise=0.0, sd=0.001), noise=0.05)
    assert [v.code for v in found.verdicts] == ["little_signal"]


def test_failed_chains_have_diverged_and_the_others_are_still_judged():
    tree = fail_chain(run_with(stationary()), 2, 30)
    found = diagnose(tree, sampling_task="task")
    assert found.verdict.code == "diverged"
    assert "chain 2: failed at step 35: loss is NaN" in found.verdict.evidence
    assert found.rhat < 1.02
    assert found.chains[2].n_draws == 30
    assert found.chains[2].n_nonfinite == 170


def test_a_run_without_any_complete_chain_is_judged_too():
    tree = fail_chain(fail_chain(make_run(chains=2), 0, 3), 1, 0)
    found = diagnose(tree, sampling_task="train")
    assert [v.code for v in found.verdicts] == ["diverged"]
    assert found.rise is None
    assert found.rhat is None
    assert [c.n_draws for c in found.chains] == [3, 0]


def test_nan_without_a_record_is_counted():
    tree = run_with(stationary())
    tree["loss_task"].values[1, 150:] = np.nan
    dataset = tree.to_dataset().drop_vars("draws_written")
    found = diagnose(dataset, sampling_task="task")
    assert found.chains[1].status == "no loss at draw 150, though the chain is recorded as complete"
    dataset.attrs["metadata"].pop("run")
    found = diagnose(dataset, sampling_task="task")
    assert found.chains[1].status == "non-finite loss at draw 150"
    assert found.chains[1].n_nonfinite == 50


@pytest.mark.parametrize(
    "state",
    [
        {"status": "complete"},
        {"status": "interrupted", "reason": "SIGTERM", "step": 35},
        {"status": "failed", "reason": "chunks were lost", "step": 35, "data_lost": True},
        None,
    ],
)
def test_what_was_not_sampled_or_is_lost_has_not_diverged(state):
    """Chunks that went from under an open tree, a run that was stopped, one that a repair marked, one under way."""
    tree = fail_chain(run_with(stationary()), 2, 200 if state == {"status": "complete"} else 30)
    tree["loss_task"].values[2, 30:] = np.nan
    if state is None:
        tree.attrs["completed"] = 0
        del tree.attrs["metadata"]["run"]
    else:
        tree.attrs["metadata"]["run"]["chains"][2] = state
    found = diagnose(tree, sampling_task="task")
    assert found.verdict.code == "incomplete"
    assert "1 of 4 chains lack draws (chain 2: " in found.verdict.evidence
    assert "lr" not in found.verdict.remedy
    assert [c.draws_missing for c in found.chains] == [False, False, True, False]
    if state is not None:
        failed = fail_chain(tree, 0, 10)
        assert [v.code for v in diagnose(failed, sampling_task="task").verdicts][:2] == ["diverged", "incomplete"]


def test_losses_that_went_from_under_an_open_tree_are_not_said_to_have_diverged(tmp_path):
    """Of one array, with its metadata left: the store is there, and says that its chains are complete."""
    path = tmp_path / "a.zarr"
    tree = to_store(make_run(draws=20), path)
    shutil.rmtree(path / "loss_train" / "c")
    with pytest.raises(
        AllChainsFailedError, match="no loss at draw 0, though the chain is recorded as complete"
    ) as error:
        tree.devinterp.bif()
    assert "lower lr" not in str(error.value).lower()
    assert "devinterp validate" in str(error.value)


def test_spikes_are_counted():
    trace = stationary(sd=0.01)
    trace[0, 77] += 2.0
    found = judged(trace)
    assert [c.n_spikes for c in found.chains] == [2, 0, 0, 0]  # up and down


@pytest.mark.parametrize("where", [slice(0, 4), slice(196, 200), slice(70, 74)])
@pytest.mark.parametrize("height", [2.0, -0.5])
def test_a_spike_is_as_long_as_it_is_wherever_it_stands(where, height):
    """Of the first or last draws, only one change is far outside; of several in a row, two."""
    trace = stationary(sd=0.01)
    trace[:, where] += height
    found = judged(trace)
    assert [c.n_spikes for c in found.chains] == [4, 4, 4, 4]
    assert "spikes" in [v.code for v in found.verdicts]


def test_a_chain_that_moves_to_another_level_for_good_has_no_spike_but_its_jump():
    trace = stationary(sd=0.01)
    trace[1, 90:] += 2.0
    assert [c.n_spikes for c in judged(trace).chains] == [0, 1, 0, 0]


def test_minibatches_are_a_last_resort_and_called_blind():
    tree = make_run(rows={}, chains=4, draws=200)
    tree["init_loss"].values[...] = tree["sampling_loss"].values.mean() - 0.5
    found = diagnose(tree)
    assert found.source == "sampling_loss"
    assert found.rows == "minibatch"
    assert found.start_se > 0
    assert found.good
    assert "blind" in found.verdict.evidence


def test_without_a_known_task_all_fixed_rows_are_looked_at():
    tree = make_run()
    found = diagnose(tree)
    assert found.source == "loss_train + loss_code + loss_math"
    assert found.start is not None
    bare = tree.to_dataset().drop_vars([f"init_loss_{n}" for n in ("train", "code", "math")])
    assert diagnose(bare).start is None  # init_loss is of other data
    assert diagnose(bare).rise is None
    assert diagnose(bare, sampling_task="train").start_se > 0


def test_fixed_rows_see_what_minibatches_hide():
    """The measured hazard: chains apart on the fixed rows, minibatch noise common to all."""
    trace = stationary(memory=0.97, sd=0.05) + np.array([0, 0.05, 0.1, 0.15])[:, None]
    tree = run_with(trace, batch=4)
    shared = np.random.default_rng(0).normal(0, 0.5, (1, 200, 4, 1))
    tree["sampling_loss"].values[...] = 2 + trace[:, :, None, None] + shared
    fixed = diagnose(tree, sampling_task="task")
    blind = diagnose(tree.to_dataset().drop_vars(["loss_task", "init_loss_task", "input_ids_task"]))
    assert fixed.rhat > 1.2
    assert blind.rhat < 1.1
    assert fixed.ess_bulk < blind.ess_bulk


def test_gradient_to_noise_is_the_median_ratio():
    tree = run_with(stationary())
    assert diagnose(tree).gradient_to_noise is None
    steps = ("chain", "step")
    metrics = {"metrics_scaled_grad": (steps, np.full((4, 9), 0.3)), "metrics_noise": (steps, np.full((4, 9), 1.5))}
    found = diagnose(tree.to_dataset().assign(metrics))
    assert found.gradient_to_noise == pytest.approx(0.2)


def test_too_few_draws_to_judge():
    found = judged(stationary(draws=6))
    assert found.verdict.code == "not_converged"
    assert "too few" in found.verdict.evidence
    assert judged(stationary(draws=2)).rhat is None


def test_a_constant_trace_gives_no_rhat():
    found = judged(np.full((4, 50), 0.1), noise=0.0)
    assert found.rhat is None
    assert found.mcse == 0.0
    assert [(c.rhat, c.ess, c.mcse) for c in found.chains] == [(None, None, 0.0)] * 4


def test_incomplete_runs_are_judged_by_what_there_is():
    tree = run_with(stationary())
    tree.attrs["completed"] = 0
    assert diagnose(tree, sampling_task="task").good


def test_a_study_is_judged_run_by_run():
    study = make_study()
    found = diagnose(study)
    assert isinstance(found, StudyDiagnosis)
    assert list(found) == ["full", "l0h0", "l1h2"]
    assert found["l0h0"].label == "l0h0"
    assert found["l0h0"].source == "loss_train"
    assert not found.good or all(d.good for d in found.values())
    assert "l0h0: " in str(found)


def test_everything_is_json_and_html():
    for found in (judged(stationary(rise=-0.1)), diagnose(make_study())):
        json.dumps(found.to_dict(), allow_nan=False)
        assert found._repr_html_().startswith("<pre>")
        assert "&gt;" in found._repr_html_() or ">" not in str(found)
    document = judged(stationary(rise=-0.1)).to_dict()
    assert document["verdicts"][0]["title"] == TITLES["below_start"] == "loss fell below its start"


def test_nothing_to_look_at_is_an_error():
    with pytest.raises(MissingVariableError, match="sampling_loss"):
        diagnose(xr.Dataset({"init_loss": (("chain", "token_pos"), np.ones((2, 3)))}))
