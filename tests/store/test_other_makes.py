"""Store objects of other makes: validated, opened and analysed as a folder is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import MemoryStore, ObjectStore, StorePath, WrapperStore

import devinterp
from devinterp.errors import StoreError
from devinterp.store import write_variable
from devinterp.testing import make_store
from devinterp.testing.mutations.store_editor import StoreEditor

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


def upath(folder: Path) -> Any:
    return pytest.importorskip("upath", reason="upath is missing").UPath("memory://makes") / folder.parent.name


def fsspec_map(folder: Path) -> Any:
    return pytest.importorskip("fsspec", reason="fsspec is missing").get_mapper(f"memory://maps/{folder.parent.name}")


def in_group(folder: Path) -> StorePath:
    return StorePath(MemoryStore(), "runs/first")


TARGETS = {
    "obstore": lambda folder: ObjectStore(pytest.importorskip("obstore.store").MemoryStore()),
    "obstore files": lambda folder: ObjectStore(pytest.importorskip("obstore.store").LocalStore(folder, mkdir=True)),
    "StorePath": in_group,
    "StorePath of obstore": lambda folder: StorePath(TARGETS["obstore"](folder), "runs/a"),
    "mapping of fsspec": fsspec_map,
    "UPath": upath,
    "wrapped": lambda folder: WrapperStore(MemoryStore()),
}


@pytest.mark.needs("torch")
@pytest.mark.parametrize("make", TARGETS)
def test_a_run_is_sampled_into_a_store_of_another_make(make: str, tmp_path: Path) -> None:
    target, ids = TARGETS[make](tmp_path / "t"), np.arange(96).reshape(16, 6) % 11
    made, again = (run_tiny(target, ids, resume=True) for _ in range(2))
    assert devinterp.validate(target).ok
    xr.testing.assert_equal(made.load(), run_tiny(tmp_path / "folder.zarr", ids).load())
    xr.testing.assert_identical(made, again.load())


def bigram(vocabulary: int) -> Any:
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Embedding(vocabulary, 4), torch.nn.Linear(4, vocabulary))


def run_tiny(target: Any, ids: np.ndarray, **options: Any) -> xr.DataTree:
    return devinterp.sample(
        bigram(11), ids, {"code": ids[:4]}, lr=1e-4, n_beta=5.0, num_chains=2, num_draws=3, batch_size=2,
        batches_per_draw=1, num_init_loss_batches=1, device="cpu", progress=False, output_path=target, **options,
    )  # fmt: skip


@pytest.mark.needs("torch", "icechunk")
@pytest.mark.parametrize("sampler", ["sample", "sample_restrictions"])
def test_a_session_that_takes_no_key_of_ours_is_refused_before_any_work(sampler: str, tmp_path: Path) -> None:
    icechunk = pytest.importorskip("icechunk", reason="icechunk is missing")
    store = icechunk.Repository.create(icechunk.in_memory_storage()).writable_session("main").store
    ids, calls = np.arange(96).reshape(16, 6) % 11, []
    model = bigram(11)
    model.register_forward_hook(lambda *_: calls.append(1))
    more: dict[str, Any] = {"lr": 1e-4, "n_beta": 5.0}
    if sampler == "sample_restrictions":
        more |= {"weight_restrictions": {"full": None}, "sampling_task": "code"}
    with pytest.raises(StoreError, match=r"takes no key.*devinterp\.save\(store\)"):
        getattr(devinterp, sampler)(model, ids, {"code": ids[:4]}, output_path=store, device="cpu", **more)
    assert not calls
    # What the message says leads to a valid store.
    run_tiny(tmp_path / "run.zarr", ids)
    devinterp.open_store(tmp_path / "run.zarr").devinterp.save(store)
    assert devinterp.validate(store).ok
    write_variable(store, "chain", np.arange(2))
    assert list(devinterp.open_store(store).coords["chain"].values) == [0, 1]
