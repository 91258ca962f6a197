"""One place decides what a target is, so that whatever can be validated can be opened, and the other way round."""

from __future__ import annotations

import asyncio
import json
import pickle
import shutil
import uuid
from pathlib import Path
from urllib.parse import quote

import lifelike
import numpy as np
import pytest
import xarray as xr
import zarr
from extras import needing
from web import served
from zarr.storage import FsspecStore, LocalStore, MemoryStore, StorePath, ZipStore

from devinterp.errors import DevinterpError, SettingError, StoreError, StoreGoneError
from devinterp.schema.reading.target import resolve_target
from devinterp.schema.validation import validate
from devinterp.store import locate, open_store
from devinterp.testing import make_store, make_tree

SMALL = {"chains": 2, "draws": 3, "rows": 2, "observables": ("code",), "save_metrics": False}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return lifelike.make_study(tmp_path_factory.mktemp("targets") / "s.zarr", ["full", "l0 h#0"], **SMALL)


def zipped(study, folder, name):
    return Path(shutil.make_archive(str(folder / "packed"), "zip", study)).rename(folder / name)


def in_memory(study, prefix=""):
    store = MemoryStore()
    for path in study.rglob("*"):
        if path.is_file():
            buffer = zarr.core.buffer.default_buffer_prototype().buffer.from_bytes(path.read_bytes())
            asyncio.run(store.set(f"{prefix}{path.relative_to(study).as_posix()}", buffer))
    return store


def opened_zip(study, folder):
    store = ZipStore(zipped(study, folder, "z.zip"), mode="r")
    asyncio.run(store._ensure_open())
    return store


def fsspec_store(study, folder):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.put(f"{study}/", f"/{folder.name}/s.zarr/", recursive=True)
    return FsspecStore.from_url(f"memory://{folder.name}/s.zarr", read_only=True)


KINDS = {
    "text": lambda study, folder: str(study),
    "path": lambda study, folder: study,
    "file URL": lambda study, folder: study.as_uri(),
    "file URL with a host": lambda study, folder: f"file://localhost{study}",
    "file URL without a host": lambda study, folder: f"file:{study}",
    "archive .zip": lambda study, folder: zipped(study, folder, "s.zip"),
    "archive .ozx": lambda study, folder: str(zipped(study, folder, "s.ozx")),
    "LocalStore": lambda study, folder: LocalStore(study, read_only=True),
    "MemoryStore": lambda study, folder: in_memory(study),
    "ZipStore": opened_zip,
    "FsspecStore": fsspec_store,
    "Group": lambda study, folder: zarr.open_group(study, mode="r"),
    "Group inside a folder": lambda study, folder: zarr.open_group(study.parent, path=study.name, mode="r"),
    "Group inside a store": lambda study, folder: zarr.open_group(in_memory(study, "a/b/"), path="a/b", mode="r"),
    "StorePath": lambda study, folder: StorePath(in_memory(study, "a/"), "a"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_names_a_store_is_validated_and_opened(study, tmp_path, kind):
    target = KINDS[kind](study, tmp_path)
    report = validate(target)
    assert report.ok, str(report)
    assert report.kind == "study"
    tree = open_store(target, level="values")
    xr.testing.assert_identical(tree.load(), open_store(study).load())


@pytest.mark.parametrize("group", ["full", "l0 h#0"])
def test_a_group_of_a_study_is_a_store(study, group):
    for target in (
        zarr.open_group(study, path=group, mode="r"),
        zarr.open_group(in_memory(study), path=group, mode="r"),
        StorePath(in_memory(study), group),
    ):
        assert validate(target).ok
        xr.testing.assert_identical(open_store(target).load(), open_store(study / group).load())


@pytest.mark.parametrize("target", [3, None, b"a.zarr", ["a.zarr"], object()])
def test_what_names_no_store_is_one_error(target):
    for reader in (validate, open_store):
        with pytest.raises(SettingError, match="store"):
            reader(target)


NAMES = ["a b", "a#b", "a?b", "100%", "a%20b", "a%23b", "ü", "a+b", "a&b=c", "a;b", "~a"]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_url_names_one_path_and_no_other(study, tmp_path, name):
    for other in {"a", "a b", "a#b", "100", "100%"} - {name}:
        (tmp_path / other).mkdir()
    store = Path(shutil.copytree(study, tmp_path / name / "s.zarr"))
    assert resolve_target(store.as_uri()).path == store
    assert validate(store.as_uri()).ok
    assert locate(store.as_uri()).folder == store
    if "%" not in name:  # as people type it
        assert resolve_target(f"file://{store}").path == store
    locate(f"{tmp_path.as_uri()}/{quote(name)}/new.zarr", mode="w").set("zarr.json", b"{}")
    assert (tmp_path / name / "new.zarr/zarr.json").exists()
    assert sorted(p.parent.name for p in tmp_path.rglob("new.zarr")) == [name]


@pytest.mark.parametrize("url", ["file://a.zarr", "file://server/share/a.zarr", "file://", "file://../a.zarr"])
def test_a_file_of_another_machine_is_refused(url):
    with pytest.raises(StoreError, match="another machine"):
        locate(url)
    (finding,) = validate(url).errors
    assert "another machine" in finding.message


@pytest.fixture(scope="module")
def oddly_named(tmp_path_factory):
    names = ["full", "l0 h#0 a?b", "50% a%20b ü+&;"]
    return lifelike.make_study(tmp_path_factory.mktemp("a b") / "s.zarr", names, **SMALL)


@pytest.mark.needs("fsspec", "aiohttp")
@pytest.mark.parametrize("status", [200, 401, 403, 404, 405], ids=lambda status: f"listing {status}")
def test_a_web_server_that_lists_or_does_not(oddly_named, status):
    with served(oddly_named.parents[1], status=status) as host:
        url = f"{host}/{quote(oddly_named.parent.name)}/{oddly_named.name}"
        report = validate(url, level="completeness")
        assert report.ok, str(report)
        assert bool(report.not_checked) is (status != 200), report.not_checked
        expected = open_store(oddly_named).load()
        xr.testing.assert_identical(open_store(url, level="values").load(), expected)
        if status not in (200, 403):  # the ways to name it have nothing to do with the answer to a listing
            return
        for target in (url + "/", FsspecStore.from_url(url, read_only=True)):
            xr.testing.assert_identical(open_store(target, level="values").load(), expected)
        (tree,) = pickle.loads(pickle.dumps([open_store(url)]))
        xr.testing.assert_identical(tree.load(), expected)
        part = zarr.open_group(
            FsspecStore.from_url(f"{host}/{quote(oddly_named.parent.name)}", read_only=True), path="s.zarr", mode="r"
        )
        xr.testing.assert_identical(open_store(part).load(), expected)
        if status == 200:
            xr.testing.assert_identical(open_store(url, consolidated=False).load(), expected)


@pytest.mark.needs("fsspec", "aiohttp")
@pytest.mark.parametrize("status", [401, 403, 405])
def test_a_store_without_consolidated_metadata_needs_a_listing(study, tmp_path, status):
    store = Path(shutil.copytree(study, tmp_path / "s.zarr"))
    root = json.loads((store / "zarr.json").read_text())
    del root["consolidated_metadata"]
    (store / "zarr.json").write_text(json.dumps(root))
    with served(tmp_path, status=status) as host:
        (finding,) = validate(f"{host}/s.zarr").errors
        assert finding.code == "DI001"
        assert "list" in finding.message
        for level in ("structure", None):
            with pytest.raises(DevinterpError, match="list"):
                open_store(f"{host}/s.zarr", level=level)


@pytest.mark.needs("fsspec", "aiohttp")
def test_a_server_that_denies_what_is_not_there_is_asked_for_nothing_else(study):
    with served(study.parent, status=403, missing=403) as host:
        xr.testing.assert_identical(open_store(f"{host}/s.zarr").load(), open_store(study).load())


@pytest.mark.needs("fsspec", "aiohttp")
@pytest.mark.parametrize("end", ["#part", "?sig=1", "#", "?"])
def test_a_url_with_a_query_or_a_fragment_names_no_folder(study, end):
    with served(study.parent) as host:
        (finding,) = validate(f"{host}/s.zarr{end}").errors
        assert "does not name a folder" in finding.message
        with pytest.raises(StoreError, match="storage_options") as caught:
            open_store(f"{host}/s.zarr{end}")
        assert quote(end[0]) in caught.value.remedy
        signed = open_store(f"{host}/s.zarr", storage_options={"params": {"sig": "1"}})
        xr.testing.assert_identical(signed.load(), open_store(study).load())


OPENED = {
    "open_store": open_store,
    "engine": lambda path: xr.open_datatree(path, engine="devinterp"),
    "store object": lambda path: open_store(zarr.storage.LocalStore(path)),
    "xarray": lambda path: xr.open_datatree(path, engine="zarr"),
}


@pytest.mark.parametrize("opened", OPENED)
@pytest.mark.parametrize("how", ["moved", "deleted", "one array deleted"])
def test_a_store_that_is_gone_under_an_open_tree_is_said_to_be(tmp_path, opened, how):
    path = Path(make_store(tmp_path / "s.zarr"))
    tree = OPENED[opened](path)
    if how == "moved":
        path.rename(tmp_path / "t.zarr")
    else:
        shutil.rmtree(path if how == "deleted" else path / "loss_code")
    for ask in (tree.devinterp.llc, tree.devinterp.bif, tree.devinterp.diagnose, tree.devinterp.to_arviz):
        if how == "one array deleted" and ask != tree.devinterp.bif:
            continue
        with pytest.raises(StoreGoneError, match="is gone"):
            ask()
    if how != "one array deleted":
        with pytest.raises(StoreGoneError, match="moved or deleted"):
            tree.devinterp.save(tmp_path / "saved.zarr")
    if opened != "xarray":
        with pytest.raises(StoreGoneError):
            _ = tree["loss_code"].values


@pytest.mark.parametrize("opened", OPENED)
def test_a_store_that_was_replaced_under_an_open_tree_is_said_to_be(tmp_path, opened):
    path = Path(make_store(tmp_path / "s.zarr", parameters={"num_draws": 6}))
    tree = OPENED[opened](path)
    shutil.rmtree(path)
    make_store(path, parameters={"num_draws": 2})
    for ask in (tree.devinterp.llc, tree.devinterp.bif):
        with pytest.raises(StoreGoneError, match=r"the store was replaced.*Open the store again"):
            ask()


@pytest.mark.parametrize("opened", OPENED)
def test_a_run_of_the_same_shapes_that_took_the_place_of_another_is_said_to_be_one(tmp_path, opened):
    path, runs = tmp_path / "s.zarr", [make_tree("samples", seed=seed) for seed in (0, 1)]
    for day, run in enumerate(runs, 1):
        run.attrs["metadata"]["run"]["environments"] = [{"started": f"2026-01-0{day}T00:00:00+00:00"}]
    runs[0].devinterp.save(path)
    tree = OPENED[opened](path)
    runs[0].attrs["metadata"]["run"]["environments"].append({"started": "2026-01-03T00:00:00+00:00"})
    shutil.rmtree(path)
    runs[0].devinterp.save(path)  # as where it was gone on with
    assert np.isfinite(tree.devinterp.llc()["llc_mean"])
    shutil.rmtree(path)
    runs[1].devinterp.save(path)
    for ask in (tree.devinterp.llc, tree.devinterp.bif):
        with pytest.raises(StoreGoneError, match=r"the store was replaced.*2026-01-01.*2026-01-02"):
            ask()


OBJECTS = {
    "memory": MemoryStore,
    "a group": lambda: StorePath(MemoryStore(), "runs/s"),
    "fsspec": lambda: FsspecStore.from_url(f"memory://{uuid.uuid4().hex}/s.zarr"),
    "obstore": lambda: zarr.storage.ObjectStore(pytest.importorskip("obstore.store").MemoryStore()),
}


@pytest.mark.parametrize("make", needing("fsspec", OBJECTS))
@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.parametrize("which", ["", "loss_code"])
def test_a_store_object_that_is_emptied_is_said_to_be_gone(tmp_path, make, consolidated, which):
    whole, store = open_store(make_store(tmp_path / "s.zarr")), OBJECTS[make]()
    whole.devinterp.save(store)
    tree = open_store(store, consolidated=consolidated)
    if make != "obstore":  # whose memory does not travel
        pickle.loads(pickle.dumps(tree)).load()
    locate(store, mode="w").delete_below(which)
    with pytest.raises(StoreGoneError, match="is gone"):
        _ = tree["loss_code"].values
    with pytest.raises(StoreGoneError, match="moved or deleted"):
        tree.devinterp.bif()
    if which:
        assert np.isfinite(tree["loss_math"].values).all()


def test_what_may_be_absent_of_a_store_object_that_stands_is_fill(tmp_path):
    result, store = open_store(make_store(tmp_path / "s.zarr", "llc")), MemoryStore()
    result.devinterp.save(store)
    location = locate(store, mode="w")
    for key in [key for key in location.list_keys("llc_std") if "/c" in key]:
        location.delete(key)
    tree = open_store(store)
    for _ in range(2):
        assert np.isnan(tree["llc_std"].values).all()
        tree = tree.copy()


def test_what_may_be_absent_in_a_store_that_stands_is_fill(tmp_path):
    path = Path(make_store(tmp_path / "s.zarr", "llc"))
    (path / "llc_std/c").unlink()
    assert str(open_store(path, level=None)["llc_std"].values) == "nan"
    assert locate(path, mode="w").get(".devinterp/none") is None
    assert locate(path).get("llc_std/.zarray") is None
    shutil.rmtree(path)
    assert locate(path, mode="w").get(".devinterp/none") is None  # whether a run was begun here is asked so
