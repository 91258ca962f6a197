from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import fail_chain, make_run, to_store

from devinterp.errors import ChainFailedWarning, MissingVariableError, SettingError
from devinterp.schema import validate
from devinterp.slt.bif import compute_bif
from devinterp.slt.bif import kernels as _kernels
from devinterp.slt.bif.kernels import TILE_COLUMNS, matrix_product, product_se, standardize
from devinterp.slt.bif.request import check_memory
from devinterp.slt.runs.run import Samples
from devinterp.slt.uncertainty.batch_means import Batches, batch_groups


def series_of(tree, names, *, by_token=True, reduce="stack", chains=slice(None)):
    """Losses (observation, series), reduced in float32 as the peer does, then float64."""
    values = np.concatenate([tree[f"loss_{n}"].values[chains] for n in names], axis=2)
    if not by_token:
        values = values.mean(axis=3, dtype=np.float32)[..., None]
    if reduce == "mean":
        values = values.mean(axis=0, dtype=np.float32)[None]
    return values.reshape(values.shape[0] * values.shape[1], -1).astype(np.float64)


def correlation(series):
    """Pearson correlation in float64."""
    return np.corrcoef(series, rowvar=False)


def flat(result, name="influences"):
    """Influences as (series, series)."""
    values = result[name].values
    if values.ndim == 4:
        values = values.transpose(0, 2, 1, 3).reshape(values.shape[0] * values.shape[2], -1)
    return values


@pytest.mark.parametrize("method", ["token", "sequence"])
def test_equals_the_peers_stored_result(reference, method):
    tree = xr.open_datatree(reference / "full.zarr", engine="zarr", consolidated=False)
    expected = xr.open_dataset(reference / f"bif_{method}.zarr", engine="zarr", consolidated=False)
    result = compute_bif(tree, correlation_method=method)
    assert set(result.variables) == set(expected.variables)
    for name in expected.variables:
        assert result[name].dims == expected[name].dims
        assert result[name].dtype == expected[name].dtype
        np.testing.assert_allclose(result[name], expected[name], atol=1e-5, rtol=0, err_msg=name)
    assert validate(result).ok


@pytest.mark.parametrize("method", ["token", "sequence"])
@pytest.mark.parametrize("reduce", ["stack", "mean"])
def test_is_within_2e_6_of_a_float64_recomputation(method, reduce):
    tree = make_run(chains=4, draws=100)
    result = compute_bif(tree, correlation_method=method, reduce_chain_dimension_method=reduce)
    expected = correlation(series_of(tree, ["code", "math", "train"], by_token=method == "token", reduce=reduce))
    assert np.abs(flat(result) - expected).max() < 2e-6
    assert result.attrs["observables"] == ["code", "math", "train"]


def test_losses_with_a_large_mean_keep_their_precision():
    rng = np.random.default_rng(0)
    tree = make_run(draws=200)
    tree["loss_code"].values[...] = (1000 + 0.01 * rng.normal(size=tree["loss_code"].shape)).astype(np.float32)
    expected = correlation(series_of(tree, ["code"]))
    assert np.abs(flat(compute_bif(tree, loss_keys=["code"])) - expected).max() < 2e-6


@pytest.mark.parametrize("method", ["token", "sequence"])
def test_covariance_divides_by_n_minus_one_and_is_in_nat_squared(method):
    tree = make_run()
    result = compute_bif(tree, correlation_method=method, compute_covariance=True)
    expected = np.cov(series_of(tree, ["code", "math", "train"], by_token=method == "token"), rowvar=False)
    np.testing.assert_allclose(flat(result), expected, atol=1e-6 * np.abs(expected).max())
    assert result["influences"].attrs["units"] == "nat^2"
    assert validate(result).ok


def test_average_is_the_mean_over_both_positions():
    tree = make_run()
    average = compute_bif(tree, average_tokenwise_bif=True)["influences"]
    assert average.dims == ("batch_1", "batch_2")
    expected = compute_bif(tree)["influences"].values.astype(np.float64).mean(axis=(2, 3))
    np.testing.assert_allclose(average, expected, atol=1e-6)


def test_the_diagonal_is_one_and_nothing_lies_outside_minus_one_to_one():
    values = flat(compute_bif(make_run()))
    np.testing.assert_allclose(np.diag(values), 1.0, atol=1e-6)
    assert np.abs(values).max() <= 1.0


def test_a_constant_loss_correlates_zero_and_is_counted():
    tree = make_run()
    tree["loss_code"].values[:, :, 1, 2] = 2.5
    result = compute_bif(tree, loss_keys=["code"])
    values = flat(result)
    at = 1 * 6 + 2
    assert not values[at].any()
    assert not values[:, at].any()
    assert np.isfinite(values).all()
    assert result.attrs["n_constant_losses"] == 1
    assert compute_bif(tree, loss_keys=["code"], correlation_method="sequence").attrs["n_constant_losses"] == 0


def test_loss_keys_keep_their_order_and_all_is_sorted():
    tree = make_run()
    result = compute_bif(tree, loss_keys=["train", "code"])
    np.testing.assert_allclose(flat(result), correlation(series_of(tree, ["train", "code"])), atol=2e-6)
    ids = np.concatenate([tree["input_ids_train"].values, tree["input_ids_code"].values])
    np.testing.assert_array_equal(result["input_ids"], ids)
    assert compute_bif(tree).attrs["observables"] == ["code", "math", "train"]


def test_ranges_choose_sequences_of_each_operand():
    tree = make_run()
    whole = compute_bif(tree)
    part = compute_bif(tree, batch_index_range_1=[9, 0], batch_index_range_2="math")
    assert part["batch_1"].values.tolist() == [9, 0]
    assert part["batch_2"].values.tolist() == [3, 4]
    expected = whole["influences"].sel(batch_1=[9, 0], batch_2=[3, 4])
    np.testing.assert_allclose(part["influences"], expected, atol=1e-6)
    np.testing.assert_array_equal(part["input_ids"], whole["input_ids"])
    same = compute_bif(tree, batch_index_range_1=range(2, 6), batch_index_range_2=range(2, 6))
    np.testing.assert_allclose(same["influences"], whole["influences"][2:6, 2:6], atol=1e-6)


@pytest.mark.parametrize("chosen", [[], [10], [-1], [1, 1], [0.5], "nothing"])
def test_bad_ranges_are_refused(chosen):
    with pytest.raises((SettingError, MissingVariableError)):
        compute_bif(make_run(), batch_index_range_1=chosen)


@pytest.mark.parametrize(
    "options",
    [
        {"correlation_method": "word"},
        {"reduce_chain_dimension_method": "median"},
        {"batch_size": 0},
        {"loss_keys": ["code", "code"]},
        {"top_k": 3, "se": True},
        {"top_k": 0},
    ],
)
def test_bad_settings_are_refused(options):
    with pytest.raises(SettingError):
        compute_bif(make_run(), **options)


def test_what_is_missing_is_named():
    tree = make_run()
    with pytest.raises(MissingVariableError, match="'prose'"):
        compute_bif(tree, loss_keys=["prose"])
    with pytest.raises(MissingVariableError, match="no observable"):
        compute_bif(make_run(rows={}))
    with pytest.raises(MissingVariableError, match="input_ids_code"):
        compute_bif(tree.to_dataset().drop_vars("input_ids_code"))
    with pytest.raises(SettingError, match="two observations"):
        compute_bif(make_run(chains=3, draws=1), reduce_chain_dimension_method="mean")


def test_observables_are_found_by_their_original_names():
    tree = make_run()
    tree.attrs["metadata"]["config"]["observables"][1]["name"] = "Source code!"
    result = compute_bif(tree, loss_keys=["Source code!"])
    assert result.attrs["observables"] == ["code"]


@pytest.mark.parametrize("reduce", ["stack", "mean"])
@pytest.mark.parametrize("told", [True, False])
def test_failed_chains_are_left_out(reduce, told):
    tree = fail_chain(make_run(), 1, 12)
    if not told:
        tree = xr.DataTree(tree.to_dataset().drop_vars("draws_written"))
        tree.attrs["metadata"].pop("run")
    with pytest.warns(ChainFailedWarning, match="chain 1"):
        result = compute_bif(tree, reduce_chain_dimension_method=reduce)
    expected = correlation(series_of(tree, ["code", "math", "train"], reduce=reduce, chains=[0, 2]))
    np.testing.assert_allclose(flat(result), expected, atol=2e-6)
    assert result.attrs["chains_excluded"] == [1]
    assert result.attrs["n_chains_used"] == 2


def test_allow_partial_uses_the_draws_that_all_chains_have():
    tree = fail_chain(make_run(), 1, 12)
    result = compute_bif(tree, allow_partial=True)
    assert result.attrs["n_draws_used"] == 12
    cut = xr.DataTree(tree.to_dataset().isel(draw=slice(0, 12)))
    np.testing.assert_allclose(flat(result), correlation(series_of(cut, ["code", "math", "train"])), atol=2e-6)


@pytest.mark.parametrize("method", ["token", "sequence"])
def test_a_store_gives_the_same_as_memory_and_stays_unloaded(tmp_path, method):
    tree = make_run()
    stored = to_store(tree, tmp_path / "run.zarr")
    xr.testing.assert_identical(
        compute_bif(stored, correlation_method=method), compute_bif(tree, correlation_method=method)
    )
    assert not stored["loss_code"].variable._in_memory


@pytest.mark.parametrize("options", [{"se": True}, {"correlation_method": "sequence"}, {"top_k": 2}])
def test_results_survive_a_store_identically(tmp_path, options):
    result = compute_bif(make_run(), **options)
    result.to_zarr(tmp_path / "bif.zarr", consolidated=False, zarr_format=3)
    back = xr.open_dataset(tmp_path / "bif.zarr", engine="zarr", consolidated=False)
    assert back.identical(result)
    assert validate(tmp_path / "bif.zarr").ok


@pytest.mark.parametrize("correlation_method", ["token", "sequence"])
def test_the_tokens_of_a_stored_run_are_read_once(tmp_path, monkeypatch, correlation_method):
    tree, read = to_store(make_run(rows={"b": 3, "a": 2}), tmp_path / "run.zarr"), []
    of_run = Samples.input_ids
    monkeypatch.setattr(Samples, "input_ids", lambda run, name: read.append(name) or of_run(run, name))
    compute_bif(tree, correlation_method=correlation_method)
    compute_bif(tree, correlation_method=correlation_method, output_path=tmp_path / "bif.zarr")
    assert read == ["a", "b", "a", "b"]


def test_selections_work():
    tree = make_run()
    result = compute_bif(tree.isel(draw=slice(5, None, 2), chain=[2, 0], batch_train=[1, 3]))
    cut = xr.DataTree(tree.to_dataset().isel(draw=slice(5, None, 2), chain=[2, 0], batch_train=[1, 3]))
    np.testing.assert_allclose(flat(result), correlation(series_of(cut, ["code", "math", "train"])), atol=2e-6)


def test_a_kept_coordinate_labels_the_tokens_of_a_selection():
    tree = xr.DataTree(make_run().to_dataset().assign_coords(token_pos=np.arange(6)))
    result = compute_bif(tree.isel(token_pos=[2, 5]))
    assert result["target_position"].values.tolist() == [3, 6]


def test_the_same_call_is_identical():
    xr.testing.assert_identical(compute_bif(make_run(), se=True), compute_bif(make_run(), se=True))


def test_the_losses_are_not_changed():
    tree = make_run()
    before = tree["loss_code"].values.copy()
    compute_bif(tree, loss_keys=["code"])
    np.testing.assert_array_equal(tree["loss_code"].values, before)


def test_a_result_that_cannot_fit_is_refused_before_any_work():
    with pytest.raises(SettingError, match="output_path"):
        check_memory((10**6, 10**6, 100, 100))


@given(
    st.integers(1, 3 * TILE_COLUMNS // 2), st.integers(1, 700), st.integers(2, 6), st.booleans(), st.integers(0, 2**32)
)
@settings(max_examples=25)
def test_tiles_cover_the_product(rows, columns, observations, symmetric, seed):
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(observations, rows)).astype(np.float32)
    second = first if symmetric else rng.normal(size=(observations, columns)).astype(np.float32)
    standardize(first)
    if not symmetric:
        standardize(second)
    expected = first.astype(np.float64).T @ second.astype(np.float64)
    np.testing.assert_allclose(matrix_product(first, second, bound=1.0), np.clip(expected, -1, 1), atol=1e-6)


@pytest.mark.needs("torch")
@pytest.mark.parametrize("bound", [None, 0.5])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("rows", [8, 19, 100])
def test_a_torch_device_gives_the_product_of_numpy_and_gets_its_precision_back(bound, symmetric, rows, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(_kernels, "TORCH_ROWS", rows)  # of the product at a time
    rng = np.random.default_rng(7)
    first, second = (rng.normal(size=(5, n)).astype(np.float32) for n in (19, 11))
    second = first if symmetric else second
    expected = matrix_product(first, second, bound=bound)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    asked, set_precision = [], torch.set_float32_matmul_precision
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda p: (asked.append(p), set_precision(p)))
    try:
        found = matrix_product(first, second, bound=bound, device="cpu:0")
        assert torch.get_float32_matmul_precision() == "high"
        assert asked == ["highest", "high"]  # TF32 would keep 10 bits, which shows on a GPU alone
    finally:
        torch.set_float32_matmul_precision(before)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == np.float32


@pytest.mark.parametrize("device", [None, "cpu"])
def test_without_a_device_numpy_multiplies(device, monkeypatch):
    """Analysis works where torch is not installed."""

    def torch_product(*arguments):
        raise ModuleNotFoundError("torch")

    monkeypatch.setattr(_kernels, "_torch_product", torch_product)
    series = np.eye(3, dtype=np.float32)
    np.testing.assert_array_equal(matrix_product(series, series, bound=None, device=device), np.eye(3))


def test_standardize_says_which_columns_are_constant():
    series = np.array([[1, 2, 1e30, 0.1], [1, 3, 2e30, 0.1], [1, 1, 3e30, 0.1]], dtype=np.float32)
    constant = standardize(series)
    assert constant.tolist() == [True, False, False, True]
    assert constant.dtype == bool
    np.testing.assert_allclose((series.astype(np.float64) ** 2).sum(axis=0), [0, 1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(series.sum(axis=0), 0, atol=1e-6)


@pytest.mark.parametrize("covariance", [False, True])
def test_standard_errors_are_those_of_the_batch_means(covariance):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 60))
    y = 0.5 * x + y
    series = np.stack([x, y], axis=1).astype(np.float32)
    standardize(series, covariance=covariance)
    groups = Batches(tuple(slice(k, k + 10) for k in range(0, 60, 10)))
    product = matrix_product(series, series, bound=None)
    found = product_se(series, series, product, groups, covariance=covariance)[0, 1]
    a, b = x - x.mean(), y - y.mean()
    if covariance:
        psi, scale = a * b - (a * b).mean(), 1 / 59
    else:
        a, b = a / a.std(), b / b.std()
        r = (a * b).mean()
        psi, scale = a * b - r * (a**2 + b**2) / 2, 1 / 60
    sums = psi.reshape(6, 10).sum(axis=1)
    np.testing.assert_allclose(found, scale * np.sqrt(6 / 5 * (sums**2).sum()), rtol=2e-3 if covariance else 1e-4)


@pytest.mark.parametrize(
    "options", [{}, {"correlation_method": "sequence"}, {"average_tokenwise_bif": True}, {"compute_covariance": True}]
)
def test_se_has_the_shape_of_the_influences_and_validates(options):
    result = compute_bif(make_run(), se=True, **options)
    assert result["influences_se"].dims == result["influences"].dims
    assert (result["influences_se"] >= 0).all()
    assert result.attrs["se_dof"] > 1
    assert validate(result).ok


@pytest.mark.parametrize("covariance", [False, True])
def test_se_of_an_average_is_that_of_its_influence_function(covariance):
    """Averaging is linear, so the batch sums of the average are the averages of the batch sums."""
    tree = make_run(rows={"code": 3}, tokens=2, match_sampling_input_ids_across_chains=False)
    series = series_of(tree, ["code"])
    z = series - series.mean(axis=0)
    z = z / np.sqrt(len(z) - 1 if covariance else (z**2).sum(axis=0))
    r = z.T @ z
    sums = []
    groups = batch_groups(series.astype(np.float32), 3)
    for g in groups:
        squares = (z[g] ** 2).sum(axis=0)
        share = (g.stop - g.start) / len(z) if covariance else (squares[:, None] + squares) / 2
        sums.append((z[g].T @ z[g] - r * share).reshape(3, 2, 3, 2).mean(axis=(1, 3)))
    expected = np.sqrt(groups.scale * (np.array(sums) ** 2).sum(axis=0))
    options = {"average_tokenwise_bif": True, "se": True, "compute_covariance": covariance}
    found = compute_bif(tree, **options)["influences_se"]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
    part = compute_bif(tree, batch_index_range_1=[2, 0], batch_index_range_2=[1], **options)["influences_se"]
    # The range has batches of its own, from the series that it reads; here all three rows are read.
    np.testing.assert_allclose(part, expected[[2, 0]][:, [1]], rtol=1e-3, atol=1e-6)


def test_linear_gaussian_covariances_are_recovered():
    """l = (r + a.w)^2 / 2 with w ~ N(0, S): Cov(l_i, l_j) = r_i r_j c + c^2 / 2, c = a_i S a_j."""
    rng = np.random.default_rng(5)
    draws = 40_000
    root = rng.normal(size=(3, 3)) / 2
    w = rng.normal(size=(draws, 3)) @ root.T
    r, a = rng.normal(size=(4, 2)), rng.normal(size=(4, 2, 3))
    loss = (0.5 * (r + np.einsum("dk,ntk->dnt", w, a)) ** 2)[None].astype(np.float32)
    ids = np.zeros((4, 3), dtype=np.int64)
    tree = xr.Dataset(
        {"loss_x": (("chain", "draw", "batch_x", "token_pos"), loss), "input_ids_x": (("batch_x", "token"), ids)}
    )
    c = np.einsum("ipk,kl,jql->ijpq", a, root @ root.T, a)
    expected = r[:, None, :, None] * r[None, :, None, :] * c + c**2 / 2
    result = compute_bif(tree, compute_covariance=True, se=True)
    # The draws are independent, so errors are normal: 4.5 standard errors over 64 numbers.
    assert (np.abs(result["influences"] - expected) < 4.5 * result["influences_se"]).all()
    sequence = compute_bif(tree, compute_covariance=True, correlation_method="sequence")
    np.testing.assert_allclose(sequence["influences"], expected.mean(axis=(2, 3)), atol=0.05 * np.abs(expected).max())
