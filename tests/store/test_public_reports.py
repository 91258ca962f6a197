"""What users of zarr, xarray, icechunk, anndata and others reported of their stores, tried with ours."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from made_runs import make_run

import devinterp
from devinterp.errors import StoreError, StoreNotFoundError
from devinterp.slt.bif import compute_bif
from devinterp.slt.llc import compute_llc
from devinterp.slt.uncertainty.arviz import to_arviz
from devinterp.testing import make_store

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: Any) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("whole")
    kinds = ("samples", "study", "bif", "susceptibilities")
    return {kind: Path(make_store(folder / f"{kind}.zarr", kind)) for kind in kinds}


@pytest.fixture
def copy(whole: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda kind: Path(shutil.copytree(whole[kind], tmp_path / f"{kind}.zarr"))


def edit(store: Path, name: str, change: Change) -> None:
    """Change the document of an array, and what the root gathers of it."""
    root = json.loads((store / "zarr.json").read_text())
    own = json.loads((store / name / "zarr.json").read_text())
    for document in (own, root["consolidated_metadata"]["metadata"][name]):
        change(document)
    (store / name / "zarr.json").write_text(json.dumps(own))
    (store / "zarr.json").write_text(json.dumps(root))


SPELLINGS: dict[str, Change] = {
    # zarr-developers/zarr-python#2178: the member may be there, and be null
    "storage transformers are null": lambda d: d.update(storage_transformers=None),
    # zarr-developers/zarr-python#2024: tensorstore leaves empty attributes out
    "no attributes": lambda d: d.pop("attributes"),
    # zarr-developers/zarr-python#2029: tensorstore names an encoding of keys without its configuration
    "keys without configuration": lambda d: d.update(chunk_key_encoding={"name": "default"}),
    # EOPF-Explorer/data-model#17: names of dimensions in both places, after a conversion from Zarr v2
    "names of dimensions twice": lambda d: d["attributes"].update(_ARRAY_DIMENSIONS=d["dimension_names"]),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_legal_spelling_changes_nothing(copy: Callable[[str], Path], whole: dict[str, Path], spelling: str) -> None:
    store = copy("samples")
    edit(store, "loss_code", SPELLINGS[spelling])
    assert devinterp.validate(store).ok
    xr.testing.assert_identical(compute_bif(devinterp.open_store(store)), compute_bif(xr.open_datatree(
        whole["samples"], engine="devinterp")))  # fmt: skip


# zarr-developers/zarr-python#2792 and scverse/anndata-rs#15: text with the fill 0 or null; zarr-developers/
# VirtualiZarr#248: integers with the fill NaN; and what else is none of its type
FILLS = [(name, fill) for name in ("wr", "dataset_id", "sus") for fill in (0, "0", None, "NaN", 2**80, [0], True)]


@pytest.mark.parametrize(("name", "fill"), FILLS)
@pytest.mark.parametrize("lost", [False, True])
def test_a_fill_of_another_type_is_a_finding_and_no_crash(copy: Any, name: str, fill: Any, lost: bool) -> None:
    store = copy("susceptibilities")
    edit(store, f"susceptibilities/{name}", lambda d: d.update(fill_value=fill))
    if lost:
        shutil.rmtree(store / "susceptibilities" / name / "c")
    report = devinterp.validate(store)
    assert ("DI201" in report.codes) == ((name, fill) != ("sus", "NaN"))
    assert report.ok != lost or report.codes & {"DI505"}


@pytest.mark.filterwarnings("ignore:Duplicate name", "ignore:Consolidated metadata is currently not part")
@pytest.mark.parametrize("kind", ["samples", "study", "bif"])
def test_an_archive_that_holds_documents_twice(whole: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """pydata/xarray#10827: to_zarr() into a ZipStore writes documents several times; the last one counts."""
    tree = devinterp.open_store(whole[kind]).load()
    with zarr.storage.ZipStore(tmp_path / "s.zip", mode="w") as archive:
        tree.to_zarr(archive, zarr_format=3)
    names = zipfile.ZipFile(tmp_path / "s.zip").namelist()
    assert len(set(names)) < len(names)
    assert devinterp.validate(tmp_path / "s.zip").ok
    assert devinterp.open_store(tmp_path / "s.zip").identical(tree)


@pytest.mark.parametrize("path", ["", "/"])
def test_references_of_kerchunk(whole: dict[str, Path], tmp_path: Path, path: str) -> None:
    """zarr-developers/zarr-python#3922: keys of a ReferenceFileSystem have no leading slash."""
    fsspec = pytest.importorskip("fsspec")
    keys = [p for p in whole["study"].rglob("*") if p.is_file()]
    listed = {"version": 1, "refs": {p.relative_to(whole["study"]).as_posix(): [str(p)] for p in keys}}
    files = fsspec.filesystem("reference", fo=listed, asynchronous=True, remote_protocol="file")
    store = zarr.storage.FsspecStore(files, read_only=True, path=path)
    assert devinterp.validate(store).ok
    xr.testing.assert_identical(
        compute_llc(devinterp.open_store(store)), compute_llc(devinterp.open_store(whole["study"]))
    )


def test_names_that_begin_alike_in_icechunk(whole: dict[str, Path]) -> None:
    """earth-mover/icechunk#1824: `l0-x` hid what lies below `l0`. An empty session holds no store."""
    icechunk = pytest.importorskip("icechunk")
    names = ("full", "l0", "l0-x", "l0 h", "l0_c", "l00", "0", "0_c", "l0é")
    study = devinterp.open_store(whole["study"]).load()
    metadata = {**study.attrs["metadata"]}
    metadata["config"] = {**metadata["config"], "restrictions": list(names)}
    tree = xr.DataTree.from_dict({f"/{name}": study["full"].to_dataset() for name in names})
    tree.attrs = {**study.attrs, "metadata": metadata}
    repository = icechunk.Repository.create(icechunk.in_memory_storage())
    with pytest.raises(StoreNotFoundError, match="no Zarr group"):
        devinterp.open_store(repository.readonly_session("main").store)
    session = repository.writable_session("main")
    tree.devinterp.save(session.store)
    session.commit("a study")
    store = repository.readonly_session("main").store
    assert devinterp.validate(store).ok
    assert set(devinterp.open_store(store).children) == set(names)


def test_gathered_again_by_zarr_and_names_that_differ_in_case(copy: Callable[[str], Path]) -> None:
    """scverse/anndata#2576: of two names that differ in case alone, one is lost among consolidated metadata."""
    store = copy("study")
    with pytest.warns(zarr.errors.ZarrUserWarning):
        zarr.consolidate_metadata(store)
    assert devinterp.validate(store).ok
    if not (store / "FULL").exists():  # where the file system tells them apart
        shutil.copytree(store / "full", store / "FULL")
        for consolidated in (True, False):
            report = devinterp.validate(store, consolidated=consolidated)
            assert not report.ok
            assert {"DI010", "DI412"} & report.codes


@pytest.mark.parametrize(
    "values",
    [
        lambda pd: pd.array(["a", None, "c"], dtype="string"),
        lambda pd: pd.Categorical(["a", "b", "a"]),
        lambda pd: pd.array([1, None, 3], dtype="Int64"),
        lambda pd: pd.period_range("2020", periods=3),
        lambda pd: np.array([b"a", b"b", b"c"]),
        lambda pd: np.array([("a", 1), None, ("b", 2)], dtype=object),
    ],
    ids=["text", "categories", "nullable", "periods", "bytes", "objects"],
)
@pytest.mark.parametrize("dim", ["batch_code", "chain"])
def test_coordinates_of_pandas_types(dim: str, values: Any) -> None:
    """scverse/anndata#925 and others: columns that pandas made text of. xarray itself selects from not all of them."""
    pd = pytest.importorskip("pandas")
    run = make_run().to_dataset().assign_coords(mine=(dim, values(pd)))

    def told(made: xr.Dataset) -> list[Any]:
        return [None if pd.isna(v) is True else v for v in made["mine"].to_numpy().astype(object)]

    for made in (compute_llc(run), to_arviz(run, log_likelihood=True)["log_likelihood"].to_dataset()):
        assert dim not in made.dims or told(made) == told(run)
    if dim == "batch_code":
        mine = told(compute_bif(run, correlation_method="sequence"))
        assert mine[:3] == told(run)
        assert all(v in ("", b"", None) for v in mine[3:])


@pytest.mark.parametrize(
    ("inside", "error"), [("zarr.json", "is a file"), ("loss_code/zarr.json", "is a file"), ("no", "no store")]
)
def test_a_path_into_a_store_is_not_taken_for_it(whole: dict[str, Path], inside: str, error: str) -> None:
    """ucam-eo/geotessera#393 and others: links that lead to a document, not to the store."""
    for path in (str(whole["samples"]), f"{whole['samples']}/", f"{whole['samples']}//"):
        assert devinterp.open_store(path).devinterp.kind == "samples"
    with pytest.raises(StoreError, match=error):
        devinterp.open_store(whole["samples"] / inside)
    assert devinterp.validate(whole["samples"] / inside).codes & {"DI001", "DI002"}
