"""Values of a store, whole or in part, chunk by chunk: what is there, what may be absent, and what is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from devinterp.schema import Limits
from devinterp.schema.findings.report import Collector
from devinterp.schema.reading import store_values
from devinterp.schema.reading.access import ZarrAccess, open_access
from devinterp.schema.reading.array_metadata import read_array_document
from devinterp.schema.reading.decode_chunk import CorruptChunkError
from devinterp.schema.reading.nodes import ArrayNode, NotReadableError
from devinterp.schema.reading.parse_json import parse_document
from devinterp.schema.reading.store_values import OverMemoryError, StoreValues, all_chunks, text_bytes

VALUES = np.arange(5 * 7, dtype=np.int64).reshape(5, 7)


def stored(values: Any = VALUES, chunks: Any = (2, 3), fill: Any = -1, **options: Any) -> tuple[MemoryStore, ArrayNode]:
    store = MemoryStore()
    zarr.create_array(
        store, name="a", data=np.asarray(values), chunks=chunks, fill_value=fill, compressors=None,
        dimension_names=[f"d{n}" for n in range(np.ndim(values))], config={"write_empty_chunks": True}, **options,
    )  # fmt: skip
    return store, node_of(store)


def node_of(store: MemoryStore) -> ArrayNode:
    findings = Collector()
    document = parse_document(store._store_dict["a/zarr.json"].to_bytes(), "/a", Limits(), findings)
    assert document is not None
    array = read_array_document(document, "/a", Limits(), findings)
    assert array is not None
    return array


def reader(store: MemoryStore, **limits: Any) -> StoreValues:
    return StoreValues(ZarrAccess(store, "it"), Limits(**limits))


PARTS = st.tuples(*(st.tuples(st.integers(0, n), st.integers(0, n)).map(sorted) for n in VALUES.shape))


@settings(max_examples=40)
@given(PARTS)
def test_any_part_is_read_from_the_chunks_that_it_touches(part: Any) -> None:
    store, array = stored()
    selection = {f"d{n}": slice(*p) for n, p in enumerate(part)}
    region = tuple(selection.values())
    found = reader(store).read(array, selection)
    np.testing.assert_array_equal(found, VALUES[region])
    assert found.dtype == np.dtype("<i8")
    values = reader(store)
    values.keep(array, VALUES)
    np.testing.assert_array_equal(values.read(array, selection), VALUES[region])
    touched = {tuple(i // c for i, c in zip(place, (2, 3), strict=True)) for place in np.argwhere(VALUES >= 0)
               if all(s.start <= i < s.stop for i, s in zip(place, region, strict=True))}  # fmt: skip
    for index in all_chunks(array):
        if index not in touched:
            store._store_dict.pop(f"a/{array.storage.keys.name(index)}")
    np.testing.assert_array_equal(reader(store).read(array, selection), VALUES[region])


def test_the_whole_is_read_where_nothing_is_selected() -> None:
    store, array = stored()
    np.testing.assert_array_equal(reader(store).read(array), VALUES)
    np.testing.assert_array_equal(
        reader(store).read(array, {"d1": slice(2, None), "other": slice(0, 0)}), VALUES[:, 2:]
    )
    scalar, node = stored(np.float64(2.5), chunks=(), fill=0.0)
    assert reader(scalar).read(node).item() == 2.5


def test_chunks_are_cut_to_the_end_of_their_array() -> None:
    store, array = stored()
    shapes = {index: chunk.shape for index, chunk in reader(store).chunks(array) if isinstance(chunk, np.ndarray)}
    assert shapes == {(i, j): ((2, 2, 1)[i], (3, 3, 1)[j]) for i in range(3) for j in range(3)}
    for index in all_chunks(array):
        chunk = reader(store).chunk(array, index)
        assert chunk is not None
        assert chunk.shape == shapes[index]
        assert chunk[0, 0] == VALUES[index[0] * 2, index[1] * 3]


def test_a_chunk_that_is_absent_is_fill_only_where_it_may_be() -> None:
    store, array = stored()
    del store._store_dict["a/c/1/2"]
    values = reader(store)
    assert values.chunk(array, (1, 2)) is None
    assert dict(values.chunks(array))[(1, 2)] is None
    np.testing.assert_array_equal(values.read(array, {"d0": slice(0, 2)}), VALUES[:2])
    with pytest.raises(NotReadableError, match=r"the chunk /a/c/1/2 is missing"):
        values.read(array)
    values.omittable.add("/a")
    expected = VALUES.copy()
    expected[2:4, 6:] = -1
    np.testing.assert_array_equal(values.read(array), expected)
    words, node = stored(np.array(["full", "l0h0"], dtype=np.dtypes.StringDType()), chunks=(1,), fill="")
    del words._store_dict["a/c/1"]
    values = reader(words)
    values.omittable.add("/a")
    assert values.read(node).tolist() == ["full", ""]


def test_a_damaged_chunk_is_named_and_the_others_are_there() -> None:
    store, array = stored()
    make = type(store._store_dict["a/c/0/0"]).from_bytes
    store._store_dict["a/c/0/0"] = make(b"short")
    store._store_dict["a/c/0/1"] = make(bytes(200_000))
    found = dict(reader(store).chunks(array))
    assert isinstance(found[(0, 0)], CorruptChunkError)
    assert isinstance(found[(0, 1)], CorruptChunkError)
    assert "larger than any chunk" in str(found[(0, 1)])
    assert sum(isinstance(f, np.ndarray) for f in found.values()) == 7
    with pytest.raises(CorruptChunkError, match="5 bytes"):
        reader(store).chunk(array, (0, 0))
    with pytest.raises(CorruptChunkError, match="larger than any chunk"):
        reader(store).chunk(array, (0, 1))
    with pytest.raises(NotReadableError, match=r"the chunk /a/c/0/0 is damaged"):
        reader(store).read(array)


def test_what_may_be_held_at_once_is_bounded() -> None:
    store, array = stored()
    fits = 4 * VALUES.nbytes
    assert reader(store, memory=fits).read(array).shape == (5, 7)
    tight = reader(store, memory=fits - 4)
    with pytest.raises(NotReadableError, match="larger than what a rule may hold"):
        tight.read(array)
    assert tight.read(array, {"d0": slice(0, 4)}).shape == (4, 7)
    assert tight.budget == (fits - 4) // 4


def test_a_chunk_may_be_as_large_as_the_limit() -> None:
    store, array = stored(np.zeros(100), chunks=(100,), fill=0.0)
    limits = Limits(memory=2000)
    assert limits.chunk == 800
    assert StoreValues(ZarrAccess(store, "it"), limits).chunk(array, (0,)) is not None
    for method in (lambda v: v.chunk(array, (0,)), lambda v: list(v.chunks(array))):
        with pytest.raises(OverMemoryError, match=r"its chunks have 800 bytes, more than 799"):
            method(StoreValues(ZarrAccess(store, "it"), Limits(memory=1999, chunks=1)))


def test_text_counts_with_all_its_letters() -> None:
    assert text_bytes(np.array(["a", "", "bcd"], dtype=object)) == 3 * 49 + 4
    assert text_bytes(np.zeros(3)) == 0
    words = np.array(["x" * 1000] * 40, dtype=np.dtypes.StringDType())
    store, array = stored(words, chunks=(10,), fill="")
    needed = 40 * 1049
    assert reader(store, memory=4 * needed).read(array).tolist() == words.tolist()
    with pytest.raises(NotReadableError, match="more text"):
        reader(store, memory=4 * (needed - 1)).read(array)


def test_small_arrays_are_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_values, "_CACHED", 100)
    store, array = stored()
    values = reader(store)
    kept, other, more = (ArrayNode(f"/{n}", n, ("x",), (5,), "float64", {}, array.storage) for n in "abc")
    values.keep(kept, np.arange(5.0))
    values.keep(other, np.arange(7.0) + 1)
    values.keep(more, np.arange(7.5) + 2)
    assert set(values._cache) == {"/a", "/b"}
    values.keep(ArrayNode("/d", "d", ("x",), (1,), "string", {}), np.array(["a"], dtype=object))
    assert set(values._cache) == {"/a", "/b"}
    assert values.read(kept, {"x": slice(1, 3)}).tolist() == [1.0, 2.0]


def test_a_store_of_our_writer_is_read_as_zarr_reads_it(valid_stores: dict[str, Path]) -> None:
    from devinterp.schema.reading.store_tree import read_store

    limits, findings = Limits(), Collector()
    for kind in ("samples", "susceptibilities"):
        access = open_access(valid_stores[kind])
        tree = read_store(access, limits, findings, None)
        assert tree is not None
        values = StoreValues(access, limits)
        for group in tree.root.subtree():
            for array in group.arrays.values():
                expected = zarr.open_array(valid_stores[kind], path=array.path, mode="r")[...]
                np.testing.assert_array_equal(np.asarray(values.read(array)), np.asarray(expected))
