"""Mutations of how arrays are stored: DI20x."""

from __future__ import annotations

from typing import Any

from devinterp.testing.mutations.catalogue import mutation
from devinterp.testing.mutations.editor import StoreEditor

__all__: list[str] = []

_BYTES: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
_ZSTD: dict[str, Any] = {"name": "zstd", "configuration": {"level": 0, "checksum": False}}
_CRC: dict[str, Any] = {"name": "crc32c"}


def _grid(*shape: int) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": list(shape)}}


@mutation("DI201")
def _losses_are_filled_with_0(store: StoreEditor) -> None:
    """A lost chunk of losses would read as 0."""
    store.edit("sampling_loss", fill_value=0.0)


@mutation("DI201")
def _token_ids_are_filled_with_0(store: StoreEditor) -> None:
    """A lost chunk of ids would read as token 0."""
    store.edit("input_ids_code", fill_value=0)


@mutation("DI201", "bif")
def _influences_are_filled_with_0(store: StoreEditor) -> None:
    """A lost chunk of influences would read as no influence."""
    store.edit("influences", fill_value=0.0)


@mutation("DI202")
def _all_chains_in_one_chunk(store: StoreEditor) -> None:
    """Chunks hold one chain."""
    store.rewrite("sampling_loss", chunk_grid=_grid(3, 3, 2, 3))


@mutation("DI202")
def _rows_in_chunks_of_their_own(store: StoreEditor) -> None:
    """Chunks hold all rows."""
    store.rewrite("loss_code", chunk_grid=_grid(1, 3, 1, 3))


@mutation("DI202", "long samples")
def _more_than_50_draws_in_a_chunk(store: StoreEditor) -> None:
    """Chunks hold at most 50 draws."""
    store.rewrite("sampling_loss", chunk_grid=_grid(1, 60, 2, 2))


@mutation("DI203")
def _chunk_keys_with_dots(store: StoreEditor) -> None:
    """The array's chunks lie under c.0.0."""
    store.rewrite("init_loss", chunk_key_encoding={"name": "default", "configuration": {"separator": "."}})


@mutation("DI203")
def _chunk_keys_of_zarr_v2(store: StoreEditor) -> None:
    """The array's chunks lie under 0.0."""
    store.rewrite("step_loss", chunk_key_encoding={"name": "v2", "configuration": {"separator": "."}})


@mutation("DI203", "bif")
def _chunk_keys_of_zarr_v2_with_slashes(store: StoreEditor) -> None:
    """The array's chunks lie under 0/0."""
    store.rewrite("influences", chunk_key_encoding={"name": "v2", "configuration": {"separator": "/"}})


@mutation("DI204")
def _compressed_with_gzip(store: StoreEditor) -> None:
    """The chunks are compressed with gzip."""
    store.rewrite("sampling_loss", codecs=[_BYTES, {"name": "gzip", "configuration": {"level": 1}}, _CRC])


@mutation("DI204")
def _not_compressed(store: StoreEditor) -> None:
    """The chunks are not compressed."""
    store.rewrite("loss_code", codecs=[_BYTES, _CRC])


@mutation("DI204", "susceptibilities")
def _stored_in_another_order(store: StoreEditor) -> None:
    """The chunks are transposed before they are stored."""
    transpose = {"name": "transpose", "configuration": {"order": [1, 0]}}
    store.rewrite("susceptibilities/sus", codecs=[transpose, _BYTES, _ZSTD, _CRC])


@mutation("DI205")
def _losses_without_a_checksum(store: StoreEditor) -> None:
    """A flipped bit of a loss would go unnoticed."""
    store.rewrite("sampling_loss", codecs=[_BYTES, _ZSTD])


@mutation("DI205")
def _token_ids_without_a_checksum(store: StoreEditor) -> None:
    """A flipped bit of an id would go unnoticed."""
    store.rewrite("input_ids_code", codecs=[_BYTES, _ZSTD])


@mutation("DI205", "study")
def _a_run_without_a_checksum(store: StoreEditor) -> None:
    """A flipped bit of the inverse temperature would go unnoticed."""
    store.rewrite("l0h0/n_beta", codecs=[_BYTES, _ZSTD])


def _shard(inner: list[int]) -> list[dict[str, Any]]:
    index = [_BYTES, _CRC]
    configuration = {
        "chunk_shape": inner,
        "codecs": [_BYTES, _ZSTD, _CRC],
        "index_codecs": index,
        "index_location": "end",
    }
    return [{"name": "sharding_indexed", "configuration": configuration}]


@mutation("DI206")
def _losses_in_shards(store: StoreEditor) -> None:
    """Draws share objects."""
    store.rewrite("sampling_loss", chunk_grid=_grid(1, 3, 2, 3), codecs=_shard([1, 1, 2, 3]))


@mutation("DI206")
def _chains_in_one_shard(store: StoreEditor) -> None:
    """Chains, that is writers, share objects."""
    store.rewrite("step_loss", chunk_grid=_grid(3, 7), codecs=_shard([1, 7]))


@mutation("DI206", "study")
def _a_run_in_shards(store: StoreEditor) -> None:
    """Rows of an observable share objects."""
    store.rewrite("l0h0/loss_code", chunk_grid=_grid(1, 3, 2, 2), codecs=_shard([1, 1, 2, 2]))


@mutation("DI207")
def _token_ids_with_a_fill_attribute(store: StoreEditor) -> None:
    """xarray would read the ids as floating point."""
    store.set_attribute("input_ids_code", "_FillValue", -1)


@mutation("DI207")
def _draws_written_with_a_fill_attribute(store: StoreEditor) -> None:
    """xarray would read the counts as floating point."""
    store.set_attribute("draws_written", "_FillValue", -1)


@mutation("DI207", "susceptibilities")
def _positions_with_a_fill_attribute(store: StoreEditor) -> None:
    """xarray would read the positions as floating point."""
    store.set_attribute("context/position", "_FillValue", "AAAAAAAA8L8=")


@mutation("DI208")
def _an_array_without_a_shape(store: StoreEditor) -> None:
    """The document of an array lacks its shape."""
    store.edit("sampling_loss", shape=None)


@mutation("DI208")
def _an_extension_that_must_be_understood(store: StoreEditor) -> None:
    """A document has a member that no reader knows and that is not optional."""
    store.edit("sampling_loss", encryption={"name": "rot13", "must_understand": True})


@mutation("DI208", "llc")
def _a_node_of_no_type(store: StoreEditor) -> None:
    """A document is neither of a group nor of an array."""
    store.edit("loss_trace", node_type="table")


@mutation("DI208", "study")
def _a_format_of_the_future(store: StoreEditor) -> None:
    """A document says Zarr v4."""
    store.edit("l0h0/n_beta", zarr_format=4)


@mutation("DI209")
def _dimensions_without_names(store: StoreEditor) -> None:
    """The document of an array does not name its dimensions."""
    store.edit("sampling_loss", dimension_names=None)


@mutation("DI209")
def _one_dimension_without_a_name(store: StoreEditor) -> None:
    """One of the dimensions has no name."""
    store.edit("loss_code", dimension_names=["chain", None, "batch_code", "token_pos"])


@mutation("DI209", "bif")
def _a_dimension_named_twice(store: StoreEditor) -> None:
    """Two dimensions have one name."""
    store.edit("influences", dimension_names=["batch_1", "batch_1", "target_position", "target_position_T"])
