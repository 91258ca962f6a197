"""The limit of LLCs over temperatures: against integrals of singular models, and sweeps whose LLC is known."""

from __future__ import annotations

import numpy as np
import pytest
import targets
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sweeps import make_sweep

import devinterp
from devinterp.errors import SettingError
from devinterp.slt.sweep.temperature import compute_temperature, fit

DECADES = np.geomspace(1e2, 1e5, 4)


def crossing(powers):
    return np.array([targets.crossing_llc(powers, t, 1.0) for t in DECADES])


@pytest.mark.parametrize(("powers", "limit"), [((1, 1), 0.5), ((2, 2), 0.25)])
def test_a_crossing_of_multiplicity_two_is_told_from_one(powers, limit):
    """Whose LLC at the largest n_beta of 100000 is still 15 and 25 % too small."""
    llc, error = crossing(powers), np.full(4, 2e-3)
    found = {m: fit(np.log(DECADES), llc, error, m, 0.9) for m in (1, 2)}
    assert llc[-1] < 0.86 * limit
    assert found[1][2] > 100  # chi-square of three degrees of freedom
    assert found[2][2] < 4
    assert found[2][0] == pytest.approx(limit, rel=0.02)
    assert found[2][1][0] < limit < found[2][1][1]


def test_a_regular_model_needs_no_more_than_one():
    llc, error = crossing((0, 1)), np.full(4, 5e-3)
    one, two = (fit(np.log(DECADES), llc, error, m, 0.9) for m in (1, 2))
    assert one[2] < 1
    assert one[1][0] < 0.5 < one[1][1]
    assert one[2] - two[2] < 1  # nothing speaks for two


def test_intervals_hold_the_limit():
    """Of 400 scans of a model of multiplicity two, with errors of 3 %."""
    rng, truth = np.random.default_rng(0), 0.5 - 1 / (np.log(DECADES) + 2.4)
    error = 0.03 * truth
    held = sum(
        low <= 0.5 <= high
        for _ in range(400)
        for low, high in [fit(np.log(DECADES), truth + error * rng.normal(size=4), error, 2, 0.9)[1]]
    )
    assert 0.86 < held / 400 < 0.95


@settings(max_examples=20)
@given(st.floats(-8, 8), st.integers(1, 3), st.integers(0, 1000))
def test_the_unit_of_the_loss_is_of_no_account(power, m, seed):
    """Losses in another unit shift ln n_beta, and leave LLCs as they are."""
    llc = np.random.default_rng(seed).uniform(0.3, 0.6, 4)
    one, other = (fit(np.log(DECADES) + shift, llc, np.full(4, 0.01), m, 0.9) for shift in (0.0, power))
    assert one[0] == pytest.approx(other[0], rel=1e-9)
    np.testing.assert_allclose(one[1], other[1], rtol=1e-9)


@pytest.fixture(scope="module")
def sweep():
    """50 regular directions: at these n_beta localization takes less than a hundredth."""
    return make_sweep((1e-5, 2e-4), (0.0, 1e3, 3e3, 1e4, 3e4), (1.0,), draws=600, burnin=600)


def test_the_limit_of_a_sweep(sweep):
    found = sweep.devinterp.temperature(largest=2)
    assert devinterp.validate(found).ok
    assert found.sizes == {"lr": 2, "localization": 1, "multiplicity": 2, "bound": 2}
    assert found["num_cells"].values.tolist() == [[4], [3]]  # n_beta of 3e4 diverges at the longer step
    cells = sweep.devinterp.sweep().sel(lr=1e-5, localization=1.0, n_beta=slice(1, None))
    weights = 1 / cells["llc_se"].values ** 2
    one = found.sel(lr=1e-5, localization=1.0, multiplicity=1)
    assert float(one["limit"]) == pytest.approx((cells["llc_mean"].values * weights).sum() / weights.sum())
    assert float(one["limit"]) == pytest.approx(25, rel=0.15)
    assert one["limit_ci"].values[0] < one["limit"] < one["limit_ci"].values[1]
    assert np.isnan(sweep.isel(cell=[0, 1]).devinterp.temperature()["limit"]).all()


@pytest.mark.parametrize("wrong", [{"largest": 0}, {"largest": 1.5}, {"largest": True}, {"ci": 1.0}])
def test_what_cannot_be_asked_is_refused(sweep, wrong):
    with pytest.raises(SettingError):
        compute_temperature(sweep, **wrong)
