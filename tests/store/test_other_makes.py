"""Store objects of other makes: validated, opened and analysed as a folder is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.storage import ObjectStore

import devinterp
from devinterp.testing import make_store
from devinterp.testing.mutations.editor import StoreEditor

KINDS = ("samples", "study", "susceptibilities")


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("makes") / "s.zarr"
    make_store(path, request.param)
    return path


def objects(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def in_obstore(folder: Path) -> ObjectStore:
    memory = pytest.importorskip("obstore.store").MemoryStore()
    for key, value in objects(folder).items():
        memory.put(key, value)
    return ObjectStore(memory)


def in_obstore_files(folder: Path) -> ObjectStore:
    return ObjectStore(pytest.importorskip("obstore.store").LocalStore(folder), read_only=True)


def in_icechunk(folder: Path) -> zarr.abc.store.Store:
    icechunk = pytest.importorskip("icechunk")
    session = icechunk.Repository.create(icechunk.in_memory_storage()).writable_session("main")
    source, target = zarr.storage.LocalStore(folder, read_only=True), session.store
    documents = sorted((k for k in objects(folder) if k.endswith("zarr.json")), key=lambda k: k.count("/"))
    prototype = zarr.core.buffer.default_buffer_prototype()

    async def copy() -> None:
        for key in (*documents, *(k for k in objects(folder) if not k.endswith("zarr.json"))):
            await target.set(key, await source.get(key, prototype))

    zarr.core.sync.sync(copy())
    return target


@pytest.mark.parametrize("make", [in_obstore, in_obstore_files, in_icechunk])
def test_a_store_of_another_make_is_as_good_as_a_folder(folder, make) -> None:
    store = make(folder)
    report, expected = devinterp.validate(store), devinterp.validate(folder)
    assert report.ok, report
    assert (report.kind, report.checked["arrays"]) == (expected.kind, expected.checked["arrays"])
    tree = devinterp.open_store(store)
    assert tree.load().identical(devinterp.open_store(folder).load())
    if tree.devinterp.kind in ("samples", "study"):
        np.testing.assert_array_equal(
            tree.devinterp.llc()["llc_mean"], devinterp.open_store(folder).devinterp.llc()["llc_mean"]
        )


def test_what_is_wrong_in_an_object_store_is_found(folder) -> None:
    store = in_obstore(folder)
    key = next(k for k in objects(folder) if "/c" in k and "zarr.json" not in k)
    StoreEditor(store).flip(key, 0)
    assert not devinterp.validate(store).ok
