"""Files that no reader sees are a warning everywhere, and an error nowhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import lifelike
import pytest

from devinterp.schema import load
from devinterp.schema.validation import validate
from devinterp.store import locate, open_run, open_store
from devinterp.store.reading.status import read_status
from devinterp.store.repair.repair_plan import plan_repair

SMALL = {"chains": 2, "draws": 3, "rows": 2, "observables": ("code",), "save_metrics": False}
NAMES = [
    ".DS_Store", "._0", "._zarr.json", "Thumbs.db", "desktop.ini", ".nfs000000000001", ".zarr.json.Xy12Za",
    "zarr.json~", ".0.swp", "#0#", ".zarr.json.swp", "0.bak", "zarr.json.orig",
    ".fuse_hidden0001", ".gitkeep", ".0.icloud", "0_$folder$", "zarr.sync-conflict-20240101-101010-ABC.json",
    "zarr (conflicted copy 2024-01-01).json", "0.dvc", "zarr.json.rej",
    "README.md", "_SUCCESS", "zarr.json.gz", "folder.jpg", "0.0.0.txt", "c0",
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return lifelike.make_study(tmp_path_factory.mktemp("unseen") / "s.zarr", ["full", "l0h0"], **SMALL)


@pytest.fixture
def store(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "s.zarr"))


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_no_reader_sees_is_a_warning(store, name):
    folders = [store, store / "full", store / "full/loss_code", store / "full/loss_code/c/0/0/0"]
    for folder in folders:
        (folder / name).write_bytes(b"junk")
    report = validate(store)
    assert report.ok, str(report)
    assert {p for f in report.warnings for p in f.paths} == {
        f"/{(folder / name).relative_to(store).as_posix()}" for folder in folders
    }
    assert read_status(locate(store)).completed
    assert plan_repair(store).nothing
    assert set(open_store(store).children) == {"full", "l0h0"}


def test_what_could_be_a_chunk_is_an_error_still(store):
    (store / "full/loss_code/c/7").write_bytes(b"")
    assert not validate(store).ok


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "._x"])
def test_a_folder_with_nothing_but_such_files_is_free(tmp_path, name):
    (tmp_path / "run.zarr").mkdir()
    (tmp_path / "run.zarr" / name).write_bytes(b"junk")
    with open_run(tmp_path / "run.zarr", {"/": lifelike.request(**SMALL)}) as run:
        assert not run.resumed


def edit(store, path, change):
    document = json.loads((store / path).read_text())
    change(document)
    (store / path).write_text(json.dumps(document))


def test_metadata_in_other_legal_spellings_are_read_alike(store):
    jsonschema = pytest.importorskip("jsonschema")
    array = "full/loss_code/zarr.json"
    edit(store, array, lambda d: d.update(fill_value="0x7fc00000"))
    edit(store, "zarr.json", lambda d: d.update(consolidated_metadata=None))
    assert set(open_store(store, level="values").children) == {"full", "l0h0"}
    edit(store, array, lambda d: d.update(codecs=[d["codecs"][0], d["codecs"][1], "crc32c"]))
    report = validate(store)
    assert report.ok, str(report)
    assert not report.warnings
    checker = jsonschema.Draft202012Validator(load("study").to_json_schema())
    root = json.loads((store / "zarr.json").read_text())
    assert checker.is_valid(root)
    gathered = {f"{p.parent.relative_to(store)}": json.loads(p.read_text()) for p in store.glob("*/**/zarr.json")}
    full = {**root, "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": gathered}}
    assert checker.is_valid(full), list(checker.iter_errors(full))[:1]
    for wrong in ("0x7f800000", "0xff800000", "0x7f80000", "nan", 0.0, "Infinity"):
        gathered["full/loss_code"]["fill_value"] = wrong
        assert not checker.is_valid(full), wrong


@pytest.mark.parametrize(
    "bits", ["0x7fc00000", "0xffc00000", "0x7f800001", "0x7f9abcde", "0x7ff8000000000000", "0x7e00", "NaN"]
)
def test_every_nan_is_the_fill_for_validator_and_json_schema(store, bits):
    import re

    from devinterp.schema.definition.to_json_schema import _NAN

    assert re.search(_NAN, bits)
    if len(bits) in (3, 10):
        edit(store, "full/loss_code/zarr.json", lambda d: d.update(fill_value=bits))
        assert validate(store, consolidated=False, level="structure").ok


def test_chunks_that_reach_beyond_the_array_are_no_error(store):
    edit(
        store,
        "full/init_loss/zarr.json",
        lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[5, 40]),
    )
    report = validate(store, consolidated=False, level="structure")
    assert report.ok, str(report)


def test_an_archive_with_a_folder_around_the_store_says_how_to_pack_it(store, tmp_path):
    archive = Path(shutil.make_archive(str(tmp_path / "outer"), "zip", store.parent, store.name))
    (finding,) = validate(archive).errors
    assert "s.zarr" in str(finding.found)
    assert "not the folder itself" in str(finding.remedy)
    assert validate(shutil.make_archive(str(tmp_path / "inner"), "zip", store)).ok
