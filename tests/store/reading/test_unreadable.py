"""A store that xarray or zarr-python does not read ends in one error that names the array and what to mend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from edits import edit_attributes

from devinterp.errors import StoreError, ValidationError
from devinterp.schema import validate
from devinterp.store.reading.open import open_store
from devinterp.testing import make_store


@pytest.mark.parametrize(
    ("kind", "marker"),
    [
        ("samples", "NaN"),
        ("samples", "AADAfw=="),
        ("samples", 0.0),
        ("samples", None),
        ("study", [1]),
        ("susceptibilities", ""),
    ],
)
def test_a_marker_of_missing_numbers_that_xarray_does_not_decode(tmp_path: Path, kind: str, marker: Any) -> None:
    store = Path(make_store(tmp_path / "s.zarr", kind, consolidated=False))
    array = {"samples": "sampling_loss", "study": "full/sampling_loss", "susceptibilities": "susceptibilities/wr"}[kind]
    edit_attributes(store, lambda a: a.update(_FillValue=marker), array)
    with pytest.raises(ValidationError, match="DI201"):
        open_store(store)
    with pytest.raises(StoreError, match=f"'{array}'.*_FillValue.*removed"):
        open_store(store, level=None)
    edit_attributes(store, lambda a: a.pop("_FillValue"), array)
    assert validate(store).ok
    open_store(store)
