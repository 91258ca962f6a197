from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from devinterp.demo.analysis import Influence, auc, head_effects, influence, rank_correlation
from devinterp.demo.corpus import KINDS


@pytest.mark.parametrize(
    ("scores", "positive", "expected"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], 1.0),
        ([4, 3, 2, 1], [0, 0, 1, 1], 0.0),
        ([1, 1, 1, 1], [0, 1, 0, 1], 0.5),
        ([1, 2, 3], [0, 1, 0], 0.5),
        ([1, 2, 2, 3], [0, 0, 1, 1], 0.875),
    ],
)
def test_auc_counts_pairs_and_ties_by_half(scores: list[float], positive: list[int], expected: float) -> None:
    assert auc(np.array(scores, float), np.array(positive, bool)) == pytest.approx(expected)


def run(rise: float = 0.0, spread: float = 0.3) -> xr.DataTree:
    """A run in memory: windows of one kind share their noise, and ``repeated`` shares that of snippets."""
    rng, chains, draws, rows, positions = np.random.default_rng(0), 4, 50, 6, 64
    noise = {name: rng.normal(0, 1, (chains, draws, 1, 1)) for name in KINDS}
    noise["repeated"] = noise["snippets"]
    variables: dict[str, object] = {"n_beta": 30.0}
    for name in ("train", *KINDS, "repeated"):
        dims = (f"batch_{name}", "token_pos")
        start = rng.uniform(1, 2, (rows, positions))
        own = rng.normal(0, 1, (chains, draws, rows, positions)) * 2
        loss = start + rise + spread * (own + noise.get(name, 0))
        variables[f"loss_{name}"] = (("chain", "draw", *dims), loss.astype(np.float32))
        variables[f"init_loss_{name}"] = (dims, start.astype(np.float32))
        variables[f"input_ids_{name}"] = ((f"batch_{name}", "token"), rng.integers(0, 257, (rows, positions + 1)))
    return xr.DataTree(xr.Dataset(variables))


def test_influence_finds_shared_noise_and_the_null_is_chance() -> None:
    found = influence(run(), permutations=100)
    assert isinstance(found, Influence)
    assert found.matrix.shape == (30, 30)
    assert found.auc > 0.99
    assert found.null.mean() == pytest.approx(0.5, abs=0.02)
    assert found.null.max() < 0.7
    assert found.agreement > 0.8
    assert found.between("snippets", "repeated") > 0.8
    assert abs(found.between("snippets", "code")) < 0.2
    same, other = found.same_kind
    assert len(same) == 4 * 15
    assert len(other) == 24 * 23 // 2 - len(same)


def test_head_effects_are_the_rise_over_the_same_rows_and_on_training_rows_n_beta_times_it() -> None:
    study = xr.DataTree.from_dict({"/full": run(0.2, spread=0.01), "/l0h0": run(0.05, spread=0.01)})
    found = head_effects(study)
    for name, expected in (("copied", [0.2, 0.05]), ("task", [6.0, 1.5])):
        np.testing.assert_allclose(found[name].sel(wr=["full", "l0h0"]), expected, rtol=0.15)
        assert (found[f"{name}_ci"].isel(bound=0) <= found[name]).all()
        assert (found[name] <= found[f"{name}_ci"].isel(bound=1)).all()


def test_rank_correlation_is_that_of_the_order() -> None:
    values = np.array([0.1, 5.0, -2.0, 0.2])
    assert rank_correlation(values, np.exp(values)) == pytest.approx(1)
    assert rank_correlation(values, -values) == pytest.approx(-1)
    assert rank_correlation(np.array([1.0, 2, 3, 4]), np.array([2.0, 1, 4, 3])) == pytest.approx(0.6)
