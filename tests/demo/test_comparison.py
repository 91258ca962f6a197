from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from devinterp.demo.circuit import Circuit
from devinterp.demo.comparison import Comparison

NAMES = ("l0h0", "l0h1", "l1h0", "l1h1")


def comparison(sampled: list[float], noise: list[float], members: tuple[str, ...] = ("l0h1", "l1h0")) -> Comparison:
    circuit = Circuit(NAMES, np.array([0.1, 0.9, 0.8, 0.8]), np.array([0.0, 0.0, 0.4, 0.1]), members)
    wr = ("full", *NAMES)
    heads = xr.Dataset(
        {"copied": ("wr", [9.0, *sampled]), "task": ("wr", [9e3, 90.0, 200.0, 100.0, 80.0])}, {"wr": list(wr)}
    )
    columns = {"removed_copied": [0.0, 2.0, 2.5, 0.1], "noise_copied": noise, "control_copied": [1.0, 3.0, 2.0, 4.0]}
    columns |= {"noise_task": [0.2] * 4, "control_task": [0.4] * 4}
    held = xr.Dataset({name: ("wr", values) for name, values in columns.items()}, {"wr": list(NAMES)})
    return Comparison(circuit, heads, held, n_beta=1000.0)


def test_each_measure_is_asked_for_as_many_heads_as_attention_names() -> None:
    found = comparison([0.1, 0.5, 0.9, 0.2], [0.3, 0.2, 0.9, 0.1])
    assert found.agrees == {"sampling": True, "removal": True, "noise": False, "control": False}
    assert found.measures["attention"] == {"l0h0": 0.1, "l0h1": 0.9, "l1h0": 0.4, "l1h1": 0.1}
    assert found.ranks["removal"] == pytest.approx(1)
    assert found.ranks["noise"] == pytest.approx(1 - 6 * 6 / 60)


def test_shares_are_of_the_rise_on_training_rows() -> None:
    found = comparison([0.1, 0.5, 0.9, 0.2], [0.3, 0.2, 0.9, 0.1])
    np.testing.assert_allclose(found.share_of_control, [0.225, 0.5, 0.25, 0.2])
    np.testing.assert_allclose(found.share_of_noise, [0.45, 1.0, 0.5, 0.4])


def test_the_words_follow_the_numbers() -> None:
    apart = comparison([0.1, 0.5, 0.9, 0.2], [0.3, 0.2, 0.9, 0.1])
    assert apart.largest == ("l1h0", "l0h1")
    said = apart.sentence()
    assert "Sampling names the same heads" in said
    assert "part of the order is the posterior's" in said
    assert "l1h0 has the largest rise on copied bytes, but l0h1 the largest on training rows" in said
    alike = comparison([0.1, 0.9, 0.5, 0.6], [0.1, 0.9, 0.5, 0.6])
    said = alike.sentence()
    assert "Sampling names others" in said
    assert "no evidence for the posterior" in said
    assert "l0h1 has both" in said


def test_without_a_circuit_nothing_agrees() -> None:
    found = comparison([0.1, 0.5, 0.9, 0.2], [0.3, 0.2, 0.9, 0.1], members=())
    assert not any(found.agrees.values())
    assert "nothing to compare" in found.sentence()


@pytest.mark.parametrize(
    ("llc", "half", "said"),
    [
        ([5.0, 22.0, 17.0, 6.0], 2.0, "matters most to copying is not the one"),
        ([5.0, 22.0, 17.0, 6.0], 3.0, "intervals overlap"),
        ([5.0, 17.0, 22.0, 6.0], 9.0, "l1h0, whose sampling costs copied bytes the most, has the largest"),
    ],
)
def test_the_largest_llc_on_copied_text_is_claimed_only_where_the_intervals_tell(
    llc: list[float], half: float, said: str
) -> None:
    bounds = np.array(llc)[:, None] + np.array([-half, half])
    refined = xr.Dataset({"copied": ("wr", llc), "copied_ci": (("wr", "bound"), bounds)}, {"wr": list(NAMES)})
    sampled = comparison([0.1, 0.5, 0.9, 0.2], [0.3, 0.2, 0.9, 0.1])
    sentence = sampled.refined_sentence(refined, 200.0)
    assert said in sentence
    assert f"{max(llc):.1f} ± {half:.1f}" in sentence
    none = comparison([0.1, 0.5, 0.9, 0.2], [0.3, 0.2, 0.9, 0.1], members=())
    assert "no induction circuit" in none.refined_sentence(refined, 200.0)
