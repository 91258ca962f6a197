"""Verdicts on runs of SGLD's own law: what they owe nothing to, what they find, and that their remedies mend it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import Quadratic, Regression, simulate

from devinterp.slt.diagnostics import diagnose

H = np.linspace(0.2, 3.0, 30)
GOOD = {"lr": 2e-3, "n_beta": 30.0, "localization": 20.0, "burnin": 300, "between": 3}
FAULTS = {
    "good": (H, {}),
    "long step": (H, {"lr": 2.0 / 110.0, "between": 1}),
    "unstable": (H, {"lr": 3.9 / 110.0, "between": 1}),
    "no burn-in": (np.ones(30), {"lr": 1e-3, "burnin": 0, "between": 1}),
    "walks off": (np.full(30, 1e-4), {"localization": 0.0, "burnin": 0}),
    "crawls": (H, {"lr": 2e-5, "burnin": 0}),
}


def one(name="good", *, seed=0, model=None, **changes):
    h, own = FAULTS[name]
    (run,) = simulate(model or Quadratic(h, level=0.0), runs=1, seed=seed, **{**GOOD, **own, **changes})
    return run


RUNS = {name: one(name) for name in FAULTS}


def codes(run):
    return [v.code for v in diagnose(run).verdicts]


def in_float64(run):
    """So that a large constant does not round the losses."""
    return run.assign({n: v.astype(np.float64) for n, v in run.items() if v.dtype == np.float32})


LOSSES = ("loss_train", "init_loss_train", "step_loss")


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(list(FAULTS)), st.floats(-100, 100))
def test_a_constant_added_to_the_loss_changes_no_verdict(name, constant):
    run = in_float64(RUNS[name])
    assert codes(run.assign({n: run[n] + constant for n in LOSSES})) == codes(run)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(list(FAULTS)), st.floats(-3, 3))
def test_scaling_the_loss_against_n_beta_changes_no_verdict(name, power):
    run, scale = in_float64(RUNS[name]), 10.0**power
    sampler = {**run.attrs["metadata"]["config"]["sampler"], "n_beta": 30.0 / scale}
    metadata = {**run.attrs["metadata"], "config": {"sampler": sampler, "sampling_task": "train"}}
    scaled = run.assign({n: run[n] * scale for n in LOSSES} | {"n_beta": ((), 30.0 / scale)})
    scaled.attrs = {"metadata": metadata}
    assert codes(scaled) == codes(run)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(list(FAULTS)), st.permutations(range(4)))
def test_the_order_of_the_chains_changes_no_verdict(name, order):
    run = RUNS[name]
    assert codes(run.isel(chain=list(order))) == codes(run)


@pytest.mark.parametrize("level", [0.0, 1e-3, 0.1, 0.3, 2.0, -1.0])
def test_a_model_that_fits_well_has_not_diverged(level):
    """Twenty directions of curvature 1, whose loss rises by 0.3 nat wherever it begins."""
    model = Quadratic(np.ones(20), level=level)
    run = one(model=model, lr=3e-3, localization=3.0, draws=200, between=4)
    found = diagnose(run)
    assert found.good, found
    assert found.llc == pytest.approx(9.09, abs=1.0)


def test_growth_within_the_run_has_diverged():
    grown = one("walks off")
    time = np.linspace(0, 1, 200)[None, :, None, None]
    found = diagnose(grown.assign(loss_train=grown["loss_train"] * 0 + 0.01 * np.exp(5 * time) + grown["loss_train"]))
    assert found.verdict.code == "diverged"
    assert "grows" in found.verdict.evidence


def test_an_llc_above_half_the_weights_has_diverged():
    run = one("good", metrics=False)
    run.attrs["metadata"]["provenance"]["sampled"]["weights"] = 16
    found = diagnose(run)
    assert found.verdict.code == "diverged"
    assert "half of the 16 sampled weights" in found.verdict.evidence


def test_stuck_chains_are_not_converged():
    run = one()
    still = run["loss_train"].isel(draw=[0] * 200).values
    assert codes(run.assign(loss_train=(run["loss_train"].dims, still)))[0] == "not_converged"
    half = run["loss_train"].values.copy()
    half[1] = half[1, :1]
    found = diagnose(run.assign(loss_train=(run["loss_train"].dims, half)))
    assert any("1 of 4 chains never change" in v.evidence for v in found.verdicts)


def test_one_chain_alone_is_not_good_and_four_are():
    assert diagnose(one(chains=1)).verdict.code == "one_chain"
    assert "one_chain" in codes(one().isel(chain=[2]))
    assert "num_chains of 4" in diagnose(one(chains=1)).verdict.remedy
    assert diagnose(one(chains=4)).good


def test_spikes_are_judged():
    run = one()
    values = run["loss_train"].values.copy()
    values[:, ::50] += 1.0
    assert diagnose(run.assign(loss_train=(run["loss_train"].dims, values))).verdict.code == "spikes"


def test_a_long_step_is_refused_and_the_remedy_mends_it():
    for changes in ({}, {"metrics": False, "lr": 4e-4, "localization": 1000.0}):
        found = diagnose(one("long step", **changes))
        assert found.verdict.code == "step_bias"
        assert "localization (" not in found.verdict.remedy
    assert "lr = 0.0003 " in found.verdict.remedy
    mended = diagnose(one("long step", metrics=False, lr=3e-4, localization=1000.0, between=6))
    assert mended.good, mended
    assert diagnose(one("long step", lr=2.0 / 110.0 / 9, between=9)).good  # a third, and a third again


def test_an_unstable_step_is_shortened_and_not_held():
    """More localization makes it worse, where lr * localization is what diverges."""
    found = diagnose(one("unstable"))
    assert found.verdict.code == "diverged"
    assert "higher localization" not in found.verdict.remedy
    third = diagnose(one("unstable", lr=3.9 / 110.0 / 3))
    assert third.step_bias.inflation < found.step_bias.inflation
    assert diagnose(one("unstable", lr=2e-3, between=3)).good


@pytest.mark.parametrize("localization", [300.0, 3000.0])
def test_a_step_that_localization_makes_unstable_is_not_answered_by_more(localization):
    with np.errstate(all="ignore"):
        run = one(lr=2.1e-2, localization=localization, burnin=0, draws=600, between=1)
    found = diagnose(run)
    assert found.verdict.code == "diverged"
    assert "localization (" not in found.verdict.remedy
    assert "higher" not in found.verdict.remedy
    lr = 0.36 / localization * 0.5
    assert diagnose(one(lr=lr, localization=localization, between=6)).good


def test_a_walk_is_answered_by_localization():
    found = diagnose(one("walks off"))
    assert not found.good
    grown = [v for v in found.verdicts if v.code in ("diverged", "not_converged")]
    assert any("localization" in v.remedy for v in grown)
    held = diagnose(one("walks off", localization=100.0, burnin=300))
    assert held.good, held


def test_too_short_a_run_is_mended_by_the_burn_in_that_is_named():
    found = diagnose(one("no burn-in"))
    assert not found.good
    assert any("num_burnin_steps of 200" in v.remedy for v in found.verdicts)
    assert diagnose(one("no burn-in", burnin=400, between=8)).good


def test_steps_fewer_than_flat_directions_relax_in_are_told():
    h = np.concatenate([np.full(20, 3.0), np.full(60, 0.01)])
    changes = {"lr": 2e-3, "localization": 0.4, "burnin": 200, "between": 1, "draws": 300}
    slow = diagnose(one(model=Quadratic(h), **changes))
    assert not slow.good
    told = next(v for v in slow.verdicts if "no drift shows it" in v.evidence)
    assert "2.5e+03 steps" in told.evidence
    assert "num_burnin_steps of 2500" in told.remedy
    assert slow.equilibration.unseen == pytest.approx(np.exp(-2 * (np.arange(300) + 201) / 2500).mean())
    mended = diagnose(one(model=Quadratic(h), **{**changes, "burnin": 2500}))
    assert not any("no drift shows it" in v.evidence for v in mended.verdicts)


def test_without_localization_flat_directions_are_said_not_to_be_judged():
    found = diagnose(one(model=Quadratic(H * 3), localization=0.0, metrics=False))
    assert found.good, found
    assert "flat are not judged" in found.verdict.evidence
    assert "save_metrics=True" in found.verdict.evidence
    growing = diagnose(one(model=Quadratic(np.concatenate([H * 3, np.zeros(30)])), localization=0.0))
    assert any("squared distance" in v.evidence and "a localization" in v.remedy for v in growing.verdicts)


def test_a_drift_during_the_burn_in_counts():
    """Draws over a tenth of the relaxation show nothing; the burn-in before them does."""
    late = one(model=Quadratic(np.ones(2000)), lr=1e-5, localization=20.0, burnin=1600, draws=40, between=1)
    verdicts = diagnose(late).verdicts
    assert any("second half of the burn-in" in v.evidence for v in verdicts), verdicts
    later = one(model=Quadratic(np.ones(2000)), lr=1e-3, localization=20.0, burnin=600, draws=200, between=2)
    assert not any("burn-in" in v.evidence for v in diagnose(later).verdicts)


def test_minibatch_noise_is_mended_by_the_batch_that_is_named():
    own = {"n_beta": 100.0, "lr": 0.3 / 120, "between": 2}
    noisy = diagnose(one(model=Regression(4, 1024, 4, 64), **own))
    told = next(v for v in noisy.verdicts if v.code == "gradient_noise")
    assert "batch_size (16)" in told.remedy
    better = diagnose(one(model=Regression(4, 1024, 16, 64), **own))
    assert better.step_bias.inflation - 1 < (noisy.step_bias.inflation - 1) / 2
    most = diagnose(one(model=Regression(4, 1024, 512, 64), **own))
    assert most.good, most
    assert most.shared_noise < 2


def test_below_the_start_less_n_beta_or_a_better_minimum_helps():
    found = diagnose(one(model=Quadratic(H, slope=0.3)))
    assert found.verdict.code == "below_start"
    assert "(10 in place of 30)" in found.verdict.remedy
    less = diagnose(one(model=Quadratic(H, slope=0.3), n_beta=10.0))
    assert less.rise > found.rise
    assert diagnose(one(model=Quadratic(H, slope=0.01))).good


def test_too_little_signal_is_mended_by_less_localization_and_by_more_draws():
    h, rng = np.full(30, 1e-3), np.random.default_rng(0)

    def noisy(spread, **changes):  # rows whose loss varies for other reasons than the weights, as with dropout
        run = one(model=Quadratic(h), **{"n_beta": 1.0, "localization": 1000.0, "lr": 1e-4, **changes})
        return diagnose(
            run.assign(loss_train=run["loss_train"] + spread * rng.normal(size=(4, run.sizes["draw"], 1, 1)))
        )

    weak = noisy(0.05)
    assert [v.code for v in weak.verdicts] == ["little_signal"]
    assert "a lower localization" in weak.verdict.remedy
    assert "lr" not in weak.verdict.remedy
    assert noisy(0.05, localization=1.0, lr=0.1).good
    assert [v.code for v in noisy(3e-4).verdicts] == ["little_signal"]
    assert noisy(3e-4, draws=4000, between=1).good


def test_a_box_that_a_weight_reaches_is_told():
    found = diagnose(one(box=0.1))
    assert found.verdict.code == "clamped"
    assert "localization of 900" in found.verdict.remedy
    assert diagnose(one(box=1.0)).good  # more than three standard deviations
    assert diagnose(one(box=1.0, localization=0.0, model=Quadratic(H * 3))).verdict.code == "clamped"


def test_chains_that_share_minibatches_count_for_less():
    own = {"n_beta": 100.0, "lr": 0.3 / 120}
    run = one(model=Regression(4, 1024, 4, 64), **own)
    assert diagnose(run).shared_noise > 1.3
    alone = run.copy()
    sampler = {**run.attrs["metadata"]["config"]["sampler"], "match_sampling_input_ids_across_chains": False}
    alone.attrs = {"metadata": {**run.attrs["metadata"], "config": {"sampler": sampler, "sampling_task": "train"}}}
    assert diagnose(alone).shared_noise == 1.0
    assert diagnose(one()).shared_noise == 1.0  # the whole dataset at every step


@pytest.mark.parametrize(("level", "said"), [(0.1, "0.01 times the temperature"), (2.0, "4 times"), (0.0, "descent")])
def test_noise_of_another_size_is_another_temperature_and_no_posterior(level, said):
    run = one().copy()
    config = run.attrs["metadata"]["config"]
    sampler = {**config["sampler"], "noise_level": level}
    run.attrs["metadata"] = {**run.attrs["metadata"], "config": {**config, "sampler": sampler}}
    verdict = diagnose(run).verdict
    assert verdict.code == "not_converged"
    assert f"noise_level is {level:g}" in verdict.evidence
    assert said in verdict.evidence
    assert "noise_level of 1" in verdict.remedy


def test_chains_share_no_more_noise_than_their_gradients_have():
    """Of few draws the variance of the chains' mean may be anything: one run in ten had its errors doubled."""
    model = Regression(4, 2048, 16, 64, spread=0.3)
    settings = {"lr": 4e-4, "n_beta": 100.0, "localization": 20.0, "burnin": 60, "between": 12, "draws": 36}
    runs = simulate(model, runs=16, seed=1, **settings)
    found = [diagnose(run) for run in runs]
    assert max(d.step_bias.noise_share for d in found) < 0.05
    assert max(d.shared_noise for d in found) < 1.15
    without = [run.drop_vars([n for n in run if n.startswith("metrics_")]) for run in runs]
    blind = [diagnose(run) for run in without]
    assert max(d.shared_noise for d in blind) > 1.5
    # What may be chance is said to be, with what would tell.
    enough = [d for d in blind if d.ess_bulk >= 40 > d.ess_bulk / d.shared_noise**2]
    assert enough
    said = [str(v) for d in enough for v in d.verdicts if "independent ones" in v.evidence]
    assert len(said) == len(enough)
    assert all("is chance" in text and "save_metrics=True" in text for text in said)
