"""One place decides what a target is, so that whatever can be validated can be opened, and the other way round."""

from __future__ import annotations

import asyncio
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import lifelike
import pytest
import xarray as xr
import zarr
from zarr.storage import FsspecStore, LocalStore, MemoryStore, StorePath, ZipStore

from devinterp.errors import SettingError, StoreError
from devinterp.schema.reading.target import resolve_target
from devinterp.schema.validation import validate
from devinterp.store import locate, open_store

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


class Server(SimpleHTTPRequestHandler):
    """Gives out files; a folder's listing is answered with `status` where that is not 200."""

    status = 200

    def log_message(self, *_):
        pass

    def list_directory(self, path):
        if self.status == 200:
            return super().list_directory(path)
        self.send_error(self.status)
        return None


@pytest.fixture(params=[200, 401, 403, 404, 405], ids=lambda status: f"listing {status}")
def url(request, study):
    handler = partial(type("Handler", (Server,), {"status": request.param}), directory=str(study.parent))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/{study.name}", request.param
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.skipif(find_spec("aiohttp") is None, reason="aiohttp, which fsspec reads http with, is missing")
def test_a_web_server_that_lists_or_does_not(study, url):
    address, status = url
    report = validate(address, level="completeness")
    assert report.ok, str(report)
    assert bool(report.not_checked) is (status != 200), report.not_checked
