"""What users of zarr, xarray, icechunk, anndata and others reported of their stores, tried with ours."""

from __future__ import annotations

import json
import pickle
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


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
def test_shards_that_xarray_wrote_are_told_and_read(whole: dict[str, Path], tmp_path: Path) -> None:
    """pydata/xarray#9947: shards among the encoding."""
    run, store = devinterp.open_store(whole["samples"]).load().to_dataset(), tmp_path / "shards.zarr"
    shape = run["sampling_loss"].shape
    sizes = {"chunks": (1, 1, *shape[2:]), "shards": (2, 2, *shape[2:])}
    run.to_zarr(store, zarr_format=3, encoding={"sampling_loss": sizes})
    report = devinterp.validate(store)
    assert (report.ok, "DI206" in report.codes) == (False, True)
    xr.testing.assert_identical(
        compute_llc(devinterp.open_store(store, level=None)), compute_llc(devinterp.open_store(whole["samples"]))
    )


def test_chunks_that_several_tasks_wrote_over_each_other_are_found(whole: dict[str, Path], tmp_path: Path) -> None:
    """dask/dask#12583, pydata/xarray#8882: each writes its part and fill beside it; what is lost is not a number."""
    store = Path(shutil.copytree(whole["samples"], tmp_path / "torn.zarr"))
    array = zarr.open_array(store / "sampling_loss", mode="r+")
    torn = array[...]
    torn[:, 0] = np.nan
    array[...] = torn
    report = devinterp.validate(store)
    assert report.codes == {"DI301"}
    assert "sampling_loss" in str(report)


def test_zeros_below_nothing_are_written_and_read_as_such(copy: Callable[[str], Path]) -> None:
    """zarr-developers/zarr-python#3144: a chunk of -0.0 was taken for one of the fill 0, and left out."""
    store = copy("bif")
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    old = group["influences"]
    names, attrs, shape = old.metadata.dimension_names, dict(old.attrs), old.shape
    for zero in (-0.0, 0.0):
        array = group.create_array(
            "influences", shape=shape, dtype="f4", fill_value=0.0, attributes=attrs, dimension_names=names,
            overwrite=True,
        )  # fmt: skip
        array[...] = np.full(shape, zero, dtype=np.float32)
        report = devinterp.validate(store, consolidated=False)
        assert report.ok, str(report)
        assert ("DI505" in report.codes) == (not np.signbit(zero) and not (store / "influences/c/0/0/0/0").exists())


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
def test_names_in_numpys_own_strings(whole: dict[str, Path], tmp_path: Path) -> None:
    """pydata/xarray#11466: StringDType comes back as text of fixed length."""
    tree = devinterp.open_store(whole["susceptibilities"]).load()
    node = tree["susceptibilities"].to_dataset()
    names = np.array(node["wr"].to_numpy().tolist(), dtype=np.dtypes.StringDType())
    tree = xr.DataTree.from_dict(
        {"/": tree.to_dataset(), "/susceptibilities": node.assign_coords(wr=("wr", names)),
         "/context": tree["context"].to_dataset()}
    )  # fmt: skip
    assert tree.devinterp.report().ok
    tree.devinterp.save(tmp_path / "s.zarr")
    assert devinterp.validate(tmp_path / "s.zarr").ok
    assert devinterp.open_store(tmp_path / "s.zarr")["susceptibilities/wr"].to_numpy().tolist() == list(names)


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
def test_a_node_of_a_tree_and_groups_put_together_again(whole: dict[str, Path], tmp_path: Path) -> None:
    """pydata/xarray#9677, #9733, zarr-developers/zarr-python#2358: parts of trees, and trees of parts."""
    study = devinterp.open_store(whole["study"])
    study["full"].load().to_zarr(tmp_path / "full.zarr", zarr_format=3)
    for part in (tmp_path / "full.zarr", whole["study"] / "full"):
        assert devinterp.validate(part).ok
        assert devinterp.open_store(part).devinterp.kind == "samples"
    again = xr.DataTree.from_dict(xr.open_groups(whole["study"], engine="zarr"))
    assert again.devinterp.report().ok
    xr.testing.assert_identical(compute_llc(again), compute_llc(study))


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part", "ignore:Numcodecs codecs are not in")
def test_metadata_gathered_in_icechunk(whole: dict[str, Path]) -> None:
    """earth-mover/icechunk#965: it has no need of them, and xarray writes them all the same."""
    icechunk = pytest.importorskip("icechunk")
    repository = icechunk.Repository.create(icechunk.in_memory_storage())
    session = repository.writable_session("main")
    devinterp.open_store(whole["study"]).load().to_zarr(session.store, consolidated=True, zarr_format=3)
    session.commit("gathered")
    store = repository.readonly_session("main").store
    for consolidated in (None, False):
        assert devinterp.validate(store, consolidated=consolidated).ok


def test_an_archive_with_entries_of_folders_and_a_comment(whole: dict[str, Path], tmp_path: Path) -> None:
    """zarr-developers/zarr-python#2757, #756: an entry of a folder was listed as a member of it."""
    with zipfile.ZipFile(tmp_path / "s.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = b"made by hand " * 400
        for path in sorted(whole["study"].rglob("*")):
            archive.write(path, str(path.relative_to(whole["study"])))
    assert devinterp.validate(tmp_path / "s.zip").ok
    tree = devinterp.open_store(tmp_path / "s.zip")
    assert list(tree.children) == list(devinterp.open_store(whole["study"]).children)


def test_a_prefix_of_obstore_is_applied_once(whole: dict[str, Path]) -> None:
    """developmentseed/obstore#744, #125: keys below a prefix twice; an open tree travels to another process."""
    obstore = pytest.importorskip("obstore.store")
    store = zarr.storage.ObjectStore(obstore.LocalStore(prefix=whole["study"]))
    assert devinterp.validate(store).ok
    tree = pickle.loads(pickle.dumps(devinterp.open_store(store)))
    xr.testing.assert_identical(compute_llc(tree), compute_llc(devinterp.open_store(whole["study"])))


def test_a_fill_that_netcdf_left_in_the_encoding_is_told(whole: dict[str, Path], tmp_path: Path) -> None:
    """dhis2/open-climate-service#103: a `_FillValue` of a netCDF file is written into Zarr, beside its own fill."""
    pytest.importorskip("netCDF4")
    result = devinterp.open_store(whole["bif"]).load().to_dataset()
    result.to_netcdf(tmp_path / "bif.nc", encoding={"influences": {"_FillValue": -999.99}})
    again = xr.open_dataset(tmp_path / "bif.nc").load()
    assert again.devinterp.report().ok
    again.devinterp.save(tmp_path / "bif.zarr")
    assert devinterp.validate(tmp_path / "bif.zarr").ok
    np.testing.assert_array_equal(devinterp.open_store(tmp_path / "bif.zarr")["influences"], result["influences"])


def test_any_nan_is_masked(tmp_path: Path) -> None:
    """zarr-developers/zarr-python#1000: there are many, and one of them may signal."""
    store = Path(make_store(tmp_path / "s.zarr", optional=frozenset({"mask_{obs}"})))
    array = zarr.open_array(store / "loss_code", mode="r+")
    bits = array[...].view(np.uint32).copy()
    bits[np.isnan(array[...])] = 0x7F800001
    array[...] = bits.view(np.float32)
    assert devinterp.validate(store).ok
    assert np.isfinite(compute_llc(devinterp.open_store(store))["llc_mean"])


def test_attributes_that_hold_arrays_are_put_together(whole: dict[str, Path]) -> None:
    """pydata/xarray#2575, #9778: concat compares attributes; trees are concatenated as datasets are."""
    run = devinterp.open_store(whole["samples"]).load().to_dataset().assign_attrs(mine={"bar": np.array([1, 2])})
    once, twice = compute_llc(run), compute_llc(xr.concat([run, run], dim="chain", data_vars="all"))
    np.testing.assert_array_equal(twice["llc_per_chain"], np.tile(once["llc_per_chain"], 2))
