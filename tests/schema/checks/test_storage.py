"""Fill values and markers as JSON spells them, and chunks and codecs against what a schema declares."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from edits import edit_array, edit_attributes, edit_json

from devinterp.schema import load, validate
from devinterp.schema.reading.array_metadata import fill_number, inner_codecs
from devinterp.wording import shown

StoreOf = Callable[[str], Path]


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (True, 1),
        (False, 0),
        (-1, -1),
        (2.5, 2.5),
        ("Infinity", math.inf),
        ("-Infinity", -math.inf),
        ("0x3e00", 1.5),
        ("0x3fc00000", 1.5),
        ("0x3ff8000000000000", 1.5),
    ],
)
def test_a_fill_value_in_json_is_the_number_that_zarr_takes_it_for(value: Any, number: float) -> None:
    assert fill_number(value) == number
    assert type(fill_number(value)) is type(number)


@pytest.mark.parametrize("value", ["NaN", "0x7e00", "0x7fc00000", "0x7ff8000000000000"])
def test_nan_is_spelt_in_words_or_in_bits(value: str) -> None:
    assert math.isnan(fill_number(value) or 0)


@pytest.mark.parametrize("value", [None, "", "nan", "0x", "0x1", "0x123", "0xzzzz", "3e00", "xx3e00", [1], {"a": 1}])
def test_what_is_no_number_stands_for_none(value: Any) -> None:
    assert fill_number(value) is None


def test_codecs_inside_a_shard_are_short_or_long() -> None:
    found = inner_codecs({"codecs": ["bytes", {"name": "zstd", "configuration": {"level": 3}}, {"name": "crc32c"}]})
    assert [(c.name, dict(c.configuration)) for c in found] == [("bytes", {}), ("zstd", {"level": 3}), ("crc32c", {})]


def codes(store: Path, **options: Any) -> set[str]:
    return {str(f.code) for f in validate(store, level="structure", **options).findings}


@pytest.mark.parametrize(
    ("fill", "fits"),
    [
        ("NaN", True),
        ("0x7fc00000", True),
        (0.0, False),
        ("Infinity", False),
        (None, False),
        ("", False),
        (False, False),
    ],
)
def test_the_fill_of_losses_is_nan_however_it_is_spelt(store_of: StoreOf, fill: Any, fits: bool) -> None:
    store = store_of("samples")
    edit_array(store, "init_loss", fill_value=fill)
    assert codes(store) == (set() if fits else {"DI201"})


@pytest.mark.parametrize(("fill", "fits"), [(-1, True), (-1.0, True), (0, False), (True, False), ("-1", False)])
def test_the_fill_of_integers_is_minus_one(store_of: StoreOf, fill: Any, fits: bool) -> None:
    store = store_of("samples")
    edit_array(store, "row_code", fill_value=fill)
    assert codes(store) == (set() if fits else {"DI201"})


@pytest.mark.parametrize("fill", ["x", 0, None, False])
def test_the_fill_of_names_is_empty(store_of: StoreOf, fill: Any) -> None:
    store = store_of("susceptibilities")
    assert codes(store) == set()
    edit_array(store, "susceptibilities/wr", fill_value=fill)
    assert codes(store) == {"DI201"}


def encoded(format: str, value: float) -> str:
    return base64.standard_b64encode(struct.pack(format, value)).decode()


@pytest.mark.parametrize(
    ("marker", "fits"),
    [
        ("NaN", False),  # xarray decodes none but a double in base64, and opens nothing beside it
        ("nan", False),
        (None, False),
        (encoded("<f", math.nan), False),
        (encoded("<d", math.nan), True),
        (encoded("<d", 0.0), False),
        (encoded("<f", 0.0), False),
        (base64.standard_b64encode(b"\xff" * 5).decode(), False),
        ("AAD4f", False),  # no base64
        (0.0, False),
        (0, False),
        ([], False),
    ],
)
def test_xarrays_marker_of_missing_numbers_is_nan_or_absent(store_of: StoreOf, marker: Any, fits: bool) -> None:
    store = store_of("samples")
    edit_attributes(store, lambda a: a.update(_FillValue=marker), "init_loss")
    assert codes(store) == (set() if fits else {"DI201"})
    edit_attributes(store, lambda a: a.update(_FillValue=marker), "row_code")
    assert "DI207" in codes(store)


@pytest.mark.parametrize("name", ["scale_factor", "add_offset", "missing_value", "_Unsigned", "dtype", "_Encoding"])
def test_attributes_that_change_values_on_reading_are_named(store_of: StoreOf, name: str) -> None:
    store = store_of("samples")
    edit_attributes(store, lambda a: a.update({name: "true"}), "init_loss")
    (finding,) = validate(store, level="structure").findings
    assert (finding.code, finding.path, finding.found) == ("DI110", "/init_loss", "'true'")
    assert name in finding.message


def _chunks(store: Path, name: str, change: Callable[[list[int]], Any]) -> None:
    edit_json(store / name / "zarr.json", lambda d: change(d["chunk_grid"]["configuration"]["chunk_shape"]))


def test_a_chunk_may_be_smaller_than_declared_only_where_a_size_is_declared(store_of: StoreOf) -> None:
    store = store_of("samples")
    spec = load("samples").node("/").variables["sampling_loss"]
    assert "draw" in spec.chunks
    dims = spec.dims
    _chunks(store, "sampling_loss", lambda c: c.__setitem__(dims.index("draw"), 2))
    assert codes(store) == set()
    _chunks(store, "sampling_loss", lambda c: c.__setitem__(dims.index("draw"), 1))
    assert codes(store) == set()
    _chunks(store, "sampling_loss", lambda c: c.__setitem__(dims.index("draw"), 50))  # beyond the array's end
    assert codes(store) == set()
    _chunks(store, "sampling_loss", lambda c: c.__setitem__(dims.index("chain"), 2))
    (finding,) = validate(store, level="structure").findings
    assert (finding.code, finding.path) == ("DI202", "/sampling_loss")
    assert str(finding.expected).startswith("at most chain: 1, draw: 3, ")
    assert "chain: 2" in str(finding.found)
    _chunks(store, "sampling_loss", lambda c: c.__setitem__(dims.index("chain"), 1))
    _chunks(store, "sampling_loss", lambda c: c.__setitem__(dims.index("token_pos"), 1))
    assert codes(store) == {"DI202"}


def _codecs(store: Path, *names: Any, array: str = "init_loss") -> None:
    edit_array(store, array, codecs=[n if isinstance(n, dict) else {"name": n, "configuration": {}} for n in names])


def test_codecs_are_those_of_the_schema_in_their_order(store_of: StoreOf) -> None:
    store = store_of("samples")
    for names, found in (
        (("bytes", "zstd", "crc32c"), set()),
        (("bytes", "zstd"), {"DI205"}),
        (("bytes", "crc32c", "zstd"), {"DI204"}),
        (("bytes", "crc32c"), {"DI204"}),
        (("bytes",), {"DI204"}),
        (("vlen-utf8", "zstd", "crc32c"), {"DI204"}),
        (({"name": "bytes", "configuration": {"endian": "little"}}, "zstd", "crc32c"), set()),
        (({"name": "bytes", "configuration": {"endian": "big"}}, "zstd", "crc32c"), {"DI204"}),
    ):
        _codecs(store, *names)
        assert codes(store) == found, names
    names = store_of("susceptibilities")
    _codecs(names, "bytes", "zstd", "crc32c", array="susceptibilities/wr")
    assert codes(names) == {"DI204"}


def test_under_the_peers_profile_a_checksum_may_close_its_codecs(reference: Path, tmp_path: Path) -> None:
    import shutil

    store = Path(shutil.copytree(reference / "full.zarr", tmp_path / "full.zarr"))
    declared = load("samples", profile="devinterp-2.0").storage
    assert declared.checksums == "optional"
    bare = [c for c in declared.codecs if c != "crc32c"]
    for names, found in ((bare, set()), ([*bare, "crc32c"], set()), (["crc32c", *bare], {"DI208", "DI204"})):
        _codecs(store, *names)
        assert codes(store, profile="devinterp-2.0") <= found, names
        assert bool(codes(store, profile="devinterp-2.0")) == bool(found), names


def test_shards_are_named_where_they_are_forbidden(store_of: StoreOf) -> None:
    store = store_of("samples")
    inner = {"codecs": ["bytes", "zstd", "crc32c"], "index_codecs": ["bytes", "crc32c"], "chunk_shape": [1, 1]}
    _codecs(store, {"name": "sharding_indexed", "configuration": inner})
    (finding,) = validate(store, level="structure").findings
    assert (finding.path, finding.expected) == ("/init_loss", "one object per chunk")
    inner["codecs"] = ["bytes", "zstd"]
    _codecs(store, {"name": "sharding_indexed", "configuration": inner})
    assert codes(store) == {str(finding.code), "DI205"}


def test_a_unit_is_the_schemas_or_not_said(store_of: StoreOf) -> None:
    store = store_of("samples")
    edit_attributes(store, lambda a: a.pop("units"), "init_loss")
    assert codes(store) == set()
    edit_attributes(store, lambda a: a.update(units=""), "init_loss")
    (finding,) = validate(store, level="structure").findings
    assert (finding.code, finding.expected, finding.found) == ("DI111", "'nat'", "''")


@pytest.mark.parametrize("encoding", ["default", "v2"])
def test_keys_of_chunks_are_the_default_ones(store_of: StoreOf, encoding: str) -> None:
    store = store_of("samples")
    for separator in ("/", "."):
        edit_array(store, "init_loss", chunk_key_encoding={"name": encoding, "configuration": {"separator": separator}})
        right = (encoding, separator) == ("default", "/")
        assert codes(store) == (set() if right else {"DI203"})


@pytest.mark.parametrize("value", [5, None, ["n_beta"], {"a": 1}])
def test_names_of_coordinates_are_text(store_of: StoreOf, value: Any) -> None:
    store = store_of("samples")
    edit_attributes(store, lambda a: a.update(coordinates=value), "init_loss")
    (finding,) = validate(store, level="structure").findings
    assert (finding.code, finding.path, finding.found) == ("DI110", "/init_loss", shown(value))
