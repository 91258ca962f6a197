"""Results laid side by side, in one place; and analyses of a series along ``checkpoint``, or why there is none."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from made_runs import make_series, make_study

import devinterp
from devinterp.errors import MissingVariableError, ProvenanceError
from devinterp.slt.llc import compute_llc
from devinterp.slt.runs.results import told
from devinterp.slt.runs.side_by_side import lay_out, shared_attrs
from devinterp.slt.susceptibilities import compute_susceptibilities
from devinterp.slt.susceptibilities.by_observable import flatten, unflatten
from devinterp.slt.susceptibilities.split_half import split_half


@pytest.fixture(scope="module")
def series():
    return make_series()


def test_the_llc_stands_along_checkpoints_and_restrictions(series):
    result = series.devinterp.llc(over="observable", ci=0.9)
    assert result["llc_mean"].dims == ("checkpoint", "wr")
    assert result["llc_ci"].dims == ("checkpoint", "wr", "bound")
    assert result["checkpoint"].values.tolist() == [100, 1000, 3000]
    assert devinterp.validate(result).ok
    for step in (100, 1000, 3000):
        alone = compute_llc(series[f"{step}/l0h0"], over="observable", observable="train", ci=0.9)
        here = result.sel(checkpoint=step, wr="l0h0")
        assert here["llc_mean"].item() == alone["llc_mean"].item()
        np.testing.assert_array_equal(here["llc_ci"], alone["llc_ci"])


def test_susceptibilities_stand_along_checkpoints(series):
    result = series.devinterp.susceptibilities(se=True, terms=True)
    sus = result["susceptibilities"]
    assert sus["sus"].dims == ("checkpoint", "sus_flat", "wr")
    assert devinterp.validate(result).ok
    for i, step in enumerate((100, 1000, 3000)):
        alone = compute_susceptibilities(series[str(step)], se=True, terms=True)["susceptibilities"]
        for name in ("sus", "sus_se", "sus_cov", "sus_shift"):
            np.testing.assert_array_equal(sus[name][i], alone[name])
    xr.testing.assert_identical(flatten(unflatten(result)), result)


def test_halves_of_the_chains_agree_checkpoint_by_checkpoint(series):
    found = series.devinterp.split_half()
    assert found["reproducibility"].dims == ("checkpoint", "wr")
    alone = split_half(series["1000"])
    xr.testing.assert_equal(found.sel(checkpoint=1000, drop=True), alone)


def test_a_diagnosis_names_every_run_by_checkpoint_and_restriction(series):
    found = series.devinterp.diagnose()
    assert list(found) == [100, 1000, 3000]
    assert list(found[1000]) == ["full", "l0h0"]
    assert found[1000]["l0h0"].rise == series["1000"].devinterp.diagnose()["l0h0"].rise
    assert list(found.runs)[:2] == ["100/full", "100/l0h0"]
    assert str(found).startswith("100/full: ")
    assert set(found.to_dict()) == {"100", "1000", "3000"}
    assert found.good == all(d.good for d in found.runs.values())


def test_a_selection_along_checkpoint_is_what_is_analysed(series):
    some = series.isel(checkpoint=[2, 0]).devinterp.llc()
    assert some["checkpoint"].values.tolist() == [3000, 100]
    late = series.sel(checkpoint=slice(1000, None))
    assert late.devinterp.llc()["checkpoint"].values.tolist() == [1000, 3000]
    assert list(late.devinterp.diagnose()) == [1000, 3000]
    assert series.isel(draw=slice(10, None)).devinterp.llc().sizes["checkpoint"] == 3


def test_one_checkpoint_is_a_study(series):
    one = series.sel(checkpoint=1000)
    assert one.devinterp.kind == series["1000"].devinterp.kind == "study"
    xr.testing.assert_identical(one.devinterp.llc(ci=0.9), series["1000"].devinterp.llc(ci=0.9))
    xr.testing.assert_identical(one.devinterp.susceptibilities(), series["1000"].devinterp.susceptibilities())
    xr.testing.assert_identical(one.devinterp.split_half(), series["1000"].devinterp.split_half())
    assert list(one.devinterp.diagnose()) == ["full", "l0h0"]


def test_an_empty_selection_is_refused(series):
    with pytest.raises(MissingVariableError, match="no checkpoint"):
        series.sel(checkpoint=slice(5000, None)).devinterp.llc()


@pytest.mark.parametrize("call", ["bif", "to_arviz"])
def test_what_is_of_one_run_says_how_to_choose_it(series, call):
    if call == "bif":  # which a series has, along its checkpoints
        assert series.devinterp.bif().sizes["checkpoint"] == 3
    else:
        with pytest.raises(MissingVariableError, match=r"series of 3 checkpoints.*tree\['3000/full'\]"):
            getattr(series.devinterp, call)()
    with pytest.raises(MissingVariableError, match=r"study of 2 weight restrictions.*tree\['1000/full'\]"):
        getattr(series.sel(checkpoint=1000).devinterp, call)()
    with pytest.raises(MissingVariableError, match=r"study of 2 weight restrictions.*tree\['full'\]"):
        getattr(series["1000"].devinterp, call)()
    assert getattr(series["1000/full"].devinterp, call)() is not None


@pytest.mark.parametrize("setting", ["n_beta", "localization", "lr", "noise_level", "bounding_box_size"])
def test_checkpoints_of_different_settings_make_no_curve_unless_asked_for(setting):
    mixed = make_series((100, 1000), **{setting: lambda step: step / 1000})
    with pytest.raises(ProvenanceError, match=f"{setting} of 'full' is 0.1 at checkpoint 100, 1.0 at checkpoint 1000"):
        mixed.devinterp.llc()
    with pytest.raises(ProvenanceError, match="allow_mixed=True"):
        mixed.devinterp.susceptibilities()
    with pytest.raises(ProvenanceError, match=setting):
        mixed.devinterp.split_half()
    result = mixed.devinterp.llc(allow_mixed=True)
    assert result.attrs["mixed"] == [setting]
    assert devinterp.validate(result).ok
    sus = mixed.devinterp.susceptibilities(allow_mixed=True)
    assert sus["susceptibilities"].attrs["mixed"] == [setting]
    assert devinterp.validate(sus).ok


def test_longer_chains_at_one_checkpoint_are_the_same_curve():
    uneven = make_series((100, 1000), draws=lambda step: 40 if step == 100 else 60, chains=lambda s: 2 + (s > 100))
    result = uneven.devinterp.llc(ci=0.9)
    assert "mixed" not in result.attrs
    assert np.isnan(result["llc_per_chain"].sel(checkpoint=100)[:, 2]).all()
    assert [told(result.attrs, "n_chains_used")[step]["full"] for step in ("100", "1000")] == [2, 3]
    assert devinterp.validate(result).ok


def test_checkpoints_of_different_data_make_no_curve_at_all(series):
    other = series.copy(deep=True)
    for step, rows in ((100, "aa"), (1000, "aa"), (3000, "bb")):
        for name in ("full", "l0h0"):
            other[f"{step}/{name}"].attrs["metadata"]["provenance"] = {"dataset": {"rows": rows}}
    with pytest.raises(ProvenanceError, match=r"different data.*dataset"):
        other.devinterp.llc(allow_mixed=True)


def test_checkpoints_with_other_restrictions_or_tokens_make_no_curve():
    one, other = make_study(("full", "l0h0")), make_study(("full", "l1h1"))
    tree = xr.DataTree.from_dict(
        {f"/{s}/{n}": t[n].to_dataset() for s, t in ((1, one), (2, other)) for n in t.children}
    )
    with pytest.raises(ProvenanceError, match="different weight restrictions"):
        tree.devinterp.llc()
    tokens = make_series((1, 2))
    tokens["2/full"]["input_ids_code"].values[0, 1] += 1
    tokens["2/l0h0"]["input_ids_code"].values[0, 1] += 1
    with pytest.raises(ProvenanceError, match="other rows"):
        tokens.devinterp.susceptibilities()


@pytest.mark.needs("dask")
def test_a_series_held_by_dask_gives_the_same_numbers(series):
    lazy = series.chunk()
    xr.testing.assert_allclose(lazy.devinterp.llc(ci=0.9), series.devinterp.llc(ci=0.9))
    ours, theirs = (t.devinterp.susceptibilities()["susceptibilities"]["sus"] for t in (lazy, series))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert lazy.devinterp.diagnose().to_dict() == series.devinterp.diagnose().to_dict()


def test_the_overview_lists_checkpoints_restrictions_and_what_can_be_called(series):
    text = repr(series.devinterp)
    for part in ("series of checkpoints", "3 (100, 1000, 3000)", "2 (full, l0h0)", "train", "complete", "llc()"):
        assert part in text
    assert series.devinterp.observables == ("train", "code", "math")
    broken = series.copy(deep=True)
    broken["1000/l0h0"].attrs["completed"] = 0
    assert "1000/l0h0: not completed" in repr(broken.devinterp)


def test_provenance_is_what_all_runs_share(series):
    told = series.copy(deep=True)
    for step in (100, 1000, 3000):
        for name in ("full", "l0h0"):
            told[f"{step}/{name}"].attrs["metadata"]["provenance"] = {
                "weights": f"w{step}",
                "loss": "ce",
                "masks": name,
            }
    assert told.devinterp.provenance == {"loss": "ce"}
    assert told["100"].devinterp.provenance == {"loss": "ce", "weights": "w100"}
    assert told["100/full"].devinterp.provenance == {"loss": "ce", "weights": "w100", "masks": "full"}
    assert series.devinterp.provenance == {}


def traces(chains: int, draws: int, *, names: tuple[str, ...] = ("a", "b"), **coords: object) -> xr.Dataset:
    rng = np.random.default_rng(chains)
    return xr.Dataset(
        {
            "trace": (("wr", "chain", "draw"), rng.normal(size=(len(names), chains, draws)), {"units": "nat"}),
            "mean": 1.0,
        },
        coords={"wr": list(names), **coords},
    )


def test_what_is_shorter_is_filled_up_and_nothing_else_changes() -> None:
    results = {7: traces(2, 3), 9: traces(1, 5)}
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
    laid = lay_out({"x": traces(1, 2)}, axes, {"x": (1, 0)}, what="cells")
    assert laid["trace"].dims == ("lr", "n_beta", "wr", "chain", "draw")
    assert laid["mean"].isnull().values.tolist() == [[True], [False]]


@pytest.mark.parametrize("other", [{"names": ("a", "c")}, {"names": ("b", "a")}, {"names": ("a",)}])
def test_other_labels_are_refused(other: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(ProvenanceError, match="different weight restrictions or rows"):
        lay_out({1: traces(2, 3), 2: traces(2, 3, **other)}, {"checkpoint": [1, 2]}, what="checkpoints")


def test_a_label_of_chains_or_draws_is_kept_where_all_have_it() -> None:
    kept = {"chain": [4, 2], "host": ("chain", ["x", "y"])}
    laid = lay_out({1: traces(2, 3, **kept), 2: traces(2, 3, **kept)}, {"checkpoint": [1, 2]}, what="checkpoints")
    assert laid["chain"].values.tolist() == [4, 2]
    assert laid["host"].values.tolist() == ["x", "y"]
    laid = lay_out({1: traces(2, 3, **kept), 2: traces(2, 3, chain=[4, 3])}, {"checkpoint": [1, 2]}, what="checkpoints")
    assert set(laid.coords) == {"checkpoint", "wr"}


def test_an_attribute_that_differs_is_told_for_each() -> None:
    results = {
        1: xr.Dataset(attrs={"over": "draws", "used": 3, "n": 1}),
        2: xr.Dataset(attrs={"over": "draws", "n": 2}),
    }
    assert shared_attrs(results) == {"over": "draws", "used": {"1": 3, "2": None}, "n": {"1": 1, "2": 2}}
    assert shared_attrs(results, each=("over",))["over"] == {"1": "draws", "2": "draws"}
