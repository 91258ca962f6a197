"""Blocks read from chunk files: the bytes that xarray and Zarr give, or what they raise."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec
from zarr.storage import MemoryStore

from devinterp.schema.reading.array_metadata import read_array_document
from devinterp.store.reading import fast_chunks
from devinterp.store.reading.fast_chunks import block_reader
from devinterp.store.reading.open import open_store
from devinterp.testing import make_store

DIMS = ("chain", "draw", "row", "token_pos")
PACKED = {
    "none": {"compressors": None},
    "zstd": {"compressors": ZstdCodec(level=1)},
    "zstd with a checksum": {"compressors": [ZstdCodec(level=1), Crc32cCodec()]},
    "blosc": {"compressors": BloscCodec(cname="lz4")},
    "gzip": {"compressors": GzipCodec(level=1)},
    "big endian": {"serializer": BytesCodec(endian="big")},
    "transposed": {"filters": [TransposeCodec(order=(3, 1, 0, 2))]},
}


def write(store, *, shape=(3, 7, 2, 5), chunks=(1, 3, 2, 5), dtype="float32", skip=None, **options):
    """An array whose values tell their place; ``skip`` leaves out what is written of one region."""
    array = zarr.create_array(
        store, name="loss", shape=shape, chunks=chunks, dtype=dtype, dimension_names=DIMS, fill_value=-1, **options
    )
    values = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    for place in np.ndindex(shape[:2]):
        if place != skip:
            array[place] = values[place]
    return array


def opened(store):
    return xr.open_dataset(store, engine="zarr", consolidated=False, chunks=None, mask_and_scale=False)["loss"].variable


@pytest.fixture
def no_zarr(monkeypatch):
    """Whatever is asked of Zarr from now on fails."""

    def refuse(*_args, **_kwargs):
        raise AssertionError("read through Zarr")

    def forbid():
        monkeypatch.setattr("xarray.backends.zarr.ZarrArrayWrapper.__getitem__", refuse)

    return forbid


@pytest.mark.parametrize("packed", PACKED.values(), ids=PACKED)
def test_a_local_array_is_read_from_its_files(tmp_path, no_zarr, packed):
    whole = np.array(write(tmp_path / "x.zarr", **packed)[...])
    read = block_reader(opened(tmp_path / "x.zarr"))
    no_zarr()
    found = read(slice(1, 3), slice(2, 5))
    assert found.dtype == np.float32
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, whole[1:3, 2:5], strict=True)


def test_shards_are_read_from_their_files(tmp_path, no_zarr):
    whole = np.array(write(tmp_path / "x.zarr", shards=(1, 6, 2, 5))[...])
    read = block_reader(opened(tmp_path / "x.zarr"))
    no_zarr()
    np.testing.assert_array_equal(read(slice(0, 3), slice(0, 7)), whole)


@given(data=st.data())
def test_any_block_of_any_slice_is_what_xarray_gives(tmp_path_factory, data):
    sizes = st.integers(1, 6)
    shape = tuple(data.draw(st.tuples(sizes, sizes, sizes, sizes)))
    chunks = tuple(data.draw(st.integers(1, n)) for n in shape)
    skip = data.draw(st.none() | st.tuples(st.integers(0, shape[0] - 1), st.integers(0, shape[1] - 1)))
    dtype = data.draw(st.sampled_from(["float32", "float16", "int64"]))
    folder = tmp_path_factory.mktemp("any") / "x.zarr"
    write(folder, shape=shape, chunks=chunks, skip=skip, dtype=dtype)

    def part(size):
        start = data.draw(st.integers(0, size - 1))
        return slice(start, data.draw(st.integers(start + 1, size)))

    step = data.draw(st.sampled_from([None, 1, -1, 2]))  # steps are read through Zarr
    variable = opened(folder).isel({dim: part(n) for dim, n in zip(DIMS, shape, strict=True)})
    variable = variable.isel(row=slice(None, None, step))
    first, second = part(variable.shape[0]), part(variable.shape[1])
    found = block_reader(variable)(first, second)
    np.testing.assert_array_equal(found, variable[first, second].values, strict=True)


def test_a_block_belongs_to_the_caller_and_the_variable_remembers_nothing(tmp_path):
    whole = np.array(write(tmp_path / "x.zarr")[...])
    variable = opened(tmp_path / "x.zarr")
    read = block_reader(variable)
    found = read(slice(0, 1), slice(0, 3))
    found[...] = 0
    np.testing.assert_array_equal(read(slice(0, 1), slice(0, 3)), whole[:1, :3])
    assert not variable._in_memory


def test_several_threads_read_at_once(tmp_path):
    whole = np.array(write(tmp_path / "x.zarr", shape=(4, 60, 3, 5))[...])
    read = block_reader(opened(tmp_path / "x.zarr"))
    blocks = [(slice(c, c + 1), slice(d, d + 2)) for c in range(4) for d in range(0, 60, 2)]
    with ThreadPoolExecutor(4) as pool:
        for block, found in zip(blocks, pool.map(lambda b: read(*b), blocks), strict=True):
            np.testing.assert_array_equal(found, whole[block])


@pytest.mark.parametrize("damage", ["cut", "absent"])
def test_what_cannot_be_read_is_what_zarr_makes_of_it(tmp_path, damage):
    write(tmp_path / "x.zarr")
    chunk = tmp_path / "x.zarr" / "loss" / "c" / "1" / "0" / "0" / "0"
    variable = opened(tmp_path / "x.zarr")
    read = block_reader(variable)
    if damage == "cut":
        chunk.write_bytes(chunk.read_bytes()[:-3])
        with pytest.raises(RuntimeError, match=r"[Zz]std"):
            read(slice(1, 2), slice(0, 3))
    else:
        chunk.unlink()
        assert (read(slice(1, 2), slice(0, 3)) == -1).all()


def decoded(variable):
    return xr.conventions.decode_cf_variable("loss", variable.copy(deep=False)._replace(attrs={"scale_factor": 2.0}))


OTHERS = {
    "in memory": lambda variable: variable.load(),
    "computed": lambda variable: variable * 2,
    "decoded": decoded,
    "transposed": lambda variable: variable.transpose("draw", "chain", ...),
    "picked": lambda variable: variable.isel(row=[1, 0]),
    "one row": lambda variable: variable.isel(row=0),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_what_is_not_the_stored_array_itself_is_read_by_xarray(tmp_path, other):
    write(tmp_path / "x.zarr")
    variable = other(opened(tmp_path / "x.zarr"))
    found = block_reader(variable)(slice(0, 2), slice(1, 3))
    np.testing.assert_array_equal(found, variable[0:2, 1:3].values, strict=True)


def test_a_store_that_is_no_folder_is_read_by_zarr():
    store = MemoryStore()
    whole = np.array(write(store)[...])
    np.testing.assert_array_equal(block_reader(opened(store))(slice(0, 2), slice(1, 3)), whole[0:2, 1:3])


def test_with_another_xarray_everything_is_read_by_it(tmp_path, monkeypatch):
    whole = np.array(write(tmp_path / "x.zarr")[...])
    monkeypatch.setattr("devinterp.store.reading.xarray_private.LAYERS", ())
    np.testing.assert_array_equal(block_reader(opened(tmp_path / "x.zarr"))(slice(0, 2), slice(1, 3)), whole[0:2, 1:3])


def test_what_an_array_says_of_itself_is_read_once_and_forgotten_with_it(tmp_path, monkeypatch):
    documents = []
    monkeypatch.setattr(fast_chunks, "read_array_document", lambda *a: documents.append(a) or read_array_document(*a))
    write(tmp_path / "x.zarr")
    variable = opened(tmp_path / "x.zarr")
    for _ in range(3):
        block_reader(variable)(slice(0, 1), slice(0, 3))
    assert len(documents) == 1
    there = len(fast_chunks._nodes)
    del variable
    documents.clear()
    gc.collect()
    assert len(fast_chunks._nodes) < there


@pytest.mark.parametrize("opens", [open_store, partial(xr.open_datatree, engine="zarr", chunks=None)])
def test_arrays_that_are_alike_are_read_each_from_its_own_files(tmp_path, opens):
    """What they say of themselves is equal and may be one object: checkpoints, restrictions and cells are alike."""
    make_store(tmp_path / "study.zarr", "study")
    tree = opens(tmp_path / "study.zarr")
    groups = [node.path for node in tree.subtree if "sampling_loss" in node]
    assert len(groups) > 1
    found = {path: block_reader(tree[path]["sampling_loss"].variable)(slice(0, 1), slice(0, 1)) for path in groups}
    for path, values in found.items():
        stored = zarr.open_group(tmp_path / "study.zarr", mode="r")[f"{path}/sampling_loss"]
        np.testing.assert_array_equal(values, stored[:1, :1])
    assert len({values.tobytes() for values in found.values()}) == len(groups)
