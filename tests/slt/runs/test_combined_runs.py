"""Runs put together as xarray does: a state belongs to its chain, and what is not of one run is one error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from made_runs import fail_chain, make_run, to_store

from devinterp.errors import ProvenanceError
from devinterp.slt.bif import compute_bif
from devinterp.slt.llc import compute_llc
from devinterp.slt.uncertainty.arviz import to_arviz


def test_a_good_chain_in_the_place_of_a_failed_one_is_used() -> None:
    failed, good = fail_chain(make_run(), 1, 10), make_run(7)
    parts = [failed.to_dataset().isel(chain=[0, 2]), good.to_dataset().isel(chain=[0])]
    mended = xr.concat(parts, dim="chain", data_vars="minimal", coords="minimal", compat="override", join="override")
    assert len(mended.attrs["metadata"]["run"]["chains"]) == mended.sizes["chain"]
    for dataset in (mended, mended.drop_vars("draws_written")):
        result = compute_llc(dataset)
        assert result.attrs["chains_excluded"] == []
        alone = [compute_llc(failed.isel(chain=[c]))["llc_per_chain"].item() for c in (0, 2)]
        alone.append(compute_llc(good.isel(chain=[0]))["llc_per_chain"].item())
        assert abs(result["llc_mean"].item() - np.mean(alone)) < 1e-9


COMBINED = [{}, {"data_vars": "all"}, {"data_vars": "minimal", "coords": "minimal", "compat": "override"}]


@pytest.mark.filterwarnings("ignore:In a future version of xarray")
@pytest.mark.parametrize("options", COMBINED)
def test_chains_that_xarray_put_together_are_one_run(options: dict[str, Any]) -> None:
    whole = make_run(chains=4).to_dataset()
    parts = [whole.isel(chain=[c]) for c in range(4)]
    nested = xr.combine_nested(parts, concat_dim="chain", combine_attrs="override", **options)  # drops them otherwise
    for made in (xr.concat(parts, dim="chain", **options), nested):
        xr.testing.assert_identical(compute_llc(made), compute_llc(whole))
        xr.testing.assert_identical(compute_llc(made, over="observable", observable="train"),
                                    compute_llc(whole, over="observable", observable="train"))  # fmt: skip
        xr.testing.assert_identical(compute_bif(made), compute_bif(whole))
        for group in ("posterior", "sample_stats", "observed_data"):
            xr.testing.assert_equal(to_arviz(made)[group].to_dataset(), to_arviz(whole)[group].to_dataset())
        assert "complete" in repr(xr.DataTree(made).devinterp)


def test_draws_that_xarray_put_together_are_one_run() -> None:
    whole = make_run().to_dataset()
    made = xr.concat([whole.isel(draw=slice(15)), whole.isel(draw=slice(15, None))], dim="draw", data_vars="all")
    xr.testing.assert_identical(compute_llc(made), compute_llc(whole))
    assert "complete" in repr(made.devinterp)


def test_runs_of_different_temperatures_are_one_error() -> None:
    parts = [make_run(seed).to_dataset().assign(n_beta=value) for seed, value in ((0, 30.0), (1, 10.0))]
    made = xr.concat(parts, dim="chain", data_vars="all")
    with pytest.raises(ProvenanceError, match=r"combined along 'chain' differ in 'n_beta'"):
        compute_llc(made)
    assert "differ in 'n_beta'" in repr(made.devinterp)


def test_runs_of_other_rows_are_one_error() -> None:
    parts = [make_run(seed).to_dataset() for seed in (0, 1)]
    parts[1] = parts[1].assign(input_ids_code=parts[1]["input_ids_code"] + 1)
    made = xr.concat(parts, dim="chain", data_vars="all")
    with pytest.raises(ProvenanceError, match="differ in 'input_ids_code'"):
        compute_bif(made)


OLD = {"data_vars": "all", "coords": "different", "compat": "equals", "join": "outer"}  # the defaults until 2025
NEW = {"data_vars": None, "coords": "minimal", "compat": "override", "join": "exact"}


@pytest.mark.parametrize("defaults", [OLD, NEW], ids=["old", "new"])
@pytest.mark.parametrize("engine", ["zarr", "devinterp"])
def test_chains_of_several_stores_are_opened_as_one_run(tmp_path: Path, engine: str, defaults: dict[str, Any]) -> None:
    pytest.importorskip("dask", reason="dask is missing")
    whole = make_run().to_dataset()
    paths = [tmp_path / f"{number}.zarr" for number in range(2)]
    for path, chains in zip(paths, ([0], [1, 2]), strict=True):
        to_store(xr.DataTree(whole.isel(chain=chains)), path)
    options: dict[str, Any] = {"level": None} if engine == "devinterp" else {"consolidated": False}
    made = xr.open_mfdataset(paths, engine=engine, combine="nested", concat_dim="chain", **options, **defaults)
    for ours, theirs in ((compute_llc(made), compute_llc(whole)), (compute_bif(made), compute_bif(whole))):
        xr.testing.assert_allclose(ours, theirs)
