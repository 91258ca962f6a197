"""Chunks decode to what zarr wrote, whatever its codecs; of those that are damaged none decodes, and none inflates."""

from __future__ import annotations

import gzip
import json
import struct
import warnings
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numcodecs import blosc, zstd
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    ShardingCodec,
    TransposeCodec,
    VLenUTF8Codec,
    ZstdCodec,
)

from devinterp.schema import Limits
from devinterp.schema.findings.report import Collector
from devinterp.schema.reading import decode_chunk as chunk_codecs
from devinterp.schema.reading.array_metadata import read_array_document
from devinterp.schema.reading.decode_chunk import (
    BombError,
    CorruptChunkError,
    chunk_bytes,
    decode_chunk,
    encoded_bound,
    object_bound,
    zstd_declared_size,
)
from devinterp.schema.reading.keys import ChunkKeys
from devinterp.schema.reading.nodes import ArrayNode, CodecNode, StorageNode

TEXT_LIMIT = 2**16


def node(codecs: list[CodecNode], shape: tuple[int, ...] = (3,), dtype: str = "int32", fill: Any = 0) -> ArrayNode:
    dims = tuple(f"d{n}" for n in range(len(shape)))
    return ArrayNode("/a", "a", dims, shape, dtype, {}, StorageNode(shape, ChunkKeys(), tuple(codecs), fill))


def codec(name: str, **configuration: Any) -> CodecNode:
    return CodecNode(name, configuration)


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "big endian": {"serializer": BytesCodec(endian="big")},
    "gzip": {"compressors": [GzipCodec()]},
    "zstd with its own checksum": {"compressors": [ZstdCodec(checksum=True)]},
    "blosc": {"compressors": [BloscCodec()]},
    "checksum of what is packed": {"compressors": [ZstdCodec(), Crc32cCodec()]},
    "checksum, then packed": {"compressors": [Crc32cCodec(), GzipCodec()]},
    "packed twice": {"compressors": [GzipCodec(), ZstdCodec()]},
    "transposed": {"filters": [TransposeCodec(order=(1, 2, 0))]},
    "transposed twice": {"filters": [TransposeCodec(order=(1, 2, 0)), TransposeCodec(order=(1, 0, 2))]},
    "shards": {"serializer": ShardingCodec(chunk_shape=(2, 1, 5))},
    "shards with the index in front": {
        "serializer": ShardingCodec(chunk_shape=(1, 3, 5), codecs=[BytesCodec(), GzipCodec()], index_location="start")
    },
    "shards without checksum of the index": {
        "serializer": ShardingCodec(chunk_shape=(2, 3, 1), index_codecs=[BytesCodec()])
    },
    "shards of transposed chunks": {
        "serializer": ShardingCodec(chunk_shape=(2, 1, 5), codecs=[TransposeCodec(order=(2, 0, 1)), BytesCodec()])
    },
    "transposed shards": {
        "filters": [TransposeCodec(order=(2, 0, 1))],
        "serializer": ShardingCodec(chunk_shape=(1, 1, 1)),
    },
}


def written(path: Path, values: Any, way: dict[str, Any]) -> tuple[ArrayNode, dict[str, bytes]]:
    """The array as its document says it, and its chunks as they lie."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr has its doubts about fixed strings, and about the speed of some shards
        made = zarr.create_array(
            path,
            data=values,
            chunks=values.shape,
            dimension_names=[f"d{n}" for n in range(values.ndim)],
            **{"compressors": None, **way},
        )
    assert made.shape == values.shape
    read = read_array_document(json.loads((path / "zarr.json").read_text()), "/a", Limits(), Collector())
    assert read is not None
    files = [p for p in path.rglob("*") if p.is_file() and p.name != "zarr.json"]
    return read, {str(p.relative_to(path)): p.read_bytes() for p in files}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_a_chunk_decodes_to_what_was_written(tmp_path: Path, way: str, dtype: str) -> None:
    values = np.random.default_rng(0).integers(-(2**31), 2**31, (2, 3, 5)).astype(dtype)
    array, chunks = written(tmp_path / "a", values, WAYS[way])
    (raw,) = chunks.values()
    found = decode_chunk(raw, array, TEXT_LIMIT)
    assert found.dtype == np.dtype(dtype).newbyteorder("<")
    np.testing.assert_array_equal(found, values)
    assert len(raw) <= object_bound(array, TEXT_LIMIT)


@pytest.mark.parametrize(
    "way", [w for w in WAYS if WAYS[w] and w not in ("big endian", "transposed", "transposed twice")]
)
def test_a_chunk_that_is_cut_off_does_not_decode(tmp_path: Path, way: str) -> None:
    values = np.random.default_rng(0).integers(-(2**31), 2**31, (2, 3, 5)).astype("int64")
    array, chunks = written(tmp_path / "a", values, WAYS[way])
    (raw,) = chunks.values()
    for length in range(len(raw)):
        with pytest.raises((CorruptChunkError, BombError)):
            decode_chunk(raw[:length], array, TEXT_LIMIT)


@pytest.mark.parametrize("way", ["checksum of what is packed", "checksum, then packed", "zstd with its own checksum"])
def test_no_changed_byte_of_a_chunk_with_a_checksum_goes_unseen(tmp_path: Path, way: str) -> None:
    values = np.random.default_rng(0).integers(-(2**31), 2**31, (2, 3, 5)).astype("int64")
    array, chunks = written(tmp_path / "a", values, WAYS[way])
    (raw,) = chunks.values()
    for place in range(len(raw)):
        spoilt = bytearray(raw)
        spoilt[place] ^= 0x55
        try:
            found = decode_chunk(bytes(spoilt), array, TEXT_LIMIT)
        except (CorruptChunkError, BombError):
            continue
        np.testing.assert_array_equal(found, values)  # a byte that says nothing of them, such as a time of writing


@given(st.lists(st.text(max_size=5), min_size=1, max_size=6))
def test_strings_decode_and_no_part_of_them_does(texts: list[str]) -> None:
    array = node([codec("vlen-utf8")], (len(texts),), "string")
    raw = len(texts).to_bytes(4, "little")
    for text in texts:
        raw += len(text.encode()).to_bytes(4, "little") + text.encode()
    found = decode_chunk(raw, array, len(raw))
    assert found.dtype == object
    assert found.tolist() == texts
    for length in range(len(raw)):
        with pytest.raises(CorruptChunkError):
            decode_chunk(raw[:length], array, len(raw))
    for wrong in (len(texts) - 1, len(texts) + 1, len(texts) + 2**16):
        with pytest.raises(CorruptChunkError, match=f"{len(texts)} strings"):
            decode_chunk(wrong.to_bytes(4, "little") + raw[4:], array, len(raw))


@pytest.mark.parametrize("way", ["plain", "checksum of what is packed"])
def test_strings_decode_as_zarr_writes_them(tmp_path: Path, way: str) -> None:
    values = np.array([["", "full"], ["läuft", "l0h0"]], dtype=object)
    array, chunks = written(
        tmp_path / "a", values.astype(np.dtypes.StringDType()), {**WAYS[way], "serializer": VLenUTF8Codec()}
    )
    (raw,) = chunks.values()
    assert decode_chunk(raw, array, TEXT_LIMIT).tolist() == values.tolist()
    fixed, chunks = written(tmp_path / "b", values.astype("<U7"), WAYS[way])
    (raw,) = chunks.values()
    assert decode_chunk(raw, fixed, TEXT_LIMIT).tolist() == values.tolist()
    assert chunk_bytes(fixed, 0) == 4 * 4 * 7


def test_strings_that_are_no_text_or_longer_than_allowed_do_not_decode() -> None:
    array = node([codec("vlen-utf8")], (1,), "string")
    with pytest.raises(CorruptChunkError, match="UTF-8"):
        decode_chunk(struct.pack("<II", 1, 2) + b"\xff\xfe", array, 100)
    packed = node([codec("vlen-utf8"), codec("gzip")], (1,), "string")
    raw = struct.pack("<II", 1, 92) + bytes(92)
    assert decode_chunk(gzip.compress(raw), packed, 100)[0] == "\0" * 92
    with pytest.raises(BombError):
        decode_chunk(gzip.compress(raw), packed, 99)


@pytest.mark.parametrize(
    ("codecs", "match"),
    [
        ([codec("gzip"), codec("bytes")], "impossible order"),
        ([codec("bytes"), codec("transpose", order="C")], "impossible order"),
        ([codec("bytes"), codec("bytes")], "impossible order"),
        ([codec("gzip")], "impossible order"),
        ([], "impossible order"),
        (
            [codec("sharding_indexed", chunk_shape=[3], codecs=["bytes"], index_codecs=["bytes"]), codec("gzip")],
            "whole",
        ),
    ],
)
def test_codecs_in_an_impossible_order_are_refused(codecs: list[CodecNode], match: str) -> None:
    with pytest.raises(CorruptChunkError, match=match):
        decode_chunk(np.arange(3, dtype="<i4").tobytes(), node(codecs), TEXT_LIMIT)


def test_transpositions_of_zarr_v2_are_understood_and_nonsense_is_not() -> None:
    values = np.arange(6, dtype="<i4").reshape(2, 3)
    for order, raw in (("C", values.tobytes()), ("F", values.tobytes("F")), ([1, 0], values.tobytes("F"))):
        array = node([codec("transpose", order=order), codec("bytes")], (2, 3))
        np.testing.assert_array_equal(decode_chunk(raw, array, TEXT_LIMIT), values)
    for order in ("A", None, [0, 0], [0], [0, 1, 2], [0, 2], [False, True], "01", {0: 0, 1: 1}, 1):
        with pytest.raises(CorruptChunkError, match="transposition"):
            decode_chunk(values.tobytes(), node([codec("transpose", order=order), codec("bytes")], (2, 3)), TEXT_LIMIT)


def test_a_chunk_of_another_length_does_not_decode() -> None:
    array = node([codec("bytes")])
    raw = np.arange(3, dtype="<i4").tobytes()
    for wrong in (raw + b"\0" * 4, raw[:-4], b""):
        with pytest.raises(CorruptChunkError, match=f"it has {len(wrong)} bytes where 12 belong"):
            decode_chunk(wrong, array, TEXT_LIMIT)


PACK: dict[str, Any] = {
    "gzip": gzip.compress,
    "zstd": lambda raw: bytes(zstd.compress(raw, 1)),
    "blosc": lambda raw: bytes(blosc.compress(raw, b"lz4", 5)),
}


@pytest.mark.parametrize(("packer", "pack"), PACK.items())
def test_a_packed_chunk_holds_exactly_what_belongs_there(packer: str, pack: Any) -> None:
    array = node([codec("bytes"), codec(packer)], (4,))
    raw = np.arange(4, dtype="<i4").tobytes()
    assert decode_chunk(pack(raw), array, 0).tolist() == [0, 1, 2, 3]
    with pytest.raises(BombError):
        decode_chunk(pack(raw + b"\0"), array, 0)
    with pytest.raises(CorruptChunkError):
        decode_chunk(pack(raw[:-1]), array, 0)
    # Behind a checksum the size of what was packed is known to the byte too, and behind another packer it is bounded.
    for inner, data in (
        ("crc32c", raw + google_crc32c.value(raw).to_bytes(4, "little")),
        ("gzip", gzip.compress(raw)),
    ):
        twice = node([codec("bytes"), codec(inner), codec(packer)], (4,))
        assert decode_chunk(pack(data), twice, 0).tolist() == [0, 1, 2, 3]
        with pytest.raises(BombError):
            decode_chunk(pack(data + bytes(encoded_bound(16))), twice, 0)
    with pytest.raises(CorruptChunkError):
        decode_chunk(pack(raw + bytes(4)), node([codec("bytes"), codec("crc32c"), codec(packer)], (4,)), 0)


@pytest.mark.parametrize("packer", ["gzip", "zstd", "blosc"])
def test_what_is_no_stream_of_its_packer_does_not_decode(packer: str) -> None:
    array = node([codec("bytes"), codec(packer)], (4,))
    for raw in (b"", b"\0" * 5, b"\0" * 15, b"\0" * 16, b"\0" * 17, b"no stream, and yet long enough for its header"):
        with pytest.raises((CorruptChunkError, BombError)):
            decode_chunk(raw, array, 0)


@pytest.mark.parametrize(
    ("packer", "said"), [("zstd", "not a zstd frame"), ("blosc", "not a blosc frame"), ("gzip", "gzip")]
)
def test_what_is_too_short_for_a_header_is_said_to_be_no_stream(packer: str, said: str) -> None:
    for length in (0, 5):
        with pytest.raises(CorruptChunkError, match=said):
            decode_chunk(b"\0" * length, node([codec("bytes"), codec(packer)], (4,)), 0)


def test_a_damaged_body_is_named_by_its_packer() -> None:
    values = np.random.default_rng(0).integers(0, 4, 1000).astype("<i4")
    for packer, pack in PACK.items():
        raw = pack(values.tobytes())
        spoilt = bytearray(raw)
        spoilt[len(raw) // 2 : len(raw) // 2 + 40] = b"\xff" * 40
        array = node([codec("bytes"), codec(packer)], (1000,))
        with pytest.raises(CorruptChunkError, match=f"its {packer} (frame|stream) is damaged") as error:
            decode_chunk(bytes(spoilt), array, 0)
        assert len(str(error.value)) < 200


def test_a_blosc_frame_with_something_behind_it_does_not_decode() -> None:
    raw = bytes(blosc.compress(bytes(16), b"lz4", 5))
    with pytest.raises(CorruptChunkError, match="another length"):
        decode_chunk(raw + b"\0", node([codec("bytes"), codec("blosc")], (4,)), 0)
    huge = bytearray(raw)
    huge[12:16] = (len(raw) + 2**24).to_bytes(4, "little")
    with pytest.raises(CorruptChunkError, match="another length"):
        decode_chunk(bytes(huge), node([codec("bytes"), codec("blosc")], (4,)), 0)


MAGIC = b"\x28\xb5\x2f\xfd"


@pytest.mark.parametrize(
    ("head", "size"),
    [
        # RFC 8878, 3.1.1.1: a descriptor; a window unless it is a single segment; 0, 1, 2 or 4 bytes of dictionary
        (b"\x00\x58", None),
        (b"\x20\x07", 7),
        (b"\x21\x01\x07", 7),
        (b"\x22\x01\x01\x07", 7),
        (b"\x23\x01\x01\x01\x01\x07", 7),
        (b"\x40\x58\x07\x01", 256 + 0x0107),
        (b"\x60\x07\x01", 256 + 0x0107),
        (b"\x80\x58\x07\x01\x02\x03", 0x03020107),
        (b"\xa0\x07\x01\x02\x03", 0x03020107),
        (b"\xc0\x58\x07\x01\x02\x03\x04\x05\x06\x07", 0x0706050403020107),
        (b"\xe3\x01\x01\x01\x01\x07\x01\x02\x03\x04\x05\x06\x07", 0x0706050403020107),
        (b"\xc3\x58\x01\x01\x01\x01\x07\x01\x02\x03\x04\x05\x06\x07", 0x0706050403020107),
    ],
)
def test_the_size_of_a_zstd_frame_stands_where_the_rfc_puts_it(head: bytes, size: int | None) -> None:
    assert zstd_declared_size(MAGIC + head + b"\xaa" * 20) == size
    assert zstd_declared_size(MAGIC + head) == size
    if size is not None:
        with pytest.raises(CorruptChunkError):
            zstd_declared_size((MAGIC + head)[:-1])
    with pytest.raises(CorruptChunkError, match="not a zstd frame"):
        zstd_declared_size(b"\x28\xb5\x2f\xfc" + head)


def test_a_zstd_frame_without_a_size_decodes_where_the_size_is_known() -> None:
    block = struct.pack("<I", 1 | (16 << 3))[:3] + np.arange(4, dtype="<i4").tobytes()  # the last, and stored as it is
    raw = MAGIC + b"\x00\x58" + block
    assert decode_chunk(raw, node([codec("bytes"), codec("zstd")], (4,)), 0).tolist() == [0, 1, 2, 3]
    with pytest.raises(CorruptChunkError, match="declares no size"):
        decode_chunk(raw, node([codec("bytes"), codec("gzip"), codec("zstd")], (4,)), 0)


def shard(chunks: list[bytes | None], *, checksum: bool = True, start: bool = False, **entries: Any) -> bytes:
    """A shard of these chunks; ``entries`` are places in the index that are to say otherwise."""
    places, body = [], b""
    ahead = 16 * len(chunks) + 4 * checksum if start else 0
    for chunk in chunks:
        places.append((2**64 - 1, 2**64 - 1) if chunk is None else (ahead + len(body), len(chunk)))
        body += chunk or b""
    for place, entry in entries.items():
        places[int(place[1:])] = entry
    index = b"".join(struct.pack("<QQ", *p) for p in places)
    if checksum:
        index += google_crc32c.value(index).to_bytes(4, "little")
    return index + body if start else body + index


def sharded(
    shape: tuple[int, ...] = (6,), chunk: Any = (2,), fill: Any = 7, dtype: str = "int32", **more: Any
) -> ArrayNode:
    configuration = {"chunk_shape": list(chunk) if isinstance(chunk, tuple) else chunk, "codecs": ["bytes"]}
    index = ["bytes", {"name": "crc32c"}]
    return node([codec("sharding_indexed", **{**configuration, "index_codecs": index, **more})], shape, dtype, fill)


PAIRS = [np.array([n, n + 1], dtype="<i4").tobytes() for n in (0, 2, 4)]


def test_a_chunk_that_a_shard_lacks_is_fill() -> None:
    assert decode_chunk(shard([PAIRS[0], None, PAIRS[2]]), sharded(), 0).tolist() == [0, 1, 7, 7, 4, 5]
    assert decode_chunk(shard([None] * 3), sharded(fill="no number"), 0).tolist() == [0] * 6
    assert decode_chunk(shard([None] * 3), sharded(fill=0), 0).tolist() == [0] * 6
    assert np.isnan(decode_chunk(shard([None] * 3), sharded(fill="NaN", dtype="float32"), 0)).all()
    texts = decode_chunk(shard([None] * 3), sharded(fill="x", dtype="string", codecs=["vlen-utf8"]), 0)
    assert texts.tolist() == ["x"] * 6


def test_an_index_lies_in_front_or_behind_with_or_without_checksum() -> None:
    for start in (False, True):
        for checksum in (False, True):
            names = ["bytes", "crc32c"] if checksum else ["bytes"]
            array = sharded(index_codecs=names, index_location="start" if start else "end")
            raw = shard(PAIRS, checksum=checksum, start=start)
            assert decode_chunk(raw, array, 0).tolist() == list(range(6))
            only_index = shard([None] * 3, checksum=checksum, start=start)
            assert decode_chunk(only_index, array, 0).tolist() == [7] * 6
            with pytest.raises(CorruptChunkError, match="cut off"):
                decode_chunk(only_index[:-1], array, 0)
    spoilt = bytearray(shard(PAIRS))
    spoilt[-3] ^= 1
    with pytest.raises(CorruptChunkError, match="checksum"):
        decode_chunk(bytes(spoilt), sharded(), 0)
    for names in (["gzip"], ["crc32c", "bytes"], ["bytes", "gzip"], [], ["bytes", "crc32c", "crc32c"]):
        with pytest.raises(CorruptChunkError, match="unknown way"):
            decode_chunk(shard(PAIRS), sharded(index_codecs=names), 0)


@pytest.mark.parametrize("entry", [(0, 2**40), (2**63, 8), (24 + 52 - 7, 8), (24 + 52, 8)])
def test_a_chunk_that_lies_beyond_its_shard_does_not_decode(entry: tuple[int, int]) -> None:
    with pytest.raises(CorruptChunkError, match=r"the chunk \(1,\) of its shard lies beyond its end"):
        decode_chunk(shard(PAIRS, p1=entry), sharded(), 0)


def test_a_chunk_may_end_where_its_shard_ends() -> None:
    raw = shard(PAIRS, start=True)
    array = sharded(index_location="start")
    assert len(raw) == 52 + 24
    assert decode_chunk(raw, array, 0).tolist() == list(range(6))


@pytest.mark.parametrize("chunk", [(4,), (0,), (-2,), (2, 1), (), (2.0,), (True,), "2", None])
def test_chunks_that_do_not_fill_their_shard_are_refused(chunk: Any) -> None:
    with pytest.raises(CorruptChunkError, match="do not fit"):
        decode_chunk(shard(PAIRS), sharded(chunk=chunk), 0)


def test_a_shard_holds_so_many_chunks_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_codecs, "_MOST_IN_SHARD", 3)
    assert decode_chunk(shard(PAIRS), sharded(), 0).tolist() == list(range(6))
    with pytest.raises(CorruptChunkError, match="hold 4 chunks, more than 3"):
        decode_chunk(shard([*PAIRS, None]), sharded((8,)), 0)


def test_bounds_on_memory_and_on_objects() -> None:
    """Numbers take their size; strings up to twelve times their bytes, and a pointer each."""
    numbers, texts = node([codec("bytes")], (10, 20), "float64"), node([codec("vlen-utf8")], (10, 20), "string")
    assert chunk_bytes(numbers, 1000) == 1600
    assert chunk_bytes(texts, 1000) == 12_000 + 8 * 200
    assert object_bound(numbers, 1000) == encoded_bound(1600)
    assert object_bound(texts, 1000) == encoded_bound(1000)
    assert object_bound(sharded(), 1000) == 2 * encoded_bound(24)
    noise = np.random.default_rng(0).bytes(1_000_000)
    packed = [pack(noise) for pack in PACK.values()]
    assert 1_000_000 < max(map(len, packed)) < encoded_bound(1_000_000) < 1_100_000
    assert encoded_bound(0) >= max(len(gzip.compress(b"")), 65536)
