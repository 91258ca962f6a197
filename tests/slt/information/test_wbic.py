from __future__ import annotations

import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from made_runs import fail_chain, make_run, make_series, make_study

from devinterp.errors import SettingError
from devinterp.slt.information.wbic import _samples_at, compute_wbic
from devinterp.slt.llc import compute_llc

N = 500


def at_temperature(tree: xr.DataTree, n: float = N) -> xr.DataTree:
    """The run, said to have been sampled at n / ln n."""
    tree["n_beta"] = n / math.log(n)
    return tree


def quadratic(n: int, curvatures: np.ndarray, localization: float, c: float, draws: int = 200_000) -> xr.DataTree:
    """Independent draws from the posterior of L = c + sum h w^2 / 2, prior N(0, 1 / localization), at n / ln n."""
    n_beta = n / math.log(n)
    w = np.random.default_rng(1).normal(size=(2, draws, len(curvatures))) / np.sqrt(n_beta * curvatures + localization)
    loss = c + 0.5 * (curvatures * w**2).sum(-1)
    variables = {
        "sampling_loss": (("chain", "draw", "batch", "token_pos"), loss[..., None, None]),
        "init_loss": (("chain", "token_pos"), np.full((2, 1), c)),
        "n_beta": ((), n_beta),
    }
    return xr.DataTree(xr.Dataset(variables))


@pytest.mark.parametrize("n", [100, 10_000])
def test_of_a_gaussian_posterior_it_is_the_closed_form(n):
    h, localization, c = np.array([1.0, 3.0, 0.2]), 2.0, 0.7
    result = compute_wbic(quadratic(n, h, localization, c), num_samples=n)
    n_beta = n / math.log(n)
    excess = 0.5 * n * (h / (n_beta * h + localization)).sum()
    assert float(result["wbic"]) == pytest.approx(n * c + excess, abs=0.02 * excess)
    assert float(result["fit"]) == pytest.approx(n * c)
    # Watanabe's theorem: the free energy of this posterior, up to what grows slower than ln n.
    free_energy = n * c + 0.5 * np.log1p(n * h / localization).sum()
    assert float(result["wbic"]) - free_energy == pytest.approx(0, abs=1.5)


def test_it_is_the_start_plus_ln_n_times_the_llc():
    tree = at_temperature(make_run())
    for over in ("draws", "observable"):
        options = {"over": over} | ({"observable": "train"} if over == "observable" else {})
        result, llc = compute_wbic(tree, **options), compute_llc(tree, **options)
        assert float(result["num_samples"]) == pytest.approx(N)
        assert float(result["complexity"]) == pytest.approx(math.log(N) * float(llc["llc_mean"]))
        assert float(result["wbic"]) == pytest.approx(float(result["fit"] + result["complexity"]))
        loss = tree["sampling_loss" if over == "draws" else "loss_train"].astype(float)
        assert float(result["wbic"]) == pytest.approx(N * float(loss.mean()))
        assert result.devinterp.report().ok, str(result.devinterp.report())
        assert result.devinterp.kind == "wbic"


def test_studies_and_series_have_it_side_by_side_and_failed_chains_are_left_out():
    study, series = make_study(), make_series()
    for node in [*study.children.values(), *(c for s in series.children.values() for c in s.children.values())]:
        at_temperature(node)
    result = compute_wbic(study)
    assert result["wbic"].dims == ("wr",)
    xr.testing.assert_allclose(result["wbic"].sel(wr="l0h0", drop=True), compute_wbic(study["l0h0"])["wbic"])
    along = series.devinterp.wbic(num_samples=N)
    assert along["wbic"].dims == ("checkpoint", "wr")
    assert along.devinterp.report().ok
    with pytest.warns(match="1 of 3 chains"):
        failed = compute_wbic(at_temperature(fail_chain(make_run(), 1, 9)))
    assert np.isnan(failed["wbic_per_chain"].values).tolist() == [False, True, False]
    assert failed.devinterp.report().ok


@pytest.mark.parametrize(
    ("n_beta", "options"),
    [(30.0, {"num_samples": 500}), (2.0, {}), (0.0, {}), (30.0, {"num_samples": 1}), (30.0, {"over": "tokens"})],
)
def test_another_temperature_is_refused(n_beta, options):
    tree = make_run()
    tree["n_beta"] = n_beta
    with pytest.raises(SettingError):
        compute_wbic(tree, **options)


@given(st.floats(1.0, 60.0))
def test_the_number_of_samples_is_that_of_the_temperature(log_n):
    n = math.exp(log_n)
    assert _samples_at(n / log_n) == pytest.approx(n, rel=1e-6 if log_n > 1.01 else 2e-2)
