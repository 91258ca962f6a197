"""What is believed of an array's own document, up to the bounds, and under which code the rest is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from devinterp.schema import Limits, RuleCode
from devinterp.schema.findings.report import Collector
from devinterp.schema.reading.array_metadata import SAFE_CODECS, ArrayDocuments, read_array_document

DOCUMENT: dict[str, Any] = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [4, 6],
    "data_type": "float32",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2, 4]}},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "fill_value": "NaN",
    "codecs": [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "zstd", "configuration": {"level": 1}},
    ],
    "attributes": {"units": "nat"},
    "dimension_names": ["chain", "draw"],
    "storage_transformers": [],
}


def read(limits: Limits | None = None, path: str = "/group/loss", **members: Any) -> Any:
    """The array, or the code, message and facts of the one finding that says why not."""
    document = {**copy.deepcopy(DOCUMENT), **members}
    findings = Collector()
    array = read_array_document({k: v for k, v in document.items() if v is not ...}, path, limits or Limits(), findings)
    found = findings.findings()
    if array is not None:
        assert found == ()
        return array
    (finding,) = found
    assert (finding.path, finding.severity) == (path, "error")
    return finding


def chunks(*shape: Any) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": list(shape)}}


def test_everything_that_a_document_says_is_kept() -> None:
    array = read()
    assert (array.path, array.name, array.dims, array.shape) == ("/group/loss", "loss", ("chain", "draw"), (4, 6))
    assert (array.dtype, array.attrs) == ("float32", {"units": "nat"})
    storage = array.storage
    assert (storage.chunks, storage.keys.encoding, storage.keys.separator, storage.fill) == (
        (2, 4),
        "default",
        "/",
        "NaN",
    )
    assert [(c.name, dict(c.configuration)) for c in storage.codecs] == [
        ("bytes", {"endian": "little"}),
        ("zstd", {"level": 1}),
    ]
    assert storage.length == 0


def test_what_may_be_left_out_or_be_short_is_understood() -> None:
    array = read(
        attributes=...,
        storage_transformers=...,
        chunk_key_encoding="default",
        codecs=["bytes", "gzip"],
        data_type={"name": "int64"},
    )
    assert (array.attrs, array.dtype) == ({}, "int64")
    assert [c.name for c in array.storage.codecs] == ["bytes", "gzip"]
    assert array.storage.keys.separator == "/"
    assert read(chunk_key_encoding="v2").storage.keys.separator == "."
    assert (
        read(chunk_key_encoding={"name": "default", "configuration": {"separator": "."}}).storage.keys.separator == "."
    )
    assert read(mystery={"must_understand": False}, storage_transformers=None).shape == (4, 6)
    scalar = read(shape=[], chunk_grid=chunks(), dimension_names=...)
    assert (scalar.dims, scalar.storage.chunks) == ((), ())
    assert read(shape=[], chunk_grid=chunks(), dimension_names=[]).dims == ()
    assert read(path="/loss").name == "loss"


def test_strings_of_fixed_length_say_their_length() -> None:
    def text(**configuration: Any) -> Any:
        return read(data_type={"name": "fixed_length_utf32", "configuration": configuration})

    for length in (0, 4, 28, 2**20):
        array = text(length_bytes=length)
        assert (array.dtype, array.storage.length) == ("fixed_length_utf32", length)
    for length in (-4, 2, 6, 5, 2**20 + 4, 4.0, "4", None):
        assert text(length_bytes=length).code == RuleCode.UNSAFE_DTYPE
    assert text().storage.length == 0
    assert read(data_type="fixed_length_utf32").storage.length == 0
    assert read(data_type={"name": "fixed_length_utf32", "configuration": 4}).storage.length == 0


@pytest.mark.parametrize("name", ["shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs"])
def test_a_member_that_is_missing_is_named(name: str) -> None:
    finding = read(**{name: ...})
    assert (finding.code, finding.expected) == (RuleCode.METADATA, name)
    assert read(**{name: ..., "shape": ...}).expected == ", ".join(sorted({name, "shape"}))


METADATA: list[dict[str, Any]] = [
    {"mystery": 1},
    {"mystery": {"must_understand": True}},
    {"mystery": {}},
    {"mystery": ["must_understand"]},
    {"storage_transformers": [{"name": "x"}]},
    {"storage_transformers": {}},
    {"shape": 4},
    {"shape": {"0": 4}},
    {"attributes": []},
    {"attributes": None},
    {"chunk_grid": {"name": "rectilinear", "configuration": {"chunk_shape": [2, 4]}}},
    {"chunk_grid": chunks(2)},
    {"chunk_grid": chunks(2, 4, 1)},
    {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": 2}}},
    {"chunk_grid": "regular"},
    {"chunk_grid": None},
    {"chunk_grid": {"name": "regular", "configuration": [2, 4]}},
    {"chunk_grid": {"configuration": {"chunk_shape": [2, 4]}}},
    {"codecs": []},
    {"codecs": "bytes"},
    {"codecs": {"bytes": 1}},
    {"codecs": [3]},
    {"codecs": [{"name": 3}]},
    {"codecs": ["bytes"] * 17},
    {"codecs": [{"name": "sharding_indexed", "configuration": {"codecs": ["bytes"]}}]},
    {"codecs": [{"name": "sharding_indexed", "configuration": {"index_codecs": ["bytes"]}}]},
]


@pytest.mark.parametrize("members", METADATA, ids=[f"{n}-{'-'.join(m)}" for n, m in enumerate(METADATA)])
def test_a_document_that_cannot_be_used_is_refused(members: dict[str, Any]) -> None:
    assert read(**members).code == RuleCode.METADATA


def test_a_finding_says_which_member_is_wrong_and_what_belongs_there() -> None:
    for member, value, expected in (
        ("chunk_grid", {"name": "rectilinear"}, "regular"),
        ("chunk_key_encoding", "v1", "default"),
        ("storage_transformers", ["x"], "none"),
    ):
        assert read(**{member: value}).expected == expected
    for member in ("codecs", "chunk_grid", "chunk_key_encoding"):
        value = [3] if member == "codecs" else 3
        assert read(**{member: value}).message.startswith(f"{member} cannot be read")
    assert read(shape=3).message.startswith("shape is not a list")
    assert read(chunk_grid="regular").message.startswith("chunk_shape is not a list")
    assert (read(shape=[1.5, 1]).expected, read(storage_transformers=["x"]).found) == ("integers", "some")


def test_codecs_may_be_so_many_and_only_known_ones() -> None:
    assert len(read(codecs=["bytes"] * 16).storage.codecs) == 16
    for name in SAFE_CODECS - {"sharding_indexed"}:
        assert read(codecs=[name]).storage.codecs[0].name == name
    assert read(codecs=["bytes", "numcodecs.pickle"]).code == RuleCode.UNSAFE_CODEC

    def shards(**configuration: Any) -> Any:
        inner = {"codecs": ["bytes"], "index_codecs": ["bytes", "crc32c"], **configuration}
        return read(codecs=[{"name": "sharding_indexed", "configuration": inner}])

    (codec,) = shards().storage.codecs
    assert codec.configuration["index_codecs"] == ["bytes", "crc32c"]
    assert shards(codecs=["numcodecs.pickle"]).code == RuleCode.UNSAFE_CODEC
    assert shards(index_codecs=["numcodecs.pickle"]).code == RuleCode.UNSAFE_CODEC
    nested = {"name": "sharding_indexed", "configuration": {"codecs": ["bytes"], "index_codecs": ["bytes"]}}
    for where in ("codecs", "index_codecs"):
        finding = shards(**{where: [nested]})
        assert (finding.code, finding.message) == (RuleCode.METADATA, "There are shards inside shards.")


@pytest.mark.parametrize("name", ["object", "r16", "float128", "", 3, None, ["float32"], {"name": "object"}, {}])
def test_a_type_that_is_not_known_is_not_safe(name: Any) -> None:
    assert read(data_type=name).code == RuleCode.UNSAFE_DTYPE


@pytest.mark.parametrize("name", ["bool", "uint8", "float64", "string", "complex64", "fixed_length_bytes"])
def test_harmless_types_are_read_as_what_they_are(name: str) -> None:
    assert read(data_type=name).dtype == name


def test_sizes_are_bounded_one_by_one_and_together() -> None:
    limits = Limits(size=8, elements=24, chunks=6)
    assert read(limits).shape == (4, 6)
    assert read(limits, shape=[8, 3], chunk_grid=chunks(8, 3)).shape == (8, 3)
    assert read(limits, shape=[0, 6]).shape == (0, 6)
    for shape in ([9, 1], [-1, 6], [5, 5], [4.0, 6], ["4", 6], [True, 6], [None, 6]):
        assert read(limits, shape=shape).code == RuleCode.ABSURD_SHAPE, shape
    for shape in ((0, 4), (9, 1), (5, 5), (2.0, 4), (-2, 4)):
        assert read(limits, chunk_grid=chunks(*shape)).code == RuleCode.ABSURD_SHAPE, shape
    assert read(limits, chunk_grid=chunks(2, 2)).storage.chunks == (2, 2)  # six of them
    finding = read(limits, chunk_grid=chunks(1, 4))
    assert (finding.code, finding.expected, finding.found) == (RuleCode.TOO_MANY_CHUNKS, "at most 6", "8")


def test_no_more_than_32_dimensions_are_looked_at() -> None:
    def wide(ndim: int) -> Any:
        return read(shape=[1] * ndim, chunk_grid=chunks(*[1] * ndim), dimension_names=[f"d{n}" for n in range(ndim)])

    assert len(wide(32).shape) == 32
    assert wide(33).code == RuleCode.ABSURD_SHAPE


def test_a_finding_says_a_number_that_python_refuses_to_print() -> None:
    """CPython raises where an integer of more than 4300 digits becomes text."""
    finding = read(shape=[10**5000, 6])
    assert (finding.code, finding.found) == (RuleCode.ABSURD_SHAPE, f"an integer of {(10**5000).bit_length()} bits")
    assert read(shape=[2**255, 6]).found == str(2**255)
    assert read(shape=[2**256, 6]).found == "an integer of 257 bits"


@pytest.mark.parametrize(
    "names", [None, ["chain"], ["chain", "draw", "x"], ["chain", ""], ["chain", None], ["chain", 3], "cd", ["draw"] * 2]
)
def test_every_dimension_has_a_name_of_its_own(names: Any) -> None:
    assert read(dimension_names=names).code == RuleCode.DIMENSION_NAMES
    assert read(dimension_names=None).found == "none"


@pytest.mark.parametrize("names", [["x"], "", {}])
def test_a_scalar_has_no_dimension_to_name(names: Any) -> None:
    assert read(shape=[], chunk_grid=chunks(), dimension_names=names).code == RuleCode.DIMENSION_NAMES


@pytest.mark.parametrize(
    "encoding",
    [
        "v1",
        {"name": "default", "configuration": {"separator": "-"}},
        {"name": "v2", "configuration": {"separator": ""}},
        {"name": "other", "configuration": {"separator": "/"}},
    ],
)
def test_other_keys_of_chunks_are_refused(encoding: Any) -> None:
    assert read(chunk_key_encoding=encoding).code == RuleCode.CHUNK_KEYS


def test_a_chunk_of_a_scalar_has_no_size_and_others_have_one() -> None:
    assert read(shape=[], chunk_grid=chunks(1), dimension_names=[]).code == RuleCode.METADATA
    assert read(chunk_grid=chunks(1, 1)).storage.chunks == (1, 1)


def test_the_same_document_is_read_once_and_has_its_own_name_each_time() -> None:
    findings = Collector()
    documents = ArrayDocuments(Limits(), findings)
    one, other = (documents.read(copy.deepcopy(DOCUMENT), f"/{n}/loss_{n}") for n in ("a", "b"))
    assert one is not None
    assert other is not None
    assert [(a.path, a.name, a.shape) for a in (one, other)] == [
        ("/a/loss_a", "loss_a", (4, 6)),
        ("/b/loss_b", "loss_b", (4, 6)),
    ]
    assert other.storage is one.storage
    for path in ("/a/x", "/b/x"):
        assert documents.read({**DOCUMENT, "shape": [-1, 6]}, path) is None
    assert {p for f in findings.findings() for p in f.paths} == {"/a/x", "/b/x"}
