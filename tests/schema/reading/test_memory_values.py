"""Values of a tree in memory: what is read, in which blocks, and what its attributes become."""

from __future__ import annotations

import enum
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from devinterp.schema import Limits
from devinterp.schema.reading.memory_tree import attributes_of, read_view
from devinterp.schema.reading.memory_values import ViewValues, block_shape
from devinterp.schema.reading.nodes import NotReadableError

VALUES = np.arange(24.0).reshape(4, 6)


def array_of(variable: Any, **coords: Any) -> Any:
    return read_view(xr.Dataset({"a": variable}, coords=coords)).arrays["a"]


@given(st.integers(1, 200))
def test_blocks_cover_an_array_once_within_their_size(size: int) -> None:
    array = array_of((("x", "y"), VALUES))
    seen = np.zeros(VALUES.shape, dtype=int)
    for offset, block in ViewValues(Limits()).blocks(array, size):
        place = tuple(slice(o, o + n) for o, n in zip(offset, block.shape, strict=True))
        np.testing.assert_array_equal(block, VALUES[place])
        seen[place] += 1
        assert block.nbytes <= max(size, 8)
    assert (seen == 1).all()


@pytest.mark.needs("dask")
def test_blocks_are_cut_from_the_chunks_that_reading_is_cheap_by() -> None:
    dask = array_of((("x", "y"), VALUES)).values.chunk(x=2, y=4)
    array = array_of(dask)
    offsets = [offset for offset, _ in ViewValues(Limits()).blocks(array, 10**6)]
    assert offsets == [(0, 0), (0, 4), (2, 0), (2, 4)]
    scalar = array_of(((), 3.0))
    assert [(o, b.item()) for o, b in ViewValues(Limits()).blocks(scalar, 8)] == [((), 3.0)]


def test_the_chunks_of_a_store_that_a_variable_came_from_are_known() -> None:
    variable = xr.Variable(("x", "y"), VALUES, encoding={"preferred_chunks": {"x": 2}})
    assert [o for o, _ in ViewValues(Limits()).blocks(array_of(variable), 10**6)] == [(0, 0), (2, 0)]
    variable.encoding["preferred_chunks"] = "nonsense"
    assert [o for o, _ in ViewValues(Limits()).blocks(array_of(variable), 10**6)] == [(0, 0)]


SIZES = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 7)), min_size=0, max_size=4)


@given(SIZES, st.integers(1, 50))
def test_a_block_lies_within_a_chunk_and_holds_no_more_than_asked(sizes: list[tuple[int, int]], count: int) -> None:
    shape, chunks = tuple(n for n, _ in sizes), tuple(c for _, c in sizes)
    block = block_shape(shape, chunks, count)
    assert len(block) == len(shape)
    assert all(1 <= b <= max(1, min(c, n)) for b, c, n in zip(block, chunks, shape, strict=True))
    assert int(np.prod(block)) <= count


def test_the_last_dimensions_stay_whole_as_long_as_they_can() -> None:
    assert block_shape((4, 6), (4, 6), 24) == (4, 6)
    assert block_shape((4, 6), (4, 6), 23) == (3, 6)
    assert block_shape((4, 6), (4, 6), 6) == (1, 6)
    assert block_shape((4, 6), (4, 6), 5) == (1, 5)
    assert block_shape((4, 6), (3, 2), 100) == (3, 2)
    assert block_shape((0, 6), (1, 6), 6) == (1, 6)


def test_a_part_is_read_by_dimension() -> None:
    values = ViewValues(Limits())
    array = array_of((("x", "y"), VALUES))
    np.testing.assert_array_equal(values.read(array), VALUES)
    np.testing.assert_array_equal(values.read(array, {"y": slice(1, 3), "z": slice(0, 0)}), VALUES[:, 1:3])


@pytest.mark.needs("dask")
def test_what_must_be_loaded_may_be_as_large_as_the_budget() -> None:
    lazy = array_of(array_of((("x", "y"), VALUES)).values.chunk(x=1))
    assert ViewValues(Limits(memory=4 * VALUES.nbytes)).read(lazy).shape == (4, 6)
    tight = ViewValues(Limits(memory=4 * VALUES.nbytes - 4))
    with pytest.raises(NotReadableError, match="larger"):
        tight.read(lazy)
    assert tight.read(lazy, {"x": slice(0, 3)}).shape == (3, 6)
    assert tight.read(array_of((("x", "y"), VALUES))).shape == (4, 6)  # in memory already


@pytest.mark.needs("dask")
def test_a_graph_that_fails_is_not_readable() -> None:
    import dask.array

    def fail(block: Any) -> Any:
        raise OSError("the disk is gone")

    array = array_of((("x",), dask.array.zeros(3).map_blocks(fail, meta=np.zeros(0))))
    with pytest.raises(NotReadableError, match=r"/a cannot be read: OSError: the disk is gone"):
        ViewValues(Limits()).read(array)


def test_groups_and_variables_are_seen_as_they_are() -> None:
    dataset = xr.Dataset(
        {"a": (("x", "y"), VALUES, {"units": "nat", "odd": np.float32(2)}), "s": ("x", ["p", "q", "r", "s"])},
        coords={"x": [1, 2, 3, 4], "beside": ("y", np.zeros(6, dtype=np.int8))},
        attrs={"n": np.int64(3)},
    )
    root = read_view(xr.DataTree.from_dict({"/": dataset, "/g/h": xr.Dataset({"b": ((), True)})}))
    assert (root.path, root.attrs, root.view) == ("/", {"n": 3}, True)
    assert {n: (a.path, a.dims, a.shape, a.dtype, a.coordinate) for n, a in root.arrays.items()} == {
        "a": ("/a", ("x", "y"), (4, 6), "float64", False),
        "s": ("/s", ("x",), (4,), "string", False),
        "x": ("/x", ("x",), (4,), "int64", True),
        "beside": ("/beside", ("y",), (6,), "int8", True),
    }
    assert root.arrays["a"].attrs == {"units": "nat", "odd": 2.0}
    inner = root.groups["g"].groups["h"]
    assert (inner.path, inner.arrays["b"].path, inner.arrays["b"].dtype) == ("/g/h", "/g/h/b", "bool")
    assert set(inner.arrays) == {"b"}  # and not the coordinates that it inherits
    assert read_view(dataset).arrays.keys() == root.arrays.keys()


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array(["a", "b"]), "string"),
        (np.array(["a", "b"], dtype=object), "string"),
        (np.array([], dtype=object), "string"),
        (np.array(["a", 1], dtype=object), "object"),
        (np.array([b"a"]), "bytes8"),
        (np.array(["a"], dtype=np.dtypes.StringDType()), "string"),
    ],
)
def test_strings_are_told_by_what_they_are(values: Any, dtype: str) -> None:
    assert array_of(xr.Variable("x", values)).dtype == dtype


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        (np.True_, True),
        (np.int8(3), 3),
        (np.float32(0.5), 0.5),
        (np.str_("a"), "a"),
        (np.datetime64("2026-01-01"), "2026-01-01"),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        ((1, [2, {3: np.int64(4)}]), [1, [2, {"3": 4}]]),
        (frozenset([1]), [1]),
        (Colour.RED, "Colour.RED"),
        (2**8192 - 1, 2**8192 - 1),
        (2**8192, "an integer of 8193 bits"),
        ({"a": -(2**9000)}, {"a": "an integer of 9001 bits"}),
    ],
)
def test_attributes_become_json_or_their_text(value: Any, plain: Any) -> None:
    found = attributes_of(value)
    assert found == plain
    assert isinstance(found, type(plain))


def test_attributes_are_followed_to_a_depth_and_no_further() -> None:
    value: Any = 1
    for _ in range(65):
        value = [value]
    found = attributes_of(value)
    for _ in range(65):
        (found,) = found
    assert found == 1
    mapping: Any = 1
    for _ in range(65):
        mapping = {"a": mapping}
    assert attributes_of(mapping) == mapping
    assert attributes_of({"a": {"a": mapping}}) != {"a": {"a": mapping}}
    endless: list[Any] = []
    endless.append(endless)
    found = attributes_of(endless)
    depth = 0
    while isinstance(found, list):
        (found,) = found
        depth += 1
    assert (depth, found) == (65, "((((...))))")
