"""Whoever follows a remedy that names a command or a line of code has a valid store in the end."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lifelike
import pytest
import xarray as xr
import zarr

from devinterp.cli import main
from devinterp.schema import Finding, RuleCode, validate
from devinterp.testing import MUTATIONS, Mutation, make_store
from devinterp.testing.mutations.store_editor import StoreEditor

LINES: dict[str, Callable[[Path, Path, str], Any]] = {
    # By a piece of the remedy's text: what following it does to the store, given a new path and where the finding is.
    "zarr.consolidate_metadata(path)": lambda path, new, where: zarr.consolidate_metadata(path),
    "del group[name].attrs['_FillValue'], then consolidate again": lambda path, new, where: drop_fill(path, where),
    "Remove the folder once no run": lambda path, new, where: shutil.rmtree(path / ".devinterp"),
    "Remove it; resuming the run": lambda path, new, where: [p.unlink() for p in path.rglob("*.partial")],
    "Validate or open it with profile=": lambda path, new, where: None,
}
FOLLOWED = {"DI008": {"profile": "devinterp-2.0"}, "DI010": {}, "DI207": {}, "DI503": {}, "DI504": {}}


def drop_fill(path: Path, where: str) -> None:
    group, _, name = where.rpartition("/")
    del zarr.open_group(path, mode="r+", path=group.strip("/"), use_consolidated=False)[name].attrs["_FillValue"]
    zarr.consolidate_metadata(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("mutation", [m for m in MUTATIONS if m.code in FOLLOWED], ids=lambda m: f"{m.code}-{m.name}")
def test_the_remedy_of_a_named_mutation_leads_to_a_valid_store(mutation: Mutation, tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    make_store(path, mutation.base, consolidated=mutation.consolidated)
    mutation.apply(StoreEditor(path))
    options = {key: value for key, value in mutation.options.items() if key != "level"}
    found = [f for f in validate(path, **options).findings if f.code == mutation.code]
    assert found
    remedies = {f.remedy for f in found}
    assert len(remedies) == 1  # one remedy a finding
    (line,) = [line for line in LINES if line in remedies.copy().pop()]
    for finding in found:
        LINES[line](path, tmp_path / "new.zarr", finding.path)
    after = validate(path, **{**options, **FOLLOWED[mutation.code]})
    assert after.ok, str(after)
    assert mutation.code not in {f.code for f in after.findings}, str(after)
    if not mutation.also:
        assert not after.findings or mutation.code == "DI008", str(after)


def as_zarr_v2(path: Path, new: Path) -> None:
    def bare(dataset: xr.Dataset) -> xr.Dataset:
        dataset = dataset.drop_encoding()
        for variable in dataset.variables.values():
            variable.attrs.pop("_FillValue", None)
        return dataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        xr.open_datatree(path, engine="zarr").load().map_over_datasets(bare).to_zarr(new, zarr_format=2)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("kind", "profile"),
    [
        ("samples", "devinterp-2.0"),
        ("llc", "strict"),
        ("bif", "strict"),
        ("susceptibilities", "strict"),
        ("study", "devinterp-2.0"),
    ],
)
def test_a_store_of_zarr_v2_is_rewritten_by_the_line_that_its_finding_names(
    kind: str, profile: str, tmp_path: Path
) -> None:
    as_zarr_v2(Path(make_store(tmp_path / "a.zarr", kind, profile=profile)), tmp_path / "old.zarr")
    (finding,) = validate(tmp_path / "old.zarr").findings
    assert finding.code == RuleCode.ZARR_V2
    _, _, line = finding.remedy.partition("Rewrite it: ")
    line, _, rest = line.partition(", zarr_format=3)")
    eval(f"{line}, zarr_format=3)", {"xr": xr, "path": tmp_path / "old.zarr", "new_path": tmp_path / "new.zarr"})
    report = validate(tmp_path / "new.zarr", profile=profile)
    assert report.ok, str(report)
    if profile != "strict":
        assert f"profile='{profile}'" in rest


@pytest.mark.skipif(shutil.which("zip") is None, reason="the command zip is missing")
def test_an_archive_with_an_outer_folder_is_packed_again(tmp_path: Path) -> None:
    make_store(tmp_path / "in" / "a.zarr", "llc")
    archive = Path(shutil.make_archive(str(tmp_path / "z"), "zip", tmp_path / "in"))
    (finding,) = validate(archive).findings
    assert "zip -r0 ../store.zip ." in finding.remedy
    shutil.unpack_archive(archive, tmp_path / "out")
    subprocess.run(
        "zip -r0 ../store.zip .", shell=True, check=True, cwd=tmp_path / "out" / "a.zarr", capture_output=True
    )
    assert validate(tmp_path / "out" / "store.zip").ok


def at(path: Path, where: str) -> tuple[zarr.Group, str]:
    parent, _, name = where.rpartition("/")
    return zarr.open_group(path, mode="r+", path=parent.strip("/"), use_consolidated=False), name


def delete(path: Path, finding: Finding) -> None:
    for where in finding.paths:
        group, name = at(path, where)
        del group[name]
    zarr.consolidate_metadata(path)


def set_unit(path: Path, finding: Finding) -> None:
    for where in finding.paths:
        group, name = at(path, where)
        group[name].attrs["units"] = finding.expected.strip("'").partition("' or")[0]
    zarr.consolidate_metadata(path)


def remove(path: Path, finding: Finding) -> None:
    for where in finding.paths:
        (path / where.strip("/")).unlink()


def repair(path: Path, finding: Finding) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["repair", str(path), "--yes"])
    assert not ended.value.code


def copy_again(path: Path, finding: Finding) -> None:
    shutil.copytree(path.with_name("whole.zarr"), path, dirs_exist_ok=True)


STEPS = {
    ("DI102", "or remove it: del group[name], then consolidate again"): delete,
    ("DI107", "or remove it: del group[name], then consolidate again"): delete,
    ("DI111", "group[name].attrs['units'] = expected, then consolidate again"): set_unit,
    ("DI501", "Copy the store again from where it is whole"): copy_again,
    ("DI506", "Copy the store again from where it is whole"): copy_again,
    ("DI502", "Otherwise remove the object"): remove,
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("code", "words"), STEPS)
def test_what_a_remedy_says_to_do_leads_to_a_valid_store(code: str, words: str, tmp_path: Path) -> None:
    tried = 0
    for number, mutation in enumerate(m for m in MUTATIONS if m.code == code and not m.also):
        if tried == 2:
            break
        (folder := tmp_path / str(number)).mkdir()
        path = Path(make_store(folder / "store.zarr", mutation.base, consolidated=mutation.consolidated))
        shutil.copytree(path, folder / "whole.zarr")
        mutation.apply(StoreEditor(path))
        found = [f for f in validate(path, **mutation.options).findings if f.code == code and words in (f.remedy or "")]
        for finding in found:
            STEPS[code, words](path, finding)
            tried += 1
        if found:
            report = validate(path, **{k: v for k, v in mutation.options.items() if k != "level"})
            assert report.ok, f"{mutation.name}: {report}"
    assert tried


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_run_that_lost_a_chunk_is_repaired_by_the_line_of_its_finding(how: str, tmp_path: Path) -> None:
    path = lifelike.make_study(tmp_path / "s.zarr", ["full"], chains=2, draws=3, rows=2, observables=("code",))
    chunk = path / "full/loss_code/c/1/0/0/0"
    chunk.unlink() if how == "missing" else chunk.write_bytes(b"x" + chunk.read_bytes()[1:])
    (finding,) = validate(path).errors
    assert "devinterp repair STORE --yes" in finding.remedy
    repair(path, finding)
    report = validate(path)
    assert report.ok, str(report)
    assert report.codes <= {"DI007", "DI504"}  # what the repair kept, to be taken back
