from __future__ import annotations

import json
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
KINDS = ("samples", "study", "llc", "bif", "bif_topk", "susceptibilities")
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


def test_a_url_that_fsspec_knows_is_taken() -> None:
    make_store("memory://validated.zarr")
    report = validate("memory://validated.zarr")
    assert report.findings == (), str(report)
    assert report.checked["chunks"] > 0


def test_a_group_inside_a_store_is_taken(valid_stores: dict[str, Path]) -> None:
    report = validate(zarr.open_group(valid_stores["study"], mode="r")["full"])
    assert report.findings == ()
    assert report.kind == "samples"


def test_a_selection_in_memory_is_no_error(valid_stores: dict[str, Path]) -> None:
    tree = xr.open_datatree(valid_stores["samples"], engine="zarr", consolidated=False)
    assert validate(tree.isel(draw=slice(1, None), chain=[0])).findings == ()


def test_dask_arrays_are_checked_block_by_block(valid_stores: dict[str, Path]) -> None:
    pytest.importorskip("dask")
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
    with pytest.raises(SettingError, match="nothing that can be validated"):
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


@pytest.mark.parametrize("value", ["False", "TRUE", "0"])
def test_pandera_switched_off_in_the_environment_still_decides(value: str, store_of: StoreOf) -> None:
    store = store_of("llc")
    (store / "llc_std").rename(store / "llc_sdt")
    code = f"from devinterp.schema import validate; print(validate({str(store)!r}, level='structure').to_json())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin", "PANDERA_VALIDATION_ENABLED": value, "PANDERA_VALIDATION_DEPTH": "DATA_ONLY"},
    )
    assert {f["code"] for f in json.loads(done.stdout)["findings"]} == {"DI101", "DI102"}


def test_limits_are_kept(valid_stores: dict[str, Path]) -> None:
    report = validate(valid_stores["samples"], limits=Limits(nodes=2))
    assert "DI256" in report.codes
    assert "DI254" in validate(valid_stores["samples"], limits=Limits(chunks=1)).codes
