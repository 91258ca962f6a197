"""What names a store: archives as programs pack them, URLs in chains, mappings and paths of fsspec."""

from __future__ import annotations

import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

import devinterp
from devinterp.errors import DevinterpError, StoreError
from devinterp.schema.reading.target import check_archive
from devinterp.testing import make_store


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make_store(tmp_path_factory.mktemp("targets") / "s.zarr", "study"))


def archive(store: Path, path: Path, spell: Callable[[str], str]) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for file in sorted(p for p in store.rglob("*") if p.is_file()):
            info = zipfile.ZipInfo("x")
            info.filename = spell(file.relative_to(store).as_posix())
            packed.writestr(info, file.read_bytes())
    return path


@pytest.mark.parametrize(
    "spell",
    [lambda name: name.replace("/", "\\"), lambda name: f"./{name}", lambda name: f"/{name}",
     lambda name: name.replace("/", "//")],
    ids=["backslashes", "dot", "slash", "two slashes"],
)  # fmt: skip
def test_an_archive_with_names_that_nobody_asks_for_is_refused_with_what_helps(
    study: Path, tmp_path: Path, spell: Callable[[str], str]
) -> None:
    path = archive(study, tmp_path / "a.zip", spell)
    (finding,) = devinterp.validate(path).findings
    assert finding.code == "DI001"
    with pytest.raises(StoreError, match=r"names in the archive.*zip -r0"):
        devinterp.open_store(path, level=None)
    with zipfile.ZipFile(path) as packed:  # what unzip makes of it
        for name in packed.namelist():
            target = tmp_path / "out" / name.replace("\\", "/").strip("/.").replace("//", "/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(packed.read(name))
    assert devinterp.validate(shutil.make_archive(str(tmp_path / "again"), "zip", tmp_path / "out")).ok


def test_names_of_other_files_are_their_own_matter(study: Path, tmp_path: Path) -> None:
    path = archive(study, tmp_path / "a.zip", str)
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr("notes\\of mine.txt", b"x")
    check_archive(path)


@pytest.fixture(scope="module")
def in_memory(study: Path) -> str:
    import fsspec

    fsspec.filesystem("memory").put(f"{study}/", "/targets/s.zarr", recursive=True)
    return "memory://targets/s.zarr"


CHAINS = [
    "simplecache::{memory}",
    "filecache::{memory}",
    "simplecache::file://{folder}",
    "zip://::file://{zip}",
    "simplecache::zip://::file://{zip}",
]


@pytest.mark.needs("fsspec")
@pytest.mark.parametrize("chain", CHAINS)
def test_urls_in_a_chain(study: Path, in_memory: str, tmp_path: Path, chain: str) -> None:
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", study)
    url = chain.format(memory=in_memory, folder=study, zip=packed)
    report = devinterp.validate(url)
    assert report.ok, str(report)
    tree = devinterp.open_store(url)
    assert tree.load().identical(devinterp.open_store(study).load())


@pytest.mark.needs("fsspec")
def test_what_is_cached_is_asked_for_in_turn(in_memory: str, tmp_path: Path) -> None:
    """fsspec's list of cached files is changed by whoever reads, and zarr reads many at once."""
    import fsspec

    options = {"filecache": {"cache_storage": str(tmp_path / "cache")}}
    for _ in range(3):
        report = devinterp.validate(f"filecache::{in_memory}", storage_options=options)
        assert report.ok, str(report)
        shutil.rmtree(tmp_path / "cache")
        fsspec.clear_instance_cache() if hasattr(fsspec, "clear_instance_cache") else None
        fsspec.get_filesystem_class("filecache").clear_instance_cache()


def mapping(url: str) -> Any:
    import fsspec

    return fsspec.get_mapper(url)


def universal(url: str) -> Any:
    return pytest.importorskip("upath", reason="upath is missing").UPath(url)


@pytest.mark.needs("fsspec")
@pytest.mark.parametrize("make", [mapping, universal])
@pytest.mark.parametrize("where", ["memory", "file"])
def test_mappings_and_paths_of_fsspec(study: Path, in_memory: str, make: Callable[[str], Any], where: str) -> None:
    target = make(in_memory if where == "memory" else f"file://{study}")
    assert devinterp.validate(target).ok
    tree = devinterp.open_store(target)
    xr.testing.assert_identical(tree.load(), devinterp.open_store(study).load())
    assert tree.devinterp.llc().identical(devinterp.open_store(study).devinterp.llc())
    xr.testing.assert_identical(pickle.loads(pickle.dumps(tree)), tree)


@pytest.mark.parametrize("url", ["simplecache::http://127.0.0.1:9/a.zarr?x=1", "http://127.0.0.1:9/a.zarr#x"])
def test_a_url_that_ends_before_its_folder_is_refused(url: str) -> None:
    (finding,) = devinterp.validate(url).findings
    assert "ends the path" in finding.message
    with pytest.raises(DevinterpError, match="ends the path"):
        devinterp.open_store(url)
