"""The targets themselves: against closed forms, published values, and each other."""

from __future__ import annotations

import numpy as np
import pytest

scipy = pytest.importorskip("scipy")
import targets  # noqa: E402


@pytest.mark.parametrize("lr", [0.001, 0.05, 0.12])
def test_the_stationary_variance_is_the_fixed_point_of_the_update(lr: float) -> None:
    a = 30.0
    variance = float(targets.stationary_variance(a, lr))
    assert (1 - lr * a / 2) ** 2 * variance + lr == pytest.approx(variance, rel=1e-12)


def test_a_diverging_chain_has_no_variance() -> None:
    with pytest.raises(ValueError, match="diverges"):
        targets.stationary_variance(40.0, 0.1)


def test_the_kernel_law_of_a_quadratic_is_the_closed_form() -> None:
    grid, law = targets.kernel_law(lambda w: 10.0 * w, 0.08, -3.0, 3.0, 600)
    assert float((law * grid**2).sum()) == pytest.approx(float(targets.stationary_variance(10.0, 0.08)), rel=1e-6)


@pytest.mark.parametrize("lr", [0.02, 0.05])
def test_the_first_order_correction_is_what_the_kernel_says(lr: float) -> None:
    grid, law = targets.kernel_law(lambda w: 4 * w**3, lr, -3.0, 3.0, 800)
    exact, one = float((law * grid**4).sum()), np.ones_like(grid)
    corrected = targets.corrected_mean(grid**4, (4 * grid**3) ** 2, 12 * grid**2, grid**4, one, lr)
    assert abs(corrected - exact) < 0.15 * abs(exact - 0.25)  # what it leaves is of second order
    assert targets.corrected_mean(grid**4, one, one, grid**4, one, 0.0) == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize(("n_beta", "value"), [(1e2, 0.354), (1e3, 0.390), (1e4, 0.412)])
def test_a_normal_crossing_by_quadrature(n_beta: float, value: float) -> None:
    assert targets.crossing_llc((1, 1), n_beta, 1.0) == pytest.approx(value, abs=5e-4)


@pytest.mark.parametrize(
    ("powers", "value"), [((0, 1), 1 / 2), ((1, 1), 1 / 2), ((1, 2), 1 / 4), ((2, 2), 1 / 4), ((2, 3), 1 / 6)]
)
def test_lambda_of_normal_crossings(powers: tuple[int, int], value: float) -> None:
    assert targets.crossing_lambda(powers) == pytest.approx(value)


@pytest.mark.parametrize(
    ("shape", "value"), [((5, 3, 5), 6.5), ((5, 4, 5), 8), ((4, 3, 8), 6), ((8, 3, 4), 6), ((3, 8, 4), 6)]
)
def test_lambda_of_reduced_rank_regression(shape: tuple[int, int, int], value: float) -> None:
    """Aoyagi & Watanabe 2005."""
    assert targets.rank_regression_lambda(*shape, 0) == value
    assert targets.deep_linear_lambda(shape, 0) == pytest.approx(value)


@pytest.mark.parametrize(
    ("widths", "rank", "value"),
    [((4, 4, 4, 4), 0, 5.5), ((5, 5, 5, 5), 2, 11), ((10, 6, 8, 4), 1, 14), ((3, 3, 3, 3, 3), 1, 4)],
)
def test_lambda_of_deep_linear_networks(widths: tuple[int, ...], rank: int, value: float) -> None:
    """Aoyagi 2024."""
    assert targets.deep_linear_lambda(widths, rank) == pytest.approx(value)


def test_regression_by_quadrature_tends_to_lambda() -> None:
    values = [targets.rank_regression_llc(4, 3, 8, n_beta, 1.0) for n_beta in (1e2, 1e4, 1e6)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(6.0, rel=1e-3)
    assert targets.rank_regression_llc(8, 3, 4, 1e2, 1.0) == pytest.approx(values[0], rel=1e-3)
