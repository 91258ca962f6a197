"""Mutations of the store as such: DI0xx."""

from __future__ import annotations

import json

import zarr

from devinterp.testing.mutations.catalogue import mutation
from devinterp.testing.mutations.editor import StoreEditor

__all__: list[str] = []


def _loop(store: StoreEditor, key: str) -> None:
    store.delete(key)
    (store.folder / key).symlink_to(store.folder / key)


@mutation("DI001", needs_folder=True)
def _a_document_is_a_link_to_itself(store: StoreEditor) -> None:
    """The zarr.json of an array is a symbolic link to itself."""
    _loop(store, "sampling_loss/zarr.json")


@mutation("DI001", "study", needs_folder=True)
def _a_document_of_a_run_is_a_link_to_itself(store: StoreEditor) -> None:
    """The zarr.json of a restriction is a symbolic link to itself."""
    _loop(store, "l0h0/zarr.json")


@mutation("DI001", "llc", needs_folder=True)
def _the_root_document_is_a_link_to_itself(store: StoreEditor) -> None:
    """The root's zarr.json is a symbolic link to itself."""
    _loop(store, "zarr.json")


@mutation("DI002")
def _the_root_document_is_lost(store: StoreEditor) -> None:
    """The root has no zarr.json."""
    store.delete("zarr.json")


@mutation("DI002", None)
def _nothing_is_there(store: StoreEditor) -> None:
    """The place is empty."""


@mutation("DI002", None)
def _only_a_chunk_is_there(store: StoreEditor) -> None:
    """A chunk was copied, and nothing else."""
    store.put("sampling_loss/c/0/0/0/0", b"\x00" * 16)


@mutation("DI003", None)
def _a_group_of_zarr_v2(store: StoreEditor) -> None:
    """The root is a Zarr v2 group."""
    store.put(".zgroup", b'{"zarr_format": 2}')
    store.put(".zattrs", b'{"completed": 1}')


@mutation("DI003", None)
def _a_consolidated_store_of_zarr_v2(store: StoreEditor) -> None:
    """The root is a Zarr v2 group with consolidated metadata."""
    store.put(".zgroup", b'{"zarr_format": 2}')
    store.put(".zmetadata", b'{"metadata": {".zgroup": {"zarr_format": 2}}, "zarr_consolidated_format": 1}')


@mutation("DI003", None)
def _an_array_of_zarr_v2(store: StoreEditor) -> None:
    """The root is a Zarr v2 array."""
    document = {"zarr_format": 2, "shape": [2], "chunks": [2], "dtype": "<f4", "fill_value": 0, "order": "C"}
    store.put(".zarray", json.dumps({**document, "compressor": None, "filters": None}).encode())


@mutation("DI004", None)
def _an_empty_group(store: StoreEditor) -> None:
    """A Zarr group without arrays and attributes."""
    zarr.create_group(store.location.store, zarr_format=3)


@mutation("DI004", None)
def _arrays_of_something_else(store: StoreEditor) -> None:
    """A store of another program."""
    group = zarr.create_group(store.location.store, zarr_format=3)
    group.create_array("temperature", shape=(2,), dtype="f4", dimension_names=["time"])[...] = 1.0


@mutation("DI004", "llc")
def _everything_is_renamed_and_unsigned(store: StoreEditor) -> None:
    """No array has its name, and no attribute says what the store is."""
    for path in list(store.arrays()):
        store.rename(path, f"old-{path}")
    store.edit("", attributes={})


@mutation("DI005")
def _a_version_of_the_future(store: StoreEditor) -> None:
    """The attribute devinterp_schema names a version that is not installed."""
    store.set_attribute("", "devinterp_schema", "devinterp/samples@99")


@mutation("DI005", "susceptibilities")
def _a_schema_of_somebody_else(store: StoreEditor) -> None:
    """The attribute devinterp_schema names a schema that is not installed."""
    store.set_attribute("", "devinterp_schema", "elsewhere/susceptibilities@1")


@mutation("DI005", "bif", also=("DI110",))
def _a_schema_that_never_was(store: StoreEditor) -> None:
    """The attribute devinterp_schema is not an id."""
    store.set_attribute("", "devinterp_schema", "bif")


@mutation("DI006")
def _completed_is_0(store: StoreEditor) -> None:
    """The run was interrupted."""
    store.set_attribute("", "completed", 0)


@mutation("DI006", "bare samples")
def _completed_is_absent(store: StoreEditor) -> None:
    """The run never came to its end."""
    store.remove_attribute("", "completed")


@mutation("DI006", "study")
def _a_study_is_not_completed(store: StoreEditor) -> None:
    """Every run is complete, the study is not."""
    store.set_attribute("", "completed", 0)


@mutation("DI006", "study")
def _a_run_of_a_study_is_not_completed(store: StoreEditor) -> None:
    """One run of a completed study is not complete."""
    store.set_attribute("l0h0", "completed", 0)


@mutation("DI007", "failed chain")
def _a_chain_failed(store: StoreEditor) -> None:
    """Nothing is changed: one chain of the run failed."""


@mutation("DI007", "two failed chains")
def _two_chains_failed(store: StoreEditor) -> None:
    """Nothing is changed: two of three chains failed, one without a draw."""


@mutation("DI007", "study with a failed chain")
def _a_chain_of_a_study_failed(store: StoreEditor) -> None:
    """Nothing is changed: one chain of one restriction failed."""


@mutation("DI008", "peer samples", profile="strict", also=("DI101", "DI110", "DI201", "DI205", "DI405"))
def _samples_of_the_peer(store: StoreEditor) -> None:
    """Only the mark of completion is added: a valid run of devinterp 2.0 is validated as ours."""
    store.set_attribute("", "completed", 1)


@mutation("DI008", "peer bif", profile="strict", also=("DI201",))
def _a_bif_of_the_peer(store: StoreEditor) -> None:
    """Nothing is changed: a valid BIF of devinterp 2.0 is validated as ours."""


@mutation("DI008", "peer susceptibilities", profile="strict", also=("DI201",))
def _susceptibilities_of_the_peer(store: StoreEditor) -> None:
    """Nothing is changed: valid susceptibilities of devinterp 2.0 are validated as ours."""


@mutation("DI009", schema="llc", also=("DI101", "DI102", "DI103", "DI104", "DI112"))
def _samples_asked_for_as_llc(store: StoreEditor) -> None:
    """A run is validated as an LLC."""


@mutation("DI009", "study")
def _a_run_of_a_study_says_it_is_an_llc(store: StoreEditor) -> None:
    """A group where a run belongs names another schema."""
    store.set_attribute("l0h0", "devinterp_schema", "devinterp/llc@1")


@mutation("DI009", "bif", schema="susceptibilities", also=("DI102", "DI106"))
def _a_bif_asked_for_as_susceptibilities(store: StoreEditor) -> None:
    """A BIF is validated as susceptibilities."""


@mutation("DI010", consolidated=True)
def _an_array_changed_behind_the_consolidated_metadata(store: StoreEditor) -> None:
    """An array's own document has other attributes than the root's copy of it."""
    store.set_attribute("sampling_loss", "long_name", "something else")


@mutation("DI010", "study", consolidated=True)
def _a_run_changed_behind_the_consolidated_metadata(store: StoreEditor) -> None:
    """A group's own document has other attributes than the root's copy of it."""
    store.set_attribute("l0h0", "metadata.note", "changed")


@mutation("DI010", "llc", consolidated=True, also=("DI505",))
def _an_array_is_gone_behind_the_consolidated_metadata(store: StoreEditor) -> None:
    """The root's copy of the metadata lists an array that is gone."""
    store.remove("llc_ci")


@mutation("DI010", "bif", consolidated=True, also=("DI101",))
def _an_array_is_new_behind_the_consolidated_metadata(store: StoreEditor) -> None:
    """There is an array that the root's copy of the metadata does not list."""
    document = store.document("")
    del document["consolidated_metadata"]["metadata"]["input_ids"]
    store.write_document("", document)
