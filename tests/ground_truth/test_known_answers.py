"""sample() and the analyses, where the right answer is known: the quick part of ``make ground-truth``.

Intervals come from independent replicates within the run. Their level is 99.99 %, so that the suite as a whole may be
wrong about one run in five hundred, for any seed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

import targets  # noqa: E402
from known_cases import BASE, Case  # noqa: E402
from known_networks import gaussian_susceptibilities, susceptibility_replicates  # noqa: E402
from known_table import full_table, quick_table  # noqa: E402
from replicas import Replicas, effective_size, interval, readout  # noqa: E402

LEVEL = 0.9999


def run(case: Case) -> Any:
    from devinterp.slt.sampling import sample

    return sample(**case.arguments(), progress=False, device="cpu")


@pytest.mark.parametrize("case", quick_table(), ids=lambda c: c.name)
def test_exact_targets_lie_in_the_interval(case: Case) -> None:
    tree = run(case)
    for row in case.rows:
        estimate, low, high = interval(row.measure(tree), LEVEL)
        assert low <= row.target <= high, f"{row.label}: {row.target} not in [{low}, {high}], estimate {estimate}"
    assert effective_size(readout(tree, case.functions[0])) > 500


def test_compute_llc_gives_the_sum_over_copies() -> None:
    """The documented estimator itself, on the same run: n_beta (mean loss - init_loss)."""
    from devinterp.slt.llc import compute_llc

    case = quick_table()[0]
    tree = run(case)
    copies = tree.sizes["token_pos"]
    estimate, low, high = interval(case.rows[0].measure(tree), LEVEL)
    draws = float(compute_llc(tree)["llc_mean"]) / copies
    fixed = float(compute_llc(tree, over="observable", observable="loss")["llc_mean"])
    assert low <= draws <= high
    assert fixed == pytest.approx(estimate, rel=1e-5)


def test_a_wrong_target_is_rejected() -> None:
    """The intervals are narrow enough to tell the continuous-time law from the chain's own."""
    case = quick_table()[1]
    _, low, high = interval(case.rows[0].measure(run(case)), LEVEL)
    assert not low <= 1.0 <= high


def test_masks_move_only_what_they_name() -> None:
    """Half of a parameter is sampled and follows its own law; the other half, and the other parameter, stay put."""
    lr, n_beta = 0.02, 20.0
    variance = float(targets.stationary_variance(n_beta, lr))
    case = Case(
        "update rule",
        "half a mask",
        lambda: Replicas(
            {"x": np.zeros(2), "y": np.zeros(())},
            [
                lambda x, y: 0.5 * ((x**2).sum(1) + y**2),
                lambda x, y: x[:, 0] ** 2,
                lambda x, y: x[:, 1].abs() + y.abs(),
            ],
            256,
        ),
        ["loss", "moved", "kept"],
        {**BASE, "lr": lr, "n_beta": n_beta, "num_burnin_steps": 50, "num_draws": 50, "num_steps_bw_draws": 3,
         "param_masks": {"x": lambda model: torch.tensor([True, False]).expand(model.copies, 2)}},
    )  # fmt: skip
    tree = run(case)
    _, low, high = interval(readout(tree, "moved").mean(axis=1), LEVEL)
    assert low <= variance <= high
    assert not readout(tree, "kept").any()


def test_susceptibilities_of_gaussian_weights() -> None:
    full, part, ((_, target, _),) = gaussian_susceptibilities("x alone", num_chains=5, num_draws=40)
    estimate, low, high = interval(susceptibility_replicates(run(full), run(part)), LEVEL)
    assert low <= target <= high, f"{target} not in [{low}, {high}], estimate {estimate}"


def test_the_full_table_has_at_least_twenty_cases() -> None:
    table = full_table()
    assert len(table) >= 20
    assert len({case.name for case in table}) == len(table)
    assert {"update rule", "degenerate", "normal crossing", "BIF"} <= {case.group for case in table}


def test_the_page_has_every_case_and_none_that_was_missed() -> None:
    page = (Path(__file__).parents[2] / "docs" / "ground-truth.md").read_text(encoding="utf-8")
    assert [c.name for c in full_table() if f"| {c.group} | {c.name} |" not in page] == []
    assert "**" not in page, "a target lies outside its interval, or beyond the bound"
