"""The inflation of SGLD's own stationary law, known for a quadratic, and what is said of it."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import make_run, make_series, make_study
from simulated import Quadratic, Regression, simulate

import devinterp
from devinterp.errors import StepBiasWarning
from devinterp.slt.diagnostics import diagnose
from devinterp.slt.diagnostics.step_bias import least_inflation, relaxation_steps, step_bias, warn_of_step
from devinterp.slt.llc import compute_llc
from devinterp.slt.runs.results import told
from devinterp.slt.runs.run import Samples


@given(st.floats(1e-6, 1.0), st.floats(1e-3, 1e4), st.floats(0, 1e3))
def test_the_bound_is_that_of_a_direction_that_the_prior_alone_holds(lr, localization, decay):
    """Var(w) of w <- (1 - lr a / 2) w + sqrt(lr) N, over 1 / a."""
    a = localization + decay
    factor = 1 - lr * a / 2
    chosen = {"lr": lr, "localization": localization, "llc_weight_decay": decay}
    if abs(factor) < 1 - 1e-9:
        assert least_inflation(chosen) == pytest.approx(a * lr / (1 - factor**2), rel=1e-5)
        assert relaxation_steps(chosen) == pytest.approx(2 / (lr * a))
    elif lr * a >= 4:
        assert least_inflation(chosen) == np.inf


def test_rmsprop_has_its_preconditioner_in_the_bound():
    plain = {"lr": 1e-3, "localization": 30.0}
    rmsprop = {**plain, "sampling_method": "rmsprop_sgld", "rmsprop_eps": 0.1}
    assert least_inflation(rmsprop) == pytest.approx(1 / (1 - 10 * 0.03 / 4))
    assert relaxation_steps(rmsprop) == pytest.approx(relaxation_steps(plain) / 10)
    assert least_inflation({**rmsprop, "rmsprop_eps": 0.0}) == np.inf
    assert least_inflation({"lr": 1e-3}) is None
    assert least_inflation({"lr": 1e-3, "localization": 0.0}) == 1.0


ROTATED = np.linalg.qr(np.random.default_rng(0).normal(size=(30, 30)))[0]


class Mixed(Quadratic):
    """A few steep directions, none of them along a weight."""

    def gradient(self, w, rng, step):
        return ((w @ ROTATED) * self.h) @ ROTATED.T

    def losses(self, w):
        return super().losses(w @ ROTATED)


@pytest.mark.parametrize(
    ("model", "lr", "eps"),
    [
        (Quadratic(np.linspace(0.2, 3, 30)), 5e-4, 0.1),
        (Quadratic(np.linspace(0.2, 3, 30)), 2e-3, 0.01),
        (Quadratic(np.concatenate([np.full(5, 3.0), np.zeros(100)])), 2e-3, 0.1),
        (Mixed(np.concatenate([np.full(5, 3.0), np.zeros(25)])), 2e-3, 0.01),  # the step's bias 1.5 of a mean 1.16
    ],
    ids=["linspace", "steeper", "few steep", "mixed"],
)
def test_of_rmsprop_the_step_and_what_follows_the_weights_are_told(model, lr, eps):
    own = {"n_beta": 30.0, "localization": 20.0, "lr": lr}
    (run,) = simulate(model, runs=1, seed=0, chains=12, draws=600, burnin=600, between=3, rmsprop=(eps, 0.99), **own)
    found = diagnose(run)
    said = found.step_bias.inflation * found.step_bias.preconditioner
    assert said == pytest.approx(found.llc / model.llc(n_beta=30.0, localization=20.0), rel=0.04)
    assert found.good == (found.step_bias.inflation <= 1.1)


def test_the_smaller_the_steps_of_rmsprop_the_more_its_preconditioner_adds():
    model, own = Quadratic(np.full(60, 1.0)), {"n_beta": 30.0, "localization": 20.0, "rmsprop": (0.1, 0.99)}
    run, *_ = simulate(model, runs=1, seed=0, draws=300, burnin=500, between=8, lr=1e-4, **own)
    found = diagnose(run)
    more = found.llc / model.llc(n_beta=30.0, localization=20.0)
    assert more > 1.1  # 1.17: of the step it is 1.005
    assert found.step_bias.inflation < 1.01
    assert more <= found.step_bias.preconditioner < 1.3
    assert "rmsprop_alpha" in str(found) or not found.good
    (run,) = simulate(
        model, runs=1, seed=0, draws=400, burnin=500, between=10, lr=1e-4, **{**own, "rmsprop": (0.1, 0.9995)}
    )
    assert diagnose(run).step_bias.preconditioner < 1.05


@pytest.mark.parametrize("largest", [0.3, 1.0, 2.0, 3.6])
def test_the_metrics_tell_the_inflation_of_the_llc(largest):
    model = Quadratic(np.concatenate([np.linspace(0.2, 3, 10), np.zeros(90)]))
    own = {"n_beta": 30.0, "localization": 20.0, "lr": largest / 110.0}
    (run,) = simulate(model, runs=1, seed=0, draws=3000, burnin=300, **own)
    truth = model.llc(**own) / model.llc(n_beta=30.0, localization=20.0)
    result = compute_llc(run, over="observable")
    assert result.attrs["step_inflation"] == pytest.approx(truth, rel=0.05)
    assert result.attrs["step_inflation_is"] == "measured"
    # Over all weights on average, as it is told of runs without localization, it is drowned by the flat ones.
    sampler = {**run.attrs["metadata"]["config"]["sampler"], "localization": 0.0}
    run.attrs = {"metadata": {**run.attrs["metadata"], "config": {"sampler": sampler}}}
    weights = step_bias(Samples.of(run), [0, 1, 2, 3])
    assert weights is not None
    assert weights.inflation == pytest.approx(1 / (1 - own["lr"] * 20 / 4), rel=0.3)


@cache
def small_runs():
    return simulate(Quadratic(np.linspace(0.2, 3, 10)), runs=1, seed=0, n_beta=30.0, localization=20.0, lr=3e-3)


@settings(max_examples=10, deadline=None)
@given(st.floats(-3, 3))
def test_the_inflation_owes_nothing_to_what_is_observed(power):
    """Rows on which the loss rises by another amount than on the sampled ones."""
    (run,) = small_runs()
    other = run.assign({n: run[n].astype(np.float64) * 10.0**power for n in ("loss_train", "init_loss_train")})
    assert diagnose(other).step_bias == diagnose(run).step_bias


class Quartic(Quadratic):
    """``level + sum h w**4``: homogeneous of degree four, as of a singular direction."""

    def gradient(self, w, rng, step):
        return 4 * self.h * w**3

    def losses(self, w):
        return self.start() + (self.h * w**4).sum(axis=-1)[..., None]


@pytest.mark.parametrize("lr", [2e-3, 3e-3])
def test_the_inflation_of_a_loss_of_another_degree_is_right_too(lr):
    h, n_beta, localization = 10.0, 100.0, 4.0
    own = {"n_beta": n_beta, "localization": localization, "lr": lr}
    (run,) = simulate(Quartic(np.full(200, h)), runs=1, seed=0, draws=1000, burnin=500, **own)
    w = np.linspace(-3, 3, 20001)
    weight = np.exp(-n_beta * h * w**4 - localization * w**2 / 2)
    truth = 200 * n_beta * (h * w**4 * weight).sum() / weight.sum()
    found = diagnose(run)
    inflation = found.llc / truth  # 1.08 and 1.14
    assert found.step_bias.inflation - 1 == pytest.approx(inflation - 1, rel=0.15)


def test_minibatch_noise_inflates_the_weights_and_is_told_apart():
    model, own = Regression(4, 1024, 4, 64), {"n_beta": 100.0, "localization": 20.0, "lr": 0.3 / 120}
    (run,) = simulate(model, runs=1, seed=0, draws=2000, burnin=300, **own)
    found = step_bias(Samples.of(run), [0, 1, 2, 3], llc=diagnose(run).llc)
    assert found.inflation > 2  # (1 + y) / (1 - x) with y = 1.6
    assert found.noise_share > 0.3
    codes = {v.code for v in diagnose(run).verdicts}
    assert "gradient_noise" in codes
    larger = simulate(Regression(4, 1024, 512, 64), runs=1, seed=0, draws=2000, burnin=300, **own)[0]
    assert "gradient_noise" not in {v.code for v in diagnose(larger).verdicts}


def test_what_is_not_known_is_not_said():
    run = make_run()
    del run.attrs["metadata"]["config"]["sampler"]["lr"]
    assert step_bias(Samples.of(run), [0]) is None
    assert "step_inflation" not in compute_llc(run).attrs
    assert "an unknown factor" in str(diagnose(run))


def test_the_results_of_studies_and_series_carry_it():
    study = compute_llc(make_study(), over="observable")
    assert told(study.attrs, "step_inflation") == {n: pytest.approx(1.0025, abs=1e-4) for n in ("full", "l0h0", "l1h2")}
    series = compute_llc(make_series(), over="observable")
    assert told(series.attrs, "step_inflation_is") == {"full": "lower bound", "l0h0": "lower bound"}
    assert devinterp.validate(study).ok
    assert devinterp.validate(series).ok


def flat():
    """A model of six weights, whose loss is half their squares."""
    import torch

    class Weights(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(6))

        def forward(self, ids):
            return 0.5 * (self.w**2).sum() + torch.zeros(ids.shape[0], 1)

    return Weights()


ROWS = np.zeros((8, 2), dtype=np.int64)
COMMON = {
    "num_draws": 4, "batch_size": 8, "batches_per_draw": 1, "progress": False, "n_beta": 10.0,
    "loss_fn": lambda model, ids: model(ids), "num_chains": 2,
}  # fmt: skip


@pytest.mark.needs("torch")
def test_sampling_warns_before_it_starts():
    seen = []

    def loss(model, ids):
        seen.append(1)
        return model(ids)

    own = {**COMMON, "loss_fn": loss, "lr": 1e-3}
    with warnings.catch_warnings():
        warnings.simplefilter("error", StepBiasWarning)
        with pytest.raises(StepBiasWarning, match=r"lr \* localization is 1; .* 1\.33 times .* lr = 0.0003 .* 4 times"):
            devinterp.sample(flat(), ROWS, {"train": ROWS}, localization=1000.0, **own)
        assert not seen
        devinterp.sample(flat(), ROWS, {"train": ROWS}, localization=360.0, **own)


@pytest.mark.needs("torch")
def test_studies_warn_once_at_the_callers_line():
    own = {**COMMON, "lr": 1e-3, "localization": 1000.0, "sampling_task": "train"}
    with pytest.warns(StepBiasWarning) as caught:
        devinterp.sample_restrictions(flat(), ROWS, {"train": ROWS}, {"full": None, "w": "w"}, **own)
    assert [each.filename for each in caught] == [__file__]


@pytest.mark.needs("torch")
def test_series_warn_once_at_the_callers_line():
    from devinterp.slt.sampling import sample_checkpoints

    own = {**COMMON, "lr": 1e-3, "localization": 1000.0, "sampling_task": "train"}
    with pytest.warns(StepBiasWarning) as caught:
        sample_checkpoints(lambda step: flat(), (1, 2), ROWS, {"train": ROWS}, **own)
    assert [each.filename for each in caught] == [__file__]


@pytest.mark.needs("torch")
def test_one_call_warns_at_the_callers_line():
    from devinterp.slt.llc import llc

    with pytest.warns(StepBiasWarning) as caught:
        llc(flat(), ROWS, {"train": ROWS}, **{**COMMON, "lr": 1e-3, "localization": 1000.0})
    assert {each.filename for each in caught} == {__file__}


def test_the_worst_of_several_is_named():
    with pytest.warns(StepBiasWarning, match="from 4 on a direction that the loss leaves flat diverges"):
        warn_of_step([{"lr": 1e-3, "localization": g} for g in (1.0, 1e3, 1e4)])
    rmsprop = {"sampling_method": "rmsprop_sgld", "rmsprop_eps": 0.1}
    with pytest.warns(StepBiasWarning, match="10 times that where gradients are far below rmsprop_eps; there"):
        warn_of_step([{"lr": 1e-3, "localization": 100.0, **rmsprop}])
    warn_of_step([])
