"""The LLC of a quadratic in every cell of a sweep over n_beta and localization.

½ Σ nβh / [a (1 - εa/4)] with a = nβh + γ: exact at any step size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

import targets  # noqa: E402
from replicas import Replicas, interval, readout, run_arguments  # noqa: E402

CURVATURES = (0.5, 1.0, 3.0)
LR = 0.02
N_BETA, LOCALIZATION = (5.0, 10.0, 20.0), (2.0, 5.0, 10.0)
LEVEL = 1 - 1e-3 / 12  # so that the intervals of all twelve cells hold together at 99.9 %


@pytest.fixture(scope="module")
def tree() -> Any:
    from devinterp import sweep

    h = torch.tensor(CURVATURES)
    model = Replicas({"w": np.zeros(len(CURVATURES))}, [lambda w: 0.5 * (h * w**2).sum(1)], 512)
    # The slowest direction forgets in 2 / (0.02 * 2) = 50 steps, without loss; its variance in half of that.
    return sweep(
        **run_arguments(model, ["loss"]),
        grid={"lr": [LR], "n_beta": N_BETA, "localization": LOCALIZATION},
        sampling_task="loss",
        num_chains=1,
        num_draws=30,
        pilot_draws=20,
        extend=2,
        num_burnin_steps=130,
        num_steps_bw_draws=5,
        device="cpu",
        progress=False,
    )


def replicates(tree: Any, n_beta: float, localization: float) -> Any:
    return readout(tree[f"lr=0.02,n_beta={n_beta:g},localization={localization:g}"], "loss").mean(axis=1)


def test_every_cell_holds_its_formula_whether_extended_or_not(tree: Any) -> None:
    summary = tree.devinterp.sweep().squeeze("lr")
    for n_beta in N_BETA:
        for localization in LOCALIZATION:
            known = targets.quadratic_llc(CURVATURES, n_beta, localization, LR)
            estimate, low, high = interval(n_beta * replicates(tree, n_beta, localization), LEVEL)
            assert low <= known <= high, f"{n_beta}, {localization}: {known} not in [{low}, {high}]"
            assert high - low < 0.2 * known, "narrow enough to tell the cells apart"
            found = summary.sel(n_beta=n_beta, localization=localization)
            assert float(found["llc_mean"]) == pytest.approx(estimate, rel=1e-5)
            # Measured on the sum over all copies, which is sampled, where one of them is observed.
            step = known / targets.quadratic_llc(CURVATURES, n_beta, localization, 0.0)
            assert float(found["step_inflation"]) == pytest.approx(step, rel=2e-3)
            assert (str(found["verdict"].values) == "step_bias") == (step > 1.1)
            assert int(found["num_draws"]) == (30 if step < 1.1 else 20)  # those two alone may become good


def test_the_control_rises_as_localization_alone_allows(tree: Any) -> None:
    summary = tree.devinterp.sweep().squeeze("lr")
    assert (summary["llc_mean"].sel(n_beta=0) == 0).all()
    for localization in LOCALIZATION:
        known = 0.5 * sum(CURVATURES) * float(targets.stationary_variance(localization, LR))
        _, low, high = interval(replicates(tree, 0, localization), LEVEL)
        assert low <= known <= high, f"{localization}: {known} not in [{low}, {high}]"
