from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from made_runs import make_run, make_series

from devinterp.errors import MissingVariableError, ProvenanceError, SettingError
from devinterp.schema import validate
from devinterp.slt.bif import compute_bif
from devinterp.slt.bif.reweighting import compute_reweighting


@pytest.mark.parametrize(
    "options",
    [
        {"correlation_method": "sequence", "se": True},
        {"batch_index_range_1": "code"},
        {"compute_covariance": True, "average_tokenwise_bif": True},
    ],
)
def test_a_series_has_the_influences_of_every_checkpoint(options):
    series = make_series()
    result = compute_bif(series, **options)
    assert result["influences"].dims[:3] == ("checkpoint", "batch_1", "batch_2")
    assert result["checkpoint"].values.tolist() == [100, 1000, 3000]
    assert "checkpoint" not in result["input_ids"].dims
    for step in (100, 3000):
        alone = compute_bif(series[f"{step}/full"], **options)
        one = result.sel(checkpoint=step, drop=True)
        for name, variable in alone.variables.items():
            np.testing.assert_array_equal(one[name].values, variable.values)
            assert one[name].attrs == variable.attrs
    assert validate(result).ok, str(validate(result))
    assert result.devinterp.kind == "bif"
    assert result.isel(checkpoint=0, drop=True).devinterp.report().ok
    chosen = series.sel(checkpoint=[1000])
    method = {"method": options.get("correlation_method", "token")}
    others = {k: v for k, v in options.items() if k != "correlation_method"}
    xr.testing.assert_identical(chosen.devinterp.bif(**method, **others), compute_bif(chosen, **options))


def test_a_wrong_correlation_at_any_checkpoint_is_found():
    result = compute_bif(make_series(), correlation_method="sequence")
    broken = result.copy(deep=True)
    broken["influences"].values[2, 0, 1] = 0.9  # and not its mirror image
    assert [str(f.code) for f in validate(broken).errors] == ["DI432"]


def test_what_is_of_one_run_says_so():
    series = make_series()
    for options in ({"top_k": 1}, {"lazy": True}, {"output_path": "x.zarr"}):
        with pytest.raises(SettingError, match="one run"):
            compute_bif(series, **options)
    with pytest.raises(MissingVariableError, match="one run"):
        compute_reweighting(series)
    with pytest.raises(MissingVariableError, match="no run 'full'"):
        compute_bif(make_series(names=("l0h0", "l0h1")))


def test_checkpoints_of_other_settings_or_rows_are_refused():
    series = make_series(localization=lambda step: float(step))
    with pytest.raises(ProvenanceError, match="localization"):
        compute_bif(series)
    assert compute_bif(series, correlation_method="sequence", allow_mixed=True).attrs["mixed"] == ["localization"]
    other = make_series()
    run = other["1000/full"].to_dataset()
    other["1000/full"] = xr.DataTree(run.assign(input_ids_code=run["input_ids_code"] + 1))
    with pytest.raises(ProvenanceError, match="different rows"):
        compute_bif(other)


def test_a_picture_is_of_one_checkpoint():
    pytest.importorskip("matplotlib")
    result = compute_bif(make_series(), correlation_method="sequence")
    with pytest.raises(SettingError, match=r"isel\(checkpoint=0\)"):
        result.devinterp.plot.influence()
    assert make_run().devinterp.kind == "samples"
