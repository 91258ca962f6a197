from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import make_run, make_study
from scipy import special

from devinterp.errors import MissingVariableError
from devinterp.slt.llc import compute_llc
from devinterp.slt.runs.run import Samples
from devinterp.slt.susceptibilities import compute_susceptibilities
from devinterp.slt.uncertainty.batch_means import autocorrelation_time, mean_variance, share_seen
from devinterp.slt.uncertainty.intervals import (
    _combined_dof,
    _row_noise,
    llc_interval,
    minibatch_weight,
    t_interval,
)


def test_t_interval():
    low, high = t_interval(1.0, 4.0, 10, 0.9)
    assert (low + high) / 2 == pytest.approx(1.0)
    assert (high - low) / 2 == pytest.approx(2 * 1.8125, rel=1e-4)


def of(**settings):
    tree = make_run(batch=4, **settings)
    tree.attrs["metadata"]["provenance"] = {"dataset": {"rows": "x", "length": 40}}
    return Samples.of(tree)


def test_minibatch_weight_counts_how_often_each_minibatch_came():
    """Ten minibatches a pass; 8 in init_loss; 40 draws after 5 burn-in steps see each of the ten four times."""
    expected = 8 * (1 / 10 - 1 / 8) ** 2 + 2 * (1 / 10) ** 2
    assert minibatch_weight(of(), 40, "draws") == pytest.approx(expected)
    # Every minibatch in both: the noise of the rows cancels.
    assert minibatch_weight(of(num_init_loss_batches=10), 40, "draws") == pytest.approx(0.0, abs=1e-30)


def test_minibatch_weight_of_a_selection_takes_all_as_different():
    assert minibatch_weight(of(), 33, "draws") == pytest.approx(1 / 33 + 1 / 8)
    unknown = of()
    del unknown.metadata["provenance"]
    assert minibatch_weight(unknown, 40, "draws") == pytest.approx(1 / 40 + 1 / 8)


def test_minibatch_weight_over_steps_and_accumulation():
    # 45 steps of two micro-batches: 90 of ten, nine times each.
    expected = 10 * (9 / 90 - 0) ** 2 - 2 * 0.1 * 16 / 16 + sum((n / 16) ** 2 for n in [2] * 6 + [1] * 4)
    found = minibatch_weight(of(gradient_accumulation_steps=2), 45, "steps")
    assert found == pytest.approx(expected)


def test_the_interval_grows_with_the_noise_of_init_loss():
    tree = make_run()
    width = {}
    for batches in (1, 8, 512):
        tree.attrs["metadata"]["config"]["sampler"]["num_init_loss_batches"] = batches
        low, high = compute_llc(tree, ci=0.9)["llc_ci"].values
        width[batches] = high - low
    assert width[1] > 2 * width[8] > 2 * width[512]


def test_chains_that_share_minibatches_share_their_noise():
    """Independent copies of the same noise must not be averaged away over chains."""
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 0.5, (1, 60, 8))
    rows = np.repeat(2 + shared, 6, axis=0) + 0.001 * rng.normal(size=(6, 60, 8))
    run = Samples.of(make_run(chains=6, draws=60))
    settings = {"n_beta": 1.0, "level": 0.9, "over": "draws", "init_rows": np.full(6, 2.0)}
    low, high = llc_interval(run, rows, **settings)
    run.metadata["config"]["sampler"]["match_sampling_input_ids_across_chains"] = False
    apart = llc_interval(run, rows, **settings)
    assert high - low > 2 * (apart[1] - apart[0])


def test_an_interval_needs_to_know_the_rows_of_init_loss():
    tree = make_run()
    tree.attrs["metadata"]["config"]["sampler"].pop("num_init_loss_batches")
    with pytest.raises(MissingVariableError, match="over='observable'"):
        compute_llc(tree, ci=0.9)
    assert "llc_ci" in compute_llc(tree, ci=0.9, over="observable", observable="train")


@pytest.mark.parametrize("over", ["draws", "steps", "observable"])
def test_the_interval_contains_its_estimate(over):
    tree = make_run()
    steps = np.random.default_rng(0).normal(3, 0.1, (3, 45))
    data = tree.to_dataset().assign(step_loss=(("chain", "step"), steps))
    result = compute_llc(data, over=over, observable="train" if over == "observable" else None, ci=0.9)
    low, high = result["llc_ci"].values
    assert low < result["llc_mean"] < high
    assert result["llc_ci"].dims == ("bound",)
    wider = compute_llc(data, over=over, observable="train" if over == "observable" else None, ci=0.99)
    assert wider["llc_ci"][1] - wider["llc_ci"][0] > high - low


def test_sus_se_is_a_jackknife_over_the_batches():
    """Linearisation and leaving out one batch at a time agree where the batches are many."""
    study = make_study(("full", "a"), draws=400, chains=4, match_sampling_input_ids_across_chains=False)
    result = compute_susceptibilities(study, se=True, baseline="observable")["susceptibilities"]
    start = study["full"]["init_loss_train"].values.astype(np.float64).mean()
    values = {
        n: {k: t[f"loss_{k}"].values.astype(np.float64) for k in ("train", "code")} for n, t in study.children.items()
    }

    def estimate(keep):
        u, loss = (np.concatenate([values["a"][k][c, cut] for c, cut in keep["a"]]) for k in ("train", "code"))
        fu, fl = (np.concatenate([values["full"][k][c, cut] for c, cut in keep["full"]]) for k in ("train", "code"))
        phi = u.mean(axis=(1, 2)) - start
        gap = fu.mean() - fl.mean(axis=0)
        return (phi * u.mean(axis=(1, 2))).mean() - np.einsum("d,dbt->bt", phi, loss) / phi.size - phi.mean() * gap

    batches = [(c, slice(k, k + 40)) for c in range(4) for k in range(0, 400, 40)]
    variance = 0.0
    for name in ("a", "full"):
        left = []
        for out in batches:
            keep = {"a": batches, "full": batches, name: [b for b in batches if b != out]}
            left.append(estimate(keep))
        left = np.array(left)
        variance = variance + (len(batches) - 1) / len(batches) * ((left - left.mean(axis=0)) ** 2).sum(axis=0)
    found = result["sus_se"].values[:18, 0]
    np.testing.assert_allclose(found, np.sqrt(variance).ravel(), rtol=0.15)


@given(
    burnin=st.integers(0, 6), between=st.integers(1, 3), draws=st.integers(1, 6), accumulation=st.integers(1, 3),
    init=st.integers(1, 4), batches=st.integers(0, 7), over=st.sampled_from(["draws", "all steps", "steps"]),
)  # fmt: skip
def test_minibatch_weight_is_the_variance_of_the_difference(burnin, between, draws, accumulation, init, batches, over):
    """Every micro-batch of a pass is given a loss of variance 1, and the sampler's loader is walked through."""
    tree = make_run(
        draws=draws, batch=4, num_burnin_steps=burnin, num_steps_bw_draws=between, num_init_loss_batches=init,
        gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    tree.attrs["metadata"]["provenance"] = {"dataset": {"rows": "x", "length": 4 * batches + 3}}
    per_pass = max(1, batches)
    total = burnin + draws * between
    taken = [[(s * accumulation + k) % per_pass for k in range(accumulation)] for s in range(total)]
    used = {"draws": taken[burnin::between], "all steps": taken, "steps": taken[burnin:]}[over]
    start = [k % per_pass for k in range(init * accumulation)]
    flat = [m for step in used for m in step]
    difference = [flat.count(m) / len(flat) - start.count(m) / len(start) for m in range(per_pass)]
    found = minibatch_weight(Samples.of(tree), len(used), "draws" if over == "draws" else "steps")
    assert found == pytest.approx(sum(d**2 for d in difference), abs=1e-12)


@pytest.mark.parametrize("name", ["num_burnin_steps", "num_steps_bw_draws", "num_draws", "batch_size"])
def test_minibatch_weight_without_a_setting_takes_all_as_different(name):
    run = of(gradient_accumulation_steps=2)
    del run.metadata["config"]["sampler"][name]
    assert minibatch_weight(run, 40, "draws") == pytest.approx(1 / 80 + 1 / 16)


@pytest.mark.parametrize(("dof", "half"), [(1, 6.3138), (0.2, 6.3138), (4, 2.1318), (1e9, 1.6449)])
def test_t_interval_is_that_of_students_tables(dof, half):
    low, high = t_interval(-2.0, 9.0, dof, 0.9)
    assert (low, high) == (pytest.approx(-2 - 3 * half, abs=1e-3), pytest.approx(-2 + 3 * half, abs=1e-3))
    assert t_interval(5.0, 0.0, dof, 0.9) == (5.0, 5.0)


def test_degrees_of_freedom_of_a_sum_are_those_of_welch_and_satterthwaite():
    assert _combined_dof([(2.0, 7)]) == pytest.approx(7)
    assert _combined_dof([(2.0, 7), (2.0, 7)]) == pytest.approx(14)  # as of one sample twice as large
    assert _combined_dof([(2.0, 7), (0.0, 3)]) == pytest.approx(7)
    assert _combined_dof([(3.0, 6), (1.0, 2)]) == pytest.approx(16 / (9 / 6 + 1 / 2))
    assert _combined_dof([(0.0, 3), (0.0, 5)]) == 5


def test_the_variance_of_a_mean_is_unbiased_and_does_not_see_what_chains_share():
    rng = np.random.default_rng(0)
    runs = rng.normal(size=(300, 3, 40))
    shared = 5 * rng.normal(size=40)
    for centre in (False, True):
        estimates = [mean_variance(run, centre_over_chains=centre) for run in runs]
        variances = np.array([v for v, _ in estimates])
        error = variances.std() / np.sqrt(len(variances))
        assert abs(variances.mean() - 1 / 120) < 4 * error + 0.03 / 120
    for run, (variance, dof) in zip(runs[:5], estimates, strict=False):
        moved = mean_variance(run + shared, centre_over_chains=True)
        assert moved == (pytest.approx(variance), dof)
        assert dof % 2 == 0  # two of three chains are free, per batch
        assert mean_variance(run + shared)[0] > 5 * variance


def test_batches_of_a_mean_count_once_each():
    """Chains that stand still at -1 and 1: every batch sum is as far from the mean."""
    trace = np.repeat([[-1.0], [1.0]], 40, axis=1)
    trace += 1e-9 * np.random.default_rng(0).normal(size=trace.shape)
    variance, dof = mean_variance(trace)
    count = dof + 1
    assert count >= 4
    length = 80 / count
    time = autocorrelation_time(trace)
    expected = count * length**2 * count / (count - 1) / 80**2 / share_seen(time, length)
    assert variance == pytest.approx(expected)
    assert mean_variance(trace[:1, :1]) == (0.0, 1.0)
    assert mean_variance(trace[:1, :2])[0] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_noise_of_rows_is_their_spread_within_a_minibatch(accumulation):
    run = of(gradient_accumulation_steps=accumulation)
    rows = np.zeros((2, 5, 4)) + np.arange(5)[:, None] + np.array([-3.0, 3, -3, 3])
    assert _row_noise(run, rows) == (pytest.approx(12 / 4 * accumulation), 5 * 3)
    single = np.array([[1.0, -1, 1, -1], [3.0, 1, 3, 1]])[:, :, None]  # their mean goes up and down by two
    assert _row_noise(run, single) == (pytest.approx(2 * accumulation), 3)
    assert _row_noise(run, single[:, :1]) == (0.0, 1.0)


def still(chains=3, draws=40, rows=4, spread=3.0):
    """Rows whose mean never changes: all that is uncertain is which rows they are."""
    return np.full((chains, draws, rows), 2.0) + spread * np.resize([-1.0, 1.0], rows)


@pytest.mark.parametrize(("chains", "matched", "divided"), [(3, None, 1), (3, True, 1), (3, False, 3), (1, False, 1)])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_an_interval_of_still_chains_is_that_of_the_noise_of_rows(chains, matched, divided, accumulation):
    extra = {} if matched is None else {"match_sampling_input_ids_across_chains": matched}
    run = of(gradient_accumulation_steps=accumulation, **extra)
    rows = still(chains)
    low, high = llc_interval(run, rows, n_beta=30.0, level=0.9, over="draws", init_rows=np.array([0.5, 1.5]))
    noise = 9 * 4 / 3 / 4 * accumulation * minibatch_weight(run, 40, "draws") / divided
    assert (low + high) / 2 == pytest.approx(30 * (2.0 - 1.0))
    assert (high - low) / 2 == pytest.approx(30 * np.sqrt(noise) * special.stdtrit(40 * 3, 0.95), rel=1e-6)


def test_an_interval_over_an_observable_is_that_of_its_rows():
    rise = np.array([0.1, 0.4, 0.9, 0.2])
    rows = np.full((3, 40, 4), 2.0)
    low, high = llc_interval(of(), rows, n_beta=30.0, level=0.8, over="observable", init_rows=2.0 - rise)
    assert (low + high) / 2 == pytest.approx(30 * rise.mean())
    assert (high - low) / 2 == pytest.approx(30 * rise.std(ddof=1) / 2 * special.stdtrit(3, 0.9))
    alone = llc_interval(of(), rows[:, :, :1], n_beta=30.0, level=0.8, over="observable", init_rows=np.array([1.0]))
    assert alone == (pytest.approx(30.0), pytest.approx(30.0))


@given(st.integers(0, 50), st.sampled_from([0.0, 0.02, 1.0]), st.booleans())
def test_what_the_draws_add_to_the_spread_of_rows_counts_once(seed, spread, matched):
    """Each row at each draw has noise of its own: part of the mean's error by draws, and of the rows' means' spread."""
    rng = np.random.default_rng(seed)
    size = rng.normal(0.5, spread, 64)
    rows = 2.0 + rng.normal(size=(4, 100, 64))
    settings = {"n_beta": 1.0, "level": 0.9, "over": "observable", "init_rows": 2.0 - size}
    run = of(match_sampling_input_ids_across_chains=matched)
    low, high = llc_interval(run, rows, **settings)
    start, end = llc_interval(run, rows, given_rows=True, **settings)
    drawn = (end - start) / 2
    assert (high - low) / 2 >= drawn * 0.99 or spread == 0.0
    expected = 1.645 * np.hypot(drawn / 1.645, size.std(ddof=1) / 8)  # these rows, not what they were drawn from
    assert (high - low) / 2 == pytest.approx(expected, rel=0.25)


def test_what_moves_the_chains_adds_to_what_the_rows_do():
    rng = np.random.default_rng(1)
    moves = rng.normal(size=(3, 40, 1))
    for matched in (True, False):
        run = of(match_sampling_input_ids_across_chains=matched)
        settings = {"n_beta": 30.0, "level": 0.9, "over": "draws", "init_rows": np.array([1.0])}
        narrow, noisy = (llc_interval(run, moves + still(spread=s), **settings) for s in (0.0, 3.0))
        alone = mean_variance(moves[:, :, 0], centre_over_chains=matched)
        common = mean_variance(moves[:, :, 0].mean(axis=0)[None])
        for noise, (low, high) in ((0.0, narrow), (9 * 4 / 3 / 4, noisy)):
            batch = noise * minibatch_weight(run, 40, "draws") / (1 if matched else 3)
            # Chains that share minibatches also share what their noise does to the weights.
            moved = max(alone, (max(0.0, common[0] - noise / 40), common[1]))
            moved = moved if matched else (max(0.0, alone[0] - noise / 120), alone[1])
            dof = _combined_dof([moved, (batch, 120)])
            expected = 30 * np.sqrt(moved[0] + batch) * special.stdtrit(dof, 0.95)
            assert (high - low) / 2 == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    ["llc over=draws, fast", "llc over=observable, slow", "bif token, fast", "susceptibilities baseline=init, fast"],
)
def test_ninety_percent_intervals_cover_the_truth(case):
    """A short run of tests/benchmarks/analysis/coverage.py: 85 to 95 %, and 2.5 standard errors of 60 runs."""
    import importlib.util
    from pathlib import Path

    path = Path(__file__).parents[2] / "benchmarks" / "analysis" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_cases", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    covered, _, _ = module.coverage(case, 60, seed=1)
    error = 2.5 * np.sqrt(0.9 * 0.1 / 60)
    assert 0.85 - error < covered < min(1.0, 0.95 + error)
