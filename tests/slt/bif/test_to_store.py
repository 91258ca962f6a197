from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from made_runs import make_run, to_store

from devinterp.errors import StoreConflictError, StoreExistsError
from devinterp.schema import validate
from devinterp.slt.bif import compute_bif
from devinterp.slt.bif import to_store as bif_stream

OPTIONS = [
    {},
    {"se": True},
    {"correlation_method": "sequence", "se": True},
    {"average_tokenwise_bif": True},
    {"compute_covariance": True},
    {"batch_index_range_1": "code", "batch_index_range_2": [9, 1, 6]},
]


def same_numbers(result, expected):
    """Equal up to float32 rounding, with the same labels and attributes."""
    xr.testing.assert_allclose(result.load(), expected, atol=1e-6)
    stored = {k: v for k, v in result.attrs.items() if k not in ("losses_sha256", "completed")}
    assert stored == expected.attrs
    for name, variable in expected.variables.items():
        assert result[name].attrs == variable.attrs
        assert result[name].dtype == variable.dtype


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("batch_size", [3, 32])
def test_the_store_holds_what_memory_would(tmp_path, monkeypatch, options, batch_size):
    monkeypatch.setattr(bif_stream, "CHUNK_BYTES", 4000)
    result = compute_bif(make_run(), output_path=tmp_path / "bif.zarr", batch_size=batch_size, **options)
    assert not result["influences"].variable._in_memory
    same_numbers(result, compute_bif(make_run(), **options))
    assert validate(tmp_path / "bif.zarr").ok
    assert sorted(p.name for p in (tmp_path / "bif.zarr").iterdir()) == sorted([*result.variables, "zarr.json"])


@pytest.mark.needs("dask")
def test_dask_losses_are_streamed_without_gathering_them(tmp_path):
    stored = to_store(make_run(), tmp_path / "run.zarr").chunk(chain=1, draw=10)
    result = compute_bif(stored, output_path=tmp_path / "bif.zarr", batch_size=4, se=True)
    same_numbers(result, compute_bif(make_run(), se=True))


def test_an_interrupted_call_goes_on_and_writes_no_tile_twice(tmp_path, monkeypatch):
    path = tmp_path / "bif.zarr"
    written = []
    write = bif_stream._write

    def failing(array, where, values):
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append((array.name, str(where)))
        write(array, where, values)

    monkeypatch.setattr(bif_stream, "_write", failing)
    monkeypatch.setattr(bif_stream, "WRITERS", 1)
    with pytest.raises(KeyboardInterrupt):
        compute_bif(make_run(), output_path=path, batch_size=3)
    assert json.loads((path / "zarr.json").read_text())["attributes"]["completed"] == 0
    leftover = path / "influences/c/0/0/0/0.0123.partial"
    leftover.write_bytes(b"half")

    again = []
    monkeypatch.setattr(bif_stream, "_write", lambda a, w, v: (again.append((a.name, str(w))), write(a, w, v)))
    result = compute_bif(make_run(), output_path=path, batch_size=3)
    same_numbers(result, compute_bif(make_run()))
    assert not leftover.exists()
    # A symmetric pair of tiles is written together: at most the one that was cut off comes again.
    assert len(set(written) & set(again)) <= 1
    assert len(again) < 16


def test_a_finished_store_is_returned(tmp_path, monkeypatch):
    path = tmp_path / "bif.zarr"
    first = compute_bif(make_run(), output_path=path).load()
    monkeypatch.setattr(bif_stream, "_write", lambda *_: pytest.fail("it was computed again"))
    xr.testing.assert_identical(compute_bif(make_run(), output_path=path).load(), first)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"compute_covariance": True}, "compute_covariance"),
        ({"se": True}, "influences_se"),
        ({"loss_keys": ["code"]}, "observables"),
        ({"correlation_method": "sequence"}, "shape"),
    ],
)
def test_a_store_of_another_request_is_refused(tmp_path, changes, match):
    path = tmp_path / "bif.zarr"
    compute_bif(make_run(), output_path=path)
    with pytest.raises(StoreConflictError, match=match):
        compute_bif(make_run(), output_path=path, **changes)
    with pytest.raises(StoreConflictError, match="losses_sha256"):
        compute_bif(make_run(seed=1), output_path=path)


def test_something_else_at_the_path_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreExistsError, match="left untouched"):
        compute_bif(make_run(), output_path=tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_tiles_stay_small(tmp_path):
    result = compute_bif(make_run(rows={"code": 40}, tokens=64), output_path=tmp_path / "bif.zarr", batch_size=1000)
    chunks = result["influences"].encoding["chunks"]
    assert 4 * np.prod(chunks) <= bif_stream.CHUNK_BYTES
