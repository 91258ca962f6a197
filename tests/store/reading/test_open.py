"""What opening and checking the structure of a store cost: a few reads, however many groups there are."""

from __future__ import annotations

import lifelike
import pytest
import xarray as xr
from zarr.storage import LocalStore

import devinterp
from devinterp.store import open_store


class Counting(LocalStore):
    """A folder that counts what is read of it."""

    reads = 0

    async def get(self, *arguments, **options):
        type(self).reads += 1
        return await super().get(*arguments, **options)

    async def exists(self, key):
        type(self).reads += 1
        return await super().exists(key)

    async def list_dir(self, prefix):
        type(self).reads += 1
        async for name in super().list_dir(prefix):
            yield name


def reads_of(function, path):
    Counting.reads = 0
    assert function(Counting(path, read_only=True)) is not None
    return Counting.reads


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series")
    options = {"chains": 1, "draws": 4, "rows": 2, "save_metrics": False}
    small = lifelike.make_series(folder / "small.zarr", [1], ["full"], **options)
    return small, lifelike.make_series(folder / "large.zarr", range(6), ["full", "a", "b"], **options)


def test_a_series_is_opened_and_checked_in_as_many_reads_as_a_single_run(stores):
    _, large = stores
    assert len(list(xr.open_datatree(large, engine="zarr").subtree)) == 25
    ways = {
        "plain xarray": lambda store: xr.open_datatree(store, engine="zarr"),
        "structure": lambda store: devinterp.validate(store, level="structure"),
        "open_store": open_store,
    }
    for name, function in ways.items():
        counts = [reads_of(function, path) for path in stores]
        # Each checkpoint's coordinate is read to make its index; nothing else may grow.
        assert counts[1] <= counts[0] + 2, (name, counts)
        assert 0 < counts[0] < 20, (name, counts)
