"""Which objects belong to an array, which chunks may be absent, and what is made of those that are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from edits import edit_array, edit_attributes, edit_json, rewrite

from devinterp.schema import Limits, validate
from devinterp.schema.checks import completeness

StoreOf = Callable[[str], Path]


def found(store: Any, **options: Any) -> list[tuple[str, str]]:
    report = validate(store, **{"level": "completeness", **options})
    return sorted((str(f.code), p) for f in report.findings for p in f.paths)


def test_every_missing_chunk_is_named_and_nothing_else(store_of: StoreOf) -> None:
    store = store_of("samples")
    gone = ["sampling_loss/c/1/0/0/0", "n_beta/c", "row_code/c/0", "metrics_noise/c/0/0"]
    for key in gone:
        (store / key).unlink()
    assert found(store) == [("DI501", f"/{key}") for key in sorted(gone)]
    (finding, *_) = validate(store, level="completeness").filter(path="/row_code").findings
    assert finding.found == "reads as -1"
    whys = [n.why for n in validate(store).not_checked if n.what == "values"]
    assert whys == ["1 of its 1 chunks are not there"]  # of the others some are


def test_many_missing_chunks_are_one_finding(store_of: StoreOf, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of("samples")
    edit_json(store / "metrics_noise/zarr.json", lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[1, 1]))
    raw = (store / "metrics_noise/c/0/0").read_bytes()
    shutil.rmtree(store / "metrics_noise/c")
    (store / "metrics_noise/c/0").mkdir(parents=True)
    (store / "metrics_noise/c/0/0").write_bytes(raw)
    total = 2 * (1 + 2 * 3)
    for most, findings in ((total - 1, total - 1), (total - 2, 1)):
        monkeypatch.setattr(completeness, "_ONE_BY_ONE", most)
        report = validate(store, level="completeness")
        (finding,) = report.findings
        assert (finding.code, finding.count, len(finding.paths)) == ("DI501", total - 1, findings)
        assert finding.path == "/metrics_noise/c/0/1"


def test_links_out_of_the_store_are_named_wherever_they_lie(store_of: StoreOf, tmp_path: Path) -> None:
    store = store_of("samples")
    outside = tmp_path / "outside"
    outside.write_bytes(b"x")
    for key in ("sampling_loss/c/0/0/0/0", "stray", "n_beta/more"):
        path = store / key
        path.unlink(missing_ok=True)
        path.symlink_to(outside)
    codes = found(store)
    for key in ("sampling_loss/c/0/0/0/0", "stray", "n_beta/more"):
        assert ("DI257", f"/{key}") in codes
    assert {f.level for f in validate(store, level="completeness").filter(code="DI257", path="/n_beta")} == {
        "completeness"
    }


def test_what_lies_beside_arrays_and_chunks(store_of: StoreOf) -> None:
    store = store_of("samples")
    for key in ("notes", "a.partial", "sampling_loss/c/0/0/0/0.1.partial", "sampling_loss/c/9/0/0/0", "n_beta/x"):
        (store / key).parent.mkdir(parents=True, exist_ok=True)
        (store / key).write_bytes(b"x")
    assert found(store) == [
        ("DI502", "/n_beta/x"),
        ("DI502", "/notes"),
        ("DI502", "/sampling_loss/c/9/0/0/0"),
        ("DI503", "/a.partial"),
        ("DI503", "/sampling_loss/c/0/0/0/0.1.partial"),
    ]
    report = validate(store, level="completeness")
    assert {f.path: f.severity for f in report.filter(path="/notes")} == {"/notes": "warning"}
    assert [f.found for f in report.filter(path="/notes")] == [None]


def test_an_array_of_zarr_v2_in_the_group_is_called_so(store_of: StoreOf) -> None:
    store = store_of("samples")
    (store / "old").mkdir()
    (store / "old/.zarray").write_text("{}")
    (finding,) = validate(store, level="completeness").findings
    assert (finding.code, finding.path) == ("DI502", "/old")
    assert "Zarr v2" in str(finding.found)


@pytest.mark.parametrize(("completed", "codes"), [(1, ["DI504"]), (0, ["DI006"])])
def test_the_state_of_a_run_may_lie_beside_it_until_it_has_completed(
    store_of: StoreOf, completed: int, codes: list[str]
) -> None:
    store = store_of("samples")
    (store / ".devinterp").mkdir()
    edit_attributes(store, lambda a: a.update(completed=completed))
    assert [c for c, _ in found(store)] == codes
    study = store_of("study")
    (study / "full/.devinterp").mkdir()
    assert found(study) == [("DI502", "/full/.devinterp")]


@pytest.fixture
def gathered(store_of: StoreOf) -> Path:
    """A store with consolidated metadata."""
    import warnings

    store = store_of("samples")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(store)
    assert found(store) == []
    return store


def test_consolidated_metadata_are_those_of_the_nodes(gathered: Path) -> None:
    edit_array(gathered, "row_code", attributes={"units": "1", "long_name": "x"})
    (gathered / "row_math/zarr.json").unlink()
    (gathered / "init_loss/zarr.json").write_bytes(b"{")
    shutil.copytree(gathered / "n_beta", gathered / "n_gamma")
    (gathered / "n_beta/zarr.json").unlink()
    os.mkfifo(gathered / "n_beta/zarr.json")
    stale = [("DI010", f"/{n}") for n in ("n_beta", "n_gamma", "row_code", "row_math")]
    assert found(gathered) == [*stale, ("DI258", "/init_loss")]
    messages = {p: f.message for f in validate(gathered, level="completeness").findings for p in f.paths}
    assert "missing" in messages["/row_math"]
    assert "cannot be read" in messages["/n_beta"]
    assert "otherwise" in messages["/row_code"]
    assert "not valid JSON" in messages["/init_loss"]
    assert "not among" in messages["/n_gamma"]


def test_what_may_be_left_out_of_a_document_makes_no_difference(gathered: Path) -> None:
    def reorder(document: dict[str, Any]) -> None:
        items = list(document.items())
        document.clear()
        document.update(reversed(items))
        document.pop("storage_transformers", None)
        document["consolidated_metadata"] = None

    for name in ("row_code", "n_beta"):
        edit_json(gathered / name / "zarr.json", reorder)
    edit_json(gathered / "n_beta/zarr.json", lambda d: d.pop("consolidated_metadata"))
    edit_json(gathered / "n_beta/zarr.json", lambda d: d.update(storage_transformers=[]))
    assert found(gathered) == []


def test_chunks_of_a_store_are_limited_together(store_of: StoreOf) -> None:
    store = store_of("samples")
    whole = validate(store, level="completeness").checked["chunks"]
    assert found(store, limits=Limits(all_chunks=whole)) == []
    report = validate(store, limits=Limits(all_chunks=whole - 1))
    (finding,) = report.findings
    assert (finding.code, finding.level, finding.expected) == ("DI254", "completeness", f"at most {whole - 1}")
    assert report.checked["chunks"] < whole
    assert ("values", "the store has too many chunks") in {(n.what, n.why) for n in report.not_checked}


def _interrupt(store: Path, chain: int, draws: int, status: str) -> None:
    def change(attrs: dict[str, Any]) -> None:
        attrs["metadata"]["run"]["chains"][chain].update(status=status, reason="x", step=1)
        attrs["completed"] = 0

    edit_attributes(store, change)

    def written(values: Any) -> Any:
        values[chain] = draws
        return values

    rewrite(store, "draws_written", written)


@pytest.mark.parametrize(("status", "missing"), [("interrupted", False), ("failed", True), ("complete", True)])
def test_chunks_behind_the_draws_of_an_interrupted_chain_need_not_be_there(
    store_of: StoreOf, status: str, missing: bool
) -> None:
    store = store_of("samples")
    for name in ("sampling_loss", "loss_code"):
        edit_json(
            store / name / "zarr.json", lambda d: d["chunk_grid"]["configuration"]["chunk_shape"].__setitem__(1, 1)
        )
        for chain in range(2):
            for draw in range(3):
                (store / name / f"c/{chain}/{draw}/0").mkdir(parents=True, exist_ok=True)
                (store / name / f"c/{chain}/{draw}/0/0").write_bytes(b"x")
    _interrupt(store, 1, 2, status)
    for name in ("sampling_loss", "loss_code"):
        (store / name / "c/1/2/0/0").unlink()  # the third draw of a chain of two
    codes = {code for code, _ in found(store)} - {"DI006", "DI007", "DI401", "DI405"}
    assert codes == ({"DI501"} if missing else set())
    (store / "sampling_loss/c/1/1/0/0").unlink()  # its second
    (store / "loss_code/c/0/2/0/0").unlink()  # the third of the other chain
    names = [p for c, p in found(store) if c == "DI501"]
    assert "/sampling_loss/c/1/1/0/0" in names
    assert "/loss_code/c/0/2/0/0" in names


@pytest.mark.parametrize("dims", [["chain", "x", "batch", "token_pos"], ["x", "draw", "batch", "token_pos"]])
def test_an_array_of_other_dimensions_has_its_chunks_all_the_same(store_of: StoreOf, dims: list[str]) -> None:
    store = store_of("samples")
    edit_array(store, "sampling_loss", dimension_names=dims)
    (store / "sampling_loss/c/1/0/0/0").unlink()
    assert ("DI501", "/sampling_loss/c/1/0/0/0") in found(store)


def test_a_chunk_may_be_omitted_only_where_its_fill_is_legal(reference: Path, tmp_path: Path) -> None:
    """The peer omits chunks that are all fill: token 0 is a token, and NaN is not a loss."""
    store = Path(shutil.copytree(reference / "full.zarr", tmp_path / "full.zarr"))
    ids = sorted(p for p in (store / "input_ids_code/c").rglob("*") if p.is_file())
    ids[0].unlink()
    report = validate(store, profile="devinterp-2.0")
    (finding,) = report.findings
    assert (finding.code, finding.found, finding.count) == ("DI505", "reads as 0", 1)
    loss = sorted(p for p in (store / "sampling_loss/c").rglob("*") if p.is_file())
    loss[0].unlink()
    errors = validate(store, profile="devinterp-2.0").errors
    assert {(f.code, f.found) for f in errors} == {("DI501", "reads as nan")}


def test_an_undeclared_array_is_not_looked_through(store_of: StoreOf) -> None:
    store = store_of("llc")
    shutil.copytree(store / "llc_std", store / "temperature")
    shutil.rmtree(store / "temperature/c", ignore_errors=True)
    report = validate(store, profile="open", level="completeness")
    assert {f.code for f in report.findings} == {"DI102"}
    assert ("/temperature", "chunks", "the variable is not declared") in {
        (n.path, n.what, n.why) for n in report.not_checked
    }


def test_zeros_are_found_in_their_order() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        present = bytearray(rng.integers(0, 2, 50).astype(np.uint8).tobytes())
        assert list(completeness._zeros(present)) == [i for i, p in enumerate(present) if not p]
    assert list(completeness._zeros(bytearray(3))) == [0, 1, 2]


@pytest.mark.parametrize(
    ("array", "right", "wrong"),
    [
        ("n_beta", "c", "0"),
        ("row_code", "c/0", "0"),
        ("row_code", "c/0", "c.0"),
        ("sampling_loss", "c/1/0/0/0", "1.0.0.0"),
    ],
)
def test_a_chunk_under_the_key_of_another_encoding_is_one_finding_whose_remedy_helps(
    store_of: StoreOf, array: str, right: str, wrong: str
) -> None:
    store = store_of("samples")
    (store / array / right).rename(store / array / f"{wrong}.moved")  # "c" may be a folder of that name's chunks
    (store / array / f"{wrong}.moved").rename(store / array / wrong)
    (finding,) = validate(store, level="completeness").errors
    assert (finding.code, finding.path, finding.expected) == ("DI502", f"/{array}/{wrong}", right)
    _, _, line = finding.remedy.partition(": ")
    _, source, target = line.partition(",")[0].split()
    (store / array / source).rename(store / array / target)
    assert validate(store).ok


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
def test_what_keeps_a_nodes_own_document_from_being_read_is_said(store_of: StoreOf) -> None:
    store = store_of("samples")
    path = store / "init_loss/zarr.json"
    zarr.consolidate_metadata(store)
    path.write_text(path.read_text().replace('"NaN"', "NaN"))
    assert found(store) == [("DI258", "/init_loss")]
