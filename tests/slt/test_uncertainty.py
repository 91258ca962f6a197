from __future__ import annotations

import numpy as np
import pytest
from made_runs import make_run, make_study

from devinterp.errors import MissingVariableError
from devinterp.slt._samples import Samples
from devinterp.slt.llc import compute_llc
from devinterp.slt.susceptibilities import compute_susceptibilities
from devinterp.slt.uncertainty import (
    init_loss_variance,
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


def test_init_loss_variance_is_that_of_its_rows():
    tree = make_run()
    run = Samples.of(tree)
    rows = tree["init_loss_train"].values.astype(np.float64).mean(axis=1)
    variance, dof = init_loss_variance(run, "train")
    assert variance == pytest.approx(rows.var(ddof=1) / 32)
    assert dof == 4
    # Eight minibatches of four of a dataset of 40: four fifths of the rows were seen.
    assert init_loss_variance(of(), "train")[0] == pytest.approx(rows.var(ddof=1) / 32 / 5)
    assert init_loss_variance(of(num_init_loss_batches=12), "train")[0] == 0.0


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
    study = make_study(("full", "a"), draws=400, chains=4)
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    ["llc over=draws, fast", "llc over=observable, slow", "bif token, fast", "susceptibilities baseline=init, fast"],
)
def test_ninety_percent_intervals_cover_the_truth(case):
    """A short run of tests/benchmarks/analysis/coverage.py: 85 to 95 %, and 2.5 standard errors of 60 runs."""
    import importlib.util
    from pathlib import Path

    path = Path(__file__).parents[1] / "benchmarks" / "analysis" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_cases", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    covered, _, _ = module.coverage(case, 60, seed=1)
    error = 2.5 * np.sqrt(0.9 * 0.1 / 60)
    assert 0.85 - error < covered < min(1.0, 0.95 + error)
