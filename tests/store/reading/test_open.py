"""What opening and checking the structure of a store cost: a few reads, however many groups there are."""

from __future__ import annotations

import json

import lifelike
import pytest
import xarray as xr
from zarr.storage import LocalStore

import devinterp
from devinterp.errors import StoreError
from devinterp.store import open_store
from devinterp.testing import make_store


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


SHORT = {
    "a codec by its name": ("codecs", ["bytes", "zstd", "crc32c"], r'"bytes", which is to be spelt \{"name": "bytes"'),
    "a checksum by its name": (
        "codecs",
        [None, None, "crc32c"],
        r'"crc32c", which is to be spelt \{"name": "crc32c"\}',
    ),
    "a codec that says nothing more": ("codecs", [None, {"name": "zstd"}, None], r'\{"name": "zstd"\}, which is to be'),
    "keys by their name": ("chunk_key_encoding", "default", r'"default", which is to be spelt \{"name": "default"\}'),
    "a type as an object": ("data_type", {"name": "float32"}, r'which is to be spelt "float32"'),
}


@pytest.mark.parametrize("gathered", [True, False])
@pytest.mark.parametrize("case", SHORT)
def test_a_legal_spelling_that_zarr_does_not_read_is_named_with_the_one_it_reads(stores, tmp_path, case, gathered):
    member, value, pattern = SHORT[case]
    store = lifelike.make_samples(tmp_path / "a.zarr", chains=1, draws=4, rows=2, save_metrics=False)
    root, document = (json.loads((store / p / "zarr.json").read_text()) for p in ("", "loss_code"))
    as_written = document[member]
    if member == "codecs":
        value = [old if new is None else new for old, new in zip(as_written, value, strict=True)]
    document[member] = value
    root["consolidated_metadata"] = {**root["consolidated_metadata"]} if gathered else None
    if gathered:
        root["consolidated_metadata"]["metadata"]["loss_code"] = document
    (store / "zarr.json").write_text(json.dumps(root))
    (store / "loss_code" / "zarr.json").write_text(json.dumps(document))
    assert devinterp.validate(store).ok
    for level in ("structure", None):
        with pytest.raises(StoreError, match=pattern) as caught:
            open_store(store, level=level)
        assert "'loss_code'" in str(caught.value)
        assert "loss_code/zarr.json" in caught.value.remedy
    document[member] = as_written  # the remedy, followed
    if gathered:
        root["consolidated_metadata"]["metadata"]["loss_code"] = document
        (store / "zarr.json").write_text(json.dumps(root))
    (store / "loss_code" / "zarr.json").write_text(json.dumps(document))
    assert open_store(store, level="values")["loss_code"].shape == (1, 4, 2, lifelike.TOKENS)


@pytest.mark.parametrize("told", [[], 3, {"run": []}, {"run": {"chains": 2}}, {"run": {"chains": [None]}}])
def test_a_store_whose_metadata_are_not_what_they_should_be_can_be_looked_at(tmp_path, told):
    path = tmp_path / "a.zarr"
    make_store(path)
    root = path / "zarr.json"
    document = json.loads(root.read_text())
    document["attributes"]["metadata"] = told
    root.write_text(json.dumps(document))
    assert open_store(path, level=None).attrs["completed"] == 1
