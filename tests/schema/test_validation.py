from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import xarray as xr
import zarr
from edits import edit_attributes
from zarr.storage import MemoryStore, ZipStore

from devinterp.errors import SchemaError, SettingError, ValidationError
from devinterp.schema import Limits, Report, RuleCode, validate
from devinterp.testing import make_store, make_tree

StoreOf = Callable[[str], Path]
KINDS = ("samples", "study", "llc", "bif", "bif_topk", "susceptibilities", "sweep", "sweep_summary")
PEER = ("bif_sequence", "bif_token", "full", "l0h0", "l1h2", "llc", "susceptibilities")


@pytest.mark.parametrize("level", ["structure", "completeness", "values"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_valid_store_has_no_finding_at_any_level(kind: str, level: str, valid_stores: dict[str, Path]) -> None:
    report = validate(valid_stores[kind], level=level)  # type: ignore[arg-type]
    assert report.findings == (), str(report)
    assert report.kind == kind
    assert report.readable


@pytest.mark.parametrize("kind", KINDS)
def test_a_valid_tree_in_memory_has_no_finding_and_says_what_was_not_checked(kind: str) -> None:
    report = validate(make_tree(kind))
    assert report.findings == (), str(report)
    assert any("sizes against settings" in n.what for n in report.not_checked)


@pytest.mark.parametrize("name", PEER)
def test_every_peer_store_is_clean_under_its_profile(name: str, reference: Path) -> None:
    report = validate(reference / f"{name}.zarr", profile="devinterp-2.0")
    assert report.findings == (), str(report)


# Why each code is found under `strict`: what devinterp 2.0 does otherwise, as the contract's profiles section says.
STRICT_ON_PEER = {
    "bif_sequence": {"DI201", "DI008"},
    "bif_token": {"DI201", "DI008"},
    "full": {"DI101", "DI110", "DI112", "DI201", "DI202", "DI205", "DI405", "DI008"},
    "llc": {"DI104", "DI008"},
    "susceptibilities": {"DI104", "DI201", "DI008"},
}


@pytest.mark.parametrize("name", sorted(STRICT_ON_PEER))
def test_under_strict_a_peer_store_has_the_explained_findings_and_is_offered_its_profile(
    name: str, reference: Path
) -> None:
    report = validate(reference / f"{name}.zarr", level="structure")
    assert report.codes == STRICT_ON_PEER[name], str(report)
    (offer,) = report.filter(code="other-profile").findings
    assert offer.found == "devinterp-2.0"


def test_a_study_put_together_from_peer_trees_validates(reference: Path) -> None:
    trees = {
        f"/{n}": xr.open_datatree(reference / f"{n}.zarr", engine="zarr", consolidated=False) for n in ("full", "l0h0")
    }
    report = validate(xr.DataTree.from_dict(trees), profile="devinterp-2.0")
    assert report.findings == (), str(report)
    assert report.kind == "study"


def test_stores_of_every_sort_are_taken(tmp_path: Path) -> None:
    memory = MemoryStore()
    make_store(memory)
    assert validate(memory).findings == ()
    assert validate(zarr.open_group(memory, mode="r")).findings == ()
    folder = Path(make_store(tmp_path / "a.zarr"))
    assert validate(str(folder)).findings == ()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in folder.rglob("*"):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    assert validate(tmp_path / "a.zip").findings == ()
    assert validate(ZipStore(tmp_path / "a.zip", mode="r")).findings == ()
    url = f"file://{folder}"
    assert validate(url).findings == ()


@pytest.mark.needs("fsspec")
def test_a_url_that_fsspec_knows_is_taken() -> None:
    make_store("memory://validated.zarr")
    report = validate("memory://validated.zarr")
    assert report.findings == (), str(report)
    assert report.checked["chunks"] > 0


def test_a_restriction_may_be_called_like_a_drive(tmp_path: Path) -> None:
    store = make_store(
        tmp_path / "a.zarr", "study", members={"restriction": {"full": {}, "c:": {}}}, consolidated=False
    )
    assert validate(store).findings == ()


def test_a_group_inside_a_store_is_taken(valid_stores: dict[str, Path]) -> None:
    report = validate(zarr.open_group(valid_stores["study"], mode="r")["full"])
    assert report.findings == ()
    assert report.kind == "samples"


def test_a_selection_in_memory_is_no_error(valid_stores: dict[str, Path]) -> None:
    tree = xr.open_datatree(valid_stores["samples"], engine="zarr", consolidated=False)
    assert validate(tree.isel(draw=slice(1, None), chain=[0])).findings == ()


@pytest.mark.needs("dask")
def test_dask_arrays_are_checked_block_by_block(valid_stores: dict[str, Path]) -> None:
    tree = xr.open_datatree(valid_stores["samples"], engine="zarr", consolidated=False, chunks={})
    spoilt = tree.to_dataset().copy()
    spoilt["sampling_loss"] = spoilt["sampling_loss"] * float("nan")
    report = validate(spoilt)
    assert "DI301" in report.codes


def test_a_result_of_the_middle_of_a_tree_is_recognised() -> None:
    tree = make_tree("susceptibilities")
    report = validate(tree["susceptibilities"].to_dataset())
    assert report.findings == (), str(report)
    assert report.kind == "susceptibilities"


def test_a_tree_in_memory_is_judged_up_to_the_level_asked_for() -> None:
    tree = make_tree("llc")
    tree["llc_mean"].values[...] += 1
    found = {level: validate(tree, level=level).codes for level in ("structure", "completeness", "values")}  # type: ignore[arg-type]
    assert found == {"structure": frozenset(), "completeness": frozenset(), "values": frozenset({"DI421"})}
    run = make_tree("samples")
    run["init_loss"].values[0, 0] = float("nan")
    assert [validate(run, level=level).codes for level in found] == [frozenset(), frozenset(), {"DI301"}]  # type: ignore[arg-type]


def test_a_dataset_that_names_its_schema_is_held_against_that_one() -> None:
    dataset = make_tree("llc").to_dataset()
    assert validate(dataset).kind == "llc"
    report = validate(dataset.assign_attrs(devinterp_schema="devinterp/bif@1"), level="structure")
    assert report.kind == "bif"
    assert "DI101" in report.codes


def test_a_tree_in_memory_is_offered_the_profile_that_it_fits(reference: Path) -> None:
    tree = xr.open_datatree(reference / "full.zarr", engine="zarr", consolidated=False)
    (offer,) = validate(tree, level="structure").filter(code="other-profile").findings
    assert offer.found == "devinterp-2.0"


class Mute(MemoryStore):
    """Like a web server without listings: it answers as if nothing were there."""

    async def list_dir(self, prefix):  # type: ignore[no-untyped-def]
        for name in ():
            yield name

    list_prefix = list_dir


class Refusing(Mute):
    """Says that it cannot list."""

    async def list_dir(self, prefix):  # type: ignore[no-untyped-def]
        raise NotImplementedError
        yield

    list_prefix = list_dir


@pytest.mark.parametrize("kind", [Mute, Refusing])
def test_the_chunks_of_a_store_that_cannot_be_listed_are_asked_for(kind: type[MemoryStore]) -> None:
    whole = MemoryStore()
    make_store(whole)
    store = kind(dict(whole._store_dict))
    report = validate(store)
    assert report.findings == (), str(report)
    assert report.checked["chunks"] == validate(whole).checked["chunks"]
    assert any("stray" in n.what for n in report.not_checked)
    del store._store_dict["sampling_loss/c/0/0/0/0"]
    assert [(f.code, f.path) for f in validate(store).findings] == [("DI501", "/sampling_loss/c/0/0/0/0")]


def test_a_store_that_can_neither_be_listed_nor_has_consolidated_metadata_gets_one_clear_answer() -> None:
    whole = MemoryStore()
    make_store(whole, consolidated=False)
    (finding,) = validate(Mute(dict(whole._store_dict))).findings
    assert finding.code == RuleCode.UNREADABLE
    assert "consolidate_metadata" in str(finding.remedy)


def test_an_archive_lists_its_folders_too(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr")
    assert validate(shutil.make_archive(str(tmp_path / "flat"), "zip", tmp_path / "a.zarr")).findings == ()
    (finding,) = validate(shutil.make_archive(str(tmp_path / "nested"), "zip", tmp_path, "a.zarr")).findings
    assert (finding.code, finding.found) == (RuleCode.NO_STORE, "none, but in this folder: a.zarr")


@pytest.mark.parametrize("path", ["a\0b", "a\ud800", "x" * 5000, "~no-such-user/a", "nowhere://a", "s3://no/such"])
def test_a_path_that_is_none_ends_in_a_report(path: str) -> None:
    report = validate(path)
    assert report.codes == {"DI001"}, str(report)
    assert str(report).isprintable() or "\n" in str(report)
    assert str(report).encode()


def test_the_remedy_for_zarr_v2_works(valid_stores: dict[str, Path], tmp_path: Path) -> None:
    def bare(path: Path) -> xr.DataTree:
        return xr.open_datatree(path, engine="zarr", consolidated=False).map_over_datasets(
            lambda ds: ds.drop_encoding()
        )

    bare(valid_stores["llc"]).to_zarr(tmp_path / "v2.zarr", zarr_format=2, consolidated=False)
    assert validate(tmp_path / "v2.zarr").codes == {"DI003"}
    bare(tmp_path / "v2.zarr").to_zarr(tmp_path / "v3.zarr", zarr_format=3, consolidated=False)
    assert "DI003" not in validate(tmp_path / "v3.zarr").codes
    assert validate(tmp_path / "v3.zarr").kind == "llc"


def test_numbers_that_a_writer_in_another_language_gives_as_2_0_are_integers(store_of: StoreOf) -> None:
    store = store_of("samples")
    edit_attributes(store, lambda a: a["metadata"]["config"]["sampler"].update(num_draws=3.0, num_chains=2.0))
    assert validate(store).findings == ()
    edit_attributes(store, lambda a: a["metadata"]["config"]["sampler"].update(num_draws=4.0))
    assert "DI108" in validate(store, level="structure").codes


def test_a_store_of_the_peer_with_a_fault_of_its_own_is_still_offered_its_profile(
    reference: Path, tmp_path: Path
) -> None:
    store = Path(shutil.copytree(reference / "full.zarr", tmp_path / "full.zarr"))
    shutil.rmtree(store / "metrics_noise")
    edit_attributes(store, lambda a: a.update(completed=0))
    (offer,) = validate(store, level="structure").filter(code="other-profile").findings
    assert (offer.found, "but for 1 finding" in offer.message) == ("devinterp-2.0", True)


def test_a_rule_over_a_variable_of_the_wrong_type_is_skipped(store_of: StoreOf) -> None:
    tree = make_tree("samples")
    tree = tree.assign(n_beta=xr.DataArray(None))
    report = validate(tree)
    assert {str(f.code) for f in report.errors} == {"DI104"}
    assert any("scalar equals parameter" in n.what for n in report.not_checked)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda p: None, RuleCode.NO_STORE),
        (lambda p: p.mkdir(), RuleCode.NO_STORE),
        (lambda p: p.write_text("not a store"), RuleCode.UNREADABLE),
        (lambda p: zarr.open_group(p, mode="w", zarr_format=2), RuleCode.ZARR_V2),
    ],
)
def test_what_is_no_store_ends_in_a_report_that_says_so(
    make: Callable[[Path], object], code: RuleCode, tmp_path: Path
) -> None:
    make(tmp_path / "x")
    report = validate(tmp_path / "x")
    assert [f.code for f in report.findings] == [code]
    assert not report.readable


def test_an_array_and_an_unknown_tree_get_a_clear_answer(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a", shape=(2,), dtype="f4")
    assert validate(tmp_path / "a").codes == {"DI113"}
    zarr.open_group(tmp_path / "b", mode="w").create_array("temperature", shape=(2,), dtype="f4")
    assert "DI004" in validate(tmp_path / "b").codes


def test_wrong_usage_raises(valid_stores: dict[str, Path]) -> None:
    with pytest.raises(SettingError, match="level"):
        validate(valid_stores["samples"], level="everything")  # type: ignore[arg-type]
    with pytest.raises(SchemaError, match="profile"):
        validate(valid_stores["samples"], profile="lax")
    with pytest.raises(SettingError, match="does not name a store"):
        validate(3)  # type: ignore[arg-type]


def test_another_schema_than_the_named_one_is_found(store_of: StoreOf) -> None:
    store = store_of("samples")
    assert "DI009" in validate(store, schema="llc", level="structure").codes
    edit_attributes(store, lambda a: a.update(devinterp_schema="lab/unheard@7"))
    report = validate(store, level="structure")
    assert report.codes == {"DI005"}
    assert report.kind == "samples"


def test_the_named_schema_is_never_taken_as_a_path(store_of: StoreOf, tmp_path: Path) -> None:
    store = store_of("samples")
    (tmp_path / "evil.yaml").write_text("schema: a/b\nversion: 1\ndoc: x\n")
    edit_attributes(store, lambda a: a.update(devinterp_schema=str(tmp_path / "evil.yaml")))
    assert "DI005" in validate(store, level="structure").codes


def test_raise_for_errors_carries_the_report(store_of: StoreOf) -> None:
    store = store_of("samples")
    edit_attributes(store, lambda a: a.update(completed=0))
    report = validate(store, level="structure")
    assert report.codes == {"DI006"}
    assert report.without("incomplete").ok
    with pytest.raises(ValidationError, match="DI006") as caught:
        report.raise_for_errors()
    assert isinstance(caught.value.report, Report)


def test_structure_reads_no_chunk(store_of: StoreOf) -> None:
    store = store_of("samples")
    for file in [p for p in store.rglob("c/**/*") if p.is_file()]:
        file.write_bytes(b"")
    assert validate(store, level="structure").findings == ()


def test_consolidated_metadata_are_one_request(tmp_path: Path) -> None:
    class Counting(MemoryStore):
        reads = 0

        async def get(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            type(self).reads += 1
            return await super().get(*args, **kwargs)

    store = Counting()
    make_store(store, "study")
    Counting.reads = 0
    assert validate(store, level="structure").findings == ()
    assert Counting.reads == 1


def test_importing_the_schema_package_imports_neither_pandera_nor_torch() -> None:
    code = "import sys, devinterp.schema; print([m for m in ('pandera', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_pandera_switched_off_in_the_environment_still_decides(store_of: StoreOf) -> None:
    store = store_of("llc")
    (store / "llc_std").rename(store / "llc_sdt")
    # Pandera looks at its import: one process imports what comes before, and forks one for each value.
    code = f"""
import os, sys
import zarr
from devinterp.schema import validate
assert "pandera" not in sys.modules
for value in ("False", "TRUE", "0"):
    child = os.fork()
    if not child:
        os.environ["PANDERA_VALIDATION_ENABLED"] = value
        print(validate({str(store)!r}, level='structure').to_json(indent=None), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin", "PANDERA_VALIDATION_DEPTH": "DATA_ONLY"},
    )
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert [{f["code"] for f in report["findings"]} for report in reports] == [{"DI101", "DI102"}] * 3


def test_limits_are_kept(valid_stores: dict[str, Path]) -> None:
    report = validate(valid_stores["samples"], limits=Limits(nodes=2))
    assert "DI256" in report.codes
    assert "DI254" in validate(valid_stores["samples"], limits=Limits(chunks=1)).codes
