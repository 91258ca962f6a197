"""Masked positions count nowhere: analyses give what they give of rows cut to length, and what plain numpy gives."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import pytest
import xarray as xr
from extras import DASK, HAS_DASK
from hypothesis import given, settings
from hypothesis import strategies as st
from masked import SIZES, cut, masked_run, masked_study, only, without_masks

from devinterp.errors import ProvenanceError
from devinterp.schema import validate
from devinterp.slt.bif import compute_bif
from devinterp.slt.bif.reweighting import compute_reweighting
from devinterp.slt.diagnostics import diagnose
from devinterp.slt.information.waic import compute_waic
from devinterp.slt.llc import compute_llc
from devinterp.slt.susceptibilities import compute_susceptibilities
from devinterp.slt.susceptibilities.by_observable import flatten, unflatten
from devinterp.slt.uncertainty.arviz import to_arviz
from devinterp.testing import make_tree

pytestmark = pytest.mark.filterwarnings("error")
few = settings(max_examples=4)
SEEDS = st.integers(0, 2**20)
# Trailing masks, prompts at the front, and both.
KEPT = st.sampled_from([slice(0, 3), slice(2, 5), slice(1, 4), slice(4, 5)])
OVERS = ("draws", "steps", "observable")


def plain_run(seed: int) -> xr.DataTree:
    return make_tree("samples", seed=seed, **SIZES)


@few
@given(SEEDS, KEPT, st.sampled_from(OVERS))
def test_an_llc_is_that_of_the_rows_cut_to_length(seed: int, kept: slice, over: Any) -> None:
    tree = plain_run(seed)
    options: dict[str, Any] = {"over": over, "ci": 0.9, "observable": "math" if over == "observable" else None}
    ours, theirs = (compute_llc(part(tree, kept), **options) for part in (only, cut))
    for name in theirs.data_vars:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6 if name == "loss_trace" else 1e-9, atol=1e-9)
    assert set(ours.data_vars) - set(theirs.data_vars) == ({"loss_count"} if over != "observable" else set())
    assert validate(ours.drop_vars(["chain", "draw", "step"], errors="ignore")).ok


@few
@given(SEEDS)
def test_an_llc_over_draws_weighs_every_loss_that_counts_alike(seed: int) -> None:
    """Oracle: plain numpy over the losses that are not NaN, each less the loss at the start of its position."""
    tree = masked_run(seed)
    tree["init_loss"].values[:, 1] = np.nan  # no row had the position
    result = compute_llc(tree, over="draws")
    loss = tree["sampling_loss"].values.astype(np.float64)
    loss[..., 1] = np.nan
    init = tree["init_loss"].values.astype(np.float64)
    counts = (~np.isnan(loss)).sum(axis=(0, 1, 2))
    weighed = np.array([(row[counts > 0] * counts[counts > 0]).sum() / counts.sum() for row in init])
    n_beta = float(tree["n_beta"])
    np.testing.assert_allclose(result["init_loss"], weighed.mean(), rtol=1e-12)
    per_chain = n_beta * (np.array([np.nanmean(chain) for chain in loss]) - weighed.mean())
    np.testing.assert_allclose(result["llc_per_chain"], per_chain, rtol=1e-9)
    np.testing.assert_allclose(result["llc_scalar"], n_beta * (np.nanmean(loss) - weighed.mean()), rtol=1e-9)
    np.testing.assert_allclose(result["loss_count"], (~np.isnan(loss)).sum(axis=(2, 3)))
    assert validate(result).ok


@few
@given(SEEDS)
def test_an_llc_over_an_observable_is_the_mean_rise_of_what_counts(seed: int) -> None:
    tree = masked_run(seed)
    result = compute_llc(tree, over="observable", observable="math", ci=0.9)
    rise = tree["loss_math"].astype(np.float64) - tree["init_loss_math"].astype(np.float64)
    n_beta = float(tree["n_beta"])
    np.testing.assert_allclose(
        result["llc_per_chain"], n_beta * rise.mean(["draw", "batch_math", "token_pos"]), rtol=1e-9
    )
    np.testing.assert_allclose(result["loss_trace"], tree["loss_math"].mean(["batch_math", "token_pos"]), rtol=1e-5)
    assert result["llc_ci"][0] <= result["llc_mean"] <= result["llc_ci"][1]
    assert validate(result).ok


def test_the_mean_of_draws_with_few_positions_is_not_weighed_like_others() -> None:
    """A draw with one position that counts is one loss among many: means of means would be far off."""
    tree = masked_run(1, parameters={**SIZES["parameters"], "num_chains": 1})
    loss, mask = tree["sampling_loss"].values, tree["mask_sampling"].values
    loss[:], mask[:] = 1.0, 1
    mask[0, 0], loss[0, 0] = 0, np.nan
    mask[0, 0, 0, 0], loss[0, 0, 0, 0] = 1, 101.0
    tree["init_loss"].values[:] = 0.0
    mean = 1.0 + 100.0 / (1 + 11 * 3 * 5)
    result = compute_llc(tree)
    np.testing.assert_allclose(result["llc_mean"], float(tree["n_beta"]) * mean, rtol=1e-9)
    np.testing.assert_allclose(result["loss_trace"][0, :2], [101.0, 1.0])


@few
@given(SEEDS, KEPT, st.sampled_from(["token", "sequence"]))
def test_a_waic_is_that_of_the_rows_cut_to_length(seed: int, kept: slice, per: Any) -> None:
    tree = plain_run(seed)
    ours, theirs = (compute_waic(part(tree, kept), per=per, observable="math") for part in (only, cut))
    for name in theirs.data_vars:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-9, err_msg=str(name))


@few
@given(SEEDS)
def test_a_waic_averages_over_tokens_that_count(seed: int) -> None:
    tree = masked_run(seed)
    result = compute_waic(tree, observable="math")
    loss = tree["loss_math"].values.astype(np.float64).reshape(24, -1)
    loss = loss[:, ~np.isnan(loss).any(axis=0)]
    training = -np.log(np.exp(-loss).mean(axis=0)).mean()
    np.testing.assert_allclose(result["training_loss"], training, rtol=1e-9)
    np.testing.assert_allclose(result["functional_variance"], loss.var(axis=0, ddof=1).mean(), rtol=1e-9)
    np.testing.assert_allclose(result["waic"], training + loss.var(axis=0, ddof=1).mean(), rtol=1e-9)
    rows = compute_waic(tree, per="sequence", observable="math")
    means = tree["loss_math"].astype(np.float64).mean("token_pos").values.reshape(24, -1)
    np.testing.assert_allclose(rows["functional_variance"], means.var(axis=0, ddof=1).mean(), rtol=1e-9)


@few
@given(SEEDS, KEPT, st.sampled_from(["code", None]))
def test_a_diagnosis_is_that_of_the_rows_cut_to_length(seed: int, kept: slice, task: str | None) -> None:
    tree = plain_run(seed)
    if task is None:  # nothing but minibatches to look at
        tree = xr.DataTree(
            tree.to_dataset().drop_vars([n for n in tree.data_vars if "code" in str(n) or "math" in str(n)])
        )
    ours, theirs = (diagnose(part(tree, kept), sampling_task=task).to_dict() for part in (only, cut))
    for name, value in theirs.items():
        if isinstance(value, float):
            # R-hat and effective draws go by ranks, and two draws that differ in the last bit may change places.
            close = 0.05 if "rhat" in name or "ess" in name else 1e-6
            assert ours[name] == pytest.approx(value, rel=close, abs=1e-9), name
    by_ranks = {"chains_disagree", "not_converged"}
    first, second = ([v["code"] for v in each["verdicts"] if v["code"] not in by_ranks] for each in (ours, theirs))
    assert first == second


def test_what_fails_is_a_loss_that_counts() -> None:
    """NaN where nothing counts excludes no chain; NaN where something does excludes it, and says at which draw."""
    tree = masked_run(3)
    counts = tree["mask_math"].values
    tree["loss_math"].values[1, 4][tuple(np.argwhere(counts == 1)[0])] = np.nan
    with pytest.warns(match="no loss at draw 4, though the chain is recorded as complete"):
        result = compute_llc(tree, over="observable", observable="math")
    assert result.attrs["chains_excluded"] == [1]
    with pytest.warns(match="no loss at draw 4, though the chain is recorded as complete"):
        assert compute_waic(tree, observable="math").attrs["n_chains_used"] == 1
    assert [c.status for c in diagnose(tree, sampling_task="math").chains] == [
        "complete",
        "no loss at draw 4, though the chain is recorded as complete",
    ]


def test_chains_that_stopped_are_left_out_of_masked_runs_too() -> None:
    tree = masked_run(3, failed={1: 5})
    for over in OVERS:
        with pytest.warns(match="left out"):
            result = compute_llc(tree, over=over, observable="code" if over == "observable" else None)
        assert result.attrs["chains_excluded"] == [1]
        assert np.isfinite(result["llc_mean"])
    assert compute_llc(tree, allow_partial=True)["llc_per_chain"].notnull().all()
    assert diagnose(tree).chains[1].n_draws == 5


@few
@given(SEEDS)
def test_to_arviz_has_means_and_likelihoods_of_what_counts(seed: int) -> None:
    tree = masked_run(seed)
    found = to_arviz(tree, log_likelihood=True)
    for name, dims in (("sampling_loss", ["batch", "token_pos"]), ("loss_math", ["batch_math", "token_pos"])):
        np.testing.assert_allclose(found["posterior"][name], tree[name].astype(np.float64).mean(dims), rtol=1e-9)
    likelihood = found["log_likelihood"]["math"]
    assert likelihood.dims == ("chain", "draw", "counted_math")
    wanted = -tree["loss_math"].values[:, :, tree["mask_math"].values == 1]
    np.testing.assert_array_equal(likelihood.values, wanted)


def test_a_selection_without_a_position_that_counts_says_so() -> None:
    tree = only(plain_run(0), slice(0, 3)).isel(token_pos=slice(3, 5))
    for over in OVERS:
        with pytest.raises(Exception, match="no position counts"):
            compute_llc(tree, over=over, burnin=True, observable="code" if over == "observable" else None)


def oracle(tree: xr.DataTree, names: list[str]) -> tuple[Any, Any]:
    """Losses, (draw of any chain, sequence, token) with NaN where one does not count, and where they count."""
    losses = np.concatenate([tree[f"loss_{n}"].values.astype(np.float64) for n in names], axis=2)
    losses = losses.reshape(-1, *losses.shape[2:])
    return losses, ~np.isnan(losses[0])


def correlation(a: Any, b: Any, covariance: bool) -> Any:
    a, b = (x - x.mean(axis=0) for x in (a, b))
    product = a.T @ b
    if covariance:
        return product / (len(a) - 1)
    return product / np.sqrt((a**2).sum(axis=0)[:, None] * (b**2).sum(axis=0))


WAYS = st.sampled_from(["memory", *(["lazy", "store", "dask"] if HAS_DASK else [])])


def computed(tree: xr.DataTree, way: str, **options: Any) -> xr.Dataset:
    if way == "dask":
        tree = tree.chunk({"draw": 5})
    with tempfile.TemporaryDirectory() as folder:
        where = {"output_path": f"{folder}/bif.zarr"} if way == "store" else {}
        return compute_bif(tree, batch_size=2, lazy=True if way == "lazy" else None, **where, **options).load()


@few
@given(SEEDS, WAYS, st.booleans())
def test_influences_between_tokens_are_nan_exactly_where_one_is_masked(seed: int, way: str, covariance: bool) -> None:
    tree = masked_run(seed)
    result = computed(tree, way, compute_covariance=covariance, se=True, batch_index_range_2=[4, 1, 8])
    losses, counts = oracle(tree, ["code", "math"])
    np.testing.assert_array_equal(result["mask"], counts)
    wanted = np.full(result["influences"].shape, np.nan)
    for i, first in enumerate(range(9)):
        for j, second in enumerate([4, 1, 8]):
            at = np.ix_(counts[first], counts[second])
            found = correlation(losses[:, first, counts[first]], losses[:, second, counts[second]], covariance)
            wanted[i, j][at] = found
    np.testing.assert_allclose(result["influences"], wanted, atol=2e-5, rtol=1e-5)
    np.testing.assert_array_equal(result["influences_se"].isnull(), np.isnan(wanted))
    assert result.attrs["n_constant_losses"] == 0
    assert validate(result).ok, str(validate(result))


@few
@given(SEEDS, WAYS, st.booleans(), st.booleans())
def test_influences_between_sequences_are_of_the_means_over_what_counts(
    seed: int, way: str, covariance: bool, average: bool
) -> None:
    tree = masked_run(seed)
    options: dict[str, Any] = {"average_tokenwise_bif": True} if average else {"correlation_method": "sequence"}
    result = computed(tree, way, compute_covariance=covariance, **options)
    losses, counts = oracle(tree, ["code", "math"])
    if average:
        pairs = [
            [correlation(losses[:, i, counts[i]], losses[:, j, counts[j]], covariance).mean() for j in range(9)]
            for i in range(9)
        ]
        wanted = np.array(pairs)
    else:
        means = np.stack([losses[:, i, counts[i]].mean(axis=1) for i in range(9)], axis=1)
        wanted = correlation(means, means, covariance)
    np.testing.assert_allclose(result["influences"], wanted, atol=2e-5, rtol=1e-5)
    assert "mask" not in result
    assert validate(result).ok


@few
@given(SEEDS, KEPT, st.sampled_from(["token", "sequence", "average"]), st.booleans())
def test_influences_are_those_of_the_rows_cut_to_length(seed: int, kept: slice, method: str, se: bool) -> None:
    tree = plain_run(seed)
    options: dict[str, Any] = {"average_tokenwise_bif": True} if method == "average" else {"correlation_method": method}
    ours, theirs = (compute_bif(part(tree, kept), se=se, **options) for part in (only, cut))
    if method == "token":
        at = theirs["target_position"].values
        ours = ours.sel(target_position=at, target_position_T=at)
    for name in theirs.data_vars:
        np.testing.assert_allclose(ours[name], theirs[name], atol=2e-6, rtol=2e-5, err_msg=str(name))


@few
@given(SEEDS, DASK)
def test_the_strongest_partners_are_among_what_counts(seed: int, dask: bool) -> None:
    tree = masked_run(seed)
    result = compute_bif(tree.chunk({"draw": 5}) if dask else tree, top_k=3, batch_size=2)
    _, counts = oracle(tree, ["code", "math"])
    batch, position = result["partner_batch"].values, result["partner_position"].values
    found = batch >= 0
    assert found.any()
    assert counts[batch[found], position[found] - 1].all()
    np.testing.assert_array_equal(found.any(axis=(2, 3)), counts & found.any(axis=(2, 3)))
    whole = compute_bif(tree)["influences"].values
    at = np.argwhere(found)
    values = [whole[i, batch[tuple(a)], p, position[tuple(a)] - 1] for a in at for i, p in [a[:2]]]
    np.testing.assert_allclose(result["influences"].values[found], values, atol=1e-6)
    assert validate(result).ok


@few
@given(SEEDS)
def test_reweighting_is_minus_the_covariance_of_what_counts(seed: int) -> None:
    tree = masked_run(seed)
    result = compute_reweighting(tree, correlation_method="token", se=True)
    covariance = compute_bif(tree, compute_covariance=True)
    np.testing.assert_allclose(result["effects"], -covariance["influences"], rtol=1e-6)
    xr.testing.assert_equal(result["mask"], covariance["mask"])
    assert validate(result).ok


@few
@given(SEEDS, KEPT, st.sampled_from(["init", "observable"]), DASK)
def test_susceptibilities_are_those_of_the_rows_cut_to_length(
    seed: int, kept: slice, baseline: Any, dask: bool
) -> None:
    study = without_masks(masked_study(seed))
    options: dict[str, Any] = {"baseline": baseline, "terms": True, "se": True, "include_sampling_task": True}
    parts = [part(study, kept) for part in (only, cut)]
    parts[0] = parts[0].map_over_datasets(
        lambda node: node.chunk({"draw": 5}) if dask and "draw" in node.dims else node
    )
    ours, theirs = (compute_susceptibilities(part, "code", **options) for part in parts)
    for name in theirs["susceptibilities"].data_vars:
        one, two = (found["susceptibilities"][name] for found in (ours, theirs))
        np.testing.assert_allclose(one, two, rtol=2e-4, atol=1e-5, err_msg=str(name))
        xr.testing.assert_equal(one["target_position"].drop_vars("wr", errors="ignore"), two["target_position"])
    assert validate(ours).ok, str(validate(ours))


@few
@given(SEEDS)
def test_susceptibilities_have_an_entry_for_each_position_that_counts(seed: int) -> None:
    """Oracle: the formula with plain numpy; and the unflattened form has NaN where nothing counts, and goes back."""
    study = masked_study(seed)
    result = compute_susceptibilities(study, "code", baseline="observable")
    sus = result["susceptibilities"].to_dataset()
    assert sus.attrs["masked"] == ["math"]
    counts = study["full/mask_math"].values == 1
    assert sus.sizes["sus_flat"] == counts.sum()
    rows, positions = counts.nonzero()
    np.testing.assert_array_equal(sus["batch"], rows)
    np.testing.assert_array_equal(sus["target_position"], positions + 1)
    start = float(np.nanmean(study["full/init_loss_code"].values.astype(np.float64)))

    def losses(name: str) -> tuple[Any, Any]:
        run = study[name]
        trace = np.nanmean(run["loss_code"].values.astype(np.float64), axis=(2, 3)).ravel()
        probe = run["loss_math"].values.astype(np.float64).reshape(trace.size, *counts.shape)[:, counts]
        return trace, probe

    full_u, full_l = losses("full")
    for k, name in enumerate(sus["wr"].values):
        u, probe = losses(str(name))
        phi = (u - start)[:, None]
        wanted = (
            (phi[:, 0] * u).mean() - (phi * probe).mean(axis=0) - phi.mean() * (full_u.mean() - full_l.mean(axis=0))
        )
        np.testing.assert_allclose(sus["sus"].values[:, k], wanted, rtol=1e-4, atol=1e-5)
    assert validate(result).ok, str(validate(result))
    wide = unflatten(result)
    assert wide["math/sus"].dims == ("batch", "target_position", "wr")
    np.testing.assert_array_equal(wide["math/sus"].notnull().all("wr"), counts[:, counts.any(axis=0)])
    xr.testing.assert_identical(flatten(wide), result)


def test_runs_of_a_study_with_other_masks_are_not_combined() -> None:
    study = masked_study(1)
    study["l0h0/mask_math"].values[0] = np.roll(study["l0h0/mask_math"].values[0], 1)
    study["l0h0/mask_math"].values[1] = 1
    with pytest.raises(ProvenanceError, match="mask_math"):
        compute_susceptibilities(study, "code")


def test_influences_beside_masks_that_do_not_fit_are_found() -> None:
    result = compute_bif(masked_run(2))
    place = tuple(np.argwhere(result["mask"].values == 0)[0])
    changed = result.copy(deep=True)
    changed["mask"].values[place] = 1
    assert [str(f.code) for f in validate(changed).findings] == ["DI309"]
    changed = result.copy(deep=True)
    changed["influences"].values[place[0], :, place[1]] = 0.0
    assert "DI309" in {str(f.code) for f in validate(changed).findings}
    assert [str(f.code) for f in validate(result.drop_vars("mask")).findings] == ["DI301"]
