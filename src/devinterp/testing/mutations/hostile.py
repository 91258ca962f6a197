"""Mutations of stores that mean harm to their reader, or that lost their mind: DI25x."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from devinterp.schema import Limits
from devinterp.testing.mutations.catalogue import mutation
from devinterp.testing.mutations.editor import StoreEditor

__all__: list[str] = []

_GROUP: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": {}}


@mutation("DI251")
def _a_codec_of_pickles(store: StoreEditor) -> None:
    """Decoding would run code of the store."""
    store.edit("sampling_loss", codecs=[{"name": "numcodecs.pickle", "configuration": {"protocol": 5}}])


@mutation("DI251")
def _a_codec_of_an_unknown_package(store: StoreEditor) -> None:
    """Decoding would need a package that nobody knows."""
    store.edit("loss_code", codecs=[{"name": "bytes"}, {"name": "https://elsewhere.org/codec"}])


@mutation("DI251")
def _an_unsafe_codec_inside_shards(store: StoreEditor) -> None:
    """The unsafe codec hides inside shards."""
    configuration = {"chunk_shape": [1, 1, 2, 3], "codecs": [{"name": "pickle"}], "index_codecs": [{"name": "bytes"}]}
    store.edit("sampling_loss", codecs=[{"name": "sharding_indexed", "configuration": configuration}])


@mutation("DI252")
def _an_array_of_objects(store: StoreEditor) -> None:
    """The data type may hold anything."""
    store.edit("sampling_loss", data_type="object")


@mutation("DI252")
def _an_unknown_data_type(store: StoreEditor) -> None:
    """The data type is not known."""
    store.edit("n_beta", data_type={"name": "float1024", "configuration": {}})


@mutation("DI252", "llc")
def _a_structured_data_type(store: StoreEditor) -> None:
    """The data type is a record."""
    store.edit("loss_trace", data_type={"name": "structured", "configuration": {"fields": [["a", "float32"]]}})


@mutation("DI253")
def _a_negative_size(store: StoreEditor) -> None:
    """A dimension has less than nothing."""
    store.edit("sampling_loss", shape=[3, -3, 2, 3])


@mutation("DI253")
def _a_size_beyond_everything(store: StoreEditor) -> None:
    """A dimension is larger than any store."""
    store.edit("loss_code", shape=[3, 2**62, 2, 3])


@mutation("DI253", "bif")
def _a_size_that_is_no_integer(store: StoreEditor) -> None:
    """A size is a text."""
    store.edit("influences", shape=["4", 5, 3, 3])


@mutation("DI254")
def _a_billion_chunks(store: StoreEditor) -> None:
    """Listing the chunks would take for ever."""
    store.edit("sampling_loss", shape=[3, 10**9, 2, 3])
    document = store.document("sampling_loss")
    document["chunk_grid"]["configuration"]["chunk_shape"] = [1, 1, 2, 3]
    store.write_document("sampling_loss", document)


@mutation("DI254", "llc")
def _a_chunk_per_element(store: StoreEditor) -> None:
    """A huge array in chunks of one element."""
    grid = {"name": "regular", "configuration": {"chunk_shape": [1, 1]}}
    store.edit("loss_trace", shape=[2**20, 2**20], chunk_grid=grid)


@mutation("DI254", "long samples", limits=Limits(chunks=3))
def _more_chunks_than_the_caller_allows(store: StoreEditor) -> None:
    """Nothing is changed: the caller's limit is low."""


@mutation("DI255", limits=Limits(document=100_000))
def _an_attribute_as_large_as_data(store: StoreEditor) -> None:
    """Data were put into an attribute."""
    store.set_attribute("", "blob", "x" * 200_000)


@mutation("DI255")
def _attributes_nested_a_thousand_times(store: StoreEditor) -> None:
    """Attributes lie in each other."""
    raw = store.get("sampling_loss/zarr.json").decode()
    document = json.loads(raw)
    document["attributes"] = "@"
    nested = '{"a":' * 1000 + "1" + "}" * 1000
    store.put("sampling_loss/zarr.json", json.dumps(document).replace('"@"', nested).encode())


@mutation("DI255", "study")
def _a_document_nested_beyond_the_parser(store: StoreEditor) -> None:
    """A document nested so deeply that parsers give up."""
    store.put("l0h0/zarr.json", b"[" * 100_000)


@mutation("DI256", limits=Limits(nodes=10), also=("DI101", "DI502"))
def _more_arrays_than_the_caller_allows(store: StoreEditor) -> None:
    """Nothing is changed: the caller's limit is low."""


@mutation("DI256", also=("DI107", "DI502"))
def _groups_in_groups_in_groups(store: StoreEditor) -> None:
    """Groups lie in each other."""
    path = "deep"
    for _ in range(24):
        store.write_document(path, _GROUP)
        path += "/deep"


@mutation("DI256", "study", limits=Limits(nodes=40), also=("DI101", "DI107", "DI502"))
def _a_hundred_groups(store: StoreEditor) -> None:
    """There are more groups than the caller allows."""
    for index in range(100):
        store.write_document(f"l0h0/g{index}", _GROUP)


@mutation("DI257", needs_folder=True)
def _an_array_is_a_link_out_of_the_store(store: StoreEditor) -> None:
    """An array's folder is a symbolic link to somewhere else."""
    outside = store.folder.parent / f"{store.folder.name}-outside"
    (store.folder / "init_loss").rename(outside)
    (store.folder / "init_loss").symlink_to(outside, target_is_directory=True)


@mutation("DI257", needs_folder=True)
def _a_document_is_a_link_out_of_the_store(store: StoreEditor) -> None:
    """An array's document is a symbolic link to a file of the system."""
    store.delete("init_loss/zarr.json")
    (store.folder / "init_loss" / "zarr.json").symlink_to("/etc/hostname")


@mutation("DI257", "llc", consolidated=True, also=("DI010",))
def _a_name_that_climbs_out(store: StoreEditor) -> None:
    """The consolidated metadata name a node above the store."""
    document = store.document("")
    gathered = document["consolidated_metadata"]["metadata"]
    gathered["../elsewhere"] = gathered["llc_mean"]
    store.write_document("", document)


@mutation("DI258")
def _a_bare_nan_in_the_attributes(store: StoreEditor) -> None:
    """Python writes NaN into attributes, which is not JSON."""
    raw = store.get("zarr.json").decode()
    store.put(
        "zarr.json",
        raw.replace('"completed":1', '"completed":1,"loss":NaN')
        .replace('"completed": 1', '"completed":1,"loss":NaN')
        .encode(),
    )


@mutation("DI258")
def _a_document_cut_short(store: StoreEditor) -> None:
    """The copy of a document broke off."""
    raw = store.get("sampling_loss/zarr.json")
    store.put("sampling_loss/zarr.json", raw[: len(raw) // 2])


@mutation("DI258", "bif")
def _a_document_that_is_no_text(store: StoreEditor) -> None:
    """A document is not UTF-8."""
    store.put("influences/zarr.json", b"\xff\xfe\x00")


def _bomb(store: StoreEditor, path: str, *, checksum: bool) -> None:
    import google_crc32c
    from numcodecs.zstd import Zstd

    key = store.chunks(path)[0]
    packed = Zstd(level=1).encode(np.zeros(50_000_000, dtype=np.uint8))
    store.put(key, packed + (google_crc32c.value(packed).to_bytes(4, "little") if checksum else b""))


@mutation("DI259")
def _a_chunk_of_losses_that_explodes(store: StoreEditor) -> None:
    """A chunk of a few kilobytes says that it holds 50 megabytes."""
    _bomb(store, "sampling_loss", checksum=True)


@mutation("DI259", "study")
def _a_chunk_of_ids_that_explodes(store: StoreEditor) -> None:
    """A chunk of a few kilobytes says that it holds 50 megabytes."""
    _bomb(store, "l0h0/input_ids_code", checksum=True)


@mutation("DI259", "peer samples")
def _a_chunk_without_checksum_that_explodes(store: StoreEditor) -> None:
    """The same in a store without checksums."""
    _bomb(store, "sampling_loss", checksum=False)
