"""Results are laid side by side in one place, whatever they stand along."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from devinterp.errors import ProvenanceError
from devinterp.slt.runs.results import lay_out, shared_attrs


def result(chains: int, draws: int, *, names: tuple[str, ...] = ("a", "b"), **coords: object) -> xr.Dataset:
    rng = np.random.default_rng(chains)
    return xr.Dataset(
        {
            "trace": (("wr", "chain", "draw"), rng.normal(size=(len(names), chains, draws)), {"units": "nat"}),
            "mean": 1.0,
        },
        coords={"wr": list(names), **coords},
    )


def test_what_is_shorter_is_filled_up_and_nothing_else_changes() -> None:
    results = {7: result(2, 3), 9: result(1, 5)}
    laid = lay_out(results, {"checkpoint": np.array([7, 9])}, what="checkpoints")
    assert laid["trace"].dims == ("checkpoint", "wr", "chain", "draw")
    assert laid["trace"].shape == (2, 2, 2, 5)
    assert laid["trace"].attrs == {"units": "nat"}
    for step, own in results.items():
        part = laid["trace"].sel(checkpoint=step)
        np.testing.assert_array_equal(part[:, : own.sizes["chain"], : own.sizes["draw"]], own["trace"])
        assert int(part.notnull().sum()) == own["trace"].size
    assert laid["mean"].dims == ("checkpoint",)


def test_places_that_are_not_taken_are_nan() -> None:
    axes = {"lr": np.array([0.1, 0.2]), "n_beta": np.array([1.0])}
    laid = lay_out({"x": result(1, 2)}, axes, {"x": (1, 0)}, what="cells")
    assert laid["trace"].dims == ("lr", "n_beta", "wr", "chain", "draw")
    assert laid["mean"].isnull().values.tolist() == [[True], [False]]


@pytest.mark.parametrize("other", [{"names": ("a", "c")}, {"names": ("b", "a")}, {"names": ("a",)}])
def test_other_labels_are_refused(other: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(ProvenanceError, match="different weight restrictions or rows"):
        lay_out({1: result(2, 3), 2: result(2, 3, **other)}, {"checkpoint": [1, 2]}, what="checkpoints")


def test_a_label_of_chains_or_draws_is_kept_where_all_have_it() -> None:
    kept = {"chain": [4, 2], "host": ("chain", ["x", "y"])}
    laid = lay_out({1: result(2, 3, **kept), 2: result(2, 3, **kept)}, {"checkpoint": [1, 2]}, what="checkpoints")
    assert laid["chain"].values.tolist() == [4, 2]
    assert laid["host"].values.tolist() == ["x", "y"]
    laid = lay_out({1: result(2, 3, **kept), 2: result(2, 3, chain=[4, 3])}, {"checkpoint": [1, 2]}, what="checkpoints")
    assert set(laid.coords) == {"checkpoint", "wr"}


def test_an_attribute_that_differs_is_told_for_each() -> None:
    results = {
        1: xr.Dataset(attrs={"over": "draws", "used": 3, "n": 1}),
        2: xr.Dataset(attrs={"over": "draws", "n": 2}),
    }
    assert shared_attrs(results) == {"over": "draws", "used": {"1": 3, "2": None}, "n": {"1": 1, "2": 2}}
    assert shared_attrs(results, each=("over",))["over"] == {"1": "draws", "2": "draws"}
