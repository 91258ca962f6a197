from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.core.chunk_key_encodings import parse_chunk_key_encoding

from devinterp.schema.reading.keys import (
    ChunkKeys,
    chunk_grid,
    document_key,
    documented_node,
    join_key,
    place,
)

SPELLINGS: list[Any] = [
    "default",
    "v2",
    {"name": "default"},
    {"name": "v2"},
    {"name": "default", "configuration": {}},
    *(
        {"name": name, "configuration": {"separator": separator}}
        for name in ("default", "v2")
        for separator in ("/", ".")
    ),
]


@given(st.lists(st.integers(1, 12), max_size=3), st.sampled_from(SPELLINGS))
def test_every_chunk_has_one_name_which_is_that_of_zarr(grid: list[int], spelling: Any) -> None:
    keys, shape = ChunkKeys.parse(spelling), tuple(grid)
    indices = list(np.ndindex(*shape))
    names = [keys.name(index) for index in indices]
    long = spelling if isinstance(spelling, dict) else {"name": spelling}
    encoder = parse_chunk_key_encoding({"configuration": {}, **long})
    assert names == [encoder.encode_chunk_key(index) for index in indices]
    assert [keys.number(name, shape) for name in names] == list(range(len(names)))
    assert [keys.index(name, shape) for name in names] == indices
    assert [place(number, shape) for number in range(len(names))] == indices


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("shape", [(), (5,), (4, 3)])
def test_zarr_writes_chunks_where_they_are_looked_for(spelling: Any, shape: tuple[int, ...]) -> None:
    store: dict[str, Any] = {}
    long = {"name": spelling} if isinstance(spelling, str) else dict(spelling)
    separator = long.get("configuration", {}).get("separator", "/" if long["name"] == "default" else ".")
    chunks = tuple(max(1, n - 2) for n in shape)
    array = zarr.create_array(
        zarr.storage.MemoryStore(store),
        name="a",
        shape=shape,
        chunks=chunks or "auto",
        dtype="f4",
        chunk_key_encoding={"name": long["name"], "separator": separator},
        config={"write_empty_chunks": True},
    )
    array[...] = 1
    keys = ChunkKeys.parse(spelling)
    wanted = {join_key("a", keys.name(index)) for index in np.ndindex(*chunk_grid(shape, chunks))}
    assert {key for key in store if documented_node(key) is None} == wanted


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        "other",
        {"name": "default", "configuration": {"separator": "-"}},
        {"name": "v2", "configuration": {"separator": ""}},
        {"name": "default", "configuration": ["/"]},
        {"configuration": {"separator": "/"}},
    ],
)
def test_encodings_that_zarr_does_not_have_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="not known"):
        ChunkKeys.parse(value)


NO_KEYS = [
    *("c/0", "c/0/1/0", "0/1", "c/0/3", "c/2/0", "d/0/1", "c.0.1", "c", "", "zarr.json"),
    *("c/00/1", "c/+0/1", "c/-0/1", "c/0/ 1", "c/\u0660/1", "c/0/\u00b2", "c//1", "c/0/1/", "c/0/x"),
    *("c/0/" + "0" * 17, "c/0/" + "9" * 16, "c/0/" + "9" * 5000),
]


@pytest.mark.parametrize("name", NO_KEYS)
def test_what_does_not_name_a_chunk_has_no_place(name: str) -> None:
    assert ChunkKeys().number("c/1/2", (2, 3)) == 5
    assert ChunkKeys().number(name, (2, 3)) is None
    assert ChunkKeys().index(name, (2, 3)) is None


@pytest.mark.parametrize("name", ["c", "1", "00", "", "0.0", "c.0"])
def test_the_chunk_of_a_scalar_of_zarr_v2_is_called_0(name: str) -> None:
    assert ChunkKeys("v2", ".").number("0", ()) == 0
    assert ChunkKeys("v2", ".").number(name, ()) is None


@pytest.mark.parametrize(
    ("shape", "size", "grid"),
    [((4, 6), (2, 4), (2, 2)), ((4, 8), (4, 1), (1, 8)), ((0, 3), (2, 3), (0, 1)), ((0,), (0,), (0,)), ((), (), ())],
)
def test_a_grid_has_a_chunk_for_what_is_left(shape: Any, size: Any, grid: Any) -> None:
    assert chunk_grid(shape, size) == grid


def test_a_place_outside_the_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="no chunk 6"):
        place(6, (2, 3))


def test_documents_lie_below_their_nodes() -> None:
    assert document_key() == document_key("/") == "zarr.json"
    assert document_key("/l0h0/", "loss_a") == "l0h0/loss_a/zarr.json"
    assert documented_node("zarr.json") == ""
    assert documented_node("l0h0/loss_a/zarr.json") == "l0h0/loss_a"
    assert documented_node("l0h0/zarr.json.0a.partial") is None
    assert documented_node("l0h0/notzarr.json") is None
    assert join_key("/", "", "a/", "/b") == "a/b"
