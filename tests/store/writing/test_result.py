from __future__ import annotations

import lifelike
import pytest
import xarray as xr

from devinterp.errors import DataError, StoreExistsError
from devinterp.schema.validation import validate
from devinterp.slt.bif import compute_bif
from devinterp.slt.llc import compute_llc
from devinterp.slt.susceptibilities import compute_susceptibilities
from devinterp.store.writing.result import write_result


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("result") / "s.zarr"
    lifelike.make_study(path, chains=2, draws=20, rows=2, save_metrics=False)
    return xr.open_datatree(path, engine="zarr")


@pytest.mark.parametrize("kind", ["llc", "llc of a study", "bif", "bif_topk", "susceptibilities"])
def test_every_result_is_valid_and_reads_back_as_it_was(study, tmp_path, kind):
    result = {
        "llc": lambda: compute_llc(study["full"], ci=0.9),
        "llc of a study": lambda: compute_llc(study),
        "bif": lambda: compute_bif(study["full"], correlation_method="sequence", se=True),
        "bif_topk": lambda: compute_bif(study["full"], top_k=2),
        "susceptibilities": lambda: compute_susceptibilities(study, se=True),
    }[kind]()
    write_result(result, tmp_path / "r.zarr")
    report = validate(tmp_path / "r.zarr")
    assert len(report) == 0, str(report)
    back = xr.open_datatree(tmp_path / "r.zarr", engine="zarr")
    assert back.attrs.pop("completed") == 1
    assert result.identical(back if isinstance(result, xr.DataTree) else back.to_dataset())


def test_nothing_is_overwritten_and_what_is_no_result_is_refused(study, tmp_path):
    result = compute_llc(study["full"])
    write_result(result, tmp_path / "r.zarr")
    with pytest.raises(StoreExistsError):
        write_result(result, tmp_path / "r.zarr")
    with pytest.raises(DataError, match="which schema"):
        write_result(xr.Dataset({"x": 1}), tmp_path / "x.zarr")
    with pytest.raises(DataError, match="'extra'"):
        write_result(result.assign(extra=1.0), tmp_path / "y.zarr")
    assert not (tmp_path / "y.zarr").exists()
